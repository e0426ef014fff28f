"""A node in numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLimits,
    ConnectionRateLimits,
    Limit,
    MemoryConnectionLimits,
    MemoryStatsCache,
    NodeLimits,
    Rate,
    RateLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.report.stats import blocked_resources, denied_by_limit, stats_of, total_held

PEER = b"\x12\x20" + b"p" * 32
FULL = MemoryConnectionLimits(max_bytes=1, cache=MemoryStatsCache(probe=lambda: 2))


def request_twice(manager: ResourceManager) -> None:
    manager.add_protocol_rate_limiter("/a", RateLimits(default=Rate(0.001, 1)))
    for _ in range(2):
        manager.check_protocol_rate_limit("/a", PEER)


@pytest.mark.parametrize(("limit", "limits", "options", "ask"), [
    ("established_inbound", NodeLimits(connections=ConnectionLimits(max_established_inbound=0)),
     {}, lambda manager: manager.open_connection(PEER)),
    ("system stream", NodeLimits(ConcreteLimits(system=Limit(streams=0))),
     {}, lambda manager: manager.acquire_stream(PEER, "inbound")),
    ("memory_usage", NodeLimits(),
     {"memory_limits": FULL}, lambda manager: manager.acquire_memory(1)),
    ("address_connections", NodeLimits(subnets=SubnetLimits(ipv4=((32, 0),))),
     {}, lambda manager: manager.open_connection(None, "192.0.2.1")),
    ("address_rate", NodeLimits(rates=AddressRates(ipv4=((32, Rate(0.001, 1)),))), {},
     lambda manager: [manager.open_connection(None, "192.0.2.1") for _ in range(2)]),
    ("connection_rate_per_peer", NodeLimits(),
     {"connection_rate_limits": ConnectionRateLimits(per_peer=Rate(0.001, 1))},
     lambda manager: [manager.open_connection(PEER) for _ in range(2)]),
    ("protocol_rate", NodeLimits(), {}, request_twice),
], ids=lambda value: value if isinstance(value, str) else "")
def test_each_kind_of_limit_counts_its_denials(
    limit: str, limits: NodeLimits, options: dict[str, Any],
    ask: Callable[[ResourceManager], Any],
) -> None:
    manager = ResourceManager(limits, **options)
    assert denied_by_limit(manager) == {}
    kept = ask(manager)
    assert denied_by_limit(manager) == manager.denied_by_limit() == {limit: 1}
    assert manager.denials.total == 1
    del kept


def test_stats_are_ready_for_json_and_absent_limits_are_none() -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(system=Limit(memory=1000))))
    stats = json.loads(json.dumps(stats_of(manager)))
    assert stats == manager.get_stats()
    limits = stats["limits"]
    assert (limits["max_connections"], limits["max_memory_bytes"], limits["max_streams"]) == (
        None, 1000, None)


def test_exempt_connections_are_held_too() -> None:
    manager = ResourceManager(allowlist=[PEER])
    kept: list[Any] = [
        manager.open_connection(PEER), manager.open_connection(b"other", None, "outbound")]
    held = total_held(manager.ledger)
    assert (held.conns_inbound, held.conns_outbound) == (1, 1)
    assert stats_of(manager)["connections"] == 2
    del kept


def test_streams_of_both_directions_are_added() -> None:
    manager = ResourceManager()
    kept: list[Any] = [manager.open_stream(PEER, "inbound") for _ in range(2)]
    kept += [manager.open_stream(PEER, "outbound") for _ in range(3)]
    stats = stats_of(manager)
    assert (stats["streams"], stats["peak_streams"]) == (5, 5)
    kept.pop()
    stats = stats_of(manager)
    assert (stats["streams"], stats["peak_streams"]) == (4, 5)


def test_what_is_blocked_has_a_direction_a_scope_and_a_resource() -> None:
    manager = ResourceManager(
        NodeLimits(
            ConcreteLimits(
                transient=Limit(conns_outbound=0), peer_default=Limit(streams=0, memory=0),
                system=Limit(memory=0, fd=1)),
            subnets=SubnetLimits(ipv4=((32, 0),)),
            rates=AddressRates(ipv4=((32, Rate(0.001, 1)),))),
        memory_limits=FULL)
    assert blocked_resources(manager) == {}
    manager.memory_limits = None
    request_twice(manager)
    limiter = manager.protocol_rate_limiters["/a"]
    limiter._denied_overall, limiter._denied_by_network = 10, 100
    for _ in range(3):
        assert not manager.acquire_stream(PEER, "outbound")
        assert not manager.acquire_memory(1)
    assert manager.open_connection(None, "192.0.2.1", "inbound") is None  # a full network
    assert manager.open_connection(None, "192.0.2.1", "inbound") is None  # its rate
    for _ in range(2):
        assert manager.open_connection(None, "192.0.2.1", "outbound") is None
        assert manager.open_connection(None, None, "outbound") is None
    kept = [manager.open_connection(None, None, "inbound") for _ in range(2)]
    assert kept[1] is None
    manager.memory_limits = FULL
    assert manager.open_connection(None, None, "inbound") is None
    assert blocked_resources(manager) == {
        ("outbound", "peer", "stream"): 3,
        ("", "system", "memory"): 3,
        ("", "system", "fd"): 1,
        ("outbound", "transient", "connection"): 2,
        ("inbound", "address", "connection"): 1,
        ("outbound", "address", "connection"): 2,
        ("inbound", "rate", "connection"): 1,
        ("inbound", "rate", "stream"): 111,
        ("", "process", "memory"): 1,
    }


def test_without_a_gate_for_addresses_nothing_is_blocked_there() -> None:
    manager = ResourceManager(NodeLimits())
    assert manager.addresses is None
    assert blocked_resources(manager) == {}
    assert denied_by_limit(manager) == {}
