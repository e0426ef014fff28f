"""What knowing the process's memory costs: rcmgr, psutil, libp2p.rcmgr; and the promised ratios.

    python benchmarks/memory.py [--check]

One process, by turns, minima. --check: exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import psutil
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits as UpstreamLimits

from rcmgr import MemoryConnectionLimits, MemoryStatsCache

Calls = dict[str, tuple[Callable[[], object], int]]  # the call, and how often in a round


def nanoseconds(calls: Calls, rounds: int) -> dict[str, float]:
    """The fastest round of each call, per call."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, (call, times) in calls.items():
            start = time.perf_counter_ns()
            for _ in range(times):
                call()
            best[name] = min(best[name], (time.perf_counter_ns() - start) / times)
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    cache = MemoryStatsCache()
    limits = MemoryConnectionLimits(max_percentage=1.0, cache=cache)
    upstream = UpstreamLimits().with_max_process_memory_percent(100.0)
    process = psutil.Process()
    best = nanoseconds(
        {
            "no-op that returns an int": (cache._noop, 1_000),
            "get_memory_usage(), fresh": (cache.get_memory_usage, 1_000),
            "no-op": (limits._noop, 1_000),
            "check_limit(), fresh": (limits.check_limit, 1_000),
            "libp2p.rcmgr check, fresh": (upstream.check_memory_limits, 1_000),
            "force_refresh()": (cache.force_refresh, 200),
            "psutil memory_info().rss": (lambda: process.memory_info().rss, 200),
            "libp2p.rcmgr check, forced": (lambda: upstream.check_memory_limits(True), 20),
        },
        rounds=200,
    )
    for name, value in best.items():
        print(f"{name:28} {value:10,.1f} ns")
    off = abs(cache.force_refresh() / process.memory_info().rss - 1)
    targets = [
        ("get_memory_usage / no-op", best["get_memory_usage(), fresh"]
         / best["no-op that returns an int"], 1.6),
        ("check_limit / no-op", best["check_limit(), fresh"] / best["no-op"], 2.0),
        ("force_refresh / psutil", best["force_refresh()"] / best["psutil memory_info().rss"],
         1 / 8),
        ("difference from psutil", off, 0.05),
    ]
    missed = 0
    for name, value, most in targets:
        missed += value > most
        print(f"{name:28} {value:10.3f}     {'MISSED' if value > most else 'ok'} (at most {most})")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
