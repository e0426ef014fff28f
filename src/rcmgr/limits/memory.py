"""Limits on the memory of the whole process."""

from __future__ import annotations

from dataclasses import dataclass

from rcmgr.limits.checks import check_choice, check_fraction, check_limit, check_number
from rcmgr.limits.names import suggests_arguments
from rcmgr.limits.sizes import ByteCount

__all__ = ["ProcessMemoryLimits"]


@suggests_arguments
@dataclass(frozen=True, slots=True)
class ProcessMemoryLimits:
    """How much memory the whole process may use before new connections are refused.

    max_bytes: bytes, 0 or more.
    max_percentage: a fraction of `total_memory()`, above 0 and up to 1 (0.9 is ninety percent, as
        in rust-libp2p's memory-connection-limits).
    The tighter of the two holds; None: no limit. `used > limit` refuses, as in the crate.

    Beyond the crate:
    deny_new_peers_above: a fraction of the limit, above 0 and below 1. Above this mark, only peers
        that hold a connection are admitted. None: no mark.
    hysteresis: after a refusal, use must fall this fraction below the mark before the next
        admission, 0 to below 1. So a node near a mark does not switch to and fro.
    max_pressure: percent of the last 10 s that tasks waited for memory (`memory_pressure`), 0 to
        100. Above it, new peers are refused as well. None: do not ask.
    measure: the memory that counts. "rss": all resident memory, as in the crate. "anonymous": only
        memory that the kernel cannot drop, without the clean pages of mapped files. A node that
        maps large files (a database, a block store) needs "anonymous".

    TypeError, ValueError: a field has a wrong value; the message names both.
    """

    max_bytes: ByteCount | None = None
    max_percentage: float | None = None
    deny_new_peers_above: float | None = None
    hysteresis: float = 0.02
    max_pressure: float | None = None
    measure: str = "rss"

    def __post_init__(self) -> None:
        check_limit("max_bytes", self.max_bytes)
        check_fraction("max_percentage", self.max_percentage)
        check_fraction("deny_new_peers_above", self.deny_new_peers_above, below_one=True)
        if self.hysteresis != 0:
            check_fraction("hysteresis", self.hysteresis, below_one=True)
        if self.max_pressure is not None:
            check_number("max_pressure", self.max_pressure, 0, 100)
        check_choice("measure", self.measure, ("rss", "anonymous"))
