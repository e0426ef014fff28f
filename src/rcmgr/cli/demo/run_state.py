"""The state of one run of the demo. The scenario changes it, and the screen shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rcmgr.limits.node import NodeLimits

from .limit_rows import MeasuredManager, Row
from .processes import Visitor
from .swarm_view import SwarmView
from .visit import HONEST, NEWCOMERS

__all__ = ["Check", "DemoOptions", "Run", "Visited"]


@dataclass(frozen=True)
class DemoOptions:
    """The options of the command line."""

    seconds: float
    attackers: int
    limits: NodeLimits
    stock: bool
    metrics_port: int | None = None
    record: Path | None = None


@dataclass(frozen=True)
class Check:
    """One condition of the verdict. `detail` says what was measured."""

    what: str
    held: bool
    detail: str


class Visited(Protocol):
    """The honest peer, the newcomers and the attackers of a host."""

    honest: Visitor
    newcomers: Visitor
    attackers: list[Visitor]

    def served(self) -> tuple[int, int]: ...


@dataclass
class Run:
    """One run: its options, its visitors, and the results so far."""

    options: DemoOptions
    manager: MeasuredManager
    view: SwarmView
    host_id: str = ""
    port: int = 0
    phase: str = "starting"
    elapsed: float = 0.0
    """Seconds of attack."""
    signal: int | None = None
    """The signal that ended the attack early."""
    start_error: str | None = None
    """The reason why the attack could not start."""
    honest: Visitor = field(default_factory=lambda: Visitor(HONEST))
    newcomers: Visitor = field(default_factory=lambda: Visitor(NEWCOMERS))
    attackers: list[Visitor] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def visitors(self) -> list[Visitor]:
        return [self.honest, self.newcomers, *self.attackers]

    def rows(self) -> list[Row]:
        return self.manager.rows()

    def ping(self) -> tuple[float, float] | None:
        """Median and 99th percentile of the honest peer's pings, in milliseconds."""
        return median_and_p99(self.honest.pings_ms)

    def served(self) -> tuple[int, int]:
        """How many newcomers the host served, and how many came."""
        return len(self.newcomers.pings_ms), self.newcomers.came

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.held for check in self.checks)


def median_and_p99(pings_ms: list[float]) -> tuple[float, float] | None:
    ordered = sorted(pings_ms)
    return (nearest_rank(ordered, 0.5), nearest_rank(ordered, 0.99)) if ordered else None


def nearest_rank(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
