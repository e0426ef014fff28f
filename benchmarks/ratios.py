"""How many times faster and smaller rcmgr is than libp2p.rcmgr 0.8.1.

    python -m benchmarks.ratios [--processes N] [--check]

Each time is the fastest of many rounds in one process, with both implementations by turns. Each
line is the median of several fresh processes. The number in a name counts the other connections.
--check: exit status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from functools import partial

from benchmarks import connections
from benchmarks.timing import fastest
from benchmarks.verdict import Figures, benchmark_main

ROUNDS = 15
TRACKER_SIZES = [1_000, 100_000, 1_000_000]
SIZES = [1_000, 100_000]

def bytes_per_connection(workload: type, size: int) -> float:
    """Memory of the tables and records of `size` connections, without their ids."""
    kept = [connections.identities(size, "others"), workload(0)]
    gc.collect()
    tracemalloc.start()
    kept.append(workload(size))
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used / size


def operations_of(operation: str, size: int) -> dict[str, int]:
    """Operations in a round of each: libp2p's reconcile takes milliseconds."""
    if operation == "reconcile":
        return {"rcmgr": 1_000, "libp2p": max(3, 300_000 // size)}
    return dict.fromkeys(("rcmgr", "libp2p"), connections.OPERATIONS)


def measure() -> Figures:
    """All figures of one process."""
    figures: Figures = {}
    for ours, theirs in connections.PAIRS:
        operation = ours.operation
        first = 0.0
        for size in TRACKER_SIZES if ours is connections.RcmgrTracker else SIZES:
            operations = operations_of(operation, size)
            workloads = {"rcmgr": ours(size), "libp2p": theirs(size)}
            best = fastest(
                {name: partial(each.run, operations[name]) for name, each in workloads.items()},
                rounds=7 if size > 100_000 or operation == "reconcile" else ROUNDS,
                operations=operations,
            )
            del workloads
            first = first or best["rcmgr"]
            name = f"{operation}, {size:,}"
            figures |= {
                f"{name}: ns": best["rcmgr"],
                f"{name}: libp2p ns": best["libp2p"],
                f"{name}: times faster": best["libp2p"] / best["rcmgr"],
            }
            if size == 100_000:
                figures[f"{name}: times slower than with 1,000"] = best["rcmgr"] / first
    ours, theirs = connections.PAIRS[0]
    size = 100_000
    for workload, what in ((ours, "bytes"), (theirs, "libp2p bytes")):
        figures[f"connection in the tracker, {size:,}: {what}"] = bytes_per_connection(
            workload, size)
    return figures


if __name__ == "__main__":
    sys.exit(benchmark_main("ratios", __doc__, measure))
