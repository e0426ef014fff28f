"""One visitor of the demo's host, in a separate process: an attacker, or honest peers.

    python -m rcmgr.cli.demo.visitors ROLE

Standard input first carries one JSON object, which says where the host is. A line `go` starts the
visitor. The process ends as soon as its standard input ends, even if the demo was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable

import trio

from . import attackers, honest_peer, newcomers
from .visit import (
    HALF_OPEN,
    HONEST,
    IDENTITIES,
    MEMORY,
    NEWCOMERS,
    ONE_IDENTITY,
    STREAMS,
    Visit,
    mute_libp2p,
)

ROLES: dict[str, Callable[[Visit], Awaitable[None]]] = {
    HALF_OPEN: attackers.half_open,
    IDENTITIES: attackers.identities,
    ONE_IDENTITY: attackers.one_identity,
    STREAMS: attackers.streams,
    MEMORY: attackers.memory,
    HONEST: honest_peer.honest,
    NEWCOMERS: newcomers.newcomers,
}


def read_stdin(start: Callable[[], None]) -> None:
    """Call `start` when a line arrives, and end this process when standard input ends."""
    for _ in sys.stdin:
        start()
    os._exit(0)


async def run(role: str) -> None:
    visit = Visit(**json.loads(sys.stdin.readline()))
    token = trio.lowlevel.current_trio_token()
    threading.Thread(
        target=read_stdin,
        args=(lambda: token.run_sync_soon(visit.started.set),),
        daemon=True,
    ).start()
    async with trio.open_nursery() as nursery:
        if role != HONEST:
            nursery.start_soon(visit.report_counts)
        await ROLES[role](visit)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    mute_libp2p()
    trio.run(run, sys.argv[1])
