"""Connections per network, at once and by rate."""

from __future__ import annotations

import dataclasses
import ipaddress
import pickle
import threading
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from libp2p_values import Multiaddr
from threads import in_threads, rounds

from rcmgr.errors import AddressLimitExceeded, RateLimitExceeded, ResourceLimitExceeded
from rcmgr.gates.addresses import Allowlist
from rcmgr.gates.fleet import FleetNetworks, network_key
from rcmgr.gates.networks import (
    AddressGate,
    AddressRateLimiter,
    AddressRefusal,
    NetworkShare,
    SubnetLimiter,
)
from rcmgr.limits.fleet import FleetLimits, FleetPlaces
from rcmgr.limits.networks import AddressRates, SubnetLimits, packed_ip
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.rates import Rate
from rcmgr.manager import ResourceManager

S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


def ip(text: str) -> bytes:
    packed = packed_ip(text)
    assert packed is not None
    return packed


def admitted(limiter: SubnetLimiter, addresses: list[str]) -> int:
    return sum(limiter.try_add(ip(address)) is None for address in addresses)


def test_the_defaults() -> None:
    limiter = SubnetLimiter()
    assert admitted(limiter, ["1.2.3.4"] * 10) == 8
    assert admitted(limiter, ["1.2.3.5"] * 10) == 8
    assert admitted(limiter, ["127.0.0.1", "127.9.9.9", "::1"] * 100) == 300
    assert admitted(limiter, [f"2001:db8:0:{i:x}00::1" for i in range(20)] * 8) == 64  # one /48
    assert admitted(limiter, [f"2001:db8:1::{i:x}" for i in range(20)]) == 8  # one /56
    full = limiter.try_add(ip("2001:db8:1::1"))
    assert full is not None
    assert (str(full[0]), full[1]) == ("2001:db8:1::/56", 8)


def test_asking_counts_nothing() -> None:
    limiter = SubnetLimiter(SubnetLimits(ipv4=((32, 1), (24, 2))))
    for _ in range(3):
        assert limiter.full(ip("1.2.3.4")) is None
    assert len(limiter) == 0
    assert admitted(limiter, ["1.2.3.4", "1.2.3.5"]) == 2
    full = limiter.full(ip("1.2.3.6"))
    assert full is not None
    assert (str(full[0]), full[1]) == ("1.2.3.0/24", 2)
    assert limiter.full(ip("1.2.4.4")) is None


def test_gates_may_share_a_limiter() -> None:
    limiter = SubnetLimiter(SubnetLimits(ipv4=((32, 1),)))
    gate = AddressGate(limiter)
    assert gate.subnets is limiter
    entered = gate.try_enter("1.2.3.4", True)
    assert isinstance(entered, NetworkShare)
    assert admitted(limiter, ["1.2.3.4"]) == 0
    entered.close()
    assert admitted(limiter, ["1.2.3.4"]) == 1
    assert isinstance(gate.try_enter("1.2.3.4", True), AddressRefusal)


def test_a_refusal_counts_nothing() -> None:
    limiter = SubnetLimiter(SubnetLimits(ipv4=((32, 2), (24, 3)), ipv6=(), overrides={}))
    assert admitted(limiter, ["1.2.3.1"] * 9) == 2
    assert admitted(limiter, ["1.2.3.2"] * 9) == 1  # the /24 is full
    limiter.remove(ip("1.2.3.1"))
    assert admitted(limiter, ["1.2.3.2"] * 9) == 1
    for address in ("1.2.3.1", "1.2.3.2", "1.2.3.2"):
        limiter.remove(ip(address))
    assert len(limiter) == 0
    assert limiter.over_released == 0
    limiter.remove(ip("1.2.3.2"))
    assert limiter.over_released == 1
    assert admitted(limiter, ["2001:db8::1"] * 100) == 100


