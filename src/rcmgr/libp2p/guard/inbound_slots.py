"""Give a swarm's slot for an inbound connection back when the connection ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from rcmgr.libp2p.hooks import Hook, Undo, place_all

if TYPE_CHECKING:
    import trio

__all__ = ["free_inbound_slots"]

Coroutine = Callable[..., Awaitable[Any]]


class _Slots:
    """The tasks of a swarm that hold a slot, each with the scope that ends its wait."""

    def __init__(self, swarm: Any) -> None:
        self._swarm = swarm
        self._accepting: dict[trio.lowlevel.Task, trio.CancelScope] = {}
        self._accepted: dict[Any, trio.CancelScope] = {}  # by connection

    def placing(self) -> Iterator[Undo]:
        yield Hook(self._swarm, "_do_handle_inbound_connection", self._handling).undo
        yield Hook(self._swarm, "add_conn", self._adding).undo
        yield Hook(self._swarm, "remove_conn", self._removing).undo

    async def _handling(self, original: Coroutine, *args: Any, **kwargs: Any) -> None:
        """libp2p 0.8.1: network/swarm.py lines 2044 and 2060 hold one of 250 slots, and wait for
        the end of the swarm instead of the connection.
        """
        import trio

        task = trio.lowlevel.current_task()
        with trio.CancelScope() as waiting:
            self._accepting[task] = waiting
            try:
                await original(*args, **kwargs)
            finally:
                del self._accepting[task]

    async def _adding(self, original: Coroutine, *args: Any, **kwargs: Any) -> Any:
        """libp2p 0.8.1: network/swarm.py line 2376, called by the task that accepted."""
        import trio

        connection = await original(*args, **kwargs)
        waiting = self._accepting.get(trio.lowlevel.current_task())
        if waiting is not None:
            if connection.is_closed:
                waiting.cancel()
            else:
                self._accepted[connection] = waiting
        return connection

    def _removing(self, original: Callable[..., None], connection: Any) -> None:
        """libp2p 0.8.1: network/swarm.py line 2926, called at the end of every connection."""
        original(connection)
        waiting = self._accepted.pop(connection, None)
        if waiting is not None:
            waiting.cancel()


def free_inbound_slots(swarm: Any) -> Undo:
    """Free a slot when its connection ends. A stock swarm accepts 250 connections in its lifetime.

    Once the result was called, existing connections keep their slots until the swarm's end.
    """
    return place_all(_Slots(swarm).placing())
