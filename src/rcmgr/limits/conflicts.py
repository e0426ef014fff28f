"""Limits that contradict each other or the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import SECTIONS, NodeLimits
from rcmgr.limits.scopes import DEFAULT, Limit, named_limits

__all__ = ["Conflict", "admitted_connections", "conflicts"]

_WATERMARK = "high watermark"
_WORDS = {
    "streams": "streams", "streams_inbound": "inbound streams",
    "streams_outbound": "outbound streams", "conns": "connections",
    "conns_inbound": "inbound connections", "conns_outbound": "outbound connections",
    "fd": "file descriptors", "memory": "bytes of memory",
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """The place of a limit, and a sentence on what would happen."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def conflicts(
    limits: NodeLimits,
    *,
    memory: int | None = None,
    fds: int | None = None,
    high_watermark: int | None = None,
    said: LimitsFile | None = None,
    usual: NodeLimits | None = None,
) -> list[Conflict]:
    """All limits that contradict each other or the machine.

    memory, fds: the machine's bytes, and how many descriptors the process may open. None: do not
        check against it.
    high_watermark: the number of connections up to which a connection manager lets the node grow.
    said: the file that `limits` were built from. Only limits that the file names are reported then:
        a default that a lower limit of the file overrules is no mistake. None: all limits.
    usual: the defaults. A limit of the file that has its default is as one that it leaves out.
    """
    found = [
        *_parts_above_wholes(limits),
        *_directions_above_totals(limits),
        *_nothing_at_all(limits),
        *_high_watermark(limits, high_watermark),
        *_connections(limits),
        *_machine(limits, memory, fds),
        *_subnets(limits),
    ]
    if said is None:
        return found
    places = {_WATERMARK, *_places_in(said, usual)}
    return [each for each in found if each.where in places or each.where.split(".")[0] in places]


def admitted_connections(limits: NodeLimits) -> tuple[int, str] | None:
    """How many connections the limits admit, and the limits that say so. None: no limit."""
    system, states = limits.scopes.system, limits.connections
    bounds = [
        (system.conns, "system.conns"),
        (_sum(system.conns_inbound, system.conns_outbound),
         "system.conns_inbound and system.conns_outbound together"),
        (states.max_established_total, "connections.max_established_total"),
        (_sum(states.max_established_inbound, states.max_established_outbound),
         "connections.max_established_inbound and connections.max_established_outbound together"),
    ]
    known = [(most, name) for most, name in bounds if most is not None]
    return min(known, key=lambda bound: bound[0], default=None)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _places_in(file: LimitsFile, usual: NodeLimits | None) -> Iterator[str]:
    """The limits that a file names, as `Conflict.where` has them. A whole section is one place.

    Limits that are as `usual` are left out.
    """
    scopes = {} if usual is None else dict(named_limits(usual.scopes))
    for name, limit in named_limits(file.scopes):
        for each in fields(Limit):
            value = getattr(limit, each.name)
            if value is not DEFAULT and value != getattr(scopes.get(name), each.name, DEFAULT):
                yield f"{name}.{each.name}"
    for section in SECTIONS:
        if section.name not in file.sections:
            continue
        said, default = file.sections[section.name], getattr(usual, section.name, DEFAULT)
        if not section.optional:
            yield from (
                f"{section.name}.{name}" for name, value in said.items()
                if value != getattr(default, name, DEFAULT))
        elif said != default:
            yield section.name


def _parts_above_wholes(limits: NodeLimits) -> Iterator[Conflict]:
    scopes = limits.scopes
    pairs: list[tuple[str, Limit, str, Limit]] = [
        ("transient", scopes.transient, "system", scopes.system),
        ("peer_default", scopes.peer_default, "system", scopes.system),
        ("service_peer_default", scopes.service_peer_default, "service_default",
         scopes.service_default),
        ("protocol_peer_default", scopes.protocol_peer_default, "protocol_default",
         scopes.protocol_default),
        ("allowlisted_transient", scopes.allowlisted_transient, "allowlisted_system",
         scopes.allowlisted_system),
    ]
    for kind in ("service", "protocol"):
        by_peer = getattr(scopes, f"{kind}_peer")
        for name, whole in getattr(scopes, kind).items():
            part = by_peer.get(name, getattr(scopes, f"{kind}_peer_default"))
            pairs.append((f"{kind}_peer[{name}]", part, f"{kind}[{name}]", whole))
        for name, part in by_peer.items():
            if name not in getattr(scopes, kind):
                whole = getattr(scopes, f"{kind}_default")
                pairs.append((f"{kind}_peer[{name}]", part, f"{kind}_default", whole))
    pairs += [
        (name, limit, "system", scopes.system)
        for name, limit in named_limits(scopes) if name.startswith("peer[")
    ]
    for part_name, part, whole_name, whole in pairs:
        for each in fields(Limit):
            inner, outer = getattr(part, each.name), getattr(whole, each.name)
            if not outer:  # no limit, or 0, which _nothing_at_all reports
                continue
            if inner is None or inner > outer:
                allows = "any number of" if inner is None else f"{inner}"
                yield Conflict(
                    f"{part_name}.{each.name}",
                    f"allows {allows} {_WORDS[each.name]} where {whole_name} has {outer}: "
                    f"one alone can use up {whole_name}, and its own limit is never reached",
                )


