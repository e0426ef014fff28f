"""libp2p's rate limiter of protocols and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimitConfig
from libp2p.rcmgr.rate_limiter import RateLimitScope
from rate_limiters import (
    SCOPES,
    STEPS,
    Clocks,
    both_protocols,
    granted,
    near,
    peer,
    with_clocks,
)
from threads import in_threads

from rcmgr.libp2p.dropin.protocol_rate_limiter import ProtocolRateLimiter


def test_r15_memory_of_protocols_is_bounded(clocks: Clocks) -> None:
    theirs, ours = both_protocols(capacity=10.0, initial_tokens=10.0, max_peers=10)
    for limiter in (theirs, ours):
        for number in range(5000):
            assert limiter.try_allow_request(peer_id=peer(number))
    assert len(theirs._request_start_times) == len(theirs._concurrent_requests) == 5000
    assert len(ours._entities) == ours.get_stats().tracked_entities == 10


def test_r15_a_busy_peer_is_not_replaced_by_idle_ones(clocks: Clocks) -> None:
    _, ours = both_protocols(
        refill_rate=1000.0, capacity=1000.0, initial_tokens=1000.0, max_peers=50,
        max_concurrent_requests=5)
    assert granted(ours.try_allow_request, 9, peer_id=peer(0)) == 5
    for number in range(1, 3000):
        ours.try_allow_request(peer_id=peer(number))
    assert not ours.try_allow_request(peer_id=peer(0))
    assert ours.get_entity_stats(peer(0))["in_backoff"]


def test_r15_a_peer_in_backoff_is_not_replaced_by_new_ones(clocks: Clocks) -> None:
    _, ours = both_protocols(
        refill_rate=1000.0, capacity=1000.0, initial_tokens=1000.0, max_peers=50,
        max_concurrent_requests=2, request_timeout_seconds=30.0, backoff_factor=2.0)
    assert granted(ours.try_allow_request, 3, peer_id=peer(0)) == 2
    clocks.advance(40.0)  # the requests in progress have timed out
    for number in range(1, 3000):
        ours.try_allow_request(peer_id=peer(number))
    assert not ours.try_allow_request(peer_id=peer(0))
    with pytest.raises(ValueError, match="tokens must be"):
        ours.try_allow_request(-1, peer_id=peer(0))


def test_r15_peers_whose_requests_timed_out_are_replaced_first(clocks: Clocks) -> None:
    _, ours = both_protocols(
        refill_rate=1000.0, capacity=1000.0, initial_tokens=1000.0, max_peers=20)
    for number in range(1, 20):
        assert granted(ours.try_allow_request, 5, peer_id=peer(number)) == 5
    clocks.advance(30.0)
    assert ours.try_allow_request(peer_id=peer(0))
    assert ours.try_allow_request(peer_id=peer(20))
    assert ours.get_stats(peer(0)).concurrent_requests == 1
    assert 5 <= ours.get_stats().request_timeouts <= 5 * 16


def test_r15_timeouts_are_counted(clocks: Clocks) -> None:
    for limiter, expected in zip(both_protocols(
        capacity=10.0, initial_tokens=10.0, request_timeout_seconds=30.0,
    ), (0, 3), strict=True):
        for _ in range(3):
            limiter.allow_request(peer_id=peer(1))
        clocks.advance(30.0)
        stats = limiter.get_stats(peer_id=peer(1))
        assert (stats.concurrent_requests, stats.request_timeouts) == (0, expected)


def test_r15_backoff_ends_with_the_requests_that_caused_it(clocks: Clocks) -> None:
    for limiter, expected in zip(both_protocols(
        capacity=100.0, initial_tokens=100.0, max_concurrent_requests=2,
        request_timeout_seconds=30.0, backoff_factor=2.0,
    ), (False, True), strict=True):
        assert granted(limiter.try_allow_request, 3, peer_id=peer(1)) == 2
        limiter.finish_request(peer(1))
        assert not limiter.try_allow_request(peer_id=peer(1))  # one is still in progress
        limiter.finish_request(peer(1))
        clocks.advance(1.0)
        assert limiter.try_allow_request(peer_id=peer(1)) == expected
        assert limiter.get_stats(peer(1)).backoff_events == 1


def test_r15_backoff_lasts_as_configured_if_no_request_ends(clocks: Clocks) -> None:
    for limiter in both_protocols(
        capacity=100.0, initial_tokens=100.0, max_concurrent_requests=2,
        request_timeout_seconds=30.0, backoff_factor=2.0,
    ):
        assert granted(limiter.try_allow_request, 3, peer_id=peer(1)) == 2
        answers = []
        for _ in range(7):
            clocks.advance(10.0)
            answers.append(limiter.try_allow_request(peer_id=peer(1)))
        assert answers == [False] * 5 + [True, True]
        assert limiter.try_allow_request(peer_id=peer(2))


@with_clocks
@given(
    scope=st.sampled_from([
        RateLimitScope.GLOBAL, RateLimitScope.PER_PEER, RateLimitScope.PER_CONNECTION,
        RateLimitScope.PER_PROTOCOL]),
    calls=st.lists(st.tuples(
        st.sampled_from(["try_allow_request", "try_allow_request", "finish_request", "get_stats"]),
        STEPS, st.integers(0, 9), st.booleans(),
    ), max_size=60),
)
def test_protocol_limiters_agree(
    scope: RateLimitScope, calls: list[Any], clocks: Clocks
) -> None:
    both = both_protocols(
        scope=scope, refill_rate=2.0, capacity=6.0, initial_tokens=6.0, max_concurrent_requests=3,
        request_timeout_seconds=4.0, backoff_factor=1.5,
    )
    people = SCOPES[scope] if scope != RateLimitScope.PER_PROTOCOL else [{}]
    for call, step, which, given_time in calls:
        clocks.advance(step)
        who = people[which % len(people)]
        now = clocks.wall if given_time else None
        entity = both[0].get_entity_stats(**who)
        if (
            call == "finish_request" and entity["concurrent_requests"] == 1
            and clocks.wall < entity["backoff_until"]
        ):
            continue  # R15
        theirs, ours = (getattr(limiter, call)(**who, current_time=now) for limiter in both)
        if call == "get_stats":
            theirs, ours = theirs.to_dict(), ours.to_dict()
            for name in ("protocol_name", "protocol_version", "scope"):
                assert theirs.pop(name) == ours.pop(name)
            assert theirs.pop("request_timeouts") == 0
            ours.pop("request_timeouts")  # it counts them; stock never does
            assert theirs.keys() == ours.keys()
            assert all(near(ours[name], value) for name, value in theirs.items())
        else:
            assert theirs == ours
        assert both[0].get_entity_stats(**who).keys() == both[1].get_entity_stats(**who).keys()
    for limiter in both:
        limiter.reset()
        assert limiter.get_stats(current_time=clocks.wall).total_requests == 0
    assert str(both[0]) == str(both[1])


def test_threads_never_exceed_the_requests_in_progress() -> None:
    limiter = ProtocolRateLimiter(ProtocolRateLimitConfig(
        "/test/1", refill_rate=1e9, capacity=1e9, initial_tokens=1e9, max_concurrent_requests=4,
        request_timeout_seconds=1e9))
    in_progress, most = [0], [0]
    lock = threading.Lock()

    def work(number: int) -> int:
        done = 0
        for _ in range(5000):
            if limiter.try_allow_request(peer_id=peer(1)):
                with lock:  # the limiter counts the request all this time
                    in_progress[0] += 1
                    most[0] = max(most[0], in_progress[0])
                time.sleep(0)
                with lock:
                    in_progress[0] -= 1
                limiter.finish_request(peer_id=peer(1))
                done += 1
            else:
                limiter.finish_request(peer_id=peer(2))  # this peer has no request in progress
        return done

    done = sum(in_threads(work))
    assert 0 < most[0] <= 4
    stats = limiter.get_stats(peer(1))
    assert stats.concurrent_requests == 0
    assert stats.allowed_requests == done
