"""The live views of a tracker's connections, and its snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from libp2p_values import ID
from model import STATES

from rcmgr import (
    ConnectionLimits,
    ConnectionTracker,
)
from rcmgr.counting.tracker_views import BypassView, PeerView, StateView

PEER = ID(b"\x00\x01peer")
OTHER = ID(b"\x00\x01other")
NO_LIMITS = ConnectionLimits()


@pytest.fixture
def tracker() -> ConnectionTracker:
    return ConnectionTracker()


@pytest.mark.parametrize("state", STATES)
def test_state_views_are_sets_and_live(tracker: ConnectionTracker, state: str) -> None:
    view = getattr(tracker, state)
    assert isinstance(view, Set)
    assert (len(view), list(view), set(view), bool(view)) == (0, [], set(), False)
    phase, direction = state.split("_")
    for connection_id in ("a", "b"):
        if phase == "pending":
            getattr(tracker, f"add_pending_{direction}")(connection_id)
        else:
            getattr(tracker, f"move_to_established_{direction}")(connection_id, PEER)
    assert (len(view), sorted(view), bool(view)) == (2, ["a", "b"], True)
    assert "a" in view
    assert "c" not in view
    assert view == {"a", "b"} == set(view)
    assert view | {"c"} == {"a", "b", "c"}
    assert type(view | {"c"}) is set
    assert view - {"a"} == {"b"}
    assert view <= {"a", "b", "c"}
    assert view.isdisjoint({"c"})
    assert repr(view) in (f"{state}({{'a', 'b'}})", f"{state}({{'b', 'a'}})")
    for other in STATES:
        if other != state:
            assert not list(getattr(tracker, other))
    # the tracker may change during an iteration
    for connection_id in view:
        tracker.remove_connection(connection_id)
    assert len(view) == 0


def test_peer_view_is_a_mapping_and_live(tracker: ConnectionTracker) -> None:
    view = tracker.established_per_peer
    assert isinstance(view, Mapping)
    assert (len(view), dict(view), bool(view)) == (0, {}, False)
    tracker.move_to_established_inbound("a", PEER)
    tracker.move_to_established_outbound("b", PEER)
    tracker.move_to_established_outbound("c", OTHER)
    tracker.add_pending_outbound("d", ID(b"not established"))
    assert dict(view) == {PEER: {"a", "b"}, OTHER: {"c"}} == view
    assert set(view) == {PEER, OTHER}
    assert PEER in view
    assert ID(b"not established") not in view
    assert view.get(b"unknown") is None
    with pytest.raises(KeyError):
        view[b"unknown"]
    # the sets are copies
    view[PEER].clear()
    assert view[PEER] == {"a", "b"}
    assert repr(view).startswith("established_per_peer({")
    for peer in view:
        for connection_id in view[peer]:
            tracker.remove_connection(connection_id, peer)
    assert len(view) == 0


@pytest.mark.parametrize("what", ["items", "values", "keys", "repr"])
def test_peers_that_leave_during_an_iteration(tracker: ConnectionTracker, what: str) -> None:
    def fill() -> None:
        for i in range(10):
            tracker.move_to_established_inbound(i, b"peer %d" % i)

    class Emptying:
        """A peer id whose text is read during the iteration."""

        def __repr__(self) -> str:
            tracker.clear()
            return "a peer"

    if what == "repr":
        tracker.move_to_established_inbound("first", Emptying())
        fill()
        assert repr(tracker.established_per_peer)
        return
    fill()
    seen = 0
    for _ in getattr(tracker.established_per_peer, what)():
        seen += 1
        tracker.clear()
    assert seen == (10 if what == "keys" else 1)
    fill()
    view = tracker.established_per_peer
    assert len(view.items()) == len(view.values()) == 10
    assert (b"peer 3", {3}) in view.items()
    assert {3} in view.values()
    assert sorted(map(min, view.values())) == list(range(10))


def test_bypass_view(tracker: ConnectionTracker) -> None:
    view = tracker.bypass_peers
    assert isinstance(view, Set)
    tracker.add_bypass_peer(PEER)
    tracker.add_bypass_peer(PEER.to_bytes())
    tracker.add_bypass_peer("name")
    assert len(view) == 2
    assert PEER in view
    assert PEER.to_bytes() in view
    assert tracker.is_bypassed("name")
    assert OTHER not in view
    assert view & {"name", "x"} == {"name"}
    assert repr(view).startswith("bypass_peers({")


def test_snapshot_of_a_new_tracker() -> None:
    snapshot = ConnectionTracker().snapshot()
    assert snapshot.oldest_pending_age is None
    assert snapshot.denied == {}
    assert snapshot.admitted == dict.fromkeys(STATES, 0)
    values = [
        getattr(snapshot, name)
        for name in snapshot.__dataclass_fields__
        if name not in ("oldest_pending_age", "admitted", "denied")
    ]
    assert values == [0] * len(values)


def test_snapshot_is_of_one_moment(tracker: ConnectionTracker) -> None:
    tracker.add_pending_inbound("a")
    tracker.move_to_established_outbound("b", PEER)
    snapshot = tracker.snapshot()
    tracker.clear()
    assert (snapshot.pending_total, snapshot.established_total, snapshot.peers) == (1, 1, 1)
    with pytest.raises(FrozenInstanceError):
        snapshot.peers = 0  # type: ignore[misc]


@pytest.mark.parametrize("make", [
    lambda tracker: StateView(tracker, "pending_inbound"), PeerView, BypassView])
@pytest.mark.parametrize("tracker", [None, 0, "tracker", object], ids=str)
def test_a_view_is_of_a_tracker(make: Any, tracker: object) -> None:
    with pytest.raises(TypeError, match="tracker must be a ConnectionTracker"):
        make(tracker)


@pytest.mark.parametrize("state", [0, 10**8, None, "pending"])
def test_a_view_is_of_a_state(state: Any) -> None:
    with pytest.raises(ValueError, match="unknown connection kind"):
        StateView(ConnectionTracker(), state)
