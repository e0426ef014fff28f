"""Refusals by limits of a fleet, and the gates for networks and protocols."""

from __future__ import annotations

import pytest

from rcmgr import FleetLimitExceeded, FleetLimits, FleetPlaces, Rate, SubnetLimits
from rcmgr.counting.leases import LeaseTable, PlaceTable
from rcmgr.gates.addresses import parse_address
from rcmgr.gates.fleet import FleetNetworks, FleetProtocol, FleetRefusal, network_key
from rcmgr.gates.networks import AddressGate

IP = parse_address("192.0.2.7").ip or b""
LIMITS = FleetLimits(
    network_rate=Rate(1, 2), network=FleetPlaces(1), protocols={"/x": Rate(1, 3)},
    protocol_peers={"/x": Rate(1, 2)}, ipv4_prefix=24)


def test_a_refusal_explains_itself() -> None:
    rate = FleetRefusal("peer_rate", "connections of one peer", None, Rate(1, 2), lambda peer: 3.0)
    assert not rate
    assert (rate.code, rate.is_offence) == ("fleet.peer_rate", True)
    error = rate.to_error(None, b"peer")
    assert isinstance(error, FleetLimitExceeded)
    assert str(error).startswith(
        "fleet rate exceeded: connections of one peer (1 a second, 2 at once on all nodes; retry "
        "after 3 s); peer ")
    assert (error.category, error.setting) == ("rate", "FleetLimits.peer_rate")
    places = FleetRefusal("peer.streams", "one peer", 6).to_error()
    assert str(places) == (
        "fleet limit exceeded: streams of one peer (limit: 6 on all nodes); see "
        "FleetLimits.peer.streams")
    assert (places.category, places.resource_type) == ("stream", "stream")
    assert FleetRefusal("network.connections", "x", 1).to_error().category == "connection"
    assert not FleetRefusal("rate", "the fleet").is_offence
    assert not FleetRefusal("protocols", "/x").is_offence


def networks(rate: bool, places: bool, held: int = 0) -> FleetNetworks:
    return FleetNetworks(
        LIMITS, LeaseTable(2, 1.0) if rate else None, PlaceTable(1) if places else None,
        lambda key: held)


def test_a_network_has_a_rate_and_places() -> None:
    gate = networks(rate=True, places=False)
    assert [gate.refusal(IP, "192.0.2.7", True) for _ in range(2)] == [None, None]
    refusal = gate.refusal(IP[:3] + b"\x08", "192.0.2.8", True)
    assert refusal is not None
    assert "network 192.0.2.0/24" in str(refusal.to_error())
    assert refusal.to_error().address == "192.0.2.8"
    full = networks(rate=False, places=True, held=1).refusal(IP, "192.0.2.7", True)
    assert full is not None
    assert full.code == "fleet.network.connections"


def test_loopback_and_dials_have_no_limit() -> None:
    gate = networks(rate=False, places=True, held=1)
    assert gate.refusal(IP, "192.0.2.7", False) is None
    assert gate.refusal(b"\x7f\0\0\x01", "127.0.0.1", True) is None


def test_a_protocol_has_a_rate_for_all_and_for_each_peer() -> None:
    protocol = FleetProtocol("/x", LIMITS, LeaseTable(3, 1.0), LeaseTable(2, 1.0))
    assert [protocol.refusal(b"a", 1) for _ in range(2)] == [None, None]
    of_peer, of_all = protocol.refusal(b"a", 1), (
        protocol.refusal(b"b", 1), protocol.refusal(b"c", 1))[1]
    assert of_peer is not None
    assert of_all is not None
    assert (of_peer.code, of_all.code) == ("fleet.protocol_peers", "fleet.protocols")
    assert of_all.to_error().burst == 3


def test_a_wait_is_for_all_tokens_of_a_request() -> None:
    protocol = FleetProtocol(
        "/x", LIMITS, LeaseTable(3, 1.0, clock=lambda: 0), LeaseTable(2, 1.0, clock=lambda: 0))
    assert protocol.refusal(b"a", 2) is None
    of_peer, of_all = protocol.refusal(b"a", 2), protocol.refusal(b"b", 2)
    assert of_peer is not None
    assert of_all is not None
    assert of_peer.to_error(None, b"a").retry_after_s == pytest.approx(2)
    assert of_all.to_error(None, b"b").retry_after_s == pytest.approx(1)


@pytest.mark.parametrize("limits", [None, SubnetLimits(), SubnetLimits(((32, 8), (24, 9)))])
def test_a_gate_counts_the_networks_of_the_fleet(limits: SubnetLimits | None) -> None:
    gate = AddressGate(limits)
    assert gate.has_limits is (limits is not None)
    gate.set_fleet(networks(rate=False, places=False), (24, 56))
    assert gate.has_limits
    shares = [gate.try_enter(f"192.0.2.{last}", True) for last in range(3)]
    assert all(shares)
    assert gate.connections_of_network(network_key(IP, 24)) == 3
    shares[0].close()  # type: ignore[union-attr]
    assert gate.connections_of_network(network_key(IP, 24)) == 2
    assert gate.try_enter("127.0.0.1", True)
    if gate.subnets is not None:
        assert all(limit is not None for _, _, limit in gate.subnets.fullest(9))
    gate.set_fleet(None, None)
    assert gate.connections_of_network(network_key(IP, 24)) == 0
