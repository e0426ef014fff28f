"""The tables of a fleet's limits."""

from __future__ import annotations

from rcmgr import FleetLimits, FleetPlaces, Rate, ResourceManager
from rcmgr.fleet.shares import Shares

RATE = Rate(1.0, 8)


def shares(limits: FleetLimits, former: Shares | None = None) -> Shares:
    manager = ResourceManager()
    return Shares(
        limits, manager.connection_tracker, manager.ledger, lambda key: 0, lambda: None,
        former=former)


def test_a_limit_has_a_table_and_no_limit_has_none() -> None:
    assert shares(FleetLimits()).all() == []
    assert shares(FleetLimits(rate=Rate(float("inf"), 1))).all() == []
    every = shares(FleetLimits(
        RATE, RATE, RATE, {"/a": RATE}, {"/a": RATE, "/b": RATE}, FleetPlaces(1, 2),
        FleetPlaces(3, None)))
    assert {each.name for each in every.all()} == {
        "rate", "peer_rate", "network_rate", "protocols:/a", "protocol_peers:/a",
        "protocol_peers:/b", "peer.connections", "peer.streams", "network.connections"}
    assert every.protocols.keys() == {"/a", "/b"}
    assert every.networks is not None


def test_tables_of_unchanged_limits_stay() -> None:
    first = shares(FleetLimits(rate=RATE, peer_rate=RATE, peer=FleetPlaces(5)))
    second = shares(FleetLimits(rate=RATE, peer_rate=Rate(2, 8), peer=FleetPlaces(5)), first)
    assert second.gate.rate is first.gate.rate
    assert second.gate.peer_connections is first.gate.peer_connections
    assert second.gate.peer_rate is not first.gate.peer_rate
    third = shares(FleetLimits(rate=RATE, on_loss="refuse"), second)
    assert third.gate.rate is not second.gate.rate


def test_nodes_at_start_share_the_limits() -> None:
    table = shares(FleetLimits(rate=RATE, nodes_at_start=4)).gate.rate
    assert table is not None
    assert sum(table.try_consume("") for _ in range(9)) == 2
