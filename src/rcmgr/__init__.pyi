
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
    ScopeLimitExceeded,
    StreamLimitExceeded,
)
from rcmgr.manager import ResourceLimits, ResourceManager
from rcmgr.scope import (
    PRIORITY_ALWAYS,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_MEDIUM,
    ConnScope,
    Ledger,
    Refusal,
    Scope,
    ScopeStat,
    ScopeView,
    Span,
    StreamScope,
)

__all__ = [
    "PRIORITY_ALWAYS",
    "PRIORITY_HIGH",
    "PRIORITY_LOW",
    "PRIORITY_MEDIUM",
    "ConnScope",
    "ConnectionKind",
    "ConnectionLifecycleManager",
    "ConnectionLimitExceeded",
    "ConnectionLimitKind",
    "ConnectionLimits",
    "ConnectionScope",
    "ConnectionTracker",
    "Denial",
    "Ledger",
    "MemoryReservationExceeded",
    "Refusal",
    "ResourceLimitExceeded",
    "ResourceLimits",
    "ResourceManager",
    "ResourceScopeClosed",
    "Scope",
    "ScopeLimitExceeded",
    "ScopeStat",
    "ScopeView",
    "Span",
    "StreamLimitExceeded",
    "StreamScope",
    "TrackerSnapshot",
]
