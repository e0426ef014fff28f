"""rcmgr: a fast resource manager for py-libp2p nodes. Importing it does not import libp2p."""

from __future__ import annotations

from .errors import (
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    MemoryReservationExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    StreamLimitExceeded,
)

__all__ = [
    "ConnectionLimitExceeded",
    "ConnectionLimitKind",
    "MemoryReservationExceeded",
    "ResourceLimitExceeded",
    "ResourceScopeClosed",
    "StreamLimitExceeded",
]
