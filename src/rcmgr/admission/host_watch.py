"""Learns, inside a stock py-libp2p host, when that host stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from rcmgr.admission.host_closer import HostCloser, swarm_of_this_task

if TYPE_CHECKING:
    import trio

    from rcmgr.admission.room import Room

__all__ = ["HostWatch"]


class HostWatch:
    """Calls `on_stopped` when a host that uses a manager has stopped.

    A stopping swarm is cancelled while it closes its connections one after the other. So it reports
    only the end of the first one (libp2p 0.8.1, network/swarm.py, the `finally` of `run`). But as
    long as it runs, it runs one task for its resource manager: the manager's
    `graceful_degradation.run_periodic_recovery`, if that attribute is not None.

    Meanwhile, a full host makes room: see `Room`. At its end, its listeners end too.

    on_stopped: a method of the manager, which gets the nursery of the host, or None if no other one
        runs. It is held weakly, because the manager holds this object.
    """

    def __init__(self, on_stopped: Callable[[trio.Nursery | None], Any], room: Room) -> None:
        self._on_stopped = WeakMethod(on_stopped)
        self._room = room
        self.running_hosts = 0

    async def run_periodic_recovery(self) -> None:
        """Wait for the host's end. Runs in the host's nursery."""
        import trio

        nursery = trio.lowlevel.current_task().parent_nursery
        self.running_hosts += 1
        swarm = swarm_of_this_task()
        ends: list[Callable[[], object]] = []
        if swarm is not None:
            closer = HostCloser(swarm, self._room)
            ends = [self._room.add_host(closer), closer.end_listeners]
        try:
            await trio.sleep_forever()
        finally:
            for end in ends:
                end()
            self.running_hosts -= 1
            on_stopped = self._on_stopped()
            if on_stopped is not None:
                on_stopped(nursery if self.running_hosts else None)
