"""The manager charges scopes, networks and exempt scopes, and gives everything back."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
import trio
import trio.testing
from libp2p_values import ID
from swarm import check_nothing_held, finish

from rcmgr import (
    AddressLimitExceeded,
    AddressRates,
    Allowlist,
    ConcreteLimits,
    ConnectionLimits,
    ConnectionRateLimits,
    Limit,
    MemoryReservationExceeded,
    NodeLimits,
    Priority,
    ProcessMemoryLimits,
    Rate,
    RateLimitExceeded,
    RateLimits,
    ResourceLimits,
    ResourceManager,
    ResourceScopeClosed,
    ScopeLimitExceeded,
    StreamLimitExceeded,
    SubnetLimits,
)
from rcmgr.admission.admission import Admission
from rcmgr.admission.manager_base import ConnectionScope, ManagerBase
from rcmgr.limits.node import INFINITE_LIMITS
from rcmgr.peers import peer_from_any

PEER = ID(b"\x12\x20" + b"p" * 32)
OTHER = ID(b"\x12\x20" + b"o" * 32)
FRIEND = ID(b"\x12\x20" + b"f" * 32)
NAMES = {"id": PEER, "bytes": PEER.to_bytes(), "text": str(PEER)}


def manager_with(**scopes: Any) -> ResourceManager:
    return ResourceManager(NodeLimits(ConcreteLimits(**scopes)))


# -- limits --------------------------------------------------------------------------------------


def test_everything_of_node_limits_applies() -> None:
    manager = ResourceManager(NodeLimits(
        ConcreteLimits(system=Limit(conns=7, streams=8, memory=9 << 20)),
        ConnectionLimits(max_pending_inbound=3),
        ProcessMemoryLimits(max_percentage=0.5),
        SubnetLimits(),
        AddressRates(),
    ))
    assert manager.limits == ResourceLimits(7, 9, 8)
    assert manager.connection_limits == ConnectionLimits(max_pending_inbound=3)
    assert manager.memory_limits is not None
    assert manager.memory_limits.max_percentage == 0.5
    assert manager.addresses is not None
    assert manager.addresses.subnets is not None
    assert manager.addresses.rates is not None


def test_a_separate_argument_replaces_a_part_of_the_limits() -> None:
    limits = NodeLimits(connections=ConnectionLimits(max_pending_inbound=3))
    manager = ResourceManager(limits, connection_limits=ConnectionLimits(max_pending_outbound=1))
    assert manager.connection_limits == ConnectionLimits(max_pending_outbound=1)
    with pytest.raises(ValueError, match=r"per_ip and limits\.rates"):
        ResourceManager(
            NodeLimits(rates=AddressRates()),
            connection_rate_limits=ConnectionRateLimits(per_ip=Rate(1, 1)),
        )


def test_infinite_limits_limit_nothing() -> None:
    manager = ResourceManager(INFINITE_LIMITS)
    assert manager.addresses is None
    scopes = [manager.open_connection(None, "192.0.2.1", "inbound") for _ in range(200)]
    assert all(scopes)
    assert manager.acquire_memory(1 << 60)
    assert manager.limits.max_connections is None
    assert manager.limits.max_streams > 10**9  # the swarm wants a number


def test_resource_limits_change_only_the_totals() -> None:
    manager = manager_with(transient=Limit(conns=1), system=Limit(fd=5))
    manager.limits = ResourceLimits(max_connections=4)
    assert manager.scope_limits.system == Limit(
        conns=4, fd=5, streams=10000, memory=512 << 20)
    assert manager.scope_limits.transient == Limit(conns=1)
    with manager.ledger.transient() as transient:
        assert transient.limit["conns"] == 1
    wrong: Any = Limit()
    with pytest.raises(TypeError, match="ConcreteLimits"):
        manager.scope_limits = wrong


# -- connections ---------------------------------------------------------------------------------


def test_a_connection_moves_from_transient_to_its_peer() -> None:
    manager = manager_with(transient=Limit(conns=1))
    ledger = manager.ledger
    pending = manager.open_connection(None, "192.0.2.1", "inbound")
    assert pending is not None
    assert ledger.transient().stat().conns_inbound == ledger.system().stat().fd == 1
    assert manager.open_connection(None, "192.0.2.1", "inbound") is None
    error = manager.last_denial
    assert isinstance(error, ScopeLimitExceeded)
    assert error.scope == "transient"
    scope = manager.open_connection(PEER, "192.0.2.1", "inbound")
    assert scope is not None
    assert not any(ledger.transient().stat())
    assert ledger.peer(PEER).stat() == ledger.system().stat()
    pending.close()
    scope.close()
    check_nothing_held(manager)


def test_address_limits_apply_to_a_connection_that_was_not_pending() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),))))
    pending = manager.open_connection(None, "192.0.2.1", "inbound")
    first = manager.open_connection(PEER, "192.0.2.1", "inbound")
    assert pending is not None
    assert first is not None
    assert manager.open_connection(OTHER, "192.0.2.1", "inbound") is None
    assert isinstance(manager.last_denial, AddressLimitExceeded)
    first.close()
    second = manager.open_connection(OTHER, "192.0.2.1", "inbound")
    assert second is not None
    second.close()
    check_nothing_held(manager)
    assert manager.open_connection(OTHER, "192.0.2.1", "inbound")


def test_a_refusal_for_the_peer_leaves_nothing() -> None:
    manager = manager_with(peer_default=Limit(conns=1))
    first = manager.open_connection(PEER, None, "inbound")
    for _ in range(3):
        pending = manager.open_connection(None, None, "inbound")
        assert pending is not None
        assert manager.open_connection(PEER, None, "inbound") is None
        error = manager.last_denial
        assert isinstance(error, ScopeLimitExceeded)
        assert (error.scope, error.peer_id) == (f"peer:{PEER}", PEER)
        assert pending.closed
        pending.close()
    assert manager.ledger.system().stat().conns_inbound == 1
    assert first is not None
    first.close()
    check_nothing_held(manager)


def test_a_refusal_of_the_states_leaves_no_scope() -> None:
    manager = ResourceManager(connection_limits=ConnectionLimits(
        max_pending_inbound=0, max_established_outbound=0))
    assert manager.open_connection(None, None, "inbound") is None
    assert manager.open_connection(PEER, None, "outbound") is None
    pending = manager.open_connection(None, None, "outbound")
    assert pending is not None
    assert manager.open_connection(PEER, None, "outbound") is None
    pending.close()
    check_nothing_held(manager)
    assert manager.ledger.leaked == 0


def test_a_dropped_scope_gives_everything_back_and_is_counted() -> None:
    manager = ResourceManager(trace_allocations=True)
    manager.open_connection(None, None, "inbound")
    manager.open_connection(PEER, None, "inbound")
    gc.collect()
    check_nothing_held(manager)
    assert manager.ledger.leaked == 2
    places = manager.ledger.leaked_at
    assert len(places) == sum(places.values()) == 2
    assert all(place.startswith(__file__) for place in places)


def test_a_scope_that_was_handed_over_or_closed_is_not_leaked() -> None:
    manager = manager_with()
    pending = manager.open_connection(None, None, "inbound")
    scope = manager.open_connection(PEER, None, "inbound")
    assert scope is not None
    del pending
    gc.collect()
    assert manager.get_stats()["connections"] == 1
    scope.close()
    del scope
    gc.collect()
    assert manager.ledger.leaked == 0
    check_nothing_held(manager)


async def test_the_lifecycle_alone_charges_scopes_too() -> None:
    manager = manager_with(system=Limit(conns=1), transient=Limit(conns=1))
    lifecycle, ledger = manager.connection_lifecycle, manager.ledger
    await lifecycle.handle_pending_inbound_connection("a")
    await lifecycle.handle_pending_inbound_connection("a")  # a second report
    assert ledger.transient().stat().conns_inbound == 1
    with pytest.raises(ScopeLimitExceeded, match="transient"):
        await lifecycle.handle_pending_inbound_connection("b")
    await lifecycle.handle_established_inbound_connection("a", PEER)
    assert ledger.peer(PEER).stat().conns_inbound == 1
    with pytest.raises(ScopeLimitExceeded, match="system"):
        await lifecycle.handle_established_outbound_connection("c", OTHER)
    assert len(manager.denials) == 2
    await lifecycle.handle_connection_closed("a", PEER)
    await lifecycle.handle_pending_outbound_connection("d", OTHER)
    await lifecycle.handle_dial_failure("d", OTHER)
    check_nothing_held(manager)


async def test_reconciling_gives_scopes_back() -> None:
    manager = manager_with()
    await manager.connection_lifecycle.handle_established_inbound_connection("a", PEER)
    assert manager.connection_lifecycle.reconcile_live_connections(set(), 0.0) == 1
    check_nothing_held(manager)


# -- addresses -----------------------------------------------------------------------------------


def test_connections_of_a_network_are_limited_and_given_back() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 2),))))
    address = "192.0.2.1"
    scopes = [manager.open_connection(None, address, "inbound") for _ in range(2)]
    assert manager.open_connection(None, address, "outbound") is None
    assert manager.open_connection(None, f"::ffff:{address}", "inbound") is None
    error = manager.last_denial
    assert isinstance(error, AddressLimitExceeded)
    assert (error.network, error.limit) == ("192.0.2.1/32", 2)
    assert manager.open_connection(None, None, "inbound") is not None
    assert all(manager.open_connection(None, "0.0.0.0", "inbound") for _ in range(5))
    established = manager.open_connection(PEER, address, "inbound")
    del scopes[:]
    gc.collect()
    assert established is not None
    established.close()
    assert manager.get_stats()["denied"] == {"address_connections": 2}
    gate = manager.addresses
    assert gate is not None
    assert gate.subnets is not None
    assert len(gate.subnets) == gate.subnets.over_released == 0


@pytest.mark.parametrize("what", ["open_connection", "acquire_connection"])
def test_a_wrong_peer_keeps_no_network_share(what: str) -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),))))
    for _ in range(2):
        with pytest.raises(TypeError, match="a peer must be an ID, bytes, a str or an int"):
            getattr(manager, what)(1.5, "192.0.2.1", "inbound")
    gate = manager.addresses
    assert gate is not None
    assert gate.subnets is not None
    assert len(gate.subnets) == gate.subnets.over_released == 0
    check_nothing_held(manager)


def test_acquired_connections_are_charged_to_their_peer_by_any_name() -> None:
    manager = manager_with(system=Limit(conns=3), peer_default=Limit(conns=2))
    assert manager.acquire_connection(PEER, "192.0.2.1")
    assert manager.acquire_connection(str(PEER), "192.0.2.1")
    assert not manager.acquire_connection(PEER.to_bytes(), "192.0.2.1")
    assert manager.last_denial is not None
    assert manager.last_denial.setting.startswith("ConcreteLimits.peer_default.conns or ")
    assert manager.acquire_connection()
    assert not manager.acquire_connection(OTHER, direction="outbound")
    manager.release_connection(PEER, "192.0.2.1", "outbound")
    manager.release_connection(PEER, "192.0.2.2")
    manager.release_connection(OTHER, "192.0.2.1")
    assert manager.get_stats()["connections"] == 3
    for _ in range(3):
        manager.release_connection(PEER.to_bytes(), "192.0.2.1")
    manager.release_connection()
    check_nothing_held(manager)
    assert manager.ledger.over_released == 0
    manager.close()
    with pytest.raises(ResourceScopeClosed):
        manager.acquire_connection(PEER)


def test_an_id_in_use_keeps_no_network_share() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),))))
    lifecycle = manager.connection_lifecycle
    finish(lifecycle.handle_established_inbound_connection("x", PEER))
    for _ in range(2):
        with pytest.raises(ValueError, match="'x'"):
            finish(lifecycle.handle_pending_inbound_connection("x", None, "/ip4/1.2.3.4/tcp/1"))
    scope = manager.open_connection(None, "1.2.3.4")
    assert scope is not None
    assert manager.ledger.leaked == 0


def test_an_address_that_is_allowed_only_for_another_peer() -> None:
    manager = ResourceManager(
        ResourceLimits(max_connections=0), [f"/ip4/10.0.0.0/ipcidr/8/p2p/{FRIEND}"])
    assert not manager.acquire_connection(OTHER, "10.0.0.1")
    assert manager.open_connection(OTHER, "10.0.0.1") is None
    assert manager.acquire_connection(FRIEND, "10.0.0.1")
    assert manager.acquire_connection("", "10.0.0.1")  # its peer is not known yet


def test_an_object_without_its_constructor_admits_nothing() -> None:
    class Early(ResourceManager):
        def __init__(self) -> None:
            assert self.open_connection() is self.open_connection(PEER) is None
            assert self.accept_connection() is None
            with pytest.raises(ResourceScopeClosed):
                self.acquire_connection(PEER)
            super().__init__()

    manager = Early()
    for kind in (ManagerBase, ResourceManager):
        bare = kind.__new__(kind)
        assert bare.closed
        assert bare.open_connection() is None
        with pytest.raises(ResourceScopeClosed):
            bare.acquire_connection()
    scope = ConnectionScope.__new__(ConnectionScope)
    assert (scope.closed, scope.connection_id, scope.peer_id) == (True, None, None)
    for tracker in (None, object()):
        with pytest.raises(TypeError):
            Admission(tracker, manager.denials, ledger=manager.ledger)  # type: ignore[arg-type]
    assert manager.ledger.leaked == 0
    check_nothing_held(manager)


def test_a_connection_that_was_not_pending_counts_for_its_network() -> None:
    """The caller asks for the first time when the handshake is done."""
    limits = NodeLimits(
        ConcreteLimits(system=Limit(conns_outbound=0)), subnets=SubnetLimits(ipv4=((32, 1),)))
    manager = ResourceManager(limits)
    gate = manager.addresses
    assert gate is not None
    assert gate.subnets is not None
    for _ in range(3):
        scope = manager.open_connection(PEER, "192.0.2.1", "inbound")
        assert scope is not None
        assert manager.open_connection(OTHER, "192.0.2.1", "inbound") is None
        assert isinstance(manager.last_denial, AddressLimitExceeded)
        scope.close()
        assert manager.open_connection(PEER, "192.0.2.2", "outbound") is None
        assert len(gate.subnets) == gate.subnets.over_released == 0
    check_nothing_held(manager)


def test_a_refusal_of_scopes_or_states_keeps_no_network_share() -> None:
    limits = NodeLimits(
        ConcreteLimits(system=Limit(conns_inbound=0)), subnets=SubnetLimits(ipv4=((32, 1),)),
        connections=ConnectionLimits(max_pending_outbound=0))
    manager = ResourceManager(limits)
    for direction in ("inbound", "outbound"):
        for _ in range(3):
            assert manager.open_connection(None, "192.0.2.1", direction) is None
    assert set(manager.get_stats()["denied"]) == {
        "system inbound connection", "pending_outbound"}


async def test_a_reported_address_counts_quic_connections() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),))))
    lifecycle = manager.connection_lifecycle
    address = "/ip4/192.0.2.1/tcp/4001"
    await lifecycle.handle_established_inbound_connection("a", PEER, address, address)
    scope = manager.open_connection(PEER, None, "inbound")
    with pytest.raises(AddressLimitExceeded):
        await lifecycle.handle_established_inbound_connection("b", OTHER, address, address)
    unknown = "/ip4/0.0.0.0/tcp/0"
    for name in ("c", "d"):
        await lifecycle.handle_established_inbound_connection(name, OTHER, unknown, unknown)
    assert scope is not None
    scope.close()
    await lifecycle.handle_established_inbound_connection("e", OTHER, address, address)


def test_the_rate_of_an_address() -> None:
    manager = ResourceManager(NodeLimits(rates=AddressRates(ipv4=((24, Rate(0.001, 2)),))))
    for last in (1, 2):
        assert manager.open_connection(None, f"192.0.2.{last}", "inbound")
    assert manager.open_connection(None, "192.0.2.3", "inbound") is None
    assert isinstance(manager.last_denial, RateLimitExceeded)
    assert manager.open_connection(None, "192.0.2.3", "outbound")
    assert manager.get_stats()["denied"] == {"address_rate": 1}


def test_addresses_that_must_be_proved() -> None:
    assert not ResourceManager().verify_source_address("/ip4/192.0.2.1/udp/1")
    manager = ResourceManager(
        NodeLimits(subnets=SubnetLimits(), rates=AddressRates()), ["192.0.2.9"])
    address = "/ip4/192.0.2.1/udp/1/quic-v1"
    assert [manager.verify_source_address(address) for _ in range(5)] == [False] * 4 + [True]
    assert not any(manager.verify_source_address("192.0.2.9") for _ in range(9))


# -- the allowlist -------------------------------------------------------------------------------


@pytest.fixture
def full() -> ResourceManager:
    """No room for strangers; some for who is allowed."""
    nothing = Limit(conns=0, streams=0)
    return ResourceManager(
        NodeLimits(
            ConcreteLimits(system=nothing, transient=nothing),
            ConnectionLimits(0, 0, 0, 0, 0, 0),
            subnets=SubnetLimits(ipv4=((32, 0),)),
        ),
        allowlist=[FRIEND, "192.0.2.7", f"/ip4/192.0.2.8/p2p/{OTHER}"],
    )


def test_a_full_node_denies_strangers(full: ResourceManager) -> None:
    assert full.open_connection(None, "192.0.2.1", "inbound") is None
    assert full.open_connection(PEER, "192.0.2.1", "inbound") is None
    assert not full.acquire_stream(PEER, "inbound")
    check_nothing_held(full)


def test_a_full_node_admits_an_allowed_peer(full: ResourceManager) -> None:
    scope = full.open_connection(FRIEND, "192.0.2.1", "outbound")
    assert scope is not None
    assert full.ledger.allowlisted_system().stat().conns_outbound == 1
    assert full.acquire_stream(str(FRIEND), "inbound")
    assert full.get_stats()["streams"] == full.get_stats()["connections"] == 1
    full.remove_allowed_peer(FRIEND)
    full.release_stream(FRIEND.to_bytes(), "inbound")  # not to be lost by that
    scope.close()
    assert full.open_connection(FRIEND, None, "inbound") is None
    check_nothing_held(full)


def test_a_full_node_admits_an_allowed_address(full: ResourceManager) -> None:
    pending = full.open_connection(None, "192.0.2.7", "inbound")
    assert pending is not None
    scope = full.open_connection(PEER, "192.0.2.7", "inbound")
    assert scope is not None
    assert full.ledger.allowlisted_system().stat().conns_inbound == 1
    scope.close()
    check_nothing_held(full)


def test_an_address_allowed_for_one_peer(full: ResourceManager) -> None:
    pending = full.open_connection(None, "192.0.2.8", "inbound")
    assert pending is not None
    assert full.open_connection(PEER, "192.0.2.8", "inbound") is None
    assert pending.closed
    pending = full.open_connection(None, "192.0.2.8", "inbound")
    assert pending is not None
    scope = full.open_connection(OTHER, "192.0.2.8", "inbound")
    assert scope is not None
    scope.close()
    assert full.open_connection(OTHER, "192.0.2.9", "inbound") is None
    check_nothing_held(full)


def test_limits_apply_to_a_stranger_at_an_address_allowed_for_another_peer() -> None:
    """Its peer is known after the handshake. Then the limits on its address apply."""
    limits = SubnetLimits(ipv4=((32, 2),))
    manager = ResourceManager(
        NodeLimits(subnets=limits, rates=AddressRates(ipv4=((32, Rate(0.01, 3)),))),
        allowlist=[f"/ip4/192.0.2.8/p2p/{FRIEND}"],
    )

    def connect(peer: ID) -> Any:
        pending = manager.open_connection(None, "192.0.2.8", "inbound")
        assert pending is not None
        scope = manager.open_connection(peer, "192.0.2.8", "inbound")
        assert pending.closed
        return scope

    first, second = connect(PEER), connect(OTHER)
    assert first
    assert second
    assert connect(PEER) is None  # the third token is gone for it
    assert isinstance(manager.last_denial, AddressLimitExceeded)
    first.close()
    assert connect(PEER) is None
    assert isinstance(manager.last_denial, RateLimitExceeded)
    friends = [connect(FRIEND) for _ in range(5)]
    assert all(friends)
    assert manager.ledger.leaked == 0
    for scope in (second, *friends):
        scope.close()
    check_nothing_held(manager)
    gate = manager.addresses
    assert gate is not None
    assert gate.subnets is not None
    assert len(gate.subnets) == gate.subnets.over_released == 0


async def test_limits_apply_to_a_reported_stranger_at_such_an_address() -> None:
    manager = ResourceManager(
        NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),))),
        allowlist=[f"/ip4/192.0.2.8/p2p/{FRIEND}"],
    )
    lifecycle, address = manager.connection_lifecycle, "/ip4/192.0.2.8/udp/1/quic-v1"
    for name in ("a", "b"):
        await lifecycle.handle_pending_inbound_connection(name, remote_addr=address)
    await lifecycle.handle_established_inbound_connection("a", PEER, remote_addr=address)
    with pytest.raises(AddressLimitExceeded):
        await lifecycle.handle_established_inbound_connection("b", PEER, remote_addr=address)
    assert manager.connection_tracker.snapshot().pending_inbound == 0
    await lifecycle.handle_connection_closed("a", PEER)
    check_nothing_held(manager)
    gate = manager.addresses
    assert gate is not None
    assert gate.subnets is not None
    assert len(gate.subnets) == 0


def test_address_limits_apply_when_the_peer_is_known_at_once() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),))))
    scope = manager.open_connection(PEER, "192.0.2.1", "inbound")
    assert scope is not None
    assert manager.open_connection(OTHER, "192.0.2.1", "inbound") is None
    assert isinstance(manager.last_denial, AddressLimitExceeded)
    scope.close()
    # a connection with an unknown address before its handshake, then one that a limit refuses
    pending = manager.open_connection(None, None, "inbound")
    scope = manager.open_connection(PEER, "192.0.2.1", "inbound")
    assert scope is not None
    assert manager.open_connection(OTHER, "192.0.2.1", "inbound") is None
    scope.close()
    assert pending is not None
    manager.connection_limits = ConnectionLimits(max_established_total=0)
    assert manager.open_connection(PEER, "192.0.2.1", "inbound") is None
    manager.connection_limits = ConnectionLimits()
    scope = manager.open_connection(PEER, "192.0.2.1", "inbound")
    assert scope is not None
    scope.close()
    check_nothing_held(manager)


@pytest.mark.parametrize("entry", ["192.0.2.7", f"/ip4/192.0.2.7/p2p/{PEER}", "192.0.2.0/24"])
def test_streams_over_a_connection_from_an_allowed_address(
    full: ResourceManager, entry: str
) -> None:
    full.allowlist.add(entry)
    assert not full.acquire_stream(PEER, "inbound")
    scope = full.open_connection(PEER, "192.0.2.7", "inbound")
    assert scope is not None
    limiter = full.add_protocol_rate_limiter("/x", RateLimits(default=Rate(0.001, 1)))
    assert all(limiter.check_peer_rate_limit(PEER) for _ in range(5))
    assert full.acquire_stream(str(PEER), "inbound")
    stream = full.open_stream(PEER, "inbound")
    assert stream is not None
    assert stream.allowlisted
    assert full.ledger.allowlisted_system().stat().streams_inbound == 2
    scope.close()
    assert full.open_stream(PEER, "inbound") is None
    assert not full.acquire_stream(PEER, "inbound")
    full.release_stream(PEER, "inbound")
    stream.close()
    check_nothing_held(full)


def test_the_allowlist_is_edited_at_run_time(full: ResourceManager) -> None:
    assert full.open_connection(None, "10.1.2.3", "inbound") is None
    full.allowlist.add("/ip4/10.0.0.0/ipcidr/8")
    assert full.open_connection(None, "10.1.2.3", "inbound")
    full.allowlist.remove("/ip4/10.0.0.0/ipcidr/8")
    assert full.open_connection(None, "10.1.2.3", "inbound") is None


def test_one_allowlist_for_several_managers() -> None:
    allowlist = Allowlist([FRIEND])
    managers = [
        ResourceManager(ResourceLimits(max_connections=0), allowlist) for _ in range(2)]
    assert all(manager.open_connection(FRIEND) for manager in managers)
    allowlist.add(PEER)
    assert all(manager.open_connection(PEER) for manager in managers)
    assert all(PEER in manager.connection_tracker.bypass_peers for manager in managers)


def test_an_exempt_connection_takes_no_room_of_strangers() -> None:
    manager = ResourceManager(ResourceLimits(max_connections=1), [FRIEND])
    friend = manager.open_connection(FRIEND)
    assert friend is not None
    assert manager.open_connection(PEER) is not None


# -- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", NAMES.values(), ids=list(NAMES))
@pytest.mark.parametrize("given", NAMES.values(), ids=list(NAMES))
def test_one_peer_by_every_name(taken: Any, given: Any) -> None:
    manager = manager_with(peer_default=Limit(streams=1))
    assert manager.acquire_stream(taken, "inbound")
    assert not manager.acquire_stream(given, "inbound")
    assert manager.ledger.peers() == [PEER.to_bytes()]
    manager.release_stream(given, "inbound")
    check_nothing_held(manager)
    assert manager.ledger.over_released == 0


def test_more_peers_named_by_text_than_are_remembered() -> None:
    """A peer in use stays known, and above some number more peers take no more memory."""
    manager = manager_with(peer_default=Limit(streams=1))
    assert manager.acquire_stream(str(PEER), "inbound")

    def look_up(numbers: range) -> int:
        for number in numbers:
            peer_from_any(f"Qm{number:044}")  # 0 is no digit of base58: this is quick
            if number % 10_000 == 0:
                assert not manager.acquire_stream(str(PEER), "inbound")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = look_up(range(140_000))
        assert look_up(range(140_000, 140_000 + 2 * 16_384)) - before < 100_000
    finally:
        tracemalloc.stop()
    manager.release_stream(str(PEER), "inbound")
    check_nothing_held(manager)


def test_text_that_is_no_peer_id_is_itself() -> None:
    for text in ("friend", "Qm" + "0" * 44, "12D3Koo" + "l" * 45, "x" * 60, ""):
        assert peer_from_any(text) is text


def test_the_scope_of_a_stream() -> None:
    manager = manager_with(transient=Limit(streams=1), protocol={"/a": Limit(streams=1)})
    stream = manager.open_stream(str(PEER), "outbound")
    assert stream is not None
    assert manager.open_stream(PEER, "inbound") is None
    assert isinstance(manager.last_denial, StreamLimitExceeded)
    stream.set_protocol("/a")
    assert manager.ledger.protocol("/a").stat().streams_outbound == 1
    stream.close()
    check_nothing_held(manager)
    manager.close()
    with pytest.raises(ResourceScopeClosed):
        manager.open_stream(PEER, "inbound")


@pytest.mark.parametrize(("setter", "kept", "refused"), [
    ("set_service_stream_limit", OTHER, "service:s"),
    ("set_service_peer_stream_limit", PEER, f"service:s.peer:{PEER}"),
    ("set_protocol_stream_limit", OTHER, "protocol:/p"),
    ("set_protocol_peer_stream_limit", PEER, f"protocol:/p.peer:{PEER}"),
])
def test_scoped_streams(setter: str, kept: ID, refused: str) -> None:
    """libp2p 0.8.1's methods; `kept`: whose second stream is refused."""
    manager = manager_with()
    name = "s" if "service" in setter else "/p"
    getattr(manager, setter)(name, 1)
    arguments: Any = {"service": "s", "protocol": "/p"}
    assert manager.acquire_scoped_stream(str(PEER), "inbound", **arguments)
    assert not manager.acquire_scoped_stream(str(kept), "inbound", **arguments)
    error = manager.last_denial
    assert isinstance(error, StreamLimitExceeded)
    assert error.scope == refused
    assert manager.get_stats()["streams"] == 1
    if kept is PEER:  # another one has room
        assert manager.acquire_scoped_stream(OTHER, "inbound", **arguments)
        manager.release_scoped_stream(OTHER, "inbound", **arguments)
    manager.release_scoped_stream(PEER, "inbound", service="s")  # not this one
    assert manager.get_stats()["streams"] == 1
    manager.release_scoped_stream(PEER, "inbound", **arguments)
    check_nothing_held(manager)
    assert manager.acquire_scoped_stream(PEER, "inbound", **arguments)
    manager.release_scoped_stream(PEER, "inbound", **arguments)
    for wrong, error_type in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error_type):
            getattr(manager, setter)(name, wrong)


