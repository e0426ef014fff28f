"""How many times faster and smaller rcmgr is than libp2p.rcmgr 0.8.1.

    python -m benchmarks.ratios [--processes N] [--check]

Each time is the fastest of many rounds in one process, with both implementations by turns. Each
line is the median of several fresh processes. --check: exit status 1 if a target is missed.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tracemalloc
from functools import partial

from benchmarks import connections
from benchmarks.timing import fastest
from benchmarks.verdict import Target, fresh_process, parser

MODULE = "benchmarks.ratios"
ROUNDS = 15
TRACKER_SIZES = [1_000, 100_000, 1_000_000]
SIZES = [1_000, 100_000]

TARGETS = {  # by operation and figure
    ("tracker cycle", "times faster"): Target(at_least=12),
    ("lifecycle cycle", "times faster"): Target(at_least=10),
    ("installed tracker cycle", "times faster"): Target(at_least=10),
    ("installed lifecycle cycle", "times faster"): Target(at_least=9),
    ("tracker cycle", "bytes per connection"): Target(at_most=160),
    ("tracker cycle", "times slower than with 1,000"): Target(at_most=3),
    ("lifecycle cycle", "times slower than with 1,000"): Target(at_most=3),
    ("reconcile", "times slower than with 1,000"): Target(at_most=3),
}

Figure = tuple[str, int, str, float]
"""Operation, number of other connections, what, value."""


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


def measure() -> list[Figure]:
    """All figures of one process."""
    figures: list[Figure] = []
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
            figures += [
                (operation, size, "ns, rcmgr", best["rcmgr"]),
                (operation, size, "ns, libp2p.rcmgr", best["libp2p"]),
                (operation, size, "times faster", best["libp2p"] / best["rcmgr"]),
            ]
            if size == 100_000:
                slower = best["rcmgr"] / first
                figures.append((operation, size, "times slower than with 1,000", slower))
    ours, theirs = connections.PAIRS[0]
    for workload, what in ((ours, ""), (theirs, ", libp2p.rcmgr")):
        used = bytes_per_connection(workload, 100_000)
        figures.append(("tracker cycle", 100_000, f"bytes per connection{what}", used))
    return figures


def main() -> int:
    options = parser(__doc__, processes=5).parse_args()
    if options.once:
        json.dump(measure(), sys.stdout)
        return 0
    values: dict[tuple[str, int, str], list[float]] = {}
    for _ in range(options.processes):
        for operation, size, what, value in fresh_process(MODULE, "--once"):
            values.setdefault((operation, size, what), []).append(value)
    missed = 0
    for (operation, size, what), measured in values.items():
        value = statistics.median(measured)
        target = TARGETS.get((operation, what))
        verdict = "" if target is None else target.verdict(value)
        missed += target is not None and not target.met(value)
        print(f"{operation:26} {size:>9,}  {what:32} {value:>12,.1f}  {verdict}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
