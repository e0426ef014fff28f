"""`rcmgr bans`, `ban`, `unban` and `allow`: who a running node refuses, and who is exempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from rcmgr.errors import printable

from .durations import Duration
from .fleet_commands import fleet_bans, url_option
from .node_socket import ask_node, socket_option
from .terminal import stdout_console

__all__ = ["allow", "ban", "bans", "unban"]


@click.command(short_help="List the bans of a running node.")
@socket_option
@click.option("--fleet", "of_fleet", is_flag=True, help="List the bans of all nodes of a fleet.")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print the bans as JSON.")
def bans(path: Path | None, of_fleet: bool, url: str | None, as_json: bool) -> None:
    """List the peers, addresses and networks that a running node refuses."""
    found = fleet_bans(url) if of_fleet else ask_node(path, "bans")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = stdout_console()
    if not found:
        console.print("No bans.")
        return
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    width = min(max(len(each["what"]) for each in found), console.width - 20)
    table.add_column("banned", overflow="fold", width=width)
    table.add_column("for", overflow="fold", max_width=console.width - width - 2)
    for each in found:
        reason = f": {printable(each['reason'])}" if each["reason"] else ""
        table.add_row(
            Text(printable(each["what"])),
            Text(f"{_left(each['seconds_left'])}, by {each['by']}{_where(each)}{reason}"))
    console.print(table)


@click.command(short_help="Refuse a peer, an address or a network.")
@click.argument("target")
@socket_option
@click.option(
    "--for", "seconds", type=Duration(), metavar="TIME",
    help="How long: 90, 15m, 2h, 7d. Default: until `rcmgr unban`.")
@click.option("--reason", default="", metavar="TEXT", help="A note for people, kept with the ban.")
def ban(target: str, path: Path | None, seconds: float | None, reason: str) -> None:
    """Let a running node refuse connections with TARGET.

    TARGET is a peer id, an address or a network: 12D3KooW..., 192.0.2.7, 192.0.2.0/24.
    """
    made = ask_node(path, "ban", what=target, seconds=seconds, reason=reason)
    left = made["seconds_left"]
    end = "until `rcmgr unban`" if left is None else f"for {_left(left)}"
    click.echo(f"banned {printable(made['what'])} {end}")


@click.command(short_help="End a ban.")
@click.argument("target")
@socket_option
def unban(target: str, path: Path | None) -> None:
    """End the ban of exactly TARGET on a running node, and forgive its offences.

    Exit status 1: there is no such ban.
    """
    if not ask_node(path, "unban", what=target):
        click.echo(f"rcmgr: {printable(target)} is not banned", err=True)
        raise SystemExit(1)
    click.echo(f"unbanned {printable(target)}")


@click.command(short_help="Exempt a peer, an address or a network from limits.")
@click.argument("target")
@socket_option
def allow(target: str, path: Path | None) -> None:
    """Put TARGET on the allowlist of a running node, until the node ends.

    Limits and bans do not apply to it. TARGET is as for `rcmgr ban`.
    """
    ask_node(path, "allow", what=target)
    click.echo(f"allowed {printable(target)}")


def _where(ban: dict[str, Any]) -> str:
    """The node that made it, if it was not the one that answers."""
    node = ban.get("node")
    return f" on {printable(node)}" if isinstance(node, str) and node else ""


def _left(seconds: float | None) -> str:
    """A time in its largest unit."""
    if seconds is None:
        return "no end"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if hours < 1:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if days < 2 else f"{days:.1f} d"
