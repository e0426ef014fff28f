"""The events of a record, asked again of a real manager whose clock is that of the record."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import Any, Final

from rcmgr.counting.connection_tracker import ConnectionRecord
from rcmgr.counting.scope import ConnScope, StreamScope
from rcmgr.gates.bans import Subject
from rcmgr.gates.penalties import Offence
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.networks import Network
from rcmgr.limits.node import NodeLimits
from rcmgr.manager import ResourceManager
from rcmgr.record.frames import KNOWN, Frame, Header
from rcmgr.record.settings import Settings, read_settings
from rcmgr.replay import events as kinds
from rcmgr.replay.events import BY_BOX, EXEMPT, FD, INBOUND, Event, Tables

__all__ = ["NOT_ASKED", "Player"]

# the steps of a connection, as in admission.pxd
_STEPS: Final = {
    kinds.BEGIN: 1 | 2 | 8 | 16 | 32,
    kinds.ESTABLISH: 1 | 2 | 4 | 8 | 16,
    kinds.REPORT: 2 | 8 | 16 | 64,
    kinds.TAKE_OVER: 1 | 4,
    kinds.ACQUIRE: 1 | 2 | 4 | 8,
}
_OF_A_PEER: Final = frozenset((kinds.ESTABLISH, kinds.REPORT, kinds.TAKE_OVER))
NOT_ASKED: Final = object()
"""Instead of an answer: the event could not be asked again."""
_BY_THE_MACHINE: Final = frozenset(("memory.process", "eviction.rate", "connection.evicted"))
"""Codes of refusals that a replay cannot repeat: they depend on the memory of the process, or on
the room that a full node makes. Refusals by a fleet depend on other nodes."""
_VIEWS: Final[dict[str, Callable[..., Any]]] = {
    "system": lambda ledger, name, peer: ledger.system(),
    "transient": lambda ledger, name, peer: ledger.transient(),
    "allowlistedSystem": lambda ledger, name, peer: ledger.allowlisted_system(),
    "allowlistedTransient": lambda ledger, name, peer: ledger.allowlisted_transient(),
    "service": lambda ledger, name, peer: ledger.service(name),
    "protocol": lambda ledger, name, peer: ledger.protocol(name),
    "peer": lambda ledger, name, peer: ledger.peer(peer),
    "service-peer": lambda ledger, name, peer: ledger.service_peer(name, peer),
    "protocol-peer": lambda ledger, name, peer: ledger.protocol_peer(name, peer),
}

Asked = Callable[[Event, "object"], None]
"""Takes an event, and the answer of the replay: True, a handle, a refusal, or `NOT_ASKED`."""


class Player:
    """Asks a manager again what a node was asked.

    limits: those of the replay. None: those that the node had, with their changes.
    asked: takes each decision and its answer, except those that both granted.

    A connection or stream that the replay refuses has no later events, and such a peer opens no
    streams. If only the record refused it, it ends at once. Both sides decide the same until they
    first differ. A replay does not know the memory of the process, and a full node makes no room.
    """

    def __init__(self, limits: NodeLimits | None, asked: Asked) -> None:
        self._now = [0]
        self.manager = ResourceManager(NodeLimits(), fleet="", clock=lambda: self._now[0])
        self._quiet()
        self.own_limits = limits is None
        if limits is not None:
            self.manager.node_limits = _replayable(limits)
        self._asked = asked
        self._tables = Tables()
        self._pending_settings: dict[int, Settings] = {}
        self._connections: dict[int, ConnectionRecord | ConnScope] = {}
        self._streams: dict[int, StreamScope] = {}
        self._views: dict[tuple[str, str, Any], Any] = {}
        # a pending connection whose end comes next, unless its refusal does
        self._ending: int | None = None
        self._started = False
        # the record holds it, and the replay does not, because it refused
        self._missing: Counter[Any] = Counter()
        self._taken: Counter[Any] = Counter()  # streams without a handle, which both hold
        self._unconnected: Counter[Hashable] = Counter()
        self._peer_of_refused: dict[int, Hashable] = {}
        self.skipped: Counter[str] = Counter()
        """Events that could not be asked again, by reason: "follows a refusal", "machine",
        "before the record", "contradiction"."""
        self._all_handlers = self._handlers()
        self.agreed = 0
        """Decisions that the record and the replay granted."""
        self.evicted = 0
        """Connections that made room for others in the record."""

    @property
    def now_ns(self) -> int:
        """The time of the replay, on the clock of the record."""
        return self._now[0]

    def _quiet(self) -> None:
        """A replay logs nothing: its refusals are its result."""
        logger = logging.Logger("rcmgr replay", logging.CRITICAL + 1)
        for denials in (self.manager.denials, self.manager.would_deny):
            denials.report_to(logger, _ignore, _ignore)
        self.manager._offence_log = _NoLog()

    def begin(self, header: Header) -> None:
        """A file begins. Handles of the file before it are still there."""
        self._tables.begin(header)
        if not self._started:
            self._now[0] = header.mono
        if header.settings:
            self._apply(read_settings(header.settings))

    def play(self, frame: Frame) -> None:
        """Ask the events of the next frame."""
        self._pending_settings = {
            number: read_settings(document) for number, document in frame.settings}
        self.play_events(self._tables.events(frame))
        for settings in self._pending_settings.values():  # their event was dropped
            self._apply(settings)

    def play_events(self, events: Iterable[Event]) -> None:
        """Ask these events."""
        now, asked, agreed = self._now, self._asked, 0
        handlers = self._all_handlers
        for event in events:
            now[0] = event[2]
            try:
                if self._ending is None:
                    answer = handlers[event[0]](event)
                else:
                    answer = self._after_end(event, handlers[event[0]])
            except (RuntimeError, TypeError, ValueError, OverflowError):
                # a node never records it: the file is damaged, or made up
                answer = self._skip("contradiction")
            if event[8] is None and answer and answer is not NOT_ASKED:
                agreed += 1
            elif answer is not None:
                asked(event, answer)
            else:
                continue
            self._started = True
        self.agreed += agreed

    def _handlers(self) -> list[Callable[[Event], object]]:
        found: list[Callable[[Event], object]] = [_ignore] * (kinds.SETTINGS + 1)
        for kind in _STEPS:
            found[kind] = self._connection
        for kind, handler in {
            kinds.CHARGE: self._charge, kinds.SET_PEER: self._set_peer, kinds.NO_FD: self._no_fd,
            kinds.CLOSE: self._close, kinds.OPEN_STREAM: self._stream,
            kinds.PROTOCOL: self._protocol, kinds.SERVICE: self._service,
            kinds.CLOSE_STREAM: self._close_stream, kinds.TAKE_STREAM: self._take_stream,
            kinds.GIVE_STREAM: self._give_stream, kinds.FORGET: self._forget,
            kinds.FORGET_ALL: self._forget_all, kinds.CONN_MEMORY: self._conn_memory,
            kinds.STREAM_MEMORY: self._stream_memory, kinds.MEMORY: self._memory,
            kinds.GIVE_CONN_MEMORY: self._give_conn_memory,
            kinds.GIVE_STREAM_MEMORY: self._give_stream_memory,
            kinds.GIVE_MEMORY: self._give_memory, kinds.PROCESS: self._process,
            kinds.RATE: self._rate, kinds.OFFENCE: self._offence, kinds.BAN: self._ban,
            kinds.UNBAN: self._unban, kinds.EVICT: self._evict, kinds.SETTINGS: self._settings,
        }.items():
            found[kind] = handler
        return found

    # -- settings ------------------------------------------------------------------------------

    def _settings(self, event: Event) -> None:
        settings = self._pending_settings.pop(event[9], None)
        if settings is not None:
            self._apply(settings)

    def _apply(self, settings: Settings) -> None:
        manager = self.manager
        if self.own_limits:
            limits = _replayable(settings.limits)
            if limits != manager.node_limits:
                manager.node_limits = limits
        for protocol, rates in settings.rates.items():
            limiter = manager.protocol_rate_limiters.get(protocol)
            if limiter is None or limiter.limits != rates.limits:
                manager.add_protocol_rate_limiter(protocol, rates.limits, networks=rates.networks)
        allowlist = manager.allowlist
        for peer in list(allowlist.allowed_peers):
            if peer not in settings.peers:
                allowlist.remove_peer(peer)
        for peer in settings.peers:
            allowlist.add_peer(peer)
        for network, peers in list(allowlist.networks.items()):
            for each in peers:
                allowlist.disallow_from(network, each)
        for network, allowed in settings.networks:
            for each in allowed:
                allowlist.allow_from(network, each)

    # -- connections ---------------------------------------------------------------------------

    def _connection(self, event: Event) -> object:
        kind, flags, _, number, peer, address, _, _, code, *_ = event
        known: ConnectionRecord | None = None
        if flags & KNOWN:
            handle = self._connections.get(number)
            if not isinstance(handle, ConnectionRecord):
                return self._skipped_known(kind, number, peer, code)
            known = handle
        if _depends_on_more(code):
            return self._skip("machine")
        if peer is None and kind in _OF_A_PEER:
            return self._skip("before the record")
        answer = self.manager._admission.ask(
            _STEPS[kind], known, peer, bool(flags & INBOUND), address)
        if not answer:
            if number:
                self._connections.pop(number, None)
                if code is None:
                    self._note_refused(number, peer)
        elif code is None:
            if known is None and number in self._connections:  # its end was dropped
                self._drop(self._connections[number])
            self._connections[number] = answer  # type: ignore[assignment]
        elif known is None:
            self._drop(answer)  # its later events are not in the record
        return answer

    def _skipped_known(self, kind: int, number: int, peer: Any, code: str | None) -> object:
        """An event of a connection that the replay does not have."""
        if number not in self._peer_of_refused:
            return self._skip("before the record")
        if peer is not None and code is None and self._peer_of_refused[number] is None:
            self._note_refused(number, peer)
        return self._skip("follows a refusal")

    def _note_refused(self, number: int, peer: Any) -> None:
        """The replay does not have this connection. Its peer opens no streams without one."""
        self._peer_of_refused[number] = peer
        if peer is not None:
            self._unconnected[peer] += 1

    def _drop(self, handle: Any) -> None:
        if type(handle) is ConnectionRecord:
            self.manager.connection_tracker.remove(handle)
        else:
            handle.close()

    def _close(self, event: Event) -> None:
        number = event[3]
        handle = self._connections.get(number)
        if handle is None:
            self._forget_refused(number)
        elif type(handle) is ConnectionRecord and handle.is_pending:
            self._ending = number
        else:
            del self._connections[number]
            self._drop(handle)
        self._missing.pop((kinds.CONN_MEMORY, number), None)

    def _forget_refused(self, number: int) -> None:
        peer = self._peer_of_refused.pop(number, None)
        if peer is not None:
            self._unconnected[peer] -= 1
            if self._unconnected[peer] <= 0:
                del self._unconnected[peer]

    def _after_end(self, event: Event, handler: Callable[[Event], object]) -> object:
        """Ask an event, and end the connection that is ending.

        A refusal may end a connection. Then the end is noted first, and the refusal next.
        """
        number, self._ending = self._ending, None
        ended_it = event[3] == number and event[8] is not None and event[0] in _STEPS
        answer = handler(event) if ended_it else None
        handle = self._connections.pop(number, None)  # type: ignore[arg-type]
        if handle is not None:
            self._drop(handle)
        return answer if ended_it else handler(event)

    def _charge(self, event: Event) -> object:
        _, flags, _, number, peer, *_ = event
        answer = self.manager.ledger.try_open_connection(
            bool(flags & INBOUND), bool(flags & FD), bool(flags & EXEMPT), peer)
        if answer and event[8] is None:
            self._connections[number] = answer
        elif answer:
            self._drop(answer)
        else:
            self._note_refused(number, peer)
        return answer

    def _set_peer(self, event: Event) -> object:
        scope = self._connections.get(event[3])
        if type(scope) is not ConnScope:
            return self._skip("follows a refusal")
        if scope.peer is not None or event[4] is None:
            return self._skip("before the record")
        answer = scope.try_set_peer(event[4], bool(event[1] & EXEMPT))
        if not answer:
            del self._connections[event[3]]
            scope.close()
            self._note_refused(event[3], event[4])
        return answer

    def _no_fd(self, event: Event) -> None:
        scope = self._scope_of(event[3])
        if scope is not None:
            scope._give_descriptor()

    def _scope_of(self, number: int) -> ConnScope | None:
        handle = self._connections.get(number)
        held = handle.held if type(handle) is ConnectionRecord else handle
        return held if type(held) is ConnScope else None

    def _evict(self, event: Event) -> None:
        self.evicted += 1

    # -- streams -------------------------------------------------------------------------------

    def _stream(self, event: Event) -> object:
        _, flags, _, number, peer, _, _, _, code, *_ = event
        if peer is None:
            return self._skip("before the record")
        if self._unconnected and self._has_no_connection(peer):
            return self._skip("follows a refusal")
        answer = self.manager.ledger.try_open_stream(
            peer, bool(flags & INBOUND), allowlisted=bool(flags & EXEMPT))
        if answer:
            if code is None:
                self._streams[number] = answer
            else:
                self._drop(answer)
        else:
            self._deny(answer, peer, flags)
        return answer

    def _deny(self, refusal: object, peer: Any, flags: int) -> None:
        """Note a denied stream, as a node does: it is an offence."""
        self.manager.denials.add(refusal, None, peer, bool(flags & INBOUND))  # type: ignore[arg-type]

    def _has_no_connection(self, peer: Any) -> bool:
        return peer in self._unconnected and (
            self.manager.connection_tracker.get_peer_connection_count(peer) == 0)

    def _protocol(self, event: Event) -> object:
        stream = self._streams.get(event[3])
        if stream is None or stream.protocol is not None:
            return self._skip("follows a refusal")
        return self._named(event, stream, stream.try_set_protocol(event[6]))

    def _service(self, event: Event) -> object:
        stream = self._streams.get(event[3])
        if stream is None or stream.protocol is None or stream.service is not None:
            return self._skip("follows a refusal")
        return self._named(event, stream, stream.try_set_service(event[6]))

    def _named(self, event: Event, stream: StreamScope, answer: object) -> object:
        if not answer:
            self._deny(answer, stream.peer, INBOUND if stream.inbound else 0)
            if event[8] is None:  # a node resets a stream whose protocol is refused
                del self._streams[event[3]]
                stream.close()
        return answer

    def _close_stream(self, event: Event) -> None:
        stream = self._streams.pop(event[3], None)
        if stream is not None:
            stream.close()
        if self._missing:
            self._missing.pop((kinds.STREAM_MEMORY, event[3]), None)

    def _take_stream(self, event: Event) -> object:
        _, flags, _, _, peer, _, _, _, code, *_ = event
        key = (kinds.TAKE_STREAM, peer, flags & INBOUND)
        if peer is None:
            return self._skip("before the record")
        if self._unconnected and self._has_no_connection(peer):
            self._missing[key] += code is None
            return self._skip("follows a refusal")
        answer = self.manager.ledger.acquire_stream(
            peer, bool(flags & INBOUND), bool(flags & EXEMPT))
        if not answer:
            self._missing[key] += code is None
            self._deny(answer, peer, flags)
        elif code is not None:
            self.manager.ledger.release_stream(peer, bool(flags & INBOUND))
        else:
            self._taken[key] += 1
        return answer

    def _give_stream(self, event: Event) -> None:
        key = (kinds.TAKE_STREAM, event[4], event[1] & INBOUND)
        if self._missing.get(key, 0) > 0:
            self._missing[key] -= 1
        elif self._taken.get(key, 0) > 0:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
            self.manager.ledger.release_stream(event[4], bool(event[1] & INBOUND))

    def _forget(self, event: Event) -> None:
        if event[4] is not None:
            self.manager.ledger._forget_streams(event[4])
        for inbound in (0, INBOUND):
            self._taken.pop((kinds.TAKE_STREAM, event[4], inbound), None)

    def _forget_all(self, event: Event) -> None:
        self.manager._forget_connections()
        self._connections.clear()
        self._streams.clear()
        self._missing.clear()
        self._taken.clear()
        self._unconnected.clear()
        self._peer_of_refused.clear()
        self._views = {key: view for key, view in self._views.items() if not view.closed}

    # -- memory --------------------------------------------------------------------------------

    def _conn_memory(self, event: Event) -> object:
        return self._reserve(event, self._scope_of(event[3]), (kinds.CONN_MEMORY, event[3]))

    def _stream_memory(self, event: Event) -> object:
        return self._reserve(
            event, self._streams.get(event[3]), (kinds.STREAM_MEMORY, event[3]))

    def _memory(self, event: Event) -> object:
        key = (event[7], event[6], event[4])
        return self._reserve(event, self._view(key), key)

    def _view(self, key: tuple[str, str, Any]) -> Any:
        if key == ("system", "", None):
            return self.manager._memory
        view = self._views.get(key)
        if view is None:
            make = _VIEWS.get(key[0])
            if make is None or (key[0].endswith("peer") and key[2] is None):
                return None
            view = self._views[key] = make(self.manager.ledger, key[1], key[2])
        return view

    def _reserve(self, event: Event, scope: Any, key: Any) -> object:
        size, priority, code = event[9], event[10], event[8]
        if scope is None or scope.closed:
            return self._skip("follows a refusal")
        answer = scope.try_reserve_memory(max(0, size), priority)
        if not answer:
            self._missing[key] += size if code is None else 0
        elif code is not None:
            scope.release_memory(size)
        return answer

    def _give_conn_memory(self, event: Event) -> None:
        self._release(event, self._scope_of(event[3]), (kinds.CONN_MEMORY, event[3]))

    def _give_stream_memory(self, event: Event) -> None:
        self._release(event, self._streams.get(event[3]), (kinds.STREAM_MEMORY, event[3]))

    def _give_memory(self, event: Event) -> None:
        key = (event[7], event[6], event[4])
        view = self._view(key)
        self._release(event, view, key)
        if view is not None and key in self._views and view.held_memory == 0:
            self._views.pop(key).close()

    def _release(self, event: Event, scope: Any, key: Any) -> None:
        size = max(0, event[9])
        missing = min(size, self._missing.get(key, 0)) if self._missing else 0
        if missing:
            self._missing[key] -= missing
        if scope is not None and not scope.closed:
            held = scope.held_memory if hasattr(scope, "held_memory") else scope.stat().memory
            scope.release_memory(min(size - missing, held))

    def _process(self, event: Event) -> object:
        return self._skip("machine")

    # -- rates, offences and bans --------------------------------------------------------------

    def _rate(self, event: Event) -> object:
        limiter = self.manager.protocol_rate_limiters.get(event[6])
        peer = event[4]
        if limiter is None or peer is None:
            return self._skip("before the record")
        if _depends_on_more(event[8]):
            return self._skip("machine")
        if self._unconnected and self._has_no_connection(peer):
            return self._skip("follows a refusal")
        refusal = limiter._ask(peer, event[7], event[5])
        return True if refusal is None else refusal

    def _offence(self, event: Event) -> None:
        penalties, name = self.manager.penalties, event[8] or ""
        if penalties is not None and name in Offence.__members__:
            penalties.charge(Offence[name], event[4], event[5])

    def _ban(self, event: Event) -> None:
        subject = _subject(event)
        by_box = bool(event[1] & BY_BOX)
        # the penalty box of the replay bans by itself, but it does not know earlier offences
        if subject is None or (by_box and (self._started or self.manager.penalties is None)):
            return
        seconds = None if event[9] < 0 else event[9] / 1e9
        self.manager._bans.add(
            subject, seconds, "in the record", "penalty box" if by_box else "operator",
            slows=by_box and isinstance(subject, Network))

    def _unban(self, event: Event) -> None:
        subject = _subject(event)
        if subject is not None:
            self.manager._bans.remove(subject)

    def _skip(self, reason: str) -> object:
        self.skipped[reason] += 1
        return NOT_ASKED


def _ignore(*_: object) -> None:
    return None


class _NoLog:
    """In place of the canonical log, by which fail2ban would ban addresses of the record."""

    def offended(self, *_: object) -> None:
        pass

    banned = offended


def _depends_on_more(code: str | None) -> bool:
    """Whether a refusal depends on more than the history and the limits of this node."""
    return code is not None and (code in _BY_THE_MACHINE or code.startswith("fleet."))


def _subject(event: Event) -> Subject | None:
    if event[5] is None:
        return event[4] if isinstance(event[4], bytes | str | int) else None
    try:
        return Network.parse(f"{event[5]}/{event[10]}")
    except ValueError:
        return None


def _replayable(limits: NodeLimits) -> NodeLimits:
    """Without limits of a fleet, and on the memory of the process: this process is another one."""
    return replace(limits, memory=ProcessMemoryLimits(), fleet=None)
