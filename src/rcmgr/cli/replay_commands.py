"""`rcmgr replay` and `suggest`: the record of a node under other limits, and limits from it."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rcmgr.cli.limit_files import read_limits_file
from rcmgr.errors import printable, printable_name
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits
from rcmgr.peers import peer_text
from rcmgr.record.frames import Header, RecordError
from rcmgr.record.history import History
from rcmgr.record.settings import read_settings
from rcmgr.replay.go_traces import is_go_trace
from rcmgr.replay.outcome import Difference, Refused
from rcmgr.replay.replay import Replay
from rcmgr.replay.replay import replay as replay_record

__all__ = ["RECORD", "progress_bar", "readable", "replay"]

_MOST_ROWS: Final = 20
_WIDTH: Final = 79
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


class RecordPath(click.Path):
    """A file that can be read more than once."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        path = Path(value)
        if value == "-" or (path.exists() and not (path.is_file() or path.is_dir())):
            self.fail(
                f"{value} is a pipe or a device. A record is read more than once: write it to a "
                "file first.", param, ctx)
        return super().convert(value, param, ctx)


RECORD: Final = RecordPath(exists=True, dir_okay=False, path_type=Path)


class UnusableRecord(click.ClickException):
    """Exit status 2: the record cannot be read."""

    exit_code = 2


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of a record end the command in one line."""
    try:
        yield
    except (RecordError, ValueError, ImportError) as error:
        raise UnusableRecord(str(error)) from error
    except OSError as error:
        raise UnusableRecord(f"{path}: {error.strerror or error}") from error


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[Any], None]]:
    """A bar on stderr, if it is a terminal. Its function takes a `History`."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(title)

        def show(history: Any) -> None:
            bar.update(task, total=max(1, history.bytes), completed=history.bytes_read)

        yield show


@click.command(short_help="Ask the recorded history of a node again, under other limits.")
@click.argument("record", type=RECORD)
@click.option("--limits", "limits_file", type=_FILE, metavar="FILE",
              help="The other limits. A limit that it leaves out is that of the record.")
@click.option("--lenient", is_flag=True, help="Read JSON limits like go-libp2p does.")
@click.option("--each", is_flag=True, help="Print each decision that differs, one a line.")
@click.option("--plot", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              metavar="FILE.svg", help="Draw use against limits over time.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def replay(
    record: Path, limits_file: Path | None, lenient: bool, each: bool, plot: Path | None,
    as_json: bool,
) -> None:
    """Say what other limits would have refused: when, to which peers, and by which setting.

    RECORD is a file of `rcmgr run --record` or `manager.record`, or a trace of go-libp2p. The same
    code that limits a node decides again, with the clock of the record. Without --limits, they are
    the limits that the node had.

    Exit status: 0 if nothing more is refused, 1 if something is, 2 if a file cannot be read, 130
    after Ctrl-C.
    """
    file = None if limits_file is None else read_limits_file(limits_file, lenient=lenient)
    with readable(record):
        limits = None if file is None else file.build(limits_of(record))
        with progress_bar("replay") as show:
            result = replay_record(
                record, limits, differences=1_000_000 if each else 0,
                progress=lambda so_far: show(so_far.history))
    named = "the limits of the record" if limits_file is None else str(limits_file)
    if as_json:
        click.echo(json.dumps(as_dict(result, each), indent=2))
    else:
        for line in report(result, record, named, file):
            for part in _wrapped(line):
                click.echo(part)
        for difference in result.outcome.differences:
            click.echo(_difference(result, difference))
    if plot is not None:
        _plot(result, plot, record, named)
    if not result.complete:
        raise SystemExit(130)
    if result.outcome.newly_refused:
        raise SystemExit(1)


def limits_of(record: Path) -> NodeLimits:
    """The limits of the node when its record began. For a trace of Go: the default limits."""
    if not is_go_trace(record):
        for frame in History(record):
            if isinstance(frame, Header) and frame.settings:
                return read_settings(frame.settings).limits
            break
    return NodeLimits.default()


def report(
    result: Replay, record: Path, named: str, file: LimitsFile | None
) -> Iterator[str]:
    """The result for a person."""
    seconds = max(0.0, result.end - result.begin)
    yield (
        f"{record}: {result.events:,} events in {_duration(seconds)}, {_when(result.begin)} to "
        f"{_when(result.end)}")
    yield from _warnings(result, file)
    outcome, refused = result.outcome, result.outcome.newly_refused
    yield f"{result.same:,} of {result.decisions:,} decisions are the same under {named}."
    if refused:
        yield f"Refused now, and not in the record: {refused:,}."
        groups = sorted(outcome.refused.values(), key=lambda group: -group.times)
        for group in groups[:_MOST_ROWS]:
            yield from _group(result, group)
        if len(groups) > _MOST_ROWS:
            yield f"  and {len(groups) - _MOST_ROWS} more limits"
    if outcome.newly_granted:
        by_code = ", ".join(f"{code} {times:,}" for code, times in outcome.granted.most_common(5))
        yield f"Granted now, and refused in the record: {outcome.newly_granted:,} ({by_code})."
        yield "  What they would have done later is not in the record: each ends at once."
    if outcome.other_limit:
        yield f"Refused in both, by another limit: {outcome.other_limit:,}."
    if not (refused or outcome.newly_granted or outcome.other_limit):
        yield "Nothing would have changed."


