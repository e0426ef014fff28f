"""The time of limiters does not follow the wall clock.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from libp2p.rcmgr.rate_limiter import RateLimitConfig
from libp2p.rcmgr.token_bucket import TokenBucketConfig
from rate_limiters import (
    PER_PEER,
    Clocks,
    both_buckets,
    both_limiters,
    both_protocols,
    granted,
    peer,
)

from rcmgr.libp2p.dropin.rate_limiter import RateLimiter
from rcmgr.libp2p.dropin.token_bucket import TokenBucket


@pytest.mark.parametrize("kind", ["bucket", "limiter", "protocol"])
def test_r11_a_change_of_the_wall_clock(kind: str, clocks: Clocks) -> None:
    def asks() -> tuple[Callable[..., bool], Callable[..., bool]]:
        if kind == "bucket":
            theirs, ours = both_buckets(1.0, 100.0, 100.0)
            return theirs.try_consume, ours.try_consume
        if kind == "limiter":
            limiter, our_limiter = both_limiters(
                refill_rate=1.0, capacity=100.0, initial_tokens=100.0)
            return limiter.try_allow, our_limiter.try_allow
        protocol, our_protocol = both_protocols(
            refill_rate=1.0, capacity=100.0, initial_tokens=100.0, max_concurrent_requests=10**6)
        return protocol.try_allow_request, our_protocol.try_allow_request

    for jump, expected in ((-3600, (0, 600)), (+3600, (699, 600))):
        allowed = [0, 0]
        both = asks()
        assert [granted(ask, 200) for ask in both] == [100, 100]
        clocks.wall += jump
        for _ in range(600):
            clocks.advance(1.0)
            for which, ask in enumerate(both):
                allowed[which] += granted(ask, 101)
        assert tuple(allowed) == expected


def test_r11_new_peers_after_a_change_of_the_wall_clock(clocks: Clocks) -> None:
    for jump in (-3600, 3600):
        limiter = RateLimiter(RateLimitConfig(scope=PER_PEER, refill_rate=1.0, capacity=10.0))
        clocks.wall += jump
        assert not limiter.try_allow(peer_id=peer(1))
        clocks.advance(3.0)
        assert granted(limiter.try_allow, 9, peer_id=peer(1)) == 3


def test_r11_a_given_time_does_not_stop_calls_without_one(clocks: Clocks) -> None:
    for bucket, expected in zip(both_buckets(1.0, 10.0, 10.0), (0, 60), strict=True):
        assert granted(bucket.try_consume, 20) == 10
        clocks.wall += 3600  # set forward, and one caller gives this time
        assert granted(bucket.try_consume, 20, 1, clocks.wall) == 10
        clocks.wall -= 3600  # and back
        allowed = 0
        for _ in range(60):
            clocks.advance(1.0)
            allowed += granted(bucket.try_consume, 5)
        assert allowed == expected


def test_r11_wrong_and_distant_times(clocks: Clocks) -> None:
    ours = TokenBucket(TokenBucketConfig(1.0, 10.0, 10.0))
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="current_time must be seconds"):
            ours.try_consume(1, wrong)
    assert ours.try_consume(10)
    assert ours.try_consume(10, 1e15)  # far ahead: full, and time continues from here
    clocks.advance(4)
    assert granted(ours.try_consume, 10) == 4
