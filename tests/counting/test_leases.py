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

SECOND = 1_000_000_000


class Clock:
    def __init__(self, now: int = 10 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def joined(burst: int, rate: float, clock: Clock, **options: Any) -> LeaseTable:
    table = LeaseTable(burst, rate, clock=clock, **options)
    table.find_again()
    return table


def granted(table: LeaseTable, times: int, key: Hashable = b"peer") -> int:
    return sum(table.try_consume(key) for _ in range(times))


def test_a_new_key_gets_the_burst_divided_by_the_nodes() -> None:
    table = joined(12, 1.0, Clock(), nodes=3)
    assert table.advance == 4
    assert granted(table, 10) == 4
    assert table.collect(8) == [(b"peer", 4, 8)]  # it owes 4, and wants twice what it spent
    assert (table.allowed, table.denied) == (4, 6)


def test_leased_tokens_are_spent_and_no_others() -> None:
    table = joined(12, 1.0, Clock(), nodes=12)
    assert granted(table, 2) == 1
    table.collect(8)
    assert granted(table, 2) == 0  # while the engine is asked, it grants no further advance
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


def test_unused_tokens_go_back_and_full_keys_are_forgotten() -> None:
    clock = Clock()
    table = joined(10, 1.0, clock, nodes=2)
    assert granted(table, 1) == 1
    assert table.collect(8) == [(b"peer", 5, 0)]
    table.settle(b"peer", 0, 5 * SECOND)
    clock.now += 2 * SECOND
    assert table.collect(8) == [(b"peer", -4, 0)]
    table.settle(b"peer", 0, 0)
    assert len(table) == 1
    table.collect(8)
    table.collect(8)
    assert len(table) == 0
    assert granted(table, 1) == 1
    assert len(table) == 1  # the table keeps the latest key anew
    assert table.collect(8) == [(b"peer", 5, 0)]


def test_denied_keys_are_told_first() -> None:
    table = joined(2, 1.0, Clock(), nodes=2)
    for number in range(20):
        table.try_consume(b"%d" % number)
    table.collect(20)
    for number in range(20):
        table.settle(b"%d" % number, 0, SECOND)  # one token is left at the engine
        granted(table, 1, b"%d" % number)  # in advance: it waits
    granted(table, 2, b"hungry")
    table.collect(1)
    table.settle(b"0", 0, SECOND)
    assert table.waiting == 20


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
    assert table.get_available_tokens(b"peer") == 0
    if on_loss == "local":
        assert 0.4 < table.time_until(b"peer") <= 0.5
    clock.now += SECOND
    table.find_again()
    table.lose()
    assert granted(table, 10) == (2 if on_loss == "local" else 0)  # a loss is no fresh start


def test_made_up_keys_take_no_memory() -> None:
    table = joined(2, 1.0, Clock(), nodes=2, max_keys=1000)
    for number in range(50_000):
        table.try_consume(b"%d" % number)
    assert len(table) <= 1000
    assert table.waiting <= 2048
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
    for number in range(10):
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
    clock.now += 601 * SECOND
    assert table.collect(8, lambda key: 1) == [(b"peer", 1)]


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
    rate, places_ = LeaseTable(1, 1.0), PlaceTable(1)
    gate = FleetGate(rate=rate, peer_streams=places_, refusals={"rate": 5})
    assert (gate.rate, gate.peer_rate, gate.peer_connections, gate.peer_streams) == (
        rate, None, None, places_)
    assert gate.refusals == {"rate": 5}
