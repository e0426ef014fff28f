from __future__ import annotations

import copy
import gc
import itertools
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from libp2p_values import ID
from model import SECOND, STATES, Clock

from rcmgr import (
    ConnectionKind,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    ConnectionLimits,
    ConnectionTracker,
    Denial,
)
from rcmgr.counting.connection_tracker import ConnectionRecord

PEER = ID(b"\x00\x01peer")
OTHER = ID(b"\x00\x01other")
NO_LIMITS = ConnectionLimits()


@pytest.fixture(params=["inbound", "outbound"])
def direction(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracker(clock: Clock) -> ConnectionTracker:
    return ConnectionTracker(clock=clock)


def opposite(direction: str) -> str:
    return "outbound" if direction == "inbound" else "inbound"


def add_pending(tracker: ConnectionTracker, direction: str, *args: Any) -> bool:
    return bool(getattr(tracker, f"add_pending_{direction}")(*args))


def admit_pending(tracker: ConnectionTracker, direction: str, *args: Any) -> Denial | None:
    denial: Denial | None = getattr(tracker, f"admit_pending_{direction}")(*args)
    return denial


def move(tracker: ConnectionTracker, direction: str, *args: Any) -> None:
    getattr(tracker, f"move_to_established_{direction}")(*args)


def admit(tracker: ConnectionTracker, direction: str, *args: Any, **kwargs: Any) -> Denial | None:
    denial: Denial | None = getattr(tracker, f"admit_established_{direction}")(*args, **kwargs)
    return denial


def state_of(tracker: ConnectionTracker, connection_id: Hashable) -> str | None:
    """Its state. This also checks that the views agree."""
    states = [state for state in STATES if connection_id in getattr(tracker, state)]
    assert len(states) <= 1
    record = tracker.get_connection(connection_id)
    assert (None if record is None else record.state) == (states[0] if states else None)
    return states[0] if states else None


def everything(tracker: ConnectionTracker) -> tuple[Any, ...]:
    """The whole visible state, to compare before and after a call."""
    return (
        tracker.snapshot(),
        [set(getattr(tracker, state)) for state in STATES],
        dict(tracker.established_per_peer),
        len(tracker),
    )


def check_empty(tracker: ConnectionTracker) -> None:
    snapshot = tracker.snapshot()
    assert [getattr(snapshot, state) for state in STATES] == [0, 0, 0, 0]
    assert (snapshot.bypassed, snapshot.peers) == (0, 0)
    assert snapshot.oldest_pending_age is None
    assert snapshot.total_created == snapshot.total_closed
    assert len(tracker) == 0
    assert not list(tracker.established_per_peer)
    assert not any(list(getattr(tracker, state)) for state in STATES)


# -- one state at a time ---------------------------------------------------------------------


def test_a_life(tracker: ConnectionTracker, direction: str) -> None:
    assert state_of(tracker, "c") is None
    assert add_pending(tracker, direction, "c") is True
    assert state_of(tracker, "c") == f"pending_{direction}"
    move(tracker, direction, "c", PEER)
    assert state_of(tracker, "c") == f"established_{direction}"
    assert tracker.established_per_peer[PEER] == {"c"}
    assert tracker.remove_connection("c", PEER) is True
    assert state_of(tracker, "c") is None
    check_empty(tracker)
    snapshot = tracker.snapshot()
    assert (snapshot.total_created, snapshot.total_established, snapshot.total_closed) == (1, 1, 1)


def test_it_need_not_have_been_pending(tracker: ConnectionTracker, direction: str) -> None:
    move(tracker, direction, "c", PEER)
    assert admit(tracker, direction, "d", PEER, NO_LIMITS) is None
    assert set(getattr(tracker, f"established_{direction}")) == {"c", "d"}


def test_pending_again_is_a_no_op(tracker: ConnectionTracker, clock: Clock, direction: str) -> None:
    add_pending(tracker, direction, "c")
    clock.advance(2)
    before = everything(tracker)
    assert add_pending(tracker, direction, "c") is False
    # it takes nothing more, so that no limit can refuse it
    assert admit_pending(tracker, direction, "c", ConnectionLimits(0, 0, 0, 0, 0, 0)) is None
    assert everything(tracker) == before
    assert tracker.oldest_pending_age == 2


def test_pending_in_the_other_direction(tracker: ConnectionTracker, direction: str) -> None:
    add_pending(tracker, direction, "c")
    before = everything(tracker)
    for call in (add_pending, lambda *a: admit_pending(*a, NO_LIMITS)):
        with pytest.raises(ValueError, match=f"'c' is pending_{direction}"):
            call(tracker, opposite(direction), "c")
    for call in (move, lambda *a: admit(*a, NO_LIMITS)):
        with pytest.raises(ValueError, match=f"'c' is pending_{direction}"):
            call(tracker, opposite(direction), "c", PEER)
    assert everything(tracker) == before


@pytest.mark.parametrize("peer", [PEER, OTHER])
def test_established_once(tracker: ConnectionTracker, direction: str, peer: ID) -> None:
    move(tracker, direction, "c", PEER)
    before = everything(tracker)
    for way in (direction, opposite(direction)):
        with pytest.raises(ValueError, match=f"'c' is established_{direction}"):
            move(tracker, way, "c", peer)
        with pytest.raises(ValueError, match=f"'c' is established_{direction}"):
            admit(tracker, way, "c", peer, NO_LIMITS)
        with pytest.raises(ValueError, match=f"'c' is established_{direction}"):
            add_pending(tracker, way, "c")
        with pytest.raises(ValueError, match=f"'c' is established_{direction}"):
            admit_pending(tracker, way, "c", NO_LIMITS)
    assert everything(tracker) == before


def test_an_established_connection_has_a_peer(tracker: ConnectionTracker, direction: str) -> None:
    with pytest.raises(ValueError, match="peer_id"):
        move(tracker, direction, "c", None)
    with pytest.raises(ValueError, match="peer_id"):
        admit(tracker, direction, "c", None, NO_LIMITS)
    assert "c" not in tracker


def test_remove_what_is_unknown(tracker: ConnectionTracker) -> None:
    before = everything(tracker)
    assert tracker.remove_connection("c") is False
    assert tracker.remove_connection("c", PEER) is False
    assert everything(tracker) == before


@pytest.mark.parametrize("peer", [None, PEER, OTHER, b"", "nobody"])
def test_remove_finds_the_peer(tracker: ConnectionTracker, direction: str, peer: Any) -> None:
    for connection_id in ("c", "d"):
        move(tracker, direction, connection_id, PEER)
    move(tracker, direction, "o", OTHER)
    assert tracker.remove_connection("c", peer) is True
    assert dict(tracker.established_per_peer) == {PEER: {"d"}, OTHER: {"o"}}
    assert tracker.remove_connection("d", peer) is True
    assert dict(tracker.established_per_peer) == {OTHER: {"o"}}
    assert PEER not in tracker.established_per_peer
    assert tracker.get_peer_connection_count(PEER) == 0


def test_the_chain_of_a_peer_in_every_order_of_removal() -> None:
    """Removing the first of a peer's connections hands its counts on to the next."""
    for count in range(1, 5):
        for order in itertools.permutations(range(count)):
            tracker = ConnectionTracker()
            limits = ConnectionLimits(max_established_per_peer=count)
            for i in range(count):
                assert tracker.admit_established_inbound(i, PEER, limits) is None
            left = set(range(count))
            for i in order:
                denial = tracker.admit_established_inbound(
                    "more", PEER, limits.with_max_established_per_peer(len(left))
                )
                assert denial is not None
                assert denial.current == len(left)
                assert tracker.remove_connection(i)
                left.discard(i)
                assert tracker.established_per_peer.get(PEER, set()) == left
                assert tracker.get_peer_connection_count(PEER) == len(left)
            check_empty(tracker)


# -- ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "connection_id", ["text", "", b"bytes", 0, -1, 1 << 80, ("a", 1), None, 1.5, frozenset({1})]
)
def test_any_hashable_is_a_connection_id(connection_id: Hashable, direction: str) -> None:
    tracker = ConnectionTracker()
    add_pending(tracker, direction, connection_id)
    move(tracker, direction, connection_id, PEER)
    assert state_of(tracker, connection_id) == f"established_{direction}"
    assert list(getattr(tracker, f"established_{direction}")) == [connection_id]
    assert tracker.remove_connection(connection_id)
    check_empty(tracker)


