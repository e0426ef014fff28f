"""Limits on the memory of the whole process."""

from __future__ import annotations

from dataclasses import dataclass

from rcmgr.limits.checks import check_fraction, check_limit

__all__ = ["ProcessMemoryLimits"]


@dataclass(frozen=True, slots=True)
class ProcessMemoryLimits:
    """What the whole process may use; the arguments of `MemoryConnectionLimits`."""

    max_bytes: int | None = None
    max_percentage: float | None = None
    """Above 0 and up to 1."""

    def __post_init__(self) -> None:
        check_limit("max_bytes", self.max_bytes)
        check_fraction("max_percentage", self.max_percentage)
