"""Limits on the memory of the whole process."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, replace
from typing import Any, Literal, NamedTuple

from rcmgr.counting.memory_stats import (
    MemoryGate,
    MemoryStatsCache,
    default_cache,
    trim_memory,
)
from rcmgr.errors import MemoryUsageLimitExceeded
from rcmgr.limits.machine import memory_pressure, total_memory
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.names import suggests_arguments

__all__ = ["MemoryConnectionLimits", "MemoryExcess"]

_PRESSURE_AGE_S = 1.0
_TRIM_INTERVAL_S = 10.0
_MIN_TRIM_RATIO = 100  # between two trims, in times of the last one: at most 1 % of a core

logger = logging.getLogger(__name__)


class MemoryExcess(NamedTuple):
    """Why memory refused something: the process uses more than is allowed. Falsy."""

    process_memory_bytes: int
    max_allowed_bytes: int
    limited_by: str = "max_bytes"
    anonymous_bytes: int | None = None
    """The anonymous memory, if RSS refused and this is within the limit."""

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def code(self) -> str:
        """The code of its error."""
        return "memory.process"

    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> MemoryUsageLimitExceeded:
        percentage = 100.0 * self.process_memory_bytes / max(1, self.max_allowed_bytes)
        return MemoryUsageLimitExceeded(
            self.process_memory_bytes, self.max_allowed_bytes, percentage, self.limited_by,
            connection_id, peer_id, self.anonymous_bytes,
        )


class _Trimmer:
    """Returns free memory of the process to the system, so seldom that it costs nothing."""

    def __init__(self) -> None:
        self._next = 0.0

    def trim(self) -> bool:
        """Whether the system got memory back. False also if it is too soon to try again."""
        begin = time.monotonic()
        if begin < self._next:
            return False
        self._next = begin + _TRIM_INTERVAL_S  # other threads do not trim meanwhile
        trimmed = trim_memory()
        took = time.monotonic() - begin
        self._next = begin + max(_TRIM_INTERVAL_S, took * _MIN_TRIM_RATIO)
        return trimmed


_trimmer = _Trimmer()  # all limits share it, as they share the memory of the process


@suggests_arguments
class MemoryConnectionLimits(MemoryGate):
    """No new connections while the process uses more memory than this.

    The limits are those of `ProcessMemoryLimits`.
    cache, total, pressure: the sources of the numbers; default those of this process.
    TypeError, ValueError: a limit has a wrong value; the message names both.

    Unknown memory never refuses, and a source that fails makes a number unknown. While the limit
    refuses, the allocator gives free memory back to the system (glibc only). It does so at most
    every 10 s, for at most 1 % of the time. The number is at most 100 ms old. `check_limit` costs
    10 to 20 ns, and under 3 us when it reads the memory again. Thread safe.
    """

    def __init__(
        self,
        max_bytes: int | None = None,
        max_percentage: float | None = None,
        *,
        deny_new_peers_above: float | None = None,
        hysteresis: float = 0.02,
        max_pressure: float | None = None,
        measure: str = "rss",
        cache: MemoryStatsCache | None = None,
        total: Callable[[], int | None] = total_memory,
        pressure: Callable[[], float | None] = memory_pressure,
    ) -> None:
        self._set_limits(ProcessMemoryLimits(
            max_bytes, max_percentage, deny_new_peers_above, hysteresis, max_pressure, measure))
        self._read_from(default_cache(measure) if cache is None else cache)
        self._total = total
        self._pressure = pressure
        self._pressure_now: float | None = None
        self._pressure_read_at = float("-inf")
        self._refusing = False
        self._refusing_new = False
        self._failed: set[str] = set()

    def _set_limits(self, limits: ProcessMemoryLimits) -> None:
        self.max_bytes = limits.max_bytes
        self.max_percentage = limits.max_percentage
        self.deny_new_peers_above = limits.deny_new_peers_above
        self.hysteresis = limits.hysteresis
        self.max_pressure = limits.max_pressure
        self._measure = limits.measure

    def _read_from(self, cache: MemoryStatsCache) -> None:
        self._stats = cache
        self._attach(cache)

    @property
    def measure(self) -> str:
        """The memory that counts; see `ProcessMemoryLimits`."""
        return self._measure

    @classmethod
    def of(cls, limits: ProcessMemoryLimits) -> MemoryConnectionLimits:
        """These limits on this process."""
        return cls(**asdict(limits))

    @property
    def limits(self) -> ProcessMemoryLimits:
        """The limits alone, as in `NodeLimits.memory`."""
        return ProcessMemoryLimits(
            self.max_bytes, self.max_percentage, self.deny_new_peers_above, self.hysteresis,
            self.max_pressure, self.measure)

    def with_limits(self, limits: ProcessMemoryLimits) -> MemoryConnectionLimits:
        """A copy with other limits and the same sources."""
        cache = None if self._stats is default_cache(self.measure) else self._stats
        return MemoryConnectionLimits(
            **asdict(limits), cache=cache, total=self._total, pressure=self._pressure)

    def with_max_bytes(self, max_bytes: int | None) -> MemoryConnectionLimits:
        """A copy with another `max_bytes`."""
        return self.with_limits(replace(self.limits, max_bytes=max_bytes))

    def with_max_percentage(self, max_percentage: float | None) -> MemoryConnectionLimits:
        """A copy with another `max_percentage`."""
        return self.with_limits(replace(self.limits, max_percentage=max_percentage))

    @property
    def max_allowed_bytes(self) -> int | None:
        """The limit in bytes now. None: no limit, or a percentage of unknown memory."""
        if self.max_percentage is None:
            return self.max_bytes
        total = self._read(self._total)
        if not total:
            return self.max_bytes
        share = int(self.max_percentage * total)
        return share if self.max_bytes is None else min(share, self.max_bytes)

    @property
    def process_memory_bytes(self) -> int:
        """The use of the process at the last reading."""
        return self._stats.cached_memory_bytes

    @property
    def last_refreshed(self) -> float:
        """Time of the last reading, in monotonic seconds."""
        return self._stats.last_refresh

    @property
    def max_stale_duration(self) -> float:
        """Seconds."""
        return self._stats.max_stale_duration

    def refresh_memory_stats_if_needed(self) -> None:
        """Read the memory if the last reading is older than `max_stale_duration`."""
        self._stats.refresh_if_needed()

    def _check(self) -> None:
        excess = self.excess()
        if excess is not None:
            raise excess.to_error()

    def excess(self, *, new_peer: bool = False) -> MemoryExcess | None:
        """The reason why nothing may be added now, or None.

        new_peer: ask about a peer without a connection. A manager does not ask again while the last
        reading is fresh and within the limits (`is_fine`).
        """
        if self.deny_new_peers_above is None and self.max_pressure is None:
            new_peer = False
        if not new_peer and self.is_fine():
            return None
        stats = self._stats
        stats.refresh_if_needed()
        reading = stats.refreshes  # read before the value: a later reading is judged separately
        used = stats.cached_memory_bytes
        if not stats.is_known:
            return None
        limit = self.max_allowed_bytes
        if limit is not None:
            self._refusing = used > self._mark(limit, self._refusing)
            if self._refusing and _trimmer.trim():
                stats.force_refresh()
                reading, used = stats.refreshes, stats.cached_memory_bytes
                self._refusing = used > self._mark(limit, True)
            if self._refusing:
                by_bytes = self.max_percentage is None or limit == self.max_bytes
                return MemoryExcess(
                    used, limit, "max_bytes" if by_bytes else "max_percentage",
                    self._anonymous_within(limit))
        more = self._further_excess()
        if more is not None:
            return more
        self._found_fine(reading)
        if not new_peer:
            return None
        if limit is not None and self.deny_new_peers_above is not None:
            mark = int(limit * self.deny_new_peers_above)
            self._refusing_new = used > self._mark(mark, self._refusing_new)
            if self._refusing_new:
                return MemoryExcess(used, mark, "deny_new_peers_above")
        if self.max_pressure is not None and self._is_pressed(self.max_pressure):
            return MemoryExcess(used, used if limit is None else limit, "max_pressure")
        return None

    def _further_excess(self) -> MemoryExcess | None:
        """A further refusal by a subclass. It is asked at each new reading within the limits."""
        return None

    def _mark(self, limit: int, refusing: bool) -> float:
        return limit * (1 - self.hysteresis) if refusing else limit

    def _is_pressed(self, most: float) -> bool:
        now = time.monotonic()
        if now - self._pressure_read_at >= _PRESSURE_AGE_S:
            self._pressure_now = self._read(self._pressure)
            self._pressure_read_at = now
        return self._pressure_now is not None and self._pressure_now > most

    def _read(self, source: Callable[[], Any]) -> Any:
        """The number of a source, finite and 0 or more. None: unknown.

        The first failure of a source is logged.
        """
        try:
            number = source()
            return number if number is not None and 0 <= number < math.inf else None
        except Exception:
            name = getattr(source, "__name__", repr(source))
            if name not in self._failed:
                self._failed.add(name)
                logger.warning("%s failed: a memory limit does not apply", name, exc_info=True)
            return None

    def _anonymous_within(self, limit: int) -> int | None:
        if self._stats is not default_cache():
            return None
        anonymous = default_cache("anonymous")
        used = anonymous.get_memory_usage()
        return used if anonymous.is_known and used <= limit else None

    def __repr__(self) -> str:
        return (
            f"MemoryConnectionLimits(max_bytes={self.max_bytes}, "
            f"max_percentage={self.max_percentage}, used={self.process_memory_bytes})"
        )
