"""Our manager behind the constructor and the names of `libp2p.rcmgr.ResourceManager` 0.8.1."""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from libp2p.rcmgr.allowlist import Allowlist as StockAllowlist
from libp2p.rcmgr.connection_limits import new_connection_limits_with_defaults
from libp2p.rcmgr.connection_pool import ConnectionPool
from libp2p.rcmgr.memory_limits import new_memory_connection_limits_with_defaults
from libp2p.rcmgr.memory_pool import MemoryPool
from libp2p.rcmgr.metrics import Metrics, MetricType

from rcmgr.address_limits import SubnetLimits
from rcmgr.addresses import Allowlist
from rcmgr.admission import ConnectionScope, is_inbound
from rcmgr.connection_limits import ConnectionLimits
from rcmgr.limit_files import INFINITE_LIMITS, NodeLimits
from rcmgr.limits import ConcreteLimits
from rcmgr.manager import ResourceLimits
from rcmgr.manager import ResourceManager as OurManager
from rcmgr.memory_limits import MemoryConnectionLimits
from rcmgr.peers import peer_from_any
from rcmgr.rate_limits import ConnectionRateLimits, Rate
from rcmgr.scope import ConnScope, Refusal

__all__ = ["ResourceManager", "set_default_limits"]

_default_limits: NodeLimits | None = None
_LONGEST_REFILL_S = 49 * 365 * 86400


def set_default_limits(limits: NodeLimits | None) -> None:
    """The limits of managers that are made without any from now on; None: py-libp2p's defaults."""
    global _default_limits
    _default_limits = limits


class ResourceManager(OurManager):
    """`rcmgr.ResourceManager` with py-libp2p's arguments, methods and defaults.

    Arguments may be py-libp2p's objects or ours. enable_circuit_breaker and
    enable_graceful_degradation are accepted: neither is needed for the limits to hold, and there is
    none. What an allowlist entry or CIDR cannot mean is a warning, or a ValueError.
    """

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
        self._given_limits = None if isinstance(limits, NodeLimits) else limits
        node = _node_limits(limits)
        if cidr_limits:
            node = replace(node, subnets=_subnets(cidr_limits))
        states = node.connections if limits is None and _default_limits else _states(
            connection_limits, enable_connection_tracking)
        rates = None
        if enable_rate_limiting:
            burst = max(1, int(burst_connections_per_peer))
            slowest = burst / _LONGEST_REFILL_S  # what our buckets can count
            rates = ConnectionRateLimits(
                per_peer=Rate(max(connections_per_peer_per_sec, slowest), burst))
        super().__init__(
            node,
            _allowlist(allowlist, allowlist_config),
            connection_limits=states,
            connection_rate_limits=rates,
            memory_limits=_memory(memory_limits) if enable_memory_limits else None,
            enable_prometheus=enable_prometheus,
            prometheus_port=prometheus_port,
            prometheus_exporter=prometheus_exporter,
        )
        self._metrics = metrics if metrics is not None else Metrics() if enable_metrics else None
        most = self.limits.max_connections
        self.connection_pool: ConnectionPool[Any] | None = ConnectionPool(
            max_size=1000 if most is None else most, pre_allocate=False,
        ) if enable_connection_pooling else None
        self.memory_pool = MemoryPool(
            block_size=1024 * 1024, initial_blocks=0, max_blocks=1000,
        ) if enable_memory_pooling else None
        self._acquired: dict[tuple[Any, ...], list[tuple[ConnScope, Any]]] = {}

    # -- what py-libp2p's manager has beside ours ------------------------------------------------

    @property
    def limits(self) -> Any:
        """As they were given, or ours."""
        return super().limits if self._given_limits is None else self._given_limits

    @limits.setter
    def limits(self, limits: Any) -> None:
        self.scope_limits = _node_limits(limits, self.scope_limits).scopes
        self._given_limits = None if isinstance(limits, NodeLimits) else limits

    @property
    def metrics(self) -> Metrics | None:
        """py-libp2p's metrics, with our counts of this moment; None: they were not enabled."""
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

    circuit_breaker = None
    """There is none: a refusal costs next to nothing, and refuses nobody else."""

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

    def acquire_connection(
        self, peer_id: str = "", endpoint_ip: str | None = None, direction: str = "inbound"
    ) -> bool:
        """Count a connection, in no state; False: denied. Give it back with `release_connection`.

        ResourceScopeClosed: the manager is closed.
        """
        self._check_open()
        inbound = is_inbound(direction)
        peer = peer_from_any(peer_id) or None
        exempt = peer is not None and self.allowlist.allows_at(peer, endpoint_ip)
        entered = None
        if not exempt:
            answer = self._may_begin(inbound, endpoint_ip)
            if answer is None:
                return False
            exempt, entered = answer
        if peer is not None and not exempt and not self._may_connect(peer, inbound, False):
            if entered is not None:
                entered.close()
            return False
        scope = self.ledger.try_open_connection(inbound, True, exempt, peer)
        if isinstance(scope, Refusal):
            self.denials.add(scope, None, peer, inbound)
            if entered is not None:
                entered.close()
            return False
        with self._lock:
            key = (peer_id, endpoint_ip, inbound)
            self._acquired.setdefault(key, []).append((scope, entered))
        return True

    def release_connection(
        self, peer_id: str = "", endpoint_ip: str | None = None, direction: str = "inbound"
    ) -> None:
        """Give back a connection that was acquired with the same arguments; else nothing."""
        key = (peer_id, endpoint_ip, is_inbound(direction))
        with self._lock:
            scopes = self._acquired.get(key, [])
            found = scopes.pop() if scopes else None
            if not scopes:
                self._acquired.pop(key, None)
        for each in found or ():
            if each is not None:
                each.close()

    def open_connection(
        self, peer_id: Any = None, endpoint_ip: str | None = None, direction: Any = "inbound"
    ) -> ConnectionScope | None:
        """As of our manager; a peer of another type is known by its text."""
        try:
            return super().open_connection(peer_id, endpoint_ip, direction)
        except TypeError:
            if isinstance(peer_id, str | bytes | int):
                raise
            return super().open_connection(str(peer_id), endpoint_ip, direction)

    def is_resource_available(self, resource_type: str, amount: int = 1) -> bool:
        """Whether so much more of "connections", "memory" (bytes) or "streams" would be in limits.
        """
        limits = self.scope_limits.system
        used, limit = {
            "connections": (self._current_connections, limits.conns),
            "memory": (self._current_memory, limits.memory),
            "streams": (self._current_streams, limits.streams),
        }.get(resource_type, (1, 0))
        return limit is None or used + amount <= limit

    def get_stats(self) -> dict[str, Any]:
        """As of our manager, and of the pools if there are any."""
        stats = super().get_stats()
        for name in ("connection_pool", "memory_pool"):
            pool = getattr(self, name, None)
            if pool is not None:
                stats[name] = pool.get_stats()
        return stats


