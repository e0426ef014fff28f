"""Our manager behind the constructor and the names of `libp2p.rcmgr.manager` 0.8.1."""

from __future__ import annotations

import threading
from abc import ABCMeta
from dataclasses import replace
from typing import Any

from libp2p.rcmgr.circuit_breaker import CircuitBreaker
from libp2p.rcmgr.connection_limits import new_connection_limits_with_defaults
from libp2p.rcmgr.connection_pool import ConnectionPool
from libp2p.rcmgr.manager import ConnectionScope as StockScope
from libp2p.rcmgr.manager import ResourceLimits as StockResourceLimits
from libp2p.rcmgr.memory_limits import new_memory_connection_limits_with_defaults
from libp2p.rcmgr.memory_pool import MemoryPool
from libp2p.rcmgr.metrics import Metrics, MetricType

from rcmgr.admission.manager_base import ConnectionScope as OurScope
from rcmgr.gates.memory import MemoryConnectionLimits as OurMemoryLimits
from rcmgr.gates.networks import SubnetLimiter
from rcmgr.libp2p.dropin._observed import Observed
from rcmgr.libp2p.dropin.allowlist import Allowlist
from rcmgr.libp2p.dropin.cidr_limits import CIDRLimiter
from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker
from rcmgr.libp2p.dropin.graceful_degradation import NoDegradation
from rcmgr.libp2p.dropin.memory_limits import MemoryConnectionLimits
from rcmgr.libp2p.dropin.memory_stats import MemoryStatsCache
from rcmgr.libp2p.dropin.token_bucket import LONGEST_FILL_S
from rcmgr.limits.checks import check_limit
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.parts import ConnectionRateLimits
from rcmgr.limits.rates import Rate
from rcmgr.limits.scopes import ConcreteLimits
from rcmgr.manager import ResourceManager as OurManager

__all__ = [
    "ConnectionScope",
    "ResourceLimits",
    "ResourceManager",
    "node_limits_by_default",
    "set_default_limits",
]

_default_limits: NodeLimits | None = None
_MOST = 2**63 - 1


def set_default_limits(limits: NodeLimits | None) -> None:
    """Set the limits of managers that get no limits. None: py-libp2p's defaults."""
    global _default_limits
    _default_limits = limits


def node_limits_by_default() -> NodeLimits:
    """The limits under a limits file: py-libp2p's on states and memory, and ours on the rest."""
    return replace(
        NodeLimits.default(),
        connections=ConnectionLimits.of(new_connection_limits_with_defaults()).frozen(),
        memory=_process_memory_by_default(),
    )


def _process_memory_by_default() -> ProcessMemoryLimits:
    percent: Any = new_memory_connection_limits_with_defaults().max_process_memory_percent
    return ProcessMemoryLimits(max_percentage=percent / 100, hysteresis=0)


