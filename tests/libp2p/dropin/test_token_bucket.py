"""libp2p's token bucket and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimitConfig
from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimitStrategy
from libp2p.rcmgr.token_bucket import TokenBucket as StockTokenBucket
from libp2p.rcmgr.token_bucket import TokenBucketConfig
from rate_limiters import (
    CAPACITIES,
    NEVER,
    RATES,
    START,
    STEPS,
    TOKENS,
    Clocks,
    Counted,
    both_buckets,
    comparisons,
    granted,
    near,
    with_clocks,
)
from threads import in_threads

from rcmgr.libp2p.dropin.protocol_rate_limiter import ProtocolRateLimiter
from rcmgr.libp2p.dropin.rate_limiter import RateLimiter
from rcmgr.libp2p.dropin.token_bucket import TokenBucket


def test_r9_the_capacity_is_the_burst_in_both(clocks: Clocks) -> None:
    for keywords in ({"allow_burst": False}, {"burst_multiplier": 5.0}, {}):
        for bucket in both_buckets(1.0, 10.0, 10.0, **keywords):
            assert granted(bucket.try_consume, 100) == 10


@pytest.mark.parametrize("tokens", [-1e6, -0.001, -math.inf, math.nan])
def test_r10_negative_amounts(tokens: float, clocks: Clocks) -> None:
    theirs, ours = both_buckets(1.0, 10.0)
    if tokens == -1e6:
        assert theirs.try_consume(tokens)
        assert theirs.get_stats().current_tokens == 1e6
    before = ours.get_stats()
    message = f"tokens must be 0 or more, not {tokens!r}"
    with pytest.raises(ValueError, match=message):
        ours.try_consume(tokens)
    with pytest.raises(ValueError, match=message):
        ours.consume(tokens)
    assert ours.get_stats() == before
    for strategy in RateLimitStrategy:
        limiter = RateLimiter(RateLimitConfig(strategy))
        with pytest.raises(ValueError, match=message):
            limiter.try_allow(tokens)
        assert limiter.get_stats().total_requests == limiter.get_stats().tracked_entities == 0
    with pytest.raises(ValueError, match=message):
        ProtocolRateLimiter(ProtocolRateLimitConfig("/test/1")).try_allow_request(tokens)


def test_r10_other_absurd_amounts(clocks: Clocks) -> None:
    ours = TokenBucket(TokenBucketConfig(1.0, 10.0, 10.0))
    assert not any(ours.try_consume(tokens) for tokens in (math.inf, 1e308, 2**70, 10.001))
    assert ours.try_consume(0)
    assert granted(ours.try_consume, 200, 0.1) == 100
    ours.reset()
    assert granted(ours.try_consume, 20_000, 1e-9) == 10_000  # each takes one thousandth, the least


def test_r12_the_cost_of_monitoring_does_not_grow(clocks: Clocks) -> None:
    theirs, ours = both_buckets(NEVER, 10.0)
    for bucket in (theirs, ours):
        assert granted(bucket.try_consume, 1000, current_time=Counted(START)) == 0
    assert comparisons(lambda: theirs.try_consume(current_time=Counted(START))) >= 1000
    assert comparisons(lambda: ours.try_consume(current_time=Counted(START))) < 5


def test_r12_the_history(clocks: Clocks) -> None:
    for kind in (StockTokenBucket, TokenBucket):
        bucket = kind(TokenBucketConfig(4.0, 10.0, 2.0, max_history_size=3))
        for step in (0.0, 0.0, 0.0, 0.25, 0.0, 0.25):
            clocks.advance(step)
            bucket.try_consume()
        now = clocks.wall
        expected = {
            "enabled": True, "time_window": 1.0,
            "total_requests": 3, "allowed_requests": 2, "denied_requests": 1, "allow_rate": 2 / 3,
            "recent_requests": [(now - 0.25, True), (now - 0.25, False), (now, True)],
            "recent_refills": [(now - 0.25, 1.0), (now, 1.0)],
        }
        assert bucket.get_history() == expected
        assert bucket.get_history(0.25)["recent_requests"] == [(now, True)]
        clocks.advance(1.0)
        assert bucket.get_history()["total_requests"] == 0
        bucket.reset()
        assert bucket.get_history(99.0)["recent_refills"] == []
    for bucket in both_buckets(4.0, 10.0, enable_monitoring=False):
        assert bucket.get_history() == {"enabled": False}


@with_clocks
@given(
    rate=RATES, capacity=CAPACITIES, part=st.floats(0, 1), interval=st.sampled_from([0.001, 0.5]),
    calls=st.lists(st.tuples(
        st.sampled_from(["try_consume", "try_consume", "consume", "get_stats", "reset", "rate"]),
        STEPS, TOKENS, st.sampled_from([None, 0.0, -0.5]),
    ), max_size=40),
)
def test_buckets_agree(
    rate: float, capacity: float, part: float, interval: float, calls: list[Any], clocks: Clocks,
) -> None:
    initial = int(capacity * part * 8) / 8
    both = both_buckets(
        rate, capacity, initial, min_interval_seconds=interval, time_window_seconds=1000.0)
    for call, step, tokens, late in calls:
        clocks.advance(step)
        now = None if late is None else clocks.wall + late
        answers: list[Any] = []
        for bucket in both:
            if call == "rate":
                bucket.config.refill_rate = rate * 2
                bucket.config.capacity = capacity + tokens
            elif call == "reset":
                bucket.reset()
            elif call == "get_stats":
                answers.append(bucket.get_stats(now).to_dict())
            else:
                try:
                    answers.append(getattr(bucket, call)(tokens, now))
                except ValueError as error:
                    answers.append(str(error).partition(">")[0])
        if call == "get_stats":
            assert answers[0].keys() == answers[1].keys()
            assert all(near(answers[1][name], value) for name, value in answers[0].items())
        elif answers:
            assert answers[0] == answers[1]
    assert both[0].get_history() == both[1].get_history()
    assert str(both[0])[:15] == str(both[1])[:15]


@settings(max_examples=300)
@given(capacity=st.floats(1e-3, 1e11), rate=st.floats(1e-12, math.inf, exclude_min=True))
def test_every_capacity_and_rate_can_be_counted(capacity: float, rate: float) -> None:
    if capacity > 0 and rate > 0:
        bucket = TokenBucket(TokenBucketConfig(rate, capacity, capacity))
        assert bucket.try_consume(bucket.get_stats().current_tokens)
        assert not bucket.try_consume(2 * capacity + 1)


@pytest.mark.parametrize(("rate", "capacity"), [(math.nan, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_a_rate_or_capacity_that_cannot_be_counted(rate: float, capacity: float) -> None:
    with pytest.raises(ValueError, match="cannot be counted"):
        TokenBucket(TokenBucketConfig(rate, capacity))
    bucket = TokenBucket(TokenBucketConfig(1.0, 10.0, 10.0, min_interval_seconds=1e-9))
    bucket.config.capacity, bucket.config.refill_rate = capacity, rate
    for _ in range(3):
        with pytest.raises(ValueError, match="cannot be counted"):
            bucket.try_consume()
    bucket.config.capacity, bucket.config.refill_rate = 10.0, 1.0
    assert bucket.try_consume(10)


def test_threads_share_a_bucket_exactly() -> None:
    bucket = TokenBucket(TokenBucketConfig(NEVER, 50_000.0, 50_000.0))
    allowed = in_threads(lambda number: granted(bucket.try_consume, 12_500))
    stats = bucket.get_stats()
    assert sum(allowed) == stats.allowed_requests == stats.denied_requests == 50_000
    assert stats.current_tokens == 0
    assert bucket.get_history(1e9)["total_requests"] == 1000


def test_a_thread_that_waited_does_not_refill_again(clocks: Clocks) -> None:
    bucket = TokenBucket(TokenBucketConfig(1.0, 10.0))
    clocks.advance(1.0)
    bucket._refill(clocks.wall)
    bucket._refill(clocks.wall)  # like a thread that waited for the lock
    assert len(bucket.get_history(1e9)["recent_refills"]) == 1


def test_two_threads_refill_once(clocks: Clocks) -> None:
    class Interrupted(float):
        """A time. Its subtraction lets another thread ask in the middle of a refill."""

        def __sub__(self, since: float) -> float:
            if since == START and not other.ident:
                other.start()
                other.join(0.2)  # it waits for the lock
            return float(self) - since

    bucket = TokenBucket(TokenBucketConfig(1.0, 10.0))
    clocks.advance(3.0)
    other = threading.Thread(target=bucket.try_consume)
    bucket.try_consume(current_time=Interrupted(clocks.wall))
    other.join()
    assert bucket.get_stats().current_tokens == 1.0


def test_threads_share_refills_and_a_changing_rate(clocks: Clocks) -> None:
    bucket = TokenBucket(TokenBucketConfig(1000.0, 10.0))

    def work(number: int) -> int:
        if number == 0:
            for turn in range(4000):
                clocks.advance(1 / 1024)
                bucket.config.refill_rate = 500.0 + 500.0 * (turn % 2)
            return 0
        return granted(bucket.try_consume, 15_000)

    allowed = sum(in_threads(work))
    stats = bucket.get_stats()
    assert stats.total_requests == 7 * 15_000
    assert allowed == stats.allowed_requests
    assert 0 < allowed <= 4000 / 1024 * 1000 + 1