ResourceManager.__module__ = "libp2p.rcmgr.manager"


def _refused(refused: dict[str, dict[str, int]], resource: str) -> int:
    return sum(
        times for counts in refused.values() for name, times in counts.items()
        if name.endswith(resource)
    )


def _node_limits(limits: Any, scopes: ConcreteLimits = INFINITE_LIMITS.scopes) -> NodeLimits:
    """scopes: what stays of them, where only totals are given."""
    if limits is None:
        if _default_limits is not None:
            return _default_limits
        limits = ResourceLimits()
    if isinstance(limits, NodeLimits):
        return limits
    if isinstance(limits, ResourceLimits):
        return NodeLimits(limits.applied_to(scopes))
    try:
        system = replace(
            scopes.system, conns=limits.max_connections, memory=limits.max_memory_bytes,
            streams=limits.max_streams,
        )
    except AttributeError as error:
        raise TypeError(f"limits must be ResourceLimits, not {limits!r}") from error
    return NodeLimits(replace(scopes, system=system))


def _states(limits: Any, enabled: bool) -> ConnectionLimits:
    if not enabled:
        return ConnectionLimits()
    if isinstance(limits, ConnectionLimits):
        return limits
    if limits is None:
        limits = new_connection_limits_with_defaults()
    return ConnectionLimits(**{
        each.name: getattr(limits, each.name) for each in fields(ConnectionLimits)})


def _memory(limits: Any) -> MemoryConnectionLimits:
    if isinstance(limits, MemoryConnectionLimits):
        return limits
    if limits is None:
        limits = new_memory_connection_limits_with_defaults()
    percent = limits.max_process_memory_percent
    return MemoryConnectionLimits(
        limits.max_process_memory_bytes, None if percent is None else percent / 100)


def _subnets(rules: Iterable[tuple[str, int]]) -> SubnetLimits:
    overrides = {
        str(ipaddress.ip_network(network, strict=False)): max(0, int(most))
        for network, most in rules
    }
    return SubnetLimits(ipv4=(), ipv6=(), overrides=overrides)


def _allowlist(allowlist: Any, config: Any) -> Allowlist:
    if isinstance(allowlist, Allowlist):
        return allowlist
    stock = StockAllowlist(config) if allowlist is None else allowlist
    ours = Allowlist()
    if not isinstance(stock, StockAllowlist):
        for entry in stock:
            ours.add(entry)
        return ours
    for peer in stock.peers:
        ours.add_peer(peer)
    for entry in (
        *stock.multiaddrs,
        *(f"{address}/p2p/{peer}" for peer, address in stock.peer_multiaddrs),
    ):
        try:
            ours.add(entry)
        except ValueError as error:
            warnings.warn(f"the allowlist's {entry!r} is left out: {error}", stacklevel=4)
    return ours
