
from rcmgr.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.connection_limits import ConnectionLimits
from rcmgr.connection_scope import ConnectionScope
from rcmgr.connection_tracker import (
    ConnectionKind,
    ConnectionTracker,
    Denial,
    TrackerSnapshot,
)
from rcmgr.errors import (
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    MemoryReservationExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    StreamLimitExceeded,
)
from rcmgr.manager import ResourceLimits, ResourceManager

__all__ = [
    "ConnectionKind",
    "ConnectionLifecycleManager",
    "ConnectionLimitExceeded",
    "ConnectionLimitKind",
    "ConnectionLimits",
    "ConnectionScope",
    "ConnectionTracker",
    "Denial",
    "MemoryReservationExceeded",
    "ResourceLimitExceeded",
    "ResourceLimits",
    "ResourceManager",
    "ResourceScopeClosed",
    "StreamLimitExceeded",
    "TrackerSnapshot",
]