def test_scoped_streams_of_a_service_or_a_protocol_or_neither() -> None:
    manager = manager_with()
    for arguments in ({"service": "s"}, {"protocol": "/p"}, {}):
        each: Any = arguments
        assert manager.acquire_scoped_stream(PEER, "outbound", **each)
    assert manager.ledger.service("s").stat().streams_outbound == 1
    assert manager.ledger.protocol("/p").stat().streams_outbound == 1
    assert manager.get_stats()["streams"] == 3
    for arguments in ({"service": "s"}, {"protocol": "/p"}, {}):
        each = arguments
        manager.release_scoped_stream(PEER, "outbound", **each)
    check_nothing_held(manager)


def test_a_bad_name_takes_no_stream() -> None:
    manager = manager_with()
    wrong: Any = 7
    with pytest.raises(TypeError, match="protocol"):
        manager.acquire_scoped_stream(PEER, "inbound", protocol=wrong)
    check_nothing_held(manager)


# -- memory, and the end ---------------------------------------------------------------------------


def test_memory_by_priority() -> None:
    manager = ResourceManager(ResourceLimits(max_memory_mb=1))
    assert not manager.acquire_memory(1 << 19, Priority.LOW)
    error = manager.last_denial
    assert isinstance(error, MemoryReservationExceeded)
    assert (error.priority, error.limit) == (Priority.LOW, 1 << 20)
    assert manager.acquire_memory(1 << 19, Priority.MEDIUM)
    with pytest.raises(ValueError, match="priority"):
        manager.acquire_memory(1, 256)
    manager.release_memory(1 << 19)
    check_nothing_held(manager)


