"""Refuse connections where they are accepted, before py-libp2p spends anything on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rcmgr.admission import accepted
from rcmgr.libp2p.hooks import Hook

__all__ = ["AcceptGate"]


class AcceptGate:
    """Asks a swarm's manager for each connection that its TCP listeners accept, until `undo`.

    Stock py-libp2p asks it after it has made a stream, a task and a multiaddr for the connection
    and consulted its gate. Here one that is refused costs the accepting and closing of its socket,
    and one that the manager admits is the pending connection that the swarm asks for later. The
    first connection of each listener is still asked for later, and so are all of a port that two
    transports share, and all over WebSocket: trio_websocket keeps one that hangs up at once for
    60 s, too long for a place among the pending.
    """

    def __init__(self, swarm: Any) -> None:
        self.swarm = swarm
        self._undone = False
        self._hooks: list[Hook] = []
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
        for hook in self._hooks:
            hook.undo()

    def _watch(self, listener: Any) -> None:
        if hasattr(listener, "listeners"):  # a TCPListener
            for each in listener.listeners:
                self._hooks.append(Hook(each.socket, "accept", self._accepting))

    def _listening(
        self, original: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py line 1930, when a listener has its sockets."""

        async def notify_listen(maddr: Any) -> None:
            self._watch(self.swarm.listeners[str(maddr)])
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
                if self.swarm._inbound_limiter.available_tokens <= 0:
                    self.refuse(socket, False)  # as the swarm would itself
                elif self._is_admitted(str(address[0])):
                    return socket, address
                else:
                    self.refuse(socket, True)

        return accept

    def _is_admitted(self, ip: str) -> bool:
        ask = getattr(self.swarm._resource_manager, "accept_connection", None)
        if ask is None:  # the swarm was given another manager, which it asks later
            return True
        scope = ask(ip)
        accepted.set(scope)
        return scope is not None

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
