"""How a run looks: a live table, plain lines, or JSON."""

from __future__ import annotations

import json
import math
import sys
import textwrap
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import visitors

if TYPE_CHECKING:
    from .limit_rows import Row
    from .scenario import Run

BAR_WIDTH = 14
LINE_EVERY = 1.0
"""Seconds between two lines of plain or JSON output."""

WHAT_THEY_DO = {
    visitors.HALF_OPEN: "never finishes a handshake",
    visitors.IDENTITIES: "many peers, in and out",
    visitors.ONE_IDENTITY: "connection after connection",
    visitors.STREAMS: "stream after stream",
    visitors.MEMORY: "sends what the host has to keep",
}


class Screen(Protocol):
    def __enter__(self) -> Screen: ...

    def __exit__(self, *error: object) -> None: ...

    def show(self, run: Run) -> None:
        """Called four times a second."""

    def summary(self, run: Run, status: int) -> None:
        """Called at the end, with the exit status."""


def screen_for(*, plain: bool, as_json: bool) -> Screen:
    if as_json:
        return JsonLines()
    console = Console()
    live = sys.stdout.isatty() and not console.is_dumb_terminal
    return LiveTable(console) if live and not plain else PlainLines()


def label(name: str) -> str:
    names = {"connections": "all connections", "memory": "memory, MiB"}
    return names.get(name, name.replace("_", " "))


def headline(run: Run) -> str:
    play = run.play
    return (
        f"guarded by {run.watch.title}, 127.0.0.1:{run.port}, {play.attackers} "
        f"attacker{'s' * (play.attackers != 1)}, {play.seconds:g} s"
    )


def state(run: Run) -> str:
    if run.phase == "starting":
        ready = sum(visitor.ready for visitor in run.visitors)
        return f"starting: {ready} of {len(run.visitors)} processes are ready"
    if run.phase == "under attack":
        return f"under attack for {run.elapsed:.0f} of {run.play.seconds:g} s"
    if run.phase == "leaving":
        return "all peers leave"
    return f"over after {run.elapsed:.1f} s of attack"


def honest_peer(run: Run) -> str:
    honest, ping = run.honest, run.ping()
    if honest.lost is not None or honest.died is not None:
        return f"LOST: {honest.lost or honest.died}"
    if ping is None:
        return "connecting" if honest.peer_id is None else "connected"
    median, p99 = ping
    count = len(honest.pings_ms)
    return f"ping median {median:.1f} ms, 99th percentile {p99:.1f} ms, {count} pings"


def by_role(run: Run) -> dict[str, Counter[str]]:
    """What the attackers say, together for those of one kind."""
    told: dict[str, Counter[str]] = {}
    for visitor in run.attackers:
        told.setdefault(visitor.role, Counter()).update(
            processes=1, tried=visitor.tried, holding=visitor.holding, refused=visitor.refused
        )
    return told


def limit_text(limit: int | None) -> str:
    return "none" if limit is None else str(limit)


class LiveTable:
    """A table that redraws in place, and stays as the summary."""

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

    @staticmethod
    def _hint(run: Run) -> str:
        if run.phase != "under attack" or run.signal is not None:
            return ""
        return "; ".join(each for each in ("; Ctrl-C ends it", run.watch.hint()) if each)

    def _picture(self, run: Run) -> Group:
        facts = (
            Text.assemble((" honest peer: ", "dim"), honest_peer(run)),
            Text.assemble((" denial: ", "dim"), run.watch.last_denial() or "none yet"),
        )
        title = Text.assemble((" rcmgr demo ", "bold reverse"), " ", headline(run))
        bar = "#+." if self._console.options.ascii_only else "█▒·"
        now = Text(f" {state(run)}{self._hint(run)}")
        rows = [*run.rows(), run.watch.memory()]
        parts: list[Any] = [title, now, "", limits_table(rows, bar), ""]
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
    """The bar of a limit: up to now, from there to the peak, from there to the limit."""
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
    for role, told in by_role(run).items():
        times = f" x{told['processes']}" if told["processes"] > 1 else ""
        table.add_row(
            role + times,
            *(str(told[name]) for name in ("tried", "holding", "refused")),
            Text(WHAT_THEY_DO[role], "dim"),
        )
    return table


