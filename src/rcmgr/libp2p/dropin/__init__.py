"""Our classes behind the names and signatures of libp2p.rcmgr 0.8.1.

A module here has the name of py-libp2p's that it stands in for; what several of them use begins
with an underscore.
"""

from __future__ import annotations

import importlib

__all__ = ["REPLACED", "replacements"]

REPLACED: dict[str, tuple[str, ...]] = {
    "allowlist": ("Allowlist",),
    "cidr_limits": ("CIDRLimiter",),
    "connection_lifecycle": ("ConnectionLifecycleManager",),
    "connection_limits": ("ConnectionLimits",),
    "connection_tracker": ("ConnectionTracker",),
    "manager": ("ConnectionScope", "ResourceLimits", "ResourceManager"),
    "memory_limits": ("MemoryConnectionLimits",),
    "memory_stats": ("MemoryStatsCache",),
    "protocol_rate_limiter": ("ProtocolRateLimiter",),
    "rate_limiter": ("RateLimiter",),
    "token_bucket": ("TokenBucket",),
}
"""Module of libp2p.rcmgr -> its classes that are ours while `rcmgr.install()` is in effect.

Every other name stays py-libp2p's: what no host uses, and what is a value (`Direction`, the
exceptions, configurations).
"""


def replacements() -> list[tuple[type, type]]:
    """(theirs, ours) for all of `REPLACED`; ours then name the module of theirs as their home.

    AttributeError: py-libp2p has no such class.
    """
    pairs = []
    for module, names in REPLACED.items():
        home = importlib.import_module(f"libp2p.rcmgr.{module}")
        stand_in = importlib.import_module(f"{__name__}.{module}")
        for name in names:
            theirs, ours = getattr(home, name), getattr(stand_in, name)
            ours.__module__ = home.__name__
            pairs.append((theirs, ours))
    return pairs
