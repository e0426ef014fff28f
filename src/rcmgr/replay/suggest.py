"""Limits for a node, from what its record has measured, as a file that a person edits."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import correlation, linear_regression
from typing import Any, Final

from rcmgr.limits.files import LimitsFile
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.scope_values import FIELDS
from rcmgr.limits.scopes import DEFAULT_LIMITS, named_limits
from rcmgr.limits.sizes import size_text
from rcmgr.replay.gauges import Gauge, least_burst, quantile
from rcmgr.replay.survey import PREFIXES, Survey

__all__ = ["Suggestions", "connections_that_fit", "memory_of_connection", "suggest"]

_WIDTH: Final = 98
_MOST_PROTOCOLS: Final = 40
_LEAST: Final = {
    "conns": 16, "conns_inbound": 16, "conns_outbound": 16, "fd": 32, "streams": 64,
    "streams_inbound": 32, "streams_outbound": 32, "memory": 1 << 20,
}
"""Limits below these would leave no room for a node to work. Peers and protocols have an eighth."""
_SCOPES: Final = (
    ("System", "system", "the whole node"),
    ("Transient", "transient", "handshakes, and streams without a protocol"),
    ("PeerDefault", "peer_default", "each peer"),
)
_TITLES: Final = {name: key for key, name in FIELDS.items()}
_WHOLES: Final = {
    "transient": "system", "peer_default": "system", "protocol_peer": "protocol",
    "service_peer": "service",
}
"""The scope whose limits bound those of another one."""
_DEFAULTS: Final = {name: limit.base for name, limit in named_limits(DEFAULT_LIMITS)}
"""The default limits on the smallest machine."""
_OTHERS: Final = "(others)"
_SHORT_S: Final = 3600
"""A shorter record says little about a node."""
_ENOUGH_CONNECTIONS: Final = 8
_ENOUGH_SAMPLES: Final = 10
_ENOUGH_FIT: Final = 0.5
"""Memory of a connection is measured if the number of connections varies by this, in so many
samples. It must also explain this part of the changes of memory."""


@dataclass(slots=True)
class Line:
    """One limit, and why."""

    key: str
    value: float | int | str
    reason: str

    def text(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else json.dumps(self.value)
        return f"{self.key} = {value}"


@dataclass(slots=True)
class Suggestions:
    """A limits file in the making."""

    head: list[str] = field(default_factory=list)
    sections: dict[str, tuple[str, list[Line]]] = field(default_factory=dict)

    def add(self, section: str, title: str, line: Line) -> None:
        self.sections.setdefault(section, (title, []))[1].append(line)

    def to_toml(self) -> str:
        lines = [line for part in self.head for line in _comment(part)]
        for section, (title, limits) in self.sections.items():
            lines += ["", f"[{section}] # {title}"]
            for limit in limits:
                lines += [*_comment(limit.reason), limit.text()]
        return "\n".join(lines) + "\n"

    def file(self) -> LimitsFile:
        return LimitsFile.from_toml(self.to_toml())


def suggest(
    found: Survey, *, headroom: float = 1.5, percentile: float = 99.9, memory: int = 2 << 30
) -> Suggestions:
    """Limits for the demand of a record.

    headroom: how many times the tail a limit allows, 1 or more. percentile: where the tail begins,
    above 50 and up to 100. A limit is never below the peak of the record.
    memory: bytes. The head of the file says how many connections fit into them.
    """
    made = Suggestions()
    maker = _Maker(found, headroom, percentile, memory, made)
    maker.write_head()
    for section, scope, title in _SCOPES:
        maker.write_scope(section, scope, title)
    maker.write_names()
    maker.write_leaves()
    maker.write_networks()
    maker.write_rates()
    return made


@dataclass(slots=True)
class _Maker:
    survey: Survey
    headroom: float
    percentile: float
    memory: int
    made: Suggestions
    values: dict[str, int] = field(default_factory=dict)
    """The suggestions so far, by place."""

    def write_head(self) -> None:
        found = self.survey
        seconds = max(0, found.end - found.begin) / 1e9
        head = self.made.head
        head.append(
            f"Limits from a record of {_duration(seconds)}, from {self._when(found.begin)} to "
            f"{self._when(found.end)}: {_many(found.events, 'event')}.")
        head.append(
            f"Each limit is {self.headroom:g} times what {self.percentile:g} % of the time (of the "
            "peers, of the networks) needed, and never below the peak.")
        head.append("What it cannot know: " + " ".join(_unknown(found, seconds)))
        head.append(self._memory_text())
        if found.refused:
            worst = ", ".join(f"{code} {times:,}" for code, times in found.refused.most_common(5))
            head.append(
                f"The node refused requests, so it may have needed more than this shows: {worst}.")
        if not found.gauges:
            head.append("The record shows no use of the node, so there is nothing to suggest.")
            return
        head.append("Try it: rcmgr replay RECORD --limits THIS_FILE. A limit that is left out has "
                    "its default.")

    def _memory_text(self) -> str:
        measured = memory_of_connection(self.survey)
        if measured is None:
            return (
                "Memory of a connection: not measured. Too few connections came and went, or other "
                "things moved the memory of the process.")
        each, rest = measured
        return (
            f"Memory, measured: {_bytes(each)} of the process for each connection with its "
            f"streams, and {_bytes(rest)} without any. So about "
            f"{connections_that_fit(self.memory, measured):,} connections fit into "
            f"{_bytes(self.memory)}.")

    def write_scope(self, section: str, scope: str, title: str) -> None:
        for name in FIELDS.values():
            place = f"{scope}.{name}"
            if scope == "peer_default":
                line = self._of_peers(place, name, "peer")
            else:
                line = self._of_time(place, name)
            if line is not None:
                self.made.add(section, title, line)

    def write_names(self) -> None:
        """Limits of the protocols and services that were used most."""
        for kind, section in (("protocol", "Protocol"), ("service", "Service")):
            peaks = {
                place[len(kind) + 1:].rpartition("].")[0]: gauge.peak
                for place, gauge in self.survey.gauges.items()
                if place.startswith(f"{kind}[") and place.endswith("].streams")}
            others = peaks.pop(_OTHERS, 0)
            for rank, name in enumerate(sorted(peaks, key=lambda each: -peaks[each])):
                if rank < _MOST_PROTOCOLS or self._exceeds_default(kind, name):
                    self._write_name(kind, name, f'{section}.{json.dumps(name)}',
                                     f'{section}Peer.{json.dumps(name)}')
            if others and self._exceeds_default(kind, _OTHERS):
                self._write_name(kind, _OTHERS, f"{section}Default", f"{section}PeerDefault")

    def _exceeds_default(self, kind: str, name: str) -> bool:
        """Whether the default limits would refuse a part of the demand."""
        for scope, measured in (
            (kind, self.survey.gauges), (f"{kind}_peer", self.survey.peers),
        ):
            default = _DEFAULTS.get(f"{scope}[{name}]", _DEFAULTS[f"{scope}_default"])
            for each in FIELDS.values():
                found = measured.get(f"{scope}[{name}].{each}")
                if found is not None and found.needed > getattr(default, each):
                    return True
        return False

    def _write_name(self, kind: str, name: str, section: str, peer_section: str) -> None:
        whom = f"this {kind}" if name != _OTHERS else f"each {kind} without a section"
        for each in FIELDS.values():
            line = self._of_time(f"{kind}[{name}].{each}", each, part=8)
            if line is not None:
                self.made.add(section, f"{whom}, of all peers", line)
        for each in FIELDS.values():
            line = self._of_peers(f"{kind}_peer[{name}].{each}", each, "peer")
            if line is not None:
                self.made.add(peer_section, "the same, of each peer", line)

    def write_leaves(self) -> None:
        for section, leaf in (("Conn", "conn"), ("Stream", "stream")):
            most = self.survey.leaves[leaf]
            if most:
                value = _rounded(most * self.headroom, "memory")
                self.made.add(section, f"each {'connection' if leaf == 'conn' else leaf}", Line(
                    "Memory", _shown(value, "memory"), f"the most needed {_bytes(most)}"))

    def write_networks(self) -> None:
        """How many connections a network had at once. A wider network has as many at least."""
        networks, node = self.survey.networks, self.values.get("system.conns")
        if node is None or not any(each.most for each in networks.values()):
            return
        default = {**dict(SubnetLimits().ipv4), **dict(SubnetLimits().ipv6)}
        wider: dict[str, int] = {}
        for family, bits in sorted(PREFIXES, key=lambda prefix: prefix[1]):
            most = networks[family, bits].most
            tail, peak = quantile(most.values(), self.percentile), max(most.values(), default=0)
            usual = default[bits] or 0
            value = min(
                max(_rounded(max(tail * self.headroom, peak), ""), usual),
                wider.get(family, node))
            wider[family] = value
            reason = f"/{bits}: {_many(len(most), 'network')}"
            if most:
                reason += (
                    f"; the most had {peak:,}, {self.percentile:g} % of them up to {tail:,}")
            if value == usual:
                reason += " (the default)"
            self.made.add(
                f"Subnets.{family}", f"connections of each {_family(family)} network at once",
                Line(str(bits), value, reason))

    def write_rates(self) -> None:
        """How often a network, and a peer, began a connection."""
        default = {**dict(AddressRates().ipv4), **dict(AddressRates().ipv6)}
        for family, bits in PREFIXES:
            times = self.survey.arrivals[family, bits]
            if times:
                usual = default[bits]
                rate, burst, reason = self._rate(
                    times.values(), usual.refill_rate, usual.burst, f"/{bits}", "network")
                self.made.add(
                    f"Rates.{family}.{bits}",
                    f"how often each {_family(family)} network may connect",
                    Line("refill_rate", rate, reason))
                self.made.add(
                    f"Rates.{family}.{bits}", "",
                    Line("burst", burst, "connections at once, after a pause"))
        times = self.survey.peer_arrivals
        if times:
            rate, burst, reason = self._rate(times.values(), 0.2, 16, "a peer", "peer")
            self.made.add(
                "PeerRates.rate", "how often each peer may connect",
                Line("refill_rate", rate, reason))
            self.made.add(
                "PeerRates.rate", "", Line("burst", burst, "connections at once, after a pause"))

    def _rate(
        self, times: Iterable[Any], least_rate: float, least: int, what: str, whose: str
    ) -> tuple[float, int, str]:
        """A rate and a burst that admit all these arrivals of one network or peer each."""
        arrivals = list(times)
        seconds = max(3600.0, (self.survey.end - self.survey.begin) / 1e9)
        counts = [len(each) for each in arrivals]
        tail = quantile(counts, self.percentile)
        rate = max(least_rate, _nice(tail * self.headroom / seconds))
        bursts = [least_burst(each, rate) for each in arrivals if len(each) > 1] or [1]
        needed = max(bursts)
        burst = max(least, math.ceil(max(
            needed, self.headroom * quantile(bursts, self.percentile))))
        return rate, burst, (
            f"{what}: {_many(len(arrivals), whose)}, of which {self.percentile:g} % came up to "
            f"{_many(tail, 'time')}; at {rate:g} a second the worst needed a burst of {needed:,}"
            f"{' (the default is more)' if burst == least > needed else ''}")

    def _of_time(self, place: str, name: str, part: int = 1) -> Line | None:
        gauge = self.survey.gauges.get(place)
        if gauge is None or not gauge.peak:
            return None
        tail = gauge.tail(self.percentile)
        least = max(1, _LEAST[name] // part)
        value = max(_rounded(max(tail * self.headroom, gauge.needed), name), least)
        reason = (
            f"peak {_amount(gauge.peak, name)} ({self._when(gauge.peak_at)}), "
            f"{self._busy(gauge, name)}{self.percentile:g} % of the time up to "
            f"{_amount(tail, name)}{' (the least that makes sense)' if value == least else ''}")
        return Line(_TITLES[name], _shown(self._bounded(value, place), name), reason)

    def _of_peers(self, place: str, name: str, whose: str) -> Line | None:
        most = self.survey.peers[place].most if place in self.survey.peers else {}
        if not most:
            return None
        tail, peak = quantile(most.values(), self.percentile), max(most.values())
        least = max(1, _LEAST[name] // 8)
        needed = self.survey.peers[place].needed
        value = max(_rounded(max(tail * self.headroom, needed), name), least)
        reason = (
            f"{_many(len(most), whose)}: the most had "
            f"{_amount(peak, name)}, half of them up to "
            f"{_amount(quantile(most.values(), 50), name)}, {self.percentile:g} % up to "
            f"{_amount(tail, name)}{' (the least that makes sense)' if value == least else ''}")
        return Line(_TITLES[name], _shown(self._bounded(value, place), name), reason)

    def _bounded(self, value: int, place: str) -> int:
        """At most what the whole scope has, and both directions together."""
        scope, _, name = place.rpartition(".")
        kind, bracket, of_name = scope.partition("[")
        for whole in (
            f"{scope}.{name.partition('_')[0]}",
            f"{_WHOLES.get(kind, kind)}{bracket}{of_name}.{name}",
        ):
            value = min(value, self.values.get(whole, value))
        self.values[place] = value
        return value

    def _busy(self, gauge: Gauge, name: str) -> str:
        busy = gauge.busy_hour()
        if busy is None or self.survey.end - self.survey.begin < 3_600_000_000_000:
            return ""
        begin, mean = busy
        return f"busy hour from {self._when(begin)} (mean {_amount(math.ceil(mean), name)}), "

    def _when(self, now: int) -> str:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(now / 1e9 + self.survey.offset))


def memory_of_connection(found: Survey) -> tuple[int, int] | None:
    """Bytes of the process for each connection, and without any connection.

    None: the number of connections did not vary enough, or memory did not follow it.
    """
    counts = [connections for connections, _, _ in found.memory]
    if len(counts) < _ENOUGH_SAMPLES or max(counts) - min(counts) < _ENOUGH_CONNECTIONS:
        return None
    sizes = [float(rss) for _, _, rss in found.memory]
    if min(sizes) == max(sizes) or correlation(counts, sizes) < math.sqrt(_ENOUGH_FIT):
        return None
    slope, rest = linear_regression(counts, sizes)
    return None if rest < 0 else (round(slope), round(rest))


def connections_that_fit(memory: int, measured: tuple[int, int]) -> int:
    """How many connections fit into so many bytes, by `memory_of_connection`."""
    each, rest = measured
    return max(0, (memory - rest) // max(1, each))


def _unknown(found: Survey, seconds: float) -> Iterator[str]:
    if seconds < _SHORT_S:
        yield f"{_duration(seconds)} are too short to set limits by: record a day at least."
    elif seconds < 86_400:
        yield f"{_duration(seconds)} say nothing of other hours and days."
    elif seconds < 7 * 86_400:
        yield f"{_duration(seconds)} say nothing of other days of the week."
    yield "A record without an attack says nothing of a flood. A recorded flood counts as demand."
    if found.evicted:
        yield f"{_many(found.evicted, 'connection')} made room for others, and might have stayed."


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(
        text, _WIDTH, break_long_words=False, break_on_hyphens=False)]


def _rounded(value: float, name: str) -> int:
    """Rounded up to a number that a person would write."""
    number = math.ceil(value)
    if name == "memory":
        unit = 1 << 20 if number >= 1 << 20 else 1 << 10
        return -(-number // unit) * unit
    if number < 100:
        return number
    step: int = 10 ** (len(str(number)) - 2)
    return -(-number // step) * step


def _nice(rate: float) -> float:
    """Rounded up to two digits."""
    if rate <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return round(math.ceil(rate / step) * step, 6)


def _shown(value: int, name: str) -> int | str:
    return size_text(value) if name == "memory" else value


def _amount(value: int, name: str) -> str:
    return _bytes(value) if name == "memory" else f"{value:,}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError(count)


def _family(family: str) -> str:
    return "IPv4" if family == "ipv4" else "IPv6"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
