"""Any calls in any order: the policy knows and chooses what the model does."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model import SECOND, Clock
from model_eviction import Connection, EvictionModel

from rcmgr.admission.eviction import EvictionPolicy

KEY = bytes(range(16))
# with this key "B" and "22" are lucky groups, and no two groups share both cells of the turns
GROUPS = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"B", b"22", b""]

groups = st.sampled_from(GROUPS)
numbers = st.integers(0, 10**9)
few_groups = st.sampled_from(GROUPS[:2])


class EvictionMachine(RuleBasedStateMachine):
    @initialize(places=st.integers(1, 70), per_second=st.one_of(st.none(), st.integers(1, 9)))
    def start(self, places: int, per_second: int | None) -> None:
        self.clock = Clock()
        self.policy = EvictionPolicy(
            places, key=KEY, clock=self.clock, turn_s=2.0, per_second=per_second)
        self.model = EvictionModel(
            places, self.clock, key=KEY, turn=2 * SECOND, per_second=per_second)
        self.tickets: list[tuple[int, Connection]] = []
        self.gone: list[int] = []
        self.owners = 0
        self.evicted = 0

    def pick(self, number: int) -> tuple[int, Connection]:
        return self.tickets[number % len(self.tickets)]

    def drop(self, ticket: int, connection: Connection) -> None:
        self.tickets.remove((ticket, connection))
        self.gone.append(ticket)

    def has_some(self) -> bool:
        return bool(getattr(self, "tickets", ()))

    @rule(group=groups)
    def add(self, group: bytes) -> None:
        self.owners += 1
        owner = f"connection {self.owners}"
        ticket = self.policy.add(owner, group or None)
        self.tickets.append((ticket, self.model.add(owner, group)))

    @rule(group=few_groups, count=st.integers(2, 12))
    def add_many(self, group: bytes, count: int) -> None:
        for _ in range(count):
            self.add(group)

    @rule(count=st.integers(2, 30), start=numbers)
    def add_of_all_groups(self, count: int, start: int) -> None:
        for number in range(start, start + count):
            self.add(GROUPS[number % len(GROUPS)])

    @rule(group=groups, ago=st.floats(0, 30))
    def add_older(self, group: bytes, ago: float) -> None:
        self.owners += 1
        since = self.clock.now - int(ago * SECOND)
        ticket = self.policy.add(self.owners, group, since_ns=since)
        self.tickets.append((ticket, self.model.add(self.owners, group, since)))

    @precondition(has_some)
    @rule(number=numbers)
    def remove(self, number: int) -> None:
        ticket, connection = self.pick(number)
        assert self.policy.remove(ticket)
        self.model.remove(connection)
        self.drop(ticket, connection)

    @precondition(has_some)
    @rule(number=numbers, units=st.integers(1, 3))
    def work(self, number: int, units: int) -> None:
        ticket, connection = self.pick(number)
        assert self.policy.note_work(ticket, units)
        self.model.note_work(connection, units)

    @precondition(has_some)
    @rule(number=numbers, microseconds=st.integers(0, 5))
    def latency(self, number: int, microseconds: int) -> None:
        ticket, connection = self.pick(number)
        assert self.policy.note_latency(ticket, microseconds)
        self.model.note_latency(connection, microseconds)

    @precondition(has_some)
    @rule(number=numbers)
    def promote(self, number: int) -> None:
        ticket, connection = self.pick(number)
        assert self.policy.promote(ticket)
        self.model.promote(connection)

    @rule(group=groups, evicts=st.booleans())
    def choose(self, group: bytes, evicts: bool) -> None:
        before = self.policy.stats()["choices"]
        owner = self.policy.choose(group)
        rule, expected = self.model.choose(group)
        assert owner == (None if expected is None else expected.owner), rule
        assert self.policy.has_room_for(group) is (expected is not None)
        after = self.policy.stats()["choices"]
        assert {name: after[name] - before[name] for name in after} == {
            name: int(name == rule) for name in after}
        self.model.note_choice(group, expected)
        if expected is not None and evicts:
            [ticket] = [ticket for ticket, c in self.tickets if c is expected]
            assert self.policy.owner_of(ticket) == owner
            assert self.policy.evict(ticket, group)
            self.model.evict(expected, group)
            self.drop(ticket, expected)
            self.evicted += 1

    @rule(group=groups, times=st.integers(1, 20))
    def begin_handshakes(self, group: bytes, times: int) -> None:
        for _ in range(times):
            delay = self.policy.begin_handshake(group or None)
            assert delay == self.model.begin_handshake(group) / SECOND

    @rule(group=groups, times=st.integers(1, 10))
    def siege(self, group: bytes, times: int) -> None:
        """Newcomers of one group. Each takes a place if the policy finds one."""
        for _ in range(times):
            self.choose(group, True)
            self.add(group)

    @rule(seconds=st.sampled_from([0.01, 0.4, 1.0, 3.0, 61.0, 601.0, 300.0 * 513]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(places=st.integers(1, 70))
    def change_places(self, places: int) -> None:
        self.policy.places = places
        self.model.set_places(places)
        assert self.policy.places == places

    @rule()
    def ask_about_gone(self) -> None:
        for ticket in self.gone[-5:]:
            assert ticket not in self.policy
            assert self.policy.describe(ticket) is None
            assert self.policy.owner_of(ticket) is None
            for change in (self.policy.note_work, self.policy.promote, self.policy.remove):
                assert not change(ticket)
            assert not self.policy.evict(ticket, b"a")

    @rule()
    def clear(self) -> None:
        self.policy.clear()
        for ticket, connection in list(self.tickets):
            self.model.remove(connection)
            self.drop(ticket, connection)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "policy"):
            return
        model, stats = self.model, self.policy.stats()
        assert len(self.policy) == stats["connections"] == len(self.tickets)
        assert stats["groups"] == len(model.groups)
        assert stats["on_probation"] == len(model.levels["probation"])
        assert stats["proven"] == len(model.levels["proven"])
        assert stats["evicted"] == self.evicted
        for ticket, c in self.tickets:
            assert self.policy.describe(ticket) == self.expected(c)
        for group in GROUPS:
            turns = model.debt(group, self.clock.now) / model.turn
            assert self.policy.turns_of(group) == turns
        for group in (b"a", b"new"):
            chosen = model.choose(group)[1]
            assert self.policy.choose(group) == (None if chosen is None else chosen.owner)
            model.note_choice(group, chosen)

    def expected(self, c: Connection) -> dict[str, Any]:
        return {
            "state": c.level,
            "group_size": c.group.size,
            "senior": not self.model.is_junior(c),
            "best": [kind for kind, best in self.model.best.items() if c in best],
            "age_s": max(0, self.clock.now - c.born) / SECOND,
            "latency_us": c.latency,
        }


TestEvictionMachine = EvictionMachine.TestCase
TestEvictionMachine.settings = settings(max_examples=100, stateful_step_count=40)
