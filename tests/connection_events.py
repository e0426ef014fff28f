"""Events of made-up connections."""

from __future__ import annotations

from rcmgr import (
    ConnectionLifecycleHandler,
    EstablishedInboundConnectionEvent,
    PendingInboundConnectionEvent,
)

PEER = b"peer"


def pending(name: str = "a") -> PendingInboundConnectionEvent:
    return PendingInboundConnectionEvent(connection_id=name)


def established(name: str = "a") -> EstablishedInboundConnectionEvent:
    return EstablishedInboundConnectionEvent(connection_id=name, peer_id=PEER)


def counts(handler: ConnectionLifecycleHandler) -> tuple[int, ...]:
    """Pending in, pending out, established in, established out."""
    return tuple(handler.tracker.get_connection_count(kind) for kind in (
        "pending_inbound", "pending_outbound", "established_inbound", "established_outbound"))
