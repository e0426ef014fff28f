"""`rcmgr top`, `status`, `explain`: a look at a running node."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rcmgr.status import StatusError, default_path, read_status

__all__ = ["explain", "status", "top"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_WIDE = 60
"""Columns from which on there is room for bars of full length."""
_ROWS_ABOVE_TABLE = 4
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
    console = Console(highlight=False)
    console.print(_headline(found))
    console.print(_limits(found, console.width, rows=None))


@click.command(short_help="Say why a running node refuses what it refuses.")
@_socket
def explain(path: Path | None) -> None:
    """Say what of a running node is at its limit, what was denied most, and where to change it."""
    click.echo(_harmless(_read(path)["explanation"]))


@click.command(short_help="Watch a running node.")
@_socket
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS",
    help="How often to look.",
)
def top(path: Path | None, every: float) -> None:
    """Watch a running node's limits, the fullest first. `q` or Ctrl-C leaves."""
    found = _read(path)
    console = Console(highlight=False)
    if not (console.is_terminal and sys.stdin.isatty()):
        raise click.UsageError("top needs a terminal; use `rcmgr status` in a pipe.")
    try:
        with (
            _keys() as pressed,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            before = None
            while True:
                live.update(_picture(found, before, console.size), refresh=True)
                if pressed(every) == "q":
                    return
                before, found = found, read_status(default_path() if path is None else path)
    except KeyboardInterrupt:
        return
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None


def _picture(
    found: dict[str, Any], before: dict[str, Any] | None, size: ConsoleDimensions
) -> Group:
    denials = found["denials"]["total"]
    rate = ""
    if before is not None:
        seconds = max(0.001, found["time"] - before["time"])
        rate = f", {(denials - before['denials']['total']) / seconds:.0f} a second"
    latest = found["latest_denials"]
    last = _harmless(latest[-1]["message"]) if latest else "none"
    table = _limits(found, size.width, rows=max(1, size.height - _ROWS_ABOVE_TABLE - 3))
    return Group(
        _headline(found),
        Text(f"denials {denials}{rate}; `q` leaves"),
        Text(f"last: {last}", "dim", no_wrap=True, overflow="ellipsis"),
        table,
    )


def _headline(found: dict[str, Any]) -> Text:
    stats = found["stats"]
    when = time.strftime("%H:%M:%S", time.localtime(found["time"]))
    return Text(
        f"rcmgr {_harmless(found['rcmgr'])}, process {found['pid']}, {when}: "
        f"{stats['connections']} connections of {stats['peers']} peers, {stats['streams']} streams",
        "bold",
    )


def _limits(found: dict[str, Any], width: int, rows: int | None) -> Table:
    bar = 20 if width >= _WIDE else 5
    others = 9 + 9 + bar + 4 + 5  # the other columns, and a space after each
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(
        "limit on", overflow="ellipsis", no_wrap=True, max_width=max(8, width - others))
    table.add_column("used", justify="right", no_wrap=True, min_width=9)
    table.add_column("of", justify="right", no_wrap=True, min_width=9)
    table.add_column("", no_wrap=True, min_width=bar)
    table.add_column("", justify="right", no_wrap=True, min_width=4)
    for each in found["usage"][:rows]:
        share = min(1.0, each["share"])
        filled = round(share * bar)
        style = "red" if share >= 0.9 else "yellow" if share >= 0.7 else "green"
        table.add_row(
            _harmless(_PEER.sub(r"\1…\2", each["limit"]).replace("_", " ")),
            _amount(each["limit"], each["used"]),
            _amount(each["limit"], each["of"]),
            Text("█" * filled, style) + Text("·" * (bar - filled), "dim"),
            f"{each['share']:.0%}",
        )
    return table


def _harmless(text: str) -> str:
    """Without what a terminal obeys: some names are chosen by peers."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


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
