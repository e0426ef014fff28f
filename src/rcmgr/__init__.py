"""rcmgr: decides, before a py-libp2p node spends a resource, whether it may.

A public name loads its module when it is first used: importing this package costs next to nothing
and does not import libp2p.
"""

import importlib

_MODULES = {
    "address_limits": [
        "AddressGate",
        "AddressRateLimiter",
        "AddressRates",
        "AddressRefusal",
        "SubnetLimiter",
        "SubnetLimits",
    ],
    "addresses": ["Allowlist"],
    "admission": ["ConnectionScope"],
    "connection_lifecycle": ["ConnectionLifecycleManager"],
    "connection_limits": ["ConnectionLimits"],
    "connection_tracker": [
        "ConnectionKind",
        "ConnectionRecord",
        "ConnectionTracker",
        "Denial",
        "TrackerSnapshot",
    ],
    "denials": ["DenialEntry", "DenialLog"],
    "error_context": ["ErrorContextBuilder"],
    "errors": [
        "AddressLimitExceeded",
        "ConnectionLimitExceeded",
        "ConnectionLimitKind",
        "MemoryReservationExceeded",
        "MemoryUsageLimitExceeded",
        "RateLimitExceeded",
        "ResourceLimitExceeded",
        "ResourceScopeClosed",
        "ScopeLimitExceeded",
        "StreamLimitExceeded",
    ],
    "memory_limits": ["MemoryConnectionLimits"],
    "memory_stats": ["MemoryStatsCache"],
    "memory_bounds": ["memory_pressure", "memory_report", "total_memory"],
    "protocol_rate_limiter": ["ProtocolRateLimiter"],
    "rate_limiter": ["RateLimiter"],
    "rate_limits": ["ConnectionRateLimits", "Rate", "RateLimits"],
    "token_bucket": ["BucketTable", "TokenBucket"],
    "libp2p.installation": ["install", "installed", "uninstall"],
    "limit_files": [
        "INFINITE_LIMITS",
        "LimitsFile",
        "LimitsFileError",
        "NodeLimits",
        "ProcessMemoryLimits",
    ],
    "limits": [
        "DEFAULT_LIMITS",
        "ConcreteLimits",
        "Limit",
        "LimitIncrease",
        "PartialLimit",
        "PartialLimits",
        "ScalingLimit",
        "ScalingLimits",
        "autoscale",
    ],
    "lifecycle_events": [
        "ConnectionClosedEvent",
        "ConnectionDeniedEvent",
        "ConnectionLifecycleEvent",
        "DialFailedEvent",
        "Endpoint",
        "EstablishedInboundConnectionEvent",
        "EstablishedOutboundConnectionEvent",
        "ListenFailedEvent",
        "PendingInboundConnectionEvent",
        "PendingOutboundConnectionEvent",
    ],
    "lifecycle_handler": ["ConnectionLifecycleHandler"],
    "manager": ["ResourceLimits", "ResourceManager"],
    "scope": [
        "ConnScope",
        "Ledger",
        "Priority",
        "Refusal",
        "Scope",
        "ScopeStat",
        "ScopeView",
        "Span",
        "StreamScope",
    ],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
