"""The cost of a denial, and the memory that a flood of denials leaves behind.

    python -m benchmarks.counting.denials [--processes N] [--check]

Denials go through the manager, with its log of denials and its metrics. libp2p.rcmgr 0.8.1 does
the same work in the same process, by turns. Nanoseconds are the fastest of many rounds. The limits
by state come last, so a refusal by state gives back all that the connection took before. The flood
is ten seconds of ten thousand denials, each for another made-up peer.

Each line is the median of several fresh processes. --check: exit status 1 if a target of
thresholds.toml is missed.
"""

from __future__ import annotations

import gc
import logging
import random
import sys
import tracemalloc
from typing import Any

from libp2p.peer.id import ID

import rcmgr
from benchmarks.manager import full_stock
from benchmarks.timing import Run, fastest, noop, peer_ids
from benchmarks.verdict import Figures, benchmark_main

SAMPLE, ROUNDS = 300, 15
PER_SECOND, SECONDS = 10_000, 10


def with_metrics(limits: Any, connections: Any = None) -> rcmgr.ResourceManager:
    """A manager with the default log, and with metrics that were scraped once."""
    from prometheus_client import CollectorRegistry, generate_latest

    from rcmgr.report.metrics import MetricsCollector

    manager = rcmgr.ResourceManager(limits, connection_limits=connections)
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager))
    generate_latest(registry)
    return manager


def denials() -> Figures:
    peers = peer_ids(SAMPLE)
    texts = [str(peer) for peer in peers]
    full, theirs = with_metrics(rcmgr.ResourceLimits(0, 10**6, 0)), full_stock()
    by_state = with_metrics(
        rcmgr.ResourceLimits(10**9, 10**6, 10**9),
        rcmgr.ConnectionLimits(max_established_inbound=0))

    def known(manager: Any) -> Run:
        def run() -> None:
            for peer in peers:
                manager.open_connection(peer, None, "inbound")

        return run

    def unknown(manager: Any) -> Run:
        def run() -> None:
            for _ in peers:
                manager.open_connection(None, "192.0.2.1", "inbound")

        return run

    def stream(manager: Any) -> Run:
        def run() -> None:
            for text in texts:
                manager.acquire_stream(text, "inbound")

        return run

    def noops() -> None:
        for _ in peers:
            noop()

    found: Figures = {}
    for what, runs in (
        ("a connection", {"rcmgr": known(full), "libp2p": known(theirs)}),
        ("a connection before its handshake", {"rcmgr": unknown(full), "libp2p": unknown(theirs)}),
        ("a connection by its state", {"rcmgr": known(by_state)}),
        ("a stream", {"rcmgr": stream(full)}),
    ):
        best = fastest({**runs, "call": noops}, rounds=ROUNDS, operations=SAMPLE)
        found[f"deny {what}: ns"] = best["rcmgr"]
        found[f"deny {what}: calls"] = best["rcmgr"] / best["call"]
        if "libp2p" in best:
            found[f"deny {what}: libp2p ns"] = best["libp2p"]
            found[f"deny {what}: times faster"] = best["libp2p"] / best["rcmgr"]
    return found


def flood() -> Figures:
    manager = with_metrics(rcmgr.ResourceLimits(0, 10**6, 0))
    draw = random.Random(1)

    def one_second() -> None:
        for _ in range(PER_SECOND):
            manager.open_connection(ID(draw.randbytes(38)), None, "inbound")

    one_second()
    gc.collect()
    tracemalloc.start()
    one_second()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(SECONDS):
        one_second()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {
        "100,000 denials: bytes more": after - before,
        "100,000 denials: denials kept": len(manager.denials),
    }


def measure() -> Figures:
    return denials() | flood()


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    sys.exit(benchmark_main("counting.denials", __doc__, measure))
