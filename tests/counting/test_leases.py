"""Leases and places of one node, and of many nodes together with an exact engine."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from model_engine import AHEAD_US, EngineModel

from rcmgr import Rate
from rcmgr.counting.leases import FleetGate, LeaseTable, PlaceTable
from rcmgr.fleet.exchange import LeasedRate
from rcmgr.peers import peer_text

SECOND = 1_000_000_000


class Clock:
    def __init__(self, now: int = 10 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def joined(burst: int, rate: float, clock: Clock, **options: Any) -> LeaseTable:
    table = LeaseTable(burst, rate, clock=clock, **options)
    table.find_again()
    assert not table.is_lost
    return table


def granted(table: LeaseTable, times: int, key: Hashable = b"peer") -> int:
    return sum(table.try_consume(key) for _ in range(times))


@pytest.mark.parametrize("now", [10 * SECOND, -10 * SECOND])
def test_a_new_key_gets_the_burst_divided_by_the_nodes(now: int) -> None:
    table = joined(12, 1.0, Clock(now), nodes=3)
    assert table.advance == 4
    assert granted(table, 10) == 4
    assert table.collect(8) == [(b"peer", 4, 8)]  # it owes 4, and wants twice what it spent
    assert (table.allowed, table.denied) == (4, 6)


def test_leased_tokens_are_spent_and_no_others() -> None:
    woken: list[int] = []
    table = joined(12, 1.0, Clock(), nodes=12, wake=lambda: woken.append(1))
    assert granted(table, 2) == 1
    table.collect(8)
    assert granted(table, 2) == 0  # while the engine is asked, it grants no further advance
    assert (table.waiting, len(woken)) == (0, 1)
    table.settle(b"peer", 5, 6 * SECOND)
    assert table.portion(b"peer") == 5
    assert granted(table, 9) == 5 + 1  # and an advance, since the engine has tokens


def test_an_empty_key_does_not_ask_before_the_engine_has_a_token() -> None:
    clock = Clock()
    table = joined(4, 1.0, clock, nodes=4)
    granted(table, 2)
    table.collect(8)
    table.settle(b"peer", 0, 4 * SECOND)  # empty: the next token comes in 1 s
    assert granted(table, 3) == 0
    assert table.collect(8) == []
    assert table.time_until(b"peer") == 1.0
    assert table.time_until(b"peer", 5) == float("inf")
    clock.now += SECOND
    assert granted(table, 1) == 1  # in advance
    assert table.get_available_tokens(b"peer") == 0


def test_an_engine_that_did_not_answer_is_asked_again() -> None:
    table = joined(12, 1.0, Clock(), nodes=12)
    granted(table, 1)
    table.collect(8)
    table.abandon(b"peer")
    assert granted(table, 2) == 1  # another advance
    assert table.collect(8) == [(b"peer", 1, 2)]


def test_answers_for_forgotten_keys_change_nothing() -> None:
    table = joined(12, 1.0, Clock(), nodes=12)
    table.settle(b"forgotten", 5, SECOND)
    table.abandon(b"forgotten")
    assert (len(table), table.portion(b"forgotten"), table.time_until(b"forgotten")) == (0, 0, 0)
    assert granted(table, 12, b"forgotten") == 1


@pytest.mark.parametrize("tokens", [6, 50])
def test_the_engine_is_asked_for_the_largest_denied_request(tokens: int) -> None:
    woken: list[int] = []
    table = joined(12, 1.0, Clock(), nodes=12, wake=lambda: woken.append(1))
    assert not table.try_consume(b"peer", tokens)  # the advance of 1 does not suffice
    assert len(woken) == 1
    assert not table.try_consume(b"peer", 2)
    assert table.collect(8) == [(b"peer", 1, min(tokens, 12) - 1)]
    table.settle(b"peer", 0, 0)
    assert granted(table, 1) == 1
    assert table.collect(8) == [(b"peer", 0, 2)]  # the large request is not asked for again


def test_the_node_asks_for_more_when_as_much_is_left_as_it_spent() -> None:
    table = joined(1000, 100.0, Clock(), nodes=100)
    granted(table, 10)
    table.collect(8)
    table.settle(b"peer", 20, 0)
    granted(table, 9)
    assert table.waiting == 0
    granted(table, 1)
    assert table.waiting == 1


def test_a_key_waits_once_for_the_engine() -> None:
    table = joined(12, 1.0, Clock(), nodes=12)
    granted(table, 1)
    table.collect(8)
    table.settle(b"peer", 1, 0)
    assert granted(table, 2) == 2  # a leased token, and an advance while the key waits
    assert table.waiting == 1


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_available_tokens_are_granted(nodes: int) -> None:
    clock = Clock()
    table = joined(12, 1.0, clock, nodes=nodes)
    advance = 12 // nodes
    assert table.get_available_tokens(b"peer") == advance
    granted(table, 1)
    assert table.get_available_tokens(b"peer") == advance - 1
    table.collect(8)
    assert table.get_available_tokens(b"peer") == advance - 1  # while the engine is asked
    for debt, more in [
        (0, advance), (5 * SECOND, min(advance, 7)), (10 * SECOND, 2), (10 * SECOND + 1, 1),
        (11 * SECOND + 1, 0), (20 * SECOND, 0),
    ]:
        table.settle(b"peer", 0, debt)
        assert table.get_available_tokens(b"peer") == advance - 1 + more
    clock.now += 10 * SECOND  # the debt of 20 s is 10 s now
    assert table.get_available_tokens(b"peer") == advance + 1
    assert granted(table, 20) == advance + 1


def test_the_time_until_a_node_has_enough_tokens() -> None:
    table = joined(12, 1.0, Clock(), nodes=3)
    granted(table, 4)
    table.collect(8)
    table.settle(b"peer", 5, 12 * SECOND)
    assert [table.time_until(b"peer", tokens) for tokens in (1, 5, 6, 12)] == [0, 0, 6, 12]


def test_a_peer_has_one_lease_under_its_bytes_and_its_text() -> None:
    peer = b"\x12\x20" + bytes(32)
    table = joined(4, 1.0, Clock(), nodes=2)
    assert table.try_consume(peer_text(peer))
    table.collect(8)
    table.settle(peer, 0, 4 * SECOND)
    for name in (peer, peer_text(peer)):
        assert (table.portion(name), table.get_available_tokens(name)) == (1, 1)
        assert table.time_until(name, 2) == 2
    assert len(table) == 1


def test_unused_tokens_go_back_and_full_keys_are_forgotten() -> None:
    clock = Clock()
    table = joined(10, 1.0, clock, nodes=2)
    assert granted(table, 1) == 1
    assert table.collect(8) == [(b"peer", 5, 0)]
    table.settle(b"peer", 0, 5 * SECOND)
    clock.now += 2 * SECOND
    assert table.collect(8) == [(b"peer", -4, 0)]
    table.settle(b"peer", 0, SECOND)
    table.collect(8)
    table.collect(8)
    assert len(table) == 1  # the engine's bucket is not full yet
    clock.now += SECOND
    table.collect(8)
    table.collect(8)
    assert len(table) == 0
    assert granted(table, 1) == 1
    assert len(table) == 1  # the table keeps the latest key anew
    assert table.collect(8) == [(b"peer", 5, 0)]


def test_all_idle_keys_give_their_tokens_back() -> None:
    clock = Clock()
    table = joined(4, 1.0, clock, nodes=2, max_keys=1000)  # more keys than one half has
    keys = [b"%d" % number for number in range(600)]
    for key in keys:
        table.try_consume(key)
    assert sorted(table.collect(1000)) == sorted((key, 2, 1) for key in keys)
    clock.now += 2 * SECOND
    assert [table.collect(1000) for _ in range(6)] == [[]] * 6  # the engine has not answered yet
    for key in keys:
        table.settle(key, 0, 0)
    found = table.collect(10)
    assert len(found) == 10
    found += [each for _ in range(6) for each in table.collect(1000)]
    assert sorted(found) == sorted((key, -1, 0) for key in keys)
    assert granted(table, 1, keys[0]) == 0  # nothing in advance while the engine is told
    for key in keys:
        table.settle(key, 0, 0)
    for _ in range(6):
        table.collect(1000)
    assert len(table) == 1  # the key that was asked for meanwhile


def test_an_idle_key_that_waits_for_the_engine_is_kept() -> None:
    clock = Clock()
    table = joined(12, 1.0, clock, nodes=12)
    granted(table, 1)
    table.collect(8)
    table.settle(b"peer", 1, 0)
    granted(table, 1)
    clock.now += 2 * SECOND
    assert table.collect(0) == []
    assert len(table) == 1
    assert table.collect(8) == [(b"peer", 0, 2)]


def full_queue(clock: Clock, woken: list[int]) -> LeaseTable:
    """A table of which the engine knows `peer`, and 1024 other keys wait to be told."""
    table = joined(4, 1.0, clock, nodes=4, wake=lambda: woken.append(1))
    granted(table, 1)
    table.collect(8)
    woken.clear()
    for number in range(1024):
        table.try_consume(b"%d" % number)
    assert (table.waiting, len(woken)) == (1024, 1)
    return table


def test_a_key_that_finds_the_queue_full_is_told_first_once_it_is_denied() -> None:
    woken: list[int] = []
    table = full_queue(Clock(), woken)
    assert granted(table, 1, b"new") == 1
    assert (table.waiting, len(woken)) == (1024, 1)
    assert granted(table, 1, b"new") == 0
    assert (table.waiting, len(woken)) == (1025, 2)
    assert table.collect(2) == [(b"new", 1, 2), (b"0", 1, 2)]


def test_a_key_that_finds_the_queue_full_is_told_once_it_is_idle() -> None:
    clock = Clock()
    table = full_queue(clock, [])
    assert granted(table, 1, b"new") == 1
    assert b"new" not in {key for key, _, _ in table.collect(2000)}
    clock.now += 2 * SECOND
    assert [each for _ in range(10) for each in table.collect(2000)] == [(b"new", 1, 0)]


@pytest.mark.parametrize(("debt_ns", "grants", "waiting"), [
    (2 * SECOND, 1, 1025), (3 * SECOND, 1, 1025), (3 * SECOND + 1, 0, 1024), (4 * SECOND, 0, 1024),
])
def test_a_denied_key_asks_if_the_engine_has_a_token(
    debt_ns: int, grants: int, waiting: int
) -> None:
    woken: list[int] = []
    table = full_queue(Clock(), woken)
    table.settle(b"peer", 0, debt_ns)
    assert granted(table, 3) == grants
    assert (table.waiting, len(woken)) == (waiting, 1 + waiting - 1024)


def test_portions_adapt_to_use() -> None:
    table = joined(1000, 100.0, Clock(), nodes=100)
    granted(table, 30)
    [(_, charge, want)] = table.collect(1)
    assert (charge, want) == (10, 20)
    table.settle(b"peer", 20, 0)
    granted(table, 15)
    assert table.collect(1)[0][2] == 2 * 15 - 5


@pytest.mark.parametrize("on_loss", ["local", "refuse"])
def test_without_the_engine_the_share_of_the_node_applies(on_loss: str) -> None:
    clock = Clock()
    table = LeaseTable(12, 6.0, nodes=3, on_loss=on_loss, clock=clock)
    assert table.is_lost
    assert granted(table, 10) == (4 if on_loss == "local" else 0)
    assert (table.allowed, table.denied) == ((4, 6) if on_loss == "local" else (0, 10))
    assert table.get_available_tokens(b"peer") == 0
    if on_loss == "local":
        assert 0.4 < table.time_until(b"peer") <= 0.5
    clock.now += SECOND
    table.find_again()
    table.lose()
    assert granted(table, 10) == (2 if on_loss == "local" else 0)  # a loss is no fresh start
    table.set_nodes(2)
    assert granted(table, 10) == (6 if on_loss == "local" else 0)  # the share of one of two


def test_made_up_keys_take_no_memory() -> None:
    table = joined(2, 1.0, Clock(), nodes=2, max_keys=1000)
    most = 0
    for number in range(50_000):
        table.try_consume(b"%d" % number)
        most = max(most, len(table))
    assert most == 1000
    assert table.waiting == 1024
    assert len(table.collect(8)) == 8


def test_a_key_in_use_stays_among_made_up_ones() -> None:
    table = joined(2, 0.001, Clock(), nodes=2, max_keys=1000)
    granted(table, 1, b"heavy")
    table.collect(1)
    table.settle(b"heavy", 0, 2000 * SECOND)
    for number in range(10_000):
        table.try_consume(b"%d" % number)
        if number % 100 == 0:
            assert not table.try_consume(b"heavy")


def test_it_wakes_the_thread_once() -> None:
    woken: list[int] = []
    table = joined(10, 1.0, Clock(), nodes=2, wake=lambda: woken.append(1))
    for number in range(3000):  # more than wait at once
        table.try_consume(b"%d" % number)
    assert len(woken) == 1


@pytest.mark.parametrize(("values", "message"), [
    ({"capacity": 0}, "capacity must be from 1"), ({"refill_rate": 0}, "refill_rate must be above"),
    ({"refill_rate": float("inf")}, "refill_rate must be finite"),
    ({"nodes": 0}, "nodes must be 1 or more"), ({"max_keys": 0}, "max_keys must be 1 or more"),
    ({"on_loss": "x"}, "on_loss must be one of local, refuse"),
])
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeaseTable(**{"capacity": 1, "refill_rate": 1.0, **values})
    if not values.keys() & {"capacity", "refill_rate"}:
        with pytest.raises(ValueError, match=message):
            PlaceTable(1, **values)
    with pytest.raises(ValueError, match="limit must be 0 or more"):
        PlaceTable(-1)
    with pytest.raises(ValueError, match="tokens must be 0 or more"):
        LeaseTable(1, 1.0).try_consume(b"x", -1)


class Fleet:
    """Nodes with one rate, a fake clock, and an exact engine."""

    def __init__(self, rate: Rate, nodes: int) -> None:
        self.clock, self.engine, self.rate, self.nodes = Clock(), EngineModel(), rate, nodes
        self.tables = [self.new() for _ in range(nodes)]
        self.granted = 0
        self.unbounded = 0  # advances that a lost call or a death may have hidden from the engine

    def new(self) -> LeaseTable:
        return joined(self.rate.burst, self.rate.refill_rate, self.clock, nodes=self.nodes)

    def request(self, at: int, tokens: int) -> None:
        self.granted += tokens * self.tables[at].try_consume(b"peer", tokens)

    def exchange(self, at: int, lost: str) -> None:
        table = self.tables[at]
        ticks = LeasedRate("r", self.rate, table, 1).ticks
        for key, charge, want in table.collect(8):
            if lost == "call":
                self.unbounded += max(0, charge)
                table.abandon(key)
                continue
            answer = self.engine.lease("r", b"peer", ticks, charge, want)
            if lost == "reply":
                table.abandon(key)
            else:
                table.settle(key, answer[0], answer[1] * 1000)

    def die(self, at: int) -> None:
        self.unbounded += self.tables[at].advance  # granted, and not told yet
        self.tables[at] = self.new()

    def wait(self, ms: int) -> None:
        self.clock.now += ms * 1_000_000
        self.engine.now_us += ms * 1000

    def out(self) -> int:
        return sum(table.portion(b"peer") for table in self.tables)


STEPS = st.lists(st.one_of(
    st.tuples(st.just("request"), st.integers(0, 3), st.integers(1, 4)),
    st.tuples(st.just("exchange"), st.integers(0, 3), st.sampled_from(["", "", "call", "reply"])),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 40, 700, 1100, 5000])),
    st.tuples(st.just("die"), st.integers(0, 3)),
    st.tuples(st.just("mark")),
), max_size=80)


@given(STEPS, st.builds(Rate, st.sampled_from([0.5, 3, 50, 1000]), st.integers(1, 40)))
def test_the_fleet_never_passes_the_rate_by_more_than_the_portions_out(
    steps: list[tuple[Any, ...]], rate: Rate
) -> None:
    """In any time t: burst + rate * (t + 0.1 s) + the portions out + an advance for each node."""
    fleet = Fleet(rate, 4)
    marks = [(fleet.clock.now, 0, 0, 0)]
    for name, *arguments in steps:
        if name == "mark":
            marks.append((fleet.clock.now, fleet.granted, fleet.out(), fleet.unbounded))
        else:
            getattr(fleet, name)(*arguments)
        for since, before, out, hidden in marks:
            seconds = (fleet.clock.now - since) / SECOND
            most = (
                rate.burst + rate.refill_rate * (seconds + AHEAD_US / 1e6) + out
                + fleet.nodes * fleet.tables[0].advance + fleet.unbounded - hidden)
            assert fleet.granted - before <= most + 1e-6


def test_a_busy_fleet_uses_its_whole_rate() -> None:
    rate = Rate(1000, 50)
    fleet = Fleet(rate, 20)
    for _ in range(200):
        for at in range(20):
            for _ in range(10):
                fleet.request(at, 1)
            fleet.exchange(at, "")
        fleet.wait(50)
    assert 10_000 * 0.95 <= fleet.granted <= 10_000 + 50 + 100 + 20 * 2


def test_one_busy_node_gets_the_rate_that_the_others_leave() -> None:
    fleet = Fleet(Rate(1000, 50), 20)
    for _ in range(100):
        for _ in range(200):
            fleet.request(0, 1)
        fleet.exchange(0, "")
        fleet.wait(50)
    assert fleet.granted >= 5000 * 0.95


# -- places ------------------------------------------------------------------------------------


def places(limit: int, clock: Clock | None = None, **options: Any) -> PlaceTable:
    table = PlaceTable(limit, clock=clock or Clock(), **options)
    table.find_again()
    return table


def test_a_new_key_gets_its_part_of_the_places() -> None:
    table = places(8, nodes=4)
    assert [table.may_take(b"peer", held) for held in range(4)] == [True, True, False, False]
    assert table.denied == 2
    assert table.collect(8, lambda key: 2) == [(b"peer", 2)]
    table.settle(b"peer", 5)
    assert [table.may_take(b"peer", held) for held in (2, 3)] == [True, False]
    table.collect(8, lambda key: 3)
    table.settle(b"peer", 5)
    assert not table.may_take(b"peer", 3)


def test_a_limit_of_zero_admits_nothing() -> None:
    table = places(0)
    assert not table.may_take(b"peer", 0)


def test_a_full_key_asks_again_after_a_while() -> None:
    clock = Clock()
    table = places(4, clock, nodes=4)
    assert table.may_take(b"peer", 0)
    table.collect(8, lambda key: 1)
    table.settle(b"peer", 3)
    assert not table.may_take(b"peer", 1)
    assert table.waiting == 0
    clock.now += SECOND // 2
    assert not table.may_take(b"peer", 1)
    assert table.waiting == 1
    table.collect(8, lambda key: 1)
    table.settle(b"peer", 0)
    assert table.may_take(b"peer", 1)


def test_a_full_key_asks_four_times_a_second() -> None:
    clock = Clock()
    table = places(4, clock)
    assert not table.may_take(b"peer", 4)
    assert table.denied == 1
    table.collect(8, lambda key: 4)
    assert not table.may_take(b"peer", 4)  # while the engine is asked
    assert table.waiting == 0
    table.settle(b"peer", 0)
    clock.now += SECOND // 4 - 1
    assert not table.may_take(b"peer", 4)
    assert table.waiting == 0
    clock.now += 1
    assert not table.may_take(b"peer", 4)
    assert table.waiting == 1


def test_a_node_alone_admits_no_more_than_the_limit_while_the_engine_is_asked() -> None:
    table = places(8)
    table.may_take(b"peer", 0)
    for held in (3, 5):
        table.collect(8, lambda key, held=held: held)  # type: ignore[misc]
        assert table.may_take(b"peer", 7)
        assert not table.may_take(b"peer", 8)
        table.settle(b"peer", 0)


def test_a_key_with_one_place_left_asks_at_once() -> None:
    table = places(4)
    table.may_take(b"peer", 0)
    table.collect(8, lambda key: 1)
    table.settle(b"peer", 2)
    assert not table.may_take(b"peer", 2)
    assert table.waiting == 1


def test_keys_denied_a_place_are_told_first() -> None:
    woken: list[int] = []
    table = places(8, nodes=4, wake=lambda: woken.append(1))
    assert table.may_take(b"granted", 0)
    assert len(woken) == 1
    assert not table.may_take(b"denied", 2)
    assert len(woken) == 2
    assert table.may_take(b"granted too", 0)
    assert len(woken) == 2
    assert table.collect(2, lambda key: 0) == [(b"denied", 0), (b"granted", 0)]


def test_keys_that_wait_are_told_though_they_hold_as_many_places_as_before() -> None:
    table = places(8)
    for _ in range(2):
        for key in (b"a", b"b"):
            assert table.may_take(key, 0)
        assert table.collect(8, lambda key: 1) == [(b"a", 1), (b"b", 1)]
        for key in (b"a", b"b"):
            table.settle(key, 0)


def test_all_keys_that_gave_places_back_are_told() -> None:
    table = places(8)
    keys = [b"%d" % number for number in range(300)]
    for key in keys:
        table.may_take(key, 0)
    assert len(table.collect(1000, lambda key: 1)) == 300
    assert [table.collect(1000, lambda key: 2) for _ in range(3)] == [[]] * 3  # no answer yet
    for key in keys:
        table.settle(key, 0)
    found = table.collect(10, lambda key: 0)
    assert len(found) == 10
    found += [each for _ in range(5) for each in table.collect(1000, lambda key: 0)]
    assert sorted(found) == sorted((key, 0) for key in keys)


def test_a_full_key_without_places_here_is_kept_for_a_while() -> None:
    clock = Clock()
    table = places(8, clock)
    table.may_take(b"peer", 0)
    table.collect(8, lambda key: 0)
    clock.now += 6 * SECOND
    table.collect(8, lambda key: 0)
    assert len(table) == 1  # the engine has not answered yet
    table.settle(b"peer", 8)
    clock.now += SECOND // 4 + 5 * SECOND
    table.collect(8, lambda key: 0)
    assert len(table) == 1
    clock.now += 1
    table.collect(8, lambda key: 0)
    assert len(table) == 0


def test_what_is_given_back_is_told_and_then_forgotten() -> None:
    clock = Clock()
    table = places(8, clock, nodes=2)
    assert table.may_take(b"peer", 0)
    assert table.collect(8, lambda key: 1) == [(b"peer", 1)]
    table.settle(b"peer", 0)
    assert table.collect(8, lambda key: 1) == []
    assert table.collect(8, lambda key: 0) == [(b"peer", 0)]
    table.settle(b"peer", 0)
    clock.now += 6 * SECOND
    assert table.collect(8, lambda key: 0) == []
    assert len(table) == 0
    assert table.may_take(b"peer", 0)
    assert len(table) == 1  # the table keeps the latest key anew


def test_what_stays_is_told_again_before_the_engine_forgets_it() -> None:
    clock = Clock()
    table = places(8, clock)
    table.may_take(b"peer", 0)
    table.collect(8, lambda key: 1)
    table.settle(b"peer", 0)
    clock.now += 600 * SECOND
    assert table.collect(8, lambda key: 1) == []
    clock.now += 1
    assert table.collect(8, lambda key: 1) == [(b"peer", 1)]
    table.settle(b"peer", 0)
    assert table.collect(8, lambda key: 1) == []
    assert table.collect(8, lambda key: 0) == [(b"peer", 0)]
    table.settle(b"peer", 0)
    clock.now += 601 * SECOND
    assert table.collect(8, lambda key: 0) == []  # it holds no place


@pytest.mark.parametrize("forget", ["abandon", "forget_told"])
def test_what_the_engine_may_not_know_is_told_again(forget: str) -> None:
    table = places(8)
    table.may_take(b"peer", 0)
    table.collect(8, lambda key: 1)
    if forget == "abandon":
        table.abandon(b"peer")
    else:
        table.settle(b"peer", 0)
        table.forget_told()
    assert table.collect(8, lambda key: 1) == [(b"peer", 1)]


@pytest.mark.parametrize("on_loss", ["local", "refuse"])
def test_places_without_the_engine(on_loss: str) -> None:
    table = PlaceTable(8, nodes=4, on_loss=on_loss)
    assert table.is_lost
    assert [table.may_take(b"peer", held) for held in range(3)] == (
        [True, True, False] if on_loss == "local" else [False] * 3)


def test_a_table_full_of_keys_that_hold_places_admits_no_other() -> None:
    table = places(8, max_keys=2)
    assert [table.may_take(key, 0) for key in (b"a", b"b", b"c", b"a")] == [True, True, False, True]


PLACE_STEPS = st.lists(st.one_of(
    st.tuples(st.just("take"), st.integers(0, 3)),
    st.tuples(st.just("give"), st.integers(0, 3)),
    st.tuples(st.just("exchange"), st.integers(0, 3), st.sampled_from(["", "", "call", "reply"])),
    st.tuples(st.just("wait"), st.sampled_from([0, 40, 300, 1100])),
    st.tuples(st.just("die"), st.integers(0, 3)),
), max_size=80)


@given(PLACE_STEPS, st.integers(0, 12))
def test_a_peer_never_holds_more_than_the_limit_and_an_advance_for_each_node(
    steps: list[tuple[Any, ...]], limit: int
) -> None:
    clock, engine = Clock(), EngineModel()
    tables = [places(limit, clock, nodes=4) for _ in range(4)]
    held = [0] * 4
    names = [f"{at}" for at in range(4)]
    for step, (name, *arguments) in enumerate(steps):
        at = int(arguments[0])
        if name == "wait":
            clock.now += at * 1_000_000
            engine.now_us += at * 1000
            for each in names:
                engine.beat(each)
        elif name == "take":
            held[at] += tables[at].may_take(b"peer", held[at])
        elif name == "give":
            held[at] = max(0, held[at] - 1)
        elif name == "die":
            held[at], names[at] = 0, f"{at}-{step}"
            tables[at] = places(limit, clock, nodes=4)
        else:
            engine.beat(names[at])
            for key, now in tables[at].collect(8, lambda key, at=at: held[at]):  # type: ignore[misc]
                if arguments[1] == "call":
                    tables[at].abandon(key)
                    continue
                others = engine.places(names[at], b"peer", now)
                if arguments[1] == "reply":
                    tables[at].abandon(key)
                else:
                    tables[at].settle(key, others)
        advance = min(limit, max(1, limit // 4))
        assert sum(held) <= limit + 4 * advance


def test_the_gate_shows_its_tables() -> None:
    rates = LeaseTable(1, 1.0), LeaseTable(1, 1.0)
    limits = PlaceTable(1), PlaceTable(1)
    gate = FleetGate(
        rate=rates[0], peer_rate=rates[1], peer_connections=limits[0], peer_streams=limits[1],
        refusals={"rate": 5})
    assert (gate.rate, gate.peer_rate) == rates
    assert (gate.peer_connections, gate.peer_streams) == limits
    assert gate.refusals == {"rate": 5}
    assert FleetGate().rate is None
    assert FleetGate().refusals == {}
