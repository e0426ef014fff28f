"""`rcmgr suggest`: limits for a node from its record, or from watching it for some time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from rcmgr.cli.demo.command import finite
from rcmgr.cli.durations import Duration
from rcmgr.cli.limit_commands import Size
from rcmgr.cli.node_socket import ask_node, socket_option
from rcmgr.cli.replay_commands import RECORD, progress_bar, readable
from rcmgr.cli.terminal import tidy_on_signals
from rcmgr.limits.conflicts import conflicts
from rcmgr.limits.machine import total_memory
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.scopes import soft_fd_limit
from rcmgr.record.segments import segments
from rcmgr.replay.suggest import suggest as suggestions_from
from rcmgr.replay.survey import survey

__all__ = ["suggest"]


@click.command(short_help="Suggest limits for a node from its record.")
@click.argument("record", type=RECORD, required=False)
@socket_option
@click.option("--for", "seconds", type=Duration(365), default="10m", show_default=True,
              metavar="TIME", help="Without RECORD: how long to watch the running node.")
@click.option("--headroom", type=click.FloatRange(1, 1000), default=1.5, show_default=True,
              callback=finite, metavar="TIMES", help="How many times the tail a limit allows.")
@click.option("--percentile", type=click.FloatRange(50, 100), default=99.9, show_default=True,
              callback=finite, metavar="PERCENT", help="Where the tail begins.")
@click.option("--memory", type=Size(), metavar="SIZE",
              help="Say how many connections fit into this memory. Default: this machine's.")
def suggest(
    record: Path | None, path: Path | None, seconds: float, headroom: float, percentile: float,
    memory: int | None,
) -> None:
    """Write a limits file to standard output, with the reason for each limit.

    RECORD is a file of `rcmgr run --record` or `manager.record`, or a trace of go-libp2p. Without
    it, the running node whose status socket is at --socket is recorded for some time.

    Exit status: 0, 1 if the limits contradict each other or this machine, or there is no node, 2 if
    RECORD cannot be read.
    """
    if record is None:
        with (
            tidy_on_signals(),
            tempfile.TemporaryDirectory(prefix="rcmgr-suggest-") as folder,
        ):
            made = _watch(path, Path(folder) / "node.rec", seconds)
            _write(made, headroom, percentile, memory)
    else:
        _write(record, headroom, percentile, memory)


def _watch(socket: Path | None, record: Path, seconds: float) -> Path:
    """Let a running node record itself for some time. Ctrl-C ends the time early."""
    ask_node(socket, "record", file=str(record), max_bytes=1 << 30)
    try:
        click.echo(f"watching the node for {seconds:g} s; Ctrl-C ends it early", err=True)
        time.sleep(seconds)
    except KeyboardInterrupt:
        click.echo("ended early", err=True)
    finally:
        ask_node(socket, "stop_recording")
    return record


def _write(record: Path, headroom: float, percentile: float, memory: int | None) -> None:
    with readable(record), progress_bar("measure") as show:
        found, history = survey(record, show)
    room = memory or total_memory() or 2 << 30
    made = suggestions_from(found, headroom=headroom, percentile=percentile, memory=room)
    click.echo(made.to_toml(), nl=False)
    for path in history.cut:
        click.echo(f"note: {path} ends in the middle of a frame", err=True)
    if not found.events:
        click.echo(f"note: {', '.join(map(str, segments(record)))}: no events", err=True)
    file = made.file()
    contradictions = conflicts(
        file.build(NodeLimits.default()), memory=total_memory(), fds=soft_fd_limit(), said=file)
    for conflict in contradictions:
        click.echo(str(conflict), err=True)
    if contradictions:
        raise SystemExit(1)
