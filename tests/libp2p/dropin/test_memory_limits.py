"""libp2p's limits on memory and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import time
import warnings
from typing import Any

import psutil
import pytest
from libp2p.rcmgr import memory_stats
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits as StockLimits
from libp2p.rcmgr.memory_limits import new_memory_connection_limits_with_defaults
from libp2p.rcmgr.memory_stats import MemoryStats
from libp2p.rcmgr.memory_stats import MemoryStatsCache as StockCache
from stock_and_ours import PEER

import rcmgr
from rcmgr.counting.memory_stats import UnknownMemoryWarning, default_cache
from rcmgr.libp2p.dropin.manager import ResourceManager
from rcmgr.libp2p.dropin.memory_limits import MemoryConnectionLimits, SystemMemoryLimitExceeded


class Reported(StockCache):
    """A user's cache. It reports the figures that a test sets."""

    def __init__(self, process: int = 0, system_percent: float = 0.0) -> None:
        super().__init__()
        self.process_bytes = process
        self.system_percent = system_percent

    def get_memory_stats(self, force_refresh: bool = False) -> MemoryStats:
        return MemoryStats(
            self.process_bytes, 0.0, 1000, int(10 * (100 - self.system_percent)),
            self.system_percent, time.time())


def admits(manager: Any) -> bool:
    return manager.open_connection(PEER) is not None


@pytest.mark.parametrize("limit", [
    {"max_process_memory_bytes": 1},
    {"max_process_memory_percent": 0.0},
    {"max_system_memory_percent": 0.0},
])
def test_e2_limits_on_memory_are_enforced(limit: dict[str, Any]) -> None:
    stock: Any = StockManager(memory_limits=StockLimits(**limit))
    ours: Any = ResourceManager(memory_limits=MemoryConnectionLimits(**limit))
    assert admits(stock)
    assert not admits(ours)
    assert ours.open_connection(None) is None
    assert not ours.acquire_memory(1)
    for manager in (stock, ours):
        with pytest.raises(ResourceLimitExceeded, match="emory"):
            manager.memory_limits.check_memory_limits()
    denied: Any = ours.last_denial
    assert denied.category == "memory"
    assert (denied.code == "memory.system") == ("max_system_memory_percent" in limit)


def test_e2_memory_limits_can_be_disabled() -> None:
    stock: Any = StockManager(memory_limits=StockLimits(1), enable_memory_limits=True)
    assert admits(stock)  # 0.8.1 never reads the argument
    ours: Any = ResourceManager(
        memory_limits=MemoryConnectionLimits(1), enable_memory_limits=False)
    assert admits(ours)
    assert ours.memory_limits is None
    ours.memory_limits = StockLimits(1)
    assert not admits(ours)
    ours.memory_limits = None
    assert admits(ours)


def test_e2_an_allowed_peer_passes_memory_limits() -> None:
    ours = ResourceManager(memory_limits=MemoryConnectionLimits(1), allowlist=[PEER])
    assert admits(ours)


def test_limits_may_be_changed_at_any_time() -> None:
    limits = MemoryConnectionLimits()
    manager = ResourceManager(memory_limits=limits)
    assert manager.memory_limits is limits
    assert admits(manager)
    assert limits.with_max_process_memory_bytes(1) is limits
    assert not admits(manager)
    limits.max_process_memory_bytes = None
    assert admits(manager)
    assert limits.with_max_process_memory_percent(0.0) is limits
    assert not admits(manager)
    limits.max_process_memory_percent = 100
    assert admits(manager)
    assert limits.with_max_system_memory_percent(0.0) is limits
    assert not admits(manager)
    limits.max_system_memory_percent = None
    cache = Reported(process=5)
    limits.with_memory_stats_cache(cache).with_max_process_memory_bytes(4)
    assert not admits(manager)
    manager.set_memory_limits(5)
    assert admits(manager)
    assert isinstance(manager.memory_limits, MemoryConnectionLimits)
    assert manager.memory_limits.memory_stats_cache is cache


