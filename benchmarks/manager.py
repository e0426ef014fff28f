"""The cost of a swarm's calls: rcmgr's manager against libp2p.rcmgr 0.8.1.

    python -m benchmarks.manager [--processes N] [--check]

Nanoseconds. Each is the fastest of many rounds in one process, with both managers by turns. Each
line is the median of several fresh processes, for times and for ratios. --check: exit status 1 if a
target is missed.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from libp2p.rcmgr import Direction
from libp2p.rcmgr.manager import ResourceLimits as StockLimits
from libp2p.rcmgr.manager import ResourceManager as StockManager

import rcmgr
from benchmarks.timing import fastest, noop, peer_ids
from benchmarks.verdict import Target, fresh_process, parser

MODULE = "benchmarks.manager"
SAMPLE = 300
ROUNDS = 9
PEERS = (10, 100_000)
TIMES_FASTER = {
    "acquire and release a stream": Target(at_least=30),
    "open and close a connection": Target(at_least=20),
    "... with a rate for each peer": Target(at_least=30),
    "deny a connection": Target(at_least=30),
}
CALLS = {"deny a connection": Target(at_most=21)}
"""The time in calls of a compiled function that does nothing, measured in the same process."""

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


def pairs() -> dict[str, dict[str, Run]]:
    return {
        "acquire and release a stream": {"rcmgr": streams(ours()), "libp2p": streams(stock())},
        "open and close a connection": {
            "rcmgr": connections(ours()), "libp2p": connections(stock())},
        "... with a rate for each peer": {
            "rcmgr": connections(rated()), "libp2p": connections(rated_stock())},
        "before and after a handshake": {
            "rcmgr": handshakes(ours()), "libp2p": handshakes(stock())},
        "deny a connection": {"rcmgr": denials(ours(0)), "libp2p": denials(full_stock())},
        "call": {"rcmgr": noops},
    }


def measure() -> list[tuple[str, int, dict[str, float]]]:
    """(operation, number of peers, nanoseconds by manager) of one process."""
    figures = []
    for count in PEERS:
        drawn = random.Random(1).choices(peer_ids(count), k=SAMPLE)
        sample = [(peer, str(peer)) for peer in drawn]
        for what, runs in pairs().items():
            timed = {name: partial(run, sample) for name, run in runs.items()}
            figures.append((what, count, fastest(timed, rounds=ROUNDS, operations=SAMPLE)))
    return figures


def main() -> int:
    options = parser(__doc__, processes=5).parse_args()
    if options.once:
        json.dump(measure(), sys.stdout)
        return 0
    seen: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(options.processes):
        for what, count, best in fresh_process(MODULE, "--once"):
            seen.setdefault((what, count), []).append(best)
    missed = 0
    print(f"{'':<34}{'peers':>9}{'rcmgr':>9}{'libp2p':>9}{'times':>8}")
    for (what, count), times in seen.items():
        mine = statistics.median(each["rcmgr"] for each in times)
        line = f"{what:<34}{count:>9,}{mine:>9.0f}"
        if "libp2p" in times[0]:
            theirs = statistics.median(each["libp2p"] for each in times)
            ratio = statistics.median(each["libp2p"] / each["rcmgr"] for each in times)
            line += f"{theirs:>9.0f}{ratio:>8.1f}"
            if what in TIMES_FASTER:
                line += f"  {TIMES_FASTER[what].verdict(ratio)}"
                missed += not TIMES_FASTER[what].met(ratio)
        if what in CALLS:
            calls = statistics.median(
                each["rcmgr"] / call["rcmgr"]
                for each, call in zip(times, seen["call", count], strict=True))
            line += f"  {calls:.1f} calls {CALLS[what].verdict(calls)}"
            missed += not CALLS[what].met(calls)
        print(line)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
