from __future__ import annotations

import pytest

from rcmgr.cli.demo import limit_rows
from rcmgr.cli.demo.limit_rows import MEMORY_SLACK, ProcessMemory, Row
from rcmgr.limits.memory import ProcessMemoryLimits


@pytest.mark.parametrize(
    ("peak", "limit", "slack", "reached", "passed"),
    [
        (4, 5, 0, False, False),
        (5, 5, 0, True, False),
        (6, 5, 0, True, True),
        (6, 5, 1, True, False),
        (7, 5, 1, True, True),
        (9, None, 0, False, False),
        (0, 0, 0, True, False),
    ],
)
def test_a_peak_reaches_or_passes_its_limit(
    peak: int, limit: int | None, slack: int, reached: bool, passed: bool
) -> None:
    row = Row("a", 0, peak, limit, 0, 0, slack)
    assert (row.reached, row.passed) == (reached, passed)


def test_memory_may_grow_from_its_first_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [100]
    monkeypatch.setattr(limit_rows, "read_memory_usage", lambda: used[0] << 20)
    memory = ProcessMemory(ProcessMemoryLimits())
    assert memory.limit == 148
    used[0] = 160
    assert memory.measure(5, 2) == Row("memory", 160, 160, 148, 5, 2, MEMORY_SLACK)
    used[0] = 120
    assert memory.measure(5, 2) == Row("memory", 120, 160, 148, 5, 2, MEMORY_SLACK)


def test_unknown_memory_counts_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_rows, "read_memory_usage", lambda: None)
    assert ProcessMemory(ProcessMemoryLimits()).measure(0, 0).now == 0


def test_a_limits_file_may_limit_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_rows, "read_memory_usage", lambda: 100 << 20)
    assert ProcessMemory(ProcessMemoryLimits(max_bytes=300 << 20)).limit == 300
