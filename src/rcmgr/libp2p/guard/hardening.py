"""Close the holes of libp2p 0.8.1 that no resource manager can close by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rcmgr.libp2p.guard.accept_gate import gate_accepts
from rcmgr.libp2p.guard.bounded_muxers import bounded_muxers
from rcmgr.libp2p.guard.remote_addresses import report_remote_addresses
from rcmgr.libp2p.guard.stream_scopes import has_scope, manager_of, scope_streams
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch
from rcmgr.limits.scopes import ConcreteLimits
from rcmgr.manager import ResourceManager

if TYPE_CHECKING:
    import trio
    from libp2p.abc import IHost

__all__ = ["Hardening", "harden"]

_ATTRIBUTE = "_rcmgr_hardening"
_RESERVED = 8
"""One in so many streams of the node is kept for those that it opens itself."""
_SHARE = 2
"""No peer alone has more than one in so many of the streams from outside."""


class Hardening:
    """What `harden` put in place, until `undo`."""

    def __init__(self, host: IHost) -> None:
        self._host = host
        self._swarm: Any = host.get_network()
        # by task: what it accepted; by connection: what came of it
        self._accepting: dict[Any, trio.CancelScope] = {}
        self._accepted: dict[Any, trio.CancelScope] = {}
        self._of_the_manager = ExitStack()
        with ExitStack() as undone:
            undone.callback(report_remote_addresses().undo)
            undone.callback(bounded_muxers.want())
            undone.callback(gate_accepts(self._swarm))
            for attribute, make in (
                ("_do_handle_inbound_connection", self._handling),
                ("add_conn", self._adding),
                ("remove_conn", self._removing),
                ("set_resource_manager", self._changing_managers),
            ):
                undone.callback(Hook(self._swarm, attribute, make).undo)
            self._limit_streams()
            self._undo = undone.pop_all()
        setattr(self._swarm, _ATTRIBUTE, self)

    def undo(self) -> None:
        """Put everything back; nothing happens the second time.

        A connection that is there already gives its slot back as in libp2p: at the swarm's end.
        """
        self._of_the_manager.close()
        self._undo.close()
        if getattr(self._swarm, _ATTRIBUTE, None) is self:
            delattr(self._swarm, _ATTRIBUTE)

    # -- streams ---------------------------------------------------------------------------------

    def _limit_streams(self) -> None:
        manager = manager_of(self._swarm)
        if not isinstance(manager, ResourceManager):
            raise Libp2pMismatch(
                f"{self._host!r} is not guarded by a rcmgr.ResourceManager, but by {manager!r}")
        with ExitStack() as undone:
            undone.callback(scope_streams(self._host, manager).undo)
            undone.callback(manager._adjust_limits(_fair))
            undone.callback(self._refuse_streams(manager))
            self._of_the_manager = undone.pop_all()

    def _changing_managers(self, original: Callable[..., None]) -> Callable[..., None]:
        """libp2p 0.8.1: network/swarm.py line 362."""

        def set_resource_manager(manager: Any, *args: Any, **kwargs: Any) -> None:
            self._of_the_manager.close()
            original(manager, *args, **kwargs)
            if isinstance(manager, ResourceManager):
                self._limit_streams()

        return set_resource_manager

    def _refuse_streams(self, manager: ResourceManager) -> Callable[[], None]:
        """libp2p 0.8.1: network/swarm.py line 369 lets streams over the limit wait, without bound.

        Without its semaphore the manager is asked, and refuses them.
        """
        before: trio.Semaphore | None = self._swarm._stream_semaphore
        self._swarm._stream_semaphore = None
        if before is not None:
            for _ in range(before.statistics().tasks_waiting):
                before.release()  # what waits is asked about now

        def wait_again() -> None:
            import trio

            if before is None or self._swarm._stream_semaphore is not None:
                return
            # those that have no scope give back a permit of whatever semaphore there is
            taken = sum(
                not has_scope(stream)
                for connection in self._swarm.get_connections()
                for stream in connection.get_streams()
            )
            self._swarm._stream_semaphore = trio.Semaphore(
                max(0, manager.limits.max_streams - taken))

        return wait_again

    # -- connections -----------------------------------------------------------------------------

    def _handling(self, original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """libp2p 0.8.1: network/swarm.py lines 2044 and 2060 wait for the end of the swarm, not of
        the connection, with one of 250 slots for connections from outside.
        """

        import trio

        async def handle(*args: Any, **kwargs: Any) -> None:
            task = trio.lowlevel.current_task()
            with trio.CancelScope() as waiting:
                self._accepting[task] = waiting
                try:
                    await original(*args, **kwargs)
                finally:
                    del self._accepting[task]

        return handle

    def _adding(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """libp2p 0.8.1: network/swarm.py line 2376, called by the task that accepted."""

        import trio

        async def add_conn(*args: Any, **kwargs: Any) -> Any:
            connection = await original(*args, **kwargs)
            waiting = self._accepting.get(trio.lowlevel.current_task())
            if waiting is not None:
                if connection.is_closed:
                    waiting.cancel()
                else:
                    self._accepted[connection] = waiting
            return connection

        return add_conn

    def _removing(self, original: Callable[..., None]) -> Callable[..., None]:
        """libp2p 0.8.1: network/swarm.py line 2926, the end of every connection."""

        def remove_conn(connection: Any) -> None:
            original(connection)
            waiting = self._accepted.pop(connection, None)
            if waiting is not None:
                waiting.cancel()

        return remove_conn


def _fair(limits: ConcreteLimits) -> ConcreteLimits:
    """Others' streams must not take the places of all of the host's own, nor those of one peer
    the places of all others'.
    """
    system, peer = limits.system, limits.peer_default
    most = system.streams
    if most is not None and system.streams_inbound is None:
        system = replace(system, streams_inbound=most - max(most > 1, most // _RESERVED))
    inbound = system.streams_inbound
    if inbound is not None and peer.streams is peer.streams_inbound is None:
        peer = replace(peer, streams_inbound=inbound - inbound // _SHARE)
    return replace(limits, system=system, peer_default=peer)


def harden(host: IHost) -> Hardening:
    """Close what libp2p 0.8.1 leaves open, in this host:

    * A stream over `max_streams` is refused with a reset; stock hosts let it wait, and anybody can
      make any number of them wait. Unless the limits say how many may come from outside, one in
      eight streams is kept for those that the host opens, so that nobody's streams block them; and
      unless they say how many a peer may have, none has more than half of those from outside.
    * The slot of an inbound connection is given back when the connection ends; a stock host accepts
      250 inbound connections in its lifetime.
    * A connection over TCP is refused when it is accepted, before a stream, a task and a multiaddr
      are spent on it. `install()` does that by itself.
    * Streams have scopes (`scope_streams`), and a slot is not lost when one is reset at once.
    * Connections over IPv6 and WebSocket have addresses, relayed ones not their relay's
      (`report_remote_addresses`); for all hosts of the process.
    * Muxers keep nothing of streams that were refused, reset, or closed by their handler, and a
      peer that sends more than its window loses the connection; for all hosts of the process.

    Off unless called; each part is a hook that `undo` takes away. Stays if the host is given
    another manager of ours. A host that is hardened already gets the same result again.
    Libp2pMismatch: the host is not as in libp2p 0.8.1, or not guarded by our manager; then nothing
    has changed.
    """
    in_place: Hardening | None = getattr(host.get_network(), _ATTRIBUTE, None)
    return Hardening(host) if in_place is None else in_place
