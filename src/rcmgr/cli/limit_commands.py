"""`rcmgr limits`: the limits of a node, where they come from, and whether they make sense."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click

from rcmgr.cli.limit_files import change_line, read_limits_file, read_scaling_file
from rcmgr.errors import printable
from rcmgr.limits.changes import differences
from rcmgr.limits.conflicts import admitted_connections, conflicts
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.machine import total_memory
from rcmgr.limits.node import SECTIONS, NodeLimits
from rcmgr.limits.scopes import (
    DEFAULT,
    DEFAULT_LIMITS,
    Limit,
    PartialLimits,
    autoscale,
    named_limits,
    soft_fd_limit,
)
from rcmgr.limits.sizes import parse_size
from rcmgr.limits.toml_writer import to_toml

from .node_socket import ask_node, socket_option

__all__ = ["limits"]

LIBP2P_HIGH_WATERMARK: Final = 300
"""The `HIGH_WATERMARK` of libp2p.network.config: above it, a swarm closes idle connections."""
_COLUMNS = (  # the field, and two lines of its title
    ("streams_inbound", "streams", "in"), ("streams_outbound", "", "out"), ("streams", "", "all"),
    ("conns_inbound", "conns", "in"), ("conns_outbound", "", "out"), ("conns", "", "all"),
    ("fd", "", "fd"), ("memory", "", "memory"),
)
_WIDTH = 80
"""Columns of the output, in a terminal of any width."""
_LONG = 10**7
_MARKS = {"default": " ", "scaled": "+", "file": "*"}
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """Bytes: 8GiB, 512 MiB, 8GB (decimal), 1073741824."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        size = parse_size(str(value))
        if size is None:
            self.fail(f"{value!r} is not a size such as 8GiB or 512MiB", param, ctx)
        return size


class Machine(NamedTuple):
    memory: int
    fds: int


def _options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--lenient", is_flag=True,
            help="Read JSON like go-libp2p, which ignores unknown keys."),
        click.option(
            "--memory", type=Size(), metavar="SIZE",
            help="Memory of the machine, for example 8GiB. Default: this machine or container."),
        click.option(
            "--fds", type=click.IntRange(min=0), metavar="NUMBER",
            help="File descriptors that a process may open. Default: this process."),
    )[::-1]:
        command = option(command)
    return command


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _machine(memory: int | None, fds: int | None) -> Machine:
    return Machine(
        total_memory() or 0 if memory is None else memory, soft_fd_limit() if fds is None else fds
    )


def _read(path: Path | None, lenient: bool) -> LimitsFile:
    return LimitsFile() if path is None else read_limits_file(path, lenient=lenient)


class Row(NamedTuple):
    """One limit of one scope."""

    scope: str
    field: str
    value: int | None
    origin: str


def _rows(file: LimitsFile, machine: Machine) -> list[Row]:
    scaled = autoscale(memory=machine.memory, fds=machine.fds)
    bases = {name: limit.base for name, limit in named_limits(DEFAULT_LIMITS)}
    changed = dict(named_limits(file.scopes))
    rows = []
    for name, limit in named_limits(file.scopes.build(scaled)):
        of_class = f"{name.partition('[')[0]}_default"
        base = bases.get(name) or bases[of_class]
        # a name without default limits has the limits of its class, which the file may change
        said = [changed.get(name), None if name in bases else changed[of_class]]
        for each in fields(Limit):
            value = getattr(limit, each.name)
            if any(getattr(part, each.name, DEFAULT) is not DEFAULT for part in said):
                origin = "file"
            elif getattr(base, each.name) == value:
                origin = "default"
            else:
                origin = "scaled"
            rows.append(Row(name, each.name, value, origin))
    return rows


def _shown(field: str, value: int | None) -> str:
    if value is None:
        return "-"
    if field != "memory" or value < 1 << 20:
        return str(value) if value < _LONG else f"{value:.2g}"
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if value >= 1 << shift:
            return f"{value / (1 << shift):.4g} {unit}"
    return str(value)


