"""The one object that a host holds."""

from __future__ import annotations

import logging
import operator
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rcmgr.admission.admission import Admission
from rcmgr.admission.host_watch import HostWatch
from rcmgr.admission.lifecycle import ConnectionLifecycleManager
from rcmgr.admission.manager_base import ManagerBase, is_inbound
from rcmgr.admission.waiting import Waiting
from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.reading import ScopeStat
from rcmgr.counting.scope import Ledger, Priority, StreamScope
from rcmgr.errors import (
    ResourceLimitExceeded,
    ResourceScopeClosed,
    link_upstream,
)
from rcmgr.gates.addresses import Allowlist
from rcmgr.gates.ban_file import BanFile
from rcmgr.gates.bans import Ban, Bans, ban_subject
from rcmgr.gates.buckets import table_of
from rcmgr.gates.fleet import FleetProtocol
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.gates.networks import AddressGate, SubnetLimiter
from rcmgr.gates.penalties import OffenceLog, Penalties
from rcmgr.gates.requests import ProtocolRateLimiter, RateRefusal
from rcmgr.limits.checks import check_count
from rcmgr.limits.dry_run import DryRun
from rcmgr.limits.fleet import FleetLimits
from rcmgr.limits.limiter import AskLimiter
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.names import suggests_arguments
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.parts import ConnectionRateLimits, ResourceLimits
from rcmgr.limits.rates import PeerRates, RateLimits
from rcmgr.limits.scopes import MAX_LIMIT, ConcreteLimits
from rcmgr.limits.states import ConnectionLimits
from rcmgr.peers import bounded_name, peer_from_any, peer_key
from rcmgr.report.above import usages_above
from rcmgr.report.canonical_log import CanonicalLog
from rcmgr.report.explain import explain
from rcmgr.report.log import log_denials
from rcmgr.report.stats import denied_by_limit, stats_of, total_held
from rcmgr.report.usage import Usage

if TYPE_CHECKING:
    from rcmgr.fleet.fleet import Fleet
    from rcmgr.record.recording import Recording
    from rcmgr.report.metrics import MetricsServer
    from rcmgr.report.status_socket import StatusServer

    _S = TypeVar("_S", MetricsServer, StatusServer)

__all__ = ["ResourceManager"]

# `new_host` is annotated with the class of libp2p, for which this one stands in without inheriting
# from it. To a type checker the base is anything: strict code may pass a manager without a cast.
_InPlaceOfUpstream: Any = object

logger = logging.getLogger("rcmgr.fleet")

_MOST_DENIED_BY: Final = 5
_NO_MEMORY_LIMITS: Final = ProcessMemoryLimits()


