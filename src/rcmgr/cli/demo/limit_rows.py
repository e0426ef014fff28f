"""What the demo shows about a host: one row per limit, whichever manager keeps the limits.

For rcmgr every number in a row is the manager's own. py-libp2p's manager keeps few of them, so it
runs as a subclass that counts what passes through it and changes nothing else. Beside either of
them `SwarmView` measures what the swarm really holds, so that no manager is its own judge.

Imports libp2p.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from libp2p.abc import IHost, INetConn, INetStream, INetwork, INotifee
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from libp2p.rcmgr import ResourceLimits as StockResourceLimits
from libp2p.rcmgr import ResourceManager as StockResourceManager
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockConnectionLimits
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
from multiaddr import Multiaddr

from rcmgr.counting.memory_stats import read_memory_usage
from rcmgr.libp2p import scope_streams
from rcmgr.limits.files import NodeLimits
from rcmgr.limits.scopes import ConcreteLimits, Limit
from rcmgr.manager import ResourceManager
from rcmgr.report.status_socket import StatusServer

from .limits import Limits

ESTABLISHED = (
    "established_inbound",
    "established_outbound",
    "established_per_peer",
    "established_total",
)


MEMORY_SLACK = 16
"""MiB that come in within the 100 ms that a limit on memory may be behind."""


@dataclass(frozen=True, slots=True)
class Row:
    """One limit. `admitted` and `denied` are totals since the start."""

    name: str
    now: int
    peak: int
    limit: int | None
    admitted: int
    denied: int
    slack: int = 0
    """How far a peak may pass the limit, where it is asked on numbers that are a little old."""

    @property
    def reached(self) -> bool:
        return self.limit is not None and self.peak >= self.limit

    @property
    def passed(self) -> bool:
        return self.limit is not None and self.peak > self.limit + self.slack


class ProcessMemory:
    """What the process uses since it was first asked, and what it may, in MiB."""

    def __init__(self, growth: int) -> None:
        self._growth = growth
        self._start: int | None = None
        self._peak = 0

    @property
    def limit(self) -> int:
        if self._start is None:
            self._start = mebibytes_used()
        return self._start + self._growth

    def measure(self, admitted: int, denied: int) -> Row:
        """admitted, denied: how often something was or was not let in because of it."""
        limit = self.limit
        now = mebibytes_used()
        self._peak = max(self._peak, now)
        return Row("memory", now, self._peak, limit, admitted, denied, slack=MEMORY_SLACK)


def mebibytes_used() -> int:
    return (read_memory_usage() or 0) >> 20


class Watch(Protocol):
    """A manager for the host, and what it says of itself."""

    title: str
    memory_admitted: int
    """Reservations of memory that were granted."""

    @property
    def manager(self) -> Any: ...

    def rows(self) -> list[Row]: ...

    def attach(self, host: IHost) -> None:
        """Called with the host, which has the manager, before it runs."""

    def close(self) -> None:
        """After the run."""

    def hint(self) -> str:
        """What else can be looked at meanwhile; "" if nothing."""

    def limit_memory(self) -> None:
        """From now on, the process may grow by so much."""

    def memory(self) -> Row:
        """The process's memory now, in MiB; not among `rows`, as it never is given back whole."""

    def last_denial(self) -> str | None: ...

    def remarks(self) -> list[str]:
        """What a reader of the rows should know, in sentences."""


class SwarmView(INotifee):
    """Established connections as the swarm has them, measured whenever it gains one."""

    def __init__(self) -> None:
        self.swarm: Any = None
        self.peaks: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    def watch(self, swarm: Any) -> None:
        self.swarm = swarm
        swarm.register_notifee(self)

    def measure(self) -> Counter[str]:
        """Live connections now, by the name of the limit that is for them."""
        now: Counter[str] = Counter()
        for connections in self.swarm.get_connections_map().values():
            live = [connection for connection in connections if not connection.is_closed]
            inbound = sum(is_inbound(connection) for connection in live)
            now["established_inbound"] += inbound
            now["established_outbound"] += len(live) - inbound
            now["established_total"] += len(live)
            now["established_per_peer"] = max(now["established_per_peer"], len(live))
        return now

    def has(self, peer_id: ID) -> bool:
        return any(not connection.is_closed for connection in self.swarm.get_connections(peer_id))

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        name = "established_inbound" if is_inbound(conn) else "established_outbound"
        self.total[name] += 1
        self.peaks |= self.measure()

    async def disconnected(self, network: INetwork, conn: INetConn) -> None: ...

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


def is_inbound(conn: Any) -> bool:
    return bool(conn.direction == Direction.INBOUND)


def count(refused: dict[str, dict[str, int]], resource: str) -> int:
    """Refusals of streams or connections in these scopes, whichever their direction."""
    return sum(
        times
        for resources in refused.values()
        for name, times in resources.items()
        if name.endswith(resource)
    )


