"""A resource manager for py-libp2p nodes: it admits or refuses before the node spends a resource.

To guard a host, use one of these:

    ResourceManager    libp2p.new_host(resource_manager=rcmgr.ResourceManager(...))
    install()          afterwards, libp2p.rcmgr has the classes of this package
    NodeLimits         all limits of a node; LimitsFile reads them from a file
    Fleet              shares limits and bans with other nodes

These parts also work without a host:

    ConnectionTracker    connections by state and peer, under ConnectionLimits
    Ledger               connections, streams and memory in scopes, under ConcreteLimits
    TokenBucket          one rate; BucketTable has one bucket per peer
    MemoryStatsCache     the memory that the process uses

`rcmgr.libp2p` hooks into a host: it observes it, gives scopes to its streams, and closes holes of
py-libp2p. `rcmgr.metrics` exports to Prometheus. The command `rcmgr` shows a running node.

`import rcmgr` loads a module only when a name is first used, and never imports libp2p.
"""

import importlib

from rcmgr import _library

_library.use()

__version__ = "0.1.0"

_MODULES = {
    "gates.networks": [
        "AddressGate",
        "AddressRateLimiter",
        "AddressRefusal",
        "SubnetLimiter",
    ],
    "gates.addresses": ["Allowlist"],
    "gates.bans": ["Ban"],
    "gates.penalties": ["Offence", "Penalties"],
    "admission.lifecycle": ["ConnectionLifecycleManager"],
    "admission.manager_base": ["ConnectionScope"],
    "limits.states": ["ConnectionLimits"],
    "counting.connection_tracker": [
        "ConnectionKind",
        "ConnectionRecord",
        "ConnectionTracker",
        "Denial",
    ],
    "counting.tracker_views": ["TrackerSnapshot"],
    "counting.denials": ["DenialEntry", "DenialLog", "DenialSummary"],
    "report.error_context": ["ErrorContextBuilder"],
    "report.memory": ["memory_report"],
    "errors": [
        "AddressLimitExceeded",
        "Banned",
        "ConnectionEvicted",
        "ConnectionLimitExceeded",
        "ConnectionLimitKind",
        "FleetLimitExceeded",
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
    "limits.dry_run": ["DryRun"],
    "limits.eviction": ["Eviction"],
    "limits.fleet": ["FleetLimits", "FleetPlaces"],
    "limits.machine": ["memory_pressure", "total_memory"],
    "gates.requests": ["ProtocolRateLimiter", "RateLimiter"],
    "limits.node": ["INFINITE_LIMITS", "NodeLimits"],
    "limits.parts": ["ConnectionRateLimits", "ResourceLimits"],
    "limits.rates": ["PeerRates", "Rate", "RateLimits"],
    "counting.bucket_table": ["BucketTable"],
    "counting.token_bucket": ["TokenBucket"],
    "libp2p.guard.stream_scopes": ["manager_of"],
    "libp2p.installation": ["install", "installed", "uninstall"],
    "limits.documents": ["LimitsFileError"],
    "limits.files": ["LimitsFile"],
    "limits.limiter": ["Limiter"],
    "limits.memory": ["ProcessMemoryLimits"],
    "limits.networks": ["AddressRates", "SubnetLimits"],
    "limits.penalties": ["PenaltyBox"],
    "limits.scaling_files": ["read_scaling_limits"],
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
        "ConnectionWouldBeDeniedEvent",
        "DialFailedEvent",
        "Endpoint",
        "EstablishedInboundConnectionEvent",
        "EstablishedOutboundConnectionEvent",
        "ListenFailedEvent",
        "PendingInboundConnectionEvent",
        "PendingOutboundConnectionEvent",
    ],
    "events.handler": ["ConnectionLifecycleHandler"],
    "fleet.fleet": ["Fleet"],
    "manager": ["ResourceManager"],
    "counting.groups": ["Refusal"],
    "counting.reading": ["ScopeStat"],
    "counting.scope": [
        "ConnScope",
        "Ledger",
        "Priority",
        "Scope",
        "ScopeView",
        "Span",
        "StreamScope",
    ],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        import difflib

        close = difflib.get_close_matches(name, __all__, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        # without `obj=None`, a traceback would suggest the name once more
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=None)
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *__all__]
