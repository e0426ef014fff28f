"""The penalty box: points of offences, lengths of bans, and strangers that it spares."""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rcmgr import NodeLimits, PeerRates, Rate, ResourceLimits, ResourceManager, SubnetLimits
from rcmgr.gates.addresses import Allowlist
from rcmgr.gates.bans import BanRefusal, Bans
from rcmgr.gates.penalties import Offence, Penalties
from rcmgr.limits.penalties import PenaltyBox
from rcmgr.peers import peer_text

PEER = b"\x12\x20" + b"p" * 32
ADDRESS = "198.51.100.7"
S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


class Log:
    """Notes what the box says."""

    def __init__(self) -> None:
        self.offences: list[tuple[Hashable | None, str | None, Offence]] = []
        self.bans: list[tuple[Hashable | None, str | None, Offence]] = []

    def offended(self, peer: Hashable | None, address: str | None, offence: Offence) -> None:
        self.offences.append((peer, address, offence))

    def banned(self, peer: Hashable | None, address: str | None, offence: Offence) -> None:
        self.bans.append((peer, address, offence))


class Box:
    """A penalty box with a separate clock."""

    def __init__(self, allowlist: Any = (), **rules: Any) -> None:
        self.clock, self.log = Clock(), Log()
        self.bans = Bans(clock=self.clock)
        self.penalties = Penalties(
            PenaltyBox(**rules), self.bans, Allowlist(allowlist), self.log, clock=self.clock)

    def until_banned(self, offence: Offence, peer: Any, address: Any, most: int = 500) -> int:
        """How many offences a stranger may commit before a ban."""
        for count in range(most):
            before = len(self.log.bans)
            self.penalties.charge(offence, peer, address)
            if len(self.log.bans) > before:
                return count
        return most

    def what(self) -> list[str]:
        return [ban.what for ban in self.bans]


@pytest.mark.parametrize("offence", Offence)
def test_each_offence_costs_its_points(offence: Offence) -> None:
    box = Box()
    if offence.peer_points:
        assert box.until_banned(offence, PEER, None) == 100 // offence.peer_points
        assert box.what() == [peer_text(PEER)]
    box = Box()
    assert box.until_banned(offence, None, ADDRESS) == 100 // offence.address_points
    assert box.what() == [ADDRESS]
    assert [ban.reason for ban in box.bans] == [offence.text]
    assert box.log.bans == [(None, ADDRESS, offence)]


def test_after_a_handshake_the_address_pays_a_fifth() -> None:
    for offence in (Offence.NO_PROTOCOL, Offence.WINDOW):
        assert offence.peer_points == 5 * offence.address_points


def test_points_decay() -> None:
    box = Box()
    for _ in range(1000):
        box.penalties.charge(Offence.HANDSHAKE, None, ADDRESS)
        box.clock.now += 4 * S
    assert box.what() == []
    assert box.until_banned(Offence.HANDSHAKE, None, ADDRESS) == 25


def test_each_ban_lasts_twice_as_long_up_to_the_longest() -> None:
    box = Box(peer_seconds=60, peer_most_seconds=400)
    lengths = []
    for _ in range(5):
        box.until_banned(Offence.WINDOW, PEER, None)
        [ban] = box.bans
        lengths.append(ban.seconds_left)
        box.clock.now += int(ban.seconds_left * S)
        assert box.what() == []
    assert lengths == [60, 120, 240, 400, 400]
    box.clock.now += 3600 * S + 1
    box.until_banned(Offence.WINDOW, PEER, None)
    assert [(ban.seconds_left, ban.times) for ban in box.bans] == [(60, 1)]


def test_an_offence_during_a_ban_makes_it_no_longer() -> None:
    box = Box()
    box.until_banned(Offence.HANDSHAKE, None, ADDRESS)
    assert box.until_banned(Offence.HANDSHAKE, None, ADDRESS) == 500
    assert [(ban.seconds_left, ban.times) for ban in box.bans] == [(10, 1)]


def test_many_throw_away_peers_slow_their_address_and_one_offender_does_not() -> None:
    """Carrier NAT: honest peers share the address with an offender, or with a swarm of them."""
    box = Box()
    assert box.until_banned(Offence.WINDOW, PEER, ADDRESS) == 4
    assert box.what() == [peer_text(PEER)]
    box = Box()
    for number in range(30):
        box.penalties.charge(Offence.WINDOW, b"\x12\x20%032d" % number, ADDRESS)
    assert box.what() == [ADDRESS]
    assert box.bans.refusal(b"honest", ADDRESS, inbound=True) is True
    assert not box.bans.refusal(b"honest", ADDRESS, inbound=True)
    box.clock.now += S
    assert box.bans.refusal(b"honest", ADDRESS, inbound=True) is True


