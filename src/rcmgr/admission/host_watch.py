"""Learns, inside a stock py-libp2p host, when that host stops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
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
        self._swarms: list[tuple[Any, trio.lowlevel.TrioToken]] = []
        self._streams_pass = False
        self.running_hosts = 0

    def let_streams_pass(self, passing: bool) -> None:
        """passing: no stream waits in the queue of a stock swarm, in running hosts and later ones.

        The queue has no time limit, so it is no better than a refusal. Thread safe.
        """
        self._streams_pass = passing
        if not passing:
            return
        for swarm, token in self._swarms.copy():
            with suppress(RuntimeError):  # trio has ended meanwhile
                token.run_sync_soon(_let_streams_pass, swarm)

    async def run_periodic_recovery(self) -> None:
        """Wait for the host's end. Runs in the host's nursery."""
        import trio

        nursery = trio.lowlevel.current_task().parent_nursery
        self.running_hosts += 1
        swarm = swarm_of_this_task()
        ends: list[Callable[[], object]] = []
        if swarm is not None:
            closer = HostCloser(swarm, self._room)
            running = swarm, trio.lowlevel.current_trio_token()
            self._swarms.append(running)
            if self._streams_pass:
                _let_streams_pass(swarm)
            ends = [
                self._room.add_host(closer), closer.end_listeners,
                lambda: self._swarms.remove(running)]
        try:
            await trio.sleep_forever()
        finally:
            for end in ends:
                end()
            self.running_hosts -= 1
            on_stopped = self._on_stopped()
            if on_stopped is not None:
                on_stopped(nursery if self.running_hosts else None)


def _let_streams_pass(swarm: Any) -> None:
    """libp2p 0.8.1: network/swarm.py line 369 lets streams above `max_streams` wait."""
    before, swarm._stream_semaphore = getattr(swarm, "_stream_semaphore", None), None
    if before is not None:
        for _ in range(before.statistics().tasks_waiting):
            before.release()
