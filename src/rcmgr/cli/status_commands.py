"""`rcmgr status`, `explain` and `top`: the state of a running node."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.live import Live
from rich.text import Text

from rcmgr.errors import printable
from rcmgr.report.status_client import StatusError, default_path, read_status

from .node_socket import answer_of, socket_option
from .status_tables import denial_lines, headline, limits_table, top_screen
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
    console.print(limits_table(found, console, rows=None))
    console.print(Text("\n".join(["", *denial_lines(found)])))


@click.command(short_help="Say why a running node denies requests.")
@socket_option
def explain(path: Path | None) -> None:
    """Say which limits of a running node are full, which denied most, and how to change them."""
    lines = answer_of(path, read_status)["explanation"].splitlines()
    stdout_console().print(Text("\n".join(map(printable, lines))), soft_wrap=True)


@click.command(short_help="Watch the limits of a running node.")
@socket_option
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between two readings.",
)
def top(path: Path | None, every: float) -> None:
    """Watch the limits of a running node, the fullest first. `q` or Ctrl-C quits."""
    found = answer_of(path, read_status)
    console = stdout_console()
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
                live.update(top_screen(found, before, console), refresh=True)
                if quit_pressed(every):
                    return
                before, found = found, read_status(default_path() if path is None else path)
    except KeyboardInterrupt:
        return
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None