def test_a_peer_by_all_its_names(tracker: ConnectionTracker) -> None:
    tracker.move_to_established_inbound("a", PEER)
    tracker.move_to_established_inbound("b", bytes(PEER.to_bytes()))
    tracker.move_to_established_outbound("c", ID(PEER.to_bytes()))
    assert len(tracker.established_per_peer) == 1
    for name in (PEER, PEER.to_bytes()):
        assert tracker.established_per_peer[name] == {"a", "b", "c"}
        assert tracker.get_peer_connection_count(name) == 3
    denial = tracker.admit_established_inbound(
        "d", PEER.to_bytes(), ConnectionLimits(max_established_per_peer=3)
    )
    assert denial is not None
    assert denial.current == 3


@pytest.mark.parametrize("unhashable", [[], {}, set()])
def test_unhashable_ids(tracker: ConnectionTracker, direction: str, unhashable: Any) -> None:
    add_pending(tracker, direction, "c")
    before = everything(tracker)
    calls: list[Callable[[], Any]] = [
        lambda: add_pending(tracker, direction, unhashable),
        lambda: admit_pending(tracker, direction, unhashable, NO_LIMITS),
        lambda: move(tracker, direction, unhashable, PEER),
        lambda: move(tracker, direction, "new", unhashable),
        lambda: move(tracker, direction, "c", unhashable),
        lambda: admit(tracker, direction, unhashable, PEER, NO_LIMITS),
        lambda: tracker.remove_connection(unhashable),
        lambda: tracker.get_connection(unhashable),
        lambda: tracker.get_peer_connection_count(unhashable),
        lambda: tracker.add_bypass_peer(unhashable),
        lambda: tracker.remove_bypass_peer(unhashable),
        lambda: tracker.is_bypassed(unhashable),
        lambda: unhashable in tracker,
        lambda: unhashable in tracker.pending_inbound,
        lambda: unhashable in tracker.established_per_peer,
        lambda: tracker.rename(tracker.get_connection("c"), unhashable),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
        assert everything(tracker) == before


class Interrupted(BaseException):
    """A signal handler may raise at any step of Python code, as KeyboardInterrupt does."""


class Fuse:
    """Blows at the nth step of Python code, once."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            raise Interrupted
        self.left -= 1


class OddId:
    """An id with a Python hash and comparison, all of one hash value."""

    def __init__(self, name: str, fuse: Fuse) -> None:
        self.name = name
        self.fuse = fuse

    def __hash__(self) -> int:
        self.fuse.step()
        return 7

    def __eq__(self, other: object) -> bool:
        self.fuse.step()
        return isinstance(other, OddId) and self.name == other.name

    def __repr__(self) -> str:
        return self.name


ODD_NAMES = ("pending", "out", "live", "twin", "new", "peer", "new peer")


def odd_scenario(fuse: Fuse) -> tuple[ConnectionTracker, dict[str, OddId]]:
    tracker = ConnectionTracker()
    odd = {name: OddId(name, fuse) for name in ODD_NAMES}
    tracker.add_pending_inbound(odd["pending"])
    tracker.add_pending_outbound(odd["out"])
    for name, peer in (("live", PEER), ("twin", PEER), ("odd live", odd["peer"]),
                       ("odd twin", odd["peer"]), ("odd third", odd["peer"])):
        tracker.move_to_established_inbound(odd.get(name, name), peer)
    return tracker, odd


ODD_CALLS: dict[str, Callable[[ConnectionTracker, dict[str, OddId]], Any]] = {
    "add_pending": lambda t, o: t.add_pending_inbound(o["new"]),
    "admit_pending": lambda t, o: t.admit_pending_inbound(o["new"], NO_LIMITS),
    "pending_denied": lambda t, o: t.admit_pending_inbound(
        o["new"], ConnectionLimits(max_pending_inbound=0)
    ),
    "pending_twice": lambda t, o: t.add_pending_inbound(OddId("pending", o["new"].fuse)),
    "move_pending": lambda t, o: t.move_to_established_inbound(o["pending"], OTHER),
    "move_new": lambda t, o: t.move_to_established_inbound(o["new"], OTHER),
    "admit_new": lambda t, o: t.admit_established_inbound(o["new"], OTHER, NO_LIMITS),
    "new_denied": lambda t, o: t.admit_established_inbound(
        o["new"], OTHER, ConnectionLimits(max_established_inbound=0)
    ),
    "pending_denied_at_establishing": lambda t, o: t.admit_established_inbound(
        o["pending"], OTHER, ConnectionLimits(max_established_inbound=0)
    ),
    "remove_pending": lambda t, o: t.remove_connection(OddId("pending", o["new"].fuse)),
    "remove_first_of_peer": lambda t, o: t.remove_connection(OddId("live", o["new"].fuse)),
    "rename": lambda t, o: t.rename(t.get_connection(o["live"]), o["new"]),
    "rename_to_plain": lambda t, o: t.rename(t.get_connection(o["live"]), "plain"),
    "move_for_odd_peer": lambda t, o: t.move_to_established_inbound("id", o["new peer"]),
    "move_pending_for_odd_peer": lambda t, o: t.move_to_established_inbound(
        o["pending"], o["peer"]
    ),
    "odd_peer_denied": lambda t, o: t.admit_established_inbound(
        o["pending"], o["new peer"], ConnectionLimits(max_established_inbound=0)
    ),
    "odd_peer_denied_at_its_limit": lambda t, o: t.admit_established_inbound(
        o["new"], o["peer"], ConnectionLimits(max_established_per_peer=1)
    ),
    "remove_first_of_odd_peer": lambda t, o: t.remove_connection("odd live"),
    "remove_last_of_odd_peer": lambda t, o: t.remove_connection("odd twin"),
    "remove_newest_of_odd_peer": lambda t, o: t.remove_connection("odd third"),
    "remove_all_of_odd_peer": lambda t, o: [
        t.remove_connection(name) for name in ("odd live", "odd twin", "odd third")
    ],
    "clear": lambda t, o: t.clear(),
    "reconcile": lambda t, o: t.reconcile([], 0.0),
    "views": lambda t, o: [set(getattr(t, state)) for state in STATES],
    "contains": lambda t, o: o["live"] in t.established_inbound,
    "per_peer": lambda t, o: t.established_per_peer[PEER],
}


@pytest.mark.parametrize("name", ODD_CALLS)
def test_an_exception_inside_an_ids_hash_or_comparison(name: str) -> None:
    """It may come at any step. The counts and views agree afterwards, and return to 0."""
    call = ODD_CALLS[name]
    fuse = Fuse()
    tracker, odd = odd_scenario(fuse)
    fuse.steps = 0
    call(tracker, odd)
    steps = fuse.steps
    assert steps > 0 or name in (
        "clear", "rename_to_plain", "per_peer", "remove_newest_of_odd_peer")
    for step in range(steps):
        tracker, odd = odd_scenario(fuse)
        totals = tracker.snapshot()
        fuse.left = step
        with pytest.raises(Interrupted):
            call(tracker, odd)
        fuse.left = None
        check_consistent(tracker, list(odd.values()))
        if "denied" in name:
            assert odd["new"] not in tracker
            assert odd["new peer"] not in tracker.established_per_peer
            assert OTHER not in tracker.established_per_peer
        if name in ("add_pending", "admit_pending", "move_new", "admit_new", "move_pending"):
            assert len(tracker) == totals.total_created
            assert OTHER not in tracker.established_per_peer
        tracker.clear()
        check_empty(tracker)


def check_consistent(tracker: ConnectionTracker, ids: list[Any]) -> None:
    snapshot = tracker.snapshot()
    for state in STATES:
        view = getattr(tracker, state)
        assert len(view) == len(list(view)) == getattr(snapshot, state)
        for connection_id in view:
            record = tracker.get_connection(connection_id)
            assert record is not None
            assert record.state == state
            assert tracker.holds(record)
    assert len(tracker) == sum(getattr(snapshot, state) for state in STATES)
    assert snapshot.total_created - snapshot.total_closed == len(tracker)
    of_peers = list(tracker.established_per_peer.items())
    assert sum(len(connections) for _, connections in of_peers) == snapshot.established_total
    for peer, connections in of_peers:
        assert tracker.get_peer_connection_count(peer) == len(connections)
        full = ConnectionLimits(max_established_per_peer=len(connections))
        denial = tracker.admit_established_inbound("one more", peer, full)
        assert denial is not None
        assert denial.current == len(connections)
    for connection_id in ids:
        assert (connection_id in tracker) == (tracker.get_connection(connection_id) is not None)


class Meddling:
    """An id or peer that does something, once, in the middle of a comparison."""

    def __init__(self, name: str, action: Callable[[], Any] | None = None) -> None:
        self.name = name
        self.action = action

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        for each in (self, other):
            action = getattr(each, "action", None)
            if action is not None:
                each.action = None  # type: ignore[attr-defined]
                action()
        return isinstance(other, Meddling) and self.name == other.name


def test_the_first_connection_of_a_peer_ends_while_the_peer_is_looked_up() -> None:
    for look, expected in (
        (lambda t, peer: t.established_per_peer[peer], {"second"}),
        (lambda t, peer: t.get_peer_connection_count(peer), 1),
        (lambda t, peer: peer in t.established_per_peer, True),
    ):
        tracker = ConnectionTracker()
        for connection_id in ("first", "second"):
            tracker.move_to_established_inbound(connection_id, Meddling("peer"))
        first = tracker.get_connection("first")
        same = Meddling("peer", lambda t=tracker: t.remove_connection("first"))
        assert look(tracker, same) == expected
        assert first is not None
        assert first.state == "closed"


def test_admissions_within_an_admission_do_not_fill_the_table() -> None:
    """Each one has made room, then a comparison starts the next one. In the end all enter.

    This runs in a separate process, because a search in a full table would never end.
    """
    code = """
from test_connection_tracker import *

def nested(tracker, depth):
    odd = Meddling(f"id {depth}", (lambda: nested(tracker, depth - 1)) if depth else None)
    assert tracker.add_pending_inbound(odd)

def nested_established(tracker, depth):
    odd = Meddling(
        f"id {depth}", (lambda: nested_established(tracker, depth - 1)) if depth else None)
    tracker.move_to_established_outbound(odd, b"peer %d" % depth)

for nest in (nested, nested_established):
    for before in range(1, 30):
        tracker = ConnectionTracker()
        tracker.add_pending_inbound(Meddling("there"))
        for i in range(before - 1):
            tracker.add_pending_inbound(i)
        nest(tracker, 40)
        assert len(tracker) == before + 41
        check_consistent(tracker, [])
        tracker.clear()
        check_empty(tracker)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("phase", ["pending", "established"])
def test_the_limits_asked_are_the_callers(phase: str) -> None:
    """Also if another admission, with other limits, runs during this one."""
    tracker = ConnectionTracker()
    tracker.add_pending_outbound(Meddling("there"))

    def other() -> None:
        assert tracker.admit_pending_outbound("other", NO_LIMITS) is None

    odd = Meddling("odd", other)
    nothing = ConnectionLimits(0, 0, 0, 0, 0, 0)
    if phase == "pending":
        assert tracker.admit_pending_inbound(odd, nothing) is not None
    else:
        assert tracker.admit_established_inbound(odd, PEER, nothing) is not None
    assert len(tracker) == 2


def test_a_peer_whose_hash_changes() -> None:
    """It cannot be found again, which must not end in a crash. Its newest connection needs no
    search."""

    class Changing:
        value = 1

        def __hash__(self) -> int:
            return self.value

    tracker = ConnectionTracker()
    peer = Changing()
    for connection_id in ("a", "b", "c"):
        tracker.move_to_established_inbound(connection_id, peer)
    peer.value = 2
    for connection_id in ("b", "a"):
        with pytest.raises(RuntimeError, match="hash"):
            tracker.remove_connection(connection_id)
    assert len(tracker) == 3
    assert tracker.remove_connection("c")
    peer.value = 1
    tracker.clear()
    check_empty(tracker)


class Refusing:
    """An id that cannot even be hashed, or not compared."""

    def __init__(self, *, hashable: bool) -> None:
        self.hashable = hashable

    def __hash__(self) -> int:
        if not self.hashable:
            raise RuntimeError("no hash")
        return hash("c")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")


@pytest.mark.parametrize("hashable", [False, True])
def test_ids_whose_hash_or_comparison_always_raises(
    tracker: ConnectionTracker, hashable: bool, direction: str
) -> None:
    add_pending(tracker, direction, "c")
    tracker.move_to_established_inbound("e", "c")
    before = everything(tracker)
    odd = Refusing(hashable=hashable)
    calls: list[Callable[[], Any]] = [
        lambda: add_pending(tracker, direction, odd),
        lambda: admit_pending(tracker, direction, odd, NO_LIMITS),
        lambda: move(tracker, direction, odd, PEER),
        lambda: admit(tracker, direction, odd, PEER, ConnectionLimits(0, 0, 0, 0, 0, 0)),
        lambda: move(tracker, direction, "new", odd),
        lambda: admit(tracker, direction, "c", odd, NO_LIMITS),
        lambda: tracker.remove_connection(odd),
        lambda: tracker.rename(tracker.get_connection("c"), odd),
        lambda: odd in tracker.established_per_peer,
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"no hash|no comparison"):
            call()
        assert everything(tracker) == before


@pytest.mark.parametrize("wrong", ["noon", 12.0, None])  # time.monotonic() is a float
def test_a_clock_that_is_none_takes_nothing(direction: str, wrong: Any) -> None:
    now: list[Any] = [0]
    tracker = ConnectionTracker(clock=lambda: now[0])
    add_pending(tracker, direction, "c")
    now[0] = wrong
    calls: list[Callable[[], Any]] = [
        lambda: add_pending(tracker, direction, "d"),
        lambda: move(tracker, direction, "c", PEER),
        lambda: admit(tracker, direction, "d", PEER, NO_LIMITS),
        lambda: tracker.reconcile(set()),
        lambda: tracker.oldest_pending_age,
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    now[0] = 0
    assert state_of(tracker, "c") == f"pending_{direction}"
    assert len(tracker) == 1


# -- check and take --------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_pending_limit(tracker: ConnectionTracker, direction: str, limit: int) -> None:
    limits = ConnectionLimits.from_dict({f"max_pending_{direction}": limit})
    for i in range(limit):
        assert admit_pending(tracker, direction, i, limits) is None
    before = everything(tracker)[1:]
    denial = admit_pending(tracker, direction, "more", limits)
    assert denial is not None
    assert (denial.kind.value, denial.current, denial.limit) == (
        f"pending_{direction}", limit, limit)
    assert everything(tracker)[1:] == before
    # the other direction has another limit, and `add_pending_...` applies no limit
    assert admit_pending(tracker, opposite(direction), "other", limits) is None
    assert add_pending(tracker, direction, "more") is True


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize(
    "kind", ["established_inbound", "established_outbound", "established_per_peer",
             "established_total"]
)
def test_established_limits(tracker: ConnectionTracker, kind: str, limit: int) -> None:
    direction = "outbound" if kind.endswith("outbound") else "inbound"
    limits = ConnectionLimits.from_dict({f"max_{kind}": limit})
    for i in range(limit):
        assert admit(tracker, direction, i, PEER, limits) is None
    before = everything(tracker)[1:]
    denial = admit(tracker, direction, "more", PEER, limits)
    assert denial is not None
    assert (denial.kind, denial.current, denial.limit) == (ConnectionLimitKind(kind), limit, limit)
    assert everything(tracker)[1:] == before
    assert tracker.denied_count(kind) == 1
    if limit:
        tracker.remove_connection(0)
        assert admit(tracker, direction, "more", PEER, limits) is None
        assert admit(tracker, direction, "yet more", PEER, limits) is not None


def test_per_peer_counts_both_directions_and_each_peer_alone(tracker: ConnectionTracker) -> None:
    limits = ConnectionLimits(max_established_per_peer=2)
    assert tracker.admit_established_inbound(1, PEER, limits) is None
    assert tracker.admit_established_outbound(2, PEER, limits) is None
    assert tracker.admit_established_outbound(3, PEER, limits) is not None
    assert tracker.admit_established_outbound(4, OTHER, limits) is None


def test_total_counts_both_directions_and_no_pending(tracker: ConnectionTracker) -> None:
    limits = ConnectionLimits(max_established_total=2)
    tracker.add_pending_inbound("p")
    assert tracker.admit_established_inbound(1, PEER, limits) is None
    assert tracker.admit_established_outbound(2, OTHER, limits) is None
    denial = tracker.admit_established_inbound("p", OTHER, limits)
    assert denial is not None
    assert denial.kind is ConnectionLimitKind.ESTABLISHED_TOTAL


def test_a_denied_establishment_ends_the_pending_state(
    tracker: ConnectionTracker, direction: str
) -> None:
    add_pending(tracker, direction, "c")
    add_pending(tracker, direction, "d")
    record = tracker.get_connection("c")
    assert record is not None
    denial = admit(tracker, direction, "c", PEER, ConnectionLimits(max_established_total=0))
    assert denial is not None
    assert state_of(tracker, "c") is None
    assert record.state == "closed"
    assert state_of(tracker, "d") == f"pending_{direction}"
    assert not tracker.established_per_peer
    snapshot = tracker.snapshot()
    assert (snapshot.total_created, snapshot.total_established, snapshot.total_closed) == (2, 0, 1)
    # and the place is free again
    limits = ConnectionLimits.from_dict({f"max_pending_{direction}": 2})
    assert admit_pending(tracker, direction, "e", limits) is None


def test_the_order_of_the_limits(tracker: ConnectionTracker, direction: str) -> None:
    """rust-libp2p's connection-limits: direction, per peer, total; then the whole node's."""
    tracker.max_connections = 1
    move(tracker, direction, "c", PEER)
    limits = ConnectionLimits(1, 1, 1, 1, 1, 1)
    for kind in (f"established_{direction}", "established_per_peer", "established_total"):
        denial = admit(tracker, direction, "d", PEER, limits)
        assert denial is not None
        assert denial.kind.value == kind
        limits = ConnectionLimits.from_dict({**limits.to_dict(), f"max_{kind}": None})
    denial = admit(tracker, direction, "d", PEER, limits)
    assert denial is not None
    assert denial.kind is ConnectionLimitKind.CONNECTIONS
    denial = admit_pending(tracker, direction, "d", limits)
    assert denial is not None
    assert denial.kind is ConnectionLimitKind.CONNECTIONS
    assert tracker.snapshot().denied == {
        f"established_{direction}": 1,
        "established_per_peer": 1,
        "established_total": 1,
        "connections": 2,
    }


def test_max_connections(direction: str) -> None:
    tracker = ConnectionTracker(max_connections=1)
    assert tracker.max_connections == 1
    assert admit_pending(tracker, direction, "c", NO_LIMITS) is None
    assert admit_pending(tracker, direction, "d", NO_LIMITS) is not None
    # to be established, a pending connection needs no second place
    assert admit(tracker, direction, "c", PEER, NO_LIMITS) is None
    assert admit(tracker, direction, "d", PEER, NO_LIMITS) is not None
    tracker.max_connections = 2
    assert admit(tracker, direction, "d", PEER, NO_LIMITS) is None
    tracker.max_connections = 0
    assert len(tracker) == 2
    assert admit_pending(tracker, direction, "e", NO_LIMITS) is not None
    tracker.max_connections = None
    assert tracker.max_connections is None
    assert admit_pending(tracker, direction, "e", NO_LIMITS) is None


@pytest.mark.parametrize("value", [True, 1.0, "1", [1]])
def test_max_connections_of_a_wrong_type(tracker: ConnectionTracker, value: Any) -> None:
    with pytest.raises(TypeError, match="max_connections"):
        tracker.max_connections = value
    with pytest.raises(TypeError, match="max_connections"):
        ConnectionTracker(max_connections=value)
    with pytest.raises(ValueError, match="max_connections"):
        tracker.max_connections = -1
    assert tracker.max_connections is None


def test_limits_larger_than_the_counters(tracker: ConnectionTracker) -> None:
    huge = 1 << 80
    limits = ConnectionLimits(huge, huge, huge, huge, huge, huge)
    tracker.max_connections = huge
    assert tracker.admit_pending_inbound("c", limits) is None
    assert tracker.admit_established_inbound("c", PEER, limits) is None


@pytest.mark.parametrize("limits", [None, {}, 5, object()])
def test_limits_of_a_wrong_type(tracker: ConnectionTracker, direction: str, limits: Any) -> None:
    with pytest.raises(TypeError, match="ConnectionLimits"):
        admit_pending(tracker, direction, "c", limits)
    with pytest.raises(TypeError, match="ConnectionLimits"):
        admit(tracker, direction, "c", PEER, limits)
    check_empty(tracker)


def test_alternating_limits_are_each_read(tracker: ConnectionTracker) -> None:
    none, some = ConnectionLimits(max_pending_inbound=0), ConnectionLimits(max_pending_inbound=9)
    for i in range(4):
        assert tracker.admit_pending_inbound(("no", i), none) is not None
        assert tracker.admit_pending_inbound(("yes", i), some) is None


def test_limits_of_one_tracker_are_not_anothers() -> None:
    limits = ConnectionLimits(max_pending_inbound=1)
    for _ in range(2):
        tracker = ConnectionTracker()
        assert tracker.admit_pending_inbound("c", limits) is None
        assert tracker.admit_pending_inbound("d", limits) is not None


# -- denials -----------------------------------------------------------------------------------


def test_a_denial_and_its_error(tracker: ConnectionTracker) -> None:
    denial = tracker.admit_pending_inbound("c", ConnectionLimits(max_pending_inbound=0))
    assert denial is not None
    assert repr(denial) == "Denial(pending_inbound: 0 of 0)"
    with pytest.raises(AttributeError):
        denial.limit = 5  # type: ignore[misc]
    error = denial.to_error("c", PEER)
    assert type(error) is ConnectionLimitExceeded
    assert (error.limit, error.current, error.kind, error.connection_id, error.peer_id) == (
        0, 0, ConnectionLimitKind.PENDING_INBOUND, "c", PEER)
    assert denial.to_error().connection_id is None


def test_denied_count(tracker: ConnectionTracker) -> None:
    limits = ConnectionLimits(max_pending_inbound=0)
    for _ in range(3):
        tracker.admit_pending_inbound("c", limits)
    assert tracker.denied_count("pending_inbound") == 3
    assert tracker.denied_count(ConnectionLimitKind.PENDING_INBOUND) == 3
    assert tracker.denied_count("connections") == 0
    with pytest.raises(ValueError, match="nonsense"):
        tracker.denied_count("nonsense")


# -- bypass ------------------------------------------------------------------------------------


def test_bypassed_peers_are_seen_and_not_limited(
    tracker: ConnectionTracker, direction: str
) -> None:
    nothing = ConnectionLimits(0, 0, 0, 0, 0, 0)
    tracker.max_connections = 0
    tracker.add_bypass_peer(PEER)
    assert admit_pending(tracker, direction, "p", nothing, PEER) is None
    assert admit_pending(tracker, direction, "q", nothing) is not None  # its peer is not known
    assert admit(tracker, direction, "p", PEER, nothing) is None
    assert admit(tracker, direction, "c", PEER.to_bytes(), nothing) is None
    assert admit(tracker, direction, "d", OTHER, nothing) is not None
    assert tracker.established_per_peer[PEER] == {"p", "c"}
    assert tracker.get_connection_count(f"established_{direction}") == 2
    snapshot = tracker.snapshot()
    assert snapshot.bypassed == 2
    assert (snapshot.peak_established_total, snapshot.peak_connections) == (0, 0)
    assert snapshot.peak_established_per_peer == 0


def test_bypassed_peers_take_no_places_from_others(
    tracker: ConnectionTracker, direction: str
) -> None:
    """The crate's documentation promises it; its code counts them."""
    tracker.max_connections = 1
    tracker.add_bypass_peer(PEER)
    for i in range(5):
        move(tracker, direction, i, PEER)
        add_pending(tracker, direction, ("pending", i), PEER)
    limits = ConnectionLimits(1, 1, 1, 1, 1, 1)
    assert admit_pending(tracker, direction, "c", limits) is None
    assert admit(tracker, direction, "c", OTHER, limits) is None
    assert admit(tracker, direction, "d", OTHER, limits) is not None


def test_the_end_of_a_bypass_recounts_nothing(tracker: ConnectionTracker, direction: str) -> None:
    limits = ConnectionLimits(max_established_per_peer=1)
    tracker.add_bypass_peer(PEER)
    for i in range(3):
        assert admit(tracker, direction, i, PEER, limits) is None
    assert tracker.remove_bypass_peer(PEER) is True
    assert tracker.remove_bypass_peer(PEER) is False
    assert admit(tracker, direction, "counted", PEER, limits) is None
    denial = admit(tracker, direction, "refused", PEER, limits)
    assert denial is not None
    assert denial.current == 1
    for i in range(3):
        tracker.remove_connection(i)
    assert admit(tracker, direction, "refused", PEER, limits) is not None
    tracker.remove_connection("counted")
    assert admit(tracker, direction, "now", PEER, limits) is None


def test_a_bypass_that_begins_recounts_nothing(tracker: ConnectionTracker) -> None:
    limits = ConnectionLimits(max_established_total=1)
    assert tracker.admit_established_inbound("c", PEER, limits) is None
    tracker.add_bypass_peer(PEER)
    assert tracker.admit_established_inbound("o", OTHER, limits) is not None
    assert tracker.admit_established_inbound("d", PEER, limits) is None
    tracker.remove_connection("c")
    assert tracker.admit_established_inbound("o", OTHER, limits) is None
    for connection_id in ("d", "o"):
        tracker.remove_connection(connection_id)
    check_empty(tracker)


def test_a_pending_connection_of_unknown_peer_turns_out_bypassed(
    tracker: ConnectionTracker,
) -> None:
    limits = ConnectionLimits(max_pending_inbound=1, max_established_inbound=0)
    tracker.add_bypass_peer(PEER)
    assert tracker.admit_pending_inbound("c", limits) is None
    assert tracker.admit_established_inbound("c", PEER, limits) is None
    assert tracker.snapshot().bypassed == 1
    assert tracker.admit_pending_inbound("d", limits) is None


def test_a_bypassed_pending_connection_turns_out_to_be_anothers(
    tracker: ConnectionTracker,
) -> None:
    """It was counted nowhere, so that it needs a place like a new one."""
    tracker.max_connections = 1
    tracker.add_bypass_peer(PEER)
    tracker.admit_pending_outbound("mine", NO_LIMITS, PEER)
    tracker.admit_pending_outbound("full", NO_LIMITS)
    denial = tracker.admit_established_outbound("mine", OTHER, NO_LIMITS)
    assert denial is not None
    assert denial.kind is ConnectionLimitKind.CONNECTIONS


def test_counts_by_kind_and_by_its_value(tracker: ConnectionTracker) -> None:
    tracker.add_pending_inbound("a")
    tracker.add_pending_outbound("b")
    tracker.move_to_established_inbound("c", PEER)
    tracker.move_to_established_inbound("d", PEER)
    tracker.move_to_established_outbound("e", PEER)
    expected = {
        "pending_inbound": 1, "pending_outbound": 1, "established_inbound": 2,
        "established_outbound": 1, "established_total": 3, "pending_total": 2,
    }
    assert {kind.value for kind in ConnectionKind} == set(expected)
    for kind in ConnectionKind:
        assert tracker.get_connection_count(kind) == expected[kind.value]
        assert tracker.get_connection_count(kind.value) == expected[kind.value]
    for nonsense in ("established", "", None, 0, []):
        with pytest.raises(ValueError, match="unknown connection kind"):
            tracker.get_connection_count(nonsense)  # type: ignore[arg-type]
    assert repr(tracker) == "ConnectionTracker(pending=2, established=3)"
    assert "a" in tracker
    assert "z" not in tracker


# -- snapshot, peaks, ages -------------------------------------------------------------------


def test_peaks_stay(tracker: ConnectionTracker) -> None:
    for i in range(4):
        tracker.add_pending_inbound(i)
    for i in range(3):
        tracker.move_to_established_inbound(i, PEER if i < 2 else OTHER)
    for i in range(4):
        tracker.remove_connection(i)
    snapshot = tracker.snapshot()
    assert snapshot.peak_pending_inbound == snapshot.peak_pending_total == 4
    assert snapshot.peak_established_inbound == snapshot.peak_established_total == 3
    assert snapshot.peak_established_per_peer == 2
    assert snapshot.peak_connections == 4
    assert snapshot.peak_pending_outbound == snapshot.peak_established_outbound == 0


def test_age_of_the_oldest_pending(tracker: ConnectionTracker, clock: Clock) -> None:
    assert tracker.oldest_pending_age is None
    tracker.add_pending_inbound("a")
    clock.advance(1)
    tracker.add_pending_outbound("b")
    clock.advance(0.5)
    tracker.add_pending_inbound("c")
    assert tracker.oldest_pending_age == 1.5
    tracker.remove_connection("b")  # from the middle
    assert tracker.oldest_pending_age == 1.5
    tracker.move_to_established_inbound("a", PEER)
    assert tracker.oldest_pending_age == 0.0
    clock.advance(-5)  # a clock that goes back makes no age negative
    assert tracker.oldest_pending_age == 0.0
    tracker.remove_connection("c")
    assert tracker.oldest_pending_age is None


def test_the_default_clock_counts_seconds() -> None:
    tracker = ConnectionTracker()
    tracker.add_pending_inbound("a")
    time.sleep(0.05)
    age = tracker.oldest_pending_age
    assert age is not None
    assert 0.01 <= age < 3600  # in nanoseconds it would be far more


def test_clear(tracker: ConnectionTracker) -> None:
    tracker.add_bypass_peer(OTHER)
    tracker.add_pending_inbound("a")
    tracker.add_pending_outbound("b")
    tracker.move_to_established_inbound("c", PEER)
    tracker.move_to_established_inbound("d", PEER)
    tracker.move_to_established_outbound("e", OTHER)
    tracker.clear()
    check_empty(tracker)
    assert tracker.is_bypassed(OTHER)
    assert tracker.snapshot().peak_connections == 4
    tracker.clear()
    assert tracker.snapshot().total_closed == 5
    tracker.move_to_established_inbound("c", PEER)
    assert dict(tracker.established_per_peer) == {PEER: {"c"}}


# -- records -----------------------------------------------------------------------------------


def test_a_record_follows_its_connection_and_outlives_it(tracker: ConnectionTracker) -> None:
    tracker.add_pending_inbound("c")
    record = tracker.get_connection("c")
    assert record is not None
    assert (record.connection_id, record.peer_id, record.state) == ("c", None, "pending_inbound")
    assert (record.is_inbound, record.is_pending, record.is_established) == (True, True, False)
    assert repr(record) == "ConnectionRecord('c', pending_inbound, peer=None)"
    tracker.move_to_established_inbound("c", PEER)
    assert tracker.get_connection("c") is record
    assert (record.peer_id, record.state) == (PEER, "established_inbound")
    assert (record.is_inbound, record.is_pending, record.is_established) == (True, False, True)
    assert record.is_reported
    tracker.remove_connection("c")
    # others take its place in memory and table
    for i in range(100):
        tracker.move_to_established_outbound(i, OTHER)
    tracker.add_pending_outbound("c")
    assert (record.connection_id, record.peer_id, record.state) == ("c", PEER, "closed")
    assert not (record.is_inbound)
    assert not (record.is_pending)
    assert not (record.is_established)
    assert not (record.is_reported)
    assert not (record.is_bypassed)
    assert not tracker.holds(record)
    assert tracker.remove(record) is False
    assert tracker.rename(record, "z") is False
    assert tracker.get_connection("c") is not record
    del tracker
    gc.collect()
    assert repr(record) == f"ConnectionRecord('c', closed, peer={PEER!r})"


def test_a_record_is_read_only(tracker: ConnectionTracker) -> None:
    tracker.add_pending_inbound("c")
    record: Any = tracker.get_connection("c")
    for name in ("connection_id", "peer_id", "state", "is_inbound", "anything"):
        with pytest.raises(AttributeError):
            setattr(record, name, None)


def test_remove_this_very_connection(tracker: ConnectionTracker) -> None:
    tracker.add_pending_inbound("c")
    old = tracker.get_connection("c")
    assert old is not None
    assert tracker.remove(old)
    tracker.add_pending_inbound("c")
    assert not tracker.remove(old)
    assert "c" in tracker
    new = tracker.get_connection("c")
    assert new is not None
    tracker.move_to_established_inbound("c", PEER)
    assert not tracker.remove(new, only_pending=True)
    assert tracker.remove(new)
    check_empty(tracker)


@pytest.mark.parametrize("checked", [False, True])
def test_an_id_that_is_used_again_ends_what_had_it(direction: str, checked: bool) -> None:
    class Held:
        closed = 0

        def close(self) -> None:
            assert "c" not in tracker or tracker.get_connection("c") is not record
            self.closed += 1

    tracker = ConnectionTracker(reuse_ids=True)
    held = Held()
    record = tracker.admit("c", PEER, True, NO_LIMITS, held)
    arguments = (NO_LIMITS,) if checked else ()
    move_it = admit if checked else move
    pend = admit_pending if checked else add_pending
    for peer in (OTHER, OTHER):  # the second time changes nothing
        move_it(tracker, direction, "c", peer, *arguments)
        assert state_of(tracker, "c") == f"established_{direction}"
        assert dict(tracker.established_per_peer) == {OTHER: {"c"}}
    assert held.closed == 1
    for _ in range(2):
        pend(tracker, opposite(direction), "c", *arguments)
        assert state_of(tracker, "c") == f"pending_{opposite(direction)}"
        assert not tracker.established_per_peer
    assert len(tracker) == 1
    totals = tracker.snapshot()
    assert (totals.total_created, totals.total_closed) == (3, 2)


def test_what_was_wrong_ends_nothing(direction: str) -> None:
    tracker = ConnectionTracker(reuse_ids=True)
    move(tracker, direction, "c", PEER)
    before = everything(tracker)
    for call in (admit_pending, admit):
        rest = ("c", {}) if call is admit_pending else ("c", OTHER, {})
        with pytest.raises(TypeError):
            call(tracker, direction, *rest)
    with pytest.raises(ValueError, match="peer_id"):
        move(tracker, direction, "c", None)
    assert everything(tracker) == before


def test_when_a_connection_came_into_its_state(tracker: ConnectionTracker, clock: Clock) -> None:
    tracker.add_pending_inbound("c")
    record = tracker.get_connection("c")
    assert record is not None
    assert record.since_ns == tracker.now_ns == clock.now
    clock.advance(1)
    tracker.move_to_established_inbound("c", PEER)
    assert record.since_ns == tracker.now_ns == clock.now
    clock.advance(1)
    tracker.remove_connection("c")
    assert record.since_ns == tracker.now_ns - 1_000_000_000


def test_the_record_of_another_tracker(tracker: ConnectionTracker) -> None:
    other = ConnectionTracker()
    for each in (tracker, other):
        each.add_pending_inbound("c")
    foreign = other.get_connection("c")
    assert foreign is not None
    assert not tracker.holds(foreign)
    assert not tracker.remove(foreign)
    assert not tracker.rename(foreign, "d")
    assert "c" in tracker
    assert other.holds(foreign)


@pytest.mark.parametrize("established", [False, True])
def test_rename(tracker: ConnectionTracker, direction: str, established: bool) -> None:
    if established:
        admit(tracker, direction, "c", PEER, NO_LIMITS, owned=True)
    else:
        add_pending(tracker, direction, "c")
    add_pending(tracker, direction, "taken")
    record = tracker.get_connection("c")
    assert record is not None
    before = everything(tracker)
    with pytest.raises(ValueError, match="'taken' is in use"):
        tracker.rename(record, "taken")
    assert everything(tracker) == before
    assert tracker.rename(record, "d") is True
    assert tracker.rename(record, "d") is True
    assert record.connection_id == "d"
    assert "c" not in tracker
    assert tracker.get_connection("d") is record
    assert record.is_reported == established
    if established:
        assert tracker.established_per_peer[PEER] == {"d"}
    assert tracker.remove(record)
    tracker.remove_connection("taken")
    check_empty(tracker)


class Text(str):
    """As the members of a StrEnum."""


@pytest.mark.parametrize("name", ["conn-7", "conn-" + "9" * 18, "conn-" + "9" * 19, "conn-07"])
def test_ids_like_those_of_a_manager(tracker: ConnectionTracker, name: str) -> None:
    """The tracker keeps most of them as numbers. That shows nowhere."""
    add_pending(tracker, "inbound", name)
    record = tracker.get_connection(Text(name))
    assert record is not None
    assert record.connection_id == name
    assert tracker.pending_inbound == {name}
    assert [other for other in ("conn-7", "conn-07", "conn-8", 7, 15) if other in tracker] == (
        [name] if len(name) < 8 else [])
    assert tracker.remove_connection("conn-" + name[5:])
    check_empty(tracker)


@pytest.mark.parametrize("wrong", [None, "c", object()])
def test_what_is_not_a_record(tracker: ConnectionTracker, wrong: Any) -> None:
    for call in (tracker.holds, tracker.remove, lambda r: tracker.rename(r, "d")):
        with pytest.raises(TypeError):
            call(wrong)


# -- made bare, copied, pickled ----------------------------------------------------------------


def test_bare_instances() -> None:
    """`T.__new__(T)` is whole: everything works on it, nothing crashes."""
    tracker = ConnectionTracker.__new__(ConnectionTracker)
    check_empty(tracker)
    assert tracker.admit_pending_inbound("c", NO_LIMITS) is None
    record = ConnectionRecord.__new__(ConnectionRecord)
    assert (record.connection_id, record.peer_id, record.state) == (None, None, "closed")
    assert not (record.is_inbound)
    assert not (record.is_pending)
    assert not (record.is_established)
    assert not (record.is_reported)
    assert not (record.is_bypassed)
    assert repr(record) == "ConnectionRecord(None, closed, peer=None)"
    assert not tracker.holds(record)
    assert not tracker.remove(record)
    assert not tracker.rename(record, "d")
    denial = Denial.__new__(Denial)
    assert (denial.current, denial.limit) == (0, 0)
    assert isinstance(denial.kind, ConnectionLimitKind)
    assert str(denial.to_error())


@pytest.mark.parametrize("type_", [ConnectionRecord, Denial])
def test_extension_types_are_final(type_: type) -> None:
    with pytest.raises(TypeError):
        type("Sub", (type_,), {})


@pytest.mark.parametrize("type_", [ConnectionTracker, ConnectionRecord, Denial])
def test_extension_types_are_not_copied(type_: type) -> None:
    instance = type_.__new__(type_)
    with pytest.raises(TypeError):
        pickle.dumps(instance)
    with pytest.raises(TypeError):
        copy.copy(instance)


def test_constructor_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        ConnectionTracker(5)  # type: ignore[misc]
    with pytest.raises(TypeError):
        ConnectionTracker(limits=5)  # type: ignore[call-arg]


def test_a_tracker_in_a_cycle_is_collected() -> None:
    class Witness:
        alive = 0

        def __init__(self, tracker: ConnectionTracker) -> None:
            self.tracker = tracker
            Witness.alive += 1

        def __call__(self) -> int:
            return 0

        def __del__(self) -> None:
            Witness.alive -= 1

    def make() -> None:
        holder: list[ConnectionTracker] = []
        tracker = ConnectionTracker(clock=lambda: len(holder))
        holder.append(tracker)
        tracker.add_bypass_peer(Witness(tracker))
        tracker.add_pending_inbound("c")

    make()
    gc.collect()
    assert Witness.alive == 0


# -- reconciliation -----------------------------------------------------------------------------


class LiveIds(Set):  # type: ignore[type-arg]
    """A set that counts its look-ups."""

    def __init__(self) -> None:
        self.ids: set[Hashable] = set()
        self.asked = 0

    def __contains__(self, connection_id: object) -> bool:
        self.asked += 1
        return connection_id in self.ids

    def __iter__(self) -> Iterator[Hashable]:
        raise AssertionError("nobody may go through the whole swarm")

    def __len__(self) -> int:
        return len(self.ids)


def establish(tracker: ConnectionTracker, *ids: Hashable) -> None:
    for connection_id in ids:
        tracker.move_to_established_inbound(connection_id, PEER)


def test_reconcile_removes_what_the_swarm_lost(tracker: ConnectionTracker, clock: Clock) -> None:
    establish(tracker, "a", "b", "c")
    tracker.add_pending_inbound("p")
    clock.advance(31)
    assert tracker.reconcile({"a"}) == 2
    assert set(tracker.established_inbound) == {"a"}
    assert tracker.established_per_peer[PEER] == {"a"}
    assert "p" in tracker
    assert tracker.reconcile({"a"}) == 0
    assert tracker.snapshot().total_closed == 2


def test_reconcile_leaves_the_young_alone(tracker: ConnectionTracker, clock: Clock) -> None:
    establish(tracker, "a")
    clock.advance(29.9)
    establish(tracker, "b")
    assert tracker.reconcile(set()) == 0
    clock.advance(0.1)
    assert tracker.reconcile(set()) == 1
    assert set(tracker.established_inbound) == {"b"}
    assert tracker.reconcile(set(), 0.0) == 1


def test_reconcile_leaves_alone_what_a_scope_owns(
    tracker: ConnectionTracker, clock: Clock
) -> None:
    assert tracker.admit_established_inbound("c", PEER, NO_LIMITS, owned=True) is None
    clock.advance(100)
    assert tracker.reconcile(set(), 0.0) == 0
    record = tracker.get_connection("c")
    assert record is not None
    tracker.rename(record, "d")
    clock.advance(100)
    assert tracker.reconcile({"d"}) == 0
    assert tracker.reconcile(set()) == 1


def test_reconcile_finds_at_once_what_was_lost_after_a_pass(
    tracker: ConnectionTracker, clock: Clock
) -> None:
    establish(tracker, *range(100))
    clock.advance(60)
    assert tracker.reconcile(set(range(100))) == 0
    clock.advance(1)
    assert tracker.reconcile(set(range(99))) == 1
    assert 99 not in tracker


def test_reconcile_finds_a_swap_within_half_a_minute(
    tracker: ConnectionTracker, clock: Clock
) -> None:
    """One lost, one unknown to us gained: the numbers agree, the ids do not."""
    establish(tracker, *range(10))
    clock.advance(60)
    assert tracker.reconcile(set(range(10))) == 0
    clock.advance(30)
    assert tracker.reconcile({*range(9), "never reported"}) == 1
    assert 9 not in tracker


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 1e12])
def test_reconcile_with_an_endless_min_age(
    tracker: ConnectionTracker, clock: Clock, seconds: float
) -> None:
    establish(tracker, "a")
    clock.advance(1e6)
    assert tracker.reconcile(set(), seconds) == 0
    assert "a" in tracker


