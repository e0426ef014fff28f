
from rcmgr.admission.lifecycle import ConnectionLifecycleManager
from rcmgr.admission.manager_base import ConnectionScope
from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.connection_tracker import (
    ConnectionKind,
    ConnectionRecord,
    ConnectionTracker,
    Denial,
)
from rcmgr.counting.denials import DenialEntry, DenialLog, DenialSummary
from rcmgr.counting.groups import Refusal
from rcmgr.counting.memory_stats import MemoryStatsCache
from rcmgr.counting.reading import ScopeStat
from rcmgr.counting.scope import (
    ConnScope,
    Ledger,
    Priority,
    Scope,
    ScopeView,
    Span,
    StreamScope,
)
from rcmgr.counting.token_bucket import TokenBucket
from rcmgr.counting.tracker_views import TrackerSnapshot
from rcmgr.errors import (
    AddressLimitExceeded,
    Banned,
    ConnectionEvicted,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    FleetLimitExceeded,
    MemoryReservationExceeded,
    MemoryUsageLimitExceeded,
    RateLimitExceeded,
    ResourceLimitExceeded,
    ResourceScopeClosed,
    ScopeLimitExceeded,
    StreamLimitExceeded,
)
from rcmgr.events.handler import ConnectionLifecycleHandler
from rcmgr.events.kinds import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionWouldBeDeniedEvent,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.fleet.fleet import Fleet
from rcmgr.gates.addresses import Allowlist
from rcmgr.gates.bans import Ban
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.gates.networks import (
    AddressGate,
    AddressRateLimiter,
    AddressRefusal,
    SubnetLimiter,
)
from rcmgr.gates.penalties import Offence, Penalties
from rcmgr.gates.requests import ProtocolRateLimiter, RateLimiter
from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.installation import install, installed, uninstall
from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.dry_run import DryRun
from rcmgr.limits.eviction import Eviction
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.fleet import FleetLimits, FleetPlaces
from rcmgr.limits.limiter import Limiter
from rcmgr.limits.machine import memory_pressure, total_memory
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.node import INFINITE_LIMITS, NodeLimits
from rcmgr.limits.parts import ConnectionRateLimits, ResourceLimits
from rcmgr.limits.penalties import PenaltyBox
from rcmgr.limits.rates import PeerRates, Rate, RateLimits
from rcmgr.limits.scaling_files import read_scaling_limits
from rcmgr.limits.scopes import (
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
from rcmgr.limits.states import ConnectionLimits
from rcmgr.manager import ResourceManager
from rcmgr.report.error_context import ErrorContextBuilder
from rcmgr.report.memory import memory_report

__version__: str

__all__ = [
    "DEFAULT_LIMITS",
    "INFINITE_LIMITS",
    "AddressGate",
    "AddressLimitExceeded",
    "AddressRateLimiter",
    "AddressRates",
    "AddressRefusal",
    "Allowlist",
    "Ban",
    "Banned",
    "BucketTable",
    "ConcreteLimits",
    "ConnScope",
    "ConnectionClosedEvent",
    "ConnectionDeniedEvent",
    "ConnectionEvicted",
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
    "ConnectionWouldBeDeniedEvent",
    "Denial",
    "DenialEntry",
    "DenialLog",
    "DenialSummary",
    "DialFailedEvent",
    "DryRun",
    "Endpoint",
    "ErrorContextBuilder",
    "EstablishedInboundConnectionEvent",
    "EstablishedOutboundConnectionEvent",
    "Eviction",
    "Fleet",
    "FleetLimitExceeded",
    "FleetLimits",
    "FleetPlaces",
    "Ledger",
    "Limit",
    "LimitIncrease",
    "Limiter",
    "LimitsFile",
    "LimitsFileError",
    "ListenFailedEvent",
    "MemoryConnectionLimits",
    "MemoryReservationExceeded",
    "MemoryStatsCache",
    "MemoryUsageLimitExceeded",
    "NodeLimits",
    "Offence",
    "PartialLimit",
    "PartialLimits",
    "PeerRates",
    "Penalties",
    "PenaltyBox",
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
    "manager_of",
    "memory_pressure",
    "memory_report",
    "read_scaling_limits",
    "total_memory",
    "uninstall",
]
