"""The cost of a swarm's calls: rcmgr's manager against libp2p.rcmgr 0.8.1.

    python -m benchmarks.manager [--processes N] [--check]

Every peer is connected, and the calls are for peers chosen at random. Each time is the fastest of
several rounds in one process, with both managers by turns. Each line is the median of several fresh
processes. "calls" are the time of a compiled function that does nothing, measured in the same
process. --check: exit status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from libp2p.rcmgr import Direction
from libp2p.rcmgr.manager import ResourceLimits as StockLimits
from libp2p.rcmgr.manager import ResourceManager as StockManager

import rcmgr
from benchmarks.timing import fastest, noop, peer_ids
from benchmarks.verdict import Figures, benchmark_main

ROUNDS = 5
PEERS = {10: 1_000, 100_000: 5_000}
"""Connected peers, and calls of a round."""

Run = Callable[[list[Any]], None]
"""Takes (peer id, its text) of each peer."""


def streams(manager: Any) -> Run:
    def run(peers: list[Any]) -> None:
        for _, text in peers:
            manager.acquire_stream(text, Direction.INBOUND)
            manager.release_stream(text, Direction.INBOUND)

    return run


def connections(manager: Any) -> Run:
    def run(peers: list[Any]) -> None:
        for peer, _ in peers:
            manager.open_connection(peer, None, "inbound").close()

    return run


def handshakes(manager: Any) -> Run:
    """One call before the handshake and one after it, as for every TCP connection."""

    def run(peers: list[Any]) -> None:
        for peer, _ in peers:
            before = manager.open_connection(None, None, "inbound")
            scope = manager.open_connection(peer, None, "inbound")
            before.close()
            scope.close()

    return run


def denials(manager: Any) -> Run:
    def run(peers: list[Any]) -> None:
        for peer, _ in peers:
            manager.open_connection(peer, None, "inbound")

    return run


def noops(peers: list[Any]) -> None:
    for _ in peers:
        noop()


def stock() -> StockManager:
    return StockManager(
        StockLimits(10**9, 10**6, 10**9), enable_rate_limiting=False, enable_memory_limits=False)


def full_stock() -> StockManager:
    """The defaults, without the features that stop denying after a few denials."""
    return StockManager(
        StockLimits(0, 10**6, 10**9),
        connections_per_peer_per_sec=1e9,
        burst_connections_per_peer=1e9,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
    )


def rated_stock() -> StockManager:
    """The defaults, with a rate that no peer reaches."""
    return StockManager(
        StockLimits(10**9, 10**6, 10**9),
        connections_per_peer_per_sec=1e9,
        burst_connections_per_peer=1e9,
    )


def ours(most: int = 10**9) -> rcmgr.ResourceManager:
    return rcmgr.ResourceManager(rcmgr.ResourceLimits(most, 10**6, 10**9))


def rated() -> rcmgr.ResourceManager:
    return rcmgr.ResourceManager(
        rcmgr.ResourceLimits(10**9, 10**6, 10**9),
        connection_rate_limits=rcmgr.ConnectionRateLimits(per_peer=rcmgr.Rate(1e6, 10**6)),
    )


def connected(manager: Any, peers: list[Any]) -> Any:
    """The manager, with a connection of each peer that lasts as long as the manager."""
    manager.kept = [manager.open_connection(peer, None, "inbound") for peer in peers]
    return manager


def pairs(peers: list[Any]) -> dict[str, dict[str, Run]]:
    plain = {"rcmgr": connected(ours(), peers), "libp2p": connected(stock(), peers)}
    limited = {"rcmgr": connected(rated(), peers), "libp2p": connected(rated_stock(), peers)}
    full = {"rcmgr": ours(0), "libp2p": full_stock()}
    works: dict[str, tuple[Callable[[Any], Run], dict[str, Any]]] = {
        "acquire and release a stream": (streams, plain),
        "open and close a connection": (connections, plain),
        "open and close a connection, with a rate for each peer": (connections, limited),
        "before and after a handshake": (handshakes, plain),
        "deny a connection": (denials, full),
    }
    made = {
        what: {name: run(manager) for name, manager in managers.items()}
        for what, (run, managers) in works.items()}
    made["deny a connection"]["call"] = noops
    return made


def measure() -> Figures:
    """All figures of one process."""
    figures: Figures = {}
    for count, calls in PEERS.items():
        peers = peer_ids(count)
        drawn = random.Random(1).choices(peers, k=calls)
        sample = [(peer, str(peer)) for peer in drawn]
        for what, runs in pairs(peers).items():
            timed = {name: partial(run, sample) for name, run in runs.items()}
            best = fastest(timed, rounds=ROUNDS, operations=calls)
            name = f"{what}, {count:,}"
            figures |= {
                f"{name}: ns": best["rcmgr"],
                f"{name}: libp2p ns": best["libp2p"],
                f"{name}: times faster": best["libp2p"] / best["rcmgr"],
            }
            if "call" in best:
                figures[f"{name}: calls"] = best["rcmgr"] / best["call"]
    return figures


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    sys.exit(benchmark_main("manager", __doc__, measure))
