"""`libp2p.rcmgr.ResourceManager` in the demo.

It reports few numbers. A subclass counts every call and its answer, and changes no answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from libp2p.abc import IHost
from libp2p.rcmgr import Direction
from libp2p.rcmgr import ResourceLimits as StockResourceLimits
from libp2p.rcmgr import ResourceManager as StockResourceManager
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockConnectionLimits
from libp2p.rcmgr.exceptions import ResourceLimitExceeded

from rcmgr.limits.node import NodeLimits
from rcmgr.limits.parts import ResourceLimits

from .limit_rows import ProcessMemory, Row
from .swarm_view import ESTABLISHED, SwarmView

__all__ = ["MeasuredStock"]


class MeasuredStock:
    """`libp2p.rcmgr.ResourceManager` with the demo's limits. Its other settings are the defaults.

    Established connections are counted in the swarm. A connection is pending while the scope from
    before its upgrade is open. Totals of connections and streams are the manager's counters.
    """

    title = "libp2p.rcmgr"

    def __init__(self, limits: NodeLimits, view: SwarmView) -> None:
        self._limits, self._view = limits, view
        self._process = ProcessMemory(limits.memory)
        self.memory_admitted = 0
        self.manager = CountingManager(limits)

    def rows(self) -> list[Row]:
        manager, view = self.manager, self._view
        resources = ResourceLimits.of(self._limits)
        limits = {
            **self._limits.connections.to_dict(),
            "max_connections": resources.max_connections,
            "max_streams": resources.max_streams,
        }
        live = view.measure()
        connected = view.total.total()
        tallies = {
            "pending_inbound": manager.pending["inbound"],
            "pending_outbound": manager.pending["outbound"],
            **{
                name: Tally(live[name], view.peaks[name], view.total.get(name, connected))
                for name in ESTABLISHED
            },
            "connections": manager.connections,
            "streams": manager.streams,
        }
        return [
            Row(
                name,
                tally.now,
                tally.peak,
                limits[f"max_{name}"],
                tally.admitted,
                manager.denied[name],
            )
            for name, tally in tallies.items()
        ]

    def attach(self, host: IHost) -> None:
        """libp2p.rcmgr has neither scopes for streams nor a status."""

    def close(self) -> None:
        """There is nothing to close."""

    def hint(self) -> str:
        return ""

    def limit_memory(self) -> None:
        """libp2p 0.8.1 never checks the memory limits of its manager."""

    def memory(self) -> Row:
        return self._process.measure(self.memory_admitted, self.manager.denied["memory"])

    def last_denial(self) -> str | None:
        return self.manager.last_denial

    def remarks(self) -> list[str]:
        configured, now = self._limits.scopes.system.conns, self.manager.limits
        remarks = []
        counted, live = self.manager.connections.now, self._view.measure()["established_total"]
        if counted > live:
            remarks.append(f"libp2p.rcmgr counts {counted} connections, the swarm has {live}.")
        if configured is not None and now.max_connections < configured:
            remarks.append(
                f"libp2p.rcmgr itself lowered max_connections from {configured} to "
                f"{now.max_connections} (its graceful degradation)."
            )
        if any(row.passed for row in self.rows() if row.name.startswith("pending")):
            remarks.append("py-libp2p never asks libp2p.rcmgr about its pending limits.")
        return remarks


@dataclass
class Tally:
    """The counts of one limit."""

    now: int = 0
    peak: int = 0
    admitted: int = 0

    def add(self) -> None:
        self.admitted += 1
        self.set(self.now + 1)

    def set(self, now: int) -> None:
        self.now = now
        self.peak = max(self.peak, now)


class CountingManager(StockResourceManager):
    """py-libp2p's manager with counters. Every decision is py-libp2p's."""

    def __init__(self, limits: NodeLimits) -> None:
        resources = ResourceLimits.of(limits)
        self.pending = {"inbound": Tally(), "outbound": Tally()}
        self.connections = Tally()
        self.streams = Tally()
        self.denied: Counter[str] = Counter()
        self.last_denial: str | None = None
        unlimited = 1 << 40
        super().__init__(
            limits=StockResourceLimits(
                unlimited if resources.max_connections is None else resources.max_connections,
                unlimited if resources.max_memory_mb is None else resources.max_memory_mb,
                resources.max_streams,
            ),
            connection_limits=CountingLimits(self.refused, limits),
        )

    def refused(self, name: str, error: str) -> None:
        self.denied[name] += 1
        self.last_denial = error

    def open_connection(
        self, peer_id: Any = None, endpoint_ip: str | None = None, direction: str = "inbound"
    ) -> Any:
        scope = super().open_connection(peer_id, endpoint_ip, direction)
        self.connections.set(self._current_connections)
        if scope is None:
            self.refused("connections", "a connection (libp2p.rcmgr gives no reason)")
            return None
        self.connections.admitted += 1
        if peer_id is None:
            self._count_pending(scope, self.pending[direction])
        return scope

    def _count_pending(self, scope: Any, tally: Tally) -> None:
        tally.add()
        close = scope.close

        def close_and_count() -> None:
            tally.now -= not scope.closed
            close()

        scope.close = close_and_count

    def release_connection(self, *args: Any, **kwargs: Any) -> None:
        super().release_connection(*args, **kwargs)
        self.connections.now = self._current_connections

    def acquire_memory(self, size: int) -> bool:
        acquired = super().acquire_memory(size)
        if not acquired:
            self.refused("memory", "memory (libp2p.rcmgr gives no reason)")
        return acquired

    def acquire_stream(self, peer_id: str, direction: Direction) -> bool:
        acquired = super().acquire_stream(peer_id, direction)
        if acquired:
            self.streams.add()
        else:
            self.refused("streams", "a stream (libp2p.rcmgr gives no reason)")
        return acquired

    def release_stream(self, peer_id: str, direction: Direction) -> None:
        super().release_stream(peer_id, direction)
        self.streams.now = self._current_streams


class CountingLimits(StockConnectionLimits):
    """py-libp2p's connection limits, which also report each refusal."""

    def __init__(self, refused: Callable[[str, str], None], limits: NodeLimits) -> None:
        super().__init__(**limits.connections.to_dict())
        self._refused = refused

    @contextmanager
    def _counting(self, name: str) -> Iterator[None]:
        try:
            yield
        except ResourceLimitExceeded as error:
            self._refused(name, str(error))
            raise

    def check_established_inbound_limit(self, current: int) -> None:
        with self._counting("established_inbound"):
            super().check_established_inbound_limit(current)

    def check_established_outbound_limit(self, current: int) -> None:
        with self._counting("established_outbound"):
            super().check_established_outbound_limit(current)

    def check_established_per_peer_limit(self, current: int) -> None:
        with self._counting("established_per_peer"):
            super().check_established_per_peer_limit(current)

    def check_established_total_limit(self, current: int) -> None:
        with self._counting("established_total"):
            super().check_established_total_limit(current)
