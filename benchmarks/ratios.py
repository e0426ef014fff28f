"""How many times faster and smaller rcmgr is than libp2p.rcmgr 0.8.1, and whether that is enough.

    python benchmarks/ratios.py [--processes N] [--check]

Times are minima of many rounds in one process, the two implementations by turns; a line shows the
median of the ratios of several fresh processes. --check: exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import connections

ROUNDS = 15
TRACKER_SIZES = [1_000, 100_000, 1_000_000]
SIZES = [1_000, 100_000]

# (operation, what) -> (at least, at most), as the project promises
TARGETS = {
    ("tracker cycle", "times faster"): (12.0, None),
    ("lifecycle cycle", "times faster"): (10.0, None),
    ("installed tracker cycle", "times faster"): (10.0, None),
    ("installed lifecycle cycle", "times faster"): (10.0, None),
    ("tracker cycle", "bytes per connection"): (None, 160.0),
    ("tracker cycle", "times slower than with 1,000"): (None, 3.0),
    ("lifecycle cycle", "times slower than with 1,000"): (None, 3.0),
    ("reconcile", "times slower than with 1,000"): (None, 3.0),
}


def nanoseconds(workloads: list[Any], rounds: int = ROUNDS) -> list[float]:
    """The fastest round of each workload, per operation.

    A round comes right after one of the same workload, so that each finds the processor's caches as
    it left them, not as the other one did.
    """
    best = [float("inf")] * len(workloads)
    order = list(enumerate(workloads))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for i, workload in order:
                operations = getattr(workload, "operations", connections.OPERATIONS)
                workload.run(operations)
                start = time.perf_counter_ns()
                workload.run(operations)
                best[i] = min(best[i], (time.perf_counter_ns() - start) / operations)
            order.reverse()
    finally:
        gc.enable()
    return best


def bytes_per_connection(workload: type, size: int) -> float:
    """What the tables and records of `size` connections take, their ids not counted."""
    kept = [connections.identities(size, "others"), workload(0)]
    gc.collect()
    tracemalloc.start()
    kept.append(workload(size))
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used / size


def measure_once() -> list[tuple[str, int, str, float]]:
    """All figures of one process: (operation, size, what, value)."""
    figures: list[tuple[str, int, str, float]] = []
    for ours, theirs in connections.PAIRS:
        operation = ours.operation
        reconcile = operation == "reconcile"
        first = 0.0
        for size in TRACKER_SIZES if ours is connections.RcmgrTracker else SIZES:
            pair = [ours(size), theirs(size)]
            if reconcile:
                for workload in pair:
                    workload.operations = 1_000 if workload is pair[0] else max(3, 300_000 // size)
            mine, others = nanoseconds(pair, rounds=7 if size > 100_000 or reconcile else ROUNDS)
            del pair
            first = first or mine
            figures += [
                (operation, size, "ns, rcmgr", mine),
                (operation, size, "ns, libp2p.rcmgr", others),
                (operation, size, "times faster", others / mine),
            ]
            if size == 100_000:
                figures.append((operation, size, "times slower than with 1,000", mine / first))
    for workload in connections.PAIRS[0]:
        what = "bytes per connection"
        if workload is not connections.RcmgrTracker:
            what += ", libp2p.rcmgr"
        figures.append(
            ("tracker cycle", 100_000, what, bytes_per_connection(workload, 100_000))
        )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        json.dump(measure_once(), sys.stdout)
        return 0
    values: dict[tuple[str, int, str], list[float]] = {}
    for _ in range(options.processes):
        run = subprocess.run(
            [sys.executable, __file__, "--once"], check=True, stdout=subprocess.PIPE
        )
        for operation, size, what, value in json.loads(run.stdout):
            values.setdefault((operation, size, what), []).append(value)
    missed = 0
    for (operation, size, what), measured in values.items():
        value = statistics.median(measured)
        low, high = TARGETS.get((operation, what), (None, None))
        verdict = ""
        if low is not None or high is not None:
            met = (low is None or value >= low) and (high is None or value <= high)
            missed += not met
            bound = f"at least {low:g}" if low is not None else f"at most {high:g}"
            verdict = f"{'ok' if met else 'MISSED'} ({bound})"
        print(f"{operation:26} {size:>9,}  {what:32} {value:>12,.1f}  {verdict}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
