"""`rcmgr status`, `explain` and `top`: the state of a running node."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.live import Live
from rich.text import Text

from rcmgr.errors import printable
from rcmgr.report.lookups import TOP
from rcmgr.report.status_client import StatusError, ask, default_path, read_status

from .demo.command import finite
from .node_socket import answer_of, ask_node, socket_option
from .status_tables import (
    denial_lines,
    dry_run_line,
    headline,
    limits_table,
    rows_screen,
    rows_table,
    top_screen,
)
from .terminal import read_keys, stdout_console, tidy_on_signals

__all__ = ["explain", "status", "top"]


@click.command(short_help="Print the limits of a running node, their usage, and denials.")
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole status as JSON.")
def status(path: Path | None, as_json: bool) -> None:
    """Print the limits of a running node, how much of each is in use, and the denials.

    The node must have called `manager.serve_status(PATH)`. Exit status 1: there is no such node, or
    its status cannot be read.
    """
    found = answer_of(path, read_status)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = stdout_console()
    console.print(headline(found))
    dry_run = dry_run_line(found)
    if dry_run is not None:
        console.print(Text(dry_run, "bold yellow"))
    console.print(limits_table(found, console, rows=None))
    console.print(Text("\n".join(["", *denial_lines(found)])))


@click.command(short_help="Say why a running node denies requests.")
@socket_option
def explain(path: Path | None) -> None:
    """Say which limits of a running node are full, which denied most, and how to change them."""
    lines = answer_of(path, read_status)["explanation"].splitlines()
    stdout_console().print(Text("\n".join(map(printable, lines))), soft_wrap=True)


@click.command(short_help="Watch the limits of a running node, or its largest peers.")
@socket_option
@click.option(
    "--by", type=click.Choice(list(TOP)), help="Show the largest of these instead of all limits.")
@click.option(
    "--most", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="NUMBER",
    help="Rows of --by and --json.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows once, as JSON.")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, callback=finite,
    metavar="SECONDS",
    help="Time between two readings.",
)
def top(path: Path | None, by: str | None, most: int, as_json: bool, every: float) -> None:
    """Watch the limits of a running node, the fullest first. `q` or Ctrl-C quits.

    With --by, the rows are peers, addresses, networks (/24 and /48), protocols or limits. Without a
    terminal, --by prints them once.
    """
    if as_json:
        click.echo(json.dumps(ask_node(path, "top", by=by or "limit", most=most), indent=2))
        return
    console = stdout_console()
    if by is not None and not console.is_terminal:
        console.print(rows_table(ask_node(path, "top", by=by, most=most), by, console))
        return
    found = answer_of(path, read_status)
    socket = default_path() if path is None else path
    if not (console.is_terminal and sys.stdin.isatty()) or console.is_dumb_terminal:
        raise click.UsageError(
            "top needs a terminal that can move its cursor. Without one, use `rcmgr status`.")
    before = None
    try:
        with (
            tidy_on_signals(),
            read_keys() as quit_pressed,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                if by is None:
                    shown = top_screen(found, before, console)
                else:
                    shown = rows_screen(
                        found, by, ask(socket, "top", by=by, most=most), console)
                live.update(shown, refresh=True)
                if quit_pressed(every):
                    return
                before, found = found, read_status(socket)
    except KeyboardInterrupt:
        return
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None
