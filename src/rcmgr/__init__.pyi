
from rcmgr.address_limits import (
    AddressGate,
    AddressRateLimiter,
    AddressRates,
    AddressRefusal,
    SubnetLimiter,
    SubnetLimits,
)
from rcmgr.addresses import Allowlist
from rcmgr.admission import ConnectionScope
from rcmgr.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.connection_limits import ConnectionLimits
from rcmgr.connection_tracker import (
    ConnectionKind,
    ConnectionRecord,
    ConnectionTracker,
    Denial,
    TrackerSnapshot,
)
from rcmgr.denials import DenialEntry, DenialLog
from rcmgr.error_context import ErrorContextBuilder
from rcmgr.errors import (
    AddressLimitExceeded,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    MemoryReservationExceeded,
    MemoryUsageLimitExceeded,
    RateLimitExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    ScopeLimitExceeded,
    StreamLimitExceeded,
)
from rcmgr.libp2p.installation import install, installed, uninstall
from rcmgr.lifecycle_events import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.lifecycle_handler import ConnectionLifecycleHandler
from rcmgr.limit_files import (
    INFINITE_LIMITS,
    LimitsFile,
    LimitsFileError,
    NodeLimits,
    ProcessMemoryLimits,
)
from rcmgr.limits import (
    DEFAULT_LIMITS,
    ConcreteLimits,
    Limit,
    LimitIncrease,
    PartialLimit,
    PartialLimits,
    ScalingLimit,
    ScalingLimits,
    autoscale,
)
from rcmgr.manager import ResourceLimits, ResourceManager
from rcmgr.memory_bounds import memory_pressure, memory_report, total_memory
from rcmgr.memory_limits import MemoryConnectionLimits
from rcmgr.memory_stats import MemoryStatsCache
from rcmgr.protocol_rate_limiter import ProtocolRateLimiter
from rcmgr.rate_limiter import RateLimiter
from rcmgr.rate_limits import ConnectionRateLimits, Rate, RateLimits
from rcmgr.scope import (
    ConnScope,
    Ledger,
    Priority,
    Refusal,
    Scope,
    ScopeStat,
    ScopeView,
    Span,
    StreamScope,
)
from rcmgr.token_bucket import BucketTable, TokenBucket

__all__ = [
    "DEFAULT_LIMITS",
    "INFINITE_LIMITS",
    "AddressGate",
    "AddressLimitExceeded",
    "AddressRateLimiter",
    "AddressRates",
    "AddressRefusal",
    "Allowlist",
    "BucketTable",
    "ConcreteLimits",
    "ConnScope",
    "ConnectionClosedEvent",
    "ConnectionDeniedEvent",
    "ConnectionKind",
    "ConnectionLifecycleEvent",
    "ConnectionLifecycleHandler",
    "ConnectionLifecycleManager",
    "ConnectionLimitExceeded",
    "ConnectionLimitKind",
    "ConnectionLimits",
    "ConnectionRateLimits",
    "ConnectionRecord",
    "ConnectionScope",
    "ConnectionTracker",
    "Denial",
    "DenialEntry",
    "DenialLog",
    "DialFailedEvent",
    "Endpoint",
    "ErrorContextBuilder",
    "EstablishedInboundConnectionEvent",
    "EstablishedOutboundConnectionEvent",
    "Ledger",
    "Limit",
    "LimitIncrease",
    "LimitsFile",
    "LimitsFileError",
    "ListenFailedEvent",
    "MemoryConnectionLimits",
    "MemoryReservationExceeded",
    "MemoryStatsCache",
    "MemoryUsageLimitExceeded",
    "NodeLimits",
    "PartialLimit",
    "PartialLimits",
    "PendingInboundConnectionEvent",
    "PendingOutboundConnectionEvent",
    "Priority",
    "ProcessMemoryLimits",
    "ProtocolRateLimiter",
    "Rate",
    "RateLimitExceeded",
    "RateLimiter",
    "RateLimits",
    "Refusal",
    "ResourceLimitExceeded",
    "ResourceLimits",
    "ResourceManager",
    "ResourceScopeClosed",
    "ScalingLimit",
    "ScalingLimits",
    "Scope",
    "ScopeLimitExceeded",
    "ScopeStat",
    "ScopeView",
    "Span",
    "StreamLimitExceeded",
    "StreamScope",
    "SubnetLimiter",
    "SubnetLimits",
    "TokenBucket",
    "TrackerSnapshot",
    "autoscale",
    "install",
    "installed",
    "memory_pressure",
    "memory_report",
    "total_memory",
    "uninstall",
]