@pytest.mark.parametrize(("one", "other", "is_same"), [
    ("198.51.100.7", "198.51.100.8", False),
    ("2001:db8::1", "2001:db8::ffff:1", True),
    ("2001:db8::1", "2001:db8:0:1::1", False),
    ("/ip4/198.51.100.7/tcp/1", "198.51.100.7", True),
    ("::ffff:198.51.100.7", "198.51.100.7", True),
])
def test_addresses_that_are_one_offender(one: str, other: str, is_same: bool) -> None:
    box = Box()
    for turn in range(26):
        box.penalties.charge(Offence.HANDSHAKE, None, one if turn % 2 else other)
    assert (len(box.what()) == 1) is is_same


def test_prefixes_are_settings() -> None:
    box = Box(ipv4_prefix=24, ipv6_prefix=32)
    for turn in range(26):
        box.penalties.charge(Offence.HANDSHAKE, None, f"198.51.100.{turn}")
        box.penalties.charge(Offence.HANDSHAKE, None, f"2001:db8:{turn}::1")
    assert sorted(box.what()) == ["198.51.100.0/24", "2001:db8::/32"]


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.9.9.9", "::1", "/ip4/127.0.0.1/tcp/1", None, "0.0.0.0", "not an address",
    "/dns4/example.org/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/" + peer_text(PEER) + "/p2p-circuit",
])
def test_addresses_that_never_pay(address: str | None) -> None:
    box = Box()
    assert box.until_banned(Offence.HANDSHAKE, None, address) == 500
    box = Box(exempt=frozenset())
    if address is not None and "127" in address:
        assert box.until_banned(Offence.HANDSHAKE, None, address) == 25


def test_a_full_network_is_no_rate() -> None:
    manager = ResourceManager(NodeLimits(
        subnets=SubnetLimits(ipv4=((32, 0),)), penalties=PenaltyBox()))
    log = Log()
    assert manager.penalties is not None
    manager.penalties._log = log
    assert manager.open_connection(PEER, ADDRESS) is None
    assert [offence for _, _, offence in log.offences] == [Offence.DENIED]


def test_an_unknown_address_is_not_named() -> None:
    box = Box()
    box.penalties.charge(Offence.WINDOW, PEER, None)
    assert box.log.offences == [(PEER, None, Offence.WINDOW)]


@pytest.mark.parametrize("allowed", [PEER, "198.51.100.0/24"])
def test_the_allowlist_never_pays(allowed: Hashable) -> None:
    box = Box([allowed])
    assert box.until_banned(Offence.WINDOW, PEER, ADDRESS) == 500
    assert box.log.offences == []


def test_a_peer_of_another_kind_has_no_points() -> None:
    box = Box()
    assert box.until_banned(Offence.WINDOW, 7, None) == 500


def test_forgiven() -> None:
    box = Box()
    box.until_banned(Offence.HANDSHAKE, None, ADDRESS)
    [subject] = box.bans.entries
    box.penalties.forgive(subject)
    box.bans.remove(subject)
    assert box.until_banned(Offence.HANDSHAKE, None, ADDRESS) == 25
    assert [ban.times for ban in box.bans] == [1]


def node(**limits: Any) -> ResourceManager:
    return ResourceManager(NodeLimits(penalties=PenaltyBox(), **limits))


def knock(manager: ResourceManager, times: int, peer: bytes | None = None) -> None:
    for _ in range(times):
        scope = manager.open_connection(peer, ADDRESS, "inbound")
        if scope is not None:
            scope.close()


def banned(manager: ResourceManager) -> list[tuple[str, str]]:
    return [(ban.what, ban.reason) for ban in manager.bans()]


def test_handshakes_that_fail() -> None:
    manager = node()
    knock(manager, 26)
    assert banned(manager) == [(ADDRESS, "failed handshakes")]
    knock(manager, 50)
    assert manager.refused_by_ban >= 48
    assert manager.denied_by_limit() == {"ban": manager.refused_by_ban}


def test_handshakes_that_succeed_cost_nothing() -> None:
    manager = node()
    for _ in range(100):
        with manager.open_connection(None, ADDRESS, "inbound"):
            scope = manager.open_connection(PEER, ADDRESS, "inbound")
        scope.close()
    assert banned(manager) == []


