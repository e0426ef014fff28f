"""Rates by name and by peer, alone and in a manager."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest

from rcmgr import (
    AddressRates,
    ConnectionRateLimits,
    DenialLog,
    ProtocolRateLimiter,
    Rate,
    RateLimiter,
    RateLimitExceeded,
    RateLimits,
    ResourceManager,
)
from rcmgr.peers import peer_text

SECOND = 1_000_000_000
PEER = b"\x00\x25" + bytes(36)
OTHER = b"\x00\x25" + bytes(35) + b"\x01"


class Clock:
    def __init__(self) -> None:
        self.now = 10 * SECOND

    def __call__(self) -> int:
        return self.now


LIMITS = RateLimits(
    default=Rate(1.0, 3),
    overrides={"dear": Rate(0.5, 2), "free": None},
    overall=Rate(10.0, 8),
    costs={"bulk": 3, "ping": 0},
    max_peers=50,
    on_full="deny_new",
)


def test_a_resource_has_its_own_rate_the_default_or_none() -> None:
    clock = Clock()
    limiter = RateLimiter(RateLimits(default=Rate(1.0, 3), overrides={"dear": Rate(0.5, 1),
                                                                      "free": None},
                                     costs={"bulk": 2}), clock=clock)
    assert [limiter.check_rate_limit("one") for _ in range(4)] == [True, True, True, False]
    assert limiter.check_rate_limit("two")
    assert [limiter.check_rate_limit("dear") for _ in range(2)] == [True, False]
    assert all(limiter.check_rate_limit("free") for _ in range(100))
    assert [limiter.check_rate_limit("bulk") for _ in range(2)] == [True, False]
    assert limiter.check_rate_limit("bulk", 1)
    clock.now += SECOND
    assert limiter.check_rate_limit("one")
    assert limiter.get_rate_limit_status("dear") == {
        "limit": {"refill_rate": 0.5, "burst": 1},
        "available": 0,
        "retry_after_s": 1.0,
        "allowed": 1,
        "denied": 1,
    }
    assert limiter.get_rate_limit_status("free") == {
        "limit": None, "available": None, "retry_after_s": 0.0, "allowed": 0, "denied": 0}
    assert all(RateLimiter(RateLimits()).check_rate_limit("x") for _ in range(100))


def test_the_overall_rate_of_resources() -> None:
    limiter = RateLimiter(RateLimits(default=Rate(1.0, 3), overall=Rate(1.0, 4)), clock=Clock())
    assert [limiter.check_rate_limit("a") for _ in range(4)] == [True] * 3 + [False]
    assert [limiter.check_rate_limit("b") for _ in range(2)] == [True, False]
    status = limiter.get_rate_limit_status("b")
    assert (status["available"], status["retry_after_s"]) == (2, 1.0)


def test_peers_operations_costs_and_the_overall_rate() -> None:
    clock = Clock()
    limiter = ProtocolRateLimiter("/test/1", LIMITS, clock=clock)
    check = limiter.check_peer_rate_limit
    assert [check(PEER, "a"), check(PEER, "b"), check(PEER), check(PEER)] == [True] * 3 + [False]
    assert [check(PEER, "dear") for _ in range(3)] == [True, True, False]
    assert check(PEER, "ping")
    assert check(OTHER, "bulk")  # the eighth token of the overall bucket
    assert not check(OTHER, "dear")  # the overall bucket denies, and "dear" keeps its tokens
    assert not check(OTHER, "free")
    clock.now += SECOND
    assert [check(OTHER, "dear") for _ in range(3)] == [True, True, False]
    stats = limiter.get_protocol_stats()
    assert stats["denied_overall"] == 2
    assert stats["most_denied"][0] == (peer_text(PEER), None, 1)
    assert stats["tracked_peers"] == 4


def test_a_denial_names_the_rate_that_refused() -> None:
    denials = DenialLog()
    limiter = ProtocolRateLimiter(
        "/test/1", RateLimits(default=Rate(1.0, 1), overall=Rate(2.0, 2)), denials=denials,
        clock=Clock())
    for peer in (PEER, PEER, OTHER, b"third"):
        limiter.check_peer_rate_limit(peer)
    first, second = denials
    assert (first.refill_rate, first.burst, first.limited_by) == (1.0, 1, "default")
    assert (second.refill_rate, second.burst, second.limited_by) == (2.0, 2, "overall")


def test_most_denials_of_all_operations_come_first() -> None:
    limiter = ProtocolRateLimiter(
        "/test/1", RateLimits(Rate(0.001, 1), {"op": Rate(0.001, 1)}), clock=Clock())
    for peer, operation, denials in ((PEER, "a", 1), (OTHER, "op", 3), (b"third", "op", 2)):
        for _ in range(1 + denials):
            limiter.check_peer_rate_limit(peer, operation)
    assert limiter.get_protocol_stats()["most_denied"] == [
        (peer_text(OTHER), "op", 3), (peer_text(b"third"), "op", 2), (peer_text(PEER), None, 1)]


def test_a_denial_by_one_takes_nothing_from_the_other() -> None:
    limiter = ProtocolRateLimiter(
        "/test/1", RateLimits(default=Rate(1.0, 2), overall=Rate(1.0, 3)), clock=Clock())
    check = limiter.check_peer_rate_limit
    for _ in range(10):
        check(PEER)
    assert check(OTHER)
    for _ in range(10):
        assert not check(OTHER)
    assert limiter._buckets.default is not None
    assert limiter._buckets.default.get_available_tokens(OTHER) == 1


def test_a_stream_does_not_cost_a_request() -> None:
    limiter = ProtocolRateLimiter("/a/1", RateLimits(Rate(0.001, 2)))
    assert [limiter.check_peer_rate_limit(PEER, "stream") for _ in range(3)] == [True, True, False]
    assert [limiter.check_peer_rate_limit(PEER) for _ in range(3)] == [True, True, False]
    assert limiter.counts()["allowed"] == 4
    limiter = ProtocolRateLimiter("/a/1", RateLimits(Rate(0.001, 2), {"stream": None}))
    assert all(limiter.check_peer_rate_limit(PEER, "stream") for _ in range(9))
    assert limiter.check_peer_rate_limit(PEER)


def test_exempt_peers() -> None:
    limiter = ProtocolRateLimiter(
        "/test/1", RateLimits(default=Rate(1.0, 1)), exempt_peers=[PEER], clock=Clock())
    assert all(limiter.check_peer_rate_limit(PEER) for _ in range(10))
    assert limiter.retry_after(PEER) == 0
    limiter.remove_exempt_peer(PEER)
    assert [limiter.check_peer_rate_limit(PEER) for _ in range(2)] == [True, False]
    assert limiter.retry_after(PEER) == pytest.approx(1.0, abs=1e-3)
    limiter.add_exempt_peer(PEER)
    assert limiter.retry_after(PEER) == 0
    assert limiter.check_peer_rate_limit(PEER)
    assert limiter.get_protocol_stats()["exempted"] == 11


async def test_around_a_request() -> None:
    limiter = ProtocolRateLimiter("/test/1", RateLimits(default=Rate(0.5, 1)), clock=Clock())
    async with limiter.request(PEER, "get"):
        pass
    served = False
    with pytest.raises(RateLimitExceeded) as caught:
        async with limiter.request(PEER, "get"):
            served = True
    assert not served
    error = caught.value
    assert (error.protocol, error.operation, error.peer_id, error.retry_after_s) == (
        "/test/1", "get", PEER, 2.0)
    assert "get of /test/1" in str(error)
    assert "retry after 2 s" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.protocol, again.retry_after_s) == ("/test/1", 2.0)
    with pytest.raises(ZeroDivisionError):
        async with limiter.request(OTHER, "get"):
            _ = 1 / 0


def test_in_the_manager() -> None:
    manager = ResourceManager(allowlist=[OTHER])
    assert manager.check_protocol_rate_limit("/test/1", PEER)
    manager.add_protocol_rate_limiter("/test/1", RateLimits(default=Rate(0.001, 2)))
    checks = [manager.check_protocol_rate_limit("/test/1", PEER, "op") for _ in range(3)]
    assert checks == [True, True, False]
    assert all(manager.check_protocol_rate_limit("/test/1", OTHER, "op") for _ in range(10))
    assert isinstance(manager.last_denial, RateLimitExceeded)
    assert manager.last_denial.retry_after_s > 900
    stats = json.loads(json.dumps(manager.get_stats()))
    assert stats["protocol_rates"]["/test/1"]["most_denied"] == [[peer_text(PEER), None, 1]]
    assert stats["denied"] == {"protocol_rate": 1}


async def test_a_managers_limiter_notes_its_denials_for_every_caller() -> None:
    manager = ResourceManager()
    limiter = manager.add_protocol_rate_limiter("/test/1", RateLimits(overall=Rate(0.001, 1)))
    async with limiter.request(PEER, "op"):
        pass
    with pytest.raises(RateLimitExceeded):
        async with limiter.request(PEER, "op"):
            pass
    assert not limiter.check_peer_rate_limit(OTHER, "op")
    assert not manager.check_protocol_rate_limit("/test/1", PEER, "op")
    assert [(error.code, error.peer_id) for error in manager.denials] == [
        ("rate.protocol", peer) for peer in (PEER, OTHER, PEER)]
    assert manager.get_stats()["denied"] == {"protocol_rate": 3}


def test_connections_by_address_and_peer() -> None:
    manager = ResourceManager(
        allowlist=[OTHER],
        connection_rate_limits=ConnectionRateLimits(per_ip=Rate(0.001, 2),
                                                    per_peer=Rate(0.001, 1)))

    def connect(ip: str | None, direction: str = "inbound") -> bool:
        scope = manager.open_connection(None, endpoint_ip=ip, direction=direction)
        if scope is not None:
            scope.close()
        return scope is not None

    assert [connect("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert connect("192.0.2.2")
    assert all(connect("192.0.2.1", "outbound") for _ in range(5))
    assert all(connect(None) for _ in range(5))
    assert [connect(f"2001:db8::{i}") for i in range(3)] == [True, True, False]
    assert connect("2001:db8:0:1::1")
    assert not connect("::ffff:192.0.2.1")
    first = manager.open_connection(PEER, direction="inbound")
    assert first is not None
    assert manager.open_connection(PEER, direction="inbound") is None
    assert all(manager.open_connection(OTHER, direction="inbound") for _ in range(3))
    # the node's dials are not limited, and take no tokens from the peer
    dialled = [manager.open_connection(b"dialled", direction="outbound") for _ in range(3)]
    assert None not in dialled
    assert manager.open_connection(b"dialled", direction="inbound") is not None
    del dialled
    denied = manager.get_stats()["denied"]
    assert (denied["address_rate"], denied["connection_rate_per_peer"]) == (3, 1)
    first.close()
    assert manager.get_stats()["connections"] == 0


def test_an_infinite_rate_is_no_limit() -> None:
    limiter = RateLimiter(RateLimits(default=Rate(math.inf, 1)))
    assert all(limiter.check_rate_limit("x") for _ in range(100))


# -- networks ----------------------------------------------------------------------------------


def with_networks(rates: AddressRates, limits: RateLimits | None = None, **more: Any) -> Any:
    clock = Clock()
    limiter = ProtocolRateLimiter(
        "/a", limits or RateLimits(), networks=rates, clock=clock, **more)
    return limiter, clock


def asked(limiter: ProtocolRateLimiter, addresses: list[Any]) -> list[bool]:
    """One request from each address, always by a new peer."""
    return [
        limiter.check_peer_rate_limit(b"made up %d" % number, "stream", address)
        for number, address in enumerate(addresses)]


def test_many_peers_of_one_network_share_its_rate() -> None:
    limiter, clock = with_networks(AddressRates.for_streams(Rate(0.5, 3)))
    assert asked(limiter, [f"192.0.2.{n}" for n in range(5)]) == [True] * 3 + [False] * 2
    assert asked(limiter, ["192.0.3.1", "127.0.0.1", "/ip4/192.0.2.9/tcp/1"]) == [
        True, True, False]
    assert asked(limiter, [f"2001:db8:0:1{n:02x}::1" for n in range(5)]) == (
        [True] * 3 + [False] * 2)
    assert asked(limiter, ["2001:db8:0:200::1"]) == [True]
    clock.now += 2_000_000_000
    assert asked(limiter, ["192.0.2.1", "192.0.2.1"]) == [True, False]
    counts = limiter.counts()
    assert (counts["denied"], counts["denied_by_network"]) == (0, 6)


def test_without_an_address_a_network_has_no_limit() -> None:
    limiter, _ = with_networks(AddressRates(ipv4=((0, Rate(0.001, 1)),)))
    assert asked(limiter, [None, "/dns4/example.org/tcp/1", "/p2p-circuit"] * 9) == [True] * 27
    for wrong in ("1.2.3.999", 5, b"abc"):
        with pytest.raises((TypeError, ValueError)):
            limiter.check_peer_rate_limit(b"peer", "stream", wrong)
    assert limiter.counts()["denied_by_network"] == 0


def test_a_denied_peer_takes_nothing_from_its_network() -> None:
    limiter, _ = with_networks(
        AddressRates.for_streams(Rate(0.001, 3)),
        RateLimits(default=Rate(0.001, 1), overall=Rate(0.001, 100)))
    greedy = [limiter.check_peer_rate_limit(b"greedy", "a", "192.0.2.1") for _ in range(9)]
    assert greedy == [True] + [False] * 8
    assert asked(limiter, ["192.0.2.1"] * 3) == [True, True, False]
    # a network above its rate takes nothing from its peers
    assert limiter.retry_after(b"made up 2", "stream") == 0


def test_the_last_token_of_all_peers_is_not_free_of_the_rate_of_its_network() -> None:
    limiter, _ = with_networks(
        AddressRates.for_streams(Rate(0.001, 1)),
        RateLimits(default=Rate(0.001, 9), overall=Rate(0.001, 2)))
    assert limiter.check_peer_rate_limit(b"a", "x", "192.0.2.1")
    assert not limiter.check_peer_rate_limit(b"b", "x", "192.0.2.2")  # overall has one token
    counts = limiter.counts()
    assert (counts["denied_by_network"], counts["denied_overall"]) == (1, 0)
    assert limiter.check_peer_rate_limit(b"b", "x", "198.51.100.1")


def test_a_refusal_by_hand_names_the_rate() -> None:
    limiter = ProtocolRateLimiter("/a", LIMITS)
    assert [
        (refusal.limited_by, refusal.rate, refusal.code) for refusal in (
            limiter.refusal(), limiter.refusal("dear"), limiter.refusal(by_overall=True))
    ] == [
        ("default", Rate(1.0, 3), "rate.protocol"), ("overrides", Rate(0.5, 2), "rate.protocol"),
        ("overall", Rate(10.0, 8), "rate.protocol")]


def test_exempt_peers_take_nothing_from_a_network() -> None:
    limiter, _ = with_networks(
        AddressRates.for_streams(Rate(0.001, 1)), exempt_peers=[b"friend"])
    for _ in range(5):
        assert limiter.check_peer_rate_limit(b"friend", "stream", "192.0.2.1")
    assert asked(limiter, ["192.0.2.1"] * 2) == [True, False]


async def test_a_denial_names_the_network() -> None:
    denials = DenialLog()
    limiter, _ = with_networks(AddressRates.for_streams(Rate(0.5, 1)), denials=denials)
    async with limiter.request(b"peer", "search", "192.0.2.1"):
        pass
    with pytest.raises(RateLimitExceeded) as caught:
        async with limiter.request(b"other", "search", ("192.0.2.7", 4001)):
            pytest.fail("it was not denied")
    for error in (caught.value, denials.last):
        assert error is not None
        assert error.code == "rate.protocol"
        assert error.limited_by == "network 192.0.2.0/24"
        assert error.retry_after_s == 2
        assert "rate limit exceeded: search of /a by network 192.0.2.0/24" in str(error)
        assert error.setting == "ProtocolRateLimiter.networks of /a"
    assert len(denials.most_denied_addresses()) == 1
