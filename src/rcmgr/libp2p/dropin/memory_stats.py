"""Our memory probe behind the names of `libp2p.rcmgr.memory_stats` 0.8.1."""

from __future__ import annotations

import time

import psutil
from libp2p.rcmgr.memory_stats import MemoryStats
from libp2p.rcmgr.memory_stats import MemoryStatsCache as StockCache

from rcmgr.counting.memory_stats import MemoryStatsCache as OurCache
from rcmgr.counting.memory_stats import default_cache
from rcmgr.limits.machine import total_memory

__all__ = ["MemoryStatsCache"]


class MemoryStatsCache(StockCache):
    """The memory of this process and of the system. Values are at most `cache_duration` old.

    cache_duration: seconds on the monotonic clock. 0 or less: read at every call.

    The percentage of the process is of the memory that it may have: the system's, or its
    container's limit if that is lower (`rcmgr.memory_report`). After a fork, the child reads its
    own memory.
    """

    def __init__(self, cache_duration: float = 1.0) -> None:
        super().__init__(cache_duration)
        shared = default_cache()
        self.process = shared
        """The memory of the process alone: at most 100 ms old, and cheaper to read."""
        if cache_duration < shared.max_stale_duration:
            self.process = OurCache(max(0.0, cache_duration))
        self._read_at = 0.0

    def get_memory_stats(self, force_refresh: bool = False) -> MemoryStats:
        """The cached values. force_refresh: read them again now."""
        with self._lock:
            now = time.monotonic()
            if (
                force_refresh
                or self._cached_stats is None
                or now - self._read_at >= self.cache_duration
            ):
                if force_refresh:
                    self.process.forget()
                self._cached_stats = self._collect_memory_stats()
                self._read_at = now
            return self._cached_stats

    def _collect_memory_stats(self) -> MemoryStats:
        used = self.process.get_memory_usage()
        system = psutil.virtual_memory()
        return MemoryStats(
            process_memory_bytes=used,
            process_memory_percent=100.0 * used / (total_memory() or system.total),
            system_memory_total=system.total,
            system_memory_available=system.available,
            system_memory_percent=system.percent,
            timestamp=time.time(),
        )

