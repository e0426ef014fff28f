"""Which peers, connections or endpoints a limiter remembers.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

from typing import Any

import pytest
from libp2p.rcmgr.rate_limiter import RateLimitScope
from multiaddr import Multiaddr
from rate_limiters import NEVER, PER_PEER, Clocks, both_limiters, granted, peer

from rcmgr.libp2p.dropin.token_bucket import TokenBucket


def test_r3_a_peer_that_used_up_its_rate_keeps_its_bucket(clocks: Clocks) -> None:
    for limiter, expected in zip(both_limiters(
        scope=PER_PEER, refill_rate=NEVER, capacity=5, initial_tokens=5, max_peers=1000,
    ), (5, 0), strict=True):
        assert granted(limiter.try_allow, 20, peer_id=peer(0)) == 5
        for number in range(1, 5001):
            assert limiter.try_allow(peer_id=peer(number))
        assert granted(limiter.try_allow, 20, peer_id=peer(0)) == expected
        assert limiter.get_stats().tracked_entities == 1000


def test_r3_many_peers_that_used_up_their_rate_keep_their_buckets(clocks: Clocks) -> None:
    _, ours = both_limiters(
        scope=PER_PEER, refill_rate=NEVER, capacity=5, initial_tokens=5, max_peers=1000)
    for number in range(200):
        assert granted(ours.try_allow, 6, peer_id=peer(number)) == 5
    for number in range(200, 3000):
        assert ours.try_allow(peer_id=peer(number))
    assert not any(ours.try_allow(peer_id=peer(number)) for number in range(200))


def test_r4_the_cost_of_a_new_peer_does_not_grow(
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


def test_r5_every_endpoint_has_a_bucket(clocks: Clocks) -> None:
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
def test_r5_the_configured_number_is_remembered(
    scope: RateLimitScope, argument: str, most: int
) -> None:
    _, ours = both_limiters(scope=scope, max_peers=4, max_connections=5, max_protocols=6)
    for number in range(50):
        ours.try_allow(**{argument: str(number)})  # type: ignore[arg-type]
    assert ours.get_stats().tracked_entities == most
