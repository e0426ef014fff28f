"""The cost of knowing the process's memory: rcmgr, psutil and libp2p.rcmgr.

    python -m benchmarks.counting.memory_stats [--check]

One process, with all implementations by turns, and the fastest of many rounds. --check: exit status
1 if a target is missed.
"""

from __future__ import annotations

import sys

import psutil
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits as UpstreamLimits

from benchmarks.timing import Run, fastest, noop, noop_int, repeated
from benchmarks.verdict import Target, parser
from rcmgr import MemoryConnectionLimits, MemoryStatsCache

ROUNDS = 200
TARGETS = {
    "get_memory_usage / no-op": Target(at_most=1.1),
    "check_limit / no-op": Target(at_most=1.1),
    "force_refresh / psutil": Target(at_most=1 / 8),
    "difference from psutil": Target(at_most=0.05),
}


def main() -> int:
    options = parser(__doc__).parse_args()
    cache = MemoryStatsCache()
    limits = MemoryConnectionLimits(max_percentage=1.0, cache=cache)
    upstream = UpstreamLimits().with_max_process_memory_percent(100.0)
    process = psutil.Process()
    calls: dict[str, tuple[Run, int]] = {  # the call, and how often in a round
        "no-op that returns an int": (noop_int, 1_000),
        "get_memory_usage(), fresh": (cache.get_memory_usage, 1_000),
        "no-op": (noop, 1_000),
        "check_limit(), fresh": (limits.check_limit, 1_000),
        "libp2p.rcmgr check, fresh": (upstream.check_memory_limits, 1_000),
        "force_refresh()": (cache.force_refresh, 200),
        "psutil memory_info().rss": (lambda: process.memory_info().rss, 200),
        "libp2p.rcmgr check, forced": (lambda: upstream.check_memory_limits(True), 20),
    }
    best = fastest(
        {name: repeated(call, times) for name, (call, times) in calls.items()},
        rounds=ROUNDS,
        operations={name: times for name, (_, times) in calls.items()},
    )
    for name, value in best.items():
        print(f"{name:28} {value:10,.1f} ns")
    figures = {
        "get_memory_usage / no-op":
            best["get_memory_usage(), fresh"] / best["no-op that returns an int"],
        "check_limit / no-op": best["check_limit(), fresh"] / best["no-op"],
        "force_refresh / psutil": best["force_refresh()"] / best["psutil memory_info().rss"],
        "difference from psutil": abs(cache.force_refresh() / process.memory_info().rss - 1),
    }
    for name, value in figures.items():
        print(f"{name:28} {value:10.3f}     {TARGETS[name].verdict(value)}")
    missed = any(not TARGETS[name].met(value) for name, value in figures.items())
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
