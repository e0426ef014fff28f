"""libp2p's cache of memory figures and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import copy
import gc
import os
import time
from typing import Any

import psutil
import pytest
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.memory_stats import MemoryStatsCache as StockCache

import rcmgr
from rcmgr.libp2p.dropin.manager import ResourceManager
from rcmgr.libp2p.dropin.memory_stats import MemoryStatsCache

MIB = 1 << 20


def test_a_forked_child_reads_its_own_memory() -> None:
    """0.8.1 keeps an object of the parent's process."""
    stock, ours = StockCache(0), MemoryStatsCache(0)
    for cache in (stock, ours):
        cache.get_memory_stats()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ballast = bytearray(os.urandom(1)) * (320 * MIB)
            parent = psutil.Process(os.getppid()).memory_info().rss
            own = psutil.Process().memory_info().rss
            found = [
                abs(cache.get_process_memory_bytes(force_refresh=True) - own) < 20 * MIB
                for cache in (stock, ours)
            ]
            os.write(send, bytes([*found, own - parent > 40 * MIB, len(ballast) > 0]))
            status = 0
        finally:
            os._exit(status)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert list(said) == [False, True, True, True]


def test_r11_the_age_of_figures_is_monotonic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stock, ours = StockCache(1.0), MemoryStatsCache(1.0)
    known = [cache.get_memory_stats() for cache in (stock, ours)]
    now, tick = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now - 3600)  # an hour back
    monkeypatch.setattr(time, "monotonic", lambda: tick + 60)
    assert stock.get_memory_stats() is known[0]  # and will be for an hour
    assert ours.get_memory_stats() is not known[1]


def test_both_caches_report_the_same() -> None:
    gc.collect()
    stock, ours = StockCache(0), MemoryStatsCache(0)
    assert isinstance(ours, StockCache)
    theirs, mine = stock.get_memory_stats(), ours.get_memory_stats()
    assert mine.process_memory_bytes == pytest.approx(theirs.process_memory_bytes, abs=8 * MIB)
    assert mine.system_memory_total == theirs.system_memory_total
    assert mine.system_memory_percent == pytest.approx(theirs.system_memory_percent, abs=20)
    assert mine.timestamp == pytest.approx(theirs.timestamp, abs=30)
    assert ours.get_memory_summary().keys() == stock.get_memory_summary().keys()
    for name in ("process_memory_bytes", "process_memory_percent", "system_memory_total",
                 "system_memory_available", "system_memory_percent"):
        assert type(getattr(ours, f"get_{name}")()) is type(getattr(stock, f"get_{name}")())
    assert ours.is_memory_available(1)
    assert not ours.is_memory_available(1 << 60)


def test_the_percentage_is_of_the_containers_limit() -> None:
    stats = MemoryStatsCache().get_memory_stats()
    assert stats.process_memory_percent == pytest.approx(
        100 * stats.process_memory_bytes / rcmgr.memory_report().total_bytes)


def test_figures_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    tick = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: tick)
    cache = MemoryStatsCache(10.0)
    known = cache.get_memory_stats()
    tick += 9.9
    assert cache.get_memory_stats() is known
    assert cache.get_memory_stats(force_refresh=True) is not known
    known = cache.get_memory_stats()
    tick += 10.1
    assert cache.get_memory_stats() is not known
    known = cache.get_memory_stats()
    cache.clear_cache()
    assert cache.get_memory_stats() is not known
    later = cache.get_memory_summary()["cache_age"]
    time.sleep(0.02)
    assert cache.get_memory_summary()["cache_age"] > later  # type: ignore[operator]
    assert cache.get_memory_summary()["timestamp"] == cache.get_memory_stats().timestamp


def test_force_refresh_reads_again() -> None:
    cache = MemoryStatsCache(3600)
    before = cache.get_process_memory_bytes()
    ballast = bytearray(os.urandom(1)) * (64 * MIB)
    assert cache.get_process_memory_bytes() == before
    assert cache.get_process_memory_bytes(force_refresh=True) > before + 32 * MIB
    del ballast


def test_a_manager_shows_its_memory() -> None:
    for manager in (StockManager(), ResourceManager()):
        cache: Any = manager.memory_stats_cache
        assert isinstance(cache, StockCache)
        assert cache.get_process_memory_bytes() > MIB
        assert cache == copy.copy(cache)
        manager.memory_limits.check_memory_limits()
