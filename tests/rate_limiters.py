"""Pairs of py-libp2p's token bucket or rate limiter and ours, and clocks that a test sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimitConfig
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimiter as StockProtocolRateLimiter
from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimitScope
from libp2p.rcmgr.rate_limiter import RateLimiter as StockRateLimiter
from libp2p.rcmgr.token_bucket import TokenBucket as StockTokenBucket
from libp2p.rcmgr.token_bucket import TokenBucketConfig

from rcmgr.libp2p.dropin.protocol_rate_limiter import ProtocolRateLimiter
from rcmgr.libp2p.dropin.rate_limiter import RateLimiter
from rcmgr.libp2p.dropin.token_bucket import TokenBucket

START = 1_800_000_000.0
PER_PEER = RateLimitScope.PER_PEER
NEVER = 1e-9  # tokens per second


class Clocks:
    """Stands in for the module `time`, with both clocks."""

    def __init__(self) -> None:
        self.wall, self.steady = START, 1000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def peer(number: int) -> ID:
    return ID(b"\x12\x20" + number.to_bytes(32, "big"))


def granted(ask: Callable[..., bool], times: int, *arguments: Any, **keywords: Any) -> int:
    return sum(ask(*arguments, **keywords) for _ in range(times))


def both_buckets(*arguments: Any, **keywords: Any) -> tuple[StockTokenBucket, TokenBucket]:
    """py-libp2p's bucket and ours."""
    return (StockTokenBucket(TokenBucketConfig(*arguments, **keywords)),
            TokenBucket(TokenBucketConfig(*arguments, **keywords)))


def both_limiters(**keywords: Any) -> tuple[StockRateLimiter, RateLimiter]:
    return (StockRateLimiter(RateLimitConfig(**keywords)),
            RateLimiter(RateLimitConfig(**keywords)))


def both_protocols(**keywords: Any) -> tuple[StockProtocolRateLimiter, ProtocolRateLimiter]:
    return (StockProtocolRateLimiter(ProtocolRateLimitConfig("/test/1", **keywords)),
            ProtocolRateLimiter(ProtocolRateLimitConfig("/test/1", **keywords)))


class Counted(float):
    """A time. The class counts the comparisons of all its instances."""

    compared = 0

    def _count(self, other: float, compare: Callable[[float, float], bool]) -> bool:
        Counted.compared += 1
        return compare(float(self), float(other))

    def __gt__(self, other: float) -> bool:
        return self._count(other, float.__gt__)

    def __ge__(self, other: float) -> bool:
        return self._count(other, float.__ge__)

    def __lt__(self, other: float) -> bool:
        return self._count(other, float.__lt__)

    def __le__(self, other: float) -> bool:
        return self._count(other, float.__le__)


def comparisons(call: Callable[[], object]) -> int:
    Counted.compared = 0
    call()
    return Counted.compared


STEPS = st.integers(0, 128).map(lambda count: count / 64)
TOKENS = st.integers(0, 64).map(lambda count: count / 8)
RATES = st.sampled_from([0.25, 1.0, 3.5, 8.0, 64.0])
CAPACITIES = st.integers(1, 320).map(lambda count: count / 8)
with_clocks = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def near(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= 0.001  # ours counts thousandths


SCOPES: dict[RateLimitScope, list[dict[str, Any]]] = {
    RateLimitScope.GLOBAL: [{}, {"peer_id": peer(1)}],
    PER_PEER: [{"peer_id": peer(1)}, {"peer_id": str(peer(1))}, {"peer_id": "b"}, {}],
    RateLimitScope.PER_CONNECTION: [{"connection_id": "a"}, {"connection_id": "b"}, {}],
    RateLimitScope.PER_PROTOCOL: [{"protocol": "/a"}, {"protocol": "/b"}, {"peer_id": peer(1)}],
    RateLimitScope.PER_ENDPOINT: [{"endpoint": "/ip4/192.0.2.1"}],  # R5 has several
}
