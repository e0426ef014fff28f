"""rcmgr: decides, before a py-libp2p node spends a resource, whether it may.

A public name loads its module when it is first used: importing this package costs next to nothing
and does not import libp2p.
"""

import importlib

__version__ = "0.1.0"

_MODULES = {
    "gates.networks": [
        "AddressGate",
        "AddressRateLimiter",
        "AddressRefusal",
        "SubnetLimiter",
    ],
    "gates.addresses": ["Allowlist"],
    "admission.admission": ["ConnectionScope"],
    "admission.lifecycle": ["ConnectionLifecycleManager"],
    "limits.states": ["ConnectionLimits"],
    "counting.connection_tracker": [
        "ConnectionKind",
        "ConnectionRecord",
        "ConnectionTracker",
        "Denial",
        "TrackerSnapshot",
    ],
    "counting.denials": ["DenialEntry", "DenialLog"],
    "report.error_context": ["ErrorContextBuilder"],
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
    "gates.memory": ["MemoryConnectionLimits"],
    "counting.memory_stats": ["MemoryStatsCache"],
    "limits.machine": ["memory_pressure", "memory_report", "total_memory"],
    "gates.requests": ["ProtocolRateLimiter", "RateLimiter"],
    "limits.node": ["INFINITE_LIMITS", "NodeLimits"],
    "limits.parts": ["ConnectionRateLimits", "ResourceLimits"],
    "limits.rates": ["PeerRates", "Rate", "RateLimits"],
    "counting.token_bucket": ["BucketTable", "TokenBucket"],
    "libp2p.installation": ["install", "installed", "uninstall"],
    "limits.documents": ["LimitsFileError"],
    "limits.files": ["LimitsFile"],
    "limits.memory": ["ProcessMemoryLimits"],
    "limits.networks": ["AddressRates", "SubnetLimits"],
    "limits.scopes": [
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
    "events.kinds": [
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
    "events.handler": ["ConnectionLifecycleHandler"],
    "manager": ["ResourceManager"],
    "counting.scope": [
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
