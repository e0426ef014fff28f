"""All limits of a manager as one tree: read whole, set whole, and part by part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from limit_values import NODES
from threads import in_threads, rounds

from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLimits,
    ConnectionRateLimits,
    Limit,
    MemoryConnectionLimits,
    MemoryStatsCache,
    NodeLimits,
    PeerRates,
    ProcessMemoryLimits,
    Rate,
    ResourceLimits,
    ResourceManager,
    SubnetLimits,
)

SLOW = Rate(0.001, 2)
ODD = NodeLimits(
    ConcreteLimits(
        Limit(streams=None, conns=7, memory=5 * 2**20 + 1), protocol={"/x": Limit(streams=3)}),
    ConnectionLimits(max_pending_inbound=5),
    ProcessMemoryLimits(2**40, 0.9, 0.8, 0.1, 50.0),
    SubnetLimits(ipv4=((24, 7),), overrides={"10.0.0.0/8": None}),
    AddressRates(ipv4=((32, SLOW), (24, Rate(5, 50)))),
    PeerRates(Rate(1, 9), 77, "deny_new"),
)
SIMPLE_RATES = replace(
    ODD, rates=AddressRates(((32, SLOW),), ((64, SLOW),), {}, None, 77, "deny_new"))
TREES = [NodeLimits(), ODD, SIMPLE_RATES, replace(ODD, peer_rates=None), NodeLimits.default()]
PARTS = [
    "node_limits", "limits", "scope_limits", "connection_limits", "connection_rate_limits",
    "memory_limits",
]


@settings(max_examples=40)
@given(NODES, NODES)
def test_any_limits_are_read_back_whole(first: NodeLimits, second: NodeLimits) -> None:
    manager = ResourceManager(first)
    assert manager.node_limits == first
    manager.node_limits = second
    assert manager.node_limits == second


@pytest.mark.parametrize("limits", TREES)
@pytest.mark.parametrize("part", PARTS)
def test_to_write_what_was_read_changes_nothing(part: str, limits: NodeLimits) -> None:
    manager = ResourceManager(limits)
    setattr(manager, part, getattr(manager, part))
    assert manager.node_limits == limits


@settings(max_examples=30)
@given(NODES)
def test_no_part_of_any_limits_loses_anything(limits: NodeLimits) -> None:
    manager = ResourceManager(limits)
    for part in PARTS:
        setattr(manager, part, getattr(manager, part))
    memory = limits.memory
    manager.set_memory_limits(memory.max_bytes, memory.max_percentage)
    assert manager.node_limits == limits


@pytest.mark.parametrize("kind", ["service", "service_peer", "protocol", "protocol_peer"])
def test_stream_limits_write_one_limit_of_one_scope(kind: str) -> None:
    entry = Limit(streams=3, memory=9)
    node = NodeLimits(ConcreteLimits(**{kind: {"x": entry}}, **{f"{kind}_default": Limit(fd=1)}))
    manager = ResourceManager(node)
    set_limit = getattr(manager, f"set_{kind}_stream_limit")
    set_limit("x", 3)
    assert manager.node_limits == node
    set_limit("x", 4)
    set_limit("y", 5)
    assert getattr(manager.node_limits.scopes, kind) == {
        "x": Limit(streams=4, memory=9), "y": Limit(streams=5, fd=1)}


def test_parts_write_into_the_tree() -> None:
    manager = ResourceManager(NodeLimits())
    manager.limits = ResourceLimits(7, 3, 8)
    manager.connection_limits = ConnectionLimits(max_pending_inbound=4)
    manager.connection_rate_limits = ConnectionRateLimits(SLOW, Rate(1, 9), 77, "deny_new")
    manager.set_memory_limits(max_percentage=0.5)
    assert manager.node_limits == NodeLimits(
        ConcreteLimits(Limit(conns=7, memory=3 << 20, streams=8)),
        ConnectionLimits(max_pending_inbound=4), ProcessMemoryLimits(max_percentage=0.5),
        rates=SIMPLE_RATES.rates, peer_rates=ODD.peer_rates,
    )
    manager.limits = ResourceLimits(None, None, 9)
    assert manager.node_limits.scopes == ConcreteLimits(Limit(streams=9))
    manager.connection_rate_limits = ConnectionRateLimits(per_ip=AddressRates())
    assert (manager.node_limits.rates, manager.node_limits.peer_rates) == (AddressRates(), None)


def test_what_is_changed_at_a_part_shows_in_the_tree() -> None:
    manager = ResourceManager(ODD)
    manager.connection_lifecycle.limits = ConnectionLimits(max_pending_inbound=6)
    assert manager.node_limits.connections == ConnectionLimits(max_pending_inbound=6)


def test_threads_that_write_different_parts_lose_nothing() -> None:
    manager = ResourceManager(NodeLimits())
    turns = rounds(500)
    values: dict[str, list[Any]] = {
        "connection_limits": [ConnectionLimits(max_pending_inbound=n) for n in range(turns)],
        "connection_rate_limits": [
            ConnectionRateLimits(per_peer=Rate(1, n)) for n in range(1, turns + 1)],
        "memory_limits": [MemoryConnectionLimits(2**40 + n) for n in range(turns)],
        "scope_limits": [
            ConcreteLimits(protocol={"/x": Limit(streams=n)}) for n in range(turns)],
    }
    parts = list(values.items())

    def write(number: int) -> None:
        part, written = parts[number]
        for value in written:
            setattr(manager, part, value)
            assert getattr(manager, part) == value

    in_threads(write, len(parts))
    for part, written in values.items():
        assert getattr(manager, part) == written[-1]


def test_a_part_that_does_not_change_stays() -> None:
    manager = ResourceManager(
        ODD, memory_limits=MemoryConnectionLimits(5, cache=MemoryStatsCache(probe=lambda: 1)))
    memory, rates = manager.memory_limits, manager._admission.peer_rates
    manager.node_limits = replace(manager.node_limits, connections=ConnectionLimits())
    assert manager.memory_limits is memory
    assert manager._admission.peer_rates is rates


def test_other_memory_limits_keep_their_sources() -> None:
    cache = MemoryStatsCache(probe=lambda: 100)
    manager = ResourceManager(
        NodeLimits(), memory_limits=MemoryConnectionLimits(200, hysteresis=0, cache=cache))
    assert manager.open_connection(None) is not None
    manager.node_limits = NodeLimits(memory=ProcessMemoryLimits(max_bytes=99))
    assert manager.open_connection(None) is None


def test_connections_stay_counted_when_subnets_change() -> None:
    def two(bits: int) -> NodeLimits:
        return NodeLimits(subnets=SubnetLimits(ipv4=((bits, 2),)))

    manager = ResourceManager(two(32))
    held: list[Any] = []

    def comes(last: int) -> bool:
        held.append(manager.open_connection(b"p", f"192.0.2.{last}"))
        return held[-1] is not None

    assert [comes(1), comes(1), comes(2)] == [True] * 3
    manager.node_limits = two(24)
    assert not comes(3)
    for scope in held[:2]:
        scope.close()
    assert comes(3)
    assert not comes(3)
    manager.node_limits = NodeLimits()
    assert manager.addresses is None
    assert comes(3)
    manager.node_limits = two(24)
    assert not comes(4)


def test_a_peer_rate_that_changes_keeps_its_count_of_denials() -> None:
    manager = ResourceManager(NodeLimits(peer_rates=PeerRates(SLOW)))
    held = [manager.open_connection(b"p") for _ in range(3)]
    assert [scope is None for scope in held] == [False, False, True]
    manager.node_limits = NodeLimits(rates=AddressRates(), peer_rates=PeerRates(SLOW))
    assert manager.open_connection(b"p") is None  # the same rate: the bucket is still empty
    manager.node_limits = NodeLimits(peer_rates=PeerRates(Rate(0.001, 1)))
    assert [manager.open_connection(b"p") is None for _ in range(2)] == [False, True]
    assert manager.get_stats()["denied"] == {"connection_rate_per_peer": 3}
    manager.node_limits = NodeLimits()
    assert manager.open_connection(b"p") is not None
    assert manager.get_stats()["denied"] == {"connection_rate_per_peer": 3}


@pytest.mark.parametrize("wrong", [None, 5, ResourceLimits(), ConcreteLimits()])
def test_what_is_no_node_limits_changes_nothing(wrong: Any) -> None:
    manager = ResourceManager(ODD)
    with pytest.raises(TypeError, match="node_limits must be a"):
        manager.node_limits = wrong
    with pytest.raises(TypeError, match="scopes must be a ConcreteLimits, not 5"):
        manager.scope_limits = 5  # type: ignore[assignment]
    with pytest.raises(TypeError, match="connection_rate_limits must be a Conn"):
        manager.connection_rate_limits = 5  # type: ignore[assignment]
    assert manager.node_limits == ODD


def test_limits_are_refused_whole() -> None:
    manager = ResourceManager(ODD)

    def refuse(limits: ConcreteLimits) -> ConcreteLimits:
        if limits != ODD.scopes:
            raise ValueError("not these")
        return limits

    undo = manager._adjust_limits(refuse)
    with pytest.raises(ValueError, match="not these"):
        manager.node_limits = NodeLimits()
    assert manager.node_limits == ODD
    assert manager.ledger.system().limit["conns"] == 7
    undo()
    manager.node_limits = NodeLimits()
    assert manager.node_limits == NodeLimits()


def test_dials_take_nothing_from_the_rate_of_a_peer() -> None:
    manager = ResourceManager(NodeLimits(peer_rates=PeerRates(Rate(0.001, 1))))
    dials = [manager.open_connection(b"peer", direction="outbound") for _ in range(3)]
    assert None not in dials
    inbound = [manager.open_connection(b"peer") for _ in range(2)]
    assert [each is not None for each in inbound] == [True, False]
