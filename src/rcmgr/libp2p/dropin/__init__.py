"""Our classes behind the names and signatures of libp2p.rcmgr 0.8.1.

A module here has the name of py-libp2p's that it stands in for; what several of them use begins
with an underscore.
"""

from __future__ import annotations

import importlib

__all__ = ["REPLACED", "replacements"]

REPLACED: dict[str, tuple[str, ...]] = {
    "manager": ("ResourceLimits", "ResourceManager"),
    "protocol_rate_limiter": ("ProtocolRateLimiter",),
    "rate_limiter": ("RateLimiter",),
    "token_bucket": ("TokenBucket",),
}
"""Module of libp2p.rcmgr -> its classes that are ours while `rcmgr.install()` is in effect.

Every other name stays py-libp2p's: what no host uses, and what is a value (`Direction`, the
exceptions, configurations).
"""


def replacements() -> list[tuple[type, type]]:
    """(theirs, ours) for all of `REPLACED`. AttributeError: py-libp2p has no such class."""
    return [
        (
            getattr(importlib.import_module(f"libp2p.rcmgr.{module}"), name),
            getattr(importlib.import_module(f"{__name__}.{module}"), name),
        )
        for module, names in REPLACED.items()
        for name in names
    ]
