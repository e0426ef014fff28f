"""The one object that a host holds."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from rcmgr.admission.admission import Admission, Intake, is_inbound
from rcmgr.admission.host_lifecycle import HostLifecycle
from rcmgr.admission.host_watch import HostWatch
from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.scope import Ledger, Priority, ScopeStat, StreamScope
from rcmgr.errors import (
    ResourceLimitExceeded,
    ResourceScopeClosed,
    link_upstream,
)
from rcmgr.gates.addresses import Allowlist, endpoint_of
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.gates.networks import AddressGate, AddressRefusal, NetworkShare, SubnetLimiter
from rcmgr.gates.requests import ProtocolRateLimiter, RateRefusal, table_of
from rcmgr.limits.checks import check_count, check_limit
from rcmgr.limits.files import NodeLimits
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.rates import ConnectionRateLimits, RateLimits
from rcmgr.limits.scopes import ConcreteLimits, Limit
from rcmgr.limits.states import ConnectionLimits
from rcmgr.peers import peer_from_any, peer_key
from rcmgr.report.explain import explain
from rcmgr.report.stats import denied_by_limit, stats_of, total_held

if TYPE_CHECKING:
    from rcmgr.report.metrics import MetricsServer
    from rcmgr.report.status_socket import StatusServer

    _S = TypeVar("_S", MetricsServer, StatusServer)

__all__ = ["ResourceLimits", "ResourceManager"]

# `new_host` is annotated with the class of libp2p, for which this one stands in without inheriting
# from it. To a type checker the base is anything: strict code may pass a manager without a cast.
_InPlaceOfUpstream: Any = object

_MIB = 1024 * 1024
_MOST = 2**63 - 1
_MANY_STREAMS = 2**31 - 1  # the swarm needs a number
_NO_LIMITS = NodeLimits()


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """The limits of a whole node, with py-libp2p's names and defaults.

    max_connections: pending and established connections together; None: no limit.
    max_memory_mb: MiB that may be reserved with `acquire_memory`; None: no limit.
    max_streams: streams open at once. py-libp2p's swarm makes a semaphore of this size when it gets
        the manager, and so it must be a number.

    TypeError: not an int (or None where that is allowed). ValueError: negative.
    """

    max_connections: int | None = 1000
    max_memory_mb: int | None = 512
    max_streams: int = 10000

    def __post_init__(self) -> None:
        check_limit("max_connections", self.max_connections)
        check_limit("max_memory_mb", self.max_memory_mb)
        check_limit("max_streams", self.max_streams)
        if self.max_streams is None:
            raise TypeError("max_streams must be an int, not None: the swarm needs a number")

    @property
    def max_memory_bytes(self) -> int | None:
        return None if self.max_memory_mb is None else self.max_memory_mb * _MIB

    @classmethod
    def of(cls, system: Limit) -> ResourceLimits:
        """What a limit of the system scope says, in these terms."""
        return cls(
            system.conns,
            None if system.memory is None else system.memory // _MIB,
            _MANY_STREAMS if system.streams is None else system.streams,
        )

    def applied_to(self, scopes: ConcreteLimits) -> ConcreteLimits:
        """The same limits with the system's connections, streams and memory set to these."""
        return with_totals(scopes, self.max_connections, self.max_memory_bytes, self.max_streams)


