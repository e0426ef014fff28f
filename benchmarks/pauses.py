"""How long reports about many peers stop the other threads of a node.

    python -m benchmarks.pauses [--processes N] [--check]

A manager has so many peers (100,000), each with an address, a connection, and a stream of one of
two protocols, and 10,000 bans. While the main thread makes a report, another thread ticks each 0.1
ms. The figures are the longest gaps between two ticks, in milliseconds, and how long each report
took. A gap of "Python code" is the one that any Python code makes: CPython takes the GIL from a
thread after 5 ms. "gaps" are a part of that: 0.2 is 1 ms. Each process is fresh, and the figures
are medians.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.timing import peer_ids
from benchmarks.verdict import Figures, Target, benchmark_main

PEERS, BANS = 100_000, 10_000
PATHS = (
    "a scrape", "explain", "status", "snapshot", "fullest", "limits changed", "reconcile", "bans")
TARGETS = {
    **{f"{name}: gap, part of Python code's": Target(at_most=0.2) for name in PATHS},
    # its caller frees a list of 10,000
    "bans: gap, part of Python code's": Target(at_most=0.3),
    "groups for one hold of the lock": Target(at_most=512),
}


class Ticker(threading.Thread):
    """Ticks each 0.1 ms until `stop`, and keeps the longest gap between two ticks."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self._ends = False

    def run(self) -> None:
        last = time.perf_counter()
        while not self._ends:
            time.sleep(0.0001)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now

    def stop(self) -> float:
        self._ends = True
        self.join()
        return 1e3 * self.longest


def gap_during(call: Callable[[], object]) -> tuple[float, float]:
    """The longest gap, and how long the call took, in milliseconds."""
    ticker = Ticker()
    ticker.start()
    time.sleep(0.02)
    ticker.longest = 0.0
    began = time.perf_counter()
    call()
    took = 1e3 * (time.perf_counter() - began)
    time.sleep(0.01)
    return ticker.stop(), took


def busy() -> None:
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        pass


def node() -> tuple[Any, list[Any]]:
    """A manager with all peers, and what they hold."""
    from rcmgr import ConcreteLimits, ConnectionLimits, Limit, NodeLimits, ResourceManager

    limits = replace(
        NodeLimits.default(), scopes=ConcreteLimits(peer_default=Limit(conns=8, streams=64)),
        connections=ConnectionLimits(max_established_per_peer=8), rates=None)
    manager = ResourceManager(limits)
    held: list[Any] = []
    for number, peer in enumerate(peer_ids(PEERS)):
        address = f"/ip4/11.{number >> 16}.{number >> 8 & 255}.{number & 255}/tcp/4001"
        held.append(manager.open_connection(peer, address, "inbound"))
        stream = manager.open_stream(peer, "inbound")
        assert stream is not None
        stream.set_protocol("/ipfs/ping/1.0.0" if number % 2 else "/ipfs/id/1.0.0")
        held.append(stream)
    for number in range(BANS):
        manager.ban(f"10.{number >> 8}.{number & 255}.1")
    return manager, held


def figures() -> Figures:
    from prometheus_client import CollectorRegistry, generate_latest

    from rcmgr.metrics import MetricsCollector
    from rcmgr.report.node_commands import answer_to

    manager, held = node()
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager))
    live = {scope.connection_id for scope in held[::2]}
    calls: dict[str, Callable[[], object]] = {
        "a scrape": lambda: generate_latest(registry),
        "explain": manager.explain,
        "status": lambda: answer_to(manager, b'{"do": "status"}'),
        "snapshot": manager.ledger.snapshot,
        "fullest": manager.ledger.fullest,
        "limits changed": lambda: manager.ledger.set_limits(manager.scope_limits),
        "reconcile": lambda: manager.connection_tracker.reconcile(live),
        "bans": manager.bans,
    }
    gc.collect()
    gc.freeze()
    reference, _ = gap_during(busy)
    found: Figures = {"Python code: gap, ms": reference}
    for name, call in calls.items():
        gap, took = min(gap_during(call) for _ in range(3))
        found |= {
            f"{name}: gap, ms": gap, f"{name}: took, ms": took,
            f"{name}: gap, part of Python code's": gap / reference}
    found["groups for one hold of the lock"] = max(manager.ledger._steps())
    return found


if __name__ == "__main__":
    sys.exit(benchmark_main("pauses", __doc__ or "", figures, processes=3, targets=TARGETS))
