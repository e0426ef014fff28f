"""The workloads of connections.py under pytest-benchmark: `pytest benchmarks`.

Each operation and size is one group with both implementations. Compare the minima. `ratios.py`
gives ratios that can be compared between runs.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import connections


@pytest.mark.parametrize("size", [1_000, 100_000], ids=lambda size: f"{size:,}")
@pytest.mark.parametrize(
    "workload",
    [workload for pair in connections.PAIRS for workload in pair],
    ids=lambda workload: workload.__name__,
)
def test_speed(benchmark: Any, workload: type, size: int) -> None:
    operations = 20 if workload.operation == "reconcile" else connections.OPERATIONS
    benchmark.group = f"{workload.operation}, {size:,} other connections, {operations} operations"
    benchmark.pedantic(workload(size).run, [operations], rounds=7, warmup_rounds=1)
