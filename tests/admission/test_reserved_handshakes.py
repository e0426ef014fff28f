"""A peer on the allowlist gets into a full node: its id is unknown before the handshake."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from swarm import check_nothing_held, counts, finish

from rcmgr import (
    AddressLimitExceeded,
    AddressRates,
    Allowlist,
    ConcreteLimits,
    ConnectionLifecycleManager,
    ConnectionLimits,
    ConnectionTracker,
    Limit,
    MemoryConnectionLimits,
    MemoryStatsCache,
    NodeLimits,
    Rate,
    ResourceLimitExceeded,
    ResourceManager,
    SubnetLimits,
)

FRIEND, STRANGER = b"friend", b"stranger"
ADDRESS = "192.0.2.1"
ENTRIES: dict[str, Any] = {
    "id": [FRIEND],
    "id at address": [f"/ip4/{ADDRESS}/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"],
}
RESERVED = 16

FULL: dict[str, NodeLimits] = {
    "system": NodeLimits(ConcreteLimits(system=Limit(conns=0))),
    "system, one direction": NodeLimits(
        ConcreteLimits(system=Limit(conns_inbound=0, conns_outbound=0))),
    "descriptors": NodeLimits(ConcreteLimits(system=Limit(fd=0))),
    "transient": NodeLimits(ConcreteLimits(transient=Limit(conns=0))),
    "pending": NodeLimits(
        connections=ConnectionLimits(max_pending_inbound=0, max_pending_outbound=0)),
    "established": NodeLimits(
        connections=ConnectionLimits(max_established_inbound=0, max_established_outbound=0)),
    "total": NodeLimits(connections=ConnectionLimits(max_established_total=0)),
    "everything": NodeLimits(
        ConcreteLimits(system=Limit(), transient=Limit()), ConnectionLimits(0, 0, 0, 0, 0, 0)),
}
"""Nodes that admit no stranger, by the limit that is full."""
DIRECTIONS = ("inbound", "outbound")


def friend_of(entries: Any) -> Any:
    allowlist = Allowlist(entries)
    peers = {peer for allowed in allowlist.networks.values() for peer in allowed}
    return next(iter(peers | set(allowlist.allowed_peers)))


@pytest.fixture(params=ENTRIES)
def entries(request: pytest.FixtureRequest) -> Any:
    return ENTRIES[request.param]


@pytest.fixture(params=FULL)
def full(request: pytest.FixtureRequest, entries: Any) -> ResourceManager:
    return ResourceManager(FULL[request.param], entries)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_friend_gets_into_a_full_node(
    full: ResourceManager, entries: Any, direction: str
) -> None:
    pending = full.open_connection(None, ADDRESS, direction)
    assert pending is not None
    scope = full.open_connection(friend_of(entries), ADDRESS, direction)
    assert scope is not None
    assert pending.closed
    assert full.connection_tracker.snapshot().bypassed == 1
    assert full.ledger.allowlisted_system().stat() != full.ledger.system().stat() == (0,) * 6
    assert full.denied_by_limit() == {}
    assert list(full.denials) == []
    scope.close()
    check_nothing_held(full)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_stranger_does_not(full: ResourceManager, direction: str) -> None:
    """It is refused once it is known, by the limit that is full."""
    pending = full.open_connection(None, ADDRESS, direction)
    assert pending is not None
    assert full.open_connection(STRANGER, ADDRESS, direction) is None
    assert sum(full.denied_by_limit().values()) == len(full.denials) == 1
    pending.close()
    check_nothing_held(full)


async def test_reports_to_the_lifecycle_manager(full: ResourceManager, entries: Any) -> None:
    lifecycle, address = full.connection_lifecycle, f"/ip4/{ADDRESS}/tcp/1"
    for name, peer in (("a", STRANGER), ("b", friend_of(entries))):
        await lifecycle.handle_pending_inbound_connection(name, remote_addr=address)
        with suppress(ResourceLimitExceeded):
            await lifecycle.handle_established_inbound_connection(name, peer, None, address)
    assert list(full.connection_tracker.established_inbound) == ["b"]
    assert len(full.denials) == 1
    await lifecycle.handle_connection_closed("b")
    check_nothing_held(full)


def test_an_accepted_socket(full: ResourceManager) -> None:
    scope = full.accept_connection(ADDRESS)
    assert scope is not None
    scope.close()
    check_nothing_held(full)


@pytest.mark.parametrize("full", sorted(set(FULL) - {"established", "total"}), indirect=True)
def test_the_reserve_is_bounded(full: ResourceManager) -> None:
    for direction in DIRECTIONS:
        held = [full.open_connection(None, ADDRESS, direction) for _ in range(RESERVED + 3)]
        assert all(held[:RESERVED])
        assert held[RESERVED:] == [None] * 3
        assert sum(full.denied_by_limit().values()) == len(full.denials)
        for scope in held[:RESERVED]:
            assert scope is not None
            scope.close()
    check_nothing_held(full)


def test_known_strangers_and_friends_leave_the_reserve(entries: Any) -> None:
    full = ResourceManager(FULL["everything"], entries)
    kept = []
    for peer in [STRANGER, friend_of(entries)] * 2 * RESERVED:
        kept.append(full.open_connection(None, ADDRESS))
        kept.append(full.open_connection(peer, ADDRESS))
    assert [scope is not None for scope in kept] == [True, False, True, True] * 2 * RESERVED


def test_a_stranger_keeps_no_place_that_the_limit_on_handshakes_refused() -> None:
    """Although the established states have room."""
    for name in ("pending", "transient"):
        full = ResourceManager(FULL[name], [FRIEND])
        pending = full.open_connection(None)
        assert pending is not None
        assert full.open_connection(STRANGER) is None
        check_nothing_held(full)


def test_a_stranger_may_stay_if_there_is_room_by_then(full: ResourceManager) -> None:
    pending = full.open_connection(None, ADDRESS)
    full.node_limits = NodeLimits()
    scope = full.open_connection(STRANGER, ADDRESS)
    assert pending is not None
    assert scope is not None
    assert full.connection_tracker.snapshot().bypassed == 0
    assert full.ledger.system().stat().conns_inbound == 1
    assert not any(full.ledger.transient().stat())
    scope.close()
    check_nothing_held(full)


def test_a_node_with_room_reserves_nothing(entries: Any) -> None:
    manager = ResourceManager(
        NodeLimits(connections=ConnectionLimits(max_pending_inbound=1)), entries)
    first = manager.open_connection(None, ADDRESS)
    assert manager.connection_tracker.snapshot().bypassed == 0
    assert manager.ledger.system().stat().conns_inbound == 1
    second = manager.open_connection(None, ADDRESS)
    assert manager.connection_tracker.snapshot().bypassed == 1
    assert first
    assert second


@pytest.mark.parametrize("allowlist", [(), ["203.0.113.0/24"], ["203.0.113.9"]])
def test_no_reserve_where_nobody_can_turn_out_to_be_a_friend(allowlist: Any) -> None:
    full = ResourceManager(FULL["everything"], allowlist)
    assert full.open_connection(None, ADDRESS) is None
    assert counts(full) == (0, 0, 0, 0)


def test_no_reserve_at_another_address() -> None:
    full = ResourceManager(FULL["everything"], ENTRIES["id at address"])
    assert full.open_connection(None, "192.0.2.2") is None
    assert full.open_connection(None, None) is None


def test_an_allowed_address_needs_no_reserve() -> None:
    full = ResourceManager(FULL["everything"], [ADDRESS, FRIEND])
    held = [full.open_connection(None, ADDRESS) for _ in range(3 * RESERVED)]
    assert all(held)


def test_limits_on_addresses_have_no_reserve() -> None:
    """A friend with an address limit needs an entry with its address."""
    for limits in (
        NodeLimits(subnets=SubnetLimits(ipv4=((32, 0),))),
        NodeLimits(rates=AddressRates(ipv4=((32, Rate(0.001, 1)),))),
    ):
        manager = ResourceManager(limits, [FRIEND])
        opened = [manager.open_connection(None, ADDRESS) for _ in range(2)]
        assert opened[1] is None
        with_address = ResourceManager(limits, ENTRIES["id at address"])
        opened = [with_address.open_connection(None, ADDRESS) for _ in range(2)]
        assert all(opened)


def test_memory_of_the_process_has_no_reserve() -> None:
    full = ResourceManager(
        allowlist=[FRIEND],
        memory_limits=MemoryConnectionLimits(1, cache=MemoryStatsCache(probe=lambda: 10)))
    assert full.open_connection(None, ADDRESS) is None


def test_the_first_refusal_is_the_one_that_is_reported() -> None:
    """The allowlisted scopes are full too."""
    limits = replace(FULL["system"].scopes, allowlisted_system=Limit(conns=1))
    manager = ResourceManager(NodeLimits(limits), [FRIEND])
    first = manager.open_connection(None)
    assert first is not None
    assert manager.open_connection(None) is None
    assert manager.denied_by_limit() == {"system connection": 1}


def test_a_lifecycle_manager_without_an_allowlist() -> None:
    """Only a bypass: as in rust-libp2p, it counts once the peer is known."""
    lifecycle = ConnectionLifecycleManager(
        ConnectionTracker(), ConnectionLimits(max_pending_inbound=0))
    lifecycle.tracker.add_bypass_peer(FRIEND)
    with pytest.raises(ResourceLimitExceeded):
        finish(lifecycle.handle_pending_inbound_connection("a"))


def test_the_address_limit_of_a_stranger_at_a_friends_address() -> None:
    manager = ResourceManager(
        NodeLimits(subnets=SubnetLimits(ipv4=((32, 0),))), ENTRIES["id at address"])
    pending = manager.open_connection(None, ADDRESS)
    assert pending is not None
    assert manager.open_connection(STRANGER, ADDRESS) is None
    assert isinstance(manager.last_denial, AddressLimitExceeded)
