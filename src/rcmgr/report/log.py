"""Log lines about denials: so few that a flood fills no disk.

The logger is `rcmgr`. At WARNING it says at most once in ten seconds for each limit how often this
limit refused. At DEBUG it also has a line for each denial.
"""

from __future__ import annotations

import logging

from rcmgr.counting.denials import DenialLog, DenialSummary
from rcmgr.errors import ResourceLimitExceeded, printable_name

__all__ = ["log_denials"]

logger = logging.getLogger("rcmgr")


def log_denials(denials: DenialLog) -> None:
    """Log the later denials of this log."""
    denials.report_to(logger, _log_summary, _log_each)


def _log_summary(summary: DenialSummary) -> None:
    error = summary.error
    times = f"{summary.times} {'refused' if error.enforced else 'would be refused'}"
    if summary.times > 1:
        times += f" in {summary.seconds:.1f} s"
    source = "" if summary.address is None else (
        f", most from {printable_name(summary.address)} ({summary.times_at_address})")
    logger.warning("%s by %s%s; the latest: %s", times, error.code, source, error.explanation)


def _log_each(error: ResourceLimitExceeded) -> None:
    verb = "refused" if error.enforced else "would be refused"
    logger.debug("%s by %s: %s", verb, error.code, error.explanation)
