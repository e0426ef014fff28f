"""Calls in any order, also wrong ones: the tracker answers as the model does."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from libp2p_values import ID
from model import STATES, Clock, Connection, Refusal, TrackerModel, is_established, key

from rcmgr import ConnectionKind, ConnectionLimitKind, ConnectionLimits, ConnectionTracker, Denial
from rcmgr.counting.connection_tracker import ConnectionRecord

IDS: list[Hashable] = ["a", "b", "c", b"a", 1, ("a", 1), "d", "e"]
# the first two are one peer
PEERS: list[Hashable] = [ID(b"peer 1"), b"peer 1", b"peer 2", "peer 3", 4, ("peer", 5)]
FIELDS = ConnectionLimits().to_dict().keys()

ids = st.sampled_from(IDS)
peers = st.sampled_from(PEERS)
directions = st.sampled_from(["inbound", "outbound"])
a_limit = st.one_of(st.none(), st.integers(0, 3))
# a few frozen ones that come again, as in a real program, and new ones
all_limits = st.one_of(
    st.sampled_from([ConnectionLimits(), ConnectionLimits(1, 1, 1, 1, 1, 1)]),
    st.builds(ConnectionLimits, *[a_limit for _ in FIELDS]),
)
indices = st.integers(0, 30)


class TrackerMachine(RuleBasedStateMachine):
    @initialize(
        max_connections=st.one_of(st.none(), st.integers(0, 6)), reuse_ids=st.booleans())
    def start(self, max_connections: int | None, reuse_ids: bool) -> None:
        self.clock = Clock()
        self.tracker = ConnectionTracker(
            max_connections=max_connections, clock=self.clock, reuse_ids=reuse_ids)
        self.model = TrackerModel(self.clock, reuse_ids=reuse_ids)
        self.model.max_connections = max_connections
        self.handles: list[tuple[ConnectionRecord, Connection]] = []

    def both(self, real: Any, expected: Any) -> tuple[Any, Any]:
        """The answer of both, or the ValueError that both raise."""
        try:
            wanted = expected()
        except ValueError:
            with pytest.raises(ValueError, match=r"."):
                real()
            return None, None
        return real(), wanted

    def keep_handle(self, connection_id: Hashable) -> None:
        connection = self.model.connections.get(connection_id)
        if connection is None or any(c is connection for _, c in self.handles):
            return
        record = self.tracker.get_connection(connection_id)
        assert record is not None
        self.handles.append((record, connection))

    @staticmethod
    def check_denial(denial: Denial | None, refusal: Refusal | bool | None) -> None:
        if isinstance(refusal, Refusal):
            assert denial is not None
            assert (denial.kind.value, denial.current, denial.limit) == refusal
        else:
            assert denial is None

    # -- transitions -------------------------------------------------------------------------

    @rule(i=ids, direction=directions, peer=st.one_of(st.none(), peers))
    def add_pending(self, i: Hashable, direction: str, peer: Hashable) -> None:
        add = getattr(self.tracker, f"add_pending_{direction}")
        real, wanted = self.both(
            lambda: add(i, peer), lambda: self.model.pend(i, direction, peer)
        )
        assert real == wanted
        self.keep_handle(i)

    @rule(i=ids, direction=directions, peer=st.one_of(st.none(), peers), limits=all_limits)
    def admit_pending(
        self, i: Hashable, direction: str, peer: Hashable, limits: ConnectionLimits
    ) -> None:
        admit = getattr(self.tracker, f"admit_pending_{direction}")
        self.check_denial(
            *self.both(
                lambda: admit(i, limits, peer),
                lambda: self.model.pend(i, direction, peer, limits),
            )
        )
        self.keep_handle(i)

    @rule(i=ids, direction=directions, peer=peers)
    def move_to_established(self, i: Hashable, direction: str, peer: Hashable) -> None:
        move = getattr(self.tracker, f"move_to_established_{direction}")
        self.both(lambda: move(i, peer), lambda: self.model.establish(i, direction, peer))
        self.keep_handle(i)

    @rule(i=ids, direction=directions, peer=peers, limits=all_limits, owned=st.booleans())
    def admit_established(
        self,
        i: Hashable,
        direction: str,
        peer: Hashable,
        limits: ConnectionLimits,
        owned: bool,
    ) -> None:
        admit = getattr(self.tracker, f"admit_established_{direction}")
        self.check_denial(
            *self.both(
                lambda: admit(i, peer, limits, owned=owned),
                lambda: self.model.establish(i, direction, peer, limits, owned=owned),
            )
        )
        self.keep_handle(i)

    @rule(i=ids, peer=st.one_of(st.none(), peers))
    def remove_connection(self, i: Hashable, peer: Hashable) -> None:
        connection = self.model.connections.get(i)
        wanted = connection is not None and self.model.remove(connection)
        assert self.tracker.remove_connection(i, peer) == wanted

    @rule(index=indices, only_pending=st.booleans())
    def remove_record(self, index: int, only_pending: bool) -> None:
        if not self.handles:
            return
        record, connection = self.handles[index % len(self.handles)]
        wanted = self.model.remove(connection, only_pending=only_pending)
        assert self.tracker.remove(record, only_pending=only_pending) == wanted

    @rule(index=indices, i=ids)
    def rename(self, index: int, i: Hashable) -> None:
        if not self.handles:
            return
        record, connection = self.handles[index % len(self.handles)]
        real, wanted = self.both(
            lambda: self.tracker.rename(record, i), lambda: self.model.rename(connection, i)
        )
        assert real == wanted

    @rule(really=st.integers(0, 4))
    def clear(self, really: int) -> None:
        if really == 0:  # seldom: there is little to see right after it
            self.tracker.clear()
            self.model.clear()

    # -- circumstances -----------------------------------------------------------------------

    @rule(peer=peers)
    def add_bypass_peer(self, peer: Hashable) -> None:
        self.tracker.add_bypass_peer(peer)
        self.model.bypass.add(key(peer))

    @rule(peer=peers)
    def remove_bypass_peer(self, peer: Hashable) -> None:
        assert self.tracker.remove_bypass_peer(peer) == (key(peer) in self.model.bypass)
        self.model.bypass.discard(key(peer))

    @rule(value=st.one_of(st.none(), st.integers(0, 6)))
    def set_max_connections(self, value: int | None) -> None:
        self.tracker.max_connections = value
        self.model.max_connections = value

    @rule(seconds=st.sampled_from([0.001, 1, 10, 29.5, 31]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(live=st.sets(ids), min_age=st.sampled_from([0, 0.5, 10, 30.0, 1e12]))
    def reconcile(self, live: set[Hashable], min_age: float) -> None:
        before = {i for i in IDS if i in self.tracker}
        removed = self.tracker.reconcile(live, min_age)
        gone = {i for i in before if i not in self.tracker}
        assert removed == len(gone)
        self.model.check_reconciled(live, min_age, gone)

    # -- calls that are wrong in themselves ----------------------------------------------------

    @rule(direction=directions, i=ids, what=st.integers(0, 7), limits=all_limits)
    def wrong_call(self, direction: str, i: Hashable, what: int, limits: Any) -> None:
        tracker: Any = self.tracker
        pend = getattr(tracker, f"admit_pending_{direction}")
        establish = getattr(tracker, f"admit_established_{direction}")
        move = getattr(tracker, f"move_to_established_{direction}")
        wrong = [
            (TypeError, lambda: pend([], limits)),
            (TypeError, lambda: pend(i, {"max_pending_inbound": 1})),
            (TypeError, lambda: establish([], b"peer", limits)),
            (TypeError, lambda: establish(i, [], ConnectionLimits())),
            (ValueError, lambda: establish(i, None, limits)),
            (ValueError, lambda: move(i, None)),
            (ValueError, lambda: tracker.get_connection_count("nonsense")),
            (TypeError, lambda: tracker.remove(i)),
        ]
        error, call = wrong[what]
        if what == 3 and not self.may_establish(i, direction):
            error = (TypeError, ValueError)
        with pytest.raises(error):
            call()

    def may_establish(self, i: Hashable, direction: str) -> bool:
        was = self.model.connections.get(i)
        return was is None or was.state == f"pending_{direction}"

    # -- what must always be true --------------------------------------------------------------

    @invariant()
    def views_agree(self) -> None:
        tracker, model = self.tracker, self.model
        for state in STATES:
            view = getattr(tracker, state)
            wanted = {c.id for c in model.select(state)}
            assert set(view) == wanted
            assert len(view) == len(wanted) == tracker.get_connection_count(state)
            for i in IDS:
                assert (i in view) == (i in wanted)
        for i in IDS:
            assert (i in tracker) == (i in model.connections)
        assert len(tracker) == len(model.connections)
        for total in (ConnectionKind.PENDING_TOTAL, ConnectionKind.ESTABLISHED_TOTAL):
            prefix = total.value.removesuffix("total")
            assert tracker.get_connection_count(total) == sum(
                len(model.select(state)) for state in STATES if state.startswith(prefix)
            )

    @invariant()
    def peers_agree(self) -> None:
        per_peer, wanted = self.tracker.established_per_peer, self.model.peers()
        assert {key(peer): connections for peer, connections in per_peer.items()} == wanted
        assert len(per_peer) == len(wanted)
        for peer in PEERS:
            of_peer = wanted.get(key(peer), set())
            assert per_peer.get(peer, set()) == of_peer
            assert (peer in per_peer) == bool(of_peer)
            assert self.tracker.get_peer_connection_count(peer) == len(of_peer)
            assert self.tracker.is_bypassed(peer) == (key(peer) in self.model.bypass)
        assert {key(peer) for peer in self.tracker.bypass_peers} == self.model.bypass

    @invariant()
    def snapshot_agrees(self) -> None:
        model, snapshot = self.model, self.tracker.snapshot()
        for state in STATES:
            assert getattr(snapshot, state) == len(model.select(state))
        for kind in (*STATES, "pending_total", "established_per_peer", "established_total",
                     "connections"):
            assert getattr(snapshot, f"peak_{kind}") == model.peaks[kind]
        assert snapshot.bypassed == len([c for c in model.connections.values() if c.exempt])
        assert snapshot.peers == len(model.peers())
        assert snapshot.denied == dict(model.denied)
        assert snapshot.total_denied == sum(model.denied.values())
        for limit_kind in ConnectionLimitKind:
            assert self.tracker.denied_count(limit_kind) == model.denied[limit_kind.value]
        totals = (snapshot.total_created, snapshot.total_established, snapshot.total_closed)
        established = sum(n for state, n in model.admitted.items() if is_established(state))
        assert totals == (model.created, established, model.closed)
        assert snapshot.admitted == {state: model.admitted[state] for state in STATES}
        assert snapshot.total_created - snapshot.total_closed == len(self.tracker)
        assert snapshot.oldest_pending_age == model.oldest_pending_age()

    @invariant()
    def records_agree(self) -> None:
        for record, connection in self.handles:
            assert record.connection_id == connection.id
            assert record.peer_id == connection.peer
            assert record.state == connection.state
            assert record.is_reported == connection.reported
            assert record.is_bypassed == connection.exempt
            live = connection.state != "closed"
            assert record.since_ns == connection.since
            assert self.tracker.holds(record) == live
            assert record.is_pending == connection.state.startswith("pending")
            assert record.is_established == connection.state.startswith("established")
            assert record.is_inbound == connection.state.endswith("inbound")
            if live:
                assert self.tracker.get_connection(connection.id) is record


TestTracker = TrackerMachine.TestCase
TestTracker.settings = settings(max_examples=250, stateful_step_count=60)