class GuardedWatch:
    """`rcmgr.ResourceManager`."""

    title = "rcmgr"

    def __init__(self, limits: Limits) -> None:
        self._process = ProcessMemory(limits.memory_growth_mb)
        self.memory_admitted = 0
        self._status: StatusServer | None = None
        self._no_status = "the host does not run"
        scopes = ConcreteLimits(transient=Limit(streams=limits.max_transient_streams))
        self.manager = ResourceManager(
            NodeLimits(limits.resources.applied_to(scopes), limits.connections)
        )

    def attach(self, host: IHost) -> None:
        scope_streams(host, self.manager)
        try:
            self._status = self.manager.serve_status()
        except OSError as error:
            self._no_status = str(error)

    def close(self) -> None:
        if self._status is not None:
            self._status.close()

    def rows(self) -> list[Row]:
        tracker = self.manager.connection_tracker
        seen = tracker.snapshot()
        stats = self.manager.get_stats()
        limits = stats["limits"]
        now = {
            **stats["connection_states"],
            "established_per_peer": max(map(len, tracker.established_per_peer.values()), default=0),
            "established_total": seen.established_total,
        }
        admitted = {
            **seen.admitted,
            "established_per_peer": seen.total_established,
            "established_total": seen.total_established,
        }
        states = [
            Row(
                name,
                now[name],
                getattr(seen, f"peak_{name}"),
                limits[f"max_{name}"],
                admitted[name],
                seen.denied.get(name, 0),
            )
            for name in now
        ]
        return [*states, *self._scopes(seen.total_created)]

    def _scopes(self, connections: int) -> list[Row]:
        """What the scopes say: connections and streams of all, and those not negotiated yet."""
        ledger, limits = self.manager.ledger, self.manager.scope_limits
        refused = ledger.refused
        in_all, transient = ledger.system().stat(), ledger.transient().stat()
        streams = ledger.streams_opened - count(refused, "stream")
        return [
            Row(
                "connections",
                in_all.conns_inbound + in_all.conns_outbound,
                ledger.peak["conns"],
                limits.system.conns,
                connections,
                count({"system": refused.get("system", {})}, "connection"),
            ),
            Row(
                "streams",
                in_all.streams_inbound + in_all.streams_outbound,
                ledger.peak["streams"],
                limits.system.streams,
                streams,
                count({"system": refused.get("system", {})}, "stream"),
            ),
            Row(
                "transient_streams",
                transient.streams_inbound + transient.streams_outbound,
                ledger.transient_peak["streams"],
                limits.transient.streams,
                streams,
                count({"transient": refused.get("transient", {})}, "stream"),
            ),
        ]

    def limit_memory(self) -> None:
        self.manager.set_memory_limits(max_bytes=self._process.limit << 20)

    def memory(self) -> Row:
        lifecycle = self.manager.connection_lifecycle
        return self._process.measure(self.memory_admitted, lifecycle.refused_for_memory)

    def last_denial(self) -> str | None:
        denial = self.manager.last_denial
        return None if denial is None else str(denial)

    def remarks(self) -> list[str]:
        return []

    def hint(self) -> str:
        if self._status is None:
            return f"`rcmgr top` cannot look at it: {self._no_status}"
        return "see also: rcmgr top, rcmgr status, rcmgr explain"


class StockWatch:
    """`libp2p.rcmgr.ResourceManager` with the same limits, and its own defaults for all else.

    Established connections are those that the swarm has; pending ones those whose pre-upgrade scope
    is open; all connections and streams are the manager's counters.
    """

    title = "libp2p.rcmgr"

    def __init__(self, limits: Limits, view: SwarmView) -> None:
        self._limits, self._view = limits, view
        self._process = ProcessMemory(limits.memory_growth_mb)
        self.memory_admitted = 0
        self.manager = CountingManager(limits)

    def rows(self) -> list[Row]:
        manager, view = self.manager, self._view
        limits = self._limits.to_dict()
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
        """libp2p.rcmgr has no scopes to give to streams, and nothing to look at it with."""

    def close(self) -> None:
        """Nothing was opened."""

    def hint(self) -> str:
        return ""

    def limit_memory(self) -> None:
        """Nothing in libp2p 0.8.1 asks the memory limits that its manager can be given."""

    def memory(self) -> Row:
        return self._process.measure(self.memory_admitted, self.manager.denied["memory"])

    def last_denial(self) -> str | None:
        return self.manager.last_denial

    def remarks(self) -> list[str]:
        configured, now = self._limits.resources.max_connections, self.manager.limits
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
    """One limit, counted from outside the manager."""

    now: int = 0
    peak: int = 0
    admitted: int = 0

    def enter(self) -> None:
        self.admitted += 1
        self.become(self.now + 1)

    def become(self, now: int) -> None:
        self.now = now
        self.peak = max(self.peak, now)


class CountingManager(StockResourceManager):
    """py-libp2p's manager, observed: decides nothing that it would not have decided."""

    def __init__(self, limits: Limits) -> None:
        resources = limits.resources
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
        self.connections.become(self._current_connections)
        if scope is None:
            self.refused("connections", "a connection (libp2p.rcmgr gives no reason)")
            return None
        self.connections.admitted += 1
        if peer_id is None:
            self._count_pending(scope, self.pending[direction])
        return scope

    def _count_pending(self, scope: Any, tally: Tally) -> None:
        tally.enter()
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
            self.streams.enter()
        else:
            self.refused("streams", "a stream (libp2p.rcmgr gives no reason)")
        return acquired

    def release_stream(self, peer_id: str, direction: Direction) -> None:
        super().release_stream(peer_id, direction)
        self.streams.now = self._current_streams


class CountingLimits(StockConnectionLimits):
    """py-libp2p's connection limits, observed."""

    def __init__(self, refused: Callable[[str, str], None], limits: Limits) -> None:
        super().__init__(**limits.connections.to_dict())
        self._refused = refused

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        try:
            yield
        except ResourceLimitExceeded as error:
            self._refused(name, str(error))
            raise

    def check_established_inbound_limit(self, current: int) -> None:
        with self._noting("established_inbound"):
            super().check_established_inbound_limit(current)

    def check_established_outbound_limit(self, current: int) -> None:
        with self._noting("established_outbound"):
            super().check_established_outbound_limit(current)

    def check_established_per_peer_limit(self, current: int) -> None:
        with self._noting("established_per_peer"):
            super().check_established_per_peer_limit(current)

    def check_established_total_limit(self, current: int) -> None:
        with self._noting("established_total"):
            super().check_established_total_limit(current)
