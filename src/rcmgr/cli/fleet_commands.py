"""`rcmgr fleet status` and `fleet top`: the nodes of a fleet, read from its engine."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rcmgr.errors import printable
from rcmgr.fleet.engine import EngineError
from rcmgr.fleet.fleet import Fleet

from .demo.command import finite
from .terminal import cut_off, read_keys, stdout_console, tidy_on_signals

__all__ = ["fleet", "fleet_bans", "url_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_T = TypeVar("_T")
_COLUMNS = ("connections", "peers", "streams", "denied")
_MOST_LIMITS = 5


def url_option(command: _Command) -> _Command:
    return click.option(
        "--url", metavar="URL",
        help="Engine and name of the fleet: valkey://HOST:PORT#NAME. Default: $RCMGR_FLEET.",
    )(command)


def _from_engine(url: str | None, question: Callable[[Fleet], _T]) -> _T:
    """The engine's answer. If it gives none, one line to stderr, and exit status 1."""
    given = url or os.environ.get("RCMGR_FLEET")
    if not given:
        raise click.UsageError("which fleet? Give --url, or set RCMGR_FLEET.")
    try:
        asked = Fleet(given, timeout=5)
    except (ValueError, ImportError) as error:
        click.echo(f"rcmgr: {'--url' if url else 'RCMGR_FLEET'}: {printable(str(error))}", err=True)
        raise SystemExit(2) from None
    try:
        return question(asked)
    except EngineError as error:
        click.echo(f"rcmgr: {printable(str(error))}", err=True)
        raise SystemExit(1) from None
    finally:
        asked.close()


def fleet_bans(url: str | None) -> list[dict[str, Any]]:
    """The bans of the fleet."""
    return _from_engine(url, Fleet.bans)


@click.group(short_help="Look at the nodes of a fleet.")
def fleet() -> None:
    """Look at the nodes of a fleet, as its engine knows them."""


@fleet.command(short_help="Print the nodes of a fleet, and their sums.")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print the nodes as JSON.")
def status(url: str | None, as_json: bool) -> None:
    """Print the nodes of a fleet, what each holds and has denied, and the sums.

    Exit status 1: the engine does not answer.
    """
    nodes = _from_engine(url, Fleet.nodes)
    if as_json:
        click.echo(json.dumps(nodes, indent=2))
        return
    console = stdout_console()
    console.print(_screen(nodes, None, console, None))


@fleet.command(short_help="Watch the nodes of a fleet.")
@url_option
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, callback=finite,
    metavar="SECONDS",
    help="Time between two readings.",
)
def top(url: str | None, every: float) -> None:
    """Watch the nodes of a fleet, those that deny most first. `q` or Ctrl-C quits."""
    console = stdout_console()
    if not (console.is_terminal and sys.stdin.isatty()) or console.is_dumb_terminal:
        raise click.UsageError(
            "top needs a terminal that can move its cursor. Without one, use `rcmgr fleet status`.")
    _from_engine(url, lambda asked: _watch(asked, every, console))


def _watch(asked: Fleet, every: float, console: Console) -> None:
    before: list[dict[str, Any]] | None = None
    nodes, lost = asked.nodes(), ""
    try:
        with (
            tidy_on_signals(),
            read_keys() as quit_pressed,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                rows = max(1, console.height - 5)
                live.update(_screen(nodes, before, console, rows, lost), refresh=True)
                if quit_pressed(every):
                    return
                try:
                    before, nodes, lost = nodes, asked.nodes(), ""
                except EngineError as error:
                    lost = printable(str(error))
    except KeyboardInterrupt:
        return


def _screen(
    nodes: list[dict[str, Any]], before: list[dict[str, Any]] | None, console: Console,
    rows: int | None, lost: str = "",
) -> Group:
    """The sums, the limits that denied most, and a table of the nodes.

    before: the nodes that were shown last: then nodes that denied most since are in front.
    lost: why the engine does not answer now; the nodes are those of its last answer.
    """
    lines = [Text(
        f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: " + ", ".join(
            f"{name} {sum(node[name] for node in nodes)}" for name in _COLUMNS),
        "bold", no_wrap=True, overflow="crop")]
    if lost:
        lines.append(Text(
            f"the engine does not answer: {lost}", no_wrap=True, overflow=cut_off(console)))
    denied: Counter[str] = Counter()
    for node in nodes:
        denied.update(node["denied_by"])
    if denied:
        most = ", ".join(
            f"{printable(limit.replace('_', ' '))} {times}"
            for limit, times in denied.most_common(_MOST_LIMITS))
        lines.append(Text(f"denied by {most}", no_wrap=True, overflow=cut_off(console)))
    if not nodes:
        return Group(*lines)
    earlier = {node["node"]: node["denied"] for node in before or ()}
    ordered = nodes if before is None else sorted(
        nodes, key=lambda node: node["denied"] - earlier.get(node["node"], 0), reverse=True)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(
        "node", no_wrap=True, overflow=cut_off(console), max_width=max(8, console.width - 50))
    for name in (*_COLUMNS, "seen"):
        table.add_column(name, justify="right", no_wrap=True)
    for node in ordered[:rows]:
        table.add_row(
            printable(node["node"]), *(str(node[name]) for name in _COLUMNS),
            f"{node['seconds_ago']:.1f} s")
    return Group(*lines, table)