def test_the_longest_override_holds_alone() -> None:
    limiter = SubnetLimiter(SubnetLimits(
        overrides={"10.0.0.0/8": 5, "10.1.0.0/16": 20, "10.1.1.1/32": None}
    ))
    assert admitted(limiter, ["10.2.0.1"] * 9) == 5
    assert admitted(limiter, ["10.2.0.2"] * 9) == 0
    assert admitted(limiter, ["10.1.0.1"] * 30) == 20
    assert admitted(limiter, ["10.1.1.1"] * 100) == 100
    assert admitted(limiter, ["11.0.0.1"] * 9) == 8


def test_mapped_addresses_are_ipv4() -> None:
    limiter = SubnetLimiter()
    assert admitted(limiter, ["1.2.3.4", "::ffff:1.2.3.4"] * 8) == 8
    assert admitted(limiter, ["::ffff:127.0.0.1"] * 100) == 100


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=80))
def test_subnets_against_a_model(steps: list[tuple[bool, int]]) -> None:
    limits = SubnetLimits(ipv4=((32, 2), (30, 5)), overrides={"10.0.0.6/31": 3})
    limiter = SubnetLimiter(limits)
    open_: Counter[int] = Counter()

    def groups(last: int) -> list[tuple[set[int], int]]:
        if last in (6, 7):
            return [({6, 7}, 3)]
        # a network with an override does not count toward other networks
        return [({last}, 2), (set(range(last // 4 * 4, last // 4 * 4 + 4)) - {6, 7}, 5)]

    for adding, last in steps:
        address = bytes([10, 0, 0, last])
        if adding:
            expected = all(sum(open_[i] for i in ips) < most for ips, most in groups(last))
            assert (limiter.try_add(address) is None) is expected
            open_[last] += expected
        elif open_[last]:
            limiter.remove(address)
            open_[last] -= 1
    for last, count in open_.items():
        for _ in range(count):
            limiter.remove(bytes([10, 0, 0, last]))
    assert len(limiter) == limiter.over_released == 0


def test_threads_pass_no_limit() -> None:
    limiter = SubnetLimiter(SubnetLimits(ipv4=((32, 2),)))
    address = ip("1.2.3.4")
    inside, most = [0], [0]
    lock = threading.Lock()

    def work(_: int) -> None:
        for _ in range(rounds(5_000)):
            if limiter.try_add(address) is None:
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= 1
                limiter.remove(address)

    in_threads(work, 6)
    assert 1 <= most[0] <= 2
    assert len(limiter) == limiter.over_released == 0


@pytest.mark.parametrize("wide", [
    {"ipv4": ((32, Rate(0.001, 2)), (24, Rate(1, 1)))},
    {"ipv4": ((32, Rate(0.001, 2)),), "overall": Rate(1, 1)},
])
def test_a_refusal_of_a_wide_network_takes_no_token_of_a_narrow_one(wide: Any) -> None:
    clock = Clock()
    limiter = AddressRateLimiter(AddressRates(ipv6=(), **wide), clock=clock)
    assert limiter.try_take("192.0.2.1") is None
    for _ in range(5):
        assert limiter.try_take("192.0.2.1") is not None
    clock.now += S
    assert limiter.try_take("192.0.2.1") is None


def test_rates_by_default() -> None:
    clock = Clock()
    limiter = AddressRateLimiter(clock=clock)

    def burst(address: str, tries: int = 200) -> int:
        return sum(limiter.try_take(ip(address)) is None for _ in range(tries))

    assert burst("1.2.3.4") == 16
    assert burst("127.0.0.1") == burst("::1") == 200
    assert sum(burst(f"2001:db8:0:{i:x}00::1") for i in range(20)) == 80  # one /48
    late = limiter.try_take(ip("1.2.3.4"))
    assert late is not None
    assert str(late[0]) == "1.2.3.4/32"
    assert 4.9 < late[1] <= 5.01
    clock.now += 5 * S
    assert burst("1.2.3.4") == 1


def test_a_rate_refusal_takes_no_token_elsewhere() -> None:
    clock = Clock()
    limiter = AddressRateLimiter(
        AddressRates(ipv4=((32, Rate(1.0, 10)), (24, Rate(1.0, 3))), overall=Rate(1.0, 5)),
        clock=clock,
    )
    assert [limiter.try_take(ip("1.2.3.4")) is None for _ in range(9)] == [True] * 3 + [False] * 6
    late = limiter.try_take(ip("1.2.3.4"))
    assert late is not None
    assert late[0].bits == 24
    assert [limiter.try_take(ip("2.2.3.4")) is None for _ in range(3)] == [True, True, False]
    late = limiter.try_take(ip("3.2.3.4"))
    assert late is not None
    assert late[0].bits == 0
    clock.now += S
    # the refused tries took no tokens, so every bucket has one again
    assert limiter.try_take(ip("1.2.3.4")) is None


def test_rate_overrides_skip_the_rest() -> None:
    limiter = AddressRateLimiter(
        AddressRates(
            overrides={"10.0.0.0/8": Rate(0.1, 5), "10.1.0.0/16": Rate(0.1, 2), "11.0.0.0/8": None},
            overall=Rate(0.1, 1),
        ),
        clock=Clock(),
    )
    assert [limiter.try_take(ip("10.1.0.1")) is None for _ in range(4)] == [True] * 2 + [False] * 2
    assert [limiter.try_take(ip("10.2.0.1")) is None for _ in range(4)] == [True] * 3 + [False]
    assert all(limiter.try_take(ip("11.0.0.1")) is None for _ in range(100))
    assert [limiter.try_take(ip("12.0.0.1")) is None for _ in range(2)] == [True, False]


def gate(**arguments: Any) -> AddressGate:
    return AddressGate(SubnetLimits(), AddressRates(), clock=Clock(), **arguments)


def test_the_gate_counts_until_it_is_left_once() -> None:
    entrance = gate()
    inside = [entrance.try_enter("/ip4/1.2.3.4/tcp/1", True) for _ in range(9)]
    assert [bool(each) for each in inside] == [True] * 8 + [False]
    for each in (inside[0], inside[0]):
        assert isinstance(each, NetworkShare)
        each.close()
    assert entrance.try_enter("1.2.3.4", False)
    assert not entrance.try_enter("1.2.3.4", False)
    assert entrance.subnets is not None
    assert entrance.subnets.over_released == 0


def test_closing_a_forgotten_share_changes_nothing() -> None:
    entrance = gate()
    before = entrance.try_enter("1.2.3.4", False)
    assert entrance.subnets is not None
    entrance.subnets.clear()
    after = entrance.try_enter("1.2.3.4", False)
    assert isinstance(before, NetworkShare)
    assert isinstance(after, NetworkShare)
    before.close()
    assert len(entrance.subnets) == 1
    after.close()
    assert len(entrance.subnets) == entrance.subnets.over_released == 0


def test_the_fullest_networks() -> None:
    subnets = SubnetLimiter(SubnetLimits(
        ipv4=((32, 4), (24, 100)), ipv6=((56, None), (48, 3)),
        overrides={"192.0.2.0/28": 3, "10.0.0.0/8": None, "203.0.113.0/24": 0}))
    for address, times in (("192.0.2.1", 2), ("192.0.2.200", 3), ("10.0.0.1", 9), ("::1", 3)):
        for _ in range(times):
            assert subnets.try_add(ip(address)) is None
    assert [(str(network), *rest) for network, *rest in subnets.fullest(3)] == [
        ("::/48", 3, 3), ("192.0.2.200/32", 3, 4), ("192.0.2.0/28", 2, 3)]
    assert len(subnets.fullest(10)) == 4
    assert subnets.fullest(0) == []


def test_networks_that_count_for_a_fleet_have_no_limit_here() -> None:
    subnets = SubnetLimiter(SubnetLimits(
        ipv4=((32, 4),), ipv6=((48, 3),), overrides={"203.0.113.0/24": 5}))
    subnets.also_count((24, 64))
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "203.0.113.7"):
        assert subnets.try_add(ip(address)) is None
    assert [str(network) for network, *_ in subnets.fullest(9)] == [
        "2001:db8::/48", "192.0.2.1/32", "192.0.2.2/32", "203.0.113.0/24"]
    assert subnets.count(network_key(ip("192.0.2.9"), 24)) == 2


def test_a_gate_without_limits_counts_networks_for_a_fleet() -> None:
    entrance = AddressGate()
    limits = FleetLimits(network=FleetPlaces(3))
    entrance.set_fleet(FleetNetworks(limits, None, None, lambda key: 0), (24, 64))
    key = network_key(ip("192.0.2.9"), 24)
    share = entrance.try_enter("192.0.2.1", True)
    assert share
    assert entrance.connections_of_network(key) == 1
    share.close()
    assert entrance.connections_of_network(key) == 0


def test_a_gate_counts_each_refusal_once() -> None:
    entrance = AddressGate(
        SubnetLimits(ipv4=((32, 1),)), AddressRates(ipv4=((24, Rate(1e-6, 2)),)))
    assert entrance.try_enter("192.0.2.1", True)
    full = entrance.try_enter("192.0.2.1", True)
    assert isinstance(full, AddressRefusal)
    assert (full.limit, full.retry_after_s) == (1, 0.0)
    late = entrance.try_enter("192.0.2.2", True)
    assert isinstance(late, AddressRefusal)
    assert late.limit is None
    assert late.retry_after_s > 1000
    assert not entrance.try_enter("192.0.2.1", False)
    assert (entrance.refused_by_number, entrance.refused_by_rate, entrance.refused_outbound) == (
        2, 1, 1)


def test_a_network_above_its_limit_of_zero_is_the_fullest() -> None:
    subnets = SubnetLimiter(SubnetLimits(ipv4=((32, 5),)))
    for address in ("192.0.2.1", "192.0.2.1", "203.0.113.1"):
        assert subnets.try_add(ip(address)) is None
    subnets.limits = SubnetLimits(ipv4=((32, 5),), overrides={"203.0.113.0/24": 0})
    assert [(str(network), *rest) for network, *rest in subnets.fullest(2)] == [
        ("203.0.113.0/24", 1, 0), ("192.0.2.1/32", 2, 5)]


def test_the_first_full_network_is_named() -> None:
    subnets = SubnetLimiter(SubnetLimits(ipv4=((32, 1), (24, 1))))
    assert subnets.try_add(ip("192.0.2.1")) is None
    full = subnets.try_add(ip("192.0.2.1"))
    assert full is not None
    assert str(full[0]) == "192.0.2.1/32"


def test_a_malformed_address_has_a_direction() -> None:
    entrance = gate()
    for inbound in (True, False, False):
        assert not entrance.try_enter("no/address", inbound)
    assert (entrance.refused_by_number, entrance.refused_outbound) == (3, 2)


def test_new_limits_apply_to_the_proof_of_addresses() -> None:
    entrance = AddressGate(SubnetLimits(ipv4=((32, 8),)), None, clock=Clock())
    assert not entrance.verify_source_address("192.0.2.1")
    entrance.set_limits(SubnetLimits(ipv4=((32, 2),)), None)
    proofs = [entrance.verify_source_address("192.0.2.2") for _ in range(3)]
    assert proofs == [False, True, True]


def test_closing_a_share_never_waits() -> None:
    """The garbage collector may close a share in a thread that holds the lock."""
    gate = AddressGate(SubnetLimits(ipv4=((32, 2),)), None, Allowlist())
    subnets = gate.subnets
    assert subnets is not None
    entered = [gate.try_enter("192.0.2.1", inbound=True) for _ in range(2)]
    assert all(isinstance(each, NetworkShare) for each in entered)
    with subnets._lock:
        for each in entered:
            each.close()  # type: ignore[union-attr]
            each.close()  # type: ignore[union-attr]
    assert not gate.try_enter("192.0.2.1", inbound=True)
    assert isinstance(gate.try_enter("192.0.2.1", inbound=True), NetworkShare)
    assert len(subnets) == 1
    assert subnets.over_released == 0


def test_clear_while_threads_connect_and_close() -> None:
    gate = AddressGate(SubnetLimits(ipv4=((32, 10**6),)), None, Allowlist())
    subnets = gate.subnets
    assert subnets is not None
    done: list[int] = []

    def work(number: int) -> None:
        if number == 4:
            while len(done) < 4:
                subnets.clear()
            return
        try:
            for _ in range(rounds(20_000)):
                entered = gate.try_enter("192.0.2.1", inbound=True)
                assert isinstance(entered, NetworkShare)
                entered.close()
        finally:
            done.append(number)

    in_threads(work, 5)
    assert len(subnets) == subnets.over_released == 0


def test_refusals_are_ordinary_denials() -> None:
    entrance = gate()
    address = "/ip4/1.2.3.4/tcp/1"
    kept = [entrance.try_enter(address, True) for _ in range(8)]
    full = entrance.try_enter(address, True)
    assert isinstance(full, AddressRefusal)
    error = full.to_error()
    assert isinstance(error, AddressLimitExceeded)
    assert isinstance(error, ResourceLimitExceeded)
    assert str(error).startswith(f"connections per ip limit exceeded for {address} ")
    assert pickle.loads(pickle.dumps(error)).network == "1.2.3.4/32"
    while True:
        late = entrance.try_enter(address, True)
        assert isinstance(late, AddressRefusal)
        if late.limit is None:
            break
    assert isinstance(late.to_error(), RateLimitExceeded)
    assert str(late.to_error()).startswith("rate limit exceeded: connection of network 1.2.3.4/32")
    assert all(kept)


@pytest.mark.parametrize(("subnets", "rates", "setting"), [
    (None, AddressRates(((32, Rate(1, 1)),)), "AddressRates.ipv4 or ConnectionRateLimits.per_ip"),
    (None, AddressRates(overall=Rate(1, 1)), "AddressRates.overall"),
    (None, AddressRates((), overall=Rate(1, 1)), "AddressRates.overall"),
    (None, AddressRates(overrides={"1.2.9.9/16": Rate(1, 1)}),
     "AddressRates.overrides['1.2.9.9/16']"),
    (None, AddressRates(overrides={"1.2.0.0/16": Rate(1, 9), "1.0.0.0/8": Rate(1, 1)}),
     "AddressRates.overrides['1.0.0.0/8']"),
    (SubnetLimits(((32, 1),)), None, "SubnetLimits.ipv4 or SubnetLimits.overrides['1.2.3.4/32']"),
    (SubnetLimits(overrides={"1.2.3.4": 1}), None, "SubnetLimits.overrides['1.2.3.4']"),
    (SubnetLimits(overrides={"1.2.0.0/16": 1, "0.0.0.0/0": 0}), None,
     "SubnetLimits.overrides['1.2.0.0/16']"),
])
def test_a_refusal_names_the_setting_that_refused(
    subnets: SubnetLimits | None, rates: AddressRates | None, setting: str
) -> None:
    entrance = AddressGate(subnets, rates, clock=Clock())
    kept = entrance.try_enter("1.2.3.4", True)
    refused = entrance.try_enter("1.2.3.4", True)
    assert kept
    assert isinstance(refused, AddressRefusal)
    assert refused.to_error().setting == setting


def test_dialling_spends_no_inbound_rate() -> None:
    entrance = AddressGate(None, AddressRates(), clock=Clock())
    assert all(entrance.try_enter("1.2.3.4", False) for _ in range(100))
    assert sum(bool(entrance.try_enter("1.2.3.4", True)) for _ in range(100)) == 16


@pytest.mark.parametrize(
    "address", ["/dns4/example.org/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/x/p2p-circuit", "", "/memory/1"]
)
def test_connections_without_an_address_share_no_bucket(address: str) -> None:
    entrance = gate()
    assert all(entrance.try_enter(address, True) for _ in range(1000))


def test_allowed_addresses_pass_everything() -> None:
    allowlist = Allowlist()
    entrance = gate(allowlist=allowlist)
    while entrance.try_enter("1.2.3.4", True):
        pass
    allowlist.add("/ip4/1.2.3.4")
    assert all(entrance.try_enter("1.2.3.4", True) for _ in range(100))
    allowlist.remove("/ip4/1.2.3.4")
    assert not entrance.try_enter("1.2.3.4", True)


def test_verify_source_address() -> None:
    entrance = AddressGate(
        SubnetLimits(overrides={"10.0.0.0/8": 1, "11.0.0.0/8": 6, "127.0.0.0/8": None}),
        allowlist=Allowlist(["5.5.5.5"]), clock=Clock(),
    )

    def trusted(address: str) -> int:
        return sum(not entrance.verify_source_address(address) for _ in range(100))

    assert trusted("1.2.3.4") == 4
    assert sum(trusted(f"2001:db8:0:{i:x}00::1") for i in range(20)) == 32
    assert trusted("10.0.0.1") == 0
    assert trusted("11.0.0.1") == 3
    assert trusted("127.0.0.1") == trusted("5.5.5.5") == 100
    assert trusted("nonsense") == 0
    one = AddressGate(SubnetLimits(ipv4=((32, 1),)), clock=Clock())
    assert one.verify_source_address("1.2.3.4")
    assert not one.verify_source_address("127.0.0.1")
    many = AddressGate(SubnetLimits(ipv4=((32, 2**62),), overrides={"10.0.0.0/8": 2**62}))
    assert not many.verify_source_address("1.2.3.4")
    assert not many.verify_source_address("10.0.0.1")


GO_NESTED = st.dictionaries(
    st.sampled_from(["0.0.0.0/0", "1.0.0.0/8", "1.2.0.0/16", "1.2.1.0/24", "1.2.1.2/32"]),
    st.sampled_from([None, 0, 1, 2, 3, 4, 5, 9]),
)


@given(GO_NESTED, st.sampled_from(["1.2.1.2", "1.2.1.3", "1.2.9.9", "1.9.9.9", "9.9.9.9"]))
def test_nested_networks_as_in_go(nested: dict[str, int | None], address: str) -> None:
    """go-libp2p: x/rate/limiter.go asks every prefix around an address, conn_limiter.go one."""
    entrance = AddressGate(SubnetLimits(overrides=nested), clock=Clock())
    around = [
        network for network in sorted(nested, key=lambda each: -int(each.partition("/")[2]))
        if ipaddress.ip_address(address) in ipaddress.ip_network(network)
    ]
    limits = [nested[network] for network in around] or [8]
    halves = [100 if limit is None else limit // 2 for limit in limits]
    assert sum(not entrance.verify_source_address(address) for _ in range(100)) == min(halves)
    kept = [entrance.try_enter(address, True) for _ in range(100)]
    first = 8 if not around else nested[around[0]]
    assert sum(map(bool, kept)) == (100 if first is None else first)


def test_one_network_under_two_names() -> None:
    for kind, one in ((SubnetLimits, 1), (AddressRates, Rate(1, 1))):
        with pytest.raises(ValueError, match=r"'10\.0.*' and '10\.1.*' are one network"):
            kind(overrides={"10.0.0.0/8": one, "10.1.0.0/8": one})
        with pytest.raises(TypeError, match="a network must be text"):
            kind(overrides={ipaddress.ip_network("10.0.0.0/8"): one})


def forms(host: str) -> list[object]:
    """One address in every form that callers have."""
    version, bare = ("ip6", f"[{host}]") if ":" in host else ("ip4", host)
    return [
        host, f"{bare}:80", f"/{version}/{host}", f"/{version}/{host}/tcp/80",
        Multiaddr(f"/{version}/{host}/tcp/80"), ipaddress.ip_address(host), (host, 80),
        *([f"[{host}]", f"{host}%eth0", f"[{host}%1]:80", (host, 80, 0, 0)] if ":" in host else [
            f"::ffff:{host}", f"[::ffff:{host}]:80", f"/ip6/::ffff:{host}/udp/1/quic-v1"]),
    ]


NO_ADDRESSES: list[object] = [
    "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:65536", "1.2.3.4:80:80", "1.2.3.999", "1.2.3", "01.2.3.4",
    "1.2.3.4 ", "1.2.3.4/24", "[1.2.3.4]:80", "[::1", "[::1]80", "[::1]:", "::1]:80", ":80", "/",
    "/ip4", "/ip4/", "/ip4/1.2.3.4:80/tcp/1", "/ip4/1.2.3.4.5", "/ip6/[::1]/tcp/1", "//ip4/1.2.3.4",
    "/IP4/1.2.3.4", "/ip6zone/eth0", "1" * 2000, "a" * 2000, "/ip4/1.2.3.4/" + "x" * 2000,
    "1.2.3.4\0", 5, b"\x01\x02\x03", None, ["1.2.3.4"], object(), (),
]


@pytest.mark.parametrize("host", ["9.2.3.4", "2001:db8::1"])
def test_every_form_of_an_address_is_limited(host: str) -> None:
    for form in forms(host):
        for gate_of_kind in (AddressGate(SubnetLimits()), AddressGate(None, AddressRates())):
            entered = [gate_of_kind.try_enter(form, True) for _ in range(100)]
            assert sum(map(bool, entered)) in (8, 16), form
            assert gate_of_kind.verify_source_address(form) is False
        subnets = SubnetLimiter()
        assert sum(subnets.try_add(form) is None for _ in range(100)) == 8
        assert subnets.full(form) is not None
        for _ in range(8):
            subnets.remove(form)
        assert (len(subnets), subnets.over_released) == (0, 0)
        rates = AddressRateLimiter(clock=Clock())
        assert sum(rates.try_take(form) is None for _ in range(100)) == 16
        allowlist = Allowlist([host])
        assert allowlist.allows_address(form)
        assert allowlist.allows(b"peer", form)
        assert allowlist.allows_at(None, form)
        manager = ResourceManager(NodeLimits(subnets=SubnetLimits()))
        opened = [manager.open_connection(None, form, "inbound") for _ in range(100)]
        assert sum(scope is not None for scope in opened) == 8
        for banned in (host, str(form) if not isinstance(form, tuple) else host):
            banning = ResourceManager()
            banning.ban(banned)
            assert banning.open_connection(None, form, "inbound") is None


@pytest.mark.parametrize("address", NO_ADDRESSES, ids=lambda each: repr(each)[:20])
def test_what_is_no_address_is_never_unlimited(address: object) -> None:
    entrance = AddressGate(SubnetLimits(), AddressRates(), Allowlist(["0.0.0.0/0", "::/0"]))
    assert entrance.verify_source_address(address)
    refusal = entrance.try_enter(address, True)
    assert isinstance(refusal, AddressRefusal)
    error = refusal.to_error()
    assert isinstance(error, AddressLimitExceeded)
    assert "is no address" in str(error)
    assert len(str(error)) < 600
    assert entrance.refused_by_number == 1
    assert not entrance.allowlist.allows_at(None, address)
    if address is None:
        return  # elsewhere it means that the address is not known
    for ask in (SubnetLimiter().try_add, SubnetLimiter().full, AddressRateLimiter().try_take,
                entrance.allowlist.allows_address):
        with pytest.raises((TypeError, ValueError)):
            ask(address)
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits()))
    assert manager.open_connection(None, address, "inbound") is None
    assert isinstance(manager.last_denial, AddressLimitExceeded)
    assert len(manager.connection_tracker) == 0


LIMITS = st.sampled_from([
    SubnetLimits(),
    SubnetLimits(ipv4=((32, 2), (30, 5)), overrides={"10.0.0.6/31": 3}),
    SubnetLimits(ipv4=(), overrides={"10.0.0.0/8": 4, "10.0.0.4/30": None}),
    SubnetLimits(ipv4=((24, None),), overrides={"10.0.0.7": 0}),
])


@given(st.lists(st.one_of(st.booleans(), LIMITS), max_size=60), st.data())
def test_a_change_of_limits_counts_connections_again(steps: list[Any], data: Any) -> None:
    """After every change the limiter is as one that always had these limits."""
    gate = AddressGate(SubnetLimits())
    held: list[tuple[str, NetworkShare]] = []
    for step in steps:
        if isinstance(step, SubnetLimits):
            gate.set_limits(step, None)
        elif step:
            address = f"10.0.0.{data.draw(st.integers(0, 7))}"
            entered = gate.try_enter(address, True)
            if isinstance(entered, NetworkShare):
                held.append((address, entered))
        elif held:
            held.pop(data.draw(st.integers(0, len(held) - 1)))[1].close()
        assert gate.subnets is not None
        limits = gate.subnets.limits
        fresh = SubnetLimiter(SubnetLimits(  # the same networks, and room for all
            ipv4=tuple((bits, None) for bits, _ in limits.ipv4),
            overrides=dict.fromkeys(limits.overrides)))
        for address, _ in held:
            assert fresh.try_add(ip(address)) is None
        assert gate.subnets._counts == fresh._counts
    for _, entered in held:
        entered.close()
    assert gate.subnets is not None
    assert len(gate.subnets) == gate.subnets.over_released == 0


def test_limits_change_while_threads_connect_and_close() -> None:
    gate = AddressGate(SubnetLimits(ipv4=((32, 3), (24, 5))))
    done: list[int] = []

    def work(last: int) -> None:
        if last == 4:
            while len(done) < 4:
                for bits in (24, 16, 32):
                    gate.set_limits(SubnetLimits(ipv4=((bits, 2),)), None)
            return
        try:
            for _ in range(rounds(5_000)):
                shares = [gate.try_enter(f"192.0.2.{last}", True) for _ in range(3)]
                for share in shares:
                    if isinstance(share, NetworkShare):
                        share.close()
        finally:
            done.append(last)

    in_threads(work, 5)
    assert gate.subnets is not None
    assert len(gate.subnets) == gate.subnets.over_released == 0
    assert not gate.subnets._addresses


def test_limits_may_go_and_come_back() -> None:
    two = SubnetLimits(ipv4=((32, 2),))
    gate = AddressGate(two)
    first, second = (gate.try_enter("192.0.2.1", True) for _ in range(2))
    assert isinstance(first, NetworkShare)
    assert second
    gate.set_limits(None, None)
    assert gate.subnets is None
    assert gate.try_enter("192.0.2.1", True)  # not counted: there is no limit
    first.close()
    gate.set_limits(two, None)
    assert gate.try_enter("192.0.2.1", True)
    assert not gate.try_enter("192.0.2.1", True)


def test_a_shared_limiter_keeps_its_own_limits() -> None:
    shared = SubnetLimiter(SubnetLimits(ipv4=((32, 1),)))
    gate = AddressGate(shared)
    gate.set_limits(SubnetLimits(ipv4=((32, 5),)), None)
    assert gate.subnets is not shared
    assert shared.limits == SubnetLimits(ipv4=((32, 1),))


def test_a_rate_that_stays_keeps_its_buckets() -> None:
    clock, slow = Clock(), Rate(0.001, 2)
    rates = AddressRates(
        ipv4=((32, slow), (24, Rate(0.001, 9))), overrides={"10.0.0.0/8": slow},
        overall=Rate(1, 99))
    limiter = AddressRateLimiter(rates, clock=clock)

    def burst(address: str) -> int:
        return sum(limiter.try_take(ip(address)) is None for _ in range(20))

    assert burst("192.0.2.1") == burst("10.0.0.1") == 2
    limiter.rates = dataclasses.replace(rates, ipv4=((32, slow),), overall=None)
    assert burst("192.0.2.1") == burst("10.0.0.1") == 0
    assert burst("192.0.2.2") == 2
    limiter.rates = dataclasses.replace(rates, ipv4=((32, Rate(0.001, 3)),), overrides={})
    assert burst("192.0.2.1") == burst("10.0.0.1") == 3