@suggests_arguments
class ResourceManager(ManagerBase, _InPlaceOfUpstream):  # type: ignore[misc]
    """Decides for a node whether it may spend a resource, before the node spends it.

    Give it to `libp2p.new_host(resource_manager=...)` or `new_swarm`.

    limits: `ResourceLimits` (the default) are a few totals. `NodeLimits` are all limits, as in a
        limits file. `NodeLimits.default()` is scaled to this machine.
    allowlist: exempt peers, addresses and networks (see `Allowlist`). Only the limits of the
        allowlisted scopes apply to them. Default: empty.
    connection_limits, connection_rate_limits, memory_limits: parts of these limits, which replace
        those of `limits`.
    limiter: a `rcmgr.Limiter` or another callable, which gives new scopes their limits.
    trace_allocations: remember where each scope was opened, for `ledger.leaked_at` (1 us each).
    denials_kept: how many of the latest denials `denials` keeps, 1 or more.
    enforce: False: a dry run. Every limit reports what it would refuse, and refuses nothing; see
        the property `enforce`. True: every limit refuses. None: as `limits` say.
    bans_file: keep bans in this file over a restart. Each node needs its own; see `BanFile`.
    enable_prometheus, prometheus_port: serve metrics at this port from the start; see
        `serve_metrics`.
    prometheus_exporter: a `libp2p.rcmgr.PrometheusExporter` that also shows this manager.
    fleet: a `Fleet`, or the URL of its engine: this node shares `limits.fleet` and all bans with
        other nodes. Default: the URL in the environment variable RCMGR_FLEET, or no fleet. "": no
        fleet, even if the environment names one.
    clock: returns monotonic nanoseconds, for tests and replays. Default: the system's. The room
        that a full node makes, and the memory of the process, always use the system's.

    `ledger` counts streams, connections and memory. `connection_tracker` counts connections by
    state. The methods that a swarm calls are O(1), never block and are thread safe. A denial is a
    return value (None or False). `last_denial` and `denials` have the reasons.

    TypeError, ValueError: an argument is wrong; the message names it.
    """

    # a subclass may replace these
    _tracker_type: type[ConnectionTracker] = ConnectionTracker
    _lifecycle_type: type[ConnectionLifecycleManager] = ConnectionLifecycleManager
    _memory_limits_type: type[MemoryConnectionLimits] = MemoryConnectionLimits
    _penalties: Penalties | None = None
    _fleet: Fleet | None = None
    _recording: Recording | None = None

    def __init__(
        self,
        limits: ResourceLimits | NodeLimits | None = None,
        allowlist: Allowlist | Iterable[Hashable] | None = None,
        *,
        connection_limits: ConnectionLimits | None = None,
        connection_rate_limits: ConnectionRateLimits | None = None,
        memory_limits: MemoryConnectionLimits | None = None,
        limiter: AskLimiter | None = None,
        trace_allocations: bool = False,
        denials_kept: int = 256,
        enforce: bool | None = None,
        bans_file: str | os.PathLike[str] | None = None,
        enable_prometheus: bool = False,
        prometheus_port: int = 8000,
        prometheus_exporter: Any = None,
        fleet: Fleet | str | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        link_upstream()
        allowed = Allowlist.of(allowlist)
        check_count("denials_kept", denials_kept, 1)
        self._clock = clock
        self._bans = Bans() if clock is None else Bans(clock=clock)
        self._offence_log: OffenceLog = CanonicalLog()
        denials = DenialLog(denials_kept, clock=clock)
        would_deny = DenialLog(denials_kept, clock=clock, enforced=False)
        log_denials(denials)
        log_denials(would_deny)
        admission = Admission(
            self._tracker_type(bypass=allowed.allowed_peers, clock=clock),
            denials,
            would_deny=would_deny,
            ledger=Ledger(trace_allocations=trace_allocations, limiter=limiter),
            allowlist=allowed,
            bans=self._bans,
            reuses_ids=True,
        )
        lifecycle = self._lifecycle_type.of_admission(admission, ConnectionLimits())
        super().__init__(admission, lifecycle, allowed)
        self._memory = self.ledger.system()
        self._limits_lock = threading.RLock()
        # the name under which the swarm starts it
        self.graceful_degradation = self._new_watch()
        self._adjusting: list[Callable[[ConcreteLimits], ConcreteLimits]] = []
        self._node_limits = NodeLimits()
        self._gate = AddressGate(allowlist=allowed, clock=clock)
        if isinstance(limits, NodeLimits):
            self.node_limits = limits
        else:
            self.limits = ResourceLimits() if limits is None else limits
        if enforce is not None:
            self.enforce = enforce
        if connection_limits is not None:
            self.connection_limits = connection_limits
        if connection_rate_limits is not None:
            self._add_rates(connection_rate_limits)
        if memory_limits is not None:
            self.memory_limits = memory_limits
        if bans_file is not None:
            self._bans.load(BanFile(bans_file))
        self.protocol_rate_limiters: dict[str, ProtocolRateLimiter] = {}
        self._fleet_protocols: dict[str, FleetProtocol] = {}
        # streams taken with `acquire_scoped_stream`
        self._scoped_streams: dict[tuple[Any, ...], list[StreamScope]] = {}
        self._waiting = Waiting(weakref.proxy(self))
        self._servers: list[StatusServer | MetricsServer] = []
        self._lock = threading.Lock()
        self.prometheus_exporter = prometheus_exporter
        self._join_fleet(fleet)
        if prometheus_exporter is not None:
            from rcmgr.report.metrics import show_in_exporter

            show_in_exporter(prometheus_exporter, self)
        if enable_prometheus:
            self.serve_metrics(prometheus_port)
        if self._fleet is not None:  # its threads start last: a failed constructor leaves none
            self._fleet.join(self)

    # -- limits --------------------------------------------------------------------------------

    @property
    def node_limits(self) -> NodeLimits:
        """All limits. May be set: new limits apply to later requests. O(scopes and addresses).

        Held connections, streams and memory stay, and stay counted. A bucket whose rate does not
        change keeps its state. The properties below read and write parts of this tree.
        TypeError: not a NodeLimits. Then nothing has changed.
        """
        memory = self.memory_limits
        return replace(
            self._node_limits,
            connections=self._admission.limits,
            memory=_NO_MEMORY_LIMITS if memory is None else memory.limits,
        )

    @node_limits.setter
    def node_limits(self, limits: NodeLimits) -> None:
        _check_node_limits(limits)
        with self._limits_lock:
            self._apply(limits)

    def change_limits(
        self, change: Callable[[NodeLimits], NodeLimits]
    ) -> tuple[NodeLimits, NodeLimits]:
        """Replace `node_limits` by `change(node_limits)`, in one step: the limits before and after.

        An exception of `change` leaves them as they are. Thread safe: no other change is lost.
        """
        with self._limits_lock:
            before = self.node_limits
            self.node_limits = change(before)
            return before, self.node_limits

    def usages_above(self, limits: NodeLimits | None = None) -> list[Usage]:
        """The uses that are above these limits now; None: above those of the node.

        It tells before a change which limits would be exceeded at once. Everything held stays, and
        new requests are refused until use has fallen. O(scopes and addresses).

        TypeError: limits is no NodeLimits.
        """
        limits = self.node_limits if limits is None else limits
        _check_node_limits(limits)
        return usages_above(self, replace(limits, scopes=self._adjusted(limits.scopes)))

    def _apply(self, limits: NodeLimits) -> None:
        """Apply limits, part by part. Only the first step can fail."""
        before = self.node_limits
        if limits.scopes != before.scopes:
            self.ledger.set_limits(self._adjusted(limits.scopes))
        if limits.connections != before.connections:
            self.connection_lifecycle.limits = limits.connections
        if limits.memory != before.memory:
            gate = self.memory_limits
            self.memory_limits = (
                self._memory_limits_type.of(limits.memory) if gate is None
                else gate.with_limits(limits.memory))
        if (limits.subnets, limits.rates) != (before.subnets, before.rates):
            self._set_addresses(limits.subnets, limits.rates)
        if limits.peer_rates != before.peer_rates:
            self._set_peer_rates(limits.peer_rates)
        if limits.penalties != before.penalties:
            self._penalties = None if limits.penalties is None else Penalties(
                limits.penalties, self._bans, self.allowlist, self._offence_log,
                clock=self._clock)
            self.denials.penalties = self._penalties
        if (limits.penalties, limits.dry_run) != (before.penalties, before.dry_run):
            self._set_dry_run(limits.dry_run)
        if limits.eviction != before.eviction:
            self._admission.room.settings = limits.eviction
        if limits.fleet != before.fleet and self._fleet is not None:
            self._set_fleet(self._fleet, limits.fleet)
        self._node_limits = limits
        self._note_settings()

    def _set_dry_run(self, dry_run: DryRun) -> None:
        codes, before = dry_run.codes, self._admission.only_reporting
        bans_report = "connection.banned" in codes
        self._admission.only_reporting = codes
        self._gate.only_reporting = codes
        # bans that refuse may not come from limits that do not
        self.would_deny.penalties = self._penalties if bans_report else None
        if "connection.banned" in before and not bans_report:
            self._bans.end_of_box()
        self.graceful_degradation.let_streams_pass("stream.system.streams" in codes)

    @property
    def enforce(self) -> bool:
        """Whether limits refuse. False: every limit reports what it would refuse, to `would_deny`.

        May be set. In such a dry run, what a limit would refuse is admitted and counted. So use may
        exceed limits. When `enforce` is True again, it stays, and new requests are refused until
        use has fallen. `node_limits.dry_run` is for single limits. Setting this replaces it.
        """
        return not self._node_limits.dry_run.is_whole

    @enforce.setter
    def enforce(self, enforce: bool) -> None:
        if not isinstance(enforce, bool):
            raise TypeError(f"enforce must be True or False, not {enforce!r}")
        with self._limits_lock:
            self.node_limits = replace(
                self.node_limits, dry_run=DryRun(**DryRun.WORDS["off" if enforce else "on"]))

    @property
    def would_deny(self) -> DenialLog:
        """Would-be refusals by limits in a dry run; see `enforce`."""
        return self._admission.would_deny

    @property
    def connection_limits(self) -> ConnectionLimits:
        """Limits by connection state. May be set: they apply to new connections."""
        return self.connection_lifecycle.limits

    @connection_limits.setter
    def connection_limits(self, limits: ConnectionLimits) -> None:
        if not isinstance(limits, ConnectionLimits):
            raise TypeError(f"connection_limits must be a rcmgr.ConnectionLimits, not {limits!r}")
        with self._limits_lock:
            self.connection_lifecycle.limits = limits

    @property
    def connection_rate_limits(self) -> ConnectionRateLimits:
        """How often one address and one peer may connect. May be set."""
        return ConnectionRateLimits.of(self.node_limits)

    @connection_rate_limits.setter
    def connection_rate_limits(self, limits: ConnectionRateLimits) -> None:
        with self._limits_lock:
            self.node_limits = _rates(limits).applied_to(self.node_limits)

    def _add_rates(self, limits: ConnectionRateLimits) -> None:
        """Set what `limits` say, and keep the rest."""
        node, rates = self.node_limits, _rates(limits)
        if rates.per_ip is not None and node.rates is not None:
            raise ValueError(
                "connection_rate_limits.per_ip and limits.rates both say how often an address may "
                "connect: give one of them")
        self.node_limits = replace(
            node, rates=node.rates or rates.addresses, peer_rates=rates.peers or node.peer_rates)

    @property
    def memory_limits(self) -> MemoryConnectionLimits | None:
        """Limits on the memory of the process. May be set; None: no limit."""
        return self.connection_lifecycle.memory_limits

    @memory_limits.setter
    def memory_limits(self, limits: MemoryConnectionLimits | None) -> None:
        if limits is not None and not isinstance(limits, MemoryConnectionLimits):
            raise TypeError(f"memory_limits must be a MemoryConnectionLimits, not {limits!r}")
        with self._limits_lock:
            self.connection_lifecycle.memory_limits = limits

    def set_memory_limits(
        self, max_bytes: int | None = None, max_percentage: float | None = None
    ) -> None:
        """Change these two memory limits of the process, and leave the others as they are.

        TypeError, ValueError: as `ProcessMemoryLimits`. Then nothing has changed.
        """
        with self._limits_lock:
            node = self.node_limits
            self.node_limits = replace(node, memory=replace(
                node.memory, max_bytes=max_bytes, max_percentage=max_percentage))

    @property
    def limits(self) -> ResourceLimits:
        """Totals of the whole node. May be set: they apply to later requests.

        The swarm reads `max_streams` once, at its start. Streams above that number wait.
        """
        return ResourceLimits.of(self._node_limits)

    @limits.setter
    def limits(self, limits: ResourceLimits) -> None:
        if not isinstance(limits, ResourceLimits):
            raise TypeError(f"limits must be a rcmgr.ResourceLimits, not {limits!r}")
        with self._limits_lock:
            self.node_limits = limits.applied_to(self.node_limits)

    @property
    def scope_limits(self) -> ConcreteLimits:
        """Limits of all scopes. May be set: they apply to later requests. O(scopes)."""
        return self._node_limits.scopes

    @scope_limits.setter
    def scope_limits(self, limits: ConcreteLimits) -> None:
        with self._limits_lock:
            self.node_limits = replace(self.node_limits, scopes=limits)

    def _adjusted(self, limits: ConcreteLimits) -> ConcreteLimits:
        for adjust in self._adjusting:
            limits = adjust(limits)
        return limits

    def _adjust_limits(
        self, adjust: Callable[[ConcreteLimits], ConcreteLimits]
    ) -> Callable[[], None]:
        """Let the ledger use `adjust(limits)` instead of the scope limits. The result undoes this.
        """
        def leave() -> None:
            with self._limits_lock:
                self._adjusting.remove(adjust)
                self.ledger.set_limits(self._adjusted(self.scope_limits))
                self._note_settings()

        with self._limits_lock:
            self._adjusting.append(adjust)
            self.ledger.set_limits(self._adjusted(self.scope_limits))
            self._note_settings()
        return leave

    def set_service_stream_limit(self, service: str, max_streams: int) -> None:
        """Limit the streams of a service, of all peers together.

        This method and the next ones raise TypeError and ValueError like `Limit`.
        """
        self._limit_streams("service", service, max_streams)

    def set_service_peer_stream_limit(self, service: str, max_streams: int) -> None:
        """Limit the streams of a service that each peer may have."""
        self._limit_streams("service_peer", service, max_streams)

    def set_protocol_stream_limit(self, protocol: str, max_streams: int) -> None:
        """Limit the streams of a protocol, of all peers together."""
        self._limit_streams("protocol", protocol, max_streams)

    def set_protocol_peer_stream_limit(self, protocol: str, max_streams: int) -> None:
        """Limit the streams of a protocol that each peer may have."""
        self._limit_streams("protocol_peer", protocol, max_streams)

    def _limit_streams(self, scope: str, name: str, most: int) -> None:
        with self._limits_lock:
            limits = self.scope_limits
            table = getattr(limits, scope)
            now = table.get(name, getattr(limits, f"{scope}_default"))
            changed: Any = {scope: {**table, name: replace(now, streams=most)}}
            self.scope_limits = replace(limits, **changed)

    @property
    def addresses(self) -> AddressGate | None:
        """The gate for addresses; None: no limit depends on an address."""
        return self._admission.addresses

    def _set_addresses(
        self, subnets: SubnetLimits | SubnetLimiter | None, rates: AddressRates | None
    ) -> None:
        self._gate.set_limits(subnets, rates)
        limits = subnets.limits if isinstance(subnets, SubnetLimiter) else subnets
        self._node_limits = replace(self._node_limits, subnets=limits, rates=rates)
        self._ask_gate()

    def _ask_gate(self) -> None:
        """Ask the gate for addresses if it has limits."""
        self._admission.addresses = self._gate if self._gate.has_limits else None

    def _set_peer_rates(self, limits: PeerRates | None) -> None:
        if limits is None:
            self._admission.peer_rates = None
            return
        table = table_of(limits.rate, limits.max_peers, limits.on_full, self._clock)
        self._admission.peer_rate_refusal = RateRefusal(
            "connections", "connection", table.time_until, limits.rate)
        self._admission.peer_rates = table

    # -- the fleet -----------------------------------------------------------------------------

    @property
    def fleet(self) -> Fleet | None:
        """The fleet of this node; None: it is in no fleet."""
        return self._fleet

    def _join_fleet(self, fleet: Fleet | str | None) -> None:
        given = os.environ.get("RCMGR_FLEET") if fleet is None else fleet
        if given is None or given == "":
            if self._node_limits.fleet is not None:
                logger.warning(
                    "NodeLimits.fleet has no effect: this node is in no fleet (see RCMGR_FLEET)")
            return
        from rcmgr.fleet.fleet import Fleet

        if isinstance(given, str):
            try:
                given = Fleet(given)
            except ValueError as error:
                source = "RCMGR_FLEET" if fleet is None else "fleet"
                raise ValueError(f"{source}: {error}") from None
        elif not isinstance(given, Fleet):
            raise TypeError(f"fleet must be a rcmgr.Fleet or a URL, not {type(given).__name__}")
        given.claim(self)
        with self._limits_lock:
            self._fleet = given
            self._set_fleet(given, self._node_limits.fleet)

    def _set_fleet(self, fleet: Fleet, limits: FleetLimits | None) -> None:
        shares = fleet.apply(
            limits, self.connection_tracker, self.ledger, self._gate.connections_of_network)
        counted = limits is not None and limits.network.connections is not None
        self._gate.set_fleet(
            shares.networks,
            (limits.ipv4_prefix, limits.ipv6_prefix) if limits is not None and counted else None)
        self._ask_gate()
        self._admission.fleet = shares.gate
        self._fleet_protocols = shares.protocols
        for protocol, limiter in self.protocol_rate_limiters.items():
            limiter.fleet = shares.protocols.get(protocol)
        for protocol in shares.protocols.keys() - self.protocol_rate_limiters.keys():
            self.add_protocol_rate_limiter(protocol, RateLimits())

    def denied_by_fleet(self) -> dict[str, int]:
        """How often each limit of the fleet refused on this node. Empty without a fleet."""
        denied = {} if self._fleet is None else self._fleet.status()["denied"]
        return {f"fleet {limit}": times for limit, times in denied.items()}

    def fleet_use(self) -> dict[str, Any]:
        """Numbers of this node for the other nodes of its fleet, ready for JSON."""
        held = self._held()
        denied = sorted(
            self.denied_by_limit().items(), key=lambda each: each[1], reverse=True)
        return {
            "connections": held.conns_inbound + held.conns_outbound,
            "peers": self.connection_tracker.snapshot().peers,
            "streams": held.streams_inbound + held.streams_outbound,
            "denied": self.denials.total, "denied_by": dict(denied[:_MOST_DENIED_BY]),
        }

    def verify_source_address(self, address: object) -> bool:
        """Whether a peer must prove that it owns this address before the node spends resources.

        False without limits on addresses; see `AddressGate.verify_source_address`.
        """
        gate = self.addresses
        return gate is not None and gate.verify_source_address(address)

    def add_allowed_peer(self, peer_id: Hashable) -> None:
        """Exempt new connections and streams of this peer from limits."""
        self.allowlist.add_peer(peer_id)

    def remove_allowed_peer(self, peer_id: Hashable) -> bool:
        """Limit new connections and streams of this peer again. False: it was not allowed.

        Its streams stay exempt while it has a connection from an address on the allowlist.
        """
        return self.allowlist.remove_peer(peer_id)

    def is_allowed_peer(self, peer_id: Hashable) -> bool:
        """Whether the allowlist allows this peer from every address."""
        return self.allowlist.allows(peer_id)

    def is_exempt_peer(self, peer_id: Hashable) -> bool:
        """Whether streams and requests of this peer are exempt from limits.

        The peer is on the allowlist, or has a connection from an address from which the allowlist
        exempts it.
        """
        return self._admission.is_exempt_peer(peer_from_any(peer_id))

    # -- room for connections ------------------------------------------------------------------

    def dial_slot(
        self, peer: Hashable | None = None, timeout: float | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Wait for room, and keep a place for the next dial in the block.

            async with manager.dial_slot(timeout=10):
                await host.connect(info)

        Tasks get places in order of arrival. The next dial of this task, or of its children, takes
        the place. Without a dial, the end of the block gives it back. Further dials in the block
        ask the manager as usual. peer: an exempt peer does not wait.
        timeout: seconds, 0 or more; None: no time limit.

        ResourceLimitExceeded: no room in time, or another kind of limit refuses; it names the
        limit. ResourceScopeClosed: the manager is closed. For trio and asyncio; may be cancelled at
        any time.
        """
        return self._waiting.dial_slot(peer, timeout)

    async def wait_for_room(
        self, direction: Any = "outbound", peer: Hashable | None = None,
        timeout: float | None = None,
    ) -> None:
        """Wait until limits on numbers of connections admit one more. It takes nothing.

        Another task may be faster afterwards; `dial_slot` keeps a place. The other arguments and
        errors are those of `dial_slot`. direction: as for `open_connection`.
        """
        await self._waiting.wait_for_room(is_inbound(direction), peer, timeout)

    # -- bans ----------------------------------------------------------------------------------

    def ban(self, what: Hashable, seconds: float | None = None, reason: str = "") -> Ban:
        """Refuse connections with a peer, or from an address or a network.

        what: a peer (`ID`, bytes, base58 text), an address or a network ("192.0.2.7",
            "192.0.2.0/24", a multiaddr).
        seconds: how long, 0 or more; None: until `unban`. reason: for people, kept with the ban.

        It replaces a ban of the same peer or network, and ends no open connection. The allowlist
        wins over bans. O(log bans); thread safe. TypeError, ValueError: an argument is wrong; then
        nothing has changed.
        """
        return self._bans.add(ban_subject(what), seconds, reason)

    def unban(self, what: Hashable) -> bool:
        """End the ban of exactly this peer, address or network, and forgive it. False: no ban.

        ValueError: not a peer, address or network.
        """
        subject = ban_subject(what)
        if self.penalties is not None:
            self.penalties.forgive(subject)
        return self._bans.remove(subject)

    def bans(self) -> list[Ban]:
        """The bans in force, those that end first in front. O(bans log bans)."""
        return list(self._bans)

    @property
    def refused_by_ban(self) -> int:
        """How many connections a ban has refused."""
        return self._bans.refused

    @property
    def penalties(self) -> Penalties | None:
        """The penalty box, which counts offences; None: `node_limits.penalties` is None."""
        return self._penalties

    # -- streams and memory --------------------------------------------------------------------

    def acquire_scoped_stream(
        self,
        peer_id: Hashable,
        direction: Any,
        service: str | None = None,
        protocol: str | None = None,
    ) -> bool:
        """Take a stream of a service, a protocol, or both. False: denied, and nothing is taken.

        Without a protocol, the stream counts for the protocol with the service's name. Give it back
        with `release_scoped_stream` and the same arguments. About 2 us.
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
            key = (scope.peer, scope.inbound, *_names(service, protocol))
            self._scoped_streams.setdefault(key, []).append(scope)
        return True

    def release_scoped_stream(
        self,
        peer_id: Hashable,
        direction: Any,
        service: str | None = None,
        protocol: str | None = None,
    ) -> None:
        """Give back a stream of `acquire_scoped_stream`. Does nothing if it was not taken."""
        peer = peer_key(peer_id)
        key = (peer, is_inbound(direction), *_names(service, protocol))
        with self._lock:
            scopes = self._scoped_streams.get(key, [])
            scope = scopes.pop() if scopes else None
            if not scopes:
                self._scoped_streams.pop(key, None)
        if scope is not None:
            scope.close()

    def acquire_memory(self, size: int, priority: int = Priority.ALWAYS) -> bool:
        """Reserve `size` bytes of the system's memory. False: denied; a size may be of any length.

        priority: 0 to 255. The reservation may fill (1 + priority) / 256 of the limit. TypeError:
        not an int. ValueError: a negative size, or another priority. ResourceScopeClosed: the
        manager is closed.
        """
        self._check_open()
        size = _bytes(size)
        if not self._admission.ask_process_memory():
            return False
        taken = self._memory.try_reserve_memory(size, priority)
        if taken is True:
            return True
        self.denials.add(taken)
        return False

    def release_memory(self, size: int) -> None:
        """Give back reserved bytes. Bytes that were not reserved are ignored, and counted.

        TypeError: not an int. ValueError: negative.
        """
        self._memory.release_memory(_bytes(size))

    def add_protocol_rate_limiter(
        self, protocol: str, limits: RateLimits, *, networks: AddressRates | None = None
    ) -> ProtocolRateLimiter:
        """Limit the requests of a protocol. This replaces the protocol's former limiter.

        networks: rates of all peers of one network together; see `ProtocolRateLimiter`.
        The manager's allowed peers are exempt. The code that serves the protocol asks the limiter,
        or `check_protocol_rate_limit`. `rcmgr.libp2p.limit_protocols` asks for each inbound stream.
        """
        limiter = ProtocolRateLimiter(
            protocol, limits, networks=networks, is_exempt=self._admission.is_exempt_peer,
            denials=self.denials, would_deny=self.would_deny,
            only_reports=self._admission.only_reports, clock=self._clock)
        limiter.fleet = self._fleet_protocols.get(protocol)
        self.protocol_rate_limiters[protocol] = limiter
        self._note_settings()
        return limiter

    def check_protocol_rate_limit(
        self, protocol: str, peer_id: Hashable, operation: str = "request", address: object = None
    ) -> bool:
        """Whether the peer may do this once more. A protocol without a limiter has no limit.

        address: the peer's; see `ProtocolRateLimiter.check_peer_rate_limit`.
        """
        limiter = self.protocol_rate_limiters.get(protocol)
        return limiter is None or limiter.check_peer_rate_limit(peer_id, operation, address)

    # -- reports -------------------------------------------------------------------------------

    @property
    def last_denial(self) -> ResourceLimitExceeded | None:
        """The error that describes the latest denial; None: no denial yet."""
        return self.denials.last

    def explain(self) -> str:
        """A few lines: full limits, the most frequent denials, and the settings to look at.

        O(scopes).
        """
        return explain(self)

    def serve_metrics(self, port: int, addr: str = "127.0.0.1") -> MetricsServer:
        """Serve metrics for Prometheus over HTTP, until the result is closed.

        port: 0: any free port. Needs prometheus_client. OSError: the port is taken. See
        `rcmgr.report.metrics`.
        """
        from rcmgr.report.metrics import MetricsServer

        return self._serving(MetricsServer(self, port, addr))

    def serve_status(self, path: str | os.PathLike[str] | None = None) -> StatusServer:
        """Let this user's `rcmgr top`, `status` and `explain` read the node, until it is closed.

        path: the path of the Unix socket, or on Windows of a file with a port and a password.
        Default: `rcmgr.report.status_client.default_path()`. FileExistsError: another node serves
        there.
        """
        from rcmgr.report.status_client import default_path
        from rcmgr.report.status_socket import StatusServer

        return self._serving(StatusServer(self, default_path() if path is None else path))

    def _serving(self, server: _S) -> _S:
        with self._lock:
            self._servers = [each for each in self._servers if not each.closed] + [server]
        return server

    # -- the record ----------------------------------------------------------------------------

    def record(
        self, path: str | os.PathLike[str], *, max_bytes: int = 256 << 20,
        max_age_s: float = 30 * 86_400.0, identities: bool = False,
    ) -> Recording:
        """Write each later decision to a file, for `rcmgr replay` and `rcmgr suggest`.

        A thread writes. The disk never delays or fails a decision: events that find no room are
        dropped and counted. About 40 ns for each event, and 5 bytes on the disk. This replaces a
        recording that runs, unless the new file cannot be made. The result, or the manager, closes
        it.

        path: the newest file. Older ones have a number behind the name.
        max_bytes: all files together are not larger; 128 KiB or more. max_age_s: no file becomes
            older, 1 or more. The oldest file goes first.
        identities: write peers and addresses as they are, and not as keyed hashes.

        OSError: the file cannot be made, or another node records there. FileExistsError: the file
        is no record. ImportError: the extra `record` is not installed. ResourceScopeClosed: the
        manager is closed.
        """
        from rcmgr.record.recording import Recording

        with self._limits_lock:
            self._check_open()
            self._recording = Recording(
                self, path, max_bytes=max_bytes, max_age_s=max_age_s, identities=identities,
                clock=self._clock, before=self._recording)
            return self._recording

    @property
    def recording(self) -> Recording | None:
        """The result of the latest `record`; None: there was no call."""
        return self._recording

    def _note_settings(self) -> None:
        if self._recording is not None:
            self._recording.note_settings()

    # -- counts --------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, Any]:
        """Usage, limits, peaks and denials now, ready for JSON.

        These keys are as in libp2p.rcmgr: "connections" (pending and established together),
        "memory_bytes" (reserved), "streams", "limits". The other keys are ours:

        "connection_states": counts by state. "peers": peers with a connection.
        "peak_connections", "peak_memory_bytes", "peak_streams": the largest values so far.
        "over_released": what was given back and had not been taken. "leaked": scopes that were
        dropped without `close`.
        "denied": counts by limit, of those that have refused. "evictions": see `evictions`.
        "would_deny": what a dry run admitted above a limit, by the code of the limit.
        "protocol_rates": `ProtocolRateLimiter.get_protocol_stats` by protocol.

        The protocol rates are O(tracked peers), the rest is O(1). `ledger.snapshot()` has all
        scopes.
        """
        return stats_of(self)

    def denied_by_limit(self) -> dict[str, int]:
        """How often each limit refused since the start. Limits that never refused are left out.

        O(protocols with a limiter).
        """
        return denied_by_limit(self)

    def evictions(self) -> dict[str, Any]:
        """The room that was made for newcomers, ready for JSON. O(1).

        "enabled": whether a full node makes room. False without a running host. "evicted": by state
        of the connections that ended. "leaving", "most_leaving": evicted connections that are
        closing now, and their limit. "cut": how many of them were cut, because they did not go.
        "refused_handshakes": those of networks that came too often to a full node.
        "would_make_room": newcomers above limits in a dry run, if it would have made room for them.
        "choices": how often each rule found a connection, and why none did (see docs/siege.md).
        """
        return self._admission.room.stats()

    @property
    def refused_for_memory(self) -> int:
        """How often the process used more memory than `memory_limits` allows."""
        return self._admission.refused_for_memory

    @property
    def refused_by_peer_rate(self) -> int:
        """How often a peer connected faster than `connection_rate_limits.per_peer` allows."""
        return self._admission.refused_by_peer_rate

    def _held(self) -> ScopeStat:
        return total_held(self.ledger)

    # -- the end -------------------------------------------------------------------------------

    def _new_watch(self) -> HostWatch:
        return HostWatch(self._host_stopped, self._admission.room)

    def _host_stopped(self, nursery: Any) -> None:
        """Give back what a host held that did not close everything.

        nursery: that of its swarm; None: no other host runs.
        """
        if nursery is None:
            self._forget_connections()
            return
        forgotten = self.connection_lifecycle._hosts.end(nursery)
        for peer in {record.peer_id for record in forgotten}:
            if self.connection_tracker.get_peer_connection_count(peer) == 0:
                self.ledger._forget_streams(peer)

    def close(self) -> None:
        """Deny all later requests, and forget all that is held. Scopes may still be closed.

        This also closes the servers of `serve_metrics` and `serve_status`, and leaves the fleet.
        """
        self._close()
        self._memory.close()
        self.denials.flush()
        self.would_deny.flush()
        if self._fleet is not None:
            self._fleet.close()
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._forget_connections()
        with self._limits_lock:  # a `record` that began before this call ends first
            recording = self._recording
        if recording is not None:
            recording.close()

    def _forget_connections(self) -> None:
        """Forget a host's connections and streams. Memory of `acquire_memory` is not the host's."""
        self.connection_tracker.clear()
        self.ledger.clear(keep=self._memory)
        self._gate.clear()
        with self._lock:
            self._scoped_streams.clear()

    def _check_open(self) -> None:
        if self.closed:
            raise ResourceScopeClosed

    def __repr__(self) -> str:
        held = self._held()
        streams = held.streams_inbound + held.streams_outbound
        return f"ResourceManager({self.connection_tracker!r}, streams={streams})"


def _bytes(size: int) -> int:
    """A size that fits the ledger. A peer may announce any size, also an absurd one."""
    wanted = operator.index(size)
    if wanted < 0:
        raise ValueError(f"size must be 0 or more bytes, not {size}")
    return min(wanted, MAX_LIMIT)


def _names(*names: str | None) -> tuple[str | None, ...]:
    return tuple(None if name is None else bounded_name(str(name)) for name in names)


def _rates(limits: object) -> ConnectionRateLimits:
    if not isinstance(limits, ConnectionRateLimits):
        raise TypeError(f"connection_rate_limits must be a ConnectionRateLimits, not {limits!r}")
    return limits


def _check_node_limits(limits: object) -> None:
    if not isinstance(limits, NodeLimits):
        raise TypeError(f"node_limits must be a rcmgr.NodeLimits, not {limits!r}")
