"""A node in numbers: what it holds, its limits, its peaks and its denials."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from rcmgr.counting.reading import ScopeStat
from rcmgr.counting.scope import Ledger
from rcmgr.report.node import Node

__all__ = ["all_denied", "blocked_resources", "denied_by_limit", "stats_of", "total_held"]

_RESOURCES: Final = {"memory": "memory", "fd": "fd", "conns": "connection", "streams": "stream"}
_DENIED: Final = ("denied", "denied_overall", "denied_by_network", "denied_by_fleet")
_STATES = ("pending_inbound", "pending_outbound", "established_inbound", "established_outbound")


def stats_of(node: Node) -> dict[str, Any]:
    """See `ResourceManager.get_stats`."""
    ledger, tracker = node.ledger, node.connection_tracker.snapshot()
    held, peak, system = total_held(ledger), ledger.peak, node.scope_limits.system
    return {
        "connections": held.conns_inbound + held.conns_outbound,
        "memory_bytes": held.memory,
        "streams": held.streams_inbound + held.streams_outbound,
        "limits": {
            "max_connections": system.conns,
            "max_memory_bytes": system.memory,
            "max_streams": system.streams,
            **node.connection_limits.to_dict(),
        },
        "connection_states": {state: getattr(tracker, state) for state in _STATES},
        "peers": tracker.peers,
        "peak_connections": peak["conns"],
        "peak_memory_bytes": peak["memory"],
        "peak_streams": peak["streams"],
        "over_released": ledger.over_released,
        "leaked": ledger.leaked,
        "denied": denied_by_limit(node),
        "would_deny": node.would_deny.by_code(),
        "evictions": node.evictions(),
        "protocol_rates": {
            protocol: limiter.get_protocol_stats()
            # another thread may add a limiter meanwhile
            for protocol, limiter in node.protocol_rate_limiters.copy().items()
        },
    }


def total_held(ledger: Ledger) -> ScopeStat:
    """The system scope and the allowlisted system scope together."""
    both = zip(ledger.system().stat(), ledger.allowlisted_system().stat(), strict=True)
    return ScopeStat(*map(sum, both))


def blocked_resources(node: Node) -> dict[tuple[str, str, str], int]:
    """Refusals by (direction, scope, resource), as in go-libp2p's family `blocked_resources`.

    The ledger has most scopes. Limits outside it have the scopes "state" (of a connection),
    "address" (connections at once), "rate" (of a network, peer or protocol) and "process" (memory).
    """
    times: Counter[tuple[str, str, str]] = Counter()
    for (direction, scope, limit), blocked in node.ledger.blocked.items():
        resource = _RESOURCES[limit.partition("_")[0]]
        way = "" if resource in ("memory", "fd") else direction
        times[way, scope.partition("-")[0], resource] += blocked
    for (direction, _), blocked in node.connection_tracker.denied_by_direction().items():
        times[direction, "state", "connection"] += blocked
    gate = node.addresses
    if gate is not None:
        outbound = gate.refused_outbound
        times["inbound", "address", "connection"] += gate.refused_by_number - outbound
        times["outbound", "address", "connection"] += outbound
        times["inbound", "rate", "connection"] += gate.refused_by_rate
    refused_handshakes = node.evictions()["refused_handshakes"]
    times["inbound", "rate", "connection"] += node.refused_by_peer_rate + refused_handshakes
    times["inbound", "rate", "stream"] += _refused_by_protocol_rates(node)
    times["", "process", "memory"] += node.refused_for_memory
    return {key: count for key, count in times.items() if count}


def _refused_by_protocol_rates(node: Node) -> int:
    # another thread may add a limiter meanwhile
    counts = [limiter.counts() for limiter in node.protocol_rate_limiters.copy().values()]
    return sum(map(all_denied, counts))


def all_denied(counts: dict[str, int]) -> int:
    """The denials by all rates of one protocol, as `ProtocolRateLimiter.counts` has them."""
    return sum(counts.get(key, 0) for key in _DENIED)


def denied_by_limit(node: Node) -> dict[str, int]:
    """See `ResourceManager.denied_by_limit`."""
    gate = node.addresses
    denied = {
        **node.connection_tracker.snapshot().denied,
        **{
            f"{scope} {resource}": times
            for scope, refused in node.ledger.refused.items()
            for resource, times in refused.items()
        },
        "memory_usage": node.refused_for_memory,
        "address_connections": 0 if gate is None else gate.refused_by_number,
        "address_rate": 0 if gate is None else gate.refused_by_rate,
        "connection_rate_per_peer": node.refused_by_peer_rate,
        "handshake_rate": node.evictions()["refused_handshakes"],
        "ban": node.refused_by_ban,
        "protocol_rate": _refused_by_protocol_rates(node),
        **node.denied_by_fleet(),
        "evicted": sum(node.evictions()["evicted"].values()),
    }
    return {limit: times for limit, times in denied.items() if times}
