"""Close the holes of libp2p 0.8.1 that no resource manager can close by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rcmgr.libp2p.hooks import Hook, Libp2pMismatch
from rcmgr.libp2p.remote_addresses import report_remote_addresses
from rcmgr.libp2p.scopes import scope_streams
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    from libp2p.abc import IHost

__all__ = ["Hardening", "harden"]

_RESERVED = 8
"""One in so many streams of the node is kept for those that it opens itself."""


class _Accepted:
    """The connection that came of an accepted one, once there is one."""

    def __init__(self) -> None:
        import trio

        self.there = trio.Event()
        self.connection: Any = None


_accepted: ContextVar[_Accepted | None] = ContextVar("rcmgr_accepted", default=None)


class Hardening:
    """What `harden` put in place, until `undo`."""

    def __init__(self, host: IHost) -> None:
        self._swarm: Any = host.get_network()
        manager = getattr(self._swarm, "_resource_manager", None)
        if not isinstance(manager, ResourceManager):
            raise Libp2pMismatch(
                f"{host!r} is not guarded by a rcmgr.ResourceManager, but by {manager!r}")
        self._manager = manager
        with ExitStack() as undone:
            undone.callback(report_remote_addresses().undo)
            undone.callback(scope_streams(host, manager).undo)
            for attribute, make in (
                ("_do_handle_inbound_connection", self._handling),
                ("add_conn", self._adding),
            ):
                undone.callback(Hook(self._swarm, attribute, make).undo)
            undone.callback(self._reserve_streams())
            undone.callback(self._refuse_streams())
            self._undo = undone.pop_all()

    def undo(self) -> None:
        """Put everything back; nothing happens the second time."""
        self._undo.close()

    def _refuse_streams(self) -> Callable[[], None]:
        """libp2p 0.8.1: network/swarm.py line 369 lets streams over the limit wait, without bound.

        Without its semaphore the manager is asked, and refuses them.
        """
        had_one = self._swarm._stream_semaphore is not None
        self._swarm._stream_semaphore = None

        def wait_again() -> None:
            import trio

            if had_one and self._swarm._stream_semaphore is None:
                self._swarm._stream_semaphore = trio.Semaphore(self._manager.limits.max_streams)

        return wait_again

    def _reserve_streams(self) -> Callable[[], None]:
        """Others' streams must not take the places of all of the host's own."""
        before = self._manager.scope_limits
        most = before.system.streams
        if most is None or before.system.streams_inbound is not None:
            return lambda: None
        system = replace(before.system, streams_inbound=most - max(most > 1, most // _RESERVED))
        hardened = self._manager.scope_limits = replace(before, system=system)

        def allow_again() -> None:
            if self._manager.scope_limits is hardened:
                self._manager.scope_limits = before

        return allow_again

    @staticmethod
    def _handling(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py lines 2044 and 2060 wait for the end of the swarm, not of
        the connection, with one of 250 slots for connections from outside.
        """

        async def handle(*args: Any, **kwargs: Any) -> None:
            import trio

            accepted = _Accepted()
            token = _accepted.set(accepted)

            async def end_with_the_connection() -> None:
                await accepted.there.wait()
                await accepted.connection.event_closed.wait()
                nursery.cancel_scope.cancel()

            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(end_with_the_connection)
                    await original(*args, **kwargs)
                    nursery.cancel_scope.cancel()
            finally:
                _accepted.reset(token)

        return handle

    @staticmethod
    def _adding(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: network/swarm.py line 2376, which knows the connection."""

        async def add_conn(*args: Any, **kwargs: Any) -> Any:
            connection = await original(*args, **kwargs)
            accepted = _accepted.get()
            if accepted is not None and accepted.connection is None:
                accepted.connection = connection
                accepted.there.set()
            return connection

        return add_conn


def harden(host: IHost) -> Hardening:
    """Close what libp2p 0.8.1 leaves open, in this host:

    * A stream over `max_streams` is refused with a reset; stock hosts let it wait, and anybody can
      make any number of them wait. One in eight streams is kept for those that the host opens, so
      that nobody's streams block them, unless the limits say how many may come from outside.
    * The slot of an inbound connection is given back when the connection ends; a stock host accepts
      250 inbound connections in its lifetime.
    * Streams have scopes (`scope_streams`), and a slot is not lost when one is reset at once.
    * Connections over IPv6 and WebSocket have addresses, relayed ones not their relay's
      (`report_remote_addresses`).

    Off unless called; each part is a hook that `undo` takes away. Libp2pMismatch: the host is not
    as in libp2p 0.8.1, or not guarded by our manager; then nothing has changed.
    """
    return Hardening(host)