@pytest.mark.parametrize("seconds", [-1.0, math.nan, -math.inf])
def test_reconcile_with_a_senseless_min_age(tracker: ConnectionTracker, seconds: float) -> None:
    establish(tracker, "a")
    with pytest.raises(ValueError, match="min_age_seconds"):
        tracker.reconcile(set(), seconds)
    assert "a" in tracker


def test_reconcile_with_live_ids_that_raise(tracker: ConnectionTracker, clock: Clock) -> None:
    class Broken(LiveIds):
        def __contains__(self, connection_id: object) -> bool:
            raise RuntimeError("broken")

    establish(tracker, "a", "b")
    clock.advance(100)
    with pytest.raises(RuntimeError, match="broken"):
        tracker.reconcile(Broken())
    with pytest.raises(TypeError):
        tracker.reconcile(5)  # type: ignore[arg-type]
    assert set(tracker.established_inbound) == {"a", "b"}
    assert tracker.reconcile({"a"}) == 1


def test_reconcile_while_the_set_changes_the_tracker(
    tracker: ConnectionTracker, clock: Clock
) -> None:
    class MeddlingIds(LiveIds):
        def __contains__(self, connection_id: object) -> bool:
            tracker.remove_connection("a")
            return super().__contains__(connection_id)

    establish(tracker, "a", "b")
    clock.advance(100)
    assert tracker.reconcile(MeddlingIds()) == 1
    check_empty(tracker)