class ResourceLimits(Observed, StockResourceLimits):
    """Totals of a node. A change at any time applies to the managers that have them.

    Each is 0 or more, or None: no limit. Before a manager has them, any value is allowed, as in
    libp2p.rcmgr. Afterwards, a wrong value raises TypeError or ValueError and changes nothing.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if self._observers and name in ("max_connections", "max_memory_bytes", "max_streams"):
            check_limit(name, value)
        super().__setattr__(name, value)


class ConnectionScope(StockScope, metaclass=ABCMeta):
    """A connection that `ResourceManager.acquire_connection` took, until `close`.

    `open_connection` returns another class of ours. Its objects count as instances of this one.

    endpoint_ip, direction: the arguments of `acquire_connection`. A second `close` does nothing.
    Thread safe.
    """

    def __init__(
        self,
        peer_id: str,
        resource_manager: ResourceManager,
        endpoint_ip: str | None = None,
        direction: str = "inbound",
    ) -> None:
        super().__init__(peer_id, resource_manager)
        self._acquired_with = (peer_id, endpoint_ip, direction)
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            was_closed, self.closed = self.closed, True
        if not was_closed:
            self.resource_manager.release_connection(*self._acquired_with)


ConnectionScope.register(OurScope)


class ResourceManager(OurManager):
    """`rcmgr.ResourceManager` with py-libp2p's arguments, methods, attributes and defaults.

    Arguments may be py-libp2p's objects or ours. `limits`, `connection_limits`, `memory_limits` and
    `allowlist` may change later. The manager follows the changes of objects that were made after
    `install()`, and copies all other objects.

    circuit_breaker, graceful_degradation: objects for readers. The breaker never opens, and the
    limits never sink, because this manager needs neither.

    TypeError, ValueError: which argument is wrong, and why.
    """

    _tracker_type = ConnectionTracker
    _lifecycle_type = ConnectionLifecycleManager
    _memory_limits_type = MemoryConnectionLimits

    def __init__(
        self,
        limits: Any = None,
        allowlist: Any = None,
        metrics: Any = None,
        allowlist_config: Any = None,
        enable_metrics: bool = True,
        connection_limits: Any = None,
        enable_connection_tracking: bool = True,
        memory_limits: Any = None,
        enable_memory_limits: bool = True,
        enable_connection_pooling: bool = False,
        enable_memory_pooling: bool = False,
        enable_circuit_breaker: bool = True,
        enable_graceful_degradation: bool = True,
        enable_prometheus: bool = False,
        prometheus_port: int = 8000,
        prometheus_exporter: Any = None,
        enable_rate_limiting: bool = True,
        connections_per_peer_per_sec: float = 10.0,
        burst_connections_per_peer: float = 50.0,
        cidr_limits: list[tuple[str, int]] | None = None,
    ) -> None:
        if limits is None:
            limits = ResourceLimits() if _default_limits is None else _default_limits
        if isinstance(limits, NodeLimits):
            self._given_limits = None
            node = limits
        else:
            self._given_limits = limits
            node = NodeLimits(_totals(limits, NodeLimits().scopes))
        if not enable_connection_tracking:
            connection_limits = ConnectionLimits()
        elif connection_limits is None:
            connection_limits = (
                node.connections if node is limits else new_connection_limits_with_defaults())
        if not enable_memory_limits:
            memory_limits = None
            node = replace(node, memory=ProcessMemoryLimits())
        elif memory_limits is None:
            memory = node.memory if node is limits else _process_memory_by_default()
            if memory != ProcessMemoryLimits():
                memory_limits = MemoryConnectionLimits.of(memory)
        cidr_limiter = CIDRLimiter(cidr_limits) if cidr_limits else None
        rates = None
        if enable_rate_limiting:
            burst = max(1, int(burst_connections_per_peer))
            slowest = burst / LONGEST_FILL_S  # the slowest rate that our buckets count
            rates = ConnectionRateLimits(
                per_peer=Rate(max(connections_per_peer_per_sec, slowest), burst))
        most = node.scopes.system.conns
        self.connection_pool: ConnectionPool[Any] | None = ConnectionPool(
            max_size=1000 if most is None else most, pre_allocate=False,
        ) if enable_connection_pooling else None
        self.memory_pool = MemoryPool(
            block_size=1024 * 1024, initial_blocks=0, max_blocks=1000,
        ) if enable_memory_pooling else None
        self.circuit_breaker = (
            CircuitBreaker(failure_threshold=5, timeout=60.0) if enable_circuit_breaker else None)
        self.memory_stats_cache = MemoryStatsCache()
        self._metrics = metrics if metrics is not None else Metrics() if enable_metrics else None
        super().__init__(
            node,
            Allowlist(allowlist_config) if allowlist is None else Allowlist.of(allowlist),
            connection_limits=connection_limits,
            connection_rate_limits=rates,
            memory_limits=memory_limits,
            enable_prometheus=enable_prometheus,
            prometheus_port=prometheus_port,
            prometheus_exporter=prometheus_exporter,
        )
        self._takes_any_peer = True
        if isinstance(limits, Observed):
            limits.observe(self._apply_given)
        if cidr_limiter is not None:
            self.cidr_limiter = cidr_limiter

    # -- attributes and methods of py-libp2p's manager -------------------------------------------

    @property
    def limits(self) -> Any:
        """The limits that were given: py-libp2p's, which may change in place, or ours."""
        return super().limits if self._given_limits is None else self._given_limits

    @limits.setter
    def limits(self, limits: Any) -> None:
        if isinstance(limits, NodeLimits):
            self.scope_limits = limits.scopes
            self._given_limits = None
            return
        self.scope_limits = _totals(limits, self.scope_limits)
        self._given_limits = limits
        if isinstance(limits, Observed):
            limits.observe(self._apply_given)

    def _apply(self, limits: NodeLimits) -> None:
        super()._apply(limits)
        given = self._given_limits
        if given is not None and _totals(given, limits.scopes) != limits.scopes:
            self._given_limits = None  # other limits have replaced them

    def _apply_given(self) -> None:
        if self._given_limits is not None:  # otherwise other limits have replaced them
            self.scope_limits = _totals(self._given_limits, self.scope_limits)

    def _new_watch(self) -> NoDegradation:
        return NoDegradation(self)

    @property
    def connection_limits(self) -> Any:
        """`ConnectionLimits`. New limits, and changes, apply to new connections."""
        return self.connection_lifecycle.limits

    @connection_limits.setter
    def connection_limits(self, limits: Any) -> None:
        with self._limits_lock:
            self.connection_lifecycle.limits = limits

    @property
    def memory_limits(self) -> Any:
        """`MemoryConnectionLimits`. None: no limit. May be set."""
        return self.connection_lifecycle.memory_limits

    @memory_limits.setter
    def memory_limits(self, limits: Any) -> None:
        with self._limits_lock:
            self.connection_lifecycle.memory_limits = None if limits is None else _memory(limits)

    @property
    def cidr_limiter(self) -> SubnetLimiter | None:
        """Counts the connections of every address. None: no limit. May be set."""
        return None if self.addresses is None else self.addresses.subnets

    @cidr_limiter.setter
    def cidr_limiter(self, limiter: SubnetLimiter | None) -> None:
        with self._limits_lock:
            self._set_addresses(limiter, self.node_limits.rates)

    @property
    def metrics(self) -> Metrics | None:
        """py-libp2p's metrics with our current counts. None: metrics are not enabled."""
        metrics = self._metrics
        if metrics is not None:
            held, peak, refused = self._held(), self.ledger.peak, self.ledger.refused
            counters = {
                MetricType.CONNECTIONS_INBOUND: held.conns_inbound,
                MetricType.CONNECTIONS_OUTBOUND: held.conns_outbound,
                MetricType.MEMORY_USAGE: held.memory,
                MetricType.STREAMS_INBOUND: held.streams_inbound,
                MetricType.STREAMS_OUTBOUND: held.streams_outbound,
                MetricType.CONNECTION_BLOCKS: _refused(refused, "connection")
                + self.connection_tracker.snapshot().total_denied,
                MetricType.MEMORY_BLOCKS: _refused(refused, "memory"),
                MetricType.STREAM_BLOCKS: _refused(refused, "stream"),
            }
            for metric, value in counters.items():
                metrics.increment(metric, value - metrics.get_counter(metric))
            for metric, name in (
                (MetricType.PEAK_CONNECTIONS, "conns"), (MetricType.PEAK_MEMORY, "memory"),
                (MetricType.PEAK_STREAMS, "streams"),
            ):
                metrics.set_gauge(metric, peak[name])
        return metrics

    @property
    def _current_connections(self) -> int:
        held = self._held()
        return held.conns_inbound + held.conns_outbound

    @property
    def _current_memory(self) -> int:
        return self._held().memory

    @property
    def _current_streams(self) -> int:
        held = self._held()
        return held.streams_inbound + held.streams_outbound

    def is_resource_available(self, resource_type: str, amount: int = 1) -> bool:
        """Whether the limits allow so much more "connections", "memory" (bytes) or "streams"."""
        limits = self.scope_limits.system
        used, limit = {
            "connections": (self._current_connections, limits.conns),
            "memory": (self._current_memory, limits.memory),
            "streams": (self._current_streams, limits.streams),
        }.get(resource_type, (1, 0))
        return limit is None or used + amount <= limit

    def get_stats(self) -> dict[str, Any]:
        """The numbers of our manager, and those of pools, circuit breaker and degradation.

        "limits" are numbers: 2**63 - 1 means no limit.
        """
        stats = super().get_stats()
        for name in ("max_connections", "max_memory_bytes", "max_streams"):
            if stats["limits"][name] is None:
                stats["limits"][name] = _MOST
        for name in ("connection_pool", "memory_pool", "circuit_breaker", "graceful_degradation"):
            part = getattr(self, name)
            if part is not None:
                stats[name] = part.get_stats()
        return stats


def _refused(refused: dict[str, dict[str, int]], resource: str) -> int:
    return sum(
        times for counts in refused.values() for name, times in counts.items()
        if name.endswith(resource)
    )


def _totals(limits: Any, scopes: ConcreteLimits) -> ConcreteLimits:
    try:
        return scopes.with_system(
            conns=limits.max_connections, memory=limits.max_memory_bytes,
            streams=limits.max_streams)
    except AttributeError as error:
        raise TypeError(f"limits must be ResourceLimits, not {limits!r}") from error


def _memory(limits: Any) -> OurMemoryLimits:
    """Our limits as they are, or a copy of py-libp2p's."""
    if isinstance(limits, OurMemoryLimits):
        return limits
    try:
        return MemoryConnectionLimits(
            limits.max_process_memory_bytes, limits.max_process_memory_percent,
            limits.max_system_memory_percent, limits.memory_stats_cache)
    except AttributeError as error:
        raise TypeError(f"memory_limits must be MemoryConnectionLimits, not {limits!r}") from error
