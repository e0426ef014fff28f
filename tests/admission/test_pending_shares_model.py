"""Any calls in any order: shares of the pending places are what the model says."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model import SECOND, Clock
from model_eviction import Handshake, PendingModel

from rcmgr.admission.eviction import PendingShares

# group and address
PLACES = [(b"a", b"a1"), (b"a", b"a2"), (b"b", b"b1"), (b"c", b"c1"), (b"", b"")]

numbers = st.integers(0, 10**9)
places = st.sampled_from(PLACES)


class PendingMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.shares = PendingShares(grace_s=0.25, patience_s=2.0, clock=self.clock)
        self.model = PendingModel(self.clock, SECOND // 4, 2 * SECOND)
        self.tickets: list[tuple[int, Handshake]] = []
        self.owners = 0

    def has_some(self) -> bool:
        return bool(getattr(self, "tickets", ()))

    @rule(place=places, times=st.sampled_from([1, 1, 3, 20]))
    def add(self, place: tuple[bytes, bytes], times: int) -> None:
        group, address = place
        for _ in range(times):
            self.owners += 1
            ticket = self.shares.add(self.owners, address or None, group or None)
            self.tickets.append((ticket, self.model.add(self.owners, address, group)))

    @precondition(has_some)
    @rule(number=numbers)
    def advance(self, number: int) -> None:
        ticket, handshake = self.tickets[number % len(self.tickets)]
        assert self.shares.advance(ticket) is self.model.advance(handshake)

    @precondition(has_some)
    @rule(number=numbers)
    def remove(self, number: int) -> None:
        ticket, handshake = self.tickets.pop(number % len(self.tickets))
        assert self.shares.remove(ticket)
        self.model.remove(handshake)
        assert not self.shares.remove(ticket)
        assert not self.shares.advance(ticket)
        assert self.shares.stage_of(ticket) is None

    @rule(place=places)
    def make_room(self, place: tuple[bytes, bytes]) -> None:
        owner = self.shares.choose(place[0])
        if owner is not None:
            [pair] = [(t, h) for t, h in self.tickets if h.owner == owner]
            assert self.shares.remove(pair[0])
            self.model.remove(pair[1])
            self.tickets.remove(pair)

    @rule(seconds=st.sampled_from([0.01, 0.2, 0.3, 1.0, 2.5]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def clear(self) -> None:
        self.shares.clear()
        self.tickets.clear()
        self.model.handshakes.clear()

    @invariant()
    def same(self) -> None:
        if hasattr(self, "shares"):
            assert len(self.shares) == len(self.tickets)
            assert self.shares.next() in ([h.owner for h in self.model.next()] or [None])
            for group in (b"a", b"b", b"c", b"", b"new"):
                expected = [h.owner for h in self.model.choose(group)]
                assert self.shares.choose(group) in (expected or [None])
            for ticket, handshake in self.tickets:
                assert ticket in self.shares
                assert self.shares.stage_of(ticket) == handshake.stage
                assert self.shares.owner_of(ticket) == handshake.owner


TestPendingMachine = PendingMachine.TestCase
TestPendingMachine.settings = settings(max_examples=150, stateful_step_count=30)
