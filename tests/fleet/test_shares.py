"""The tables of a fleet's limits."""

from __future__ import annotations

import pytest

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


def test_tables_that_stay_are_told_about_the_engine() -> None:
    first = shares(FleetLimits(rate=RATE, peer=FleetPlaces(5)))
    second = shares(FleetLimits(rate=RATE, peer_rate=RATE, peer=FleetPlaces(5)), first)
    assert {each.name for each in second.all()} == {"rate", "peer_rate", "peer.connections"}
    second.find_again()
    assert not any(table.is_lost for table in second.tables())
    second.set_nodes(4)
    assert [table.advance for table in second.tables()] == [2, 2, 1]
    second.lose()
    assert all(table.is_lost for table in second.tables())


@pytest.mark.parametrize("limits", [
    FleetLimits(network_rate=RATE), FleetLimits(network=FleetPlaces(3))])
def test_one_limit_on_networks_is_enough(limits: FleetLimits) -> None:
    assert shares(limits).networks is not None
    assert shares(FleetLimits(rate=RATE)).networks is None


def test_places_are_told_again() -> None:
    made = shares(FleetLimits(peer=FleetPlaces(5)))
    table = made.gate.peer_connections
    assert table is not None
    made.find_again()
    assert table.may_take(b"peer", 0)
    assert [held for _, held in table.collect(9, lambda key: 2)] == [2]
    table.settle(b"peer", 0)
    assert table.collect(9, lambda key: 2) == []
    made.forget_told()
    assert [held for _, held in table.collect(9, lambda key: 2)] == [2]


def test_a_refusal_says_when_its_own_key_comes_again() -> None:
    now = [10**15]
    manager = ResourceManager()
    made = Shares(
        FleetLimits(rate=Rate(0.5, 1), peer_rate=Rate(0.1, 1)), manager.connection_tracker,
        manager.ledger, lambda key: 0, lambda: None, clock=lambda: now[0])
    assert made.gate.rate is not None
    assert made.gate.peer_rate is not None
    assert made.gate.rate.try_consume("")  # the engine is lost: the node's own share
    assert made.gate.peer_rate.try_consume(b"busy")
    waits = {
        name: [refusal.retry_after_s(peer) for peer in (b"busy", b"idle")]
        for name, refusal in made.gate.refusals.items() if refusal.retry_after_s is not None}
    assert waits == {"rate": [2.0, 2.0], "peer_rate": [10.0, 0.0]}


def test_nodes_at_start_share_the_limits() -> None:
    table = shares(FleetLimits(rate=RATE, nodes_at_start=4)).gate.rate
    assert table is not None
    assert sum(table.try_consume("") for _ in range(9)) == 2
