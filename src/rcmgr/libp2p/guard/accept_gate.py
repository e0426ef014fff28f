"""Refuse connections when they are accepted, before py-libp2p spends anything on them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from rcmgr.admission.manager_base import accepted
from rcmgr.admission.room import Room
from rcmgr.libp2p.guard.pending_handshakes import Handshake, current, follow_progress, peek
from rcmgr.libp2p.guard.pending_websockets import bounded_websockets
from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.guard.waiting_sockets import Accepted, WaitingSockets
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, SharedHooks, Undo, place_all
from rcmgr.manager import ResourceManager

__all__ = ["AcceptGate", "gate_accepts"]

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_rcmgr_accept_gate"
_TRY_AGAIN_S = 0.02


class AcceptGate:
    """Asks a swarm's manager about each connection that a TCP listener accepts, until `undo`.

    A stock swarm makes a stream, a task and a multiaddr and asks its connection gate first. With
    this gate, a refusal costs the accept and the close of a socket. An admitted connection is
    pending from then on, also while the swarm's connection gate and metrics delay it. The swarm
    takes it over when it asks the manager.

    If all places for handshakes are in use, the handshake that is worth least makes room. If it has
    to stay, the socket waits, unread, for some seconds. A socket that has hung up already costs no
    place.

    The swarm asks about some connections itself, as in stock py-libp2p:

    * the first connection of each listener that was open before the gate;
    * connections on a port that two transports share;
    * connections over WebSocket to a listener that was open before the gate.

    A connection over WebSocket is pending before its HTTP upgrade, for which it has as much time as
    for the rest of the handshake.

    Libp2pMismatch: the swarm is not as in libp2p 0.8.1; then nothing has changed.
    """

    def __init__(self, swarm: Any) -> None:
        for attribute in ("listeners", "_inbound_limiter", "metric_send_channel"):
            if not hasattr(swarm, attribute):
                raise Libp2pMismatch(f"{swarm!r} has no {attribute}")
        self.swarm = swarm
        self._undone = False
        self._on_sockets: dict[Any, Hook] = {}
        self._waiting: list[WaitingSockets] = []
        self.undo = place_all(self._placing())
        """Let the swarm ask as in stock py-libp2p. A second call does nothing."""

    def _placing(self) -> Iterator[Undo]:
        yield self._unhook_sockets
        yield bounded_websockets.use()
        yield Hook(self.swarm, "notify_listen", self._listening).undo
        yield Hook(self.swarm, "_handle_inbound_connection", self._handling).undo
        yield from follow_progress(self.swarm)
        for listener in self.swarm.listeners.values():
            if not _websocket_listeners(listener):  # it serves without our hook already
                self._hook_sockets(listener)

    def _unhook_sockets(self) -> None:
        self._undone = True
        for hook in self._on_sockets.values():
            hook.undo()
        for waiting in self._waiting:
            waiting.close()

    def _hook_sockets(self, listener: Any) -> None:
        import trio
        from libp2p.transport.tcp.tcp import TCPListener

        for closed in [each for each in self._on_sockets if each.fileno() < 0]:
            del self._on_sockets[closed]
        for each in listener.listeners if isinstance(listener, TCPListener) else (
                _websocket_listeners(listener)):
            if isinstance(each, trio.SocketListener) and each.socket not in self._on_sockets:
                waiting = WaitingSockets(lambda: self._room)
                self._waiting.append(waiting)
                self._on_sockets[each.socket] = Hook(
                    each.socket, "accept", partial(self._accepting, waiting))

    async def _listening(self, original: Callable[[Any], Awaitable[None]], maddr: Any) -> None:
        """libp2p 0.8.1: network/swarm.py line 1930, when a listener has its sockets."""
        self._hook_sockets(self.swarm.listeners.get(str(maddr)))
        await original(maddr)

    async def _accepting(
        self, waiting: WaitingSockets, original: Callable[[], Awaitable[Accepted]]
    ) -> Accepted:
        """trio 0.35: _highlevel_socket.py line 411, called by the task that starts the handlers."""
        import trio

        accepted.set(None)  # the handler of the previous connection has taken it
        current.set(None)
        try:
            while True:
                found = self._next_of(waiting)
                if found is None:
                    with trio.move_on_after(_TRY_AGAIN_S if len(waiting) else math.inf):
                        found = self._let_in(waiting, *await original())
                        if found is None:
                            await self._count()
                if found is not None:
                    return found
        except trio.Cancelled:  # the listener ends
            waiting.close()
            raise

    def _next_of(self, waiting: WaitingSockets) -> Accepted | None:
        """A waiting socket that has a place now."""
        if len(waiting) == 0:
            return None
        waiting.look()
        while (overdue := waiting.overdue()) is not None:
            if self._admits(*overdue):
                return overdue
        while (first := waiting.first) is not None and self._has_place(first[1]):
            waiting.remove_first()
            if self._admits(*first):
                return first
        return None

    def _let_in(self, waiting: WaitingSockets, socket: Any, address: Any) -> Accepted | None:
        """The socket that the swarm gets now. None: this one waits, or was refused."""
        if self._undone:
            return socket, address
        room = self._room
        if room is not None and room.is_active:
            if peek(socket) == b"":
                socket.close()
                return None
            # a place becomes free only while handshakes are under way
            may_wait = room.settings.waiting_s > 0 and len(room.handshakes) > 0
            if may_wait and (len(waiting) or not self._has_place(address)):
                out = waiting.add(socket, address)
                return out if out is not None and self._admits(*out) else None
        return (socket, address) if self._admits(socket, address) else None

    @property
    def _room(self) -> Room | None:
        manager = manager_of(self.swarm)
        return manager._admission.room if isinstance(manager, ResourceManager) else None

    def _has_place(self, address: Any) -> bool:
        admission, ip = manager_of(self.swarm)._admission, str(address[0])
        if self.swarm._inbound_limiter.available_tokens == 0:
            admission.room.make_place(ip)
            return False
        return bool(admission.has_place_for_handshake(ip))

    def _admits(self, socket: Any, address: Any) -> bool:
        try:
            by_manager = self.swarm._inbound_limiter.available_tokens > 0
            if by_manager and self._manager_admits(socket, str(address[0])):
                return True
            # later connections inherit this task's context, and must not get what observers set
            # in it
            copy_context().run(self.refuse, socket, by_manager)
        except Exception:
            # A user's limits or observers failed. An exception in this task would end the program.
            # If the swarm asks later, it only ends the connection.
            logger.exception("asking for a connection from %s failed", address)
            return True
        return False

    def _manager_admits(self, socket: Any, ip: str) -> bool:
        ask = getattr(self.swarm._resource_manager, "accept_connection", None)
        if ask is None:  # not our manager: the swarm asks it later
            return True
        scope = ask(ip)
        accepted.set(scope)
        if scope is None:
            return False
        room = self._room
        if room is not None:
            patience = self.swarm.connection_config.inbound_upgrade_timeout
            current.set(Handshake(socket, scope, room, ip, patience))
        return True

    async def _count(self) -> None:
        """libp2p 0.8.1: network/swarm.py line 1969, for each inbound connection."""
        channel = self.swarm.metric_send_channel
        if channel is not None:
            from libp2p.metrics.swarm import SwarmEvent

            event = SwarmEvent()
            event.conn_incoming = True
            try:
                await channel.send(event)
            except Exception:  # the receiver is gone
                logger.debug("a connection was not counted", exc_info=True)

    def refuse(self, socket: Any, by_manager: bool) -> None:
        """Hang up. by_manager: False if the swarm itself has as many connections as it wants."""
        socket.close()

    @staticmethod
    async def _handling(
        original: Callable[..., Awaitable[None]], connection: Any, *args: Any, **kwargs: Any
    ) -> None:
        """libp2p 0.8.1: network/swarm.py line 1947, which may return without asking the manager."""
        scope, handshake = accepted.get(), current.get()
        if handshake is not None:
            handshake.begin(connection)
        try:
            await original(connection, *args, **kwargs)
        finally:
            if scope is not None:
                scope.close()


def _websocket_listeners(listener: Any) -> list[Any]:
    """trio_websocket 0.12: _impl.py line 1694. [] if it is no listener for WebSocket."""
    from libp2p.transport.websocket.listener import WebsocketListener

    if not isinstance(listener, WebsocketListener):
        return []
    found = getattr(listener._server, "_listeners", [])
    return [getattr(each, "transport_listener", each) for each in found]  # below TLS


def gate_accepts(swarm: Any) -> Undo:
    """Give the swarm an `AcceptGate`, which all callers share, until the last result is called.

    Libp2pMismatch: the swarm cannot have one; nothing has changed.
    """
    shared: SharedHooks | None = getattr(swarm, _ATTRIBUTE, None)
    if shared is None:

        def placing() -> Iterator[Undo]:
            yield AcceptGate(swarm).undo
            setattr(swarm, _ATTRIBUTE, shared)
            yield lambda: vars(swarm).pop(_ATTRIBUTE, None)

        shared = SharedHooks(placing)
    return shared.use()
