"""The part of a fleet's limits that this node may spend: the tables, and who asks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.counting.leases import FleetGate, FleetTable, LeaseTable, PlaceTable
from rcmgr.counting.scope import Ledger
from rcmgr.fleet.exchange import LeasedRate, SharedPlaces
from rcmgr.gates.fleet import WHOLE, FleetNetworks, FleetProtocol, FleetRefusal
from rcmgr.limits.fleet import FleetLimits
from rcmgr.limits.rates import Rate

__all__ = ["Shares"]

Clock = Callable[[], int]


class Shares:
    """The tables of one `FleetLimits`. They begin without the engine, as if it were lost.

    connections_of_network: returns the connections of a network on this node, by `network_key`.
    wake: called when a key begins to wait for the engine. nodes: None: not known yet.
    former: shares of earlier limits. A table stays with its state if its limit does not change.
    """

    def __init__(
        self, limits: FleetLimits, tracker: ConnectionTracker, ledger: Ledger,
        connections_of_network: Callable[[bytes], int], wake: Callable[[], object],
        *, nodes: int | None = None, clock: Clock | None = None, former: Shares | None = None,
    ) -> None:
        self.limits = limits
        self._nodes = limits.nodes_at_start if nodes is None else nodes
        self._wake, self._clock = wake, clock
        self._former: dict[str, LeasedRate | SharedPlaces] = {}
        if former is not None and (former.limits.on_loss, former.limits.most_keys) == (
                limits.on_loss, limits.most_keys):
            self._former = {each.name: each for each in former.all()}
        self.rates: list[LeasedRate] = []
        self.places: list[SharedPlaces] = []
        rate = self._leased("rate", limits.rate)
        peer_rate = self._leased("peer_rate", limits.peer_rate)
        peer_connections = self._shared(
            "peer.connections", limits.peer.connections, tracker.get_peer_connection_count)
        peer_streams = self._shared(
            "peer.streams", limits.peer.streams, ledger.inbound_streams_of)
        refusals = {
            "rate": FleetRefusal("rate", "connections of the fleet", None, limits.rate,
                                 _wait(rate, WHOLE)),
            "peer_rate": FleetRefusal("peer_rate", "connections of one peer", None,
                                      limits.peer_rate, _wait(peer_rate)),
            "peer_connections": FleetRefusal(
                "peer.connections", "one peer", limits.peer.connections),
            "peer_streams": FleetRefusal("peer.streams", "one peer", limits.peer.streams),
        }
        self.gate = FleetGate(
            rate=rate, peer_rate=peer_rate, peer_connections=peer_connections,
            peer_streams=peer_streams, refusals=refusals)
        network_rate = self._leased("network_rate", limits.network_rate)
        network_connections = self._shared(
            "network.connections", limits.network.connections, connections_of_network)
        self.networks = None if network_rate is None and network_connections is None else (
            FleetNetworks(
                limits, network_rate, network_connections, connections_of_network))
        self.protocols = {
            name: FleetProtocol(
                name, limits,
                self._leased(f"protocols:{name}", limits.protocols.get(name)),
                self._leased(f"protocol_peers:{name}", limits.protocol_peers.get(name)))
            for name in {**limits.protocols, **limits.protocol_peers}}
        self._former = {}

    def _leased(self, name: str, rate: Rate | None) -> LeaseTable | None:
        if rate is None or math.isinf(rate.refill_rate):
            return None
        former = self._former.get(name)
        if isinstance(former, LeasedRate) and former.rate == rate:
            self.rates.append(former)
            return former.table
        table = LeaseTable(
            rate.burst, rate.refill_rate, max_keys=self.limits.most_keys, nodes=self._nodes,
            on_loss=self.limits.on_loss, clock=self._clock, wake=self._wake)
        self.rates.append(LeasedRate(name, rate, table, self.limits.most_keys))
        return table

    def _shared(
        self, name: str, limit: int | None, held: Callable[[Any], int]
    ) -> PlaceTable | None:
        if limit is None:
            return None
        former = self._former.get(name)
        if isinstance(former, SharedPlaces) and former.limit == limit:
            self.places.append(former)
            return former.table
        table = PlaceTable(
            limit, max_keys=self.limits.most_keys, nodes=self._nodes, on_loss=self.limits.on_loss,
            clock=self._clock, wake=self._wake)
        self.places.append(SharedPlaces(name, limit, table, held))
        return table

    def all(self) -> list[LeasedRate | SharedPlaces]:
        return [*self.rates, *self.places]

    def tables(self) -> Iterator[FleetTable]:
        for each in self.all():
            yield each.table

    def set_nodes(self, nodes: int) -> None:
        for table in self.tables():
            table.set_nodes(nodes)

    def lose(self) -> None:
        for table in self.tables():
            table.lose()

    def find_again(self) -> None:
        for table in self.tables():
            table.find_again()

    def forget_told(self) -> None:
        """Tell the engine again what the node holds."""
        for each in self.places:
            each.table.forget_told()

    @property
    def waiting(self) -> int:
        """Keys that wait for the engine."""
        return sum(table.waiting for table in self.tables())


def _wait(table: LeaseTable | None, key: Any = None) -> Callable[[Any], float]:
    def seconds(peer: Any) -> float:
        return 0.0 if table is None else table.time_until(peer if key is None else key)

    return seconds
