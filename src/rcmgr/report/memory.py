"""The memory that this process may have and has, for people."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rcmgr.counting.memory_stats import read_anonymous_memory, read_memory_usage
from rcmgr.limits.machine import MemoryBound, memory_bounds, shown_size, tightest

__all__ = ["MemoryReport", "memory_report"]


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """All bounds. The smallest one applies. Prints as a few lines."""

    bounds: tuple[MemoryBound, ...]
    address_space_limit: int | None
    """RLIMIT_AS in bytes; None: no limit. It only bounds address space, so no limit uses it."""
    resident: int | None = None
    """Bytes of this process in physical memory (RSS); None: unknown."""
    anonymous: int | None = None
    """The part of it that the kernel cannot drop, in bytes; None: unknown."""

    @property
    def bound(self) -> MemoryBound | None:
        """The bound that applies; None: no bound is known."""
        return tightest(self.bounds)

    @property
    def total_bytes(self) -> int | None:
        """Bytes of the bound that applies; None: unknown."""
        return None if self.bound is None else self.bound.bytes

    def __str__(self) -> str:
        winner = self.bound
        if winner is None:
            lines = ["100 % of memory is unknown: limits in percent do not apply."]
        else:
            lines = [f"100 % of memory is {shown_size(winner.bytes)}, set by {winner.kind}."]
        for bound in sorted(self.bounds, key=lambda bound: bound.bytes):
            lines.append(f"  {'*' if bound is winner else ' '} {bound}")
        if self.address_space_limit is not None:
            size = shown_size(self.address_space_limit)
            lines.append(f"    {size}  RLIMIT_AS (address space; not applied)")
        for used, name in ((self.resident, "rss"), (self.anonymous, "anonymous")):
            if used is not None:
                lines.append(f"This process uses {shown_size(used)} ({name}).")
        return "\n".join(lines)


def memory_report(root: Path = Path("/")) -> MemoryReport:
    """The bounds on the memory of this process now, and how much it uses. About 0.3 ms.

    root: the folder of /proc and /sys, for the bounds.
    """
    return MemoryReport(
        memory_bounds(root), _address_space_limit(), read_memory_usage(), read_anonymous_memory())


def _address_space_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