def test_dials_cost_the_other_side_nothing() -> None:
    manager = node()
    for _ in range(100):
        manager.open_connection(None, ADDRESS, "outbound").close()
    assert banned(manager) == []


def test_denied_again_and_again() -> None:
    manager = ResourceManager(
        ResourceLimits(max_connections=0), connection_rate_limits=None)
    manager.node_limits = NodeLimits(
        scopes=manager.scope_limits, penalties=PenaltyBox())
    knock(manager, 150)
    assert banned(manager) == [(ADDRESS, "denied again and again")]
    knock(manager, 10)
    assert isinstance(manager.last_denial, Exception)
    assert manager.last_denial.code == "connection.banned"


def test_a_rate_costs_twice() -> None:
    manager = node(peer_rates=PeerRates(Rate(0.001, 1)), subnets=SubnetLimits())
    knock(manager, 60, PEER)
    assert (peer_text(PEER), "too many requests") in banned(manager)


def test_streams_count_too() -> None:
    manager = node()
    manager.set_protocol_peer_stream_limit("/x", 0)
    for _ in range(120):
        manager.acquire_scoped_stream(PEER, "inbound", protocol="/x")
    assert banned(manager) == [(peer_text(PEER), "denied again and again")]


def test_bans_do_not_feed_themselves() -> None:
    manager = node()
    manager.ban(ADDRESS)
    knock(manager, 500)
    assert [ban.by for ban in manager.bans()] == ["operator"]
    assert manager.unban(ADDRESS)
    knock(manager, 1)
    assert banned(manager) == []


def test_no_box_no_bans() -> None:
    manager = ResourceManager()
    assert manager.penalties is None
    knock(manager, 1000)
    assert banned(manager) == []
    manager.node_limits = NodeLimits(penalties=PenaltyBox())
    knock(manager, 26)
    assert len(banned(manager)) == 1
    manager.node_limits = NodeLimits()
    assert manager.penalties is None
    assert len(banned(manager)) == 1


class Machine(RuleBasedStateMachine):
    """The box and a model with exact points, in fractions."""

    subjects = st.sampled_from(["198.51.100.1", "198.51.100.2", PEER, b"\x12\x20" + b"q" * 32])

    @initialize(threshold=st.integers(1, 30), seconds=st.integers(1, 20))
    def begin(self, threshold: int, seconds: int) -> None:
        self.box = Box(
            threshold=threshold, address_decay=1, peer_decay=1, forget_seconds=50,
            address_seconds=seconds, address_most_seconds=60, peer_seconds=seconds,
            peer_most_seconds=60)
        self.threshold, self.seconds = threshold, seconds
        self.points: dict[Hashable, Fraction] = {}
        self.banned: dict[Hashable, tuple[Fraction, int]] = {}
        self.now = Fraction(0)

    @rule(subject=subjects, offence=st.sampled_from(Offence))
    def offend(self, subject: Any, offence: Offence) -> None:
        is_peer = isinstance(subject, bytes)
        self.box.penalties.charge(
            offence, subject if is_peer else None, None if is_peer else subject)
        cost = offence.peer_points if is_peer else offence.address_points
        points = self.points.get(subject, Fraction(0)) + cost
        if cost and points > self.threshold:
            points = Fraction(0)
            end, times = self.banned.get(subject, (Fraction(-1000), 0))
            if self.now >= end:
                times = 0 if self.now - end > 50 else times
                length = min(60, self.seconds * 2**times)
                self.banned[subject] = self.now + length, times + 1
        self.points[subject] = points

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.box.clock.now += seconds * S
        self.points = {key: max(Fraction(0), each - seconds) for key, each in self.points.items()}

    @rule(subject=subjects)
    def forgive(self, subject: Any) -> None:
        from rcmgr.gates.bans import ban_subject

        self.box.penalties.forgive(ban_subject(subject))
        self.box.bans.remove(ban_subject(subject))
        self.points.pop(subject, None)
        self.banned.pop(subject, None)

    @invariant()
    def same(self) -> None:
        expected = {
            (peer_text(key) if isinstance(key, bytes) else key): (float(end - self.now), times)
            for key, (end, times) in getattr(self, "banned", {}).items() if end > self.now}
        if hasattr(self, "box"):
            found = {ban.what: (ban.seconds_left, ban.times) for ban in self.box.bans}
            assert found == expected


TestMachine = Machine.TestCase


def test_a_refusal_by_a_ban_is_falsy() -> None:
    assert not BanRefusal("x", "", 1.0, None)
