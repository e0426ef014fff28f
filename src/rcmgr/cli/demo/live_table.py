"""The demo in a terminal: a table that redraws in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rcmgr.cli.terminal import cut_off

from . import visit
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
    """Redraws the table on a separate screen. At the end, the table and the verdict stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # drawing over the last frame would leave pieces of it if the terminal was resized
        self._live = Live(console=console, auto_refresh=False, screen=True)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, run: Run) -> None:
        self._live.update(self._frame(run), refresh=True)

    def summary(self, run: Run, status: int) -> None:
        self._live.stop()
        verdict = Table.grid(padding=(0, 1))
        verdict.add_column(justify="right", min_width=7)
        verdict.add_column()
        for mark, line in verdict_lines(run, status):
            style = {"ok": "green", "FAILED": "bold red"}.get(mark, "dim")
            verdict.add_row(Text(mark, style), line)
        self._console.print(self._picture(run), "", verdict)

    def _frame(self, run: Run) -> Group:
        """The picture, without the least important parts if the terminal has too few lines."""
        frame = self._picture(run)
        if self._too_many_lines(frame) > 0:
            frame = self._picture(run, attackers=False)
        if self._too_many_lines(frame) > 0:
            frame = self._picture(run, attackers=False, spaced=False)
        if (too_many := self._too_many_lines(frame)) > 0:
            frame = self._picture(run, attackers=False, spaced=False, fewer_rows=too_many)
        return frame

    def _too_many_lines(self, frame: Group) -> int:
        return len(self._console.render_lines(frame)) - self._console.height

    def _picture(
        self, run: Run, *, attackers: bool = True, spaced: bool = True, fewer_rows: int = 0
    ) -> Group:
        width = self._console.width
        title = Text.assemble(
            (" rcmgr demo ", "bold reverse"), " ", headline(run),
            no_wrap=True, overflow=cut_off(self._console))
        bar = "#+." if self._console.options.ascii_only else "█▒·"
        rows = [*run.rows(), run.manager.memory()]
        blank = [""] if spaced else []
        parts: list[Any] = [title, Text(f" {phase_line(run)}")]
        if spaced and run.phase == "under attack" and run.signal is None:
            parts.append(Text(f" Ctrl-C ends it. {run.manager.hint()}", "dim"))
        shown = rows[:max(1, len(rows) - fewer_rows)]
        parts += [*blank, limits_table(shown, bar, width), *blank]
        if attackers and run.attackers:
            parts += [attackers_table(run, width), ""]
        parts.append(Text.assemble((" honest peer: ", "dim"), honest_peer_line(run)))
        parts.append(Text.assemble((" newcomers:   ", "dim"), newcomers_line(run)))
        denial = run.manager.last_denial() or "none yet"
        parts.append(Text.assemble(
            (" last denial: ", "dim"), denial, no_wrap=not spaced, overflow=cut_off(self._console)))
        return Group(*parts)


def limits_table(rows: list[Row], bar: str, width: int) -> Table:
    shown = fitting({
        "limit on": 22, "now": 7, "limit": 7, "denied": 10, "peak": 7, "admitted": 10,
        "bar": BAR_WIDTH + 2,
    }, width)
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("limit on", "now", "peak", "limit", "bar", "admitted", "denied"):
        if name not in shown:
            continue
        if name == "bar":
            table.add_column(f"{bar[0]} now {bar[1]} peak", width=BAR_WIDTH)
        elif name == "limit on":
            table.add_column(name, no_wrap=True)
        else:
            table.add_column(name, justify="right", no_wrap=True, min_width=shown[name] - 2)
    for row in rows:
        peak_style = "bold red" if row.passed else "yellow" if row.reached else ""
        cells: dict[str, str | Text] = {
            "limit on": label(row.name),
            "now": str(row.now),
            "peak": Text(str(row.peak), peak_style),
            "limit": limit_text(row.limit),
            "bar": Text(filled(row, bar), "cyan"),
            "admitted": str(row.admitted),
            "denied": Text(str(row.denied), "red" if row.denied else "dim"),
        }
        table.add_row(*(cell for name, cell in cells.items() if name in shown))
    return table


def fitting(widths: dict[str, int], width: int) -> dict[str, int]:
    """The first columns, in the order of their importance, that fit into a line."""
    shown: dict[str, int] = {}
    for name, needed in widths.items():
        if sum(shown.values()) + needed > width and shown:
            break
        shown[name] = needed
    return shown


def filled(row: Row, bar: str) -> str:
    """The bar of a limit: one mark up to now, the next up to the peak, the last up to the limit."""
    if not row.limit:
        return ""
    now, peak = (
        min(BAR_WIDTH, math.ceil(BAR_WIDTH * count / row.limit)) for count in (row.now, row.peak)
    )
    return bar[0] * now + bar[1] * (peak - now) + bar[2] * (BAR_WIDTH - peak)


def attackers_table(run: Run, width: int) -> Table:
    shown = fitting({"attacker": 16, "tried": 9, "refused": 9, "holding": 9, "does": 32}, width)
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("attacker", "tried", "holding", "refused", "does"):
        if name in ("attacker", "does"):
            if name in shown:
                table.add_column("" if name == "does" else name, no_wrap=True)
        elif name in shown:
            table.add_column(name, justify="right", no_wrap=True, min_width=7)
    for role, counts in attackers_by_role(run).items():
        times = f" x{counts['processes']}" if counts["processes"] > 1 else ""
        cells: dict[str, str | Text] = {
            "attacker": role + times,
            **{name: str(counts[name]) for name in ("tried", "holding", "refused")},
            "does": Text(WHAT_THEY_DO[role], "dim"),
        }
        table.add_row(*(cell for name, cell in cells.items() if name in shown))
    return table
