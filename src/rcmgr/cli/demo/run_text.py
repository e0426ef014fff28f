"""The words about a run that every output of the demo uses."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .run_state import median_and_p99

if TYPE_CHECKING:
    from .run_state import Run, Visited

__all__ = [
    "attackers_by_role",
    "headline",
    "honest_peer_line",
    "label",
    "limit_text",
    "newcomers_line",
    "phase_line",
    "verdict_lines",
]


def label(name: str) -> str:
    labels = {"connections": "all connections", "memory": "memory, MiB"}
    return labels.get(name, name.replace("_", " "))


def limit_text(limit: int | None) -> str:
    return "none" if limit is None else str(limit)


def headline(run: Run) -> str:
    options = run.options
    return (
        f"guarded by {run.manager.title}, 127.0.0.1:{run.port}, {options.attackers} "
        f"attacker{'s' * (options.attackers != 1)}, {options.seconds:g} s"
    )


def phase_line(run: Run) -> str:
    if run.phase == "starting":
        ready = sum(visitor.ready for visitor in run.visitors)
        return f"starting: {ready} of {len(run.visitors)} processes are ready"
    if run.phase == "under attack":
        return f"under attack for {run.elapsed:.0f} of {run.options.seconds:g} s"
    if run.phase == "leaving":
        return "all peers leave"
    return f"over after {run.elapsed:.1f} s of attack"


def honest_peer_line(run: Run) -> str:
    honest, ping = run.honest, run.ping()
    if honest.lost is not None or honest.died is not None:
        return f"LOST: {honest.lost or honest.died}"
    if ping is None:
        return "connecting" if honest.peer_id is None else "connected"
    median, p99 = ping
    count = len(honest.pings_ms)
    return f"ping median {median:.1f} ms, 99th percentile {p99:.1f} ms, {count} pings"


def newcomers_line(run: Visited) -> str:
    newcomers, (served, came) = run.newcomers, run.served()
    if newcomers.unmeasured is not None:
        return f"not measured: {newcomers.unmeasured}"
    if not came:
        return "none came yet"
    times = median_and_p99(newcomers.pings_ms)
    took = "" if times is None else f", connected and pinged in {times[0]:.0f} ms (median)"
    return f"{served} of {came} served{took}"


def attackers_by_role(run: Run) -> dict[str, Counter[str]]:
    """The counts that the attackers report, summed for each role."""
    counts: dict[str, Counter[str]] = {}
    for visitor in run.attackers:
        counts.setdefault(visitor.role, Counter()).update(
            processes=1, tried=visitor.tried, holding=visitor.holding, refused=visitor.refused
        )
    return counts


def verdict_lines(run: Run, status: int) -> list[tuple[str, str]]:
    """(mark, sentence) for each check and remark, and the exit status."""
    lines = [
        ("ok" if check.held else "FAILED", f"{check.what}: {check.detail}.") for check in run.checks
    ]
    lines += [("note", remark) for remark in run.manager.remarks()]
    if run.signal is not None:
        when = "before" if not run.elapsed else "during"
        lines.append(("note", f"Ended by signal {run.signal} {when} the attack."))
    return [*lines, ("", f"Exit status {status}.")]
