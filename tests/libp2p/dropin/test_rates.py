"""py-libp2p's token bucket and rate limiters, 0.8.1's and ours side by side.

A test with a finding's number in its name (see docs/differences.md) shows what each of them does.
"""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import libp2p.rcmgr.protocol_rate_limiter as protocol_module
import libp2p.rcmgr.rate_limiter as limiter_module
import libp2p.rcmgr.token_bucket as bucket_module
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimitConfig
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimiter as StockProtocolRateLimiter
from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimitScope, RateLimitStrategy
from libp2p.rcmgr.rate_limiter import RateLimiter as StockRateLimiter
from libp2p.rcmgr.token_bucket import TokenBucket as StockTokenBucket
from libp2p.rcmgr.token_bucket import TokenBucketConfig
from multiaddr import Multiaddr

from rcmgr.libp2p.dropin import _clock
from rcmgr.libp2p.dropin.manager import ResourceManager
from rcmgr.libp2p.dropin.protocol_rate_limiter import ProtocolRateLimiter
from rcmgr.libp2p.dropin.rate_limiter import RateLimiter
from rcmgr.libp2p.dropin.token_bucket import TokenBucket

START = 1_800_000_000.0
PER_PEER = RateLimitScope.PER_PEER
NEVER = 1e-9  # tokens per second


class Clocks:
    """The wall clock and the monotonic one, in place of the module `time`."""

    def __init__(self) -> None:
        self.wall, self.steady = START, 1000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    for module in (bucket_module, limiter_module, protocol_module, _clock):
        monkeypatch.setattr(module, "time", clocks)
    return clocks


def peer(number: int) -> ID:
    return ID(b"\x12\x20" + number.to_bytes(32, "big"))


def granted(ask: Callable[..., bool], times: int, *arguments: Any, **keywords: Any) -> int:
    return sum(ask(*arguments, **keywords) for _ in range(times))


def both_buckets(*arguments: Any, **keywords: Any) -> tuple[StockTokenBucket, TokenBucket]:
    """Theirs and ours."""
    return (StockTokenBucket(TokenBucketConfig(*arguments, **keywords)),
            TokenBucket(TokenBucketConfig(*arguments, **keywords)))


def both_limiters(**keywords: Any) -> tuple[StockRateLimiter, RateLimiter]:
    return (StockRateLimiter(RateLimitConfig(**keywords)),
            RateLimiter(RateLimitConfig(**keywords)))


def both_protocols(**keywords: Any) -> tuple[StockProtocolRateLimiter, ProtocolRateLimiter]:
    return (StockProtocolRateLimiter(ProtocolRateLimitConfig("/test/1", **keywords)),
            ProtocolRateLimiter(ProtocolRateLimitConfig("/test/1", **keywords)))


