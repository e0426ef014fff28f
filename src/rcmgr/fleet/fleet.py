"""A fleet of nodes, as one node of it sees it."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.counting.scope import Ledger
from rcmgr.fleet.engine import Engine, safe_url
from rcmgr.fleet.member import Member, Node
from rcmgr.fleet.reading import read_bans, read_nodes
from rcmgr.fleet.shares import Shares
from rcmgr.limits.checks import check_number
from rcmgr.limits.fleet import FleetLimits
from rcmgr.limits.names import suggests_arguments

__all__ = ["Fleet"]

_MOST_CHARACTERS: Final = 64
_NO_LIMITS: Final = FleetLimits()


@suggests_arguments
class Fleet:
    """Joins a node to a fleet: `ResourceManager(limits, fleet=Fleet("valkey://engine:6379"))`.

    url: the address of a Valkey (or Redis 7) server; see `rcmgr.fleet.engine.Engine`. Its user
        needs the rights that docs/fleet.md names. Its password is in no log, text or status.
    name: the name of the fleet. Nodes of one name share one budget. Default: the URL's fragment
        (`valkey://engine:6379#edge`), or "default".
    node: the name of this node, for people. Default: the host's name and the process number.
    timeout: seconds without an answer after which the engine counts as lost, 0.05 to 60.
    clock: monotonic nanoseconds, for tests; default the system's coarse clock.

    A separate thread talks to the engine. Decisions read the node's memory, and never wait.
    A Fleet belongs to one manager, which starts and closes it. It does not survive `os.fork`.

    TypeError, ValueError: an argument is wrong. ImportError: `pip install 'rcmgr[fleet]'` is
    needed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        node: str | None = None,
        timeout: float = 0.5,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._place = safe_url(url)
        self.name = _checked(
            "name", urlsplit(url).fragment or "default" if name is None else name)
        self.node = _checked("node", f"{socket.gethostname()}-{os.getpid()}"[-_MOST_CHARACTERS:]
                             if node is None else node)
        check_number("timeout", timeout, 0.05, 60)
        self._clock = clock
        self._prefix = prefix_of(self.name)
        self._member = Member(
            Engine(url, timeout), Engine(url, timeout), self._prefix, self.node, self._place)
        self._reader = Engine(url, timeout)
        self._lock = threading.Lock()
        self._manager: weakref.ref[Any] | None = None
        self._shares: Shares | None = None
        self._is_closed = False

    # -- for the manager -----------------------------------------------------------------------

    def claim(self, manager: Node) -> None:
        """Belong to this manager from now. ValueError: it belongs to another, or is closed."""
        with self._lock:
            if self._is_closed:
                raise ValueError("this Fleet is closed: make another Fleet")
            if self._manager is not None:
                raise ValueError("a Fleet belongs to one manager: make another Fleet")
            self._manager = weakref.ref(manager)

    def join(self, manager: Node) -> None:
        """Join this node to the fleet. `claim` comes first."""
        self._member.start(manager)

    def apply(
        self, limits: FleetLimits | None, tracker: ConnectionTracker, ledger: Ledger,
        connections_of_network: Callable[[bytes], int],
    ) -> Shares:
        """The tables of these limits. Tables whose limits do not change keep their state."""
        with self._lock:
            self._shares = Shares(
                _NO_LIMITS if limits is None else limits, tracker, ledger,
                connections_of_network, self._member.wake,
                nodes=self._member.nodes_seen, clock=self._clock, former=self._shares)
            self._member.shares = self._shares
            return self._shares

    def close(self) -> None:
        """Leave the fleet: tokens and places go back, as far as the engine answers. Idempotent."""
        self._is_closed = True
        self._member.stop()
        self._reader.close()

    # -- for people ----------------------------------------------------------------------------

    @property
    def is_lost(self) -> bool:
        """Whether the engine does not answer now, so that the node decides on its own."""
        return self._member.is_lost

    def status(self) -> dict[str, Any]:
        """The view of this node, ready for JSON. It asks the engine nothing. O(limits).

        "engine": its address. "lost": whether it answers. "nodes": nodes last seen. "calls": of
        the script so far. "losses": how often the engine was lost. "waiting": keys that wait for
        an answer. "denied": refusals by limit.
        """
        member, shares = self._member, self._shares
        tables = [] if shares is None else shares.all()
        return {
            "name": self.name, "node": self.node, "engine": self._place, "lost": member.is_lost,
            "nodes": member.nodes, "calls": member.calls, "losses": member.losses,
            "waiting": 0 if shares is None else shares.waiting,
            "denied": {each.name: each.table.denied for each in tables if each.table.denied},
        }

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the fleet and their use. It asks the engine, and may block for `timeout`.

        EngineError: the engine does not answer.
        """
        with self._lock:
            return read_nodes(self._reader, self._prefix)

    def bans(self) -> list[dict[str, Any]]:
        """The bans of the fleet. It asks the engine, as `nodes` does."""
        with self._lock:
            return read_bans(self._reader, self._prefix).listed()

    def __repr__(self) -> str:
        return f"Fleet({self._place!r}, name={self.name!r}, node={self.node!r})"


def prefix_of(name: str) -> str:
    """The beginning of all keys of a fleet. The braces put them into one slot of a cluster."""
    return f"rcmgr:{{{name}}}:"


def _checked(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be text, not {name!r}")
    if not (0 < len(name) <= _MOST_CHARACTERS and name.isprintable()) or {"{", "}"} & set(name):
        raise ValueError(
            f"{what} must be 1 to {_MOST_CHARACTERS} printable characters without braces, "
            f"not {name!r}")
    return name
