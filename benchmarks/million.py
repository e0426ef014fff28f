"""A large fleet in one process: a million connections, and ten million streams on them.

    python -m benchmarks.million [--processes N] [--check]

Each connection is of another peer, and stays. Each peer then opens ten streams, which stay too.
Every count is compared with the number of calls, at the peak and after all have closed. "bytes" is
the growth of resident memory, peer ids not counted. --check: exit status 1 if a target of
thresholds.toml is missed.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import psutil

import rcmgr
from benchmarks.timing import peer_ids
from benchmarks.verdict import Figures, benchmark_main

CONNECTIONS, STREAMS_EACH = 1_000_000, 10
MANY = 10**9


def counts(manager: rcmgr.ResourceManager) -> tuple[int, int, int, int]:
    """Connections and streams of the system, connections by state, and connections by peer."""
    system = manager.ledger.snapshot()["system"]
    tracker = manager.connection_tracker
    return (
        system["conns_inbound"], system["streams_inbound"], len(tracker.established_inbound),
        len(tracker.established_per_peer))


def measure(connections: int = CONNECTIONS) -> Figures:
    peers = peer_ids(connections)
    held: list[Any] = [None] * connections
    manager = rcmgr.ResourceManager(rcmgr.ResourceLimits(MANY, 10**6, MANY))
    gc.collect()
    gc.freeze()
    process = psutil.Process()
    before, began = process.memory_info().rss, time.process_time()
    for i, peer in enumerate(peers):
        held[i] = manager.open_connection(peer, None, "inbound")
    connected, connecting = process.memory_info().rss - before, time.process_time() - began
    began = time.process_time()
    for _ in range(STREAMS_EACH):
        for peer in peers:
            manager.acquire_stream(peer, "inbound")
    streaming = time.process_time() - began
    full = process.memory_info().rss - before
    streams = STREAMS_EACH * connections
    wrong = sum(
        found != expected for found, expected in zip(
            counts(manager), (connections, streams, connections, connections), strict=True))
    for _ in range(STREAMS_EACH):
        for peer in peers:
            manager.release_stream(peer, "inbound")
    for scope in held:
        scope.close()
    wrong += sum(count != 0 for count in counts(manager))
    return {
        "connections: number": connections,
        "streams: number": streams,
        "connections: bytes each": connected / connections,
        "streams: bytes each": (full - connected) / streams,
        "connections: ns to open": 1e9 * connecting / connections,
        "streams: ns to open": 1e9 * streaming / streams,
        "process: MiB of resident memory": (before + full) / 2**20,
        "process: wrong counts": wrong,
    }


if __name__ == "__main__":
    sys.exit(benchmark_main("million", __doc__, measure, processes=1))
