"""Refuse connections where they are accepted, before py-libp2p spends anything on them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from rcmgr.admission.admission import accepted
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, SharedHooks

__all__ = ["AcceptGate", "gate_accepts"]

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_rcmgr_accept_gate"


class AcceptGate:
    """Asks a swarm's manager for each connection that its TCP listeners accept, until `undo`.

    Stock py-libp2p asks it after it has made a stream, a task and a multiaddr for the connection
    and consulted its gate. Here one that is refused costs the accepting and closing of its socket,
    and one that the manager admits is the pending connection that the swarm asks for later; it is
    pending while the swarm's gate and its metrics let it wait, too. The first connection of each
    listener may still be asked for later, and so are all of a port that two transports share, and
    all over WebSocket: trio_websocket keeps one that hangs up at once for 60 s, too long for a
    place among the pending.

    Libp2pMismatch: the swarm is not as in libp2p 0.8.1; then nothing has changed.
    """

    def __init__(self, swarm: Any) -> None:
        for attribute in ("listeners", "_inbound_limiter", "metric_send_channel"):
            if not hasattr(swarm, attribute):
                raise Libp2pMismatch(f"{swarm!r} has no {attribute}")
        self.swarm = swarm
        self._undone = False
        self._hooks: list[Hook] = []
        self._of_sockets: dict[Any, Hook] = {}
        try:
            for attribute, make in (
                ("notify_listen", self._listening),
                ("_handle_inbound_connection", self._handling),
            ):
                self._hooks.append(Hook(swarm, attribute, make))
            for listener in swarm.listeners.values():
                self._watch(listener)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """The swarm asks when it always did; nothing happens the second time."""
        self._undone = True
        for hook in (*self._hooks, *self._of_sockets.values()):
            hook.undo()
        vars(self.swarm).pop(_ATTRIBUTE, None)

    def _watch(self, listener: Any) -> None:
        import trio
        from libp2p.transport.tcp.tcp import TCPListener

        # those of listeners that were closed
        for socket in [each for each in self._of_sockets if each.fileno() < 0]:
            del self._of_sockets[socket]
        for each in listener.listeners if isinstance(listener, TCPListener) else ():
            if isinstance(each, trio.SocketListener) and each.socket not in self._of_sockets:
                self._of_sockets[each.socket] = Hook(each.socket, "accept", self._accepting)

    def _listening(
        self, original: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py line 1930, when a listener has its sockets."""

        async def notify_listen(maddr: Any) -> None:
            self._watch(self.swarm.listeners.get(str(maddr)))
            await original(maddr)

        return notify_listen

    def _accepting(
        self, original: Callable[[], Awaitable[tuple[Any, Any]]]
    ) -> Callable[[], Awaitable[tuple[Any, Any]]]:
        """trio 0.35: _highlevel_socket.py line 411, called by the task that starts the handlers."""

        async def accept() -> tuple[Any, Any]:
            accepted.set(None)  # the handler of the one before has it
            while True:
                socket, address = await original()
                if self._undone:
                    return socket, address
                try:
                    if self._takes(socket, address):
                        return socket, address
                except Exception:
                    # a defect of limits or observers that somebody wrote; what leaves this task
                    # ends the program, and what the swarm does later only ends the connection
                    logger.exception("asking for a connection from %s failed", address)
                    return socket, address
                await self._count()

        return accept

    def _takes(self, socket: Any, address: Any) -> bool:
        by_manager = self.swarm._inbound_limiter.available_tokens > 0
        if by_manager and self._is_admitted(str(address[0])):
            return True
        # observers are told, in a context that no later connection inherits
        copy_context().run(self.refuse, socket, by_manager)
        return False

    def _is_admitted(self, ip: str) -> bool:
        ask = getattr(self.swarm._resource_manager, "accept_connection", None)
        if ask is None:  # the swarm was given another manager, which it asks later
            return True
        scope = ask(ip)
        accepted.set(scope)
        return scope is not None

    async def _count(self) -> None:
        """libp2p 0.8.1: network/swarm.py line 1969, for each connection that comes in."""
        channel = self.swarm.metric_send_channel
        if channel is not None:
            from libp2p.metrics.swarm import SwarmEvent

            event = SwarmEvent()
            event.conn_incoming = True
            try:
                await channel.send(event)
            except Exception:  # nobody counts any more
                logger.debug("a connection was not counted", exc_info=True)

    def refuse(self, socket: Any, by_manager: bool) -> None:
        """Hang up. by_manager: else the swarm has as many connections as it wants."""
        socket.close()

    @staticmethod
    def _handling(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py line 1947, which may end without asking the manager."""

        async def handle(*args: Any, **kwargs: Any) -> None:
            scope = accepted.get()
            try:
                await original(*args, **kwargs)
            finally:
                if scope is not None:
                    scope.close()

        return handle


def gate_accepts(swarm: Any) -> Callable[[], None]:
    """There is one `AcceptGate` on the swarm until the result is called (again changes nothing).

    It is shared by all who want one. Libp2pMismatch: there cannot be one; nothing has changed.
    """
    hooks: SharedHooks | None = getattr(swarm, _ATTRIBUTE, None)
    if hooks is None:
        hooks = SharedHooks(lambda: [AcceptGate(swarm)])
    leave = hooks.want()
    setattr(swarm, _ATTRIBUTE, hooks)
    return leave