@pytest.mark.parametrize(("name", "value", "error"), [
    ("max_process_memory_bytes", -1, ValueError),
    ("max_process_memory_bytes", 1.5, TypeError),
    ("max_process_memory_percent", 101, ValueError),
    ("max_process_memory_percent", float("nan"), ValueError),
    ("max_process_memory_percent", "80", TypeError),
    ("max_system_memory_percent", -0.1, ValueError),
    ("max_system_memory_percent", True, TypeError),
])
def test_wrong_limits_change_nothing(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        MemoryConnectionLimits(**{name: value})
    limits = MemoryConnectionLimits()
    with pytest.raises(error, match=name):
        setattr(limits, name, value)
    assert limits == MemoryConnectionLimits()


def test_a_users_cache_gives_the_numbers() -> None:
    cache = Reported()
    limits = MemoryConnectionLimits(100, None, 90.0, cache)
    limits.check_memory_limits()
    cache.process_bytes = 101
    with pytest.raises(rcmgr.MemoryUsageLimitExceeded, match="101 bytes > 100 bytes"):
        limits.check_memory_limits(force_refresh=True)
    cache.process_bytes, cache.system_percent = 0, 90.0
    with pytest.raises(SystemMemoryLimitExceeded) as caught:
        limits.check_memory_limits(force_refresh=True)
    assert str(caught.value) == "System memory limit exceeded: 900 bytes > 900 bytes"
    assert caught.value.setting == "MemoryConnectionLimits.max_system_memory_percent"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    cache.system_percent = 89.9
    limits.check_memory_limits(force_refresh=True)


def test_unknown_memory_refuses_nothing() -> None:
    class Failing(Reported):
        def get_memory_stats(self, force_refresh: bool = False) -> MemoryStats:
            raise psutil.AccessDenied

    class FailingForTheSystem(Failing):
        def get_process_memory_bytes(self, force_refresh: bool = False) -> int:
            return 1

    with pytest.warns(UnknownMemoryWarning, match="of this process cannot be read"):
        MemoryConnectionLimits(1, None, 1.0, Failing()).check_memory_limits()
    with pytest.warns(UnknownMemoryWarning, match="max_system_memory_percent refuses nothing"):
        MemoryConnectionLimits(1, None, 1.0, FailingForTheSystem()).check_memory_limits()


def test_summaries() -> None:
    stock, ours = StockLimits(5, 6.0, 7.0), MemoryConnectionLimits(5, 6.0, 7.0)
    assert isinstance(ours, StockLimits)
    assert isinstance(ours, rcmgr.MemoryConnectionLimits)
    assert ours.get_limits_summary() == stock.get_limits_summary()
    assert str(ours) == repr(ours) == str(stock)
    assert hash(ours) == hash(stock)
    theirs, mine = (limits.get_memory_summary() for limits in (stock, ours))
    assert theirs.keys() == mine.keys()
    assert theirs["current"].keys() == mine["current"].keys()  # type: ignore[attr-defined]
    assert ours.get_current_memory_stats().process_memory_bytes > 0
    assert dataclasses.replace(ours, max_process_memory_bytes=8).max_process_memory_bytes == 8
    copied = copy.deepcopy(ours)
    assert copied == ours
    copied.max_process_memory_bytes = 9
    assert ours.max_process_memory_bytes == 5


def test_the_lower_of_bytes_and_percent_applies() -> None:
    total = rcmgr.memory_report().total_bytes
    assert MemoryConnectionLimits(1000, 50.0).max_allowed_bytes == 1000
    assert MemoryConnectionLimits(None, 50.0).max_allowed_bytes == total // 2
    assert MemoryConnectionLimits(None, None, 50.0).max_allowed_bytes is None


def test_the_default_limits_the_process_only() -> None:
    """Other processes would decide with 0.8.1's default of 90 % of the system. It must be given."""
    assert StockManager().memory_limits.max_system_memory_percent == 90.0
    ours: Any = ResourceManager().memory_limits
    assert ours.get_limits_summary() == {
        "max_process_memory_bytes": None, "max_process_memory_percent": 80.0,
        "max_system_memory_percent": None, "has_limits_configured": True,
    }
    given = ResourceManager(memory_limits=new_memory_connection_limits_with_defaults())
    assert given.memory_limits.max_system_memory_percent == 90.0
    with pytest.raises(TypeError, match="memory_limits must be MemoryConnectionLimits, not 5"):
        ResourceManager(memory_limits=5)


def test_limits_of_a_node_are_the_default() -> None:
    node = rcmgr.NodeLimits(memory=rcmgr.ProcessMemoryLimits(max_bytes=7, max_percentage=0.5))
    limits: Any = ResourceManager(node).memory_limits
    assert (limits.max_process_memory_bytes, limits.max_process_memory_percent) == (7, 50.0)
    given = ResourceManager(node, memory_limits=MemoryConnectionLimits(8))
    assert given.memory_limits.max_process_memory_bytes == 8
    assert ResourceManager(rcmgr.NodeLimits()).memory_limits is None


def test_the_global_cache_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_stats, "_global_memory_cache", None)
    memory_stats.set_global_memory_cache(Reported(process=77))
    limits = MemoryConnectionLimits(76)
    with pytest.raises(ResourceLimitExceeded, match="77 bytes > 76 bytes"):
        limits.check_memory_limits()


def test_the_measure_of_a_limits_file_decides_what_counts() -> None:
    manager = ResourceManager()
    manager.node_limits = dataclasses.replace(
        manager.node_limits, memory=rcmgr.ProcessMemoryLimits(10**15, measure="anonymous"))
    assert manager.node_limits.memory.measure == "anonymous"
    assert manager.memory_limits._stats is default_cache("anonymous")


@pytest.mark.parametrize("value", [float("nan"), 0, -1, "much", None, [], float("inf")], ids=repr)
@pytest.mark.parametrize("field", ["total", "available", "percent"])
def test_a_system_memory_that_is_nonsense_never_refuses(
    field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"total": 1000, "available": 500, "percent": 50.0, field: value}

    class Memory:
        total, available, percent = numbers.values()

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    # The cache of libp2p would show these numbers to other tests for a second.
    monkeypatch.setattr("libp2p.rcmgr.memory_stats._global_memory_cache", None)
    limits = MemoryConnectionLimits(max_system_memory_percent=60.0)
    manager = ResourceManager(memory_limits=limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert admits(manager) or (field, value) == ("percent", float("inf"))
