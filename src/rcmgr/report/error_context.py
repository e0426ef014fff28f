"""Errors built from what the node holds now, for code that has no refusal at hand."""

from __future__ import annotations

from collections.abc import Hashable

from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.counting.memory_stats import default_cache
from rcmgr.errors import (
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    MemoryUsageLimitExceeded,
)
from rcmgr.gates.memory import MemoryConnectionLimits, MemoryExcess
from rcmgr.limits.states import ConnectionLimits

__all__ = ["ErrorContextBuilder"]

_COUNTS = (
    "pending_inbound", "pending_outbound", "established_inbound", "established_outbound",
    "established_total", "pending_total", "peers", "bypassed",
)


class ErrorContextBuilder:
    """Builds errors from what `tracker` and the process hold at the moment of the call.

    A denial of rcmgr holds the numbers of the moment of the refusal. Use this for handlers and
    reports that run later. Thread safe. O(1).
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        limits: ConnectionLimits,
        memory_limits: MemoryConnectionLimits | None = None,
    ) -> None:
        self.tracker = tracker
        self.limits = limits
        self.memory_limits = memory_limits

    def build_connection_limit_error(
        self,
        kind: ConnectionLimitKind,
        connection_id: Hashable | None = None,
        peer_id: Hashable | None = None,
    ) -> ConnectionLimitExceeded:
        """The error of this limit. ValueError: there is no such limit, or the peer is missing."""
        kind = ConnectionLimitKind(kind)
        if kind is ConnectionLimitKind.CONNECTIONS:
            limit, current = self.tracker.max_connections, len(self.tracker)
        elif kind is ConnectionLimitKind.ESTABLISHED_PER_PEER:
            if peer_id is None:
                raise ValueError("peer_id is missing: the limit is one of each peer")
            limit = self.limits.max_established_per_peer
            current = self.tracker.get_peer_connection_count(peer_id)
        else:
            limit = getattr(self.limits, f"max_{kind.value}")
            current = self.tracker.get_connection_count(kind.value)
        if limit is None:
            raise ValueError(f"{kind.value} is not limited")
        return ConnectionLimitExceeded(limit, current, kind, connection_id, peer_id)

    def build_memory_limit_error(self) -> MemoryUsageLimitExceeded:
        """The memory of the process and its limit. ValueError: there is no such limit."""
        limits = self.memory_limits
        most = None if limits is None else limits.max_allowed_bytes
        if limits is None or most is None:
            raise ValueError("the memory of the process is not limited")
        limits.refresh_memory_stats_if_needed()
        return MemoryExcess(limits.process_memory_bytes, most).to_error()

    def get_connection_stats(self) -> dict[str, int]:
        """Connections by state, and the number of peers."""
        seen = self.tracker.snapshot()
        return {name: getattr(seen, name) for name in _COUNTS}

    def get_memory_stats(self) -> dict[str, int]:
        """Bytes that the process uses (absent: they cannot be read) and may use (absent: no limit).
        """
        limits = self.memory_limits
        if limits is None:
            cache = default_cache()
            cache.refresh_if_needed()
            return {"process_memory_bytes": cache.cached_memory_bytes} if cache.is_known else {}
        limits.refresh_memory_stats_if_needed()
        stats = {"process_memory_bytes": limits.process_memory_bytes}
        most = limits.max_allowed_bytes
        if most is not None:
            stats["max_allowed_bytes"] = most
        return stats
