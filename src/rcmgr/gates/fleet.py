"""How the limits of a fleet refuse: by peer, by network, by protocol."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

from rcmgr.counting.leases import LeaseTable, PlaceTable
from rcmgr.counting.prefix_table import PrefixTable
from rcmgr.errors import FleetLimitExceeded, shortened
from rcmgr.limits.fleet import FleetLimits
from rcmgr.limits.networks import Network, prefix_of
from rcmgr.limits.rates import Rate

__all__ = ["WHOLE", "FleetNetworks", "FleetProtocol", "FleetRefusal", "network_key"]

WHOLE = ""
"""The key of a table that has only one."""


class FleetRefusal(NamedTuple):
    """A refusal by a limit of the fleet. Falsy. The fields are those of `FleetLimitExceeded`."""

    limit: str
    of: str
    most: int | None = None
    rate: Rate | None = None
    retry_after_s: Callable[[Any], float] | None = None
    """Called with the peer."""
    address: str | None = None

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def is_offence(self) -> bool:
        """A peer is not to blame if all peers together are too many."""
        return self.limit not in ("rate", "protocols")

    @property
    def code(self) -> str:
        """The code of its error."""
        return f"fleet.{self.limit}"

    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> FleetLimitExceeded:
        rate, retry = self.rate, self.retry_after_s
        return FleetLimitExceeded(
            self.limit, self.of, self.most,
            refill_rate=None if rate is None else rate.refill_rate,
            burst=None if rate is None else rate.burst,
            retry_after_s=0.0 if retry is None else retry(peer_id),
            connection_id=connection_id, peer_id=peer_id, address=self.address)


def network_key(ip: bytes, bits: int) -> bytes:
    """The key of a network in `SubnetLimiter` and in the tables of the fleet."""
    return b"%c%c+%b" % (len(ip), bits, prefix_of(ip, bits))


class FleetNetworks:
    """The limits of the fleet on the network of an address. Thread safe.

    held: returns the connections that a network has on this node.
    """

    def __init__(
        self, limits: FleetLimits, rate: LeaseTable | None, connections: PlaceTable | None,
        held: Callable[[bytes], int],
    ) -> None:
        self._limits, self._rate, self._connections, self._held = limits, rate, connections, held
        self._exempt: PrefixTable[bool] = PrefixTable()
        for text in limits.exempt:
            self._exempt.set(Network.parse(text), True)

    def refusal(self, ip: bytes, address: object, inbound: bool) -> FleetRefusal | None:
        """None: the network may have one more connection. ip: 4 or 16 bytes."""
        if not inbound or self._exempt.longest(ip) is not None:
            return None
        bits = self._limits.ipv4_prefix if len(ip) == 4 else self._limits.ipv6_prefix
        key = network_key(ip, bits)
        if self._connections is not None and not self._connections.may_take(key, self._held(key)):
            return FleetRefusal(
                "network.connections", f"network {Network.of(ip, bits)}",
                self._limits.network.connections, address=shortened(address))
        rate = self._rate
        if rate is not None and not rate.try_consume(key):
            seconds = rate.time_until(key)
            return FleetRefusal(
                "network_rate", f"network {Network.of(ip, bits)}", None, self._limits.network_rate,
                lambda _: seconds, shortened(address))
        return None


class FleetProtocol:
    """The rates of the fleet on the requests of a protocol. Thread safe.

    overall: the rate of all peers. peers: the rate of each peer. None: no limit.
    """

    def __init__(
        self, protocol: str, limits: FleetLimits, overall: LeaseTable | None,
        peers: LeaseTable | None,
    ) -> None:
        self._protocol, self._overall, self._peers = protocol, overall, peers
        self._overall_rate = limits.protocols.get(protocol)
        self._peer_rate = limits.protocol_peers.get(protocol)

    def refusal(self, peer: Hashable, tokens: int) -> FleetRefusal | None:
        """None: the peer may make the request, and its tokens are taken."""
        peers, overall = self._peers, self._overall
        if peers is not None and not peers.try_consume(peer, tokens):
            return FleetRefusal(
                "protocol_peers", f"requests of {self._protocol} by one peer", None,
                self._peer_rate, lambda each: peers.time_until(each, tokens))
        if overall is not None and not overall.try_consume(WHOLE, tokens):
            return FleetRefusal(
                "protocols", f"requests of {self._protocol}", None, self._overall_rate,
                lambda _: overall.time_until(WHOLE, tokens))
        return None
