"""One visit to the demo's host: the roles of the visitors, their counts and their reports.

A visitor reports one JSON object per line on standard output. Each has a key `event`.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

__all__ = ["ATTACKS", "HONEST", "NEWCOMERS", "UPLOAD", "Visit", "check_loopback", "mute_libp2p"]

HALF_OPEN, IDENTITIES, ONE_IDENTITY, STREAMS = "half-open", "identities", "one-identity", "streams"
MEMORY = "memory"
ATTACKS = (HALF_OPEN, IDENTITIES, ONE_IDENTITY, STREAMS, MEMORY)
HONEST = "honest"
NEWCOMERS = "newcomers"

UPLOAD = "/rcmgr-demo/upload/1.0.0"
"""A protocol of the demo's host. The host keeps in memory all that a peer sends on it."""

logger = logging.getLogger(__name__)


def check_loopback(host: str) -> None:
    """ValueError: the address is not on loopback. No visitor goes elsewhere."""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(f"only loopback may be attacked, not {host}")


@dataclass
class Visit:
    """The address of the host, the signal to start, and the reports to the demo."""

    host: str
    port: int
    peer_id: str
    started: trio.Event = field(default_factory=trio.Event)
    tried: int = 0
    holding: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        check_loopback(self.host)

    def report(self, event: str, **values: object) -> None:
        sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
        sys.stdout.flush()

    async def ready(self) -> None:
        """Report that the visitor is ready, and wait for the start."""
        self.report("ready")
        await self.started.wait()

    async def report_counts(self) -> None:
        await self.started.wait()
        while True:
            self.report("counts", tried=self.tried, holding=self.holding, refused=self.refused)
            await trio.sleep(0.25)

    async def attempt(self, visit: Callable[[], Awaitable[bool]]) -> None:
        """Count one try. `visit` returns False if the host refused it or closed the connection.

        py-libp2p and trio raise a dozen kinds of error when the other side closes a connection, and
        a nursery groups them. All of them mean "refused" to an attacker.
        """
        self.tried += 1
        self.holding += 1
        try:
            stayed = await visit()
        except Exception as error:  # noqa: BLE001
            logger.debug("refused: %r", error)
            stayed = False
        finally:
            self.holding -= 1
        self.refused += not stayed


def mute_libp2p() -> None:
    """Print only those log lines of py-libp2p that LIBP2P_DEBUG asks for.

    Without a handler, Python prints warnings to standard error, and py-libp2p logs one warning per
    denial. Some of its modules use the root logger, so both loggers need a handler.
    """
    for name in (None, "libp2p"):
        logging.getLogger(name).addHandler(logging.NullHandler())
