from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rcmgr import TokenBucket
from rcmgr.replay.gauges import Gauge, least_burst, limit_for, quantile

SECOND, HOUR = 10**9, 3600 * 10**9


def test_a_gauge_knows_its_peak_its_tail_and_its_busy_hour() -> None:
    gauge = Gauge(5)
    gauge.add(10, 5)
    gauge.add(90, 5 + 2 * HOUR)
    gauge.add(-80, 5 + 2 * HOUR + 36 * SECOND)
    gauge.add(-20, 5 + 4 * HOUR)
    gauge.settle(5 + 10 * HOUR)
    assert (gauge.peak, gauge.peak_at, gauge.value) == (100, 5 + 2 * HOUR, 0)
    assert gauge.tail(100) == 100
    assert gauge.tail(99) == 20
    assert gauge.tail(60) == 0
    begin, mean = gauge.busy_hour() or (0, 0)
    assert begin == 5 + 2 * HOUR
    assert mean == pytest.approx(20 * 0.99 + 100 * 0.01)


def test_an_hour_that_has_not_ended_has_its_mean_so_far() -> None:
    gauge = Gauge(0)
    gauge.add(10, 0)
    gauge.settle(HOUR // 2)
    assert gauge.busy_hour() == (0, 10)


def test_a_gauge_without_anything_has_no_busy_hour() -> None:
    gauge = Gauge(0)
    gauge.settle(HOUR)
    assert (gauge.busy_hour(), gauge.tail(99), gauge.peak) == (None, 0, 0)


def test_a_pause_of_a_century_takes_no_memory() -> None:
    """A damaged record may say so."""
    gauge = Gauge(0)
    gauge.add(7, HOUR // 2)
    gauge.settle(900_000 * HOUR + 1)
    assert gauge.busy_hour() == (HOUR, 7.0)
    assert len(gauge._hours) == 3


def test_a_large_amount_is_never_rounded_down() -> None:
    gauge = Gauge(0)
    gauge.add(1_000_003, 0)
    gauge.add(5_000_000, SECOND)
    gauge.settle(SECOND + 1)
    assert 1_000_003 <= gauge.tail(50) <= 1_000_003 * 1.02
    assert gauge.tail(100) == 6_000_003


def test_memory_of_low_priority_needs_a_larger_limit() -> None:
    gauge = Gauge(0)
    gauge.add(40, 0, 101)
    assert gauge.needed == limit_for(40, 101) == 101
    assert limit_for(40, 255) == 40
    # the ledger's rule: limit * (1 + priority) / 256, rounded down
    for priority in (0, 1, 101, 254):
        limit = limit_for(40, priority)
        assert limit * (1 + priority) // 256 >= 40 > (limit - 1) * (1 + priority) // 256


def test_quantiles() -> None:
    assert quantile([], 50) == 0
    assert quantile([3, 1, 2], 50) == 2
    assert quantile(range(1, 1001), 99.9) == 999
    assert quantile(range(1, 1001), 100) == 1000


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=30), st.sampled_from([0.5, 1.0, 3.0]))
@example([0, 2_000], 0.5)
def test_a_bucket_with_the_least_burst_admits_all_and_one_token_less_does_not(
    gaps: list[int], rate: float
) -> None:
    times, now = [], 0
    for gap in gaps:
        now += gap * 1_000_000
        times.append(now)
    burst = least_burst(times, rate)
    assert admits_all(times, burst, rate)
    # a bucket may be as slow as `least_burst` expects, or just as fast as its rate
    assert burst == 1 or not admits_all(times, burst - 1, rate * (1 - 2e-6))


def admits_all(times: list[int], burst: int, rate: float) -> bool:
    clock = [0]
    bucket = TokenBucket(burst, rate, clock=lambda: clock[0])
    for now in times:
        clock[0] = now
        if not bucket.try_consume():
            return False
    return True
