"""Errors built from what the node holds now."""

from __future__ import annotations

import pytest

from rcmgr import (
    ConnectionLimitKind,
    ConnectionLimits,
    ConnectionTracker,
    ErrorContextBuilder,
    MemoryConnectionLimits,
    MemoryStatsCache,
)

LIMITS = ConnectionLimits(1, 2, 3, 4, 5, 6)


@pytest.fixture
def tracker() -> ConnectionTracker:
    tracker = ConnectionTracker(max_connections=7)
    tracker.add_pending_inbound("a")
    for name in "bc":
        tracker.move_to_established_inbound(name, b"peer")
    tracker.move_to_established_outbound("d", b"other")
    return tracker


@pytest.mark.parametrize(("kind", "current", "limit"), [
    ("pending_inbound", 1, 1), ("pending_outbound", 0, 2), ("established_inbound", 2, 3),
    ("established_outbound", 1, 4), ("established_per_peer", 2, 5), ("established_total", 3, 6),
    ("connections", 4, 7),
])
def test_an_error_has_the_numbers_of_now(
    tracker: ConnectionTracker, kind: str, current: int, limit: int
) -> None:
    builder = ErrorContextBuilder(tracker, LIMITS)
    error = builder.build_connection_limit_error(ConnectionLimitKind(kind), "x", b"peer")
    assert (error.kind.value, error.current, error.limit) == (kind, current, limit)
    assert (error.connection_id, error.peer_id) == ("x", b"peer")


def test_an_absent_limit_cannot_be_described(tracker: ConnectionTracker) -> None:
    builder = ErrorContextBuilder(tracker, ConnectionLimits(max_established_per_peer=1))
    with pytest.raises(ValueError, match="pending_inbound is not limited"):
        builder.build_connection_limit_error(ConnectionLimitKind.PENDING_INBOUND)
    with pytest.raises(ValueError, match="peer_id is missing"):
        builder.build_connection_limit_error(ConnectionLimitKind.ESTABLISHED_PER_PEER)
    with pytest.raises(ValueError, match="nonsense"):
        builder.build_connection_limit_error("nonsense")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory of the process is not limited"):
        builder.build_memory_limit_error()
    unlimited = ErrorContextBuilder(tracker, LIMITS, MemoryConnectionLimits())
    with pytest.raises(ValueError, match="memory of the process is not limited"):
        unlimited.build_memory_limit_error()


def test_the_memory_of_the_process(tracker: ConnectionTracker) -> None:
    limits = MemoryConnectionLimits(max_bytes=200, cache=MemoryStatsCache(probe=lambda: 150))
    builder = ErrorContextBuilder(tracker, LIMITS, limits)
    error = builder.build_memory_limit_error()
    assert (error.process_memory_bytes, error.max_allowed_bytes, error.percentage) == (
        150, 200, 75.0)
    assert builder.get_memory_stats() == {"process_memory_bytes": 150, "max_allowed_bytes": 200}
    unlimited = ErrorContextBuilder(tracker, LIMITS).get_memory_stats()
    assert list(unlimited) == ["process_memory_bytes"]
    assert unlimited["process_memory_bytes"] > 1 << 20


def test_connections_by_state(tracker: ConnectionTracker) -> None:
    assert ErrorContextBuilder(tracker, LIMITS).get_connection_stats() == {
        "pending_inbound": 1, "pending_outbound": 0, "established_inbound": 2,
        "established_outbound": 1, "established_total": 3, "pending_total": 1, "peers": 2,
        "bypassed": 0,
    }
