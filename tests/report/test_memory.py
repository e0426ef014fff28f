"""The report on the memory that this process may have and has."""

from __future__ import annotations

import sys

import pytest

from rcmgr import memory_report, total_memory
from rcmgr.limits.machine import MemoryBound
from rcmgr.report.memory import MemoryReport

MIB = 1 << 20


def test_the_tightest_bound_applies_and_is_marked() -> None:
    report = MemoryReport(
        (MemoryBound("physical memory", 8192 * MIB),
         MemoryBound("memory.max", 512 * MIB, "/sys/fs/cgroup/memory.max")),
        4096 * MIB, 300 * MIB, 100 * MIB)
    assert report.total_bytes == 512 * MIB
    assert str(report).splitlines() == [
        "100 % of memory is 512 MiB, set by memory.max.",
        "  * 512 MiB  memory.max  (/sys/fs/cgroup/memory.max)",
        "    8,192 MiB  physical memory",
        "    4,096 MiB  RLIMIT_AS (address space; not applied)",
        "This process uses 300 MiB (rss).",
        "This process uses 100 MiB (anonymous).",
    ]


def test_without_a_known_bound() -> None:
    report = MemoryReport((), None)
    assert report.bound is None
    assert report.total_bytes is None
    assert str(report) == "100 % of memory is unknown: limits in percent do not apply."


def test_this_process() -> None:
    report = memory_report()
    assert report.total_bytes == total_memory()
    assert 0 < report.anonymous <= report.resident < report.total_bytes


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(("soft", "shown"), [(1 << 40, 1 << 40), (None, None)])
def test_the_address_space_limit(
    monkeypatch: pytest.MonkeyPatch, soft: int | None, shown: int | None
) -> None:
    import resource

    unlimited = resource.RLIM_INFINITY
    limits = (unlimited if soft is None else soft, unlimited)
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    assert memory_report().address_space_limit == shown
