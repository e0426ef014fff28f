"""A single bucket against an exact model in rational numbers."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import in_threads, rounds

from rcmgr import TokenBucket

SECOND = 1_000_000_000
DAY = 86_400


class Clock:
    def __init__(self) -> None:
        self.now = 10 * SECOND

    def __call__(self) -> int:
        return self.now


class ExactBucket:
    """A token bucket in rational numbers."""

    def __init__(self, capacity: int, rate: float, tokens: int, now: int) -> None:
        self.capacity, self.rate = capacity, Fraction(rate)
        self.tokens, self.now = Fraction(tokens), now

    def at(self, now: int) -> Fraction:
        if now > self.now:
            gained = (now - self.now) * self.rate / SECOND
            self.tokens = min(Fraction(self.capacity), self.tokens + gained)
            self.now = now
        return self.tokens


rates = st.one_of(
    st.sampled_from([1 / DAY, 0.3, 1.0, 3.0, 1e3, 7e6, 9_999_999.7, 1e7]),
    st.floats(1 / DAY, 1e7),
)
steps = st.one_of(
    st.integers(0, 1000),
    st.integers(0, 3 * SECOND),
    st.integers(0, 40 * DAY * SECOND),
    st.integers(-5 * SECOND, 0),
)


@settings(max_examples=300)
@given(
    capacity=st.integers(1, 100_000),
    rate=rates,
    full=st.booleans(),
    moves=st.lists(st.tuples(steps, st.integers(0, 50)), max_size=60),
)
def test_agrees_with_the_exact_model(
    capacity: int, rate: float, full: bool, moves: list[tuple[int, int]]
) -> None:
    clock = Clock()
    capacity = min(capacity, max(1, int(rate * 40 * 365 * DAY)))  # it fills in 40 years
    bucket = TokenBucket(capacity, rate, None if full else 0, clock=clock)
    exact = ExactBucket(capacity, rate, capacity if full else 0, clock.now)
    for step, tokens in moves:
        clock.now += step
        there = exact.at(clock.now)
        available = bucket.get_available_tokens()
        assert abs(available - there) < 1
        granted = bucket.try_consume(tokens)
        assert granted == (tokens <= available)
        # close to a whole token the two may differ: the model follows the bucket
        if granted:
            exact.tokens -= tokens
        assert exact.tokens > -Fraction(1, 1000)


@pytest.mark.parametrize("rate", [1 / DAY, 1 / 3, 1.0, 1e6 / 7, 7e6, 9_999_999.7, 1e7])
def test_the_rate_holds_in_the_long_run_however_small_the_steps(rate: float) -> None:
    """At most capacity + rate * t in any window, at least that minus one, one part in a million."""
    for step in (round(SECOND / rate / 3) or 1, round(SECOND / rate * 2.5) or 1):
        clock = Clock()
        bucket = TokenBucket(10, rate, clock=clock)
        granted = bucket.consume_up_to(1_000)
        start = clock.now
        for _ in range(min(20_000, 30 * 365 * DAY * SECOND // step)):
            clock.now += step
            granted += bucket.consume_up_to(1_000)
        due = 10 + Fraction(rate) * (clock.now - start) / SECOND
        assert granted <= due
        assert granted >= due - 1 - due / 2_000_000


def test_a_thousand_small_waits_admit_as_many_as_one_long_one() -> None:
    small, long = Clock(), Clock()
    in_steps = TokenBucket(1_000_000, 7e6, 0, clock=small)
    at_once = TokenBucket(1_000_000, 7e6, 0, clock=long)
    for _ in range(1_000):
        small.now += 143
        in_steps.get_available_tokens()
    long.now += 143_000
    assert in_steps.get_available_tokens() == at_once.get_available_tokens() == 1_001


def test_never_more_than_its_share_in_any_window() -> None:
    clock = Clock()
    bucket = TokenBucket(5, 100.0, clock=clock)
    grants: list[int] = []
    for _ in range(3_000):
        clock.now += 1_234_567
        while bucket.try_consume():
            grants.append(clock.now)
    for first, last in itertools.combinations(range(0, len(grants), 7), 2):
        seconds = Fraction(grants[last] - grants[first], SECOND)
        assert last - first + 1 <= 5 + 100 * seconds


def test_starts_full_empty_or_between() -> None:
    assert TokenBucket(10, 1.0, clock=Clock()).get_available_tokens() == 10
    assert TokenBucket(10, 1.0, 0, clock=Clock()).get_available_tokens() == 0
    assert TokenBucket(10, 1.0, 7, clock=Clock()).get_available_tokens() == 7


def test_amounts() -> None:
    bucket = TokenBucket(5, 1.0, clock=Clock())
    assert bucket.try_consume(0)
    assert not bucket.try_consume(6)
    assert not bucket.try_consume(10**30)
    assert bucket.time_until(6) == math.inf
    assert bucket.time_until(10**30) == math.inf
    assert bucket.time_until(5) == 0
    assert bucket.consume_up_to(3) == 3
    assert bucket.consume_up_to(10**30) == 2
    assert bucket.time_until(2) == 2.0
    bucket.refill()
    assert bucket.get_available_tokens() == 0
    bucket.reset()
    assert bucket.get_available_tokens() == 5
    for method in (bucket.try_consume, bucket.time_until, bucket.consume_up_to):
        with pytest.raises(ValueError, match="tokens must be 0 or more, not -1"):
            method(-1)
        with pytest.raises(TypeError):
            method(1.5)  # type: ignore[arg-type]
    assert bucket.get_available_tokens() == 5


def test_a_clock_that_stands_still_or_goes_back_gives_and_takes_nothing() -> None:
    clock = Clock()
    bucket = TokenBucket(10, 1.0, clock=clock)
    assert bucket.try_consume(4)
    for back in (0, 5 * SECOND, 0, 9 * SECOND):
        clock.now -= back
        assert bucket.get_available_tokens() == 6
    clock.now += 14 * SECOND  # where it was
    assert bucket.get_available_tokens() == 6
    clock.now += 2 * SECOND
    assert bucket.get_available_tokens() == 8


def test_explicit_times_may_start_anywhere() -> None:
    bucket = TokenBucket(10, 1.0, 0)
    assert bucket.get_available_tokens(now_ns=0) == 0
    assert bucket.get_available_tokens(now_ns=3 * SECOND) == 3
    assert bucket.try_consume(3, now_ns=3 * SECOND)
    assert bucket.time_until(1, now_ns=3 * SECOND) == 1.0
    bucket.reset(now_ns=4 * SECOND)
    assert bucket.consume_up_to(20, now_ns=4 * SECOND) == 10
    with pytest.raises(ValueError, match="now_ns"):
        bucket.try_consume(now_ns=2**62)


def test_no_limit() -> None:
    bucket = TokenBucket(1, math.inf)
    assert all(bucket.try_consume(10**9) for _ in range(100))
    assert bucket.consume_up_to(7) == 7
    assert (bucket.time_until(99), bucket.refill_rate) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1.0), ValueError, "capacity must be from 1"),
        ((-1, 1.0), ValueError, "capacity must be from 1"),
        ((1.5, 1.0), TypeError, "capacity must be an int"),
        ((True, 1.0), TypeError, "capacity must be an int"),
        ((1, 0), ValueError, "refill_rate must be above 0"),
        ((1, -1.0), ValueError, "refill_rate must be above 0"),
        ((1, math.nan), ValueError, "refill_rate must be above 0"),
        ((1, "1"), TypeError, "refill_rate must be a float"),
        ((10, 1.0, 11), ValueError, "initial_tokens must be 0 to 10, not 11"),
        ((10, 1.0, -1), ValueError, "initial_tokens must be 0 or more, not -1"),
        ((10, 1.0, 1.0), TypeError, "initial_tokens must be an int"),
        ((2 * 10**9, 1.0), ValueError, "more than 50 years"),
        ((10**18, 1e-9), ValueError, "more than 50 years"),
        ((10**14, 9_999_999.7), ValueError, "one part in a million"),
    ],
)
def test_bad_values(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TokenBucket(*arguments)  # type: ignore[arg-type]


def test_fifty_years_fit() -> None:
    clock = Clock()
    bucket = TokenBucket(1_500_000_000, 1.0, 0, clock=clock)
    clock.now += 49 * 365 * DAY * SECOND
    assert bucket.get_available_tokens() == 1_500_000_000
    assert bucket.try_consume(1_500_000_000)
    assert bucket.time_until(1_500_000_000) == 1.5e9


def test_another_rate_keeps_the_tokens_that_are_there() -> None:
    clock = Clock()
    bucket = TokenBucket(10, 1.0, 4, clock=clock)
    bucket.set_rate(20, 2.0)
    assert (bucket.capacity, bucket.refill_rate, bucket.get_available_tokens()) == (20, 2.0, 4)
    clock.now += SECOND
    assert bucket.get_available_tokens() == 6
    clock.now += SECOND // 4  # half a token
    bucket.set_rate(20, 1.0)
    assert bucket.time_until(7) == 0.5
    bucket.set_rate(5, 0.5)
    assert bucket.get_available_tokens() == 5
    bucket.try_consume(5)
    bucket.set_rate(3, math.inf, clock.now + SECOND)
    assert bucket.try_consume(100)
    bucket.set_rate(3, 1.0)
    assert bucket.get_available_tokens() == 3
    with pytest.raises(ValueError, match="capacity must be from 1"):
        bucket.set_rate(0, 1.0)
    assert bucket.capacity == 3


def test_counts() -> None:
    bucket = TokenBucket(3, 1.0, clock=Clock())
    assert [bucket.try_consume(2) for _ in range(3)] == [True, False, False]
    assert bucket.consume_up_to(5) == 1
    assert (bucket.allowed, bucket.denied) == (1, 2)


def test_threads_are_granted_exactly_what_is_there() -> None:
    most = rounds(100_000)
    bucket = TokenBucket(most, 1.0, clock=Clock())

    def consume(which: int) -> int:
        return sum(bucket.try_consume() for _ in range(most // 2))

    assert sum(in_threads(consume, 4)) == bucket.allowed == bucket.denied == most
    assert bucket.get_available_tokens() == 0
