"""libp2p's rate limiter and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.rate_limiter import RateLimitScope, RateLimitStrategy
from rate_limiters import (
    CAPACITIES,
    NEVER,
    PER_PEER,
    RATES,
    SCOPES,
    START,
    STEPS,
    TOKENS,
    Clocks,
    Counted,
    both_limiters,
    comparisons,
    granted,
    near,
    peer,
    with_clocks,
)
from threads import in_threads

from rcmgr.libp2p.dropin.manager import ResourceManager


def test_r2_a_peer_is_limited_under_all_its_names() -> None:
    def allowed(kind: Any, name: Any) -> int:
        manager = kind(
            enable_circuit_breaker=False, enable_graceful_degradation=False,
            enable_memory_limits=False, connections_per_peer_per_sec=NEVER,
            burst_connections_per_peer=5,
        )
        return granted(manager.acquire_connection, 50, name)

    text = str(peer(1))
    assert (allowed(StockManager, text), allowed(ResourceManager, text)) == (5, 5)
    for name in (peer(1), "alice"):
        assert (allowed(StockManager, name), allowed(ResourceManager, name)) == (50, 5)

    theirs, ours = both_limiters(
        scope=PER_PEER, refill_rate=NEVER, capacity=5, initial_tokens=5)
    for limiter, expected in ((theirs, 10), (ours, 5)):
        assert expected == sum(
            granted(limiter.try_allow, 20, peer_id=name)
            for name in (peer(1), text, peer(1).to_bytes()))


@pytest.mark.parametrize(
    "strategy", [RateLimitStrategy.FIXED_WINDOW, RateLimitStrategy.SLIDING_WINDOW])
def test_r6_the_number_of_windows_is_bounded(strategy: RateLimitStrategy, clocks: Clocks) -> None:
    theirs, ours = both_limiters(
        strategy=strategy, scope=PER_PEER, max_peers=10, max_requests_per_window=3)
    for limiter in (theirs, ours):
        assert granted(limiter.try_allow, 5, peer_id=peer(0)) == 3
        for number in range(1, 2001):
            assert limiter.try_allow(peer_id=peer(number))
        assert not limiter.try_allow(peer_id=peer(0))
    assert len(theirs._window_counts) == len(theirs._last_request_times) == 2001
    assert ours.get_stats().tracked_entities == 10


@pytest.mark.parametrize(
    "strategy", [RateLimitStrategy.FIXED_WINDOW, RateLimitStrategy.SLIDING_WINDOW])
def test_r7_windows_count_tokens_and_do_not_copy(strategy: RateLimitStrategy) -> None:
    theirs, ours = both_limiters(strategy=strategy, max_requests_per_window=10)
    assert theirs.try_allow(1000, current_time=START)
    assert not ours.try_allow(1000, current_time=START)
    assert not ours.try_allow(math.inf, current_time=START)
    assert ours.try_allow(9.5, current_time=START)  # part of a token counts as one
    assert not ours.try_allow(0.5, current_time=START + 59)
    assert ours.try_allow(0, current_time=START + 60)  # a request counts as one token at least
    assert not ours.try_allow(10, current_time=START + 61)
    assert ours.try_allow(9, current_time=START + 61)
    assert not ours.try_allow(current_time=START + 119)
    assert ours.try_allow(current_time=START + 120)
    assert granted(ours.try_allow, 20, current_time=START + 121) == 9

    theirs, ours = both_limiters(strategy=strategy, max_requests_per_window=500)
    for limiter in (theirs, ours):
        assert granted(limiter.try_allow, 501, current_time=Counted(START)) == 500
    assert comparisons(lambda: theirs.try_allow(current_time=Counted(START))) >= 500
    assert comparisons(lambda: ours.try_allow(current_time=Counted(START))) < 5


def test_r7_a_fixed_window_slides_in_both(clocks: Clocks) -> None:
    """So it never admits twice as much around the end of a window."""
    for limiter in both_limiters(
        strategy=RateLimitStrategy.FIXED_WINDOW, max_requests_per_window=2, window_size_seconds=60,
    ):
        answers = [limiter.try_allow(current_time=START + at)
                   for at in (0, 59, 60, 61, 118, 119, 120)]
        assert answers == [True, True, True, False, False, True, True]


def test_r8_defaults_are_the_same() -> None:
    """In a separate process, because `install()` replaces names of modules."""
    code = """
    import rcmgr
    from libp2p.rcmgr import protocol_rate_limiter, rate_limiter, token_bucket

    def first_answers():
        asks = [
            token_bucket.create_token_bucket(10.0, 100.0).try_consume,
            token_bucket.create_strict_token_bucket(10.0, 100.0).try_consume,
            rate_limiter.create_rate_limiter().try_allow,
            rate_limiter.create_global_rate_limiter().try_allow,
            rate_limiter.create_adaptive_rate_limiter().try_allow,
            protocol_rate_limiter.create_protocol_rate_limiter("/test/1").try_allow_request,
            rate_limiter.create_per_peer_rate_limiter(initial_tokens=0.0).try_allow,
        ]
        return [ask() for ask in asks], {type(ask.__self__) for ask in asks}

    theirs, their_types = first_answers()
    rcmgr.install()
    ours, our_types = first_answers()
    assert theirs == ours == 6 * [False] + [True]
    assert not their_types & our_types
    from rcmgr.libp2p.dropin import replacements
    assert our_types <= {kind for _, kind in replacements()}
    assert {kind.__name__ for kind in our_types} == {
        "ProtocolRateLimiter", "RateLimiter", "TokenBucket"}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