def in_threads(work: Callable[[int], int], threads: int = 8) -> list[int]:
    """What `work` returns of each thread's number, all begun at once."""
    barrier = threading.Barrier(threads)
    results: dict[int, int] = {}

    def run(number: int) -> None:
        barrier.wait()
        results[number] = work(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        running = [threading.Thread(target=run, args=[number]) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == threads  # none failed
    return [results[number] for number in range(threads)]


class Counted(float):
    """A time that counts how often any of its kind is compared."""

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


# -- each finding ------------------------------------------------------------------------------


def test_r2_a_peer_is_limited_by_whatever_name() -> None:
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


def test_r3_who_used_up_its_rate_gets_no_fresh_bucket(clocks: Clocks) -> None:
    for limiter, expected in zip(both_limiters(
        scope=PER_PEER, refill_rate=NEVER, capacity=5, initial_tokens=5, max_peers=1000,
    ), (5, 0), strict=True):
        assert granted(limiter.try_allow, 20, peer_id=peer(0)) == 5
        for number in range(1, 5001):
            assert limiter.try_allow(peer_id=peer(number))
        assert granted(limiter.try_allow, 20, peer_id=peer(0)) == expected
        assert limiter.get_stats().tracked_entities == 1000


def test_r3_nor_do_many_that_did_at_once(clocks: Clocks) -> None:
    _, ours = both_limiters(
        scope=PER_PEER, refill_rate=NEVER, capacity=5, initial_tokens=5, max_peers=1000)
    for number in range(200):
        assert granted(ours.try_allow, 6, peer_id=peer(number)) == 5
    for number in range(200, 3000):
        assert ours.try_allow(peer_id=peer(number))
    assert not any(ours.try_allow(peer_id=peer(number)) for number in range(200))


def test_r4_a_new_peer_costs_the_same_however_many_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Looked(dict[str, float]):
        times = 0

        def get(self, key: str, default: Any = None) -> Any:
            self.times += 1
            return super().get(key, default)

    def ask_left(bucket: TokenBucket, now: float) -> float:
        asked.append(now)
        return left(bucket, now)

    asked: list[float] = []
    left = TokenBucket.left
    monkeypatch.setattr(TokenBucket, "left", ask_left)
    for size in (1000, 4000):
        theirs, ours = both_limiters(scope=PER_PEER, max_peers=size)
        looked = theirs._last_request_times = Looked()
        for number in range(size + 1):
            theirs.try_allow(peer_id=peer(number))
            ours.try_allow(peer_id=peer(number))
        assert looked.times == size

        asked.clear()
        ours.try_allow(peer_id=peer(size + 1))
        assert len(asked) == 16


def test_r5_every_endpoint_has_its_bucket(clocks: Clocks) -> None:
    endpoints = [Multiaddr("/ip4/192.0.2.1/tcp/1"), "/ip4/192.0.2.2/tcp/2"]
    for limiter, allowed, tracked in zip(both_limiters(
        scope=RateLimitScope.PER_ENDPOINT, refill_rate=NEVER, capacity=2, initial_tokens=2,
        max_connections=10,
    ), (100, 4), (1, 10), strict=True):
        assert allowed == sum(
            limiter.try_allow(endpoint=endpoints[turn % 2]) for turn in range(100))
        for number in range(100):
            limiter.try_allow(endpoint=f"/ip4/192.0.2.1/tcp/{number + 10}")
        assert limiter.get_stats().tracked_entities == tracked


@pytest.mark.parametrize(("scope", "argument", "most"), [
    (PER_PEER, "peer_id", 4),
    (RateLimitScope.PER_CONNECTION, "connection_id", 5),
    (RateLimitScope.PER_PROTOCOL, "protocol", 6),
    (RateLimitScope.PER_ENDPOINT, "endpoint", 5),
    (RateLimitScope.GLOBAL, "peer_id", 1),
])
def test_r5_as_many_are_remembered_as_configured(
    scope: RateLimitScope, argument: str, most: int
) -> None:
    _, ours = both_limiters(scope=scope, max_peers=4, max_connections=5, max_protocols=6)
    for number in range(50):
        ours.try_allow(**{argument: str(number)})  # type: ignore[arg-type]
    assert ours.get_stats().tracked_entities == most


@pytest.mark.parametrize(
    "strategy", [RateLimitStrategy.FIXED_WINDOW, RateLimitStrategy.SLIDING_WINDOW])
def test_r6_windows_are_bounded_in_number(strategy: RateLimitStrategy, clocks: Clocks) -> None:
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
    assert ours.try_allow(9.5, current_time=START)  # begun tokens count
    assert not ours.try_allow(0.5, current_time=START + 59)
    assert ours.try_allow(0, current_time=START + 60)  # a request is one at least
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


def test_r7_a_fixed_window_is_a_sliding_one_in_both(clocks: Clocks) -> None:
    """And so never admits twice as much around the turn of a window."""
    for limiter in both_limiters(
        strategy=RateLimitStrategy.FIXED_WINDOW, max_requests_per_window=2, window_size_seconds=60,
    ):
        answers = [limiter.try_allow(current_time=START + at)
                   for at in (0, 59, 60, 61, 118, 119, 120)]
        assert answers == [True, True, True, False, False, True, True]


def test_r8_defaults_stay() -> None:
    """In a process of its own: `install()` changes what the names of a module mean."""
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
    assert granted(ours.try_consume, 20_000, 1e-9) == 10_000  # a thousandth is the least


@pytest.mark.parametrize("kind", ["bucket", "limiter", "protocol"])
def test_r11_the_wall_clock_is_set(kind: str, clocks: Clocks) -> None:
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


def test_r11_new_peers_after_the_wall_clock_was_set(clocks: Clocks) -> None:
    for jump in (-3600, 3600):
        limiter = RateLimiter(RateLimitConfig(scope=PER_PEER, refill_rate=1.0, capacity=10.0))
        clocks.wall += jump
        assert not limiter.try_allow(peer_id=peer(1))
        clocks.advance(3.0)
        assert granted(limiter.try_allow, 9, peer_id=peer(1)) == 3


def test_r11_calls_with_a_time_do_not_stop_it_for_calls_without(clocks: Clocks) -> None:
    for bucket, expected in zip(both_buckets(1.0, 10.0, 10.0), (0, 60), strict=True):
        assert granted(bucket.try_consume, 20) == 10
        clocks.wall += 3600  # somebody sets it forward; one caller gives that time
        assert granted(bucket.try_consume, 20, 1, clocks.wall) == 10
        clocks.wall -= 3600  # and back
        allowed = 0
        for _ in range(60):
            clocks.advance(1.0)
            allowed += granted(bucket.try_consume, 5)
        assert allowed == expected


def test_r11_a_time_that_is_none(clocks: Clocks) -> None:
    ours = TokenBucket(TokenBucketConfig(1.0, 10.0, 10.0))
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="current_time must be seconds"):
            ours.try_consume(1, wrong)
    assert ours.try_consume(10)
    assert ours.try_consume(10, 1e15)  # far ahead: full, and goes on from there
    clocks.advance(4)
    assert granted(ours.try_consume, 10) == 4


def test_r12_watching_costs_the_same_however_much_was_seen(clocks: Clocks) -> None:
    theirs, ours = both_buckets(NEVER, 10.0)
    for bucket in (theirs, ours):
        assert granted(bucket.try_consume, 1000, current_time=Counted(START)) == 0
    assert comparisons(lambda: theirs.try_consume(current_time=Counted(START))) >= 1000
    assert comparisons(lambda: ours.try_consume(current_time=Counted(START))) < 5


def test_r12_what_was_watched(clocks: Clocks) -> None:
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


def test_r13_an_attacked_peer_leaves_little_behind() -> None:
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


def test_r14_a_new_peer_while_another_is_let_in() -> None:
    """0.8.1 looks through its dictionary while another thread changes it, and raises."""

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


def test_r15_memory_of_protocols_is_bounded(clocks: Clocks) -> None:
    theirs, ours = both_protocols(capacity=10.0, initial_tokens=10.0, max_peers=10)
    for limiter in (theirs, ours):
        for number in range(5000):
            assert limiter.try_allow_request(peer_id=peer(number))
    assert len(theirs._request_start_times) == len(theirs._concurrent_requests) == 5000
    assert len(ours._entities) == ours.get_stats().tracked_entities == 10


def test_r15_a_busy_peer_is_not_forgotten_for_idle_ones(clocks: Clocks) -> None:
    _, ours = both_protocols(
        refill_rate=1000.0, capacity=1000.0, initial_tokens=1000.0, max_peers=50,
        max_concurrent_requests=5)
    assert granted(ours.try_allow_request, 9, peer_id=peer(0)) == 5
    for number in range(1, 3000):
        ours.try_allow_request(peer_id=peer(number))
    assert not ours.try_allow_request(peer_id=peer(0))
    assert ours.get_entity_stats(peer(0))["in_backoff"]


def test_r15_backoff_is_not_forgotten_for_new_peers(clocks: Clocks) -> None:
    _, ours = both_protocols(
        refill_rate=1000.0, capacity=1000.0, initial_tokens=1000.0, max_peers=50,
        max_concurrent_requests=2, request_timeout_seconds=30.0, backoff_factor=2.0)
    assert granted(ours.try_allow_request, 3, peer_id=peer(0)) == 2
    clocks.advance(40.0)  # what was in progress has timed out
    for number in range(1, 3000):
        ours.try_allow_request(peer_id=peer(number))
    assert not ours.try_allow_request(peer_id=peer(0))
    with pytest.raises(ValueError, match="tokens must be"):
        ours.try_allow_request(-1, peer_id=peer(0))


def test_r15_who_timed_out_makes_room_first(clocks: Clocks) -> None:
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


def test_r15_backoff_ends_with_what_caused_it(clocks: Clocks) -> None:
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


def test_r15_backoff_is_as_long_as_configured_if_nothing_is_finished(clocks: Clocks) -> None:
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


def test_r16_own_dials_do_not_lock_a_peer_out() -> None:
    for kind, expected in ((StockManager, False), (ResourceManager, True)):
        manager = kind(
            enable_memory_limits=False, connections_per_peer_per_sec=NEVER,
            burst_connections_per_peer=3)
        name = str(peer(1))
        assert granted(manager.acquire_connection, 3, name, None, "outbound") == 3
        assert manager.acquire_connection(name, None, "inbound") == expected


# -- the same calls to both ----------------------------------------------------------------------

STEPS = st.integers(0, 128).map(lambda count: count / 64)
TOKENS = st.integers(0, 64).map(lambda count: count / 8)
RATES = st.sampled_from([0.25, 1.0, 3.5, 8.0, 64.0])
CAPACITIES = st.integers(1, 320).map(lambda count: count / 8)
with_clocks = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def near(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= 0.001  # ours tells thousandths


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


SCOPES: dict[RateLimitScope, list[dict[str, Any]]] = {
    RateLimitScope.GLOBAL: [{}, {"peer_id": peer(1)}],
    PER_PEER: [{"peer_id": peer(1)}, {"peer_id": str(peer(1))}, {"peer_id": "b"}, {}],
    RateLimitScope.PER_CONNECTION: [{"connection_id": "a"}, {"connection_id": "b"}, {}],
    RateLimitScope.PER_PROTOCOL: [{"protocol": "/a"}, {"protocol": "/b"}, {"peer_id": peer(1)}],
    RateLimitScope.PER_ENDPOINT: [{"endpoint": "/ip4/192.0.2.1"}],  # more of them: R5
}


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
                limiter.try_allow(0.0, **who)  # makes 0.8.1's bucket heed the rate of now
        if call == "reset":
            for limiter in both:
                limiter.reset()
        elif call == "get_stats":
            theirs, ours = (limiter.get_stats(**who).to_dict() for limiter in both)
            if windows:
                del theirs["tracked_entities"], ours["tracked_entities"]  # 0.8.1 tells none
            assert theirs.pop("scope") == ours.pop("scope")
            assert theirs.keys() == ours.keys()
            assert all(near(ours[name], value) for name, value in theirs.items())
        else:
            if strategy == RateLimitStrategy.ADAPTIVE and abs(
                both[0].get_stats(**who).burst_available - tokens
            ) < 0.001:
                continue  # rates that are no round numbers
            amount = 1.0 if windows else tokens
            theirs, ours = (limiter.try_allow(amount, **who) for limiter in both)
            assert theirs == ours
    assert str(both[0]) == str(both[1])


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
            assert ours.pop("request_timeouts") >= 0
            assert theirs.keys() == ours.keys()
            assert all(near(ours[name], value) for name, value in theirs.items())
        else:
            assert theirs == ours
        assert both[0].get_entity_stats(**who).keys() == both[1].get_entity_stats(**who).keys()
    for limiter in both:
        limiter.reset()
        assert limiter.get_stats(current_time=clocks.wall).total_requests == 0
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


@settings(max_examples=300, deadline=None)
@given(capacity=st.floats(1e-3, 1e11), rate=st.floats(1e-12, math.inf, exclude_min=True))
def test_every_capacity_and_rate_can_be_counted(capacity: float, rate: float) -> None:
    if capacity > 0 and rate > 0:
        bucket = TokenBucket(TokenBucketConfig(rate, capacity, capacity))
        assert bucket.try_consume(bucket.get_stats().current_tokens)
        assert not bucket.try_consume(2 * capacity + 1)


@pytest.mark.parametrize(("rate", "capacity"), [(math.nan, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_what_cannot_be_counted(rate: float, capacity: float) -> None:
    with pytest.raises(ValueError, match="cannot be counted"):
        TokenBucket(TokenBucketConfig(rate, capacity))
    bucket = TokenBucket(TokenBucketConfig(1.0, 10.0, 10.0, min_interval_seconds=1e-9))
    bucket.config.capacity, bucket.config.refill_rate = capacity, rate
    for _ in range(3):
        with pytest.raises(ValueError, match="cannot be counted"):
            bucket.try_consume()
    bucket.config.capacity, bucket.config.refill_rate = 10.0, 1.0
    assert bucket.try_consume(10)


# -- threads -----------------------------------------------------------------------------------


def test_threads_share_a_bucket_exactly() -> None:
    bucket = TokenBucket(TokenBucketConfig(NEVER, 50_000.0, 50_000.0))
    allowed = in_threads(lambda number: granted(bucket.try_consume, 12_500))
    stats = bucket.get_stats()
    assert sum(allowed) == stats.allowed_requests == stats.denied_requests == 50_000
    assert stats.current_tokens == 0
    assert bucket.get_history(1e9)["total_requests"] == 1000


def test_a_thread_that_comes_late_to_refill_does_not(clocks: Clocks) -> None:
    bucket = TokenBucket(TokenBucketConfig(1.0, 10.0))
    clocks.advance(1.0)
    bucket._refill(clocks.wall)
    bucket._refill(clocks.wall)  # as one does that waited for the lock
    assert len(bucket.get_history(1e9)["recent_refills"]) == 1


def test_two_threads_that_refill_at_once_do_it_once(clocks: Clocks) -> None:
    class Interrupted(float):
        """A time that lets another thread ask while the time since the last refill is found."""

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


def test_threads_share_what_time_brings_and_a_rate_that_changes(clocks: Clocks) -> None:
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


def test_threads_never_have_more_in_progress_than_allowed() -> None:
    limiter = ProtocolRateLimiter(ProtocolRateLimitConfig(
        "/test/1", refill_rate=1e9, capacity=1e9, initial_tokens=1e9, max_concurrent_requests=4,
        request_timeout_seconds=1e9))
    in_progress, most = [0], [0]
    lock = threading.Lock()

    def work(number: int) -> int:
        done = 0
        for _ in range(5000):
            if limiter.try_allow_request(peer_id=peer(1)):
                with lock:  # between begin and finish, so never more than the limiter has
                    in_progress[0] += 1
                    most[0] = max(most[0], in_progress[0])
                time.sleep(0)
                with lock:
                    in_progress[0] -= 1
                limiter.finish_request(peer_id=peer(1))
                done += 1
            else:
                limiter.finish_request(peer_id=peer(2))  # nothing in progress
        return done

    done = sum(in_threads(work))
    assert 0 < most[0] <= 4
    stats = limiter.get_stats(peer(1))
    assert stats.concurrent_requests == 0
    assert stats.allowed_requests == done