def _warnings(result: Replay, file: LimitsFile | None) -> Iterator[str]:
    history, skipped = result.history, result.player.skipped
    if not result.complete:
        yield "Interrupted: the rest of the record was not replayed."
    for path in history.cut:
        yield f"{path} ends in the middle of a frame: what follows is lost."
    missing = history.dropped + history.lost
    if missing:
        yield f"{missing:,} events are missing, because the disk was slow or full."
    if any(result.held_before):
        conns = sum(result.held_before[3:5])
        streams = sum(result.held_before[1:3])
        yield (
            f"The node had {conns:,} connections and {streams:,} streams before the record began. "
            "They do not count here.")
    for reason, text in (
        ("machine", "decisions depended on the memory of the process, on evictions, or on a fleet"),
        ("before the record", "decisions were about what began before the record"),
        ("contradiction", "events contradict others: the record is damaged"),
        ("follows a refusal", "decisions were not asked: a refusal had ended what they are about"),
    ):
        if skipped[reason]:
            yield f"{skipped[reason]:,} {text}."
    if result.player.evicted:
        yield (
            f"{result.player.evicted:,} connections made room for others in the record. Here a "
            "full limit refuses instead.")
    if file is not None and _names_networks(file):
        yield (
            "The limits name peers or networks. Hashes in the record do not match them: record "
            "with --identities.")


def _names_networks(file: LimitsFile) -> bool:
    from rcmgr.limits.networks import LOOPBACK

    named: set[str] = set()
    for section in ("subnets", "rates"):
        value = file.sections.get(section)
        if value is not None:
            named |= set(value.overrides)
    return bool(named - set(LOOPBACK)) or bool(file.scopes.peer)


def _group(result: Replay, group: Refused) -> Iterator[str]:
    what = ", ".join(f"{times:,} {name}" for name, times in group.what.most_common(3))
    yield f"  {group.times:,} by {group.code} ({what})"
    yield f"    from {_when(result.wall(group.first_ns))} to {_when(result.wall(group.last_ns))}"
    if group.setting:
        yield f"    see {printable_name(group.setting)}"
    whom = [f"peer {_peer(peer)} ({times:,})" for peer, times in group.peers.most_common(2)]
    whom += [f"{address} ({times:,})" for address, times in group.addresses.most_common(2)]
    if whom:
        yield f"    most of: {', '.join(whom)}"
    yield f"    the first: {printable(group.message.partition('; see ')[0])}"


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(
        line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _difference(result: Replay, difference: Difference) -> str:
    whom = [] if difference.peer is None else [f"peer {_peer(difference.peer)}"]
    whom += [difference.address] if difference.address else []
    return (
        f"{_when(result.wall(difference.time_ns))} {difference.what} {' '.join(whom)}: "
        f"{difference.recorded or 'granted'} -> {difference.replayed or 'granted'}")


def as_dict(result: Replay, each: bool) -> dict[str, Any]:
    """The result, ready for JSON."""
    outcome = result.outcome
    tree: dict[str, Any] = {
        "events": result.events, "begin": result.begin, "end": result.end,
        "complete": result.complete, "cut": [str(path) for path in result.history.cut],
        "missing_events": result.history.dropped + result.history.lost,
        "decisions": result.decisions, "same": result.same,
        "refused_by_another_limit": outcome.other_limit,
        "newly_refused": [
            {
                "code": group.code, "setting": group.setting, "times": group.times,
                "first": result.wall(group.first_ns), "last": result.wall(group.last_ns),
                "what": dict(group.what), "message": group.message,
                "peers": {_peer(peer): times for peer, times in group.peers.most_common(10)},
                "addresses": dict(group.addresses.most_common(10)),
            }
            for group in sorted(outcome.refused.values(), key=lambda group: -group.times)],
        "newly_granted": dict(outcome.granted),
        "not_replayed": dict(result.player.skipped), "evicted_in_record": result.player.evicted,
    }
    if each:
        tree["differences"] = [
            {
                "time": result.wall(one.time_ns), "what": one.what, "recorded": one.recorded,
                "replayed": one.replayed, "address": one.address,
                "peer": None if one.peer is None else _peer(one.peer),
            }
            for one in outcome.differences]
    return tree


def _plot(result: Replay, path: Path, record: Path, named: str) -> None:
    from rcmgr.replay.plot import draw

    try:
        draw(result, path, f"{record.name} under {named}")
    except (ImportError, ValueError, OSError) as error:
        raise UnusableRecord(str(error)) from error
    click.echo(f"drawn to {path}", err=True)


def _peer(peer: Any) -> str:
    """A peer for people: its hash, or its id."""
    if isinstance(peer, bytes) and len(peer) == 8:
        return peer.hex()
    return printable_name(peer_text(peer))


def _when(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
