"""The rows of the demo's table: one limit each, and what a manager must report for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rcmgr.counting.memory_stats import read_memory_usage
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.limits.memory import ProcessMemoryLimits

from .limits import MEMORY_GROWTH

if TYPE_CHECKING:
    from libp2p.abc import IHost

__all__ = ["MeasuredManager", "ProcessMemory", "Row"]

MEMORY_SLACK = 16
"""MiB. A memory limit uses a number up to 100 ms old, and this much may arrive in that time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One limit. `admitted` and `denied` are totals since the start."""

    name: str
    now: int
    peak: int
    limit: int | None
    admitted: int
    denied: int
    slack: int = 0
    """How far a peak may pass a limit that uses slightly old numbers."""

    @property
    def reached(self) -> bool:
        return self.limit is not None and self.peak >= self.limit

    @property
    def passed(self) -> bool:
        return self.limit is not None and self.peak > self.limit + self.slack


class ProcessMemory:
    """The memory of this process in MiB.

    Without a limit in `limits`, it is `MEMORY_GROWTH` above the first measurement.
    """

    def __init__(self, limits: ProcessMemoryLimits) -> None:
        self._limits = limits
        self._limit: int | None = None
        self._peak = 0

    @property
    def limit(self) -> int:
        if self._limit is None:
            most = MemoryConnectionLimits.of(self._limits).max_allowed_bytes
            self._limit = mebibytes_used() + MEMORY_GROWTH if most is None else most >> 20
        return self._limit

    def measure(self, admitted: int, denied: int) -> Row:
        """The row of the memory limit, with how often it admitted and denied."""
        limit = self.limit
        now = mebibytes_used()
        self._peak = max(self._peak, now)
        return Row("memory", now, self._peak, limit, admitted, denied, slack=MEMORY_SLACK)


def mebibytes_used() -> int:
    return (read_memory_usage() or 0) >> 20


class MeasuredManager(Protocol):
    """A resource manager under attack, and its numbers for the table."""

    title: str
    memory_admitted: int
    """Reservations of memory that the manager granted."""

    @property
    def manager(self) -> Any: ...

    def rows(self) -> list[Row]: ...

    def attach(self, host: IHost) -> None:
        """Called with the host, which already uses the manager, before the host runs."""

    def close(self) -> None:
        """Called after the run."""

    def hint(self) -> str:
        """A sentence on other commands that show the host; "" without such commands."""

    def limit_memory(self) -> None:
        """Start to limit the growth of the process."""

    def memory(self) -> Row:
        """The memory of the process. It is not in `rows`, because it never falls back to zero."""

    def last_denial(self) -> str | None: ...

    def remarks(self) -> list[str]:
        """Sentences that a reader of the rows needs."""
