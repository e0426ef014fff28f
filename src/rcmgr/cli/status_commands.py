"""`rcmgr top`, `status`, `explain`: a look at a running node."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console, Group, OverflowMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rcmgr.errors import printable
from rcmgr.report.status_socket import StatusError, default_path, read_status

__all__ = ["explain", "status", "top"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_WIDE = 70
"""Columns from which on there is room for bars of full length, and for peaks."""
_MOST_RATES = 3
_PEER = re.compile(r"(peer:\w{6})\w{20,}(\w{6})")


def _socket(command: _Command) -> _Command:
    return click.option(
        "--socket", "path", type=click.Path(path_type=Path), metavar="PATH",
        help="Where the node serves its status. Default: $RCMGR_STATUS, or this user's rcmgr.sock.",
    )(command)


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return read_status(default_path() if path is None else path)
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None


@click.command(short_help="Print what a running node holds.")
@_socket
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def status(path: Path | None, as_json: bool) -> None:
    """Print what a running node holds, of which limits.

    The node has called `manager.serve_status(PATH)`. Exit status 1: there is none, or it cannot be
    read.
    """
    found = _read(path)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = _console()
    console.print(_headline(found))
    console.print(_limits(found, console, rows=None))


@click.command(short_help="Say why a running node refuses what it refuses.")
@_socket
def explain(path: Path | None) -> None:
    """Say what of a running node is at its limit, what was denied most, and where to change it."""
    lines = _read(path)["explanation"].splitlines()
    _console().print(Text("\n".join(map(printable, lines))), soft_wrap=True)


@click.command(short_help="Watch a running node.")
@_socket
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS",
    help="How often to look.",
)
def top(path: Path | None, every: float) -> None:
    """Watch a running node's limits, the fullest first. `q` or Ctrl-C leaves."""
    found = _read(path)
    console = _console()
    if not (console.is_terminal and sys.stdin.isatty()) or console.is_dumb_terminal:
        raise click.UsageError(
            "top needs a terminal whose cursor can be moved; else use `rcmgr status`.")
    try:
        with (
            _leaving_in_order(),
            _keys() as pressed,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            before = None
            while True:
                live.update(_picture(found, before, console), refresh=True)
                if pressed(every) == "q":
                    return
                before, found = found, read_status(default_path() if path is None else path)
    except KeyboardInterrupt:
        return
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None


@contextmanager
def _leaving_in_order() -> Iterator[None]:
    """A signal that ends the process leaves the terminal as it was, too."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {each: signal.signal(each, leave) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _console() -> Console:
    """For standard output, whichever characters it takes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False)


def _picture(found: dict[str, Any], before: dict[str, Any] | None, console: Console) -> Group:
    latest = found["latest_denials"]
    last = printable(latest[-1]["message"]) if latest else "none"
    lines = [
        _headline(found),
        _line(f"denials {found['denials']['total']}{_rates(found, before)}; `q` leaves", console),
        _line(f"last: {last}", console, "dim"),
    ]
    rows = max(1, console.height - len(lines) - 2)  # the table's header, and a line left free
    return Group(*lines, _limits(found, console, rows))


def _line(text: str, console: Console, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow=_overflow(console))


def _overflow(console: Console) -> OverflowMethod:
    return "crop" if console.options.ascii_only else "ellipsis"


def _rates(found: dict[str, Any], before: dict[str, Any] | None) -> str:
    """How many a second since the look before, and by which limits most of them."""
    if before is None:
        return ""
    seconds = max(0.001, found["time"] - before["time"])
    now, then = found["denials"], before["denials"]
    by_limit = Counter({
        limit: times - then["by_limit"].get(limit, 0) for limit, times in now["by_limit"].items()})
    most = "".join(
        f", {printable(limit.replace('_', ' '))} {times / seconds:.0f}"
        for limit, times in by_limit.most_common(_MOST_RATES) if times > 0)
    return f", {(now['total'] - then['total']) / seconds:.0f} a second{most}"


def _headline(found: dict[str, Any]) -> Text:
    stats = found["stats"]
    when = time.strftime("%H:%M:%S", time.localtime(found["time"]))
    return Text(
        f"rcmgr {printable(found['rcmgr'])}, process {found['pid']}, {when}: "
        f"connections {stats['connections']}, peers {stats['peers']}, streams {stats['streams']}",
        "bold", no_wrap=True, overflow="crop",
    )


def _limits(found: dict[str, Any], console: Console, rows: int | None) -> Table:
    width, ascii_only = console.width, console.options.ascii_only
    full, empty = ("#", ".") if ascii_only else ("█", "·")
    bar = 20 if width >= _WIDE else 5
    with_peaks = width >= _WIDE
    others = 9 + 9 + bar + 4 + 5 + 10 * with_peaks  # the other columns, and a space after each
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(
        "limit on", overflow=_overflow(console), no_wrap=True, max_width=max(8, width - others))
    table.add_column("used", justify="right", no_wrap=True, min_width=9)
    if with_peaks:
        table.add_column("peak", justify="right", no_wrap=True, min_width=9)
    table.add_column("of", justify="right", no_wrap=True, min_width=9)
    table.add_column("", no_wrap=True, min_width=bar)
    table.add_column("", justify="right", no_wrap=True, min_width=4)
    for each in found["usage"][:rows]:
        share = min(1.0, max(0.0, each["share"]))
        filled = round(share * bar)
        style = "red" if share >= 0.9 else "yellow" if share >= 0.7 else "green"
        limit, peak = each["limit"], each["peak"]
        table.add_row(
            printable(_PEER.sub(r"\1..\2" if ascii_only else r"\1…\2", limit).replace("_", " ")),
            _amount(limit, each["used"]),
            *([_amount(limit, peak) if peak is not None else ""] if with_peaks else []),
            _amount(limit, each["of"]),
            Text(full * filled, style) + Text(empty * (bar - filled), "dim"),
            f"{each['share']:.0%}",
        )
    return table


def _amount(limit: str, value: int) -> str:
    if not limit.endswith("memory"):
        return str(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024  # type: ignore[assignment]
    return f"{value:.4g} {unit}"


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key for some seconds; "": none was pressed."""
    if sys.platform == "win32":
        yield _windows_key
        return
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)

    def pressed(seconds: float) -> str:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([stdin], [], [], left)[0]:
                # all that is there: what `sys.stdin` keeps in its buffer, `select` does not see
                keys = os.read(stdin, 1024)
                if not keys or b"q" in keys.lower():
                    return "q"
        return ""

    try:
        yield pressed
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _windows_key(seconds: float) -> str:
    if sys.platform == "win32":
        import msvcrt

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if msvcrt.kbhit() and msvcrt.getwch().lower() == "q":
                return "q"
            time.sleep(0.05)
    return ""