class ResourceManager(Admission, _InPlaceOfUpstream):  # type: ignore[misc]
    """Decides for a node, before a resource is spent, whether it may be.

    Give it to `libp2p.new_host(resource_manager=...)` or `new_swarm`.

    limits: of the node. `ResourceLimits` (the default): a few totals. `NodeLimits`: everything
        there is, as in a limits file; `NodeLimits.default()` is scaled to this machine.
    allowlist: peers, addresses, networks (see `Allowlist`) that are never denied by a limit of the
        above, but for those of the allowlisted scopes. Default none.
    connection_limits: limits by connection state; default those of `limits`.
    connection_rate_limits: how often one address and one peer may connect; default no limit.
    memory_limits: what the process may use before connections and reservations are refused;
        default those of `limits`. See also `set_memory_limits`.
    trace_allocations: remember where each scope was opened, for `ledger.leaked_at` (1 us each).
    denials_kept: how many of the latest denials `denials` has, 1 or more.
    enable_prometheus, prometheus_port: serve metrics at that port of this machine from the start;
        see `serve_metrics`. prometheus_exporter: a `libp2p.rcmgr.PrometheusExporter` that is to
        show this manager.

    Streams, connections and memory are counted in `ledger`, connections by state in
    `connection_tracker`. The methods that a swarm calls are O(1), never block and are thread safe.
    A denial is a return value (None or False); `last_denial` and `denials` have the reasons.

    TypeError, ValueError: which argument is wrong, and why.
    """

    # what a subclass may have instead
    _tracker_type: type[ConnectionTracker] = ConnectionTracker
    _lifecycle_type: type[HostLifecycle] = HostLifecycle

    def __init__(
        self,
        limits: ResourceLimits | NodeLimits | None = None,
        allowlist: Allowlist | Iterable[Hashable] | None = None,
        *,
        connection_limits: ConnectionLimits | None = None,
        connection_rate_limits: ConnectionRateLimits | None = None,
        memory_limits: MemoryConnectionLimits | None = None,
        trace_allocations: bool = False,
        denials_kept: int = 256,
        enable_prometheus: bool = False,
        prometheus_port: int = 8000,
        prometheus_exporter: Any = None,
    ) -> None:
        link_upstream()
        node = limits if isinstance(limits, NodeLimits) else _NO_LIMITS
        if limits is None:
            limits = ResourceLimits()
        if connection_limits is None:
            connection_limits = node.connections
        rates = ConnectionRateLimits() if connection_rate_limits is None else connection_rate_limits
        if not isinstance(rates, ConnectionRateLimits):
            raise TypeError(
                f"connection_rate_limits must be a ConnectionRateLimits, not {rates!r}")
        if rates.per_ip is not None and node.rates is not None:
            raise ValueError(
                "connection_rate_limits.per_ip and limits.rates both say how often an address may "
                "connect: give one of them")
        allowed = _allowlist(allowlist)
        check_count("denials_kept", denials_kept, 1)
        denials = DenialLog(denials_kept)
        tracker = self._tracker_type(bypass=allowed.allowed_peers)
        ledger = Ledger(trace_allocations=trace_allocations)
        intake = Intake(tracker, ledger, connection_limits)
        self._lifecycle = self._lifecycle_type(
            tracker, intake=intake, denials=denials, allowlist=allowed
        )
        super().__init__(
            tracker=tracker,
            lifecycle=self._lifecycle,
            ledger=ledger,
            allowlist=allowed,
            denials=denials,
            intake=intake,
        )
        self._memory = self.ledger.system()
        self._adjusting: list[Callable[[ConcreteLimits], ConcreteLimits]] = []
        self._scope_limits = node.scopes
        if isinstance(limits, NodeLimits):
            self.ledger.set_limits(node.scopes)
        else:
            self.limits = limits
        self.connection_rate_limits = rates
        if rates.per_peer is not None:
            self._peer_rates = table_of(rates.per_peer, rates.max_peers, rates.on_full)
        self._set_addresses(node.subnets, node.rates or _rates_per_ip(rates))
        self.protocol_rate_limiters: dict[str, ProtocolRateLimiter] = {}
        if memory_limits is None and (node.memory.max_bytes, node.memory.max_percentage) != (
            None, None
        ):
            memory_limits = MemoryConnectionLimits(
                node.memory.max_bytes, node.memory.max_percentage)
        self.memory_limits = memory_limits
        # streams taken with `acquire_scoped_stream`
        self._scoped_streams: dict[tuple[Any, ...], list[StreamScope]] = {}
        self._servers: list[StatusServer | MetricsServer] = []
        self._lock = threading.Lock()
        # the name under which the swarm starts it
        self.graceful_degradation = self._new_watch()
        self.prometheus_exporter = prometheus_exporter
        if prometheus_exporter is not None:
            from rcmgr.report.metrics import show_in_exporter

            show_in_exporter(prometheus_exporter, self)
        if enable_prometheus:
            self.serve_metrics(prometheus_port)

    # -- limits --------------------------------------------------------------------------------

    @property
    def connection_limits(self) -> ConnectionLimits:
        """Limits by connection state. May be set; holds for new connections only."""
        return self.connection_lifecycle.limits

    @connection_limits.setter
    def connection_limits(self, limits: ConnectionLimits) -> None:
        if not isinstance(limits, ConnectionLimits):
            raise TypeError(f"connection_limits must be a rcmgr.ConnectionLimits, not {limits!r}")
        self.connection_lifecycle.limits = limits

    @property
    def memory_limits(self) -> MemoryConnectionLimits | None:
        """What the process may use. May be set; None: no limit."""
        return self.connection_lifecycle.memory_limits

    @memory_limits.setter
    def memory_limits(self, limits: MemoryConnectionLimits | None) -> None:
        if limits is not None and not isinstance(limits, MemoryConnectionLimits):
            raise TypeError(f"memory_limits must be a MemoryConnectionLimits, not {limits!r}")
        self.connection_lifecycle.memory_limits = limits

    def set_memory_limits(
        self, max_bytes: int | None = None, max_percentage: float | None = None
    ) -> None:
        """Change how much the process may use, and nothing else of `memory_limits`.

        TypeError, ValueError: as `MemoryConnectionLimits`; then nothing has changed.
        """
        limits = self.memory_limits or MemoryConnectionLimits()
        self.memory_limits = limits.with_max_bytes(max_bytes).with_max_percentage(max_percentage)

    @property
    def limits(self) -> ResourceLimits:
        """Totals of the whole node. May be set; holds for what is asked from then on.

        The swarm has read `max_streams` by then: above it streams wait instead of being denied.
        """
        return ResourceLimits.of(self._scope_limits.system)

    @limits.setter
    def limits(self, limits: ResourceLimits) -> None:
        if not isinstance(limits, ResourceLimits):
            raise TypeError(f"limits must be a rcmgr.ResourceLimits, not {limits!r}")
        self.scope_limits = limits.applied_to(self._scope_limits)

    @property
    def scope_limits(self) -> ConcreteLimits:
        """Limits of all scopes. May be set; holds for what is asked from then on. O(scopes)."""
        return self._scope_limits

    @scope_limits.setter
    def scope_limits(self, limits: ConcreteLimits) -> None:
        if not isinstance(limits, ConcreteLimits):
            raise TypeError(f"scope_limits must be a rcmgr.ConcreteLimits, not {limits!r}")
        self.ledger.set_limits(self._adjusted(limits))
        self._scope_limits = limits

    def _adjusted(self, limits: ConcreteLimits) -> ConcreteLimits:
        for adjust in self._adjusting:
            limits = adjust(limits)
        return limits

    def _adjust_limits(
        self, adjust: Callable[[ConcreteLimits], ConcreteLimits]
    ) -> Callable[[], None]:
        """Whatever `scope_limits` are, the ledger has `adjust` of them, until the result is called.
        """
        self._adjusting.append(adjust)
        self.scope_limits = self._scope_limits

        def leave() -> None:
            self._adjusting.remove(adjust)
            self.scope_limits = self._scope_limits

        return leave

    def set_service_stream_limit(self, service: str, max_streams: int) -> None:
        """How many streams a service may have, of all peers. TypeError, ValueError: not a count."""
        self._limit_streams("service", service, max_streams)

    def set_service_peer_stream_limit(self, service: str, max_streams: int) -> None:
        """How many streams of a service each peer may have."""
        self._limit_streams("service_peer", service, max_streams)

    def set_protocol_stream_limit(self, protocol: str, max_streams: int) -> None:
        """How many streams of a protocol there may be, of all peers."""
        self._limit_streams("protocol", protocol, max_streams)

    def set_protocol_peer_stream_limit(self, protocol: str, max_streams: int) -> None:
        """How many streams of a protocol each peer may have."""
        self._limit_streams("protocol_peer", protocol, max_streams)

    def _limit_streams(self, scope: str, name: str, most: int) -> None:
        with self._lock:
            limits = self._scope_limits
            table = getattr(limits, scope)
            now = table.get(name, getattr(limits, f"{scope}_default"))
            changed: Any = {scope: {**table, name: replace(now, streams=most)}}
            self.scope_limits = replace(limits, **changed)

    @property
    def addresses(self) -> AddressGate | None:
        """Who may connect from where; None: no limit depends on it."""
        return self._lifecycle.addresses

    def _set_addresses(
        self, subnets: SubnetLimits | SubnetLimiter | None, rates: AddressRates | None
    ) -> None:
        gate = None
        if subnets is not None or rates is not None:
            gate = AddressGate(subnets, rates, self.allowlist)
        self._asks_addresses = gate is not None
        self._lifecycle.addresses = gate

    def verify_source_address(self, address: str) -> bool:
        """Whether who comes from here should prove the address before anything is spent on it.

        False without limits on addresses; see `AddressGate.verify_source_address`.
        """
        gate = self.addresses
        return gate is not None and gate.verify_source_address(address)

    def add_allowed_peer(self, peer_id: Hashable) -> None:
        """From now on, no limit is applied to connections and streams of this peer."""
        self.allowlist.add_peer(peer_id)

    def remove_allowed_peer(self, peer_id: Hashable) -> bool:
        """New connections and streams of this peer are limited again; False if it was not allowed.

        Its streams are not while it has a connection from an address that is on the list.
        """
        return self.allowlist.remove_peer(peer_id)

    def is_allowed_peer(self, peer_id: Hashable) -> bool:
        """Whether this peer is on the allowlist, wherever it is."""
        return self.allowlist.allows(peer_id)

    # -- connections; `open_connection` is Admission's ------------------------------------------

    def _may_begin(self, inbound: bool, endpoint_ip: str | None) -> tuple[bool, Any] | None:
        """Ask what depends on the address alone: (exempt, what to close at the end); None: no."""
        if endpoint_ip is not None and self.allowlist.networks and (
            self.allowlist.allows_address(endpoint_of(str(endpoint_ip)).ip)
        ):
            return True, None
        if self.connection_lifecycle.memory_excess(inbound=inbound) is not None:
            return None
        entered = self._lifecycle.enter(endpoint_ip, inbound)
        return None if isinstance(entered, AddressRefusal) else (False, entered)

    def _enter(self, inbound: bool, endpoint_ip: str) -> NetworkShare | None:
        """Ask what depends on the address, of a connection whose address was not asked for yet."""
        entered = self._lifecycle.enter(endpoint_ip, inbound)
        return None if isinstance(entered, AddressRefusal) else entered

    def _refuse_rate(self, peer_id: Hashable) -> None:
        rates: Any = self._peer_rates
        self.denials.add(
            RateRefusal("connections", "connection", rates.time_until,
                        self.connection_rate_limits.per_peer),
            None, peer_id, True)

    # -- streams and memory --------------------------------------------------------------------

    def open_stream(self, peer_id: Hashable, direction: Any) -> StreamScope | None:
        """Ask for a stream that is transient until its protocol is set; None: denied.

        Close what it returns. For callers that know the stream's life, as `rcmgr.libp2p` does;
        others count with `acquire_stream`. Arguments and errors as there. About 0.4 us.
        """
        self._check_open()
        peer = peer_from_any(peer_id)
        inbound = is_inbound(direction)
        scope = self.ledger.try_open_stream(
            peer, inbound, allowlisted=self.is_exempt_peer(peer)
        )
        if isinstance(scope, StreamScope):
            return scope
        self.denials.add(scope, None, peer, inbound)
        return None

    def acquire_scoped_stream(
        self,
        peer_id: Hashable,
        direction: Any,
        service: str | None = None,
        protocol: str | None = None,
    ) -> bool:
        """Take a stream, also of a service and a protocol; False: denied, and nothing is taken.

        A service's stream without a protocol is counted as one of a protocol of that name. Give it
        back with `release_scoped_stream` and the same arguments. About 2 us.
        """
        scope = self.open_stream(peer_id, direction)
        if scope is None:
            return False
        try:
            name = service if protocol is None else protocol
            taken = True if name is None else scope.try_set_protocol(name)
            if taken is True and service is not None:
                taken = scope.try_set_service(service)
        except BaseException:
            scope.close()
            raise
        if taken is not True:
            scope.close()
            self.denials.add(taken, None, scope.peer, scope.inbound)
            return False
        with self._lock:
            key = (scope.peer, scope.inbound, service, protocol)
            self._scoped_streams.setdefault(key, []).append(scope)
        return True

    def release_scoped_stream(
        self,
        peer_id: Hashable,
        direction: Any,
        service: str | None = None,
        protocol: str | None = None,
    ) -> None:
        """Give back a stream of `acquire_scoped_stream`; one that was not taken is ignored."""
        peer = peer_key(peer_from_any(peer_id))
        key = (peer, is_inbound(direction), service, protocol)
        with self._lock:
            scopes = self._scoped_streams.get(key, [])
            scope = scopes.pop() if scopes else None
            if not scopes:
                self._scoped_streams.pop(key, None)
        if scope is not None:
            scope.close()

    def acquire_memory(self, size: int, priority: int = Priority.ALWAYS) -> bool:
        """Reserve `size` bytes of the system's memory; False: denied, however large the size.

        priority: 0 to 255; (1 + priority) / 256 of the limit are open to it. TypeError: not an int.
        ValueError: negative, or such a priority. ResourceScopeClosed: the manager is closed.
        """
        self._check_open()
        size = _bytes(size)
        if self.connection_lifecycle.memory_excess() is not None:
            return False
        taken = self._memory.try_reserve_memory(size, priority)
        if taken is True:
            return True
        self.denials.add(taken)
        return False

    def release_memory(self, size: int) -> None:
        """Give back reserved bytes; more than were reserved is ignored, and counted.

        TypeError: not an int. ValueError: negative.
        """
        self._memory.release_memory(_bytes(size))

    def add_protocol_rate_limiter(self, protocol: str, limits: RateLimits) -> ProtocolRateLimiter:
        """Limit the requests of a protocol; replaces its former limiter, if any.

        The manager's allowed peers are exempt. Whoever serves the protocol asks the limiter, or
        `check_protocol_rate_limit`; `rcmgr.libp2p.limit_protocols` asks for every inbound stream.
        """
        limiter = ProtocolRateLimiter(
            protocol, limits, is_exempt=self.is_exempt_peer, denials=self.denials)
        self.protocol_rate_limiters[protocol] = limiter
        return limiter

    def check_protocol_rate_limit(
        self, protocol: str, peer_id: Hashable, operation: str = "request"
    ) -> bool:
        """Whether the peer may do this once more; a protocol without a limiter is not limited."""
        limiter = self.protocol_rate_limiters.get(protocol)
        return limiter is None or limiter.check_peer_rate_limit(peer_id, operation)

    # -- what there is -------------------------------------------------------------------------

    @property
    def last_denial(self) -> ResourceLimitExceeded | None:
        """The error that describes the latest denial; None if nothing was denied yet."""
        return self.denials.last

    def explain(self) -> str:
        """A few lines: what is at its limit, what was denied most, which setting to look at.

        O(scopes).
        """
        return explain(self)

    def serve_metrics(self, port: int, addr: str = "127.0.0.1") -> MetricsServer:
        """Serve metrics for Prometheus over HTTP until the result is closed; 0 picks a port.

        Needs prometheus_client. OSError: the port is taken. See `rcmgr.report.metrics`.
        """
        from rcmgr.report.metrics import MetricsServer

        return self._serving(MetricsServer(self, port, addr))

    def serve_status(self, path: str | os.PathLike[str] | None = None) -> StatusServer:
        """Let this user's `rcmgr top`, `status` and `explain` look at the node, until it is closed.

        path: of the Unix socket to make (on Windows: of a file with a port and a password); default
        `rcmgr.report.status_socket.default_path()`. FileExistsError: another node serves there.
        """
        from rcmgr.report.status_socket import StatusServer, default_path

        return self._serving(StatusServer(self, default_path() if path is None else path))

    def _serving(self, server: _S) -> _S:
        self._servers.append(server)
        return server

    def get_stats(self) -> dict[str, Any]:
        """Usage, limits, peaks and denials now; ready for JSON.

        As in libp2p.rcmgr: "connections" (pending and established together), "memory_bytes"
        (reserved), "streams", "limits". Besides: "connection_states" (count by state), "peers",
        "peak_connections", "peak_memory_bytes", "peak_streams", "over_released" (given back too
        often), "leaked" (scopes dropped unclosed), "denied" (count by limit; only those that
        refused), "protocol_rates" (`ProtocolRateLimiter.get_protocol_stats` by protocol). O(1),
        but for the protocol rates: O(peers they track). All scopes: `ledger.snapshot()`.
        """
        return stats_of(self)

    def denied_by_limit(self) -> dict[str, int]:
        """How often each limit refused since the start. Limits that never refused are left out.

        O(protocols with a limiter).
        """
        return denied_by_limit(self)

    @property
    def refused_for_memory(self) -> int:
        """How often the process used more memory than `memory_limits` allows."""
        return self.connection_lifecycle.refused_for_memory

    @property
    def refused_by_peer_rate(self) -> int:
        """How often a peer connected faster than `connection_rate_limits.per_peer` allows."""
        return 0 if self._peer_rates is None else self._peer_rates.denied

    def _held(self) -> ScopeStat:
        return total_held(self.ledger)

    # -- the end -------------------------------------------------------------------------------

    def _new_watch(self) -> HostWatch:
        return HostWatch(self._forget_connections)

    def close(self) -> None:
        """Deny everything from now on and forget what is held; scopes may still be closed.

        Ends what `serve_metrics` and `serve_status` began.
        """
        self._close()
        self._memory.close()
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._forget_connections()

    def _forget_connections(self) -> None:
        """What its owner reserved with `acquire_memory` is not the host's, and stays."""
        self.connection_tracker.clear()
        self.ledger.clear(keep=self._memory)
        if self.addresses is not None and self.addresses.subnets is not None:
            self.addresses.subnets.clear()
        with self._lock:
            self._scoped_streams.clear()

    def _check_open(self) -> None:
        if self.closed:
            raise ResourceScopeClosed

    def __repr__(self) -> str:
        held = self._held()
        streams = held.streams_inbound + held.streams_outbound
        return f"ResourceManager({self.connection_tracker!r}, streams={streams})"