def test_r13_a_peer_leaves_little_memory() -> None:
    peers = [peer(number) for number in range(50)]

    def kept(limiter: Any) -> float:
        tracemalloc.start()
        try:
            for each in peers:
                for _ in range(200):
                    limiter.try_allow(peer_id=each)
            return tracemalloc.get_traced_memory()[0] / len(peers)
        finally:
            tracemalloc.stop()

    theirs, ours = both_limiters(
        scope=PER_PEER, refill_rate=NEVER, capacity=5, initial_tokens=5)
    for each in peers:
        str(each), each.to_bytes()
    assert kept(theirs) > 10_000
    assert kept(ours) < 2_000


def test_r14_a_new_peer_while_another_thread_adds_one() -> None:
    """0.8.1 iterates over its dictionary while another thread changes it, and raises."""

    class Interrupted(dict[str, float]):
        def get(self, key: str, default: Any = None) -> Any:
            other = threading.Thread(target=theirs._token_buckets.__setitem__, args=(key * 2, None))
            other.start()
            other.join()
            return super().get(key, default)

    theirs, _ = both_limiters(scope=PER_PEER, max_peers=10)
    for number in range(10):
        theirs.try_allow(peer_id=peer(number))
    theirs._last_request_times = Interrupted()
    with pytest.raises(RuntimeError, match="changed size during iteration"):
        theirs.try_allow(peer_id=peer(10))
    manager = StockManager(connections_per_peer_per_sec=NEVER, burst_connections_per_peer=1)
    assert granted(manager.acquire_connection, 3, str(peer(0))) == 1
    manager.connection_rate_limiter = theirs
    assert granted(manager.acquire_connection, 3, str(peer(11))) == 3


@pytest.mark.parametrize("most", [100, 12_000])
def test_r14_many_threads_and_new_peers(most: int) -> None:
    _, ours = both_limiters(
        scope=PER_PEER, refill_rate=NEVER, capacity=3, initial_tokens=3, max_peers=most)
    peers = [peer(number) for number in range(12_000)]

    def work(number: int) -> int:
        mine = peers[number * 1500:(number + 1) * 1500]
        return sum(ours.try_allow(peer_id=each) for each in mine for _ in range(8))

    allowed = sum(in_threads(work))
    stats = ours.get_stats()
    assert (stats.total_requests, stats.allowed_requests) == (8 * len(peers), allowed)
    assert stats.tracked_entities == most
    if most == len(peers):
        assert allowed == 3 * len(peers)


@with_clocks
@given(
    strategy=st.sampled_from(RateLimitStrategy), scope=st.sampled_from(RateLimitScope),
    rate=RATES, capacity=CAPACITIES, full=st.booleans(),
    calls=st.lists(st.tuples(
        st.sampled_from(["try_allow", "try_allow", "try_allow", "get_stats", "reset"]),
        STEPS, TOKENS, st.integers(0, 9), st.booleans(),
    ), max_size=40),
)
def test_limiters_agree(
    strategy: RateLimitStrategy, scope: RateLimitScope, rate: float, capacity: float, full: bool,
    calls: list[Any], clocks: Clocks,
) -> None:
    both = both_limiters(
        strategy=strategy, scope=scope, refill_rate=rate, capacity=capacity,
        initial_tokens=capacity if full else 0.0, window_size_seconds=4.0,
        max_requests_per_window=5, base_rate=8.0, max_rate=32.0, min_rate=2.0,
        adaptation_factor=0.5,
    )
    windows = strategy in (RateLimitStrategy.FIXED_WINDOW, RateLimitStrategy.SLIDING_WINDOW)
    for call, step, tokens, which, given_time in calls:
        clocks.advance(step)
        who = {**SCOPES[scope][which % len(SCOPES[scope])],
               "current_time": clocks.wall if given_time else None}
        if strategy == RateLimitStrategy.ADAPTIVE:
            for limiter in both:
                limiter.try_allow(0.0, **who)  # so that 0.8.1's bucket takes the current rate
        if call == "reset":
            for limiter in both:
                limiter.reset()
        elif call == "get_stats":
            theirs, ours = (limiter.get_stats(**who).to_dict() for limiter in both)
            if windows:
                del theirs["tracked_entities"], ours["tracked_entities"]  # 0.8.1 reports 0
            assert theirs.pop("scope") == ours.pop("scope")
            assert theirs.keys() == ours.keys()
            assert all(near(ours[name], value) for name, value in theirs.items())
        else:
            if strategy == RateLimitStrategy.ADAPTIVE and abs(
                both[0].get_stats(**who).burst_available - tokens
            ) < 0.001:
                continue  # rates that are not exact in both
            amount = 1.0 if windows else tokens
            theirs, ours = (limiter.try_allow(amount, **who) for limiter in both)
            assert theirs == ours
    assert str(both[0]) == str(both[1])


def test_adaptive_rates_agree_and_stay_in_bounds(clocks: Clocks) -> None:
    theirs, ours = both_limiters(
        strategy=RateLimitStrategy.ADAPTIVE, capacity=100.0, initial_tokens=100.0, base_rate=8.0,
        max_rate=32.0, min_rate=2.0, adaptation_factor=0.5)
    for tokens, until in ((0.0, 32.0), (101.0, 2.0), (0.0, 32.0)):
        for _ in range(8):
            clocks.advance(0.25)
            assert theirs.try_allow(tokens) == ours.try_allow(tokens)
            assert ours.get_entity_stats()["refill_rate"] == theirs._current_rate
        assert theirs._current_rate == until
