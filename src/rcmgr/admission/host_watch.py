"""Learns, from inside a stock py-libp2p host, when that host stops."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HostWatch"]


class HostWatch:
    """Calls `on_stopped` when the last of the hosts that use a manager has stopped.

    A stopping swarm is cancelled while it closes its connections one after the other, so that it
    reports the end of the first one only (libp2p 0.8.1, network/swarm.py, the `finally` of `run`).
    But it runs one task for its resource manager as long as it lives: the manager's
    `graceful_degradation.run_periodic_recovery`, if that attribute is not None.
    """

    def __init__(self, on_stopped: Callable[[], None]) -> None:
        self._on_stopped = on_stopped
        self.running_hosts = 0

    async def run_periodic_recovery(self) -> None:
        """Wait for the host's end. Runs in the host's nursery."""
        import trio

        self.running_hosts += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running_hosts -= 1
            if self.running_hosts == 0:
                self._on_stopped()
