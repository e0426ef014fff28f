"""The one object that a host holds."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from rcmgr.connection_limits import ConnectionLimits, check_limit
from rcmgr.connection_scope import ConnectionScope
from rcmgr.connection_tracker import ConnectionTracker
from rcmgr.counter import Counter
from rcmgr.denials import DenialLog
from rcmgr.errors import (
    MemoryReservationExceeded,
    RateLimitExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    StreamLimitExceeded,
    link_upstream,
)
from rcmgr.handover import Handover, HostLifecycle
from rcmgr.host_watch import HostWatch
from rcmgr.memory_limits import MemoryConnectionLimits
from rcmgr.peers import ip_key, peer_from_any
from rcmgr.protocol_rate_limiter import ProtocolRateLimiter
from rcmgr.rate_limiter import table_of
from rcmgr.rate_limits import ConnectionRateLimits, RateLimits
from rcmgr.token_bucket import BucketTable

__all__ = ["ResourceLimits", "ResourceManager"]

_DIRECTIONS = ("inbound", "outbound", "unknown")

# `new_host` is annotated with the class of libp2p, for which this one stands in without inheriting
# from it. To a type checker the base is anything: strict code may pass a manager without a cast.
_InPlaceOfUpstream: Any = object

_MOST_BYTES = 2**63 - 1


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
        return None if self.max_memory_mb is None else self.max_memory_mb * 1024 * 1024


class ResourceManager(_InPlaceOfUpstream):  # type: ignore[misc]
    """Decides for a node, before a resource is spent, whether it may be.

    Give it to `libp2p.new_host(resource_manager=...)` or `new_swarm`.

    limits: limits of the whole node; default `ResourceLimits()`.
    allowlist: peers (`ID`, bytes or base58 text) whose connections and streams are never denied;
        their connections count toward no limit. Default none.
    connection_limits: limits by connection state; default none.
    connection_rate_limits: how often one address and one peer may connect; default no limit.
    memory_limits: what the process may use before connections and reservations are refused;
        default no limit. See also `set_memory_limits`.

    The methods that a swarm calls are O(1), never block and are thread safe. A denial is a return
    value (None or False); `last_denial` and `denials` have the reasons.
    """

    def __init__(
        self,
        limits: ResourceLimits | None = None,
        allowlist: Iterable[Hashable] | None = None,
        *,
        connection_limits: ConnectionLimits | None = None,
        connection_rate_limits: ConnectionRateLimits | None = None,
        memory_limits: MemoryConnectionLimits | None = None,
    ) -> None:
        link_upstream()
        self.denials = DenialLog()
        self.connection_tracker = ConnectionTracker()
        self._handover = Handover(self.connection_tracker)
        self.connection_lifecycle = HostLifecycle(
            self.connection_tracker,
            ConnectionLimits() if connection_limits is None else connection_limits,
            denials=self.denials,
            handover=self._handover,
        )
        self._streams = Counter()
        self._memory = Counter()
        self.limits = ResourceLimits() if limits is None else limits
        rates = ConnectionRateLimits() if connection_rate_limits is None else connection_rate_limits
        if not isinstance(rates, ConnectionRateLimits):
            raise TypeError(
                f"connection_rate_limits must be a ConnectionRateLimits, not {rates!r}")
        self.connection_rate_limits = rates
        self._ip_rates = table_of(rates.per_ip, rates)
        self._peer_rates = table_of(rates.per_peer, rates)
        self.protocol_rate_limiters: dict[str, ProtocolRateLimiter] = {}
        self.memory_limits = memory_limits
        self._ids = itertools.count(1)
        self._closed = False
        # the name under which the swarm starts it
        self.graceful_degradation = HostWatch(self._forget_connections)
        if isinstance(allowlist, str | bytes):
            raise TypeError(f"allowlist must be a collection of peers, not {allowlist!r}")
        for peer in allowlist or ():
            self.add_allowed_peer(peer)

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

    def _check_memory_limits(self, *, new_peer: bool = False) -> bool:
        """Whether the process's memory lets anything be added; False is noted as a denial."""
        lifecycle = self.connection_lifecycle
        return lifecycle.memory_limits is None or lifecycle.memory_excess(new_peer=new_peer) is None

    @property
    def limits(self) -> ResourceLimits:
        """Limits of the whole node. May be set; holds for what is asked from then on.

        The swarm has read `max_streams` by then: above it streams wait instead of being denied.
        """
        return self._limits

    @limits.setter
    def limits(self, limits: ResourceLimits) -> None:
        if not isinstance(limits, ResourceLimits):
            raise TypeError(f"limits must be a rcmgr.ResourceLimits, not {limits!r}")
        self._limits = limits
        self.connection_tracker.max_connections = limits.max_connections
        self._streams.limit = limits.max_streams
        self._memory.limit = limits.max_memory_bytes

    def add_allowed_peer(self, peer_id: Hashable) -> None:
        """From now on, no limit is applied to connections and streams of this peer."""
        self.connection_tracker.add_bypass_peer(peer_from_any(peer_id))

    def remove_allowed_peer(self, peer_id: Hashable) -> bool:
        """New connections and streams of this peer are limited again; False if it was not allowed.
        """
        return self.connection_tracker.remove_bypass_peer(peer_from_any(peer_id))

    def is_allowed_peer(self, peer_id: Hashable) -> bool:
        """Whether no limit is applied to this peer."""
        return self.connection_tracker.is_bypassed(peer_from_any(peer_id))

    # -- connections ---------------------------------------------------------------------------

    def open_connection(
        self,
        peer_id: Hashable | None = None,
        endpoint_ip: str | None = None,
        direction: Any = "inbound",
    ) -> ConnectionScope | None:
        """Ask for a connection; the scope that holds it, or None: denied.

        Without a peer id: before the handshake, and the scope holds a pending connection. With one:
        after the handshake. Then the connection that this task has pending in that direction
        becomes established, or one that the lifecycle handler admitted just before is taken over;
        without either the connection is new. Never raises for a limit, and denies when the manager
        is closed (the swarm takes an exception for consent).

        direction: "inbound", "outbound" or a py-libp2p `Direction` (UNKNOWN counts as outbound);
        ValueError for anything else. endpoint_ip: the remote address, for `connection_rate_limits`,
        which hold for inbound connections. About 1 us.
        """
        if self._closed:
            return None
        inbound = _is_inbound(direction)
        if peer_id is None:
            return self._open_pending(inbound, endpoint_ip)
        return self._open_established(peer_from_any(peer_id), inbound)

    def _open_pending(self, inbound: bool, endpoint_ip: str | None) -> ConnectionScope | None:
        if not self._check_memory_limits():
            return None
        rates = self._ip_rates
        if inbound and rates is not None and endpoint_ip:
            key = ip_key(endpoint_ip)
            if not rates.try_consume(key):
                self.denials.add(_rate_error, rates, "ip address", endpoint_ip, key, None)
                return None
        tracker = self.connection_tracker
        connection_id = f"conn-{next(self._ids)}"
        admit = tracker.admit_pending_inbound if inbound else tracker.admit_pending_outbound
        denial = admit(connection_id, self.connection_limits)
        if denial is not None:
            self.denials.add(denial.to_error, connection_id, None)
            return None
        record = tracker.get_connection(connection_id)
        if record is None:  # closed by another thread in between
            return None
        self._handover.offer_pending(record)
        return ConnectionScope(tracker, record, only_pending=True)

    def _open_established(self, peer_id: Hashable, inbound: bool) -> ConnectionScope | None:
        tracker = self.connection_tracker
        record = self._handover.take_established(peer_id, inbound, claimed=True)
        if not self._may_connect(peer_id, inbound, known=record is not None):
            if record is not None:
                tracker.remove(record)
            return None
        if record is None:
            pending = self._handover.take_pending(inbound)
            if pending is None:
                connection_id: Hashable = f"conn-{next(self._ids)}"
            else:
                connection_id = pending.connection_id
            admit = (
                tracker.admit_established_inbound if inbound else tracker.admit_established_outbound
            )
            denial = admit(connection_id, peer_id, self.connection_limits, owned=True)
            if denial is not None:
                self.denials.add(denial.to_error, connection_id, peer_id)
                return None
            record = tracker.get_connection(connection_id)
            if record is None:  # closed by another thread in between
                return None
            self._handover.offer_established(record)
        return ConnectionScope(tracker, record, only_pending=False)

    def _may_connect(self, peer_id: Hashable, inbound: bool, *, known: bool) -> bool:
        """Ask the limits that depend on the peer; `known`: this connection is counted already."""
        rates = self._peer_rates if inbound else None
        if rates is None and self.memory_limits is None:
            return True
        tracker = self.connection_tracker
        if tracker.is_bypassed(peer_id):
            return True
        new_peer = tracker.get_peer_connection_count(peer_id) <= known
        if not self._check_memory_limits(new_peer=new_peer):
            return False
        if rates is None or rates.try_consume(peer_id):
            return True
        self.denials.add(_rate_error, rates, "peer", peer_id, peer_id, peer_id)
        return False

    # -- streams and memory --------------------------------------------------------------------

    def acquire_stream(self, peer_id: Hashable, direction: Any) -> bool:
        """Take a stream of this peer; False: denied.

        direction: as for `open_connection`. ResourceScopeClosed: the manager is closed. Under 1 us.
        """
        self._check_open()
        inbound = _is_inbound(direction)
        exempt = len(self.connection_tracker.bypass_peers) > 0 and (
            self.connection_tracker.is_bypassed(peer_from_any(peer_id))
        )
        if self._streams.take(exempt=exempt):
            return True
        streams = self._streams
        self.denials.add(
            StreamLimitExceeded,
            streams.limit,
            streams.used,
            "inbound" if inbound else "outbound",
            peer_id,
        )
        return False

    def release_stream(self, peer_id: Hashable, direction: Any) -> None:
        """Give a stream back; more than were taken is ignored."""
        self._streams.give()

    def acquire_memory(self, size: int) -> bool:
        """Reserve `size` bytes; False: denied, however large the size.

        TypeError: not an int. ValueError: negative. ResourceScopeClosed: the manager is closed.
        """
        self._check_open()
        amount = _bytes(size)
        if not self._check_memory_limits():
            return False
        if self._memory.take(amount):
            return True
        memory = self._memory
        self.denials.add(MemoryReservationExceeded, memory.limit, memory.used, size)
        return False

    def release_memory(self, size: int) -> None:
        """Give back reserved bytes; more than were reserved is ignored.

        TypeError: not an int. ValueError: negative.
        """
        self._memory.give(_bytes(size))

    # -- rates ---------------------------------------------------------------------------------

    def add_protocol_rate_limiter(self, protocol: str, limits: RateLimits) -> ProtocolRateLimiter:
        """Limit the requests of a protocol; replaces its former limiter, if any.

        The manager's allowed peers are exempt. Whoever serves the protocol asks the limiter, or
        `check_protocol_rate_limit`; `rcmgr.libp2p.limit_protocols` asks for every inbound stream.
        """
        limiter = ProtocolRateLimiter(
            protocol, limits, is_exempt=self.connection_tracker.is_bypassed
        )
        self.protocol_rate_limiters[protocol] = limiter
        return limiter

    def check_protocol_rate_limit(
        self, protocol: str, peer_id: Hashable, operation: str = "request"
    ) -> bool:
        """Whether the peer may do this once more; a protocol without a limiter is not limited."""
        limiter = self.protocol_rate_limiters.get(protocol)
        if limiter is None or limiter.check_peer_rate_limit(peer_id, operation):
            return True
        self.denials.add(limiter.denial, peer_id, operation)
        return False

    # -- what there is -------------------------------------------------------------------------

    @property
    def last_denial(self) -> ResourceLimitExceeded | None:
        """The error that describes the latest denial; None if nothing was denied yet."""
        return self.denials.last

    def get_stats(self) -> dict[str, Any]:
        """Usage, limits, peaks and denials now; ready for JSON.

        As in libp2p.rcmgr: "connections" (pending and established together), "memory_bytes"
        (reserved), "streams", "limits". Besides: "connection_states" (count by state), "peers",
        "peak_connections", "peak_memory_bytes", "peak_streams", "memory_admitted" (reservations),
        "streams_admitted", "streams_denied", "over_released" (given back too often), "denied"
        (count by limit; only those that refused), "protocol_rates"
        (`ProtocolRateLimiter.get_protocol_stats` by protocol). O(1), but for the protocol rates:
        O(peers they track).
        """
        tracker = self.connection_tracker.snapshot()
        denied = dict(tracker.denied)
        for kind, counter in (("streams", self._streams), ("memory", self._memory)):
            if counter.denied:
                denied[kind] = counter.denied
        if self.connection_lifecycle.refused_for_memory:
            denied["memory_usage"] = self.connection_lifecycle.refused_for_memory
        for kind, rates in (
            ("connection_rate_per_ip", self._ip_rates),
            ("connection_rate_per_peer", self._peer_rates),
        ):
            if rates is not None and rates.denied:
                denied[kind] = rates.denied
        return {
            "connections": tracker.pending_total + tracker.established_total,
            "memory_bytes": self._memory.used,
            "streams": self._streams.used,
            "limits": {
                "max_connections": self.limits.max_connections,
                "max_memory_bytes": self.limits.max_memory_bytes,
                "max_streams": self.limits.max_streams,
                **self.connection_limits.to_dict(),
            },
            "connection_states": {
                "pending_inbound": tracker.pending_inbound,
                "pending_outbound": tracker.pending_outbound,
                "established_inbound": tracker.established_inbound,
                "established_outbound": tracker.established_outbound,
            },
            "peers": tracker.peers,
            "peak_connections": tracker.peak_connections,
            "peak_memory_bytes": self._memory.peak,
            "peak_streams": self._streams.peak,
            "memory_admitted": self._memory.admitted,
            "streams_admitted": self._streams.admitted,
            "streams_denied": self._streams.denied,
            "over_released": {
                "streams": self._streams.over_released,
                "memory_bytes": self._memory.over_released,
            },
            "denied": denied,
            "protocol_rates": {
                protocol: limiter.get_protocol_stats()
                for protocol, limiter in self.protocol_rate_limiters.items()
            },
        }

    # -- the end -------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Deny everything from now on and forget what is held; scopes may still be closed."""
        self._closed = True
        self._forget_connections()
        self._memory.clear()

    def _forget_connections(self) -> None:
        self.connection_tracker.clear()
        self._streams.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ResourceScopeClosed

    def __repr__(self) -> str:
        return f"ResourceManager({self.connection_tracker!r}, streams={self._streams.used})"


def _bytes(size: int) -> int:
    """A size as the counter takes it: peers announce sizes, and some of them are absurd."""
    amount = min(operator.index(size), _MOST_BYTES)
    if amount < 0:
        raise ValueError(f"size must be 0 or more bytes, not {size}")
    return amount


def _rate_error(
    rates: BucketTable, what: str, who: Any, key: Hashable, peer_id: Hashable | None
) -> RateLimitExceeded:
    return RateLimitExceeded(
        protocol="connections",
        operation=f"connection of {what} {who}",
        peer_id=peer_id,
        retry_after_s=rates.time_until(key),
    )


def _is_inbound(direction: Any) -> bool:
    if direction == "inbound":
        return True
    name = str(getattr(direction, "name", direction)).lower()
    if name not in _DIRECTIONS:
        raise ValueError(
            f"direction must be 'inbound', 'outbound' or a Direction, not {direction!r}"
        )
    return name == "inbound"
