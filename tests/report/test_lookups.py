"""The largest of each kind, one peer, one scope."""

from __future__ import annotations

import json
from typing import Any

import pytest
from model import Clock

from rcmgr import (
    ConcreteLimits,
    DryRun,
    FleetLimits,
    Limit,
    NodeLimits,
    Rate,
    RateLimits,
    ResourceManager,
)
from rcmgr.counting.leases import LeaseTable
from rcmgr.gates.fleet import FleetProtocol
from rcmgr.peers import peer_text
from rcmgr.report.lookups import TOP, peer_view, scope_view, top_rows

PEERS = [b"\x12\x20" + bytes([number]) * 32 for number in range(5)]


@pytest.fixture
def node() -> Any:
    """Peer n has n connections, from 192.0.2.n, and one stream."""
    manager = ResourceManager(NodeLimits(ConcreteLimits(peer_default=Limit(conns=4, streams=1))))
    held: list[Any] = []
    for number, peer in enumerate(PEERS):
        held += [manager.open_connection(peer, f"192.0.2.{number}") for _ in range(number)]
        stream = manager.open_stream(peer, "inbound")
        assert stream
        stream.set_protocol("/a" if number < 3 else "/b")
        held.append(stream)
    held.append(manager.open_connection(PEERS[1], "2001:db8::7"))
    for _ in range(2):
        assert manager.open_connection(PEERS[4], "192.0.2.4") is None
        assert manager.open_stream(PEERS[2], "inbound") is None
    manager.add_protocol_rate_limiter("/b", RateLimits(Rate(1e-6, 1)))
    for _ in range(3):
        manager.check_protocol_rate_limit("/b", PEERS[0])
    # the last one, as another connection of this task would take it over
    held.append(manager.open_connection(None, "198.51.100.1"))
    yield manager
    for each in held:
        each.close()


def column(rows: list[dict[str, Any]], *names: str) -> list[Any]:
    return [tuple(row[name] for name in names) for row in rows]


def test_peers(node: ResourceManager) -> None:
    rows = top_rows(node, "peer", 4)
    assert column(rows[:2], "peer", "connections", "streams", "denied") == [
        (peer_text(PEERS[4]), 4, 1, 2), (peer_text(PEERS[3]), 3, 1, 0)]
    # equal ones are in no order
    assert {*column(rows[2:], "peer", "connections", "streams", "denied")} == {
        (peer_text(PEERS[2]), 2, 1, 2), (peer_text(PEERS[1]), 2, 1, 0)}


def test_addresses_and_networks(node: ResourceManager) -> None:
    rows = top_rows(node, "address", 9)
    assert column(rows[:3], "address", "connections", "handshakes", "denied") == [
        ("192.0.2.4", 4, 0, 2), ("192.0.2.3", 3, 0, 0), ("192.0.2.2", 2, 0, 0)]
    assert {*column(rows[3:], "address", "connections", "handshakes")} == {
        ("192.0.2.1", 1, 0), ("2001:db8::/64", 1, 0), ("198.51.100.1", 0, 1)}
    assert column(top_rows(node, "network", 1), "network", "connections", "denied") == [
        ("192.0.2.0/24", 10, 2)]
    assert {row["network"] for row in top_rows(node, "network", 9)} == {
        "192.0.2.0/24", "198.51.100.0/24", "2001:db8::/48"}


def test_denials_of_ipv6_are_in_the_rows_of_their_networks() -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(peer_default=Limit(conns=0))))
    for last in range(2):
        assert manager.open_connection(PEERS[0], f"2001:db8::{last}") is None
    for by, place in (("address", "2001:db8::/64"), ("network", "2001:db8::/48")):
        assert column(top_rows(manager, by, 9), by, "denied") == [(place, 2)]


def test_a_peer_has_its_denials_in_order_and_those_of_a_dry_run() -> None:
    clock = Clock()
    manager = ResourceManager(NodeLimits(
        ConcreteLimits(peer_default=Limit(conns=0, streams=0)),
        dry_run=DryRun(frozenset(["connection.peer"]))), clock=clock)
    assert manager.open_stream(PEERS[0], "inbound") is None
    clock.advance(10)
    for last in range(2):
        assert manager.open_connection(PEERS[0], f"192.0.2.{last}") is not None
    view = peer_view(manager, peer_text(PEERS[0]))
    assert (view["denied"], view["would_deny"]) == (1, 2)
    assert column(view["latest_denials"], "seconds_ago", "code") == [
        (10, "stream.peer.streams"), *[(0, "connection.peer.conns")] * 2]


def test_protocols(node: ResourceManager) -> None:
    assert column(top_rows(node, "protocol", 9), "protocol", "streams", "requests", "denied") == [
        ("/a", 3, 0, 0), ("/b", 2, 1, 2)]


