"""The one order in which a connection is decided on, and what a refusal leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from swarm import check_nothing_held, counts, finish

from rcmgr import (
    AddressLimitExceeded,
    AddressRates,
    ConcreteLimits,
    ConnectionLimitExceeded,
    ConnectionLimits,
    ConnectionRateLimits,
    Limit,
    MemoryConnectionLimits,
    MemoryStatsCache,
    MemoryUsageLimitExceeded,
    NodeLimits,
    Rate,
    RateLimitExceeded,
    ResourceLimitExceeded,
    ResourceManager,
    ScopeLimitExceeded,
    SubnetLimits,
)
from rcmgr.counting.leases import FleetGate, LeaseTable, PlaceTable
from rcmgr.gates.bans import ban_subject
from rcmgr.gates.fleet import FleetRefusal

PEER, OTHER = b"peer", b"other"
ADDRESS = "192.0.2.1"

ERRORS: dict[str, type[ResourceLimitExceeded]] = {
    "memory": MemoryUsageLimitExceeded,
    "address": AddressLimitExceeded,
    "rate": RateLimitExceeded,
    "scopes": ScopeLimitExceeded,
    "states": ConnectionLimitExceeded,
}
"""The steps in their order, and the error of each."""


def open_pending(manager: ResourceManager) -> bool:
    return manager.open_connection(None, ADDRESS) is not None


def accept(manager: ResourceManager) -> bool:
    return manager.accept_connection(ADDRESS) is not None


def open_established(manager: ResourceManager) -> bool:
    return manager.open_connection(PEER, ADDRESS) is not None


def acquire(manager: ResourceManager) -> bool:
    return manager.acquire_connection(PEER, ADDRESS)


def report_pending(manager: ResourceManager) -> bool:
    return reported(manager.connection_lifecycle.handle_pending_inbound_connection(
        "c", None, f"/ip4/{ADDRESS}/tcp/1"))


def report_established(manager: ResourceManager) -> bool:
    return reported(manager.connection_lifecycle.handle_established_inbound_connection(
        "c", PEER, None, f"/ip4/{ADDRESS}/tcp/1"))


def reported(call: Any) -> bool:
    try:
        finish(call)
    except ResourceLimitExceeded:
        return False
    return True


Call = Callable[[ResourceManager], bool]
CALLS: dict[Call, tuple[str, ...]] = {
    open_pending: ("memory", "address", "scopes", "states"),
    accept: ("memory", "address", "scopes", "states"),
    open_established: ("memory", "address", "rate", "scopes", "states"),
    acquire: ("memory", "address", "rate", "scopes"),
    report_pending: ("memory", "address", "scopes", "states"),
    # the swarm opens a scope for it too, and that call asks the other steps
    report_established: ("address", "scopes", "states"),
}
"""The steps of each call."""


def refusing(*steps: str, allowlist: Any = ()) -> ResourceManager:
    """A manager whose limits of these steps are reached, and whose other limits are not."""
    connections = Limit(conns=0 if "scopes" in steps else 9)
    manager = ResourceManager(
        NodeLimits(
            ConcreteLimits(system=connections, peer_default=connections),
            ConnectionLimits(*[0 if "states" in steps else 9] * 6),
            subnets=SubnetLimits(ipv4=((32, 0 if "address" in steps else 9),)),
        ),
        allowlist,
        connection_rate_limits=ConnectionRateLimits(per_peer=Rate(0.001, 1)),
        memory_limits=MemoryConnectionLimits(
            1 if "memory" in steps else 100, cache=MemoryStatsCache(probe=lambda: 10)),
    )
    if "rate" in steps:
        spend_rate(manager)
    return manager


def spend_rate(manager: ResourceManager) -> None:
    peer_rates = manager._admission.peer_rates
    assert peer_rates is not None
    assert peer_rates.try_consume(PEER)


def check_no_network_share(manager: ResourceManager) -> None:
    gate = manager.addresses
    assert gate is not None
    assert gate.subnets is not None
    assert len(gate.subnets) == gate.subnets.over_released == 0


@pytest.mark.parametrize("call", CALLS)
def test_the_first_step_that_refuses_decides(call: Call) -> None:
    """And it gives back what earlier steps took."""
    steps = CALLS[call]
    for position, step in enumerate(steps):
        manager = refusing(*steps[position:])
        assert not call(manager)
        assert [type(error) for error in manager.denials] == [ERRORS[step]]
        check_nothing_held(manager)
        check_no_network_share(manager)
        assert manager.ledger.leaked == 0


@pytest.mark.parametrize("call", CALLS)
def test_a_call_asks_only_its_steps(call: Call) -> None:
    others = [step for step in ERRORS if step not in CALLS[call]]
    assert call(refusing(*others))


@pytest.mark.parametrize("call", CALLS)
def test_the_allowlist_comes_first(call: Call) -> None:
    manager = refusing(*ERRORS, allowlist=[ADDRESS])
    # as in go-libp2p, the limit of a single peer applies to exempt connections too
    manager.scope_limits = replace(manager.scope_limits, peer_default=Limit())
    assert call(manager)
    assert len(manager.denials) == 0


@pytest.mark.parametrize("step", ["address", "rate", "scopes", "states"])
def test_a_refusal_after_the_handshake_ends_the_pending_connection(step: str) -> None:
    manager = refusing()
    # without an address, so that the next call asks about it
    pending = manager.open_connection(None)
    assert pending is not None
    if step == "rate":
        spend_rate(manager)
    else:
        manager.node_limits = refusing(step).node_limits
    assert manager.open_connection(PEER, ADDRESS) is None
    assert type(manager.last_denial) is ERRORS[step]
    assert pending.closed
    check_nothing_held(manager)
    check_no_network_share(manager)


@pytest.mark.parametrize("step", ["memory", "rate"])
def test_a_reported_connection_is_asked_the_other_steps_with_its_scope(step: str) -> None:
    manager = refusing(step)
    assert report_established(manager)
    assert manager.open_connection(PEER) is None
    assert type(manager.last_denial) is ERRORS[step]
    check_nothing_held(manager)
    check_no_network_share(manager)


def test_a_spent_rate_gives_the_address_back() -> None:
    """The address is asked before the peer, and its limit has room again at once."""
    manager = ResourceManager(
        NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),)), rates=AddressRates()),
        connection_rate_limits=ConnectionRateLimits(per_peer=Rate(0.001, 1)),
    )
    first = manager.open_connection(PEER, ADDRESS)
    assert first is not None
    first.close()
    for _ in range(3):
        assert manager.open_connection(PEER, ADDRESS) is None
        assert isinstance(manager.last_denial, RateLimitExceeded)
    assert manager.open_connection(OTHER, ADDRESS) is not None


class Peer:
    """A peer id of another library, whose bytes fail after some reads."""

    def __init__(self, reads: int) -> None:
        self.reads = reads

    @property
    def _bytes(self) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise OSError("lost")
        return PEER


@pytest.mark.parametrize("with_pending", [False, True])
def test_an_error_in_the_middle_leaves_nothing(with_pending: bool) -> None:
    for reads in range(50):
        manager = refusing()
        pending = manager.open_connection(None) if with_pending else None
        peer = Peer(reads)
        try:
            scope = manager.open_connection(peer, ADDRESS)
        except OSError:
            if pending is not None:
                pending.close()
            check_nothing_held(manager)
            check_no_network_share(manager)
            assert manager.ledger.leaked == 0
            continue
        assert scope is not None
        assert reads > 0
        peer.reads = 100
        return
    raise AssertionError("it never succeeds")


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
def test_an_id_that_the_swarm_uses_again(direction: str) -> None:
    """Ids are addresses of objects. The swarm never reported the end of the one before."""
    manager = ResourceManager()

    def report(direction: str, peer: bytes) -> None:
        lifecycle = manager.connection_lifecycle
        finish(getattr(lifecycle, f"handle_established_{direction}_connection")("1", peer))

    def one(direction: str) -> tuple[int, ...]:
        return (0, 0, 1, 0) if direction == "inbound" else (0, 0, 0, 1)

    opposite = "outbound" if direction == "inbound" else "inbound"
    report(direction, PEER)
    lost = manager.connection_tracker.get_connection("1")
    report(direction, OTHER)
    report(direction, OTHER)
    assert lost is not None
    assert lost.state == "closed"
    assert counts(manager) == one(direction)
    assert dict(manager.connection_tracker.established_per_peer) == {OTHER: {"1"}}
    assert manager.get_stats()["connections"] == 1
    scope = manager.open_connection(OTHER, None, direction)
    assert scope is not None
    assert counts(manager) == one(direction)
    report(opposite, OTHER)
    assert scope.closed
    assert counts(manager) == one(opposite)
    manager.connection_lifecycle.notify_connection_closed("1", OTHER)
    check_nothing_held(manager)


def test_none_is_no_direction_before_and_after_others() -> None:
    manager = ResourceManager()
    for _ in range(2):
        with pytest.raises(ValueError, match="direction must be 'inbound'"):
            manager.open_connection(None, None, None)
        manager.open_connection(None, None, "outbound")


def test_a_reported_newcomer_is_new_for_the_soft_mark_of_memory() -> None:
    """A swarm reports a QUIC connection before it opens its scope."""
    used = [10]
    manager = ResourceManager(NodeLimits(), memory_limits=MemoryConnectionLimits(
        100, deny_new_peers_above=0.5, cache=MemoryStatsCache(0.0, probe=lambda: used[0])))
    known = manager.open_connection(b"known", None, "inbound")
    assert manager._admission.report_established("first", b"known", True, None)
    used[0] = 60
    assert manager._admission.report_established("one more", b"known", True, None)
    second = manager.open_connection(b"known", None, "inbound")
    assert known is not None
    assert second is not None
    assert second.connection_id == "one more"
    assert manager._admission.report_established("newcomer", b"new", True, None)
    assert manager.open_connection(b"new", None, "inbound") is None
    assert manager.denials.last.code == "memory.process"
    assert manager.connection_tracker.get_connection("newcomer") is None


def test_a_slowed_address_is_asked_once_for_each_connection() -> None:
    manager = ResourceManager()
    manager._bans.add(
        ban_subject("192.0.2.1"), 60, "", "penalty box", 1, slows=True)
    pending = manager.open_connection(None, "192.0.2.1", "inbound")
    established = manager.open_connection(b"peer", "192.0.2.1", "inbound")
    assert pending is not None
    assert established is not None
    assert manager.open_connection(None, "192.0.2.1", "inbound") is None


@pytest.mark.parametrize(("quic", "descriptors"), [(True, 0), (False, 1)])
def test_a_dial_over_quic_gives_its_descriptor_back(quic: bool, descriptors: int) -> None:
    """All QUIC connections share one socket. The swarm reports them before it opens a scope."""
    manager = ResourceManager()
    kept: list[Any] = [manager.open_connection(None, ADDRESS, "outbound")]
    assert manager.ledger.system().stat().fd == 1
    if not quic:
        kept.append(manager.open_connection(PEER, ADDRESS, "outbound"))
    assert manager._admission.report_established("id", PEER, False, ADDRESS)
    if quic:
        kept.append(manager.open_connection(PEER, ADDRESS, "outbound"))
    assert all(kept)
    assert manager.ledger.system().stat().fd == descriptors
    kept[-1].close()
    assert manager.ledger.system().stat().fd == 0


@pytest.mark.parametrize("inbound", [True, False])
def test_a_connection_that_begins_established_has_no_descriptor(inbound: bool) -> None:
    """QUIC connections are not pending first, as all others are."""
    manager = ResourceManager()
    assert manager._admission.report_established("id", PEER, inbound, ADDRESS)
    kept = manager.open_connection(OTHER, ADDRESS, "inbound" if inbound else "outbound")
    assert kept is not None
    assert manager.ledger.system().stat().fd == 0
    assert manager.acquire_connection(b"counted", ADDRESS, "inbound")
    assert manager.ledger.system().stat().fd == 1


def test_the_text_of_a_number_names_a_connection_of_a_manager() -> None:
    """The manager keeps a number. Every call takes its text for it, and another id for another."""
    manager = ResourceManager()
    tracker = manager.connection_tracker
    first, second = manager.open_connection(b"one"), manager.open_connection(None)
    assert first is not None
    assert second is not None
    assert (first.connection_id, second.connection_id) == ("conn-1", "conn-2")
    assert tracker.get_connection("conn-1") is first.record
    assert tracker.established_inbound == {"conn-1"}
    assert tracker.established_per_peer[b"one"] == {"conn-1"}
    for other in ("conn-01", "conn-3", "conn-", "conn-1 ", "conn-" + "1" * 30, 3, "bonn-1"):
        assert other not in tracker
    with pytest.raises(ValueError, match="'conn-1' is in use: 'conn-2' cannot have it"):
        tracker.rename(second.record, "conn-1")
    assert tracker.rename(first.record, "swarm's")
    assert first.connection_id == "swarm's"
    assert "conn-1" not in tracker
    assert "swarm's" in tracker
    assert tracker.rename(first.record, "conn-9")
    assert "swarm's" not in tracker
    assert first.connection_id == "conn-9"
    assert tracker.remove_connection("conn-2")
    assert tracker.remove_connection("conn-9")
    assert (second.closed, second.connection_id, len(tracker)) == (True, "conn-2", 0)
    check_nothing_held(manager)


def with_fleet(**tables: Any) -> ResourceManager:
    """A manager under these tables, whose engine answers."""
    manager = ResourceManager()
    for table in tables.values():
        table.find_again()
    manager._admission.fleet = FleetGate(**tables, refusals={
        name: FleetRefusal(name, "all", 1) for name in tables})
    return manager


def test_the_fleet_is_asked_about_inbound_connections_once() -> None:
    rate = LeaseTable(3, 1e-3)
    manager = with_fleet(rate=rate)
    assert open_pending(manager)
    held = [manager.open_connection(None, ADDRESS), manager.open_connection(PEER, ADDRESS)]
    assert all(held)
    assert rate.portion("") == 3 - 2  # the established one was pending before
    assert all(manager.open_connection(PEER, None, "outbound") for _ in range(5))
    assert open_established(manager)
    assert not open_established(manager)
    assert manager.last_denial is not None
    assert manager.last_denial.code == "fleet.rate"
    manager.add_allowed_peer(PEER)
    assert open_established(manager)


def test_the_fleet_is_asked_about_a_peer_once_it_is_known() -> None:
    manager = with_fleet(peer_connections=PlaceTable(2), peer_rate=LeaseTable(3, 1e-3))
    assert open_pending(manager)
    held = [manager.open_connection(PEER, ADDRESS) for _ in range(3)]
    assert [each is not None for each in held] == [True, True, False]
    assert manager.last_denial is not None
    assert manager.last_denial.code == "fleet.peer_connections"
    held.clear()
    assert open_established(manager)
    assert not open_established(manager)
    assert manager.last_denial.code == "fleet.peer_rate"
    assert acquire(with_fleet(peer_rate=LeaseTable(1, 1.0)))


def test_the_fleet_is_asked_about_streams_of_peers() -> None:
    manager = with_fleet(peer_streams=PlaceTable(2))
    assert [manager.acquire_stream(PEER, "inbound") for _ in range(3)] == [True, True, False]
    assert manager.open_stream(PEER, "inbound") is None
    assert manager.acquire_stream(PEER, "outbound")
    assert manager.acquire_stream(OTHER, "inbound")
    assert manager.ledger.inbound_streams_of(PEER) == 2
    assert manager.ledger.inbound_streams_of(b"unknown") == 0
    assert manager.last_denial is not None
    assert manager.last_denial.code == "fleet.peer_streams"
