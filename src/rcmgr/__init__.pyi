
from rcmgr.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.connection_limits import ConnectionLimits
from rcmgr.connection_scope import ConnectionScope
from rcmgr.connection_tracker import (
    ConnectionKind,
    ConnectionRecord,
    ConnectionTracker,
    Denial,
    TrackerSnapshot,
)
from rcmgr.denials import DenialLog
from rcmgr.errors import (
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    MemoryReservationExceeded,
    MemoryUsageLimitExceeded,
    RateLimitExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    StreamLimitExceeded,
)
from rcmgr.manager import ResourceLimits, ResourceManager
from rcmgr.memory_bounds import memory_pressure, memory_report, total_memory
from rcmgr.memory_limits import MemoryConnectionLimits
from rcmgr.memory_stats import MemoryStatsCache
from rcmgr.protocol_rate_limiter import ProtocolRateLimiter
from rcmgr.rate_limiter import RateLimiter
from rcmgr.rate_limits import ConnectionRateLimits, Rate, RateLimits
from rcmgr.token_bucket import BucketTable, TokenBucket

__all__ = [
    "BucketTable",
    "ConnectionKind",
    "ConnectionLifecycleManager",
    "ConnectionLimitExceeded",
    "ConnectionLimitKind",
    "ConnectionLimits",
    "ConnectionRateLimits",
    "ConnectionRecord",
    "ConnectionScope",
    "ConnectionTracker",
    "Denial",
    "DenialLog",
    "MemoryConnectionLimits",
    "MemoryReservationExceeded",
    "MemoryStatsCache",
    "MemoryUsageLimitExceeded",
    "ProtocolRateLimiter",
    "Rate",
    "RateLimitExceeded",
    "RateLimiter",
    "RateLimits",
    "ResourceLimitExceeded",
    "ResourceLimits",
    "ResourceManager",
    "ResourceScopeClosed",
    "StreamLimitExceeded",
    "TokenBucket",
    "TrackerSnapshot",
    "memory_pressure",
    "memory_report",
    "total_memory",
]
