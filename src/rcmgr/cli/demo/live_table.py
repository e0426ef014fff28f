"""The demo in a terminal: a table that redraws in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import visit
from .run_text import (
    attackers_by_role,
    headline,
    honest_peer_line,
    label,
    limit_text,
    phase_line,
    verdict_lines,
)

if TYPE_CHECKING:
    from .limit_rows import Row
    from .run_state import Run

__all__ = ["LiveTable"]

BAR_WIDTH = 14

WHAT_THEY_DO = {
    visit.HALF_OPEN: "never finishes a handshake",
    visit.IDENTITIES: "many peers, in and out",
    visit.ONE_IDENTITY: "connection after connection",
    visit.STREAMS: "stream after stream",
    visit.MEMORY: "sends data that the host keeps",
}


class LiveTable:
    """Redraws the table in place. At the end, the table stays and the verdict follows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, run: Run) -> None:
        self._live.update(self._picture(run), refresh=True)

    def summary(self, run: Run, status: int) -> None:
        self._live.stop()
        verdict = Table.grid(padding=(0, 1))
        verdict.add_column(justify="right", min_width=7)
        verdict.add_column()
        for mark, line in verdict_lines(run, status):
            style = {"ok": "green", "FAILED": "bold red"}.get(mark, "dim")
            verdict.add_row(Text(mark, style), line)
        self._console.print(self._picture(run), "", verdict)

    def _picture(self, run: Run) -> Group:
        facts = (
            Text.assemble((" honest peer: ", "dim"), honest_peer_line(run)),
            Text.assemble((" last denial: ", "dim"), run.manager.last_denial() or "none yet"),
        )
        title = Text.assemble((" rcmgr demo ", "bold reverse"), " ", headline(run))
        bar = "#+." if self._console.options.ascii_only else "█▒·"
        rows = [*run.rows(), run.manager.memory()]
        parts: list[Any] = [title, Text(f" {phase_line(run)}")]
        if run.phase == "under attack" and run.signal is None:
            parts.append(Text(f" Ctrl-C ends it. {run.manager.hint()}", "dim"))
        parts += ["", limits_table(rows, bar), ""]
        if run.attackers:
            parts += [attackers_table(run), ""]
        return Group(*parts, *facts)


def limits_table(rows: list[Row], bar: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("limit on", no_wrap=True)
    for name in ("now", "peak", "limit"):
        table.add_column(name, justify="right", min_width=5)
    table.add_column(f"{bar[0]} now {bar[1]} peak", width=BAR_WIDTH)
    table.add_column("admitted", justify="right", min_width=8)
    table.add_column("denied", justify="right", min_width=8)
    for row in rows:
        peak_style = "bold red" if row.passed else "yellow" if row.reached else ""
        table.add_row(
            label(row.name),
            str(row.now),
            Text(str(row.peak), peak_style),
            limit_text(row.limit),
            Text(filled(row, bar), "cyan"),
            str(row.admitted),
            Text(str(row.denied), "red" if row.denied else "dim"),
        )
    return table


def filled(row: Row, bar: str) -> str:
    """The bar of a limit: one mark up to now, the next up to the peak, the last up to the limit."""
    if not row.limit:
        return ""
    now, peak = (
        min(BAR_WIDTH, math.ceil(BAR_WIDTH * count / row.limit)) for count in (row.now, row.peak)
    )
    return bar[0] * now + bar[1] * (peak - now) + bar[2] * (BAR_WIDTH - peak)


def attackers_table(run: Run) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("attacker", no_wrap=True)
    for name in ("tried", "holding", "refused"):
        table.add_column(name, justify="right", min_width=7)
    table.add_column("")
    for role, counts in attackers_by_role(run).items():
        times = f" x{counts['processes']}" if counts["processes"] > 1 else ""
        table.add_row(
            role + times,
            *(str(counts[name]) for name in ("tried", "holding", "refused")),
            Text(WHAT_THEY_DO[role], "dim"),
        )
    return table
