"""Limits on all nodes of a fleet together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from rcmgr.limits.checks import bucket_ticks, check_choice, check_count, check_limit
from rcmgr.limits.names import suggests_arguments
from rcmgr.limits.networks import LOOPBACK, Network
from rcmgr.limits.rates import Rate, check_rate
from rcmgr.limits.sections import KEY

__all__ = ["MOST_TICKS", "FleetLimits", "FleetPlaces"]

MOST_TICKS: Final = 1 << 51
"""The engine counts in doubles, which are exact to 2**53. A debt has at most twice these ticks."""


@suggests_arguments
@dataclass(frozen=True, slots=True)
class FleetPlaces:
    """The places of one peer, or one network, on all nodes together. None: no limit.

    connections: in a file, `Conns`. streams: in a file, `Streams`.
    """

    connections: int | None = field(default=None, metadata={KEY: "Conns"})
    streams: int | None = field(default=None, metadata={KEY: "Streams"})

    def __post_init__(self) -> None:
        check_limit("connections", self.connections)
        check_limit("streams", self.streams)


_UNLIMITED: Final = FleetPlaces()


@suggests_arguments
@dataclass(frozen=True, slots=True)
class FleetLimits:
    """Limits on all nodes of a fleet together, in addition to those of each node.

    They apply to inbound connections, inbound streams and requests. docs/fleet.md says by how much
    the sum over the nodes may pass them. Without a `Fleet` they have no effect.

    rate: new connections of the fleet. peer_rate, network_rate: those of each peer and network.
    protocols: requests of a protocol, of all peers together, by its name.
    protocol_peers: requests of a protocol by each peer.
    peer: connections and streams of each peer at once. network: connections of each network.
    ipv4_prefix, ipv6_prefix: leading bits of an address that name its network. At most 32 and 128.
    exempt: networks to which `network` and `network_rate` do not apply. Default: loopback.
    on_loss: without the engine, "local": the node applies its share, which is the limit divided by
        the nodes last seen. "refuse": it refuses everything that has a limit here.
    nodes_at_start: nodes to assume until the engine has answered for the first time, 1 or more.
    most_keys: the peers, and the networks, that a table keeps, on the node and on the engine.

    TypeError, ValueError: a field has a wrong value; the message names both.
    """

    rate: Rate | None = None
    peer_rate: Rate | None = None
    network_rate: Rate | None = None
    protocols: Mapping[str, Rate] = field(default_factory=dict)
    protocol_peers: Mapping[str, Rate] = field(default_factory=dict)
    peer: FleetPlaces = field(default=_UNLIMITED, metadata={KEY: "Peer"})
    network: FleetPlaces = field(default=_UNLIMITED, metadata={KEY: "Network"})
    ipv4_prefix: int = 32
    ipv6_prefix: int = 56
    exempt: frozenset[str] = frozenset(LOOPBACK)
    on_loss: str = "local"
    nodes_at_start: int = 1
    most_keys: int = 100_000

    def __post_init__(self) -> None:
        for name in ("rate", "peer_rate", "network_rate"):
            _check_rate(name, getattr(self, name))
        for name in ("protocols", "protocol_peers"):
            table = getattr(self, name)
            if not isinstance(table, Mapping):
                raise TypeError(f"{name} must be rates by protocol, not {table!r}")
            for protocol, rate in table.items():
                if not isinstance(protocol, str):
                    raise TypeError(f"{name}: a protocol must be text, not {protocol!r}")
                if rate is None:
                    raise TypeError(f"{name}[{protocol!r}] must be a Rate, not None")
                _check_rate(f"{name}[{protocol!r}]", rate)
            object.__setattr__(self, name, MappingProxyType(dict(table)))
        for name in ("peer", "network"):
            if not isinstance(getattr(self, name), FleetPlaces):
                raise TypeError(f"{name} must be a FleetPlaces, not {getattr(self, name)!r}")
        if self.network.streams is not None:
            raise ValueError(
                f"network.streams must be None, not {self.network.streams}: a stream has a peer, "
                "and no address (use peer.streams)")
        check_count("ipv4_prefix", self.ipv4_prefix, 1, 32)
        check_count("ipv6_prefix", self.ipv6_prefix, 1, 128)
        if isinstance(self.exempt, str | bytes) or not isinstance(self.exempt, Iterable):
            raise TypeError(f"exempt must be a collection of networks, not {self.exempt!r}")
        exempt = tuple(self.exempt)
        for network in exempt:
            Network.parse(network)
        object.__setattr__(self, "exempt", frozenset(exempt))
        check_choice("on_loss", self.on_loss, ("local", "refuse"))
        check_count("nodes_at_start", self.nodes_at_start, 1, 1_000_000)
        check_count("most_keys", self.most_keys, 1, 10_000_000)


def _check_rate(name: str, rate: Any) -> None:
    """A rate that the engine can count."""
    check_rate(name, rate)
    if rate is None:
        return
    try:
        bucket_ticks(rate.burst, rate.refill_rate, 1 << 10, MOST_TICKS, capacity_name="burst")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