@pytest.mark.parametrize("lifetime", [None, 50])
def test_reconcile_costs_nothing_when_nothing_is_stale(
    tracker: ConnectionTracker, clock: Clock, lifetime: int | None
) -> None:
    """py-libp2p's order at every add_conn: reconcile, then the handler, then registration."""
    live = LiveIds()
    most = 0
    for i in range(5000):
        before = live.asked
        assert tracker.reconcile(live) == 0
        most = max(most, live.asked - before)
        establish(tracker, i)
        live.ids.add(i)
        if lifetime is not None and i >= lifetime:
            tracker.remove_connection(i - lifetime)
            live.ids.discard(i - lifetime)
        clock.advance(0.001)
    # all within five seconds: the first call looks, at nothing, and no other one has to
    assert live.asked == most == 0


def test_reconcile_is_amortised_over_a_long_life(tracker: ConnectionTracker, clock: Clock) -> None:
    """1,000 standing connections, one comes and one goes every 10 ms, for 10 minutes.

    A pass over all at most every 30 s: 20 passes and 60,000 calls, 1/3 of a question per call.
    """
    live = LiveIds()
    standing = 1000
    calls = 60_000
    for i in range(calls):
        assert tracker.reconcile(live) == 0
        establish(tracker, i)
        live.ids.add(i)
        if i >= standing:
            tracker.remove_connection(i - standing)
            live.ids.discard(i - standing)
        clock.advance(0.01)
    assert live.asked <= 21 * (standing + 1)
    assert live.asked < calls / 2


