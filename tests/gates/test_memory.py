"""The gate for memory, alone and in a manager."""

from __future__ import annotations

import mmap
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from programs import check

from rcmgr import (
    ConnectionLifecycleManager,
    ConnectionLimits,
    ConnectionTracker,
    MemoryConnectionLimits,
    MemoryStatsCache,
    MemoryUsageLimitExceeded,
    ProcessMemoryLimits,
    ResourceManager,
    total_memory,
)
from rcmgr.counting.memory_stats import default_cache, read_memory_usage
from rcmgr.gates.memory import _Trimmer
from rcmgr.limits.machine import _Total

PEER = b"\x00\x25" + bytes(36)
OTHER = b"\x00\x25" + bytes(35) + b"\x01"


class Memory:
    """A process whose memory use the test sets."""

    def __init__(self, used: int | None = 0) -> None:
        self.used = used
        self.cache = MemoryStatsCache(0, probe=lambda: self.used)


def limits_of(memory: Memory, *args: object, **kwargs: object) -> MemoryConnectionLimits:
    kwargs.setdefault("total", lambda: 1_000)
    return MemoryConnectionLimits(*args, cache=memory.cache, **kwargs)  # type: ignore[arg-type]


def test_only_more_than_the_limit_is_denied() -> None:
    memory = Memory(100)
    limits = limits_of(memory, 100)
    limits.check_limit()
    memory.used = 101
    with pytest.raises(MemoryUsageLimitExceeded) as caught:
        limits.check_limit()
    error = caught.value
    assert (error.process_memory_bytes, error.max_allowed_bytes) == (101, 100)
    assert str(error) == "Memory usage limit exceeded: 101 bytes > 100 bytes (101.0%)"
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)


def test_a_fraction_of_the_total_and_the_tighter_of_both() -> None:
    memory = Memory()
    assert limits_of(memory, None, 0.25).max_allowed_bytes == 250
    assert limits_of(memory, 300, 0.25).max_allowed_bytes == 250
    assert limits_of(memory, 200, 0.25).max_allowed_bytes == 200
    assert limits_of(memory, None, 1).max_allowed_bytes == 1_000
    assert limits_of(memory).max_allowed_bytes is None
    limits_of(Memory(10**15)).check_limit()


def test_with_makes_another_and_keeps_the_rest() -> None:
    memory = Memory(500)
    limits = limits_of(memory, 100, hysteresis=0.5, deny_new_peers_above=0.5)
    other = limits.with_max_bytes(None).with_max_percentage(0.6)
    assert (limits.max_allowed_bytes, other.max_allowed_bytes) == (100, 600)
    assert (other.hysteresis, other.deny_new_peers_above) == (0.5, 0.5)
    other.check_limit()


def test_a_node_at_the_edge_does_not_flap() -> None:
    memory = Memory(1_001)
    limits = limits_of(memory, 1_000, hysteresis=0.1)
    assert limits.excess() is not None
    for used, refused in ((1_000, True), (901, True), (900, False), (1_000, False), (1_001, True)):
        memory.used = used
        assert (limits.excess() is not None) == refused, used


def test_above_the_soft_mark_only_new_peers_are_refused() -> None:
    memory = Memory(850)
    limits = limits_of(memory, 1_000, deny_new_peers_above=0.8, hysteresis=0)
    assert limits.excess() is None
    assert limits.excess(new_peer=True) == (850, 800, "deny_new_peers_above", None)
    memory.used = 800
    assert limits.excess(new_peer=True) is None
    memory.used = 1_001
    assert limits.excess() == (1_001, 1_000, "max_bytes", None)


def test_pressure_refuses_new_peers() -> None:
    memory = Memory(10)
    for pressure, refused in ((10.0, False), (10.1, True), (None, False)):
        limits = limits_of(memory, 1_000, max_pressure=10, pressure=lambda p=pressure: p)
        assert (limits.excess(new_peer=True) is not None) == refused
        assert limits.excess() is None
    without_a_limit = limits_of(memory, max_pressure=10, pressure=lambda: 50.0)
    assert without_a_limit.excess(new_peer=True) is not None


