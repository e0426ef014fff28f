"""rcmgr, for benchmarks.peers: python -m benchmarks.peers.ours WORK PEERS ORDER

The files and the lines are as in go/main.go. The bytes are those of the process's resident memory.
"""

from __future__ import annotations

import logging
import sys
import time
from array import array
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil
from libp2p.peer.id import ID

import rcmgr
from benchmarks.timing import noop

ID_LENGTH = 38
MANY = 10**9
ADDRESS = "192.0.2.1"
PROTOCOL = "/ipfs/kad/1.0.0"
CONNECTION_IDS = 1_000

Run = Callable[[list[ID]], None]
Held = list[Any]
"""The handles of the peers. Its slots are there before the memory is measured."""


def states(peers: list[ID], held: Held) -> Run:
    """Every connection id is the text of a number, as in a swarm. It was made lately, so that the
    processor's caches hold it."""
    tracker = rcmgr.ConnectionTracker()
    limits = rcmgr.ConnectionLimits(*[MANY] * 6)
    for i, peer in enumerate(peers):
        tracker.admit_established_inbound(str(150_000_000_000_000 + 16 * i), peer, limits)
    ids = [str(140_000_000_000_000 + 16 * i) for i in range(CONNECTION_IDS)]

    def run(order: list[ID]) -> None:
        pend = tracker.admit_pending_inbound
        establish = tracker.admit_established_inbound
        remove = tracker.remove_connection
        for start in range(0, len(order), CONNECTION_IDS):
            for connection, peer in zip(ids, order[start:start + CONNECTION_IDS], strict=False):
                pend(connection, limits)
                establish(connection, peer, limits)
                remove(connection, peer)

    return run


def state_refused(peers: list[ID], held: Held) -> Run:
    pend = rcmgr.ConnectionTracker().admit_pending_inbound
    limits = rcmgr.ConnectionLimits(max_pending_inbound=0)
    assert pend("140000000000000", limits) is not None

    def run(order: list[ID]) -> None:
        for _ in repeat(None, len(order)):
            pend("140000000000000", limits)

    return run


def manager(peers: list[ID], held: Held) -> rcmgr.ResourceManager:
    made = rcmgr.ResourceManager(rcmgr.ResourceLimits(MANY, 10**6, MANY))
    for i, peer in enumerate(peers):
        held[i] = made.open_connection(peer, ADDRESS, "inbound")
    return made


def connection(peers: list[ID], held: Held) -> Run:
    """A swarm asks before the handshake and after it."""
    open_connection = manager(peers, held).open_connection

    def run(order: list[ID]) -> None:
        for peer in order:
            before: Any = open_connection(None, ADDRESS, "inbound")
            scope: Any = open_connection(peer, ADDRESS, "inbound")
            before.close()
            scope.close()

    return run


def stream(peers: list[ID], held: Held) -> Run:
    open_stream = manager(peers, held).open_stream

    def run(order: list[ID]) -> None:
        for peer in order:
            scope: Any = open_stream(peer, "inbound")
            scope.try_set_protocol(PROTOCOL)
            scope.close()

    return run


def connection_refused(peers: list[ID], held: Held) -> Run:
    open_connection = rcmgr.ResourceManager(rcmgr.ResourceLimits(0, 10**6, 0)).open_connection
    assert open_connection(None, ADDRESS, "inbound") is None

    def run(order: list[ID]) -> None:
        for _ in repeat(None, len(order)):
            open_connection(None, ADDRESS, "inbound")

    return run


def stream_refused(peers: list[ID], held: Held) -> Run:
    open_stream = rcmgr.ResourceManager(rcmgr.ResourceLimits(MANY, 10**6, 0)).open_stream
    assert open_stream(peers[0], "inbound") is None

    def run(order: list[ID]) -> None:
        for peer in order:
            open_stream(peer, "inbound")

    return run


def ledger(peers: list[ID], held: Held) -> rcmgr.Ledger:
    many = rcmgr.Limit(*[2**40] * 8)
    made = rcmgr.Ledger(
        rcmgr.ConcreteLimits(**dict.fromkeys(rcmgr.ConcreteLimits.scopes(), many)))
    for i, peer in enumerate(peers):
        held[i] = made.open_connection(peer=peer)
    return made


def ledger_connection(peers: list[ID], held: Held) -> Run:
    open_connection = ledger(peers, held).try_open_connection

    def run(order: list[ID]) -> None:
        for peer in order:
            scope: Any = open_connection(True)
            scope.try_set_peer(peer)
            scope.close()

    return run


def ledger_stream(peers: list[ID], held: Held) -> Run:
    open_stream = ledger(peers, held).try_open_stream

    def run(order: list[ID]) -> None:
        for peer in order:
            scope: Any = open_stream(peer, True)
            scope.try_set_protocol(PROTOCOL)
            scope.close()

    return run


def bucket(peers: list[ID], held: Held) -> Run:
    try_consume = rcmgr.BucketTable(MANY, 1.0, max_peers=2 * len(peers)).try_consume
    for peer in peers:
        try_consume(peer)

    def run(order: list[ID]) -> None:
        for peer in order:
            try_consume(peer)

    return run


def memory(peers: list[ID], held: Held) -> Run:
    check_limit = rcmgr.MemoryConnectionLimits(max_percentage=1.0).check_limit

    def run(order: list[ID]) -> None:
        for _ in repeat(None, len(order)):
            check_limit()

    return run


def floor(peers: list[ID], held: Held) -> Run:
    """Read the last byte of each peer id, and call a compiled function that does nothing three
    times. No manager for Python can touch less."""
    bytes_of = attrgetter("_bytes")

    def run(order: list[ID]) -> None:
        for peer in order:
            bytes_of(peer)[-1]
            noop()
            noop()
            noop()

    return run


WORKS: dict[str, Callable[[list[ID], Held], Run]] = {
    "states": states,
    "state refused": state_refused,
    "connection": connection,
    "stream": stream,
    "connection refused": connection_refused,
    "stream refused": stream_refused,
    "ledger connection": ledger_connection,
    "ledger stream": ledger_stream,
    "bucket": bucket,
    "memory": memory,
    "floor": floor,
}


def main() -> None:
    logging.disable(logging.ERROR)
    work, peers_file, order_file = sys.argv[1:]
    data = Path(peers_file).read_bytes()
    peers = [ID(data[i:i + ID_LENGTH]) for i in range(0, len(data), ID_LENGTH)]
    indices = array("I", Path(order_file).read_bytes())
    order = [peers[i] for i in indices]
    held: Held = [None] * len(peers)
    WORKS[work](peers[:1], [None])  # loads modules, whose memory is no peer's
    process = psutil.Process()
    before = process.memory_info().rss
    run = WORKS[work](peers, held)
    print(f"ready {(process.memory_info().rss - before) / len(peers):.0f}", flush=True)
    for _ in sys.stdin:
        run(order)
        start = time.thread_time_ns()
        run(order)
        print(f"{(time.thread_time_ns() - start) / len(order):.1f}", flush=True)


if __name__ == "__main__":
    main()