def test_reconcile_under_a_storm_of_lost_connections(
    tracker: ConnectionTracker, clock: Clock
) -> None:
    """Every tenth connection is lost without a word: all are found, at a bounded price."""
    live = LiveIds()
    lost, found = 0, 0
    for i in range(20_000):
        found += tracker.reconcile(live)
        establish(tracker, i)
        if i % 10:
            live.ids.add(i)
        else:
            lost += 1
        if i >= 1000 and i - 1000 in live.ids:
            tracker.remove_connection(i - 1000)
            live.ids.discard(i - 1000)
        clock.advance(0.05)
    clock.advance(61)
    found += tracker.reconcile(live)
    assert found == lost
    assert set(tracker.established_inbound) == live.ids
    # at most one pass (of up to 1,700) for each lost one and each half minute, not one per call
    assert live.asked <= (lost + 20_000 * 0.05 / 30) * 1700


def test_seconds_are_seconds() -> None:
    """The fake clock and the tracker mean the same unit."""
    clock = Clock()
    tracker = ConnectionTracker(clock=clock)
    tracker.add_pending_inbound("a")
    clock.now += 3 * SECOND
    assert tracker.oldest_pending_age == 3


def test_a_peer_whose_bytes_become_those_of_another() -> None:
    tracker, limits = ConnectionTracker(), ConnectionLimits()
    one, two = ID(b"one"), ID(b"two")
    for number, peer in enumerate([one, two, one, two]):
        tracker.admit(number, peer, True, limits)
    one._bytes = b"two"
    with pytest.raises(RuntimeError, match="hash"):
        tracker.remove_connection(0)
    one._bytes = b"one"
    assert tracker.get_peer_connection_count(one) == 2
    for number in range(4):
        assert tracker.remove_connection(number)
    assert len(tracker) == len(tracker.established_per_peer) == 0