def _directions_above_totals(limits: NodeLimits) -> Iterator[Conflict]:
    for name, limit in named_limits(limits.scopes):
        for total in ("streams", "conns"):
            most = getattr(limit, total)
            for direction in ("inbound", "outbound"):
                value = getattr(limit, f"{total}_{direction}")
                if most is not None and value is not None and value > most > 0:
                    yield Conflict(
                        f"{name}.{total}_{direction}",
                        f"{value} is more than {total}, {most}: the total refuses first",
                    )


def _nothing_at_all(limits: NodeLimits) -> Iterator[Conflict]:
    for scope, needs in (
        ("system", ("streams", "conns")), ("transient", ("streams", "conns")),
        ("peer_default", ("streams", "conns")), ("protocol_default", ("streams",)),
        ("protocol_peer_default", ("streams",)), ("conn", ("conns",)), ("stream", ("streams",)),
    ):
        limit = getattr(limits.scopes, scope)
        by_name = getattr(limits.scopes, scope.removesuffix("_default"), {})
        if scope.startswith("protocol") and any(each.streams != 0 for each in by_name.values()):
            continue  # a list of the protocols that are allowed
        for need in needs:
            if getattr(limit, need) == 0 or (
                getattr(limit, f"{need}_inbound") == getattr(limit, f"{need}_outbound") == 0
            ):
                yield Conflict(f"{scope}.{need}", f"is 0: no {_WORDS[need]} are ever allowed")


def _high_watermark(limits: NodeLimits, high_watermark: int | None) -> Iterator[Conflict]:
    admitted = admitted_connections(limits)
    if high_watermark is not None and admitted is not None and high_watermark > admitted[0]:
        most, names = admitted
        yield Conflict(
            _WATERMARK,
            f"{high_watermark} is above {names}, {most}: connections are refused before the "
            "connection manager begins to trim",
        )


def _connections(limits: NodeLimits) -> Iterator[Conflict]:
    most = limits.scopes.system.conns
    states = limits.connections
    if most is not None:
        for name in ("max_established_total", "max_established_inbound", "max_established_outbound",
                     "max_established_per_peer", "max_pending_inbound", "max_pending_outbound"):
            value = getattr(states, name)
            if value is not None and value > most:
                yield Conflict(
                    f"connections.{name}",
                    f"{value} is above system.conns, {most}: the system scope refuses first",
                )
    inbound, outbound = states.max_established_inbound, states.max_established_outbound
    total = states.max_established_total
    if inbound is not None and outbound is not None and total is not None and (
        total > inbound + outbound
    ):
        yield Conflict(
            "connections.max_established_total",
            f"{total} is above max_established_inbound and max_established_outbound together, "
            f"{inbound + outbound}: it is never reached",
        )
    per_peer = states.max_established_per_peer
    if per_peer is not None and total is not None and per_peer > total:
        yield Conflict(
            "connections.max_established_per_peer",
            f"{per_peer} is above max_established_total, {total}: one peer can use up the node",
        )


def _machine(limits: NodeLimits, memory: int | None, fds: int | None) -> Iterator[Conflict]:
    system = limits.scopes.system
    if fds is not None and (system.fd is None or system.fd > fds):
        allowed = "any number" if system.fd is None else f"{system.fd}"
        yield Conflict(
            "system.fd",
            f"allows {allowed} where the process may open {fds}: accept() and connect() fail "
            'with "too many open files" before a limit refuses',
        )
    if memory is not None and system.memory is not None and system.memory > memory:
        yield Conflict(
            "system.memory",
            f"{system.memory} is more than the {memory} bytes there are: the process is killed "
            "before the limit refuses",
        )
    if memory is not None and limits.memory.max_bytes is not None:
        most = limits.memory.max_bytes
        if most > memory:
            yield Conflict(
                "memory.max_bytes",
                f"{most} is more than the {memory} bytes there are: it is never reached",
            )


def _subnets(limits: NodeLimits) -> Iterator[Conflict]:
    if limits.subnets is None:
        return
    most = limits.scopes.system.conns
    for family in ("ipv4", "ipv6"):
        pairs = getattr(limits.subnets, family)  # longest prefix first
        for bits, limit in pairs:
            if limit is not None and most is not None and limit > most > 0:
                yield Conflict(
                    f"subnets.{family}[/{bits}]",
                    f"{limit} is above system.conns, {most}: one network can use up the node",
                )
        for (narrow, inner), (wide, outer) in pairwise(pairs):
            if inner is not None and outer is not None and inner > outer:
                yield Conflict(
                    f"subnets.{family}[/{narrow}]",
                    f"{inner} is more than a /{wide} around it may have, {outer}: never reached",
                )