def test_both_directions_are_added() -> None:
    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    held: list[Any] = []
    for direction, times in (("inbound", 1), ("outbound", 2)):
        for _ in range(times):
            held.append(manager.open_connection(PEERS[0], "192.0.2.1", direction))
            stream = manager.open_stream(PEERS[0], direction)
            assert stream
            stream.set_protocol("/a")
            held.append(stream)
    clock.advance(5)
    held.append(manager.open_connection(PEERS[0], "192.0.2.1", "inbound"))
    clock.advance(2)
    assert column(top_rows(manager, "peer", 9), "connections", "streams") == [(4, 3)]
    assert column(top_rows(manager, "protocol", 9), "streams") == [(3,)]
    view = peer_view(manager, peer_text(PEERS[0]))
    assert view["protocols"] == [{"protocol": "/a", "streams": 3, "memory": 0}]
    assert sorted(each["seconds"] for each in view["connections"]) == [2.0, 7.0, 7.0, 7.0]
    used = scope_view(manager, "system")["used"]
    assert (used["conns"], used["streams"]) == (4, 3)


def test_denials_by_the_fleet_are_those_of_the_protocol() -> None:
    manager = ResourceManager(NodeLimits())
    limiter = manager.add_protocol_rate_limiter("/a", RateLimits(Rate(1.0, 9)))
    table = LeaseTable(1, 1e-3)
    table.find_again()
    limiter.fleet = FleetProtocol("/a", FleetLimits(protocols={"/a": Rate(1.0, 1)}), table, None)
    asked = [manager.check_protocol_rate_limit("/a", PEERS[0]) for _ in range(3)]
    denied = asked.count(False)
    assert denied > 0
    assert column(top_rows(manager, "protocol", 1), "requests", "denied") == [
        (3 - denied, denied)]


def test_limits(node: ResourceManager) -> None:
    rows = top_rows(node, "limit", 1)
    assert len(rows) == 1
    assert rows[0]["share"] == 1.0


def test_rows_are_json_and_bounded(node: ResourceManager) -> None:
    for by in TOP:
        assert len(json.loads(json.dumps(top_rows(node, by, 1)))) == 1
    with pytest.raises(ValueError, match=r"by must be one of peer, .*, not 'pear'; did you mean"):
        top_rows(node, "pear", 1)


def test_an_empty_node_has_no_rows() -> None:
    manager = ResourceManager(NodeLimits())
    assert [top_rows(manager, by, 5) for by in TOP] == [[]] * len(TOP)


def test_one_peer(node: ResourceManager) -> None:
    node.ban(PEERS[4], reason="too many")
    found = peer_view(node, peer_text(PEERS[4]))
    assert json.loads(json.dumps(found)) == found
    assert found["peer"] == peer_text(PEERS[4])
    assert found["ban"] == "too many"
    assert column(found["connections"], "state", "address") == [
        ("established_inbound", "192.0.2.4")] * 4
    assert found["scope"]["used"]["conns"] == found["scope"]["limits"]["conns"] == 4
    assert found["protocols"] == [{"protocol": "/b", "streams": 1, "memory": 0}]
    assert found["denied"] == len(found["latest_denials"]) == 2
    assert found["latest_denials"][0]["code"] == "connection.peer.conns"
    # a peer that the node does not know leaves no trace
    nobody = peer_view(node, peer_text(b"\x12\x20" + b"x" * 32))
    assert (nobody["connections"], nobody["ban"]) == ([], None)
    assert not any(nobody["scope"]["used"].values())
    assert nobody["scope"]["limits"]["conns"] == 4
    assert len(node.ledger.peers()) == 5
    with pytest.raises(ValueError, match=r"peer must be a peer id such as .*, not 'me'"):
        peer_view(node, "me")


@pytest.mark.parametrize(("name", "field", "used"), [
    ("system", "conns", 12), ("transient", "conns", 1), ("allowlistedSystem", "conns", 0),
    (f"peer:{peer_text(PEERS[3])}", "conns", 3), ("protocol:/a", "streams", 3),
    ("proto:/a", "streams", 3), (f"protocol:/a.peer:{peer_text(PEERS[1])}", "streams", 1),
])
def test_one_scope(node: ResourceManager, name: str, field: str, used: int) -> None:
    assert scope_view(node, name)["used"][field] == used


@pytest.mark.parametrize(("name", "text"), [
    ("systm", "unknown scope 'systm'; did you mean 'system'"),
    ("x", "unknown scope 'x'; known are system, transient"),
    ("peer:", "unknown scope 'peer:'"), ("planet:x", "unknown scope 'planet:x'"),
    ("peer:me", "nothing uses the scope 'peer:me' now"),
    ("protocol:/c", "nothing uses the scope 'protocol:/c' now"),
    ("svc:dht", "nothing uses the scope 'svc:dht' now"),
])
def test_a_wrong_scope_is_named(node: ResourceManager, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        scope_view(node, name)
