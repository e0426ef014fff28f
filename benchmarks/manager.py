"""What a swarm's calls cost: rcmgr's manager against libp2p.rcmgr 0.8.1.

    python benchmarks/manager.py [--processes N] [--check]

Nanoseconds: minima of many rounds in one process, the two by turns; then the median over several
fresh processes, of the ratios too. --check: exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from libp2p.rcmgr.manager import ResourceLimits as StockLimits
from libp2p.rcmgr.manager import ResourceManager as StockManager

import rcmgr

SAMPLE = 300
ROUNDS = 9
PEERS = (10, 100_000)
# times faster than libp2p.rcmgr, at the least; nanoseconds, at the most
LEAST = {
    "acquire and release a stream": 30,
    "open and close a connection": 20,
    "... with a rate for each peer": 30,
    "deny a connection": 30,
}
MOST_NS = {"deny a connection": 400}

Run = Callable[[list[Any]], None]


def peers_of(count: int) -> list[ID]:
    draw = random.Random(count)
    return [ID(b"\x00\x25\x08\x02\x12\x21" + draw.randbytes(33)) for _ in range(count)]


def streams(manager: Any) -> Run:
    def run(peers: list[Any]) -> None:
        for _, text in peers:
            manager.acquire_stream(text, Direction.INBOUND)
            manager.release_stream(text, Direction.INBOUND)

    return run


def connections(manager: Any, address: str | None = None) -> Run:
    def run(peers: list[Any]) -> None:
        for peer, _ in peers:
            manager.open_connection(peer, address, "inbound").close()

    return run


def handshakes(manager: Any) -> Run:
    """Before the handshake and after it, as for every TCP connection."""

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


def noops(manager: Any) -> Run:
    def run(peers: list[Any]) -> None:
        for _ in peers:
            manager._noop()

    return run


def stock() -> StockManager:
    return StockManager(
        StockLimits(10**9, 10**6, 10**9), enable_rate_limiting=False, enable_memory_limits=False)


def full_stock() -> StockManager:
    """As by default, without what makes it let some in, or not ask, after a few denials."""
    return StockManager(
        StockLimits(0, 10**6, 10**9),
        connections_per_peer_per_sec=1e9,
        burst_connections_per_peer=1e9,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
    )


def rated_stock() -> StockManager:
    """With the features it has by default, and a rate that is never reached."""
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


def pairs() -> dict[str, tuple[Run, Run | None]]:
    return {
        "acquire and release a stream": (streams(ours()), streams(stock())),
        "open and close a connection": (connections(ours()), connections(stock())),
        "... with a rate for each peer": (connections(rated()), connections(rated_stock())),
        "before and after a handshake": (handshakes(ours()), handshakes(stock())),
        "deny a connection": (denials(ours(0)), denials(full_stock())),
        "call": (noops(ours()), None),
    }


def nanoseconds(runs: dict[str, Run], sample: list[Any]) -> dict[str, float]:
    best = dict.fromkeys(runs, float("inf"))
    order = list(runs.items())
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name, run in order:
                run(sample)
                start = time.perf_counter_ns()
                run(sample)
                best[name] = min(best[name], (time.perf_counter_ns() - start) / len(sample))
            order.reverse()
    finally:
        gc.enable()
    return best


def measure_once() -> list[tuple[str, int, float, float | None]]:
    figures: list[tuple[str, int, float, float | None]] = []
    for count in PEERS:
        peers = peers_of(count)
        drawn = random.Random(1).choices(peers, k=SAMPLE)
        sample = [(peer, str(peer)) for peer in drawn]
        for what, (mine, others) in pairs().items():
            runs = {"ours": mine} if others is None else {"ours": mine, "theirs": others}
            best = nanoseconds(runs, sample)
            figures.append((what, count, best["ours"], best.get("theirs")))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        json.dump(measure_once(), sys.stdout)
        return 0
    seen: dict[tuple[str, int], list[tuple[float, float | None]]] = {}
    for _ in range(options.processes):
        run = subprocess.run(
            [sys.executable, __file__, "--once"], check=True, stdout=subprocess.PIPE)
        for what, count, mine, others in json.loads(run.stdout):
            seen.setdefault((what, count), []).append((mine, others))
    missed = 0
    print(f"{'':<34}{'peers':>9}{'rcmgr':>9}{'libp2p':>9}{'times':>8}")
    for (what, count), times in seen.items():
        mine = statistics.median(each[0] for each in times)
        line = f"{what:<34}{count:>9,}{mine:>9.0f}"
        met = mine <= MOST_NS.get(what, mine)
        if times[0][1] is not None:
            others = statistics.median(each[1] or 0 for each in times)
            ratio = statistics.median((each[1] or 0) / each[0] for each in times)
            line += f"{others:>9.0f}{ratio:>8.1f}"
            met = met and ratio >= LEAST.get(what, 0)
        if what in LEAST:
            line += f"  {'ok' if met else 'MISSED'} (at least {LEAST[what]})"
            missed += not met
        print(line)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
