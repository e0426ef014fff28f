"""Shorter ways to write parts of `NodeLimits`.

Each has `of`, which reads the part from a `NodeLimits`, and `applied_to`, which writes it into one.
To write what was read changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rcmgr.limits.checks import check_count, check_limit, check_table
from rcmgr.limits.names import suggests_arguments
from rcmgr.limits.networks import AddressRates
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.rates import PeerRates, Rate, check_rate

__all__ = ["ConnectionRateLimits", "ResourceLimits"]

_MIB: Final = 1024 * 1024
_MANY_STREAMS: Final = 2**31 - 1  # the swarm needs a number


@suggests_arguments
@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """The limits of a whole node, with py-libp2p's names and defaults.

    max_connections: pending and established connections together; None: no limit.
    max_memory_mb: MiB that may be reserved with `acquire_memory`; None: no limit.
    max_streams: streams open at once. It must be a number, because py-libp2p's swarm makes a
        semaphore of this size when it gets the manager.

    TypeError: a field is not an int, or None where None is not allowed. ValueError: negative.
    """

    max_connections: int | None = 1000
    max_memory_mb: int | None = 512
    max_streams: int = 10000

    def __post_init__(self) -> None:
        check_limit("max_connections", self.max_connections)
        check_limit("max_memory_mb", self.max_memory_mb)
        check_count("max_streams", self.max_streams)

    @property
    def max_memory_bytes(self) -> int | None:
        """`max_memory_mb` in bytes; None: no limit."""
        return None if self.max_memory_mb is None else self.max_memory_mb * _MIB

    @classmethod
    def of(cls, limits: NodeLimits) -> ResourceLimits:
        """The limits of the system scope; memory is rounded down to MiB."""
        system = limits.scopes.system
        return cls(
            system.conns,
            None if system.memory is None else system.memory // _MIB,
            _MANY_STREAMS if system.streams is None else system.streams,
        )

    def applied_to(self, limits: NodeLimits) -> NodeLimits:
        """`limits` with these connections, streams and memory of the system.

        A number that `of(limits)` has too leaves its limit as it is.
        """
        before, system = ResourceLimits.of(limits), limits.scopes.system
        conns, memory, streams = self.max_connections, self.max_memory_bytes, self.max_streams
        return replace(limits, scopes=limits.scopes.with_system(
            conns=system.conns if conns == before.max_connections else conns,
            memory=system.memory if memory == before.max_memory_bytes else memory,
            streams=system.streams if streams == before.max_streams else streams,
        ))


@suggests_arguments
@dataclass(frozen=True, slots=True)
class ConnectionRateLimits:
    """How often an address and a peer may connect.

    per_ip: the rate of one address (IPv6: one /64 network), asked before the handshake. An
        `AddressRates` has rates for other networks too.
    per_peer: the rate of one peer, asked after the handshake. None: no limit.
    max_peers, on_full: the size of each table of buckets; see `BucketTable`. An `AddressRates` has
        its own.
    """

    per_ip: Rate | AddressRates | None = None
    per_peer: Rate | None = None
    max_peers: int = 100_000
    on_full: str = "evict_fullest"

    def __post_init__(self) -> None:
        if not isinstance(self.per_ip, AddressRates):
            check_rate("per_ip", self.per_ip)
        check_rate("per_peer", self.per_peer)
        check_table("max_peers", self.max_peers, self.on_full)

    @property
    def addresses(self) -> AddressRates | None:
        """As in `NodeLimits.rates`."""
        if not isinstance(self.per_ip, Rate):
            return self.per_ip
        return AddressRates(
            ((32, self.per_ip),), ((64, self.per_ip),), {}, None, self.max_peers, self.on_full)

    @property
    def peers(self) -> PeerRates | None:
        """As in `NodeLimits.peer_rates`."""
        if self.per_peer is None:
            return None
        return PeerRates(self.per_peer, self.max_peers, self.on_full)

    @classmethod
    def of(cls, limits: NodeLimits) -> ConnectionRateLimits:
        addresses, peers = limits.rates, limits.peer_rates
        per_peer: Rate | None = None
        table: Sequence[Any] = ()
        if peers is not None:
            per_peer, *table = peers.rate, peers.max_peers, peers.on_full
        elif addresses is not None:
            table = addresses.max_networks, addresses.on_full
        if addresses is not None and addresses.ipv4:
            simple = cls(addresses.ipv4[0][1], per_peer, *table)
            if simple.addresses == addresses:
                return simple
        return cls(addresses, per_peer, *table)

    def applied_to(self, limits: NodeLimits) -> NodeLimits:
        """`limits` with these rates."""
        return replace(limits, rates=self.addresses, peer_rates=self.peers)
