"""A node's status as text: the headline, the table of limits, and the screen of `rcmgr top`."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rcmgr.errors import printable

from .terminal import cut_off

__all__ = [
    "amount", "denial_lines", "dry_run_line", "headline", "limits_table", "rows_screen",
    "rows_table", "top_screen",
]

_WIDE = 70
"""Columns of a terminal with room for long bars and for peaks."""
_MOST_RATES = 3
_MOST_LIMITS = 10
_MOST_LATEST = 5
_PEER = re.compile(r"(peer:\w{6})\w{20,}(\w{6})")


def headline(status: dict[str, Any]) -> Text:
    stats = status["stats"]
    when = time.strftime("%H:%M:%S", time.localtime(status["time"]))
    return Text(
        f"rcmgr {printable(status['rcmgr'])}, process {status['pid']}, {when}: "
        f"connections {stats['connections']}, peers {stats['peers']}, streams {stats['streams']}",
        "bold", no_wrap=True, overflow="crop",
    )


def dry_run_line(status: dict[str, Any]) -> str | None:
    """A line that says which limits refuse nothing; None: all limits refuse."""
    dry_run = status.get("dry_run")
    if dry_run is None or not dry_run["limits"]:
        return None
    would = f"would refuse {dry_run['would_deny']['total']} so far"
    if dry_run["is_whole"]:
        return f"DRY RUN: no limit refuses anything; {would}"
    return f"DRY RUN of {printable(', '.join(dry_run['limits']))}; {would}"


def top_screen(
    status: dict[str, Any], before: dict[str, Any] | None, console: Console
) -> Group:
    """The headline, the denials, and as many limits as the terminal has lines.

    before: the status that was shown last, which gives the denials per second.
    """
    latest = status["latest_denials"]
    last = printable(latest[-1]["message"]) if latest else "none"
    total = status["denials"]["total"]
    dry_run = dry_run_line(status)
    lines = [
        headline(status),
        *([] if dry_run is None else [_line(dry_run, console, "bold yellow")]),
        _line(f"denials {total}{_denial_rates(status, before)}; `q` quits", console),
        _line(f"last: {last}", console, "dim"),
    ]
    rows = max(1, console.height - len(lines) - 2)  # the table's header, and one empty line
    return Group(*lines, limits_table(status, console, rows))


def _line(text: str, console: Console, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow=cut_off(console))


def _denial_rates(status: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Denials per second since `before`, and those of the limits that denied most."""
    if before is None:
        return ""
    seconds = max(0.001, status["time"] - before["time"])
    now, then = status["denials"], before["denials"]
    by_limit = Counter({
        limit: times - then["by_limit"].get(limit, 0) for limit, times in now["by_limit"].items()})
    most = "".join(
        f", {printable(limit.replace('_', ' '))} {times / seconds:.0f}"
        for limit, times in by_limit.most_common(_MOST_RATES) if times > 0)
    return f", {(now['total'] - then['total']) / seconds:.0f} a second{most}"


def denial_lines(status: dict[str, Any]) -> Iterator[str]:
    """The number of denials by limit, and the latest ones with their settings."""
    would = (status.get("dry_run") or {}).get("would_deny")
    if would is not None and would["total"]:
        yield f"a dry run would refuse {would['total']}:"
        for code, times in Counter(would["by_limit"]).most_common(_MOST_LIMITS):
            yield f"  {times} by {printable(code)}"
    denials = status["denials"]
    if not denials["total"]:
        yield "denials 0"
        return
    yield f"denials {denials['total']}:"
    by_limit = Counter(denials["by_limit"])
    for limit, times in by_limit.most_common(_MOST_LIMITS):
        if times > 0:
            yield f"  {times} by {printable(limit.replace('_', ' '))}"
    yield "latest denials:"
    for each in status["latest_denials"][-_MOST_LATEST:]:
        yield f"  {_ago(each.get('seconds_ago'))}{printable(each['message'])}"


def _ago(seconds: object) -> str:
    """Nothing if it is no time: any program may have written the status."""
    if isinstance(seconds, int | float) and math.isfinite(seconds):
        return f"{seconds:.0f} s ago: "
    return ""