def _table(rows: list[Row]) -> Iterator[str]:
    scopes: dict[str, dict[str, str]] = {}
    for row in rows:
        shown = _shown(row.field, row.value) + _MARKS[row.origin]
        scopes.setdefault(row.scope, {})[row.field] = shown
    widths = {
        field: max(len(title) + 1, *(len(cells[field]) for cells in scopes.values()))
        for field, _, title in _COLUMNS
    }

    # a longer name has its own line
    room = _WIDTH - sum(width + 1 for width in widths.values())

    def line(name: str, cells: dict[str, str]) -> str:
        numbers = (f" {cells[field]:>{width}}" for field, width in widths.items())
        return f"{name:<{room}}{''.join(numbers)}".rstrip()

    yield line("", {field: f"{group} " for field, group, _ in _COLUMNS})
    yield line("", {field: f"{title} " for field, _, title in _COLUMNS})
    for scope, cells in scopes.items():
        name = printable(scope)
        if len(name) > room:
            yield name if len(name) <= _WIDTH else f"{name[:_WIDTH - 3]}..."
        yield line(name if len(name) <= room else "", cells)


def _section_lines(title: str, values: Any) -> Iterator[str]:
    """A section of a file, with as many lines as it needs."""
    yield from textwrap.wrap(
        f"{title}: {json.dumps(values)}", _WIDTH, subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False)


@click.group()
def limits() -> None:
    """Show, write, check and compare the limits of a node."""


@limits.command()
@click.argument("file", type=_FILE, required=False)
@_options
@click.option("--json", "as_json", is_flag=True, help="Print every limit and its origin as JSON.")
def show(
    file: Path | None, memory: int | None, fds: int | None, lenient: bool, as_json: bool
) -> None:
    """Show the effective limits and their origin, also of FILE."""
    machine = _machine(memory, fds)
    read = _read(file, lenient)
    rows = _rows(read, machine)
    if as_json:
        tree: dict[str, Any] = {"memory": machine.memory, "fds": machine.fds, "scopes": {}}
        for row in rows:
            cell = {"limit": row.value, "origin": row.origin}
            tree["scopes"].setdefault(row.scope, {})[row.field] = cell
        click.echo(json.dumps(tree, indent=2))
        return
    click.echo(
        f"Machine: {_shown('memory', machine.memory)} of memory, {machine.fds} file descriptors.\n"
        "The limits use an eighth of the memory and half of the descriptors."
    )
    for line in _table(rows):
        click.echo(line)
    click.echo("+ scaled to the machine, * from the file, unmarked as on the smallest machine.")
    click.echo("- is no limit.")
    rest = LimitsFile.of(read.build(NodeLimits.default(memory=memory, fds=fds))).to_dict()
    for section in SECTIONS:
        origin = "file" if section.name in read.sections else "default"
        for line in _section_lines(f"{section.key} ({origin})", rest[section.key]):
            click.echo(line)


_TOML_HEADER = """\
# Limits of a node on a machine with {memory} of memory and {fds} file descriptors.
# A limit that is left out or commented out has its default, under RCMGR_LIMITS that of install().
# "unlimited": no limit. "blockAll": 0.
# `rcmgr limits check FILE` finds limits that contradict each other.
"""
_EDITED = (
    "system", "transient", "peer_default", "connections", "memory", "subnets", "rates",
    "peer_rates",
)
_MORE = "# `rcmgr limits scale --toml --all` also writes those of services and protocols.\n"


@limits.command()
@_options
@click.option("--config", type=_FILE, metavar="FILE",
              help="How limits grow with the machine: go-libp2p's ScalingLimitConfig.")
@click.option("--toml", is_flag=True, help="Write TOML, with the limits that people change.")
@click.option("--all", "everything", is_flag=True, help="Write all limits, as JSON always has.")
def scale(
    memory: int | None, fds: int | None, lenient: bool, config: Path | None, toml: bool,
    everything: bool,
) -> None:
    """Write the limits for a machine to standard output, as a file."""
    machine = _machine(memory, fds)
    node = default = NodeLimits.default(memory=machine.memory, fds=machine.fds)
    if config is not None:
        scaling = read_scaling_file(config, lenient=lenient)
        node = replace(
            node, scopes=autoscale(scaling, memory=machine.memory, fds=machine.fds))
    file = LimitsFile.of(node)
    if not toml:
        click.echo(file.to_json(), nl=False)
        return
    header = _TOML_HEADER.format(memory=_shown("memory", machine.memory), fds=machine.fds)
    if not everything:
        header += _MORE
        file = LimitsFile(
            _edited_scopes(file.scopes, default.scopes.to_partial()),
            _edited_sections(file, LimitsFile.of(default)))
    click.echo(f"{header}\n{file.to_toml()}", nl=False)


