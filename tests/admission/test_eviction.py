"""The eviction policy by example. The state machines in this folder cover the rest."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from model import SECOND, Clock
from model_eviction import OFTEN
from threads import in_threads, rounds

from rcmgr.admission.eviction import EvictionPolicy, PendingShares

KEY = bytes(range(16))  # "B" is a lucky group with it, letters from "a" to "g" are not


@pytest.fixture
def clock() -> Clock:
    return Clock()


def policy_of(clock: Clock, places: int = 3, **settings: Any) -> EvictionPolicy:
    """With three places there is no probation, one of each kind is spared, and 7 are a crowd."""
    return EvictionPolicy(places, key=KEY, clock=clock, **settings)


def fill(
    policy: EvictionPolicy, clock: Clock, group: bytes, count: int, *, works: bool = False
) -> list[int]:
    """So many connections of a group, a second apart, whose owners are (group, number)."""
    tickets = []
    for number in range(count):
        clock.advance(1)
        tickets.append(policy.add((group, number), group))
        if works:
            policy.note_work(tickets[-1])
    return tickets


# -- whom the policy chooses -----------------------------------------------------------------------


def test_nobody_goes_while_all_are_in_their_grace(clock: Clock) -> None:
    policy = policy_of(clock)
    for number in range(20):
        policy.add(number, b"group %d" % (number % 4))
    assert policy.choose(b"b") is None
    assert not policy.has_room_for(b"b")
    clock.advance(1)
    assert policy.choose(b"b") is not None
    assert policy.has_room_for(b"b")


def test_a_group_that_comes_often_has_no_grace_against_another(clock: Clock) -> None:
    policy = policy_of(clock)
    for number in range(OFTEN):
        assert policy.choose(b"b") is None
        policy.add(number, b"a")
    assert policy.choose(b"b") == OFTEN - 1
    assert policy.stats()["choices"]["crowd"] == 1
    assert policy.choose(b"a") is None
    clock.advance(1)
    assert policy.choose(b"a") is not None


def test_a_group_that_comes_often_begins_few_handshakes_after_one_in_vain(clock: Clock) -> None:
    policy = policy_of(clock)  # 16 evictions a second
    for number in range(OFTEN + 1):
        policy.add(number, b"a")
    assert {policy.begin_handshake(b"a") for _ in range(9)} == {0.0}
    assert policy.choose(b"a") is None
    assert [policy.begin_handshake(b"a") for _ in range(6)] == [0.0] * 4 + [0.25] * 2
    assert {policy.begin_handshake(b"b") for _ in range(9)} == {0.0}
    clock.advance(0.25)
    assert [policy.begin_handshake(b"a") for _ in range(2)] == [0.0, 0.25]


def test_two_of_a_group_that_comes_often_have_no_grace_either(clock: Clock) -> None:
    policy = policy_of(clock)
    for number in range(OFTEN):  # no crowd: only two stay
        ticket = policy.add(number, b"a")
        if number < OFTEN - 2:
            policy.remove(ticket)
    assert policy.choose(b"b") in (OFTEN - 2, OFTEN - 1)
    assert policy.stats()["choices"]["crowd"] == 0
    assert policy.choose(b"a") is None


def test_the_youngest_idle_one_of_the_largest_group_goes(clock: Clock) -> None:
    policy = policy_of(clock)
    fill(policy, clock, b"a", 6)
    fill(policy, clock, b"b", 12)
    fill(policy, clock, b"c", 5)
    clock.advance(60)
    assert policy.choose(b"new") == (b"b", 11)


def test_idle_ones_go_before_those_that_work(clock: Clock) -> None:
    policy = policy_of(clock)
    tickets = fill(policy, clock, b"b", 12)
    fill(policy, clock, b"c", 5)
    clock.advance(60)
    for ticket in tickets[9:]:
        policy.note_work(ticket)
    assert policy.choose(b"new") == (b"b", 8)
    assert policy.stats()["choices"]["crowd"] == 1


def test_of_a_crowd_that_works_the_youngest_goes(clock: Clock) -> None:
    policy = policy_of(clock)
    fill(policy, clock, b"b", 7, works=True)
    fill(policy, clock, b"c", 6, works=True)
    clock.advance(60)
    assert policy.choose(b"new") == (b"b", 6)
    assert policy.stats()["choices"]["crowd"] == 1


def test_a_working_connection_of_a_small_group_stays(clock: Clock) -> None:
    policy = policy_of(clock)
    fill(policy, clock, b"b", 6, works=True)
    fill(policy, clock, b"c", 6, works=True)
    clock.advance(60)
    assert policy.choose(b"new") is None
    assert policy.stats()["choices"]["all_worth_more"] == 1


def test_only_a_tenth_of_the_places_turns_over(clock: Clock) -> None:
    policy = policy_of(clock, places=20)
    tickets = {number: policy.add(number, b"group %d" % number) for number in range(20)}
    for ticket in tickets.values():
        policy.note_work(ticket)
    assert policy.stats()["on_probation"] == 2
    for number in range(20, 60):
        clock.advance(2)
        victim = policy.choose(b"new %d" % number)
        assert victim is not None
        policy.evict(tickets[victim], b"new")
        tickets[number] = policy.add(number, b"new %d" % number)
        policy.note_work(tickets[number])
    assert sum(tickets[number] in policy for number in range(20)) >= 18
    assert policy.stats()["choices"]["probation"] == 40


def test_the_older_half_of_the_idle_ones_stays(clock: Clock) -> None:
    policy = policy_of(clock)
    tickets = {}
    for number in range(12):
        clock.advance(60)
        tickets[number] = policy.add(number, b"group %d" % number)
    gone = []
    for number in range(12, 40):
        clock.advance(60)
        victim = policy.choose(b"new %d" % number)
        if victim is None:
            break
        gone.append(victim)
        policy.evict(tickets[victim], b"new")
        tickets[number] = policy.add(number, b"new %d" % number)
        policy.note_work(tickets[number])
    assert gone == [11, 10, 9, 8, 7, 6]


def test_seniors_of_a_small_group_stay(clock: Clock) -> None:
    policy = policy_of(clock)
    fill(policy, clock, b"b", 6)
    fill(policy, clock, b"c", 6, works=True)
    clock.advance(60)
    assert policy.choose(b"new") is None
    fill(policy, clock, b"b", 1)  # now it is a crowd
    clock.advance(60)
    assert policy.choose(b"new") == (b"b", 0)


def test_the_closest_and_the_most_useful_are_spared(clock: Clock) -> None:
    policy = policy_of(clock)
    tickets = fill(policy, clock, b"b", 12)
    clock.advance(60)
    policy.note_latency(tickets[11], 900)
    policy.note_latency(tickets[11], 2_000)  # the lowest counts
    described = policy.describe(tickets[11])
    assert described is not None
    assert described["best"] == ["latency"]
    assert described["latency_us"] == 900
    assert policy.choose(b"new") == (b"b", 10)
    policy.note_latency(tickets[10], 1_000)  # there is one place for the closest
    assert policy.choose(b"new") == (b"b", 10)
    policy.note_work(tickets[10])
    assert policy.choose(b"new") == (b"b", 9)
    policy.note_latency(tickets[9], 800)
    assert policy.choose(b"new") == (b"b", 11)


def test_more_are_spared_when_there_are_more_places(clock: Clock) -> None:
    policy = policy_of(clock)
    tickets = [policy.add(number, group) for number, group in enumerate((b"a", b"a", b"b", b"a"))]
    for number, microseconds in ((2, 0), (3, 0), (1, 1), (0, 0)):
        if number == 1:
            policy.places = 16
        policy.note_latency(tickets[number], microseconds)
    descriptions = [policy.describe(ticket) or {} for ticket in tickets]
    assert [each["best"] for each in descriptions] == [["latency"], [], ["latency"], []]


def test_the_last_one_of_a_lucky_group_stays(clock: Clock) -> None:
    policy = policy_of(clock, places=3)
    policy.add("old", b"a")
    policy.add("lucky", b"B")
    clock.advance(100)
    assert policy.choose(b"new") is None
    assert policy_of(clock, places=3).choose(b"new") is None
    policy.add("second", b"B")
    clock.advance(100)
    assert policy.choose(b"new") == "second"


def test_probation_is_for_who_came_least_often(clock: Clock) -> None:
    policy = policy_of(clock, places=10)  # one place
    for number in range(8):
        policy.note_work(policy.add(number, b"group %d" % number))
    for _ in range(3):
        policy.remove(policy.add("again and again", b"d"))
    policy.add("often", b"d")
    policy.add("once", b"c")
    assert policy.turns_of(b"d") == 4
    clock.advance(0.4)  # a third of the grace is over: the group with more turns gives way
    assert policy.choose(b"e") == "often"
    assert policy.choose(b"d") is None


def test_a_group_that_comes_often_takes_places_of_its_own_only(clock: Clock) -> None:
    policy = policy_of(clock)
    fill(policy, clock, b"b", 12)
    clock.advance(3600)
    for _ in range(6):
        assert policy.choose(b"c") is not None
        policy.remove(policy.add("newcomer", b"c"))
    assert policy.choose(b"c") is None
    assert policy.stats()["choices"]["comes_too_often"] == 1
    assert policy.choose(b"d") is not None
    policy.add("idle", b"c")
    clock.advance(1)
    assert policy.choose(b"c") == "idle"
    assert policy.stats()["choices"]["own_group"] == 1
    clock.advance(40)
    assert policy.choose(b"c") == (b"b", 11)


def test_idle_ones_of_one_address_make_room_for_newcomers_of_it(clock: Clock) -> None:
    policy = policy_of(clock, places=32)
    tickets = {number: policy.add(number, b"a") for number in range(32)}
    clock.advance(1)
    served = 0
    for number in range(32, 42):
        victim = policy.choose(b"a")
        if victim is not None:
            assert victim < 32
            policy.evict(tickets[victim], b"a")
            tickets[number] = policy.add(number, b"a")
            policy.note_work(tickets[number])
            served += 1
        clock.advance(0.3)
    assert served == 10
    assert all(tickets[number] in policy for number in range(32, 42))


def test_so_many_a_second_and_half_for_who_came_not_lately(clock: Clock) -> None:
    policy = policy_of(clock, per_second=4)
    tickets = fill(policy, clock, b"b", 20)
    clock.advance(3600)
    for group, evicts in ((b"c", True), (b"c", True), (b"c", False), (b"d", True), (b"d", False)):
        victim = policy.choose(group)
        assert (victim is not None) is evicts, group
        if victim is not None:
            policy.evict(tickets[victim[1]], group)
            policy.add("newcomer", group)
    assert policy.stats()["choices"]["too_many_evictions"] == 2
    assert policy.stats()["evicted"] == 3
    clock.advance(1)
    assert policy.choose(b"d") is not None


def test_useful_work_counts_for_ten_minutes(clock: Clock) -> None:
    policy = policy_of(clock, places=3)
    ticket = policy.add("once useful", b"a")
    policy.note_work(ticket)
    for minutes, state in ((9, "proven"), (2, "unproven")):
        clock.advance(60 * minutes)
        policy.remove(policy.add("passer-by", b"b"))
        described = policy.describe(ticket)
        assert described is not None
        assert described["state"] == state
    policy.note_work(ticket)
    described = policy.describe(ticket)
    assert described is not None
    assert described["state"] == "proven"


def test_a_promoted_one_goes_last(clock: Clock) -> None:
    policy = policy_of(clock)
    tickets = fill(policy, clock, b"b", 12)
    fill(policy, clock, b"c", 5)
    clock.advance(60)
    assert policy.choose(b"new") == (b"b", 11)
    assert policy.promote(tickets[11])
    assert policy.choose(b"new") == (b"b", 10)


def test_an_unknown_address_is_a_group(clock: Clock) -> None:
    policy = policy_of(clock)
    ticket = policy.add("one", None)
    policy.add("two", b"")
    described = policy.describe(ticket)
    assert described is not None
    assert described["group_size"] == 2


def test_places_may_change(clock: Clock) -> None:
    policy = policy_of(clock, places=100)
    fill(policy, clock, b"a", 12)
    assert policy.stats()["on_probation"] == 10
    policy.places = 20
    assert policy.places == 20
    assert policy.stats()["on_probation"] == 2
    policy.places = 1
    assert policy.stats()["on_probation"] == 0


def test_nobody_is_evicted_twice(clock: Clock) -> None:
    policy = policy_of(clock)
    [ticket] = fill(policy, clock, b"a", 1)
    assert policy.evict(ticket, b"a")
    assert not policy.evict(ticket, b"a")
    assert not policy.remove(ticket)
    assert policy.stats()["evicted"] == 1
    assert policy.add("another", b"a") != ticket  # in the same seat


def test_turns_outlive_the_connections(clock: Clock) -> None:
    policy = policy_of(clock)
    fill(policy, clock, b"a", 3)
    policy.clear()
    assert len(policy) == 0
    assert policy.turns_of(b"a") > 2
    assert repr(policy) == "EvictionPolicy(places=3, connections=0)"


def test_groups_cannot_be_guessed() -> None:
    """Each policy has another key, so that other groups are lucky."""

    def survivors() -> frozenset[int]:
        clock = Clock()
        policy = EvictionPolicy(3, clock=clock)
        lucky = set()
        for number in range(200):
            group = b"group %d" % number
            old, young = policy.add("old", b"old"), policy.add("young", group)
            clock.advance(1000)
            if policy.choose(b"new") is None:
                lucky.add(number)
            policy.remove(old)
            policy.remove(young)
        return frozenset(lucky)

    first, second = survivors(), survivors()
    assert first != second
    assert 0 < len(first) < 50  # one in sixteen


# -- whose handshake makes room --------------------------------------------------------------------


def test_silent_sockets_of_one_address_make_room_for_another(clock: Clock) -> None:
    shares = PendingShares(clock=clock)
    for number in range(64):
        shares.add(number, b"\x7f\x01\x00\x01", b"\x7f\x01")
    assert shares.choose(b"\x7f\x02") == 0
    assert repr(shares) == "PendingShares(handshakes=64, groups=1)"


def test_a_handshake_that_goes_on_outlives_silent_ones_of_its_address(clock: Clock) -> None:
    shares = PendingShares(clock=clock)
    address, group = b"\x7f\x01\x00\x01", b"\x7f\x01"
    honest = shares.add("honest", address, group)
    assert shares.advance(honest)
    tickets: dict[object, int] = {}
    for number in range(500):
        clock.advance(0.01)
        if number >= 63:
            victim = shares.choose(group)
            assert victim != "honest"
            if victim is not None:
                shares.remove(tickets[victim])
        tickets[number] = shares.add(number, address, group)
        if number == 250:
            assert shares.advance(honest)
    assert honest in shares
    assert shares.stage_of(honest) == 2


def test_those_that_wait_are_served_by_turns(clock: Clock) -> None:
    waiting = PendingShares(clock=clock)
    tickets = {}
    for number in range(5):
        tickets[f"flood {number}"] = waiting.add(f"flood {number}", b"a", b"a")
    for name in ("b", "c"):
        tickets[name] = waiting.add(name, name.encode(), name.encode())
    waiting.advance(tickets["flood 3"])
    order = []
    while (owner := waiting.next()) is not None:
        order.append(owner)
        waiting.remove(tickets[owner])
    assert set(order[:2]) == {"b", "c"}
    assert order[2:] == ["flood 3", "flood 0", "flood 1", "flood 2", "flood 4"]


# -- odd objects -----------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**32, 2**63, 2**64, 10**30, 1.5, float("nan"), float("inf"), "",
    "text", b"", b"bytes", b"x" * 10_000, bytearray(b"b"), (), [1], {}, object(), type, 1j,
)


class Strange(int):
    """An int that lies about its order and its text."""

    def __lt__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __gt__ = __le__ = __ge__ = __lt__

    def __repr__(self) -> str:
        raise RuntimeError("shown")


@pytest.mark.parametrize("kind", [EvictionPolicy, PendingShares])
def test_any_arguments_in_any_order(kind: type[Any], clock: Clock) -> None:
    """Only TypeError and ValueError come out, and the next honest call works."""
    draw = random.Random(1)
    good = kind(20, clock=clock) if kind is EvictionPolicy else kind(clock=clock)
    names = [name for name in dir(kind) if not name.startswith("_")]
    for _ in range(3_000):
        name = draw.choice(names)
        arguments = [draw.choice(ODD) for _ in range(draw.randrange(4))]
        words = {
            word: draw.choice(ODD) for word in draw.sample(
                ["since_ns", "units", "places", "key", "clock", "grace_s", "nonsense"], 1)
            if draw.random() < 0.3
        }
        try:
            if draw.random() < 0.1:
                kind(*arguments, **words)
            elif name == "places":
                good.places = draw.choice(ODD)
            else:
                getattr(good, name)(*arguments, **words)
        except (TypeError, ValueError):
            pass
    good.clear()
    assert len(good) == 0


def test_values_out_of_range() -> None:
    for places in (0, -1):
        with pytest.raises(ValueError, match="places must be 1 or more"):
            EvictionPolicy(places)
    for wrong in (None, 1.0, "1", True):
        with pytest.raises(TypeError, match="places must be an int"):
            EvictionPolicy(wrong)  # type: ignore[arg-type]
    for seconds in (0, -1.0, float("nan"), float("inf"), 10**400):
        with pytest.raises(ValueError, match="grace_s must be above 0"):
            EvictionPolicy(1, grace_s=seconds)
    year = 31_557_600
    assert EvictionPolicy(1, grace_s=year, turn_s=year).places == 1
    with pytest.raises(ValueError, match="turn_s must be above 0 and at most a year"):
        EvictionPolicy(1, turn_s=year + 1)
    with pytest.raises(TypeError, match="turn_s must be a number of seconds"):
        EvictionPolicy(1, turn_s="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="key must be 16 bytes long"):
        EvictionPolicy(1, key=b"short")
    with pytest.raises(TypeError, match="key must be 16 bytes or None"):
        PendingShares(key="0123456789abcdef")  # type: ignore[arg-type]
    policy, shares = EvictionPolicy(10**30), PendingShares()
    assert policy.places == 2**30
    with pytest.raises(TypeError, match="group must be bytes or None"):
        policy.add("owner", "1.2.3.4")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="address must be bytes or None"):
        shares.add("owner", 1, b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="owner must not be None"):
        policy.add(None, b"")
    with pytest.raises(TypeError, match="a ticket must be an int, as `add` returned it, not"):
        policy.remove("ticket")  # type: ignore[arg-type]
    ticket = policy.add("owner", b"")
    with pytest.raises(ValueError, match="units must be 1 or more"):
        policy.note_work(ticket, 0)
    with pytest.raises(TypeError, match="microseconds must be an int"):
        policy.note_latency(ticket, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a time must be from 0"):
        policy.add("owner", b"", since_ns=-1)
    for wrong_ticket in (0, -1, 2**63, 2**64, 10**30, ticket + 1, ticket + 2**32):
        assert not policy.remove(wrong_ticket)
        assert wrong_ticket not in policy
    policy.note_latency(ticket, 2**40)  # as high as it can be told
    assert len(policy) == 1


def test_an_int_that_lies(clock: Clock) -> None:
    policy = EvictionPolicy(Strange(5), clock=clock, per_second=Strange(3))
    ticket = policy.add("owner", b"")
    assert policy.note_work(Strange(ticket), Strange(2))
    assert policy.note_latency(ticket, Strange(2))
    assert not policy.remove(Strange(-5))


@pytest.mark.parametrize(
    "bad", [lambda: -1, lambda: 2**62, lambda: 1.5, lambda: None, lambda: 1 / 0])
def test_a_clock_that_is_wrong(bad: Callable[[], Any]) -> None:
    times: list[Callable[[], Any]] = [lambda: 5]
    policy = EvictionPolicy(5, clock=lambda: times[0]())
    shares = PendingShares(clock=lambda: times[0]())
    ticket, pending = policy.add("one", b""), shares.add("one", b"", b"")
    times[0] = bad
    for call in (
        lambda: policy.add("two", b""), lambda: policy.note_work(ticket),
        lambda: policy.evict(ticket, b""), lambda: policy.choose(b""), lambda: policy.turns_of(b""),
        lambda: setattr(policy, "places", 3), lambda: shares.add("two", b"", b""),
        lambda: shares.advance(pending), lambda: shares.choose(b""),
    ):
        with pytest.raises((TypeError, ValueError, ZeroDivisionError)):
            call()
    times[0] = lambda: 6
    assert len(policy) == len(shares) == 1
    assert policy.remove(ticket)
    assert shares.remove(pending)


def test_a_clock_that_goes_back(clock: Clock) -> None:
    policy = policy_of(clock)
    tickets = fill(policy, clock, b"a", 10)
    clock.now -= 500 * SECOND
    for ticket in tickets:
        assert policy.note_work(ticket)
    assert policy.choose(b"b") is None
    policy.add("owner", b"b")
    described = policy.describe(tickets[0])
    assert described is not None
    assert described["age_s"] == 0


class Reentrant:
    """Calls back into the policy when it dies."""

    def __init__(self, policy: Any, calls: list[int]) -> None:
        self.policy, self.calls = policy, calls

    def __del__(self) -> None:
        self.calls.append(len(self.policy))
        self.policy.clear()
        if len(self.calls) < 50:
            add_to(self.policy, "made by the dead")


def add_to(policy: Any, owner: object) -> int:
    group = b"group"
    return int(
        policy.add(owner, group) if isinstance(policy, EvictionPolicy)
        else policy.add(owner, b"address", group))


@pytest.mark.parametrize("kind", [EvictionPolicy, PendingShares])
def test_owners_that_call_back_when_they_die(kind: type[Any]) -> None:
    policy = kind(20) if kind is EvictionPolicy else kind()
    calls: list[int] = []

    def evict(ticket: int) -> None:
        if kind is EvictionPolicy:
            policy.evict(ticket, b"")
        else:
            policy.remove(ticket)

    for end in (policy.remove, evict, lambda _: policy.clear()):
        tickets = [add_to(policy, Reentrant(policy, calls)) for _ in range(10)]
        end(tickets[3])
    policy.clear()
    assert len(calls) == 30
    policy.clear()
    assert len(policy) == 0


@pytest.mark.parametrize("kind", [EvictionPolicy, PendingShares])
def test_owners_are_kept_as_long_as_they_are_there(kind: type[Any]) -> None:
    class Owner:
        pass

    for end in ("remove", "clear", "drop"):
        policy = kind(20) if kind is EvictionPolicy else kind()
        owner = Owner()
        known = weakref.ref(owner)
        references = sys.getrefcount(owner)
        ticket = add_to(policy, owner)
        assert policy.owner_of(ticket) is owner
        assert sys.getrefcount(owner) == references + 1
        del owner
        gc.collect()
        assert known() is not None
        if end == "remove":
            policy.remove(ticket)
        elif end == "clear":
            policy.clear()
        else:
            del policy
        assert known() is None, end


def test_seats_and_groups_are_used_again() -> None:
    """100,000 connections of made-up groups leave nothing behind."""
    policy, shares = EvictionPolicy(20), PendingShares()
    for number in range(100_000):
        name = b"%d" % number
        policy.remove(policy.add(number, name))
        shares.remove(shares.add(number, name, name))
    assert policy.stats()["groups"] == 0
    assert repr(shares) == "PendingShares(handshakes=0, groups=0)"
    assert policy.add("last", b"") & 0xFFFFFFFF < 1024  # the first chunk of seats


def test_threads_never_evict_one_twice() -> None:
    policy = EvictionPolicy(1_000, per_second=2**30, grace_s=1e-9, turn_s=1e-9)
    tickets = {number: policy.add(number, b"crowd") for number in range(2_000)}
    evicted: list[int] = []

    def attack(name: int) -> None:
        for number in range(rounds(400)):
            victim = policy.choose(b"%d %d" % (name, number))
            if victim is not None and policy.evict(tickets[victim], b""):
                evicted.append(victim)
            ticket = policy.add(-1, b"mine")
            policy.note_work(ticket)
            policy.note_latency(ticket, number)
            assert policy.remove(ticket)
            assert policy.describe(ticket) is None

    in_threads(attack, 4)
    evicted = [each for each in evicted if each >= 0]
    assert len(evicted) == len(set(evicted))
    assert policy.stats()["evicted"] >= len(evicted) > 0
    assert len(policy) == 2_000 - len(evicted)
