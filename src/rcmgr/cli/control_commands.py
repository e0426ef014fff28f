"""`rcmgr set`, `apply`, `peer`, `scope` and `watch`: change a running node, and look into it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from rcmgr.errors import printable
from rcmgr.report.status_client import StatusError, default_path
from rcmgr.report.status_client import watch as events_of
from rcmgr.report.watch import KINDS

from .limit_files import change_line, read_limits_file
from .node_socket import ask_node, socket_option
from .status_tables import amount
from .terminal import stdout_console

__all__ = ["apply", "peer", "scope", "set_limit", "watch"]

_json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
_SCOPE_COLUMNS = (
    "streams_inbound", "streams_outbound", "streams", "conns_inbound", "conns_outbound", "conns",
    "fd", "memory",
)


@click.command(
    "set", short_help="Change a limit of a running node.",
    context_settings={"ignore_unknown_options": True},  # a value may begin with a minus
)
@click.argument("key")
@click.argument("value")
@socket_option
@_json_option
def set_limit(key: str, value: str, path: Path | None, as_json: bool) -> None:
    """Set the limit KEY of a running node to VALUE, until the node ends.

    KEY is a place in a limits file, and VALUE as it stands there:

    \b
      rcmgr set System.Conns 500
      rcmgr set System.Memory 2GiB
      rcmgr set Connections.max_established_per_peer unlimited
      rcmgr set Rates.ipv4.32.burst 32
      rcmgr set Protocol./my/1.0.0.Streams 100
      rcmgr set DryRun off

    Open connections and streams stay. The answer says what is above its limit now.
    """
    _show_change(ask_node(path, "set", key=key, value=_value(value)), as_json)


def _value(text: str) -> Any:
    """A number, true, false, a list or an object as JSON, and anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@click.command(short_help="Change the limits of a running node to those of a file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@socket_option
@click.option("--check", is_flag=True, help="Only say what would change.")
@click.option(
    "--lenient", is_flag=True, help="Read JSON like go-libp2p, which ignores unknown keys.")
@_json_option
def apply(file: Path, path: Path | None, check: bool, lenient: bool, as_json: bool) -> None:
    """Give a running node the limits of FILE. If one is wrong, nothing changes.

    A limit that FILE leaves out stays as it is. The answer has each limit that changes, and says
    what is above its new limit already. Such connections and streams stay. New ones are refused
    until use has fallen.

    Exit status 2: FILE cannot be read, or says something wrong. Then nothing has changed.
    """
    text = json.dumps(read_limits_file(file, lenient=lenient).to_dict())
    _show_change(ask_node(path, "apply", text=text, check=check), as_json)


def _show_change(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for change in answer["changes"]:
        click.echo(change_line(change["limit"], change["before"], change["after"]))
    if not answer["changes"]:
        click.echo("no differences")
    verb = "is" if answer["applied"] else "would be"
    for each in answer["above"]:
        used, limit = (amount(each["limit"], each[name]) for name in ("used", "of"))
        click.echo(f"{printable(each['limit'])} {verb} above its limit: {used} of {limit}")
    if not answer["applied"]:
        click.echo("nothing was changed")


@click.command(short_help="Show one peer of a running node.")
@click.argument("peer_id", metavar="PEER")
@socket_option
@_json_option
def peer(peer_id: str, path: Path | None, as_json: bool) -> None:
    """Show the connections, streams, memory, limits and denials of PEER."""
    found = ask_node(path, "peer", peer=peer_id)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = stdout_console()
    for line in _peer_lines(found):
        console.print(Text(printable(line)), soft_wrap=True)


def _peer_lines(found: dict[str, Any]) -> Iterator[str]:
    yield found["peer"]
    if found["allowed"]:
        yield "on the allowlist: no limit applies"
    if found["ban"] is not None:
        yield f"banned{': ' + found['ban'] if found['ban'] else ''}"
    yield f"connections {len(found['connections'])}"
    for each in found["connections"]:
        address = f" from {each['address']}" if each["address"] else ""
        state = each["state"].replace("_", " ")
        yield f"  {each['id']}: {state} for {each['seconds']:.0f} s{address}"
    yield from _scope_lines(found["scope"])
    for each in found["protocols"]:
        yield f"  {each['protocol']}: streams {each['streams']}"
    yield f"denied {found['denied']}"
    if found["would_deny"]:
        yield f"a dry run would refuse {found['would_deny']}"
    for each in found["latest_denials"]:
        yield f"  {each['seconds_ago']:.0f} s ago: {each['message']}"


@click.command(short_help="Show one scope of a running node.")
@click.argument("name")
@socket_option
@_json_option
def scope(name: str, path: Path | None, as_json: bool) -> None:
    """Show what the scope NAME holds, and its limits.

    \b
    NAME is as in errors, or as kubo's `swarm stats` has it:
      system  transient  allowlistedSystem  allowlistedTransient
      peer:12D3KooW...  protocol:/my/1.0.0  service:dht
      protocol:/my/1.0.0.peer:12D3KooW...

    `rcmgr set` changes limits.
    """
    found = ask_node(path, "scope", name=name)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in _scope_lines(found):
        click.echo(printable(line))


def _scope_lines(found: dict[str, Any]) -> Iterator[str]:
    yield found["scope"]
    for field in _SCOPE_COLUMNS:
        used, limit = found["used"][field], found["limits"][field]
        of = "no limit" if limit is None else f"of {amount(field, limit)}"
        yield f"  {field.replace('_', ' '):17} {amount(field, used):>9} {of}"


@click.command(short_help="Print the events of a running node as they happen.")
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS))
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per line.")
def watch(kinds: tuple[str, ...], path: Path | None, as_json: bool) -> None:
    """Print the events of a running node, as they happen. Ctrl-C ends it.

    KINDS: events to print, all by default. A reader that falls behind gets a line that says how
    many events it missed. Exit status 1: the node has ended, or has dropped a reader that stopped.
    """
    try:
        for event in events_of(default_path() if path is None else path, kinds):
            if as_json:
                click.echo(json.dumps(event))
            elif event["event"] != "watching":
                click.echo(printable(_event_line(event)))
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        raise SystemExit(0) from None  # the next program of a pipe has seen enough
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None


def _event_line(event: dict[str, Any]) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(event.get("time", 0)))
    return f"{when} {event['event'].replace('_', ' ')}: {_event_text(event)}"


def _event_text(event: dict[str, Any]) -> str:
    match event:
        case {"message": str(message)}:
            return message
        case {"changes": list(changes)}:
            return "; ".join(
                change_line(each["limit"], each["before"], each["after"]) for each in changes)
        case {"events": int(events)}:
            return f"{events} events"
        case {"what": str(what)}:
            reason = event.get("reason")
            return f"{what}{f', {reason}' if reason else ''}"
        case {"connection_id": str(name)}:
            inbound = event.get("inbound")
            way = "" if inbound is None else " inbound" if inbound else " outbound"
            known = [event.get("peer"), event.get("address")]
            after = f" after {event['seconds']:.1f} s" if "seconds" in event else ""
            return f"{name}{way}{after} {' '.join(filter(None, known))}".rstrip()
    return json.dumps(event)