def test_memory_of_a_connection_counts_for_the_node() -> None:
    manager = ResourceManager(ResourceLimits(max_memory_mb=1))
    stream = manager.open_stream(PEER, "inbound")
    assert stream is not None
    stream.reserve_memory(1 << 20)
    assert not manager.acquire_memory(1)
    manager.release_memory(5)  # not another's
    assert manager.get_stats()["memory_bytes"] == 1 << 20
    stream.close()
    assert manager.acquire_memory(1)


def test_closing_forgets_all() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits()))
    scope = manager.open_connection(None, "192.0.2.1", "inbound")
    manager.acquire_stream(PEER, "inbound")
    manager.acquire_memory(7)
    manager.acquire_scoped_stream(PEER, "inbound", protocol="/p")
    manager.close()
    check_nothing_held(manager)
    assert scope is not None
    scope.close()
    manager.release_stream(PEER, "inbound")
    manager.release_memory(7)
    manager.release_scoped_stream(PEER, "inbound", protocol="/p")
    manager.close()
    assert manager.open_connection(None, None, "inbound") is None
    check_nothing_held(manager)


async def test_reserved_memory_outlives_a_host() -> None:
    manager = ResourceManager(ResourceLimits(max_memory_mb=1))
    manager.acquire_memory(1 << 19)
    manager.open_connection(PEER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.graceful_degradation.run_periodic_recovery)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert manager.get_stats()["connections"] == 0
    assert manager.get_stats()["memory_bytes"] == 1 << 19
    assert not manager.acquire_memory((1 << 19) + 1)
    # also where limits set meanwhile would not allow it any more
    manager.limits = ResourceLimits(max_memory_mb=0)
    manager._forget_connections()
    assert manager.get_stats()["memory_bytes"] == 1 << 19
    manager.release_memory(1 << 19)
    check_nothing_held(manager)
    assert manager.ledger.over_released == 0


def test_the_place_where_a_leaked_stream_was_opened() -> None:
    manager = ResourceManager(trace_allocations=True)
    manager.open_stream(PEER, "inbound")
    gc.collect()
    assert manager.get_stats()["leaked"] == 1
    [(place, times)] = manager.ledger.leaked_at.items()
    assert times == 1
    assert place.startswith(__file__)
    assert place.endswith("in test_the_place_where_a_leaked_stream_was_opened")
