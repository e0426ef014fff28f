"""A dry run counts and reports what each limit would refuse, and refuses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLimits,
    ConnectionRateLimits,
    DryRun,
    Eviction,
    FleetLimits,
    FleetPlaces,
    Limit,
    MemoryConnectionLimits,
    NodeLimits,
    PenaltyBox,
    Rate,
    RateLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.counting.leases import FleetGate, LeaseTable, PlaceTable
from rcmgr.gates.fleet import FleetNetworks, FleetProtocol, FleetRefusal
from rcmgr.limits import codes
from rcmgr.metrics import MetricsCollector
from rcmgr.report.status import status_of

PEER = b"\x12\x20" + bytes(range(32))
OTHER = b"\x12\x20" + bytes(range(1, 33))
ADDRESS = "192.0.2.7"
SELDOM = Rate(1e-6, 1)

NO_LIMITS = ConcreteLimits()
# the field with the limits of each kind of scope
DEFAULTS = {
    scope: f"{scope}_default" if hasattr(NO_LIMITS, f"{scope}_default") else scope
    for scope in codes.SCOPES
}
# a stream is no connection, and a connection has no streams
NEVER_ASKED = {
    codes.scope_code(scope, resource)
    for scope in codes.SCOPES for resource in codes.RESOURCES
    if (scope == "conn" and resource.startswith("streams"))
    or (scope in ("stream", "service", "protocol", "service_peer", "protocol_peer")
        and resource.startswith(("conns", "fd")))
}


@dataclass
class Case:
    """A manager whose next request is above the limit of `code`."""

    code: str
    make: Callable[[], ResourceManager]
    ask: Callable[[ResourceManager], Any]
    """An answer that is false if the limit refuses. It may have a method `close`."""
    before: Callable[[ResourceManager], list[Any]] = field(default=lambda manager: [])
    """Requests within the limits, and what they hold."""

    def __str__(self) -> str:
        return self.code


def scope_case(scope: str, resource: str) -> Case:
    limits = ConcreteLimits(**{DEFAULTS[scope]: Limit(**{resource: 0})})  # type: ignore[arg-type]
    inbound, allowed = not resource.endswith("outbound"), scope.startswith("allowlisted")

    def ask(manager: ResourceManager) -> Any:
        ledger = manager.ledger
        if resource.startswith(("conns", "fd")):
            if scope != "peer":
                return ledger.try_open_connection(inbound, allowlisted=allowed)
            held = ledger.open_connection(inbound)
            return held.try_set_peer(PEER) and held
        if resource == "memory":
            held = memory_holder(ledger, scope)
            return held.try_reserve_memory(1) and held
        held = ledger.try_open_stream(PEER, inbound, allowlisted=allowed)
        if held and scope.startswith(("protocol", "service")):
            answer = held.try_set_protocol("/a")
            if answer and scope.startswith("service"):
                answer = held.try_set_service("a")
            return answer and held
        return held

    return Case(
        codes.scope_code(scope, resource), lambda: ResourceManager(NodeLimits(limits)), ask)


def memory_holder(ledger: Any, scope: str) -> Any:
    arguments = {"service": ["a"], "protocol": ["/a"], "peer": [PEER],
                 "service_peer": ["a", PEER], "protocol_peer": ["/a", PEER]}
    if scope == "conn":
        return ledger.open_connection()
    if scope == "stream":
        return ledger.open_stream(PEER)
    return getattr(ledger, scope)(*arguments.get(scope, []))


def state_case(kind: str) -> Case:
    limits = ConnectionLimits(**{f"max_{kind}": 0})
    direction = "outbound" if kind.endswith("outbound") else "inbound"
    peer = None if kind.startswith("pending") else PEER
    return Case(
        f"connection.{kind}", lambda: ResourceManager(NodeLimits(connections=limits)),
        lambda manager: manager.open_connection(peer, None, direction))


def all_connections() -> ResourceManager:
    manager = ResourceManager(NodeLimits())
    manager.connection_tracker.max_connections = 0
    return manager


def with_protocol(**rates: Any) -> Callable[[], ResourceManager]:
    def make() -> ResourceManager:
        manager = ResourceManager(NodeLimits())
        networks = rates.get("networks")
        manager.add_protocol_rate_limiter(
            "/a", RateLimits(rates.get("default"), overall=rates.get("overall")),
            networks=networks)
        return manager
    return make


def ask_protocol(manager: ResourceManager) -> Any:
    return manager.check_protocol_rate_limit("/a", PEER, "request", ADDRESS)


def banned() -> ResourceManager:
    manager = ResourceManager(NodeLimits())
    manager.ban(PEER)
    return manager


def with_peer(manager: ResourceManager) -> Any:
    return manager.open_connection(PEER, ADDRESS)


def with_address(manager: ResourceManager) -> Any:
    return manager.open_connection(None, ADDRESS)


def with_fleet(limit: str, table: str, **tables: Any) -> Callable[[], ResourceManager]:
    """A manager under these tables of a fleet, whose engine answers."""
    def make() -> ResourceManager:
        manager = ResourceManager(NodeLimits())
        made = {name: new() for name, new in tables.items()}
        for each in made.values():
            each.find_again()
        manager._admission.fleet = FleetGate(**made, refusals={
            table: FleetRefusal(limit, "all", 1, Rate(1.0, 1), lambda peer: 1.0)})
        return manager
    return make


def with_fleet_networks(rate: bool) -> Callable[[], ResourceManager]:
    def make() -> ResourceManager:
        manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=())))
        table: Any = one_lease() if rate else PlaceTable(1)
        table.find_again()
        assert manager.addresses is not None
        manager.addresses._fleet = FleetNetworks(
            OF_FLEET, table if rate else None, None if rate else table, lambda key: 1)
        return manager
    return make


def with_fleet_protocol(overall: bool) -> Callable[[], ResourceManager]:
    def make() -> ResourceManager:
        manager = ResourceManager(NodeLimits())
        table = one_lease()
        table.find_again()
        limiter = manager.add_protocol_rate_limiter("/a", RateLimits(None))
        limiter.fleet = FleetProtocol(
            "/a", OF_FLEET, table if overall else None, None if overall else table)
        return manager
    return make


OF_FLEET = FleetLimits(
    network_rate=Rate(1.0, 1), protocols={"/a": Rate(1.0, 1)}, protocol_peers={"/a": Rate(1.0, 1)},
    network=FleetPlaces(1))


def one_lease() -> LeaseTable:
    return LeaseTable(1, 1e-3)


def ask_stream(manager: ResourceManager) -> Any:
    return manager.open_stream(PEER, "inbound")


CASES = [
    *(scope_case(scope, resource) for scope in codes.SCOPES for resource in codes.RESOURCES
      if codes.scope_code(scope, resource) not in NEVER_ASKED),
    *(state_case(name.removeprefix("max_")) for name in ConnectionLimits().to_dict()),
    Case("connection.connections", all_connections, with_peer),
    Case("connection.address",
         lambda: ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 0),)))), with_address),
    Case("connection.address", lambda: ResourceManager(NodeLimits(subnets=SubnetLimits())),
         lambda manager: manager.open_connection(None, "no/address")),
    Case("rate.address",
         lambda: ResourceManager(NodeLimits(rates=AddressRates(ipv4=((32, SELDOM),)))),
         with_address, lambda manager: [with_address(manager)]),
    Case("rate.peer",
         lambda: ResourceManager(
             NodeLimits(), connection_rate_limits=ConnectionRateLimits(per_peer=SELDOM)),
         with_peer, lambda manager: [with_peer(manager)]),
    Case("rate.protocol", with_protocol(default=SELDOM), ask_protocol,
         lambda manager: [ask_protocol(manager)]),
    Case("rate.protocol", with_protocol(overall=SELDOM), ask_protocol,
         lambda manager: [ask_protocol(manager)]),
    Case("rate.protocol", with_protocol(
        default=Rate(1000.0, 1000), networks=AddressRates(ipv4=((32, SELDOM),))), ask_protocol,
         lambda manager: [ask_protocol(manager)]),
    Case("connection.banned", banned, with_peer),
    Case("memory.process",
         lambda: ResourceManager(NodeLimits(), memory_limits=MemoryConnectionLimits(max_bytes=1)),
         with_peer),
    Case("memory.process",
         lambda: ResourceManager(NodeLimits(), memory_limits=MemoryConnectionLimits(max_bytes=1)),
         lambda manager: manager.acquire_memory(1)),
    Case("fleet.rate", with_fleet("rate", "rate", rate=one_lease), with_address,
         lambda manager: [with_address(manager)]),
    Case("fleet.peer_rate", with_fleet("peer_rate", "peer_rate", peer_rate=one_lease), with_peer,
         lambda manager: [with_peer(manager)]),
    Case("fleet.peer.connections", with_fleet(
        "peer.connections", "peer_connections", peer_connections=lambda: PlaceTable(1)), with_peer,
         lambda manager: [with_peer(manager)]),
    Case("fleet.peer.streams", with_fleet(
        "peer.streams", "peer_streams", peer_streams=lambda: PlaceTable(1)), ask_stream,
         lambda manager: [ask_stream(manager)]),
    Case("fleet.network_rate", with_fleet_networks(True), with_address,
         lambda manager: [with_address(manager)]),
    Case("fleet.network.connections", with_fleet_networks(False), with_address),
    Case("fleet.protocols", with_fleet_protocol(True), ask_protocol,
         lambda manager: [ask_protocol(manager)]),
    Case("fleet.protocol_peers", with_fleet_protocol(False), ask_protocol,
         lambda manager: [ask_protocol(manager)]),
]


def test_each_limit_has_a_case() -> None:
    # eviction has its own tests below
    assert {case.code for case in CASES} == codes.ALL - NEVER_ASKED - {"connection.evicted"}


def held_by(manager: ResourceManager) -> list[Any]:
    ledger = manager.ledger
    return [
        len(manager.connection_tracker), *ledger.system().stat(),
        *ledger.allowlisted_system().stat(), *ledger.transient().stat(),
        *ledger.allowlisted_transient().stat()]


def close(held: Any) -> None:
    if hasattr(held, "close"):
        held.close()


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


def replace_dry_run(manager: ResourceManager, dry_run: DryRun) -> NodeLimits:
    return replace(manager.node_limits, dry_run=dry_run)


@pytest.mark.parametrize("names", ["all", "own"])
def test_a_limit_in_a_dry_run_reports_and_refuses_nothing(case: Case, names: str) -> None:
    manager = case.make()
    dry_run = DryRun(frozenset(["all" if names == "all" else case.code]))
    manager.node_limits = replace_dry_run(manager, dry_run)
    before = case.before(manager)
    assert all(before)
    held = case.ask(manager)
    assert held
    assert manager.would_deny.by_code() == {case.code: 1}
    assert manager.would_deny.total == 1
    error = manager.would_deny.last
    assert error is not None
    assert error.code == case.code
    assert not error.enforced
    assert str(error).startswith("Dry run, would refuse: ")
    assert error.to_dict()["enforced"] is False
    # nothing was refused, and no counter says so
    assert manager.denials.total == 0
    assert manager.denied_by_limit() == {}
    assert manager.get_stats()["would_deny"] == {case.code: 1}
    # the excess is counted, and given back once
    close(held)
    close(held)
    for each in before:
        close(each)
    assert not any(held_by(manager)[:-1]) or case.code.startswith("memory.")
    assert manager.ledger.over_released == manager.ledger.leaked == 0


def test_other_limits_refuse_meanwhile(case: Case) -> None:
    manager = case.make()
    others = codes.ALL - {case.code}
    manager.node_limits = replace_dry_run(manager, DryRun(others))
    kept = case.before(manager)
    held = held_by(manager)
    assert not case.ask(manager)
    assert all(kept)
    assert manager.would_deny.total == 0
    # a peer's connection of the ledger, or a stream, is the caller's to close
    assert held_by(manager)[0] == held[0]


def test_a_state_limit_refuses_beside_one_that_only_reports() -> None:
    manager = ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_established_inbound=1, max_established_total=2),
        dry_run=DryRun(frozenset(["connection.established_inbound"])),
        eviction=Eviction(enabled=False)))
    kept = [manager.open_connection(b"%d" % number, None, "inbound") for number in range(2)]
    assert all(kept)
    assert manager.would_deny.by_code() == {"connection.established_inbound": 1}
    assert not manager.open_connection(b"2", None, "inbound")
    assert manager.denied_by_limit() == {"established_total": 1}
    assert manager.connection_tracker.snapshot().peak_established_inbound == 2


@pytest.mark.parametrize(("dry", "refusing", "wide", "narrow"), [
    ("stream.system.streams", "peer", 1, 2),
    ("stream.peer.streams", "system", 2, 1),
])
def test_a_scope_refuses_beside_one_that_only_reports(
    dry: str, refusing: str, wide: int, narrow: int
) -> None:
    manager = ResourceManager(NodeLimits(
        ConcreteLimits(system=Limit(streams=wide), peer_default=Limit(streams=narrow)),
        dry_run=DryRun(frozenset([dry]))))
    kept = [manager.open_stream(PEER, "inbound") for _ in range(2)]
    assert all(kept)
    assert manager.would_deny.by_code() == {dry: 1}
    assert not manager.open_stream(PEER, "inbound")
    assert manager.ledger.refused == {refusing: {"stream": 1}}
    assert manager.ledger.system().stat()[1] == 2


def test_enforcement_begins_while_use_is_above_a_limit(case: Case) -> None:
    manager = case.make()
    manager.enforce = False
    before = case.before(manager)
    above = [case.ask(manager) for _ in range(3)]
    assert all(above)
    use = held_by(manager)
    manager.enforce = True
    assert held_by(manager) == use
    assert not case.ask(manager)
    assert manager.would_deny.total == 3
    for each in (*before, *above):
        close(each)
        close(each)
    assert manager.ledger.over_released == 0
    assert manager.ledger.system().stat()[1:] == (0, 0, 0, 0, 0)


def test_a_dry_run_of_one_of_two_full_limits_reports_what_the_other_refuses_once() -> None:
    limits = ConcreteLimits(system=Limit(conns=0), transient=Limit(conns=0))
    manager = ResourceManager(NodeLimits(limits, dry_run=DryRun(frozenset(["connection.system"]))))
    assert manager.open_connection() is None
    assert manager.denied_by_limit() == {"transient connection": 1}
    assert manager.would_deny.total == 0
    manager.enforce = False
    assert manager.open_connection() is not None
    assert manager.would_deny.by_code() == {"connection.transient.conns": 1}


def test_use_above_a_limit_is_counted_and_refused_once_enforced_until_it_has_fallen() -> None:
    manager = ResourceManager(connection_limits=ConnectionLimits(max_pending_inbound=2),
                              enforce=False)
    held = [manager.open_connection() for _ in range(5)]
    assert manager.connection_tracker.get_connection_count("pending_inbound") == 5
    manager.enforce = True
    for each in held[:3]:
        assert manager.open_connection() is None
        each.close()
    assert manager.open_connection() is None
    held[3].close()
    assert manager.open_connection() is not None


# -- spans and other limits of single handles ------------------------------------------------------


def test_the_limit_of_a_span_only_reports() -> None:
    manager = ResourceManager(NodeLimits(), enforce=False)
    conn = manager.ledger.open_connection()
    span = conn.begin_span()
    span.set_limit(Limit(memory=10))
    span.reserve_memory(25)
    assert manager.would_deny.total == 1
    assert conn.stat().memory == span.stat().memory == 25
    manager.enforce = True
    assert not span.try_reserve_memory(1)
    span.close()
    assert conn.stat().memory == manager.ledger.system().stat().memory == 0


def test_streams_that_are_only_counted() -> None:
    manager = ResourceManager(
        NodeLimits(ConcreteLimits(peer_default=Limit(streams_inbound=1))), enforce=False)
    assert [manager.acquire_stream(PEER, "inbound") for _ in range(3)] == [True] * 3
    assert manager.would_deny.by_code() == {"stream.peer.streams_inbound": 2}
    assert manager.would_deny.most_denied() == [(PEER, 2)]
    for _ in range(3):
        manager.release_stream(PEER, "inbound")
    assert manager.get_stats()["streams"] == 0
    assert manager.ledger.over_released == 0


def test_a_stream_of_a_service() -> None:
    manager = ResourceManager(
        NodeLimits(ConcreteLimits(service_default=Limit(streams=0))), enforce=False)
    assert manager.acquire_scoped_stream(PEER, "inbound", "dht", "/kad")
    assert manager.would_deny.by_code() == {"stream.service.streams": 1}
    manager.release_scoped_stream(PEER, "inbound", "dht", "/kad")
    assert manager.get_stats()["streams"] == 0


# -- bans ------------------------------------------------------------------------------------------


def offender_of(dry_run: DryRun) -> ResourceManager:
    manager = ResourceManager(NodeLimits(
        rates=AddressRates(ipv4=((32, SELDOM),)),
        penalties=PenaltyBox(threshold=2, address_decay=1e-3, peer_decay=1e-3), dry_run=dry_run))
    for _ in range(4):
        manager.open_connection(None, ADDRESS)
    return manager


def test_a_limit_that_refuses_nothing_bans_nobody_where_bans_refuse() -> None:
    manager = offender_of(DryRun(frozenset(["rate"])))
    assert manager.would_deny.total == 3
    assert manager.bans() == []


def test_bans_of_a_dry_run_are_shown_refuse_nothing_and_end_with_it() -> None:
    manager = offender_of(DryRun(frozenset(["all"])))
    manager.ban(PEER)
    assert [ban.by for ban in manager.bans()] == ["penalty box", "operator"]
    assert manager.refused_by_ban == 0
    manager.enforce = True
    assert [ban.by for ban in manager.bans()] == ["operator"]
    assert manager.open_connection(PEER) is None
    assert manager.refused_by_ban == 1


# -- room ------------------------------------------------------------------------------------------


class Closer:
    """A host that can end any connection."""

    most_inbound = most_total = None

    def __init__(self) -> None:
        self.ended: list[Any] = []
        self.held: list[Any] = []

    def find(self, record: Any) -> Any:
        return record

    def end(self, found: Any) -> None:
        self.ended.append(found)


def full_node(dry_run: DryRun, **more: Any) -> tuple[ResourceManager, Closer]:
    manager = ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_established_inbound=8),
        eviction=Eviction(grace_s=0.001, turn_s=0.001), dry_run=dry_run, **more))
    closer = Closer()
    manager._admission.room.add_host(closer)
    for number in range(24):
        if number == 8:
            time.sleep(0.02)  # then the first ones are old enough to be evicted
        peer = b"\x12\x20" + bytes([number]) * 32
        closer.held.append(manager.open_connection(peer, f"192.{number}.2.1"))
    return manager, closer


def test_a_full_node_evicts_without_a_dry_run() -> None:
    manager, closer = full_node(DryRun())
    assert closer.ended
    assert manager.would_deny.total == 0


@pytest.mark.parametrize("name", ["all", "connection"])
def test_a_full_node_evicts_nothing_in_a_dry_run(name: str) -> None:
    manager, closer = full_node(DryRun(frozenset([name])))
    assert closer.ended == []
    assert manager.connection_tracker.get_connection_count("established_inbound") == 24
    assert manager.would_deny.by_code() == {"connection.established_inbound": 16}
    assert manager.evictions()["enabled"] is False
    assert manager.evictions()["would_make_room"] == 16
    assert "the node would have evicted" in manager.explain()


def test_without_a_host_a_dry_run_would_make_no_room() -> None:
    manager = ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_established_inbound=1),
        dry_run=DryRun(frozenset(["all"]))))
    kept = [manager.open_connection(b"%d" % number, f"192.{number}.2.1") for number in range(3)]
    assert all(kept)
    assert manager.would_deny.total == 2
    assert manager.evictions()["would_make_room"] == 0


def test_a_limit_that_only_reports_evicts_nothing() -> None:
    manager, closer = full_node(DryRun(frozenset(["connection.established_inbound"])))
    assert closer.ended == []
    assert manager.evictions()["enabled"] is True
    assert manager.would_deny.total == 16


def test_a_node_whose_evictions_only_report_refuses_at_its_limit() -> None:
    manager, closer = full_node(DryRun(frozenset(["connection.evicted"])))
    assert closer.ended == []
    assert manager.denied_by_limit() == {"established_inbound": 16}


def test_a_handshake_finds_a_place_above_limits_that_only_report() -> None:
    manager = ResourceManager(NodeLimits(
        ConcreteLimits(transient=Limit(conns=1), system=Limit(conns=1)),
        connections=ConnectionLimits(max_pending_inbound=1)), enforce=False)
    held = manager.open_connection(None, ADDRESS)
    assert held
    assert manager._admission.has_place_for_handshake(ADDRESS)
    assert manager._admission.scope_refusing_handshake(True) is None
    manager.enforce = True
    assert not manager._admission.has_place_for_handshake(ADDRESS)
    assert manager._admission.scope_refusing_handshake(True) is not None


async def test_nothing_waits_for_room_in_a_dry_run() -> None:
    manager = ResourceManager(
        NodeLimits(connections=ConnectionLimits(max_pending_outbound=0)), enforce=False)
    await manager.wait_for_room(timeout=0)
    async with manager.dial_slot(timeout=0):
        pass
    assert manager.would_deny.total == 1


def test_no_peer_proves_its_address_in_a_dry_run() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),))))
    assert manager.verify_source_address(ADDRESS)
    manager.enforce = False
    assert not manager.verify_source_address(ADDRESS)


# -- what is said, and how it is set ---------------------------------------------------------------


def test_reports_say_plainly_that_nothing_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    manager = ResourceManager(
        NodeLimits(connections=ConnectionLimits(max_pending_inbound=0)), enforce=False)
    assert manager.open_connection(None, ADDRESS)
    text = manager.explain()
    assert text.startswith("Dry run: no limit refuses anything.\nWould refuse since the start: 1")
    assert "1 would be refused by connection.pending_inbound, most from 192.0.2.7" in caplog.text
    status = status_of(manager)["dry_run"]
    assert status["is_whole"]
    assert status["would_deny"]["by_limit"] == {"connection.pending_inbound": 1}
    assert status["would_deny"]["by_address"] == [{"address": ADDRESS, "times": 1}]
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager))
    value = registry.get_sample_value
    assert value("rcmgr_would_deny_total", {"code": "connection.pending_inbound"}) == 1
    assert value("rcmgr_dry_run_limits") == len(codes.ALL)
    assert value("rcmgr_denials_total", {"limit": "pending_inbound"}) == 0
    manager.node_limits = NodeLimits(dry_run=DryRun(frozenset(["rate", "memory.process"])))
    assert manager.enforce
    assert "these limits refuse nothing: memory.process, rate." in manager.explain()


def test_enforcement_is_one_word() -> None:
    manager = ResourceManager(enforce=False)
    assert not manager.enforce
    assert not manager.node_limits.dry_run.limits ^ {"all"}
    manager.enforce = True
    assert manager.node_limits.dry_run == DryRun()
    with pytest.raises(TypeError, match="enforce must be True or False, not 'no'"):
        manager.enforce = "no"  # type: ignore[assignment]
    manager.limits = manager.limits
    assert manager.enforce


def test_other_limits_may_change_during_a_dry_run() -> None:
    manager = ResourceManager(enforce=False)
    manager.connection_limits = ConnectionLimits(max_pending_inbound=0)
    manager.scope_limits = ConcreteLimits(system=Limit(conns=0))
    assert manager.open_connection()
    assert manager.would_deny.total == 1
    assert not manager.enforce
