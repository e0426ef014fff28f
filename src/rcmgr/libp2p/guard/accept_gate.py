"""Refuse connections when they are accepted, before py-libp2p spends anything on them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from rcmgr.admission.door import CAN_ACCEPT, AcceptedSocket, Door
from rcmgr.admission.manager_base import ConnectionScope, accepted
from rcmgr.admission.room import Room
from rcmgr.counting.token_bucket import TokenBucket
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
# One task handles up to so many refusals before others run. If there are fewer, it lets some come.
_MOST_AT_ONCE = 128
_GATHER_S = 0.004
# Connections that the kernel keeps for us. It may keep fewer: on Linux net.core.somaxconn.
_MOST_QUEUED = 65535
# refusals that end as usual: 64 at once, and 16 more each second. The others are reset.
_GOODBYES = TokenBucket(64, 16.0)


class AcceptGate:
    """Asks a swarm's manager about each connection that a TCP listener accepts, until `undo`.

    A stock swarm makes a stream, a task and a multiaddr and asks its connection gate first. With
    this gate, a refusal costs the accept and the close of a socket. An admitted connection is
    pending from then on, also while the swarm's connection gate and metrics delay it. The swarm
    takes it over when it asks the manager.

    If all places for handshakes are in use, the handshake that is worth least makes room. If it has
    to stay, the socket waits, unread, for some seconds. A socket that has hung up already costs no
    place.

    On Linux and macOS it accepts up to 128 connections at once, without an object of the socket
    module. After a refusal it waits for 4 ms, so that the next ones cost fewer turns of the event
    loop. The refusals of a flood end with a reset, after which the kernel keeps nothing.

    libp2p's listener lets 128 connections wait in the kernel. A flood fills this queue within
    milliseconds. A peer that finds it full tries again a second later. With this gate the queue is
    as long as the system allows. It stays so after `undo`.

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
        self._uncounted = 0  # accepted connections that the swarm's metrics do not have yet
        self._door = Door()
        self._door.goodbyes = _GOODBYES
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
            if (
                not isinstance(each, trio.SocketListener) or each.socket in self._on_sockets
                or each.socket.fileno() < 0
            ):
                continue
            each.socket.listen(_MOST_QUEUED)
            waiting = WaitingSockets(lambda: self._room)
            self._waiting.append(waiting)
            self._on_sockets[each.socket] = Hook(
                each.socket, "accept", partial(self._accepting, each.socket, waiting))

    async def _listening(self, original: Callable[[Any], Awaitable[None]], maddr: Any) -> None:
        """libp2p 0.8.1: network/swarm.py line 1930, when a listener has its sockets."""
        self._hook_sockets(self.swarm.listeners.get(str(maddr)))
        await original(maddr)

    async def _accepting(
        self, listener: Any, waiting: WaitingSockets, original: Callable[[], Awaitable[Accepted]]
    ) -> Accepted:
        """trio 0.35: _highlevel_socket.py line 411, called by the task that starts the handlers."""
        import trio

        accepted.set(None)  # the handler of the previous connection has taken it
        current.set(None)
        try:
            while True:
                found = self._next_of(waiting)
                if found is not None:
                    return found
                found = await self._next_accepted(listener, waiting, original)
                if found is not None:
                    return found
                await self._count()
        except BaseException as error:
            if isinstance(error, trio.Cancelled) or listener.fileno() < 0:  # the listener ends
                waiting.close()
            raise

    async def _next_accepted(
        self, listener: Any, waiting: WaitingSockets, original: Callable[[], Awaitable[Accepted]]
    ) -> Accepted | None:
        """A connection that the swarm gets. None: those that came were refused, or wait."""
        if not CAN_ACCEPT or getattr(original, "__func__", None) is not type(listener).accept:
            with _until_next_look(waiting):
                return self._let_in(waiting, *await original())
            return None
        import trio

        door, before = self._door_to(waiting), self._door.turned_away
        found, has_more = door.next(listener, _MOST_AT_ONCE)
        turned_away = door.turned_away - before
        self._uncounted += turned_away
        if found is not None:
            socket, scope = found
            await trio.lowlevel.cancel_shielded_checkpoint()
            return self._for_swarm(socket, socket.address, scope)
        if has_more:
            await trio.lowlevel.checkpoint()
        elif turned_away:
            await trio.sleep(_GATHER_S)
        else:
            with _until_next_look(waiting):
                await trio.lowlevel.wait_readable(listener)
        return None

    def _door_to(self, waiting: WaitingSockets) -> Door:
        """The door, for connections that come before this task suspends the next time."""
        door = self._door
        door.ask = door.wait = None
        door.drops_gone = False
        if self._undone:
            return door
        room = self._room
        door.drops_gone = room is not None and room.is_active
        if room is not None and self._may_wait(room):
            door.wait = lambda socket: self._has_to_wait(waiting, socket, socket.address)
        by_manager = self.swarm._inbound_limiter.available_tokens > 0
        door.ask = self._ask if by_manager else _refuse_all
        is_observed = AcceptGate.refuse is not _REFUSE
        # later connections inherit this task's context, and must not get what observers set in it
        door.refuse = (
            (lambda socket: copy_context().run(self.refuse, socket, by_manager))
            if is_observed else None)
        return door

    @staticmethod
    def _may_wait(room: Room) -> bool:
        # a place becomes free only while handshakes are under way
        return room.is_active and room.settings.waiting_s > 0 and len(room.handshakes) > 0

    def _has_to_wait(self, waiting: WaitingSockets, socket: Any, address: Any) -> bool:
        """Whether a socket waits now, or is the one that cannot wait any more."""
        if len(waiting) == 0 and self._has_place(address):
            return False
        manager, ip = manager_of(self.swarm), str(address[0])
        if manager._bans.shuts_out(ip) and not manager.allowlist.allows_at(None, ip):
            return False  # it would take the place of another one, and be refused in the end
        out = waiting.add(socket, address)
        if out is not None:
            waiting.displaced.append(out)
        return True

    def _next_of(self, waiting: WaitingSockets) -> Accepted | None:
        """A waiting socket that has a place now, or one that cannot wait any more."""
        while waiting.displaced:
            if (admitted := self._admitted(*waiting.displaced.pop())) is not None:
                return admitted
        if len(waiting) == 0:
            return None
        self._uncounted += waiting.look_again()
        while (overdue := waiting.overdue()) is not None:
            if (admitted := self._admitted(*overdue)) is not None:
                return admitted
        while (first := waiting.first) is not None and self._has_place(first[1]):
            waiting.remove_first()
            if peek(first[0]) == b"":
                first[0].close()
                self._uncounted += 1
            elif (admitted := self._admitted(*first)) is not None:
                return admitted
        return None

    def _let_in(self, waiting: WaitingSockets, socket: Any, address: Any) -> Accepted | None:
        """As the door, for a socket that trio has accepted."""
        if self._undone:
            return socket, address
        room = self._room
        if room is not None and room.is_active:
            if peek(socket) == b"":
                socket.close()
                self._uncounted += 1
                return None
            if self._may_wait(room) and self._has_to_wait(waiting, socket, address):
                return None
        return self._admitted(socket, address)

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

    def _admitted(self, socket: Any, address: Any) -> Accepted | None:
        """A socket for the swarm. None: it was refused."""
        scope = None
        try:
            by_manager = self.swarm._inbound_limiter.available_tokens > 0
            ask = self._ask if by_manager else _refuse_all
            if ask is not None and (scope := ask(str(address[0]))) is None:
                copy_context().run(self.refuse, socket, by_manager)
                self._uncounted += 1
                return None
        except Exception:
            # A user's limits or observers failed. An exception in this task would end the program.
            # If the swarm asks later, it only ends the connection.
            logger.exception("asking for a connection from %s failed", address)
            if socket.fileno() < 0:
                return None
        return self._for_swarm(socket, address, scope)

    @property
    def _ask(self) -> Callable[[str], ConnectionScope | None] | None:
        """None: it is not our manager, and the swarm asks it later."""
        return getattr(self.swarm._resource_manager, "accept_connection", None)

    def _for_swarm(self, socket: Any, address: Any, scope: ConnectionScope | None) -> Accepted:
        if isinstance(socket, AcceptedSocket):
            import trio

            socket = trio.socket.from_stdlib_socket(socket.detach())
        accepted.set(scope)
        room = self._room
        if scope is not None and room is not None:
            patience = self.swarm.connection_config.inbound_upgrade_timeout
            current.set(Handshake(socket, scope, room, str(address[0]), patience))
        return socket, address

    async def _count(self) -> None:
        """libp2p 0.8.1: network/swarm.py line 1969, for each inbound connection."""
        uncounted, self._uncounted = self._uncounted, 0
        channel = self.swarm.metric_send_channel
        if channel is None or not uncounted:
            return
        from libp2p.metrics.swarm import SwarmEvent

        event = SwarmEvent()
        event.conn_incoming = True
        try:
            for _ in range(uncounted):
                await channel.send(event)
        except Exception:  # the receiver is gone
            logger.debug("a connection was not counted", exc_info=True)

    def refuse(self, socket: Any, by_manager: bool) -> None:
        """Hang up. by_manager: False if the swarm itself has as many connections as it wants."""
        if isinstance(socket, AcceptedSocket):
            self._door.hang_up(socket)
        else:
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


_REFUSE = AcceptGate.refuse


def _until_next_look(waiting: WaitingSockets) -> Any:
    """A cancel scope of trio. It ends the wait for connections while sockets wait for a place."""
    import trio

    return trio.move_on_after(_TRY_AGAIN_S if len(waiting) else math.inf)


def _refuse_all(ip: str) -> None:
    """The swarm has as many connections as it wants."""


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