def with_totals(
    scopes: ConcreteLimits, conns: int | None, memory: int | None, streams: int | None
) -> ConcreteLimits:
    """The same limits with these of the system scope."""
    system = replace(
        scopes.system, conns=_counted(conns), memory=_counted(memory), streams=_counted(streams))
    return replace(scopes, system=system)


def _counted(limit: int | None) -> int | None:
    """A limit as scopes have it: more than they can count is none."""
    return None if limit is None or limit > _MOST else limit


def _bytes(size: int) -> int:
    """A size as the ledger takes it: peers announce sizes, and some of them are absurd."""
    wanted = operator.index(size)
    if wanted < 0:
        raise ValueError(f"size must be 0 or more bytes, not {size}")
    return min(wanted, _MOST)


def _allowlist(entries: Allowlist | Iterable[Hashable] | None) -> Allowlist:
    if isinstance(entries, Allowlist):
        return entries
    if isinstance(entries, str | bytes):
        raise TypeError(f"allowlist must be a collection of entries, not {entries!r}")
    return Allowlist(entries or ())


def _rates_per_ip(rates: ConnectionRateLimits) -> AddressRates | None:
    if rates.per_ip is None:
        return None
    return AddressRates(
        ipv4=((32, rates.per_ip),),
        ipv6=((64, rates.per_ip),),
        overrides={},
        max_networks=rates.max_peers,
        on_full=rates.on_full,
    )
