"""A node in numbers: what it holds, its limits, its peaks and its denials."""

from __future__ import annotations

from typing import Any

from rcmgr.counting.reading import ScopeStat
from rcmgr.counting.scope import Ledger
from rcmgr.report.node import Node

__all__ = ["denied_by_limit", "stats_of", "total_held"]

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


def denied_by_limit(node: Node) -> dict[str, int]:
    """See `ResourceManager.denied_by_limit`."""
    gate = node.addresses
    requests = [limiter.counts() for limiter in node.protocol_rate_limiters.copy().values()]
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
        "ban": node.refused_by_ban,
        "protocol_rate": sum(each["denied"] + each["denied_overall"] for each in requests),
    }
    return {limit: times for limit, times in denied.items() if times}
