"""Our limits on memory behind the names of `libp2p.rcmgr.memory_limits` 0.8.1."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from libp2p.rcmgr.memory_limits import MemoryConnectionLimits as StockLimits

from rcmgr.counting.memory_stats import MemoryStatsCache as OurCache
from rcmgr.counting.memory_stats import default_cache, warn_unknown
from rcmgr.errors import ResourceLimitExceeded
from rcmgr.gates.memory import MemoryConnectionLimits as OurLimits
from rcmgr.gates.memory import MemoryExcess
from rcmgr.libp2p.dropin.memory_stats import MemoryStatsCache
from rcmgr.limits.checks import check_limit, check_number
from rcmgr.limits.memory import ProcessMemoryLimits

__all__ = ["MemoryConnectionLimits", "SystemMemoryLimitExceeded"]


@dataclass(eq=False)
class SystemMemoryLimitExceeded(ResourceLimitExceeded):
    """The whole system used more memory than is allowed. Sizes are in bytes."""

    system_memory_bytes: int
    max_allowed_bytes: int
    connection_id: Hashable | None = None
    peer_id: Hashable | None = None
    address: str | None = None

    category = resource_type = "memory"

    @property
    def code(self) -> str:
        return "memory.system"

    @property
    def setting(self) -> str:
        return "MemoryConnectionLimits.max_system_memory_percent"

    def _sentence(self) -> str:
        return (
            f"System memory limit exceeded: {self.system_memory_bytes} bytes > "
            f"{self.max_allowed_bytes} bytes"
        )


class _SystemExcess(MemoryExcess):
    __slots__ = ()

    @property
    def code(self) -> str:
        return "memory.system"

    def to_error(  # type: ignore[override]
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> SystemMemoryLimitExceeded:
        return SystemMemoryLimitExceeded(
            self.process_memory_bytes, self.max_allowed_bytes, connection_id, peer_id)


class MemoryConnectionLimits(OurLimits, StockLimits):
    """`rcmgr.MemoryConnectionLimits` with py-libp2p's fields and methods.

    An attribute or a `with_...` method changes a field at any time, and the change holds at once.

    max_process_memory_bytes: 0 or more.
    max_process_memory_percent: 0 to 100, of `rcmgr.memory_report().total_bytes`.
    max_system_memory_percent: 0 to 100, of the machine's memory; all processes count.
    memory_stats_cache: where the numbers come from; default the global cache.
    None: no limit. TypeError, ValueError: a field has a wrong value; then nothing has changed.

    Unknown memory never refuses. The memory of the process is at most 100 ms old.
    """

    def __init__(
        self,
        max_process_memory_bytes: int | None = None,
        max_process_memory_percent: float | None = None,
        max_system_memory_percent: float | None = None,
        memory_stats_cache: Any = None,
    ) -> None:
        OurLimits.__init__(self, hysteresis=0)
        StockLimits.__init__(
            self, max_process_memory_bytes, max_process_memory_percent,
            max_system_memory_percent, memory_stats_cache,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "max_process_memory_bytes":
            check_limit(name, value)
            self.max_bytes = value
        elif name == "max_process_memory_percent":
            self.max_percentage = _fraction(name, value)
        elif name == "max_system_memory_percent":
            _fraction(name, value)
        elif name == "memory_stats_cache" and value is not None and self.measure == "rss":
            self._read_from(_process_memory_of(value))
        super().__setattr__(name, value)
        if name in _FIELDS:
            self._found_fine(-1)

    def check_memory_limits(self, force_refresh: bool = False) -> None:
        """ResourceLimitExceeded: more memory is used than is allowed. 10 ns if recently read."""
        if force_refresh and self.memory_stats_cache is not None:
            self.memory_stats_cache.get_memory_stats(force_refresh=True)
            self._stats.forget()
        self.check_limit()

    def _further_excess(self) -> MemoryExcess | None:
        most, cache = self.max_system_memory_percent, self.memory_stats_cache
        if most is None or cache is None:
            return None
        try:
            stats = cache.get_memory_stats()
            total = int(stats.system_memory_total)
            used = total - int(stats.system_memory_available)
            is_above = total > 0 and stats.system_memory_percent >= most
        except Exception as error:  # noqa: BLE001 (the warning names it)
            warn_unknown(f"max_system_memory_percent refuses nothing: {error!r}")
            return None
        return _SystemExcess(used, int(total * most / 100)) if is_above else None

    @classmethod
    def of(cls, limits: ProcessMemoryLimits) -> MemoryConnectionLimits:
        return cls().with_limits(limits)

    def with_limits(self, limits: ProcessMemoryLimits) -> MemoryConnectionLimits:
        share = limits.max_percentage
        changed = MemoryConnectionLimits(
            limits.max_bytes, None if share is None else 100 * share,
            self.max_system_memory_percent, self.memory_stats_cache)
        changed._set_limits(limits)
        if limits.measure != "rss":  # py-libp2p's caches have no other measure
            changed._read_from(default_cache(limits.measure))
        return changed

    __repr__ = StockLimits.__str__


_NEXT_TO_NOTHING = 5e-324  # as a fraction of any memory, it is 0 bytes
_FIELDS = frozenset(StockLimits.__dataclass_fields__)


def _fraction(name: str, percent: Any) -> float | None:
    if percent is None:
        return None
    check_number(name, percent, 0, 100)
    return float(percent) / 100 or _NEXT_TO_NOTHING


def _process_memory_of(cache: Any) -> OurCache:
    """The cache that our limits read: the one inside our cache, or a probe of another cache."""
    if isinstance(cache, MemoryStatsCache):
        return cache.process

    def used() -> int:
        return int(cache.get_process_memory_bytes())

    return OurCache(probe=used)
