"""The demo in a pipe: one line or one JSON object per second."""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .run_state import median_and_p99
from .run_text import (
    attackers_by_role,
    headline,
    honest_peer_line,
    label,
    limit_text,
    newcomers_line,
    phase_line,
    verdict_lines,
)

if TYPE_CHECKING:
    from .limit_rows import Row
    from .run_state import Run

__all__ = ["JsonLines", "PlainLines"]

LINE_EVERY_S = 1.0
COLUMNS = 80


class PlainLines:
    """Prints one line per second, and the table at the end."""

    HEAD = (
        "    s       pending                 established    all streams denied  ping  MiB",
        "          in    out     in    out   peer  total                          ms",
    )

    def __init__(self) -> None:
        self._next = 0.0
        self._started = False

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, run: Run) -> None:
        if not self._started and run.port:
            self._started = True
            click.echo(f"rcmgr demo: {headline(run)}")
            click.echo("Each line: now/limit, denials, median ping, memory of the host.")
            hint = textwrap.fill(run.manager.hint(), COLUMNS)
            click.echo(f"{hint}\n" if hint else "")
            for line in self.HEAD:
                click.echo(line)
        if run.phase == "under attack" and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            click.echo(self._line(run))

    @staticmethod
    def _line(run: Run) -> str:
        rows, ping = run.rows(), run.ping()
        # a line has 80 columns, which is too few for all rows
        shown = [row for row in rows if row.name not in ("transient_streams", "streams_per_peer")]
        cells = [f"{row.now}/{limit_text(row.limit)}" for row in shown]
        denied = sum(row.denied for row in rows)
        return (
            f"{run.elapsed:>5.1f}"
            + "".join(f" {cell:>6}" for cell in cells)
            + f" {denied:>6} {f'{ping[0]:.1f}' if ping else '-':>6} {run.manager.memory().now:>4}"
        )

    def summary(self, run: Run, status: int) -> None:
        click.echo(f"\n{phase_line(run)}")
        click.echo(
            f"{'limit on':<22}{'now':>7}{'peak':>7}{'limit':>7}{'admitted':>10}{'denied':>10}"
        )
        for row in [*run.rows(), run.manager.memory()]:
            click.echo(
                f"{label(row.name):<22}{row.now:>7}{row.peak:>7}{limit_text(row.limit):>7}"
                f"{row.admitted:>10}{row.denied:>10}"
            )
        click.echo()
        click.echo(textwrap.fill(f"honest peer: {honest_peer_line(run)}", COLUMNS))
        click.echo(textwrap.fill(f"newcomers: {newcomers_line(run)}", COLUMNS))
        for role, counts in attackers_by_role(run).items():
            click.echo(f"{role}: {counts['tried']} tries, {counts['refused']} refused")
        denial = f"last denial: {run.manager.last_denial() or 'none'}"
        click.echo(f"{textwrap.fill(denial, COLUMNS)}\n")
        for mark, line in verdict_lines(run, status):
            indent = f"{mark:>6}  "
            click.echo(textwrap.fill(
                line, COLUMNS, initial_indent=indent, subsequent_indent=" " * 8))


class JsonLines:
    """Prints one JSON object per second. The last object is the summary."""

    def __init__(self) -> None:
        self._next = 0.0

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, run: Run) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            click.echo(json.dumps({"event": "sample", **facts(run)}))

    def summary(self, run: Run, status: int) -> None:
        click.echo(
            json.dumps(
                {
                    "event": "summary",
                    **facts(run),
                    "checks": [asdict(check) for check in run.checks],
                    "remarks": run.manager.remarks(),
                    "signal": run.signal,
                    "exit_status": status,
                }
            )
        )


def facts(run: Run) -> dict[str, Any]:
    ping, (served, came) = run.ping(), run.served()
    times = median_and_p99(run.newcomers.pings_ms)
    return {
        "manager": run.manager.title,
        "phase": run.phase,
        "elapsed_seconds": round(run.elapsed, 3),
        "limits": {row.name: without_name(row) for row in run.rows()},
        "memory_mib": without_name(run.manager.memory()),
        "honest_peer": {
            "peer_id": run.honest.peer_id,
            "pings": len(run.honest.pings_ms),
            "ping_median_ms": ping and ping[0],
            "ping_p99_ms": ping and ping[1],
            "lost": run.honest.lost or run.honest.died,
        },
        "newcomers": {
            "came": came,
            "served": served,
            "median_ms": times and times[0],
            "unmeasured": run.newcomers.unmeasured,
        },
        "attackers": {role: dict(counts) for role, counts in attackers_by_role(run).items()},
        "last_denial": run.manager.last_denial(),
    }


def without_name(row: Row) -> dict[str, int | None]:
    values = asdict(row)
    del values["name"], values["slack"]
    return values
