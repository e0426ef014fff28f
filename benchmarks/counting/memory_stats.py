"""The cost of knowing the process's memory: rcmgr, psutil and libp2p.rcmgr.

    python -m benchmarks.counting.memory_stats [--processes N] [--check]

All implementations by turns, and the fastest of many rounds. Each line is the median of several
fresh processes. --check: exit status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import sys

import psutil
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits as UpstreamLimits

from benchmarks.timing import Run, fastest, noop, noop_int, repeated
from benchmarks.verdict import Figures, benchmark_main
from rcmgr import MemoryConnectionLimits, MemoryStatsCache

ROUNDS = 200
NO_INT, NO_OP = "a call that returns an int", "a call that does nothing"


def measure() -> Figures:
    cache = MemoryStatsCache()
    limits = MemoryConnectionLimits(max_percentage=1.0, cache=cache)
    upstream = UpstreamLimits().with_max_process_memory_percent(100.0)
    process = psutil.Process()
    calls: dict[str, tuple[Run, int]] = {  # the call, and how often in a round
        NO_INT: (noop_int, 1_000),
        "get_memory_usage(), fresh": (cache.get_memory_usage, 1_000),
        NO_OP: (noop, 1_000),
        "check_limit(), fresh": (limits.check_limit, 1_000),
        "check, fresh, libp2p": (upstream.check_memory_limits, 1_000),
        "force_refresh()": (cache.force_refresh, 200),
        "memory_info().rss, psutil": (lambda: process.memory_info().rss, 200),
        "check, forced, libp2p": (lambda: upstream.check_memory_limits(True), 20),
    }
    best = fastest(
        {name: repeated(call, times) for name, (call, times) in calls.items()},
        rounds=ROUNDS,
        operations={name: times for name, (_, times) in calls.items()},
    )
    found = {f"{name}: ns": value for name, value in best.items()}
    usage, check, refresh = (
        best[name]
        for name in ("get_memory_usage(), fresh", "check_limit(), fresh", "force_refresh()"))
    reported, rss = cache.force_refresh(), process.memory_info().rss
    return found | {
        "get_memory_usage(), fresh: calls": usage / best[NO_INT],
        "check_limit(), fresh: calls": check / best[NO_OP],
        "check_limit(), fresh: times faster": best["check, fresh, libp2p"] / check,
        "force_refresh(): times faster": best["memory_info().rss, psutil"] / refresh,
        "force_refresh(): difference from psutil": abs(reported - rss) / rss,
    }


if __name__ == "__main__":
    sys.exit(benchmark_main("counting.memory_stats", __doc__, measure))