@pytest.mark.skipif(sys.maxsize < 2**32, reason="pointers are smaller")
def test_a_record_is_as_small_as_promised() -> None:
    assert ConnectionRecord.__basicsize__ == object.__basicsize__ + 64


# -- limits, peers and views of other types -----------------------------------------------------


def test_a_peer_whose_end_removes_the_connection() -> None:
    """The tracker drops the peer of the pending connection when it is established."""
    tracker = ConnectionTracker()

    class Dropped:
        def __del__(self) -> None:
            tracker.remove_connection("c")

    tracker.add_pending_inbound("c", Dropped())
    tracker.move_to_established_inbound("c", b"p")
    for number in range(3):
        tracker.move_to_established_inbound(f"n{number}", b"p")
    check_consistent(tracker, [])
    tracker.clear()
    check_empty(tracker)


def test_a_connection_that_is_established_while_it_is_removed() -> None:
    """The hash of its id establishes it between the look-up and the removal."""
    tracker = ConnectionTracker()
    tracker.move_to_established_inbound("other", b"p")

    class Id:
        calls = 0

        def __hash__(self) -> int:
            Id.calls += 1
            if Id.calls == 3:
                tracker.move_to_established_inbound(self, b"p")
            return 7

    connection = Id()
    tracker.add_pending_inbound(connection)
    tracker.remove_connection(connection)
    check_consistent(tracker, [])
    tracker.clear()
    check_empty(tracker)


