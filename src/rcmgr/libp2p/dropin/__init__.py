"""Our classes behind the names and signatures of libp2p.rcmgr 0.8.1.

A module has the name of the module of libp2p.rcmgr that it stands in for. Names that begin with an
underscore belong to helpers of several modules.
"""

from __future__ import annotations

import importlib

from rcmgr.extras import require

require("libp2p", __name__, "libp2p")

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
"""By module of libp2p.rcmgr: the classes that are ours while `rcmgr.install()` is in effect.

Every other name stays py-libp2p's: values (`Direction`, the exceptions, configurations), and what
no host uses.
"""


def replacements() -> list[tuple[type, type]]:
    """Pairs of py-libp2p's class and ours, for all of `REPLACED`.

    Our class then names py-libp2p's module as its own, so that pickle finds it there.
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
