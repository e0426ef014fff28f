"""Tell a lifecycle handler what happens to the connections of a running host."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rcmgr.errors import ResourceLimitExceeded, printable
from rcmgr.events.handler import ConnectionLifecycleHandler
from rcmgr.events.kinds import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.libp2p.guard.accept_gate import AcceptGate
from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch
from rcmgr.libp2p.observe.close_reasons import (
    chain_of,
    has_ended,
    note_resets,
    note_terminations,
    why_failed,
)
from rcmgr.libp2p.observe.endpoints import Ends, ends_of, ends_of_socket, ends_of_udp
from rcmgr.libp2p.observe.quic_handshakes import QuicHandshakes

if TYPE_CHECKING:
    from libp2p.abc import IHost, INetworkService

__all__ = ["HostObserver", "observe"]

Coroutine = Callable[..., Awaitable[Any]]

_MOST_TEXT = 500
# events for which a manager's answers have to be heard
_HEARD_OF_MANAGER = (
    PendingInboundConnectionEvent, PendingOutboundConnectionEvent, ConnectionDeniedEvent,
    DialFailedEvent, ListenFailedEvent,
)
# of all hosts: one handler may be told of several
_numbers = itertools.count(1)


class _Attempt:
    """A connection on its way, from the first word to the end.

    ends: None while a dial has no socket. dialled: the address of a dial.
    """

    def __init__(
        self, endpoint: Endpoint, peer_id: Any, ends: Ends | None, dialled: Any = None
    ) -> None:
        self.inbound = endpoint is Endpoint.LISTENER
        self.id = f"{'in' if self.inbound else 'out'}-{next(_numbers)}"
        self.endpoint = endpoint
        self.peer_id = peer_id
        self.ends = ends
        self.dialled = dialled
        self.is_open = True
        """Neither established nor failed yet."""
        self.is_pending = False
        self.is_watched = False
        """Whether somebody waits for what comes of it, to tell."""
        self.was_denied = False
        self.denial: ResourceLimitExceeded | None = None
        self.established_at = 0.0
        self.end: str | None = None
        self.hooks: list[Hook] = []

    @property
    def local_addr(self) -> Any:
        return None if self.ends is None else self.ends.local_addr

    @property
    def remote_addr(self) -> Any:
        return (None if self.ends is None else self.ends.remote_addr) or self.dialled

    def note_end(self, reason: str) -> None:
        """Ending makes others end it too, for a reason that is none: the first one holds."""
        self.end = self.end or reason

    def undo_hooks(self) -> None:
        while self.hooks:
            self.hooks.pop().undo()


class HostObserver:
    """Reports a host's connections to a handler, until `undo`.

    Made by `observe`. Decides nothing, and counts nothing: the host's resource manager does.
    """

    def __init__(self, swarm: Any, handler: ConnectionLifecycleHandler) -> None:
        from libp2p.rcmgr.exceptions import ResourceLimitExceeded as Refusal

        self._swarm = swarm
        self._handler = handler
        self._live: dict[Any, _Attempt] = {}
        # the connection that a task is dialling or accepting; tasks that it starts inherit it
        self._attempt: ContextVar[_Attempt | None] = ContextVar("rcmgr_attempt", default=None)
        self._manager = manager_of(swarm)
        self._refusals = (ResourceLimitExceeded, Refusal)
        self._asked: Hook | None = None
        self._lock = threading.Lock()
        self._undone = False
        targets: list[tuple[Any, str, Any]] = [
            (swarm, "_dial_addr_single_attempt", self._dialling),
            (swarm, "upgrade_outbound_raw_conn", self._upgrading),
            (swarm, "_handle_inbound_connection", self._handling),
            (swarm, "upgrade_inbound_raw_conn", self._accepting),
            (swarm, "add_conn", self._adding),
            (swarm, "notify_connected", self._connected),
            (swarm, "run", self._running),
            (AcceptGate, "refuse", self._refusing),
        ]
        with ExitStack() as placed:
            self._handshakes = QuicHandshakes(swarm, self._shaking_hands, self._lost)
            placed.callback(self._handshakes.undo)
            for owner, attribute, make in targets:
                placed.callback(Hook(owner, attribute, make).undo)
            placed.callback(handler.watch(self._ask_if_wanted))
            self._placed = placed.pop_all()
        running = getattr(swarm, "_manager", None)
        if running is not None:  # then `run` was called before it was hooked
            running.run_task(self._until_the_end)

    def undo(self) -> None:
        """Report nothing any more."""
        self._undone = True
        self._placed.close()
        self._ask_if_wanted()
        for attempt in self._live.values():
            attempt.undo_hooks()
        self._live.clear()

    def _tell(self, kind: type, attempt: _Attempt, **fields: Any) -> None:
        self._handler.notify(kind(connection_id=attempt.id, peer_id=attempt.peer_id, **fields))

    def _wants(self, kind: type) -> bool:
        return not self._undone and self._handler.wants(kind)

    def _ask_if_wanted(self) -> None:
        """The manager's `open_connection` is called often: hook it while somebody wants to know."""
        with self._lock:
            wanted = self._manager is not None and any(map(self._wants, _HEARD_OF_MANAGER))
            if wanted and self._asked is None:
                self._asked = Hook(self._manager, "open_connection", self._asking)
            elif not wanted and self._asked is not None:
                self._asked.undo()
                self._asked = None

    # -- how it begins ---------------------------------------------------------------------------

    def _open_attempt(self) -> _Attempt | None:
        """What this task is dialling or accepting, unless that is over."""
        attempt = self._attempt.get()
        return attempt if attempt is not None and attempt.is_open else None

    def _dialling(self, original: Coroutine) -> Coroutine:
        """libp2p 0.8.1: network/swarm.py line 1064, `_dial_addr_single_attempt`."""

        def dial(addr: Any, peer_id: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
            attempt = _Attempt(Endpoint.DIALER, peer_id, None, addr)
            return self._attempting(attempt, original, addr, peer_id, *args, **kwargs)

        return dial

    def _upgrading(self, original: Coroutine) -> Coroutine:
        """libp2p 0.8.1: network/swarm.py line 1240, `upgrade_outbound_raw_conn`, where a dial over
        TCP or WebSocket has its socket.
        """

        def upgrade(raw_conn: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
            attempt = self._open_attempt()
            if attempt is not None:
                attempt.ends = ends_of(raw_conn, attempt.dialled)
                self._note_resets(attempt, raw_conn)
            return original(raw_conn, *args, **kwargs)

        return upgrade

    def _handling(self, original: Coroutine) -> Coroutine:
        """libp2p 0.8.1: network/swarm.py line 1947, `_handle_inbound_connection`, which may hang up
        for reasons of its own.
        """

        async def handle(connection: Any, maddr: Any, *args: Any, **kwargs: Any) -> Any:
            if self._handshakes.is_taken(connection):
                return await original(connection, maddr, *args, **kwargs)
            attempt = self._handshakes.take(connection) or _Attempt(
                Endpoint.LISTENER, None, ends_of(connection, maddr))
            token = self._attempt.set(attempt)
            try:
                return await original(connection, maddr, *args, **kwargs)
            finally:
                self._attempt.reset(token)
                self._lost(attempt, "refused by the swarm")

        return handle

    def _accepting(self, original: Coroutine) -> Coroutine:
        """libp2p 0.8.1: network/swarm.py line 2075, `upgrade_inbound_raw_conn`, of TCP and
        WebSocket; also of a dial as the responder, of which this is the first that is heard.
        """

        def accept(raw_conn: Any, maddr: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
            attempt = self._open_attempt() or _Attempt(
                Endpoint.LISTENER, None, ends_of(raw_conn, maddr))
            self._note_resets(attempt, raw_conn)
            return self._attempting(attempt, original, raw_conn, maddr, *args, **kwargs)

        return accept

    def _note_resets(self, attempt: _Attempt, raw_conn: Any) -> None:
        if self._wants(ConnectionClosedEvent):  # all that it sends and receives passes this
            attempt.hooks += note_resets(raw_conn, attempt.note_end)

    def _shaking_hands(self, listener: Any, address: tuple[str, int]) -> _Attempt:
        attempt = _Attempt(Endpoint.LISTENER, None, ends_of_udp(listener._socket, address))
        self._pending(attempt)
        return attempt

    def _adding(self, original: Coroutine) -> Coroutine:
        """libp2p 0.8.1: network/swarm.py line 2375, `add_conn`, where a connection becomes the
        swarm's. Of a transport that does the handshake itself it may be the first that is heard.
        """

        def add_conn(muxed_conn: Any, direction: str = "unknown") -> Awaitable[Any]:
            attempt = self._open_attempt()
            if attempt is None:
                if self._has(muxed_conn) or self._handshakes.is_taken(muxed_conn):
                    return original(muxed_conn, direction)
                attempt = self._handshakes.take(muxed_conn) or _Attempt(
                    Endpoint.LISTENER if direction == "inbound" else Endpoint.DIALER,
                    getattr(muxed_conn, "peer_id", None), ends_of(muxed_conn, None))
            elif attempt.ends is None:
                attempt.ends = ends_of(muxed_conn, attempt.dialled)
            self._pending(attempt)
            if attempt.is_watched:
                return original(muxed_conn, direction)
            return self._attempting(attempt, original, muxed_conn, direction)

        return add_conn

    def _has(self, muxed_conn: Any) -> bool:
        connections = self._swarm.connections.get(muxed_conn.peer_id, ())
        return any(each.muxed_conn is muxed_conn for each in connections)

    async def _attempting(
        self, attempt: _Attempt, work: Coroutine, *args: Any, **kwargs: Any
    ) -> Any:
        attempt.is_watched = True
        token = self._attempt.set(attempt)
        if self._manager is None:
            self._pending(attempt)
        try:
            done = await work(*args, **kwargs)
        except BaseException as error:
            self._failed(attempt, error)
            raise
        finally:
            self._attempt.reset(token)
        self._lost(attempt, "duplicate")  # of a connection that the swarm has
        return done

    def _asking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The manager's `open_connection`, which the swarm asks before a handshake and after it."""

        def open_connection(peer_id: Any = None, *args: Any, **kwargs: Any) -> Any:
            attempt = self._open_attempt()
            if attempt is None:
                return original(peer_id, *args, **kwargs)
            before = self._denials()
            scope = original(peer_id, *args, **kwargs)
            if scope is None:
                attempt.was_denied = True
                if self._denials() != before and self._wants(ConnectionDeniedEvent):
                    attempt.denial = self._manager.last_denial
            elif peer_id is None:
                self._pending(attempt)
            return scope

        return open_connection

    def _refusing(self, original: Callable[..., None]) -> Callable[..., None]:
        """A hardened host refuses at once what it accepts: that is all there is to tell."""

        def refuse(gate: AcceptGate, socket: Any, by_manager: bool) -> None:
            kind = ConnectionDeniedEvent if by_manager else ListenFailedEvent
            if gate.swarm is self._swarm and self._wants(kind):
                attempt = _Attempt(Endpoint.LISTENER, None, ends_of_socket(socket))
                if by_manager:
                    manager = manager_of(self._swarm)
                    self._denied(attempt, None if manager.closed else manager.last_denial)
                else:
                    self._lost(attempt, "refused by the swarm")
            original(gate, socket, by_manager)

        return refuse

    def _denials(self) -> int:
        """A manager that is closed, or none of ours, gives no reasons."""
        log = getattr(self._manager, "denials", None)
        return 0 if log is None else log.total

    def _pending(self, attempt: _Attempt) -> None:
        if attempt.is_pending:
            return
        attempt.is_pending = True
        if not attempt.inbound:
            if self._wants(PendingOutboundConnectionEvent):
                self._tell(
                    PendingOutboundConnectionEvent, attempt, addresses=[attempt.remote_addr])
        elif self._wants(PendingInboundConnectionEvent):
            self._tell(
                PendingInboundConnectionEvent, attempt,
                local_addr=attempt.local_addr, remote_addr=attempt.remote_addr)

    # -- how it goes on --------------------------------------------------------------------------

    def _connected(self, original: Coroutine) -> Coroutine:
        """libp2p 0.8.1: network/swarm.py line 3198, `notify_connected`, by which `add_conn` tells
        others, who may close the connection at once.
        """

        def notify_connected(connection: Any) -> Awaitable[None]:
            attempt = self._open_attempt()
            if attempt is not None:
                self._established(attempt, connection)
            return original(connection)

        return notify_connected

    def _established(self, attempt: _Attempt, connection: Any) -> None:
        attempt.is_open = False
        attempt.peer_id = connection.muxed_conn.peer_id
        attempt.established_at = time.monotonic()
        self._live[connection] = attempt
        self._await_close(connection, attempt)
        kind = (
            EstablishedInboundConnectionEvent if attempt.inbound
            else EstablishedOutboundConnectionEvent
        )
        if self._wants(kind):
            self._tell(
                kind, attempt, local_addr=attempt.local_addr, remote_addr=attempt.remote_addr)
        if connection.is_closed:
            self._note_end(connection)
            self._closed(connection)

    # -- how it ends -----------------------------------------------------------------------------

    def _await_close(self, connection: Any, attempt: _Attempt) -> None:
        """libp2p 0.8.1: network/connection/swarm_connection.py line 145, `close`, every way to the
        end; and the muxer's, for those who call that.
        """

        def closing(original: Coroutine) -> Coroutine:
            async def close(*args: Any, **kwargs: Any) -> None:
                is_the_first = not connection.is_closed
                self._note_end(connection)
                try:
                    await original(*args, **kwargs)
                finally:
                    if is_the_first:
                        self._closed(connection)

            return close

        def closing_muxer(original: Coroutine) -> Coroutine:
            async def close(*args: Any, **kwargs: Any) -> None:
                self._note_end(connection)
                await original(*args, **kwargs)

            return close

        muxed_conn = connection.muxed_conn
        attempt.hooks += [
            Hook(connection, "close", closing),
            Hook(muxed_conn, "close", closing_muxer),
            *note_terminations(muxed_conn, attempt.note_end),
        ]

    def _note_end(self, connection: Any) -> None:
        attempt = self._live.get(connection)
        if attempt is None:
            return
        if self._is_stopping():
            attempt.note_end("host shutdown")
        elif has_ended(connection.muxed_conn):
            attempt.note_end("closed by peer")
        else:
            attempt.note_end("closed by us")

    def _is_stopping(self) -> bool:
        service = getattr(self._swarm, "_manager", None)
        return bool(getattr(self._swarm, "_closing", False)) or (
            service is not None and bool(service.is_cancelled or service.is_finished))

    def _closed(self, connection: Any) -> None:
        attempt = self._live.pop(connection, None)
        if attempt is None:
            return
        attempt.undo_hooks()
        if self._wants(ConnectionClosedEvent):
            self._tell(
                ConnectionClosedEvent, attempt,
                reason=attempt.end or "host shutdown",
                duration=time.monotonic() - attempt.established_at,
                endpoint=attempt.endpoint,
                local_addr=attempt.local_addr,
                remote_addr=attempt.remote_addr,
            )

    def _failed(self, attempt: _Attempt, error: BaseException) -> None:
        """It was denied, or else lost."""
        denial = attempt.denial or next(
            (each for each in chain_of(error) if isinstance(each, self._refusals)), None)
        if denial is None and not attempt.was_denied:
            reason = why_failed(error, "handshake failed" if attempt.inbound else "failed")
            self._lost(attempt, reason, printable(f"{type(error).__name__}: {error}"[:_MOST_TEXT]))
        else:
            self._denied(attempt, denial)

    def _denied(self, attempt: _Attempt, denial: BaseException | None) -> None:
        if self._is_over(attempt) and self._wants(ConnectionDeniedEvent):
            # after a handshake the manager knows whose it is, before anybody else is told
            attempt.peer_id = attempt.peer_id or getattr(denial, "peer_id", None)
            self._tell(
                ConnectionDeniedEvent, attempt,
                error=denial if isinstance(denial, ResourceLimitExceeded) else None,
                endpoint=attempt.endpoint,
                local_addr=attempt.local_addr,
                remote_addr=attempt.remote_addr,
            )

    def _lost(self, attempt: _Attempt, reason: str, error: str = "") -> None:
        """It failed for another reason than a limit, unless more is known of it already."""
        if not self._is_over(attempt):
            return
        if self._is_stopping():
            reason = "host shutdown"
        if not attempt.inbound:
            if self._wants(DialFailedEvent):
                self._tell(
                    DialFailedEvent, attempt,
                    addresses=[attempt.remote_addr], reason=reason, error=error)
        elif self._wants(ListenFailedEvent):
            self._tell(
                ListenFailedEvent, attempt, local_addr=attempt.local_addr,
                remote_addr=attempt.remote_addr, reason=reason, error=error)

    @staticmethod
    def _is_over(attempt: _Attempt) -> bool:
        """End it before it is established; False: it was not on its way any more."""
        was_open, attempt.is_open = attempt.is_open, False
        if was_open:
            attempt.undo_hooks()
        return was_open

    def _running(self, original: Coroutine) -> Coroutine:
        """libp2p 0.8.1: network/swarm.py line 373, `run`, at whose end all connections are gone,
        closed or not.
        """

        async def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return await original(*args, **kwargs)
            finally:
                self._end()

        return run

    async def _until_the_end(self) -> None:
        import trio

        try:
            await trio.sleep_forever()
        finally:
            self._end()

    def _end(self) -> None:
        for connection in list(self._live):
            self._closed(connection)


def observe(host: IHost | INetworkService, handler: ConnectionLifecycleHandler) -> HostObserver:
    """From now on, tell `handler`'s observers of every connection of this host (or swarm).

    A pending event, and then an established and a closed one; or a denied or failed one instead of
    any of the first two. Each connection has an id of its own, in all hosts of the process. The
    host's resource manager decides as before. What is there already is not reported.

    What the swarm refuses on its own, as for its cap of 250 connections, is a failure whose reason
    says so. A reset is told from other ends if somebody wanted to know of ends when the connection
    began. While nobody is registered, this costs some microseconds of the milliseconds that a
    connection takes, and nothing later. Libp2pMismatch: the host is not as in libp2p 0.8.1; then
    nothing has changed.
    """
    swarm = host.get_network() if hasattr(host, "get_network") else host
    if not hasattr(swarm, "add_conn"):
        raise Libp2pMismatch(f"{host!r} has no swarm: this needs a host of libp2p 0.8.1")
    return HostObserver(swarm, handler)
