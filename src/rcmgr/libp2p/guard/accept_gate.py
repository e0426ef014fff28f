"""Refuse connections when they are accepted, before py-libp2p spends anything on them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any

from rcmgr.admission.manager_base import accepted
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, SharedHooks, Undo, place_all

__all__ = ["AcceptGate", "gate_accepts"]

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_rcmgr_accept_gate"


class AcceptGate:
    """Asks a swarm's manager about each connection that a TCP listener accepts, until `undo`.

    A stock swarm makes a stream, a task and a multiaddr and asks its connection gate first. With
    this gate, a refusal costs the accept and the close of a socket. An admitted connection is
    pending from then on, also while the swarm's connection gate and metrics delay it. The swarm
    takes it over when it asks the manager.

    The swarm asks about some connections itself, as in stock py-libp2p:

    * the first connection of each listener that was open before the gate;
    * connections on a port that two transports share;
    * connections over WebSocket. trio_websocket keeps one that hung up at once for 60 s, which is
      too long for a pending connection.

    Libp2pMismatch: the swarm is not as in libp2p 0.8.1; then nothing has changed.
    """

    def __init__(self, swarm: Any) -> None:
        for attribute in ("listeners", "_inbound_limiter", "metric_send_channel"):
            if not hasattr(swarm, attribute):
                raise Libp2pMismatch(f"{swarm!r} has no {attribute}")
        self.swarm = swarm
        self._undone = False
        self._on_sockets: dict[Any, Hook] = {}
        self.undo = place_all(self._placing())
        """Let the swarm ask as in stock py-libp2p. A second call does nothing."""

    def _placing(self) -> Iterator[Undo]:
        yield self._unhook_sockets
        yield Hook(self.swarm, "notify_listen", self._listening).undo
        yield Hook(self.swarm, "_handle_inbound_connection", self._handling).undo
        for listener in self.swarm.listeners.values():
            self._hook_sockets(listener)

    def _unhook_sockets(self) -> None:
        self._undone = True
        for hook in self._on_sockets.values():
            hook.undo()

    def _hook_sockets(self, listener: Any) -> None:
        import trio
        from libp2p.transport.tcp.tcp import TCPListener

        for closed in [each for each in self._on_sockets if each.fileno() < 0]:
            del self._on_sockets[closed]
        for each in listener.listeners if isinstance(listener, TCPListener) else ():
            if isinstance(each, trio.SocketListener) and each.socket not in self._on_sockets:
                self._on_sockets[each.socket] = Hook(each.socket, "accept", self._accepting)

    async def _listening(self, original: Callable[[Any], Awaitable[None]], maddr: Any) -> None:
        """libp2p 0.8.1: network/swarm.py line 1930, when a listener has its sockets."""
        self._hook_sockets(self.swarm.listeners.get(str(maddr)))
        await original(maddr)

    async def _accepting(
        self, original: Callable[[], Awaitable[tuple[Any, Any]]]
    ) -> tuple[Any, Any]:
        """trio 0.35: _highlevel_socket.py line 411, called by the task that starts the handlers."""
        accepted.set(None)  # the handler of the previous connection has taken it
        while True:
            socket, address = await original()
            if self._undone:
                return socket, address
            try:
                if self._admits(socket, address):
                    return socket, address
            except Exception:
                # A user's limits or observers failed. An exception in this task would end the
                # program. If the swarm asks later, it only ends the connection.
                logger.exception("asking for a connection from %s failed", address)
                return socket, address
            await self._count()

    def _admits(self, socket: Any, address: Any) -> bool:
        by_manager = self.swarm._inbound_limiter.available_tokens > 0
        if by_manager and self._manager_admits(str(address[0])):
            return True
        # later connections inherit this task's context, and must not get what observers set in it
        copy_context().run(self.refuse, socket, by_manager)
        return False

    def _manager_admits(self, ip: str) -> bool:
        ask = getattr(self.swarm._resource_manager, "accept_connection", None)
        if ask is None:  # not our manager: the swarm asks it later
            return True
        scope = ask(ip)
        accepted.set(scope)
        return scope is not None

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
        original: Callable[..., Awaitable[None]], *args: Any, **kwargs: Any
    ) -> None:
        """libp2p 0.8.1: network/swarm.py line 1947, which may return without asking the manager."""
        scope = accepted.get()
        try:
            await original(*args, **kwargs)
        finally:
            if scope is not None:
                scope.close()


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