def verdict_lines(run: Run, status: int) -> list[tuple[str, str]]:
    """(mark, sentence) for each check and remark, and the exit status."""
    lines = [
        ("ok" if check.held else "FAILED", f"{check.what}: {check.detail}.") for check in run.checks
    ]
    lines += [("note", remark) for remark in run.watch.remarks()]
    if run.signal is not None:
        when = "before" if not run.elapsed else "during"
        lines.append(("note", f"Ended by signal {run.signal} {when} the attack."))
    return [*lines, ("", f"Exit status {status}.")]


class PlainLines:
    """One line a second, then the table as text."""

    HEAD = (
        "    s       pending                 established    all streams denied  ping  MiB",
        "          in    out     in    out   peer  total                          ms",
    )

    def __init__(self) -> None:
        self._next = 0.0
        self._begun = False

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, run: Run) -> None:
        if not self._begun and run.port:
            self._begun = True
            click.echo(f"rcmgr demo: {headline(run)}")
            click.echo("Every second: now/limit, denials, median ping, memory of the host.")
            click.echo(f"{run.watch.hint().capitalize()}.\n" if run.watch.hint() else "")
            for line in self.HEAD:
                click.echo(line)
        if run.phase == "under attack" and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            click.echo(self._line(run))

    @staticmethod
    def _line(run: Run) -> str:
        rows, ping = run.rows(), run.ping()
        # 80 columns are not enough for all
        shown = [row for row in rows if row.name != "transient_streams"]
        cells = [f"{row.now}/{limit_text(row.limit)}" for row in shown]
        denied = sum(row.denied for row in rows)
        return (
            f"{run.elapsed:>5.1f}"
            + "".join(f" {cell:>6}" for cell in cells)
            + f" {denied:>6} {f'{ping[0]:.1f}' if ping else '-':>6} {run.watch.memory().now:>4}"
        )

    def summary(self, run: Run, status: int) -> None:
        click.echo(f"\n{state(run)}")
        click.echo(
            f"{'limit on':<22}{'now':>7}{'peak':>7}{'limit':>7}{'admitted':>10}{'denied':>10}"
        )
        for row in [*run.rows(), run.watch.memory()]:
            click.echo(
                f"{label(row.name):<22}{row.now:>7}{row.peak:>7}{limit_text(row.limit):>7}"
                f"{row.admitted:>10}{row.denied:>10}"
            )
        click.echo(f"\nhonest peer: {honest_peer(run)}")
        for role, told in by_role(run).items():
            click.echo(f"{role}: {told['tried']} tries, {told['refused']} refused")
        click.echo(f"last denial: {run.watch.last_denial() or 'none'}\n")
        for mark, line in verdict_lines(run, status):
            indent = f"{mark:>6}  "
            click.echo(textwrap.fill(line, 80, initial_indent=indent, subsequent_indent=" " * 8))


class JsonLines:
    """A JSON object a second, and the summary as the last one."""

    def __init__(self) -> None:
        self._next = 0.0

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, run: Run) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            click.echo(json.dumps({"event": "sample", **facts(run)}))

    def summary(self, run: Run, status: int) -> None:
        click.echo(
            json.dumps(
                {
                    "event": "summary",
                    **facts(run),
                    "checks": [asdict(check) for check in run.checks],
                    "remarks": run.watch.remarks(),
                    "signal": run.signal,
                    "exit_status": status,
                }
            )
        )


def facts(run: Run) -> dict[str, Any]:
    ping = run.ping()
    return {
        "manager": run.watch.title,
        "phase": run.phase,
        "elapsed_seconds": round(run.elapsed, 3),
        "limits": {row.name: without_name(row) for row in run.rows()},
        "memory_mib": without_name(run.watch.memory()),
        "honest_peer": {
            "peer_id": run.honest.peer_id,
            "pings": len(run.honest.pings_ms),
            "ping_median_ms": ping and ping[0],
            "ping_p99_ms": ping and ping[1],
            "lost": run.honest.lost or run.honest.died,
        },
        "attackers": {role: dict(told) for role, told in by_role(run).items()},
        "last_denial": run.watch.last_denial(),
    }


def without_name(row: Row) -> dict[str, int | None]:
    values = asdict(row)
    del values["name"], values["slack"]
    return values