def test_limits_that_change_the_tracker_while_it_reads_them() -> None:
    tracker = ConnectionTracker()

    class Meddling(NamedTuple):
        def __getattr__(self, name: str) -> None:
            for number in range(40):
                tracker.add_pending_inbound(f"{name} {number}")

    assert tracker.admit_pending_inbound("one", Meddling()) is None
    check_consistent(tracker, [])
    tracker.clear()
    check_empty(tracker)


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (1.5, TypeError), ("3", TypeError), (True, TypeError)])
def test_limits_of_another_type_with_a_wrong_value(value: object, error: type[Exception]) -> None:
    class Limits:
        def __getattr__(self, name: str) -> object:
            return value

    tracker = ConnectionTracker()
    with pytest.raises(error, match="max_pending_inbound must be"):
        tracker.admit_pending_inbound("one", Limits())  # type: ignore[arg-type]
    assert len(tracker) == 0


def test_one_reconcile_looks_at_a_bounded_number_of_connections() -> None:
    """The next calls continue, and in the end every stale connection is gone."""
    count = 10_000
    tracker = ConnectionTracker(clock=lambda: now)
    now = 10**15
    for number in range(count):
        tracker.move_to_established_inbound(f"c{number}", b"peer %d" % number)
    live = {f"c{number}" for number in range(0, count, 2)}
    now += 31_000_000_000
    ended = [tracker.reconcile(live) for _ in range(20)]
    assert sum(ended) == count // 2
    assert max(ended) <= 8 * 256
    assert tracker.established_inbound == live
    assert tracker.reconcile(live) == 0


def test_the_most_connections_of_one_peer() -> None:
    tracker = ConnectionTracker()
    assert tracker._most_of_one_peer() == 0
    for number in range(2000):
        tracker.move_to_established_inbound(number, b"peer %d" % (number % 700))
    assert tracker._most_of_one_peer() == 3
    tracker.move_to_established_outbound("more", b"peer 5")
    assert tracker._most_of_one_peer() == 4
    for record in (5, 705, 1405):
        tracker.remove_connection(record)
    assert tracker._most_of_one_peer() == 3
    tracker.clear()
    assert tracker._most_of_one_peer() == 0
