"""libp2p's lifecycle manager and ours, side by side.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from libp2p.peer.id import ID
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits
from libp2p.rcmgr.connection_tracker import ConnectionTracker as StockTracker
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
from stock_and_ours import OTHER, PEER, PEERS, established, lifecycles
from swarm import finish

from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker
from rcmgr.libp2p.dropin.manager import ResourceManager

VIEWS = ("pending_inbound", "pending_outbound", "established_inbound", "established_outbound")


def test_l9_a_reused_id_does_not_count_for_the_earlier_peer() -> None:
    """An id is the address of an object, which another object may get later."""
    stock, ours = lifecycles(max_established_per_peer=1)
    for lifecycle in (stock, ours):
        assert established(lifecycle, "1", PEER)
        # the swarm lost the first connection; the second gets its id, and ends properly
        assert established(lifecycle, "1", OTHER)
        lifecycle.notify_connection_closed("1", OTHER)
        lifecycle.reconcile_live_connections(set(), 0)
    assert stock.tracker.get_peer_connection_count(PEER) == 1
    assert not established(stock, "2", PEER)  # and never will be
    assert ours.tracker.get_peer_connection_count(PEER) == 0
    assert established(ours, "2", PEER)


def test_l9_a_reused_id_in_a_manager() -> None:
    ours = ResourceManager(connection_limits=ConnectionLimits(max_established_per_peer=1))
    assert established(ours.connection_lifecycle, "1", PEER)
    assert established(ours.connection_lifecycle, "1", OTHER)
    assert ours._current_connections == 1
    assert established(ours.connection_lifecycle, "2", PEER)
    assert ours._current_connections == 2


class BothLifecycles(RuleBasedStateMachine):
    """Both refuse the same, except in A4 (bypassed connections that count)."""

    def __init__(self) -> None:
        super().__init__()
        self.both = lifecycles()
        self.at: dict[str, tuple[str, ID | None]] = {}

    def tell(self, call: str, *arguments: Any) -> bool:
        answers = []
        for lifecycle in self.both:
            try:
                finish(getattr(lifecycle, call)(*arguments))
            except ResourceLimitExceeded:
                answers.append(False)
            else:
                answers.append(True)
        assert answers[0] == answers[1]
        return answers[0]

    @rule(name=st.sampled_from(sorted(StockLimits.__dataclass_fields__)),
          limit=st.sampled_from([None, 0, 1, 2, 3]))
    def change_limit(self, name: str, limit: int | None) -> None:
        for lifecycle in self.both:
            changed = getattr(lifecycle.limits, f"with_{name}")(limit)
            assert changed is lifecycle.limits
        summaries = [lifecycle.get_limits_summary() for lifecycle in self.both]
        assert summaries[0] == summaries[1]

    @rule(i=st.sampled_from("abcdef"), way=st.sampled_from(["inbound", "outbound"]))
    def pend(self, i: str, way: str) -> None:
        if i in self.at:
            return
        rest: tuple[Any, ...] = (None, None) if way == "inbound" else (None, [], "dialer")
        if self.tell(f"handle_pending_{way}_connection", i, *rest):
            self.at[i] = (way, None)

    @rule(i=st.sampled_from("abcdef"), way=st.sampled_from(["inbound", "outbound"]),
          peer=st.sampled_from(PEERS))
    def establish(self, i: str, way: str, peer: ID) -> None:
        if i in self.at and self.at[i] != (way, None):
            return
        if self.tell(f"handle_established_{way}_connection", i, peer, None, None):
            self.at[i] = (way, peer)
        else:  # ours is no longer pending; in 0.8.1 it is until the swarm ends it
            self.both[0].notify_connection_closed(i)
            self.at.pop(i, None)

    @rule(i=st.sampled_from("abcdef"), reason=st.sampled_from(["unknown", "tired"]))
    def close(self, i: str, reason: str) -> None:
        if i in self.at:
            self.tell("handle_connection_closed", i, self.at.pop(i)[1], reason)

    @invariant()
    def states_agree(self) -> None:
        stock, ours = (lifecycle.tracker for lifecycle in self.both)
        for name in VIEWS:
            assert getattr(stock, name) == getattr(ours, name)
        stats = [lifecycle.get_connection_stats() for lifecycle in self.both]
        assert stats[0].keys() == stats[1].keys()


TestBothLifecycles = BothLifecycles.TestCase
TestBothLifecycles.settings = settings(max_examples=100, stateful_step_count=30)


def test_the_lifecycle_wants_our_tracker() -> None:
    with pytest.raises(TypeError, match="tracker must be a ConnectionTracker"):
        ConnectionLifecycleManager(StockTracker(), ConnectionLimits())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="limits must be ConnectionLimits, not None"):
        ConnectionLifecycleManager(ConnectionTracker(), None)


def test_lifecycles_are_compared_and_copied() -> None:
    stock, ours = lifecycles(max_established_total=1)
    for lifecycle, other_limits in ((stock, StockLimits()), (ours, ConnectionLimits())):
        again = type(lifecycle)(lifecycle.tracker, copy.copy(lifecycle.limits))
        assert again == lifecycle
        assert lifecycle != type(lifecycle)(lifecycle.tracker, other_limits)
        assert (hash(again) == hash(lifecycle)) == (lifecycle is ours)
        assert established(lifecycle, "1", PEER)
        copied = copy.deepcopy(lifecycle)
        assert copied.tracker is not lifecycle.tracker
        assert copied.tracker.established_inbound == {"1"}
        lifecycle.limits.max_established_total = 5
        assert not established(copied, "2", PEER)
        assert str(lifecycle).startswith("ConnectionLifecycleManager(tracker=ConnectionTracker(")


def test_reconcile_forgets_stale_connections() -> None:
    stock, ours = lifecycles()
    for lifecycle in (stock, ours):
        assert established(lifecycle, "1", PEER)
        assert established(lifecycle, "2", PEER)
        assert lifecycle.reconcile_live_connections({"2"}) == 0
        assert lifecycle.reconcile_live_connections(
            live_connection_ids={"2"}, min_age_seconds=0) == 1
        assert lifecycle.tracker.established_inbound == {"2"}
