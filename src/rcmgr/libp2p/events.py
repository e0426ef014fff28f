"""Tell a lifecycle handler what happens to the connections of a running host."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rcmgr.errors import ResourceLimitExceeded
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch
from rcmgr.lifecycle_events import (
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
from rcmgr.lifecycle_handler import ConnectionLifecycleHandler

if TYPE_CHECKING:
    from libp2p.abc import IHost, INetworkService

__all__ = ["HostObserver", "observe"]




class _Attempt:
    """A connection on its way, from the first word to the end."""

    def __init__(
        self, number: int, endpoint: Endpoint, peer_id: Any, local_addr: Any, remote_addr: Any
    ) -> None:
        self.inbound = endpoint is Endpoint.LISTENER
        self.id = f"{'in' if self.inbound else 'out'}-{number}"
        self.endpoint = endpoint
        self.peer_id = peer_id
        self.local_addr = local_addr
        self.remote_addr = remote_addr
        self.was_denied = False
        self.denial: ResourceLimitExceeded | None = None
        self.established_at = 0.0
        self.end: str | None = None


# the connection that this task is dialling or accepting
_attempt: ContextVar[_Attempt | None] = ContextVar("rcmgr_attempt", default=None)


class HostObserver:
    """Reports a host's connections to a handler, until `undo`.

    Made by `observe`. Decides nothing, and counts nothing: the host's resource manager does.
    """

    def __init__(self, swarm: Any, handler: ConnectionLifecycleHandler) -> None:
        self._swarm = swarm
        self._handler = handler
        self._numbers = itertools.count(1)
        self._live: dict[Any, _Attempt] = {}
        self._hooks: list[Hook] = []
        manager = getattr(swarm, "_resource_manager", None)
        targets: list[tuple[Any, str, Any]] = [
            (swarm, "_dial_addr_single_attempt", self._dialling),
            (swarm, "upgrade_inbound_raw_conn", self._accepting),
            (swarm, "upgrade_outbound_raw_conn", self._upgrading),
            (swarm, "add_conn", self._adding),
            (swarm, "run", self._running),
        ]
        if manager is not None:
            targets.append((manager, "open_connection", self._asking))
            if hasattr(manager, "accept_connection"):
                targets.append((manager, "accept_connection", self._asking_at_once))
        try:
            for owner, attribute, make in targets:
                self._hooks.append(Hook(owner, attribute, make))
        except BaseException:
            self.undo()
            raise
        running = getattr(swarm, "_manager", None)
        if running is not None:  # then `run` was called before it was hooked
            running.run_task(self._until_the_end)

    def undo(self) -> None:
        """Report nothing any more."""
        for hook in self._hooks:
            hook.undo()
        for connection in self._live:
            vars(connection).pop("close", None)
        self._live.clear()

    # -- how it begins ---------------------------------------------------------------------------

    def _new(self, endpoint: Endpoint, peer_id: Any, local_addr: Any, remote_addr: Any) -> _Attempt:
        return _Attempt(next(self._numbers), endpoint, peer_id, local_addr, remote_addr)

    def _dialling(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: network/swarm.py line 1064, one dial of one address."""

        async def dial(addr: Any, peer_id: Any, *args: Any, **kwargs: Any) -> Any:
            attempt = self._new(Endpoint.DIALER, peer_id, None, addr)
            return await self._attempting(attempt, original, addr, peer_id, *args, **kwargs)

        return dial

    def _accepting(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: network/swarm.py line 2075, the upgrade of a TCP or WebSocket connection.
        """

        async def accept(raw_conn: Any, maddr: Any, *args: Any, **kwargs: Any) -> Any:
            rest = str(maddr).split("/")[5:]  # of a listener's address, whose port may be 0
            remote = raw_conn.get_remote_address()
            attempt = self._new(
                Endpoint.LISTENER, None, _multiaddr(_local_of(raw_conn), rest),
                _multiaddr(remote, rest),
            )
            _note_resets(raw_conn, attempt)
            return await self._attempting(attempt, original, raw_conn, maddr, *args, **kwargs)

        return accept

    def _upgrading(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: network/swarm.py line 1239, where a dial has its socket."""

        async def upgrade(raw_conn: Any, *args: Any, **kwargs: Any) -> Any:
            attempt = _attempt.get()
            if attempt is not None:
                rest = str(attempt.remote_addr).partition("/p2p/")[0].split("/")[5:]
                attempt.local_addr = _multiaddr(_local_of(raw_conn), rest)
                _note_resets(raw_conn, attempt)
            return await original(raw_conn, *args, **kwargs)

        return upgrade

    async def _attempting(
        self, attempt: _Attempt, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
    ) -> Any:
        token = _attempt.set(attempt)
        if getattr(self._swarm, "_resource_manager", None) is None:
            self._pending(attempt)
        try:
            return await work(*args, **kwargs)
        except BaseException as error:
            if not attempt.established_at:
                self._failed(attempt, error)
            raise
        finally:
            _attempt.reset(token)

    def _asking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The manager's `open_connection`, which the swarm asks before a handshake and after it."""

        def open_connection(peer_id: Any = None, *args: Any, **kwargs: Any) -> Any:
            scope = original(peer_id, *args, **kwargs)
            attempt = _attempt.get()
            if attempt is None:
                return scope
            if scope is None:
                attempt.was_denied = True
                attempt.denial = getattr(self._swarm._resource_manager, "last_denial", None)
            elif peer_id is None:
                self._pending(attempt)
            return scope

        return open_connection

    def _asking_at_once(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Our manager's `accept_connection`, which a hardened host asks first: a refusal is all
        there is to tell.
        """

        def accept_connection(*args: Any, **kwargs: Any) -> Any:
            scope = original(*args, **kwargs)
            if scope is None and self._handler.wants(ConnectionDeniedEvent):
                denial = self._swarm._resource_manager.last_denial
                self._failed(self._new(Endpoint.LISTENER, None, None, None), denial)
            return scope

        return accept_connection

    # -- how it goes on --------------------------------------------------------------------------

    def _adding(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: network/swarm.py line 2376, where a connection becomes the swarm's."""

        async def add_conn(muxed_conn: Any, direction: str = "unknown") -> Any:
            attempt = _attempt.get()
            if attempt is not None:
                connection = await original(muxed_conn, direction)
                self._established(attempt, connection)
                return connection
            # of a transport that does the handshake itself: this is the first that is heard of it
            inbound = direction == "inbound"
            attempt = self._new(
                Endpoint.LISTENER if inbound else Endpoint.DIALER,
                getattr(muxed_conn, "peer_id", None), None, _remote_of_muxed(muxed_conn),
            )
            token = _attempt.set(attempt)
            try:
                connection = await original(muxed_conn, direction)
            except BaseException as error:
                self._failed(attempt, error)
                raise
            finally:
                _attempt.reset(token)
            self._established(attempt, connection)
            return connection

        return add_conn

    def _pending(self, attempt: _Attempt) -> None:
        kind = PendingInboundConnectionEvent if attempt.inbound else PendingOutboundConnectionEvent
        if not self._handler.wants(kind):
            return
        if attempt.inbound:
            self._handler.notify(PendingInboundConnectionEvent(
                connection_id=attempt.id,
                local_addr=attempt.local_addr,
                remote_addr=attempt.remote_addr,
            ))
        else:
            self._handler.notify(PendingOutboundConnectionEvent(
                connection_id=attempt.id, peer_id=attempt.peer_id, addresses=[attempt.remote_addr],
            ))

    def _established(self, attempt: _Attempt, connection: Any) -> None:
        if connection in self._live:  # the swarm had it already
            return
        attempt.peer_id = connection.muxed_conn.peer_id
        attempt.established_at = time.monotonic()
        if attempt.remote_addr is None:
            attempt.remote_addr = _remote_of_muxed(connection.muxed_conn)
        kind = (
            EstablishedInboundConnectionEvent if attempt.inbound
            else EstablishedOutboundConnectionEvent
        )
        if self._handler.wants(kind):
            self._handler.notify(kind(
                connection_id=attempt.id,
                peer_id=attempt.peer_id,
                local_addr=attempt.local_addr,
                remote_addr=attempt.remote_addr,
            ))
        self._live[connection] = attempt
        self._await_close(connection)

    # -- how it ends -----------------------------------------------------------------------------

    def _await_close(self, connection: Any) -> None:
        """libp2p 0.8.1: network/connection/swarm_connection.py line 142, every way to the end."""
        close = connection.close

        async def close_and_tell() -> None:
            attempt = self._live.get(connection)
            if attempt is not None and attempt.end is None:
                # closing makes others close it too, for a reason that is none
                attempt.end = self._why(sys.exc_info()[1])
            try:
                await close()
            finally:
                self._closed(connection, "closed by us")

        if connection.is_closed:
            self._closed(connection, "closed by peer")
        else:
            connection.close = close_and_tell

    def _why(self, handled: BaseException | None) -> str:
        """handled: what made py-libp2p close it, if it was an exception."""
        if self._is_stopping():
            return "host shutdown"
        return "closed by us" if handled is None else "closed by peer"

    def _is_stopping(self) -> bool:
        service = getattr(self._swarm, "_manager", None)
        return bool(getattr(self._swarm, "_closing", False)) or (
            service is not None and bool(service.is_cancelled or service.is_finished))

    def _closed(self, connection: Any, reason: str) -> None:
        """reason: unless there is an earlier one."""
        attempt = self._live.pop(connection, None)
        if attempt is None or not self._handler.wants(ConnectionClosedEvent):
            return
        self._handler.notify(ConnectionClosedEvent(
            connection_id=attempt.id,
            peer_id=attempt.peer_id,
            reason=attempt.end or reason,
            duration=time.monotonic() - attempt.established_at,
        ))

    def _failed(self, attempt: _Attempt, error: BaseException) -> None:
        denial = next(
            (each for each in _chain(error) if isinstance(each, ResourceLimitExceeded)), None)
        if attempt.was_denied or denial is not None:
            if self._handler.wants(ConnectionDeniedEvent):
                self._handler.notify(ConnectionDeniedEvent(
                    connection_id=attempt.id,
                    peer_id=attempt.peer_id,
                    error=attempt.denial or denial,
                    endpoint=attempt.endpoint,
                ))
        elif attempt.inbound:
            if self._handler.wants(ListenFailedEvent):
                self._handler.notify(ListenFailedEvent(
                    connection_id=attempt.id,
                    peer_id=attempt.peer_id,
                    local_addr=attempt.local_addr,
                    remote_addr=attempt.remote_addr,
                    reason=_why_failed(error, "handshake failed"),
                    error=_text(error),
                ))
        elif self._handler.wants(DialFailedEvent):
            self._handler.notify(DialFailedEvent(
                connection_id=attempt.id,
                peer_id=attempt.peer_id,
                addresses=[attempt.remote_addr],
                reason=_why_failed(error, "failed"),
                error=_text(error),
            ))

    def _running(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: network/swarm.py line 377; at its end all connections are gone, told of or
        not.
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
            self._closed(connection, "host shutdown")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and what a group of errors holds."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _note_resets(raw_conn: Any, attempt: _Attempt) -> None:
    """libp2p 0.8.1: network/connection/raw_connection.py line 55; muxers hide why reading ended."""
    read = raw_conn.read

    async def read_and_note(*args: Any, **kwargs: Any) -> Any:
        try:
            return await read(*args, **kwargs)
        except BaseException as error:
            if attempt.end is None and any(_is_reset(each) for each in _chain(error)):
                attempt.end = "reset"
            raise

    raw_conn.read = read_and_note


def _is_reset(error: BaseException) -> bool:
    return isinstance(error, ConnectionResetError | BrokenPipeError)


def _why_failed(error: BaseException, otherwise: str) -> str:
    """py-libp2p has a dozen kinds of error for these, and some say it in their text only."""
    found = list(_chain(error))
    names = {type(each).__name__ for each in found}
    texts = " ".join(str(each).lower() for each in found)
    if type(error).__name__ == "Cancelled":
        return "cancelled"
    if any(isinstance(each, ConnectionRefusedError) for each in found) or "refused" in texts:
        return "refused"
    if any("mismatch" in name.lower() for name in names) or "mismatch" in texts:
        return "wrong peer id"
    if "TooSlowError" in names or isinstance(error, TimeoutError) or "timeout" in texts or (
        "timed out" in texts
    ):
        return "timed out"
    if names & {"SecurityUpgradeFailure", "MuxerUpgradeFailure", "HandshakeFailure"}:
        return "handshake failed"
    return otherwise


def _local_of(raw_conn: Any) -> tuple[str, int] | None:
    """Our end of the socket under a connection; None: it has none that is known."""
    stream = getattr(raw_conn, "stream", None)  # a TrioTCPStream or a P2PWebSocketConnection
    websocket = getattr(stream, "_ws_connection", None)
    try:
        if websocket is not None:
            return str(websocket.local.address), int(websocket.local.port)
        host, port, *_ = stream.stream.socket.getsockname()  # type: ignore[union-attr]
    except (OSError, AttributeError, ValueError):  # closed, or another transport
        return None
    return str(host), int(port)


def _remote_of_muxed(muxed_conn: Any) -> Any:
    get_remote_address = getattr(muxed_conn, "get_remote_address", None)
    address = None if get_remote_address is None else get_remote_address()
    if "QUIC" in type(muxed_conn).__name__:
        return _multiaddr(address, ["quic-v1"], "udp")
    return _multiaddr(address, [])


def _multiaddr(address: tuple[str, int] | None, rest: list[str], transport: str = "tcp") -> Any:
    if address is None:
        return None
    from multiaddr import Multiaddr

    host, port = address
    version = "ip6" if ":" in host else "ip4"
    return Multiaddr("/".join(["", version, host, transport, str(port), *rest]))


def observe(host: IHost | INetworkService, handler: ConnectionLifecycleHandler) -> HostObserver:
    """From now on, tell `handler`'s observers of every connection of this host (or swarm).

    TCP and WebSocket: pending, established, closed; or denied or failed instead of one of the first
    two. QUIC connections from outside have no pending event: the swarm hears of them after their
    handshake. The host's resource manager decides as before. What is there already is not reported.
    Libp2pMismatch: the host is not as in libp2p 0.8.1; then nothing has changed.
    """
    swarm = host.get_network() if hasattr(host, "get_network") else host
    if not hasattr(swarm, "add_conn"):
        raise Libp2pMismatch(f"{host!r} has no swarm: this needs a host of libp2p 0.8.1")
    return HostObserver(swarm, handler)