def limits_table(status: dict[str, Any], console: Console, rows: int | None) -> Table:
    """The limits and their usage, the fullest first. rows: at most so many; None: all."""
    width, ascii_only = console.width, console.options.ascii_only
    full, empty = ("#", ".") if ascii_only else ("█", "·")
    with_peaks = width >= _WIDE
    names = [_row_name(each["limit"], ascii_only) for each in status["usage"][:rows]]
    others = 9 + 9 + 4 + 5 + 10 * with_peaks  # without name and bar; a space after each column
    # a long name takes from the bar: two names must not look equal
    longest = max(map(cell_len, names), default=0)
    bar = max(5, min(20 if with_peaks else 5, width - others - longest))
    others += bar
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(
        "limit on", overflow=cut_off(console), no_wrap=True, max_width=max(8, width - others))
    table.add_column("used", justify="right", no_wrap=True, min_width=9)
    if with_peaks:
        table.add_column("peak", justify="right", no_wrap=True, min_width=9)
    table.add_column("of", justify="right", no_wrap=True, min_width=9)
    table.add_column("", no_wrap=True, min_width=bar)
    table.add_column("", justify="right", no_wrap=True, min_width=4)
    for name, each in zip(names, status["usage"], strict=False):
        share = min(1.0, max(0.0, each["share"]))
        filled = round(share * bar)
        style = "red" if share >= 0.9 else "yellow" if share >= 0.7 else "green"
        limit, peak = each["limit"], each["peak"]
        table.add_row(
            name,
            amount(limit, each["used"]),
            *([amount(limit, peak) if peak is not None else ""] if with_peaks else []),
            amount(limit, each["of"]),
            Text(full * filled, style) + Text(empty * (bar - filled), "dim"),
            f"{each['share']:.0%}",
        )
    return table


_HEADS = {"connections": "conns"}


def rows_screen(
    status: dict[str, Any], by: str, rows: list[dict[str, Any]], console: Console
) -> Group:
    """The headline and the table of `rcmgr top --by`, on a terminal."""
    dry_run = dry_run_line(status)
    lines = [
        headline(status),
        *([] if dry_run is None else [_line(dry_run, console, "bold yellow")]),
        _line(f"by {by}; `q` quits", console),
    ]
    shown = rows[:max(1, console.height - len(lines) - 2)]
    return Group(*lines, rows_table(shown, by, console))


def rows_table(rows: list[dict[str, Any]], by: str, console: Console) -> Table | Text:
    """The rows of a node's answer to `top`, in its order of columns."""
    if not rows:
        return Text(f"no {by} yet" if by != "limit" else "no limit is in use")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    columns = [name for name in rows[0] if name not in (by, "share", "peak")]
    cells = {
        name: [amount(f"{row[by]} memory" if name == "memory" else str(row[by]), row[name])
               for row in rows] for name in columns}
    heads = {name: _HEADS.get(name, name) for name in columns}
    widths = {name: max(len(heads[name]), *map(len, cells[name])) for name in columns}
    room = max(8, console.width - sum(widths.values()) - len(columns) - 1)
    table.add_column(by, no_wrap=True, overflow=cut_off(console), max_width=room)
    for name in columns:
        table.add_column(heads[name], justify="right", no_wrap=True, min_width=widths[name])
    for number, row in enumerate(rows):
        name = printable(str(row[by]))
        if len(name) > room:
            name = _PEER.sub(_short_peer(console), f"peer:{name}").removeprefix("peer:")
        table.add_row(Text(name), *(cells[each][number] for each in columns))
    return table


def _short_peer(console: Console) -> str:
    return r"\1..\2" if console.options.ascii_only else r"\1…\2"


def _row_name(limit: str, ascii_only: bool) -> str:
    return printable(_PEER.sub(r"\1..\2" if ascii_only else r"\1…\2", limit).replace("_", " "))


def amount(limit: str, value: int) -> str:
    """A number for people: bytes with a unit if the limit is on memory."""
    if not limit.endswith("memory"):
        return str(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024  # type: ignore[assignment]
    return f"{value:.4g} {unit}"