def _edited_sections(file: LimitsFile, default: LimitsFile) -> dict[str, Any]:
    """As `_edited_scopes`. Values that are as in `NodeLimits()` are left to other defaults."""
    kept: dict[str, Any] = {}
    for section in SECTIONS:
        said = file.sections[section.name]
        if section.name not in _EDITED and said == default.sections[section.name]:
            continue
        if not section.optional:
            usual = section.kind()
            said = {name: value for name, value in said.items() if value != getattr(usual, name)}
        kept[section.name] = said
    return kept


def _edited_scopes(scopes: PartialLimits, default: PartialLimits) -> PartialLimits:
    """The limits that people change, and all that differ from the default."""
    kept: dict[str, Any] = {
        name: getattr(scopes, name) for name in scopes.scopes()
        if name in _EDITED or getattr(scopes, name) != getattr(default, name)
    }
    for mapping in scopes.MAPPINGS:
        before = getattr(default, mapping)
        kept[mapping] = {
            key: limit for key, limit in getattr(scopes, mapping).items()
            if limit != before.get(key)}
    return PartialLimits(**kept)


@limits.command()
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def running(path: Path | None, as_json: bool) -> None:
    """Write the limits of a running node to standard output, as a file.

    So changes by `rcmgr set` outlive the node: rcmgr limits running > node.toml
    """
    tree = ask_node(path, "limits")
    if as_json:
        click.echo(json.dumps(tree, indent=2))
    else:
        click.echo(to_toml(tree), nl=False)


@limits.command()
@click.argument("file", type=_FILE, required=False)
@_options
@click.option("--high-watermark", type=click.IntRange(min=0), metavar="NUMBER",
              help="Most connections that the connection manager keeps.")
def check(
    file: Path | None, memory: int | None, fds: int | None, lenient: bool,
    high_watermark: int | None,
) -> None:
    """Find limits that contradict each other or the machine.

    Exit status: 0 without conflicts, 1 with conflicts, 2 if FILE cannot be read.
    """
    machine = _machine(memory, fds)
    read = _read(file, lenient)
    usual = NodeLimits.default(memory=machine.memory, fds=machine.fds)
    node = read.build(usual)
    found = conflicts(
        node, memory=machine.memory, fds=machine.fds, high_watermark=high_watermark, said=read,
        usual=usual)
    for conflict in found:
        click.echo(str(conflict))
    admitted = admitted_connections(node)
    if high_watermark is None and admitted is not None and admitted[0] < LIBP2P_HIGH_WATERMARK:
        click.echo(
            f"note: py-libp2p trims above {LIBP2P_HIGH_WATERMARK} connections by default, and "
            f"{admitted[1]} admit {admitted[0]}: it never trims. Set high_watermark of its "
            "ConnectionConfig to fewer.", err=True)
    if found:
        raise SystemExit(1)
    click.echo("no conflicts")


@limits.command()
@click.argument("file", type=_FILE)
@click.argument("other", type=_FILE, required=False)
@_options
def diff(
    file: Path, other: Path | None, memory: int | None, fds: int | None, lenient: bool
) -> None:
    """Compare FILE with the defaults, or OTHER with FILE."""
    machine = _machine(memory, fds)
    fallback = NodeLimits.default(memory=machine.memory, fds=machine.fds)
    first = fallback if other is None else _read(file, lenient).build(fallback)
    second = _read(file if other is None else other, lenient).build(fallback)
    found = differences(first, second)
    for change in found:
        click.echo(change_line(*change))
    if not found:
        click.echo("no differences")
