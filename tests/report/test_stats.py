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
from rcmgr.report.stats import denied_by_limit, stats_of, total_held

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
