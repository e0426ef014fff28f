"""The demand that a record shows: totals over time, and distributions over peers."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rcmgr.limits.networks import packed_ip, prefix_of
from rcmgr.record.frames import KNOWN, Frame, Header
from rcmgr.record.history import History
from rcmgr.record.settings import Settings, read_settings
from rcmgr.replay import events as kinds
from rcmgr.replay.events import EXEMPT, FD, INBOUND, Event, Tables
from rcmgr.replay.gauges import Gauge, limit_for
from rcmgr.replay.go_traces import GoTrace, is_go_trace

__all__ = ["PREFIXES", "Most", "Survey", "survey"]

PREFIXES: Final = (("ipv4", 32), ("ipv6", 56), ("ipv6", 48))
"""The networks that limits count: family and prefix length."""
_LOOPBACK: Final = b"\0" * 15 + b"\1"
_OTHERS: Final = "(others)"
_MOST_PROTOCOLS: Final = 256


class Most:
    """Amounts by key (a peer, a network, ...), and the most that each had at once."""

    def __init__(self) -> None:
        self._now: dict[Any, int] = {}
        self.most: dict[Any, int] = {}
        self.needed = 0
        """The least limit for each key that would have admitted everything."""

    def add(self, key: Any, change: int, priority: int = 255) -> None:
        value = self._now.get(key, 0) + change
        if value > 0:
            self._now[key] = value
            if value > self.most.get(key, 0):
                self.most[key] = value
            if change > 0:
                self.needed = max(self.needed, limit_for(value, priority))
        else:
            self._now.pop(key, None)


@dataclass(slots=True)
class _Connection:
    inbound: bool
    pending: bool
    fd: bool
    exempt: bool
    networks: tuple[tuple[int, bytes], ...]
    peer: Any = None
    memory: int = 0


@dataclass(slots=True)
class _Stream:
    inbound: bool
    exempt: bool
    peer: Any
    protocol: str | None = None
    service: str | None = None
    memory: int = 0


class Survey:
    """Measures the events of a record. Exempt connections and streams are left out.

    It counts what was granted. `refused` says what was asked for in vain.
    """

    def __init__(self) -> None:
        self.tables = Tables()
        self.events = 0
        self.begin = self.end = 0
        """Monotonic ns."""
        self.offset = 0.0
        """Unix time minus monotonic time, in seconds."""
        self.settings = Settings()
        """Those of the node, at the end of the record."""
        self.gauges: dict[str, Gauge] = {}
        """By place of a limit: "system.conns_inbound", "protocol[/a].streams", ..."""
        self.peers: dict[str, Most] = defaultdict(Most)
        """By place of a limit of each peer: "peer_default.streams_inbound", ..."""
        self.leaves: Counter[str] = Counter()
        """The least limit on the memory of each connection ("conn"), or stream, that would have
        admitted everything."""
        self.networks: dict[tuple[str, int], Most] = {prefix: Most() for prefix in PREFIXES}
        self.arrivals: dict[tuple[str, int], dict[bytes, array[int]]] = {
            prefix: defaultdict(lambda: array("q")) for prefix in PREFIXES}
        """Times in ns at which a network began an inbound connection."""
        self.peer_arrivals: dict[Any, array[int]] = defaultdict(lambda: array("q"))
        self.requests: dict[str, dict[Any, array[int]]] = {}
        """Times of requests by protocol and peer."""
        self.refused: Counter[str] = Counter()
        """By code of the limit."""
        self.memory: list[tuple[int, int, int]] = []
        """Connections, streams, and resident bytes of the process, once for each frame."""
        self.evicted = 0
        self._connections: dict[int, _Connection] = {}
        self._streams: dict[int, _Stream] = {}
        self._scopes_memory: Counter[Any] = Counter()
        self._counted: Counter[Any] = Counter()
        self._handlers = self._all_handlers()

    def start(self, header: Header) -> None:
        """A file of a record begins."""
        self.tables.begin(header)
        self.offset = header.wall - header.mono / 1e9
        if not self.begin:
            self.begin = self.end = header.mono
        if header.settings:
            self.settings = read_settings(header.settings)

    def take(self, frame: Frame) -> None:
        """Measure the events of the next frame."""
        for _, document in frame.settings:
            self.settings = read_settings(document)
        self.measure(self.tables.events(frame))
        if frame.rss:
            connections, streams = (
                0 if place not in self.gauges else self.gauges[place].value
                for place in ("system.conns", "system.streams"))
            self.memory.append((connections, streams, frame.rss))

    def measure(self, events: Iterable[Event]) -> None:
        handlers = self._handlers
        for event in events:
            self.events += 1
            self.end = max(self.end, event[2])
            handler = handlers.get(event[0])
            if handler is not None:
                handler(event)

    def finish(self) -> None:
        """Count the time up to the last event."""
        for gauge in self.gauges.values():
            gauge.settle(self.end)

    # -- counting ------------------------------------------------------------------------------

    def _gauge(self, place: str) -> Gauge:
        gauge = self.gauges.get(place)
        if gauge is None:
            gauge = self.gauges[place] = Gauge(self.begin)
        return gauge

    def _count(self, scope: str, what: str, inbound: bool, change: int) -> None:
        now = self.end
        self._gauge(f"{scope}.{what}").add(change, now)
        self._gauge(f"{scope}.{what}_{'inbound' if inbound else 'outbound'}").add(change, now)

    def _count_peer(self, scope: str, key: Any, what: str, inbound: bool, change: int) -> None:
        self.peers[f"{scope}.{what}"].add(key, change)
        self.peers[f"{scope}.{what}_{'inbound' if inbound else 'outbound'}"].add(key, change)

    def _hold(self, connection: _Connection, sign: int) -> None:
        """Count a connection in its scopes and states. sign: 1: it enters; -1: it leaves."""
        inbound = connection.inbound
        self._count("system", "conns", inbound, sign)
        if connection.fd:
            self._gauge("system.fd").add(sign, self.end)
        state = "pending" if connection.pending else "established"
        direction = "inbound" if inbound else "outbound"
        self._gauge(f"connections.max_{state}_{direction}").add(sign, self.end)
        if connection.pending:
            self._count("transient", "conns", inbound, sign)
            if connection.fd:
                self._gauge("transient.fd").add(sign, self.end)
        else:
            self._gauge("connections.max_established_total").add(sign, self.end)
            if connection.peer is not None:
                self._count_peer("peer_default", connection.peer, "conns", inbound, sign)
                if connection.fd:
                    self.peers["peer_default.fd"].add(connection.peer, sign)
        for at, network in connection.networks:
            self.networks[PREFIXES[at]].add(network, sign)

    def _networks_of(self, address: str | None) -> tuple[tuple[int, bytes], ...]:
        ip = None if address is None else packed_ip(address)
        if ip is None or ip[:1] == b"\x7f" or ip == _LOOPBACK:  # which no limit counts
            return ()
        family = "ipv4" if len(ip) == 4 else "ipv6"
        return tuple(
            (at, prefix_of(ip, bits)) for at, (of, bits) in enumerate(PREFIXES) if of == family)

    # -- handlers ------------------------------------------------------------------------------

    def _all_handlers(self) -> dict[int, Callable[[Event], None]]:
        return {
            **dict.fromkeys(
                (kinds.BEGIN, kinds.ESTABLISH, kinds.REPORT, kinds.TAKE_OVER, kinds.ACQUIRE,
                 kinds.CHARGE, kinds.SET_PEER), self._connection),
            kinds.NO_FD: self._no_fd, kinds.CLOSE: self._close, kinds.OPEN_STREAM: self._stream,
            kinds.PROTOCOL: self._protocol, kinds.SERVICE: self._service,
            kinds.CLOSE_STREAM: self._close_stream, kinds.TAKE_STREAM: self._counted_stream,
            kinds.GIVE_STREAM: self._counted_stream, kinds.FORGET_ALL: self._forget_all,
            kinds.CONN_MEMORY: self._conn_memory, kinds.GIVE_CONN_MEMORY: self._conn_memory,
            kinds.STREAM_MEMORY: self._stream_memory,
            kinds.GIVE_STREAM_MEMORY: self._stream_memory, kinds.MEMORY: self._scope_memory,
            kinds.GIVE_MEMORY: self._scope_memory, kinds.RATE: self._rate,
            kinds.EVICT: self._evict, kinds.PROCESS: self._process,
        }

    def _process(self, event: Event) -> None:
        self._was_refused(event)

    def _was_refused(self, event: Event) -> bool:
        if event[8] is not None:
            self.refused[event[8]] += 1
        return event[8] is not None

    def _connection(self, event: Event) -> None:
        kind, flags, now, number, peer, address, *_ = event
        inbound, exempt = bool(flags & INBOUND), bool(flags & EXEMPT)
        if self._was_refused(event):
            return
        known = self._connections.get(number)
        if known is None:
            if not flags & KNOWN:
                pending = kind in (kinds.BEGIN, kinds.CHARGE) and (
                    peer is None or kind == kinds.BEGIN)
                fd = kind != kinds.ESTABLISH and kind != kinds.REPORT
                if kind == kinds.CHARGE:
                    fd = bool(flags & FD)
                known = _Connection(
                    inbound, pending, fd, exempt, self._networks_of(address),
                    None if pending else peer)
                self._connections[number] = known
                if not exempt:
                    self._hold(known, 1)
                    self._arrived(known, now, peer)
            return
        if known.pending and kind not in (kinds.BEGIN, kinds.TAKE_OVER):
            if not known.exempt:
                self._hold(known, -1)
            known.pending, known.peer, known.exempt = False, peer, exempt
            if not exempt:
                self._hold(known, 1)
                if inbound and peer is not None:
                    self.peer_arrivals[peer].append(now)

    def _arrived(self, connection: _Connection, now: int, peer: Any) -> None:
        if not connection.inbound:
            return
        for at, network in connection.networks:
            self.arrivals[PREFIXES[at]][network].append(now)
        if not connection.pending and peer is not None:
            self.peer_arrivals[peer].append(now)

    def _no_fd(self, event: Event) -> None:
        connection = self._connections.get(event[3])
        if connection is not None and connection.fd:
            if not connection.exempt:
                self._hold(connection, -1)
            connection.fd = False
            if not connection.exempt:
                self._hold(connection, 1)

    def _close(self, event: Event) -> None:
        connection = self._connections.pop(event[3], None)
        if connection is None or connection.exempt:
            return
        if connection.memory:
            self._move_conn_memory(connection, -connection.memory)
        self._hold(connection, -1)

    def _stream(self, event: Event) -> None:
        _, flags, _, number, peer, *_ = event
        if self._was_refused(event):
            return
        stream = _Stream(bool(flags & INBOUND), bool(flags & EXEMPT), peer)
        self._streams[number] = stream
        if not stream.exempt:
            self._count("system", "streams", stream.inbound, 1)
            self._count("transient", "streams", stream.inbound, 1)
            self._count_peer("peer_default", peer, "streams", stream.inbound, 1)

    def _protocol(self, event: Event) -> None:
        stream = self._streams.get(event[3])
        if not self._was_refused(event) and stream is not None and stream.protocol is None:
            stream.protocol = self._bounded(event[6])
            if not stream.exempt:
                self._count("transient", "streams", stream.inbound, -1)
            self._count_named("protocol", stream.protocol, stream, 1)

    def _service(self, event: Event) -> None:
        stream = self._streams.get(event[3])
        if not self._was_refused(event) and stream is not None and stream.service is None:
            stream.service = event[6]
            self._count_named("service", stream.service, stream, 1)

    def _bounded(self, protocol: str) -> str:
        place = f"protocol[{protocol}].streams"
        known = place in self.gauges or len(self.gauges) < 3 * _MOST_PROTOCOLS
        return protocol if known else _OTHERS

    def _count_named(self, kind: str, name: str, stream: _Stream, sign: int) -> None:
        if stream.exempt:
            return
        self._count(f"{kind}[{name}]", "streams", stream.inbound, sign)
        self._count_peer(
            f"{kind}_peer[{name}]", stream.peer, "streams", stream.inbound, sign)

    def _close_stream(self, event: Event) -> None:
        stream = self._streams.pop(event[3], None)
        if stream is None or stream.exempt:
            return
        if stream.memory:
            self._move_stream_memory(stream, -stream.memory)
        self._count("system", "streams", stream.inbound, -1)
        self._count_peer("peer_default", stream.peer, "streams", stream.inbound, -1)
        if stream.protocol is None:
            self._count("transient", "streams", stream.inbound, -1)
        else:
            self._count_named("protocol", stream.protocol, stream, -1)
        if stream.service is not None:
            self._count_named("service", stream.service, stream, -1)

    def _counted_stream(self, event: Event) -> None:
        kind, flags, _, _, peer, *_ = event
        if self._was_refused(event) or flags & EXEMPT:
            return
        inbound, sign = bool(flags & INBOUND), 1 if kind == kinds.TAKE_STREAM else -1
        key = (peer, inbound)
        if sign < 0 and not self._counted[key]:
            return
        self._counted[key] += sign
        self._count("system", "streams", inbound, sign)
        self._count_peer("peer_default", peer, "streams", inbound, sign)

    def _forget_all(self, event: Event) -> None:
        for number in list(self._connections):
            self._close((0, 0, event[2], number, None, None, "", "", None, 0, 0))
        for number in list(self._streams):
            self._close_stream((0, 0, event[2], number, None, None, "", "", None, 0, 0))
        for (peer, inbound), count in list(self._counted.items()):
            self._count("system", "streams", inbound, -count)
            self._count_peer("peer_default", peer, "streams", inbound, -count)
        self._counted.clear()

    # -- memory --------------------------------------------------------------------------------

    def _conn_memory(self, event: Event) -> None:
        connection = self._connections.get(event[3])
        if self._was_refused(event) or connection is None or connection.exempt:
            return
        sign = 1 if event[0] == kinds.CONN_MEMORY else -1
        self._move_conn_memory(connection, sign * event[9], event[10])

    def _move_conn_memory(
        self, connection: _Connection, change: int, priority: int = 255
    ) -> None:
        connection.memory += change
        if change > 0:
            self.leaves["conn"] = max(
                self.leaves["conn"], limit_for(connection.memory, priority))
        self._gauge("system.memory").add(change, self.end, priority)
        if connection.peer is None:
            self._gauge("transient.memory").add(change, self.end, priority)
        else:
            self.peers["peer_default.memory"].add(connection.peer, change, priority)

    def _stream_memory(self, event: Event) -> None:
        stream = self._streams.get(event[3])
        if self._was_refused(event) or stream is None or stream.exempt:
            return
        sign = 1 if event[0] == kinds.STREAM_MEMORY else -1
        self._move_stream_memory(stream, sign * event[9], event[10])

    def _move_stream_memory(self, stream: _Stream, change: int, priority: int = 255) -> None:
        stream.memory += change
        if change > 0:
            self.leaves["stream"] = max(self.leaves["stream"], limit_for(stream.memory, priority))
        self._gauge("system.memory").add(change, self.end, priority)
        self.peers["peer_default.memory"].add(stream.peer, change, priority)
        if stream.protocol is None:
            self._gauge("transient.memory").add(change, self.end, priority)
            return
        for kind, name in (("protocol", stream.protocol), ("service", stream.service)):
            if name is not None:
                self._gauge(f"{kind}[{name}].memory").add(change, self.end, priority)
                self.peers[f"{kind}_peer[{name}].memory"].add(stream.peer, change, priority)

    def _scope_memory(self, event: Event) -> None:
        kind, _, now, _, peer, _, name, scope, *_ = event
        if self._was_refused(event) or scope.startswith("allowlisted"):
            return
        change, priority = event[9] if kind == kinds.MEMORY else -event[9], event[10]
        self._gauge("system.memory").add(change, now, priority)
        if scope == "transient":
            self._gauge("transient.memory").add(change, now, priority)
        elif scope == "peer":
            self.peers["peer_default.memory"].add(peer, change, priority)
        elif scope in ("protocol", "service"):
            self._gauge(f"{scope}[{name}].memory").add(change, now, priority)
        elif scope in ("protocol-peer", "service-peer"):
            whole = scope.partition("-")[0]
            self._gauge(f"{whole}[{name}].memory").add(change, now, priority)
            self.peers[f"{whole}_peer[{name}].memory"].add(peer, change, priority)

    # -- rates ---------------------------------------------------------------------------------

    def _rate(self, event: Event) -> None:
        if not self._was_refused(event) and event[4] is not None:
            by_peer = self.requests.setdefault(event[6], {})
            times = by_peer.get(event[4])
            if times is None:
                times = by_peer[event[4]] = array("q")
            times.append(event[2])

    def _evict(self, event: Event) -> None:
        self.evicted += 1


def survey(
    path: Path, progress: Callable[[History | GoTrace], None] | None = None
) -> tuple[Survey, History | GoTrace]:
    """Measure a record. OSError, RecordError, ValueError: as `replay`."""
    found = Survey()
    history = GoTrace(path) if is_go_trace(path) else History(path)
    for frame in history:
        if isinstance(frame, Header):
            found.start(frame)
        elif isinstance(frame, Frame):
            found.take(frame)
        else:
            if frame and not found.begin:
                found.begin = found.end = frame[0][2]
            found.measure(frame)
        if progress is not None:
            progress(history)
    found.finish()
    return found, history