def test_pressure_is_read_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, pressures = [1000.0], [50.0, 5.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    limits = limits_of(Memory(10), 1_000, max_pressure=10, pressure=lambda: pressures.pop(0))
    for _ in range(3):
        assert limits.excess(new_peer=True) is not None
    seconds[0] += 1.0
    for _ in range(3):
        assert limits.excess(new_peer=True) is None
    assert pressures == []


def test_unknown_memory_never_denies() -> None:
    memory = Memory(None)
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        limits_of(memory, 0).check_limit()


def test_the_manager_asks_before_connections_and_reservations() -> None:
    memory = Memory(1_001)
    manager = ResourceManager(allowlist=[OTHER], memory_limits=limits_of(memory, 1_000))
    for direction in ("inbound", "outbound"):
        assert manager.open_connection(None, direction=direction) is None
        assert manager.open_connection(PEER, direction=direction) is None
        assert manager.open_connection(OTHER, direction=direction) is not None
    assert not manager.acquire_memory(1)
    assert manager.get_stats()["denied"] == {"memory_usage": 5}
    assert isinstance(manager.last_denial, MemoryUsageLimitExceeded)
    assert manager.get_stats()["memory_bytes"] == 0
    memory.used = 500
    assert manager.open_connection(None) is not None
    assert manager.acquire_memory(1)


def test_the_manager_lets_known_peers_in_above_the_soft_mark() -> None:
    memory = Memory(100)
    limits = limits_of(memory, 1_000, deny_new_peers_above=0.5)
    manager = ResourceManager(allowlist=[OTHER], memory_limits=limits)
    first = manager.open_connection(PEER)
    assert first is not None
    memory.used = 600
    pending = manager.open_connection(None)
    assert pending is not None  # its peer is not known yet
    second = manager.open_connection(PEER)
    assert second is not None
    assert manager.open_connection(b"\x00\x25" + b"n" * 36) is None
    assert manager.open_connection(OTHER) is not None
    assert manager.get_stats()["denied"] == {"memory_usage": 1}


def test_a_new_peer_is_asked_about_while_the_last_reading_holds() -> None:
    cache = MemoryStatsCache(3600, probe=lambda: 600)
    limits = MemoryConnectionLimits(1_000, deny_new_peers_above=0.5, cache=cache)
    assert limits.excess() is None
    assert limits.is_fine()
    manager = ResourceManager(memory_limits=limits)
    assert manager.open_connection(None) is not None
    assert manager.open_connection(PEER, direction="outbound") is None
    assert not manager.acquire_connection(PEER)
    assert cache.refreshes == 1


async def test_a_quic_connection_that_is_refused_for_memory_holds_nothing() -> None:
    """The handler admits it before the swarm asks for a scope."""
    memory = Memory(2_000)
    manager = ResourceManager(memory_limits=limits_of(memory, 1_000))
    await manager.connection_lifecycle.handle_established_inbound_connection("1", PEER)
    assert manager.open_connection(PEER) is None
    assert manager.get_stats()["connections"] == 0


async def test_refusals_are_counted_for_every_caller() -> None:
    manager = ResourceManager(memory_limits=limits_of(Memory(2_000), 1_000))
    with pytest.raises(MemoryUsageLimitExceeded):
        await manager.connection_lifecycle.handle_pending_inbound_connection("1")
    assert manager.open_connection(None) is None
    assert not manager.acquire_memory(1)
    assert manager.get_stats()["denied"] == {"memory_usage": 3}
    assert len(manager.denials) == 3


@pytest.mark.parametrize(("size", "error"), [(-5, ValueError), ("x", TypeError), (1.5, TypeError)])
def test_a_wrong_size_is_an_error_above_the_limit_too(
    size: object, error: type[Exception]
) -> None:
    manager = ResourceManager(memory_limits=limits_of(Memory(2_000), 1_000))
    with pytest.raises(error):
        manager.acquire_memory(size)  # type: ignore[arg-type]
    assert len(manager.denials) == 0


async def test_the_lifecycle_asks_before_pending_connections() -> None:
    memory = Memory(2_000)
    tracker = ConnectionTracker()
    tracker.add_bypass_peer(OTHER)
    lifecycle = ConnectionLifecycleManager(
        tracker, ConnectionLimits(), limits_of(memory, 1_000))
    with pytest.raises(MemoryUsageLimitExceeded):
        await lifecycle.handle_pending_inbound_connection("1")
    with pytest.raises(MemoryUsageLimitExceeded):
        await lifecycle.handle_pending_outbound_connection("2", PEER)
    assert len(tracker) == 0
    assert len(lifecycle.denials) == 2
    await lifecycle.handle_pending_outbound_connection("3", OTHER)
    memory.used = 100
    await lifecycle.handle_pending_inbound_connection("1")
    assert len(tracker) == 2


def test_a_reading_is_judged_once() -> None:
    """A result within the limits holds until the next reading."""
    now = [0]
    used = [100]
    cache = MemoryStatsCache(0.1, clock=lambda: now[0], probe=lambda: used[0])
    limits = MemoryConnectionLimits(1_000, cache=cache)
    limits.check_limit()
    assert limits.is_fine()
    used[0] = 2_000
    limits.check_limit()
    cache.force_refresh()
    assert not limits.is_fine()
    with pytest.raises(MemoryUsageLimitExceeded):
        limits.check_limit()
    used[0] = 100
    now[0] += 100_000_000
    limits.check_limit()
    used[0] = 2_000
    now[0] += 100_000_000
    with pytest.raises(MemoryUsageLimitExceeded):
        limits.check_limit()


def test_a_reading_during_a_check_is_checked_too() -> None:
    used = [100]
    cache = MemoryStatsCache(0.1, clock=lambda: 0, probe=lambda: used[0])

    def total() -> int:
        """Another thread reads between the old value and its check."""
        used[0] = 2_000
        cache.force_refresh()
        return 1_000

    limits = MemoryConnectionLimits(max_percentage=1.0, cache=cache, total=total)
    limits.check_limit()
    assert not limits.is_fine()
    with pytest.raises(MemoryUsageLimitExceeded):
        limits.check_limit()


def test_set_at_run_time() -> None:
    manager = ResourceManager()
    assert manager.open_connection(None) is not None
    manager.set_memory_limits(max_bytes=1)
    assert manager.open_connection(None) is None
    with pytest.raises(ValueError, match="max_percentage"):
        manager.set_memory_limits(max_bytes=10**12, max_percentage=90)
    assert manager.open_connection(None) is None
    manager.set_memory_limits(max_percentage=1.0)
    assert manager.open_connection(None) is not None
    manager.memory_limits = None
    assert manager.open_connection(None) is not None
    with pytest.raises(TypeError, match="memory_limits must be"):
        manager.memory_limits = 5  # type: ignore[assignment]


def test_a_refusal_names_what_refused() -> None:
    memory = Memory(95)
    for arguments, limited_by in (
        ({"max_bytes": 90}, "max_bytes"),
        ({"max_percentage": 0.9}, "max_percentage"),
        ({"max_bytes": 80, "max_percentage": 0.9}, "max_bytes"),
        ({"max_bytes": 94, "max_percentage": 0.9}, "max_percentage"),
        ({"max_bytes": 100, "deny_new_peers_above": 0.9}, "deny_new_peers_above"),
        ({"max_bytes": 100, "max_pressure": 5}, "max_pressure"),
        ({"max_pressure": 5}, "max_pressure"),
    ):
        limits = limits_of(memory, **arguments, total=lambda: 100, pressure=lambda: 6.0)
        excess = limits.excess(new_peer=True)
        assert excess is not None
        assert excess.limited_by == limited_by
        error = excess.to_error("c", b"p")
        assert error.setting.startswith(f"MemoryConnectionLimits.{limited_by} ")
        assert ("tasks wait for memory" in str(error)) == (limited_by == "max_pressure")


# -- sources that fail, and memory that can be given back ---------------------------------------

def kind_of(value: object) -> str:
    return type(value).__name__


FAILURES = [KeyError("total"), IndexError(), RuntimeError(), ImportError(), ZeroDivisionError()]


@pytest.mark.parametrize("failure", FAILURES, ids=kind_of)
def test_a_total_that_cannot_be_read_never_refuses_and_is_logged_once(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def total() -> int:
        raise failure

    limits = limits_of(Memory(10**12), None, 0.5, total=total)
    limits.check_limit()
    limits.check_limit()
    assert limits.max_allowed_bytes is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("total", [0, -1, None])
def test_a_percentage_of_unknown_memory_is_no_limit(total: int | None) -> None:
    limits = limits_of(Memory(10**12), None, 0.5, total=lambda: total)
    limits.check_limit()
    both = limits_of(Memory(10**12), 100, 0.5, total=lambda: total)
    assert both.max_allowed_bytes == 100


@pytest.mark.parametrize("failure", FAILURES, ids=kind_of)
def test_a_pressure_that_cannot_be_read_never_refuses(failure: Exception) -> None:
    def pressure() -> float:
        raise failure

    limits = limits_of(Memory(1), 100, max_pressure=10, pressure=pressure)
    assert limits.excess(new_peer=True) is None


@pytest.mark.parametrize("failure", FAILURES, ids=kind_of)
def test_a_manager_admits_and_counts_right_when_no_memory_can_be_read(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> object:
        raise failure

    monkeypatch.setattr("psutil.virtual_memory", fails)
    monkeypatch.setattr("os.sysconf", lambda name: -1)
    monkeypatch.setattr("rcmgr.limits.machine._cgroup_bounds", lambda root: iter(()))
    monkeypatch.setattr("rcmgr.gates.memory.total_memory", total_memory)
    monkeypatch.setattr("rcmgr.limits.machine._total", _Total())
    manager = ResourceManager(memory_limits=MemoryConnectionLimits(None, 0.5))
    scope = manager.open_connection(None, None, "inbound")
    assert scope is not None
    scope.close()
    assert len(manager.connection_tracker) == 0
    assert manager.get_stats()["connections"] == 0


def test_the_measure_decides_what_counts() -> None:
    rss, anonymous = default_cache(), default_cache("anonymous")
    assert MemoryConnectionLimits(10**15)._stats is rss
    limits = MemoryConnectionLimits(10**15, measure="anonymous")
    assert limits._stats is anonymous
    assert limits.limits == ProcessMemoryLimits(10**15, measure="anonymous")
    assert limits.with_max_bytes(1)._stats is anonymous
    assert limits.with_limits(ProcessMemoryLimits(5))._stats is rss
    with pytest.raises(ValueError, match="measure must be one of rss, anonymous, not 'all'"):
        MemoryConnectionLimits(5, measure="all")


def test_a_refusal_by_pages_of_files_says_so(tmp_path: Path) -> None:
    size = 200 << 20
    file = tmp_path / "mapped"
    file.write_bytes(bytes(size))
    limit = read_memory_usage() + size // 2
    limits = MemoryConnectionLimits(limit, hysteresis=0)
    limits.check_limit()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        default_cache().forget()
        with pytest.raises(MemoryUsageLimitExceeded) as caught:
            limits.check_limit()
        assert caught.value.anonymous_bytes < limit
        assert 'measure = "anonymous"' in str(caught.value)
        MemoryConnectionLimits(limit, measure="anonymous").check_limit()


def test_memory_that_the_allocator_keeps_does_not_refuse_newcomers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, trims, now = Memory(200), [], [1000.0]

    def trim() -> bool:
        trims.append(now[0])
        memory.used = 50
        return True

    monkeypatch.setattr("rcmgr.gates.memory.trim_memory", trim)
    monkeypatch.setattr("rcmgr.gates.memory._trimmer", _Trimmer())
    monkeypatch.setattr("rcmgr.gates.memory.time.monotonic", lambda: now[0])
    limits = limits_of(memory, 100)
    limits.check_limit()
    assert trims == [1000.0]
    memory.used = 200
    for at in (1001.0, 1009.9):
        now[0] = at
        with pytest.raises(MemoryUsageLimitExceeded):
            limits.check_limit()
    assert trims == [1000.0]
    now[0] = 1010.0
    limits.check_limit()
    assert trims == [1000.0, 1010.0]


def test_a_slow_trim_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, trims, now = Memory(200), [], [0.0]

    def trim() -> bool:
        trims.append(now[0])
        now[0] += 0.5
        return True

    monkeypatch.setattr("rcmgr.gates.memory.trim_memory", trim)
    monkeypatch.setattr("rcmgr.gates.memory._trimmer", _Trimmer())
    monkeypatch.setattr("rcmgr.gates.memory.time.monotonic", lambda: now[0])
    limits = limits_of(memory, 100)
    for second in range(0, 101, 5):
        now[0] = max(now[0], float(second))
        assert limits.excess() is not None
    assert trims == [0.0, 50.0, 100.0]


def test_all_limits_of_a_process_share_one_time_to_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    monkeypatch.setattr("rcmgr.gates.memory.trim_memory", lambda: trims.append(1))
    monkeypatch.setattr("rcmgr.gates.memory._trimmer", _Trimmer())
    limits = limits_of(Memory(200), 100)
    for each in (limits, limits.with_max_bytes(90), limits_of(Memory(200), 100)):
        assert each.excess() is not None
    assert trims == [1]


def test_the_measure_changes_only_with_a_copy() -> None:
    limits = MemoryConnectionLimits(5)
    with pytest.raises(AttributeError):
        limits.measure = "anonymous"  # type: ignore[misc]
    assert limits.measure == "rss"


# -- sources that give nonsense ------------------------------------------------------------------

NONSENSE: list[Any] = [
    float("nan"), float("inf"), float("-inf"), -5, 0, "much", b"1", [], object(), 1j, None]


@pytest.mark.parametrize("value", NONSENSE, ids=kind_of)
def test_a_source_that_gives_nonsense_never_refuses(value: Any) -> None:
    limits = limits_of(
        Memory(10**12), None, 0.5, max_pressure=1, total=lambda: value, pressure=lambda: value)
    manager = ResourceManager(memory_limits=limits)
    for peer in (None, b"\x12\x20" + bytes(32)):
        scope = manager.open_connection(peer, None, "inbound")
        assert scope is not None
        scope.close()
    assert manager.acquire_memory(1)
    assert manager.get_stats()["denied"] == {}
    assert manager.explain()
    assert manager.connection_tracker.snapshot().pending_inbound == 0


@pytest.mark.parametrize("value", [*NONSENSE[:-1], True, 10**30], ids=kind_of)
def test_a_psutil_that_gives_nonsense_never_refuses(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        total = value

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    monkeypatch.setattr("os.sysconf", lambda name: -1)
    monkeypatch.setattr("rcmgr.limits.machine._cgroup_bounds", lambda root: iter(()))
    limits = MemoryConnectionLimits(None, 0.9999, total=_Total())
    if value is True:
        assert limits.max_allowed_bytes in (0, 1)  # a machine of one byte, as psutil says
        return
    manager = ResourceManager(memory_limits=limits)
    assert manager.open_connection(None, None, "inbound") is not None


@pytest.mark.parametrize("platform", [sys.platform, "freebsd14"])
def test_a_node_without_psutil(platform: str) -> None:
    """Only systems without our own reader need it."""
    check(f"""
        import sys
        sys.platform = {platform!r}
        sys.modules["psutil"] = None
        import rcmgr
        assert rcmgr.total_memory() > 0
        assert rcmgr.memory_report().resident > 0
        limits = rcmgr.MemoryConnectionLimits(10**15, 0.99)
        manager = rcmgr.ResourceManager(memory_limits=limits)
        assert manager.open_connection(None, None, "inbound") is not None
    """)
