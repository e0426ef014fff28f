"""Connection states: what libp2p.rcmgr 0.8.1 does and what ours does, side by side.

The numbers are those of docs/differences.md.
"""

from __future__ import annotations

import copy
import pickle
import threading
import time
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from libp2p.peer.id import ID
from libp2p.rcmgr import ResourceLimits as StockResourceLimits
from libp2p.rcmgr.connection_lifecycle import ConnectionLifecycleManager as StockLifecycle
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits
from libp2p.rcmgr.connection_limits import new_connection_limits_with_defaults
from libp2p.rcmgr.connection_tracker import ConnectionInfo
from libp2p.rcmgr.connection_tracker import ConnectionTracker as StockTracker
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
from libp2p.rcmgr.manager import ConnectionScope as StockScope
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.metrics import MetricType
from swarm import finish

import rcmgr
from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker
from rcmgr.libp2p.dropin.manager import ConnectionScope, ResourceLimits, ResourceManager

PEER = ID(b"\x12\x20" + b"p" * 32)
OTHER = ID(b"\x12\x20" + b"o" * 32)
PEERS = [PEER, OTHER, ID(b"\x12\x20" + b"q" * 32)]
VIEWS = ("pending_inbound", "pending_outbound", "established_inbound", "established_outbound")


def trackers() -> tuple[Any, Any]:
    return StockTracker(), ConnectionTracker()


def lifecycles(**limits: int) -> tuple[Any, Any]:
    stock, ours = StockLimits(**limits), ConnectionLimits(**limits)
    return (
        StockLifecycle(StockTracker(stock), stock),
        ConnectionLifecycleManager(ConnectionTracker(ours), ours),
    )


def managers(**arguments: Any) -> tuple[Any, Any]:
    return StockManager(**arguments), ResourceManager(**arguments)


def established(lifecycle: Any, connection_id: str, peer: ID, way: str = "inbound") -> bool:
    handle = getattr(lifecycle, f"handle_established_{way}_connection")
    try:
        finish(handle(connection_id, peer, None, None))
    except ResourceLimitExceeded:
        return False
    return True


# -- what is wrong in 0.8.1 ------------------------------------------------------------------------


def test_l9_an_id_that_is_used_again_does_not_count_for_its_former_peer() -> None:
    """An object that is gone gives its address, and so its id, to the next one."""
    stock, ours = lifecycles(max_established_per_peer=1)
    for lifecycle in (stock, ours):
        assert established(lifecycle, "1", PEER)
        # the swarm lost it; the next connection gets its id, and ends properly
        assert established(lifecycle, "1", OTHER)
        lifecycle.notify_connection_closed("1", OTHER)
        lifecycle.reconcile_live_connections(set(), 0)
    assert stock.tracker.get_peer_connection_count(PEER) == 1
    assert not established(stock, "2", PEER)  # for ever
    assert ours.tracker.get_peer_connection_count(PEER) == 0
    assert established(ours, "2", PEER)


def test_l9_in_a_manager() -> None:
    ours = ResourceManager(connection_limits=ConnectionLimits(max_established_per_peer=1))
    assert established(ours.connection_lifecycle, "1", PEER)
    assert established(ours.connection_lifecycle, "1", OTHER)
    assert ours._current_connections == 1
    assert established(ours.connection_lifecycle, "2", PEER)
    assert ours._current_connections == 2


def test_l10_the_peer_need_not_be_named_at_the_end() -> None:
    stock, ours = trackers()
    for tracker in (stock, ours):
        tracker.move_to_established_inbound("1", PEER)
        tracker.remove_connection("1")
        assert tracker.get_connection_count("established_total") == 0
    assert stock.get_peer_connection_count(PEER) == 1
    assert ours.get_peer_connection_count(PEER) == 0


def test_l11_an_id_is_in_one_state() -> None:
    stock, ours = trackers()
    for tracker in (stock, ours):
        tracker.move_to_established_inbound("1", PEER)
        tracker.move_to_established_outbound("1", PEER)
    assert stock.get_connection_count("established_total") == 2
    assert ours.get_connection_count("established_total") == 1
    assert set(ours.established_outbound) == {"1"}


def test_l11_what_is_unknown_does_not_end() -> None:
    stock, ours = trackers()
    for tracker in (stock, ours):
        tracker.remove_connection("nobody")
    assert stock.get_stats()["total_connections_closed"] == 1
    assert ours.get_stats()["total_connections_closed"] == 0


@pytest.mark.parametrize(("make", "left"), [(StockManager, 0), (ResourceManager, 2)])
def test_l12_closing_a_scope_in_three_threads_frees_one_slot(make: Any, left: int) -> None:
    manager = make(enable_rate_limiting=False)
    scopes = [manager.open_connection(PEER) for _ in range(3)]
    both_here = threading.Barrier(3)
    release = manager.release_connection

    def release_together(*args: Any, **kwargs: Any) -> None:
        both_here.wait(10)  # nobody has marked the scope as closed yet
        release(*args, **kwargs)

    manager.release_connection = release_together
    threads = [threading.Thread(target=scopes[0].close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager._current_connections == left


def test_l12_a_scope_by_hand_is_closed_once_too() -> None:
    manager = ResourceManager(enable_rate_limiting=False)
    assert all(manager.acquire_connection("peer") for _ in range(3))
    scope = ConnectionScope("peer", manager)
    threads = [threading.Thread(target=scope.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager._current_connections == 2


def test_l14_a_scope_by_hand_gives_back_all_that_it_has() -> None:
    stock, ours = managers(cidr_limits=[("10.0.0.0/8", 1)], enable_rate_limiting=False)
    for manager in (stock, ours):
        assert manager.acquire_connection("peer", "10.0.0.1", "outbound")
    with StockScope("peer", stock) as scope:
        pass
    assert scope.closed
    assert not stock.cidr_limiter.allow("10.0.0.2")
    assert stock.metrics.get_counter(MetricType.CONNECTIONS_OUTBOUND) == 1
    assert stock.metrics.get_counter(MetricType.CONNECTIONS_INBOUND) == -1
    with ConnectionScope("peer", ours, "10.0.0.1", "outbound") as scope:
        assert not ours.cidr_limiter.allow("10.0.0.2")
    assert scope.closed
    assert ours.cidr_limiter.allow("10.0.0.2")
    assert ours.metrics.get_counter(MetricType.CONNECTIONS_OUTBOUND) == 0
    assert ours.metrics.get_counter(MetricType.CONNECTIONS_INBOUND) == 0


def test_l14_no_cycle_keeps_a_scope() -> None:
    manager = ResourceManager()
    scope = manager.open_connection(PEER)
    assert manager._current_connections == 1
    del scope
    assert manager._current_connections == 0  # without the garbage collector


def test_e1_limits_on_pending_connections_are_asked() -> None:
    stock, ours = managers(connection_limits=StockLimits(max_pending_inbound=2))
    held = [manager.open_connection(None) for manager in (stock, ours) for _ in range(2)]
    assert all(held)
    assert stock.open_connection(None) is not None
    assert ours.open_connection(None) is None
    assert ours.open_connection(None, None, "outbound") is not None


def test_m10_two_trackers_are_compared_without_locks_in_two_orders() -> None:
    taken: list[str] = []

    class Lock:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            taken.append(self.name)

        def __exit__(self, *error: object) -> None: ...

    one, two = StockTracker(), StockTracker()
    one._lock, two._lock = Lock("one"), Lock("two")  # type: ignore[assignment]
    assert one == two
    assert two == one
    assert taken == ["one", "two", "two", "one"]  # each waits for what the other one has

    left, right = ConnectionTracker(), ConnectionTracker()
    equal: list[bool] = []

    def compare(this: ConnectionTracker, that: ConnectionTracker) -> None:
        start.wait(10)
        equal.extend(this == that for _ in range(3_000))

    start = threading.Barrier(2)
    threads = [
        threading.Thread(target=compare, args=pair) for pair in ((left, right), (right, left))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert equal == [True] * 6_000


def test_m10_the_hash_of_a_tracker_stays() -> None:
    stock, ours = trackers()
    hashes = [hash(stock), hash(ours)]
    for tracker in (stock, ours):
        tracker.add_pending_inbound("1")
    assert hash(stock) != hashes[0]
    assert hash(ours) == hashes[1]
    assert {ours: "found"}[ours] == "found"


def test_m10_metrics_do_not_become_negative() -> None:
    stock, ours = managers()
    for manager in (stock, ours):
        manager.acquire_connection("peer", direction="inbound")
        manager.release_connection("peer", direction="outbound")
    counts = [
        tuple(manager.metrics.get_counter(each) for each in (
            MetricType.CONNECTIONS_INBOUND, MetricType.CONNECTIONS_OUTBOUND))
        for manager in (stock, ours)
    ]
    assert counts == [(1, -1), (1, 0)]


@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps])
def test_m11_a_manager_is_not_copied(how: Any) -> None:
    """Decided: what it counts belongs to connections of a host, which are not copied either."""
    with pytest.raises(TypeError, match="RLock"):
        how(StockManager())
    with pytest.raises(TypeError, match="cannot pickle 'ResourceManager' object"):
        how(ResourceManager())


def test_m11_a_shallow_copy_is_refused_as_well() -> None:
    stock = StockManager(enable_rate_limiting=False)
    copied = copy.copy(stock)
    stock.open_connection(PEER)
    assert (stock._current_connections, copied._current_connections) == (1, 0)
    assert copied.connection_tracker is stock.connection_tracker  # neither one nor two
    with pytest.raises(TypeError, match="cannot pickle 'ResourceManager' object"):
        copy.copy(ResourceManager())


# -- the same, but for that ------------------------------------------------------------------------


class BothTrackers(RuleBasedStateMachine):
    """The same calls on both: they agree.

    Documented exceptions, which are not made here: an id in a second state (L9, L11), the end of
    an unknown one (L11), an end without the peer (L10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stock, self.ours = trackers()
        self.at: dict[str, tuple[str, ID | None]] = {}
        self.repeated = self.direct = 0
        self.has_bypassed = False

    def both(self, call: str, *arguments: Any) -> Any:
        return [getattr(tracker, call)(*arguments) for tracker in (self.stock, self.ours)]

    @rule(i=st.sampled_from("abcdef"), way=st.sampled_from(["inbound", "outbound"]),
          peer=st.sampled_from([None, *PEERS]))
    def pend(self, i: str, way: str, peer: ID | None) -> None:
        state = f"pending_{way}"
        before = self.at.get(i)
        if before is not None and before[0] != state:
            return
        self.both(f"add_pending_{way}", i, peer)
        if before is None:
            self.at[i] = (state, peer)
        else:  # again: 0.8.1 counts it as created once more, and takes another peer
            self.repeated += 1

    @rule(i=st.sampled_from("abcdef"), way=st.sampled_from(["inbound", "outbound"]),
          peer=st.sampled_from(PEERS))
    def establish(self, i: str, way: str, peer: ID) -> None:
        before = self.at.get(i)
        if before is not None and before[0] != f"pending_{way}":
            return
        self.both(f"move_to_established_{way}", i, peer)
        self.direct += before is None  # 0.8.1 does not count it as created
        self.at[i] = (f"established_{way}", peer)

    @rule(i=st.sampled_from("abcdef"))
    def remove(self, i: str) -> None:
        if i in self.at:
            self.both("remove_connection", i, self.at.pop(i)[1])

    @rule(peer=st.sampled_from(PEERS))
    def bypass(self, peer: ID) -> None:
        theirs, ours = self.both("is_bypassed", peer)
        assert theirs == ours
        self.both("add_bypass_peer", peer)
        self.has_bypassed = True

    @rule(peer=st.sampled_from(PEERS))
    def end_bypass(self, peer: ID) -> None:
        self.both("remove_bypass_peer", peer)

    @rule(really=st.integers(0, 5))
    def clear(self, really: int) -> None:
        if really == 0:
            self.both("clear")
            self.stock._stats["total_connections_closed"] += len(self.at)  # ours count as closed
            self.at.clear()

    @invariant()
    def views_agree(self) -> None:
        for name in (*VIEWS, "bypass_peers"):
            theirs, ours = getattr(self.stock, name), getattr(self.ours, name)
            assert ours == theirs
            assert theirs == ours
            assert len(ours) == len(theirs)
            assert ours.union({"z"}) == theirs.union({"z"})
            assert ours.issubset(theirs)
        assert dict(self.ours.established_per_peer) == self.stock.established_per_peer

    @invariant()
    def counts_agree(self) -> None:
        for kind in (*VIEWS, "established_total"):
            theirs, ours = self.both("get_connection_count", kind)
            assert theirs == ours
        for peer in PEERS:
            theirs, ours = self.both("get_peer_connection_count", peer)
            assert theirs == ours
        theirs, ours = self.both("get_stats")
        assert theirs.keys() == ours.keys()
        for name in theirs:
            # bypassed connections are in the peaks of 0.8.1
            if not (self.has_bypassed and name.startswith("peak_")):
                expected = theirs[name]
                if name == "total_connections_created":
                    expected += self.direct - self.repeated
                assert ours[name] == expected, name

    @invariant()
    def information_agrees(self) -> None:
        for i in (*self.at, "unknown"):
            theirs, ours = self.both("get_connection_info", i)
            if theirs is None:
                assert ours is None
                continue
            assert type(ours) is ConnectionInfo
            for name in ("connection_id", "direction", "state", "is_pending", "is_established",
                         "is_inbound", "is_outbound"):
                assert getattr(theirs, name) == getattr(ours, name)
            assert (theirs.established_at is None) == (ours.established_at is None)
            assert ours.peer_id == self.at[i][1]
            assert self.ours.get_connection_info(i) == ours
        theirs, ours = self.both("get_all_connections")
        assert {each.connection_id for each in theirs} == {each.connection_id for each in ours}

    @invariant()
    def a_copy_is_equal_and_another(self) -> None:
        for how in (copy.copy, copy.deepcopy):
            copied = how(self.ours)
            assert copied == self.ours
            assert hash(copied) == hash(self.ours)
            copied.add_pending_inbound("another")
            assert copied != self.ours


TestBothTrackers = BothTrackers.TestCase
TestBothTrackers.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


class BothLifecycles(RuleBasedStateMachine):
    """Limits and bypasses: the same are refused, but for A4 (bypassed connections that count)."""

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
        else:  # ours is no longer pending then; in 0.8.1 it stays so until somebody ends it
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
TestBothLifecycles.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


# -- the tracker -----------------------------------------------------------------------------------


def test_sets_are_views() -> None:
    tracker = ConnectionTracker()
    pending = tracker.pending_inbound
    tracker.add_pending_inbound("a")
    assert set(pending) == {"a"}
    copied = pending.copy()
    copied.add("b")
    assert set(pending) == {"a"}
    for name in ("add", "clear", "anything"):
        with pytest.raises(AttributeError, match=name):
            getattr(pending, name)
    with pytest.raises(AttributeError):
        tracker.pending_inbound = set()  # type: ignore[misc, assignment]


def test_the_bypass_is_a_set_that_may_be_changed() -> None:
    tracker = ConnectionTracker()
    tracker.bypass_peers.add(PEER)
    assert tracker.is_bypassed(PEER)
    assert tracker.is_bypassed(PEER.to_bytes())
    tracker.bypass_peers.update([OTHER], PEERS)
    tracker.bypass_peers.discard(PEER)
    assert set(tracker.bypass_peers) == set(PEERS[1:])
    tracker.bypass_peers.difference_update([OTHER])
    tracker.bypass_peers.symmetric_difference_update([OTHER, PEER])
    tracker.bypass_peers.intersection_update([OTHER])
    assert set(tracker.bypass_peers) == {OTHER}
    tracker.clear()
    assert not tracker.bypass_peers


def test_times_are_of_the_wall_clock() -> None:
    before = time.time()
    tracker = ConnectionTracker()
    tracker.add_pending_inbound("a")
    info = tracker.get_connection_info("a")
    assert info is not None
    assert info.established_at is None
    assert info.created_at == pytest.approx(before, abs=30)
    tracker.move_to_established_inbound("a", PEER)
    later = tracker.get_connection_info("a")
    assert later is not None
    assert later.established_at is not None
    assert later.established_at >= info.created_at


def test_limits_are_kept_for_whoever_reads_them() -> None:
    limits = ConnectionLimits(max_established_total=1)
    assert ConnectionTracker(limits).limits is limits
    assert ConnectionTracker().limits == ConnectionLimits()
    assert ConnectionTracker(limits) != ConnectionTracker()
    assert ConnectionTracker() != StockTracker()


# -- limits ----------------------------------------------------------------------------------------


def test_limits_are_checked_when_they_are_set() -> None:
    limits = ConnectionLimits(max_established_total=1)
    with pytest.raises(ValueError, match=r"max_established_total must be 0 or more.*-1"):
        limits.max_established_total = -1
    with pytest.raises(TypeError, match="max_pending_inbound must be an int"):
        ConnectionLimits(max_pending_inbound="many")  # type: ignore[arg-type]
    assert limits.max_established_total == 1
    with pytest.raises(ResourceLimitExceeded, match="Established total limit exceeded: 1 >= 1"):
        limits.check_established_total_limit(1)
    limits.check_established_total_limit(0)


def test_limits_are_what_their_class_says() -> None:
    limits = ConnectionLimits(1, 2, 3, 4, 5, 6)
    assert isinstance(limits, StockLimits)
    assert limits == ConnectionLimits(1, 2, 3, 4, 5, 6)
    assert hash(limits) == hash(StockLimits(1, 2, 3, 4, 5, 6))
    assert limits.frozen() == rcmgr.ConnectionLimits(1, 2, 3, 4, 5, 6)
    assert str(limits) == str(StockLimits(1, 2, 3, 4, 5, 6))
    assert ConnectionLimits.of(StockLimits(7)).max_pending_inbound == 7
    with pytest.raises(TypeError, match="limits must be ConnectionLimits, not 5"):
        ConnectionLimits.of(5)


def test_changed_limits_hold_wherever_they_were_given() -> None:
    limits = ConnectionLimits()
    lifecycle = ConnectionLifecycleManager(ConnectionTracker(limits), limits)
    managers = [ResourceManager(connection_limits=limits) for _ in range(2)]
    assert established(lifecycle, "1", PEER)
    assert all(manager.open_connection(PEER) for manager in managers)
    assert all(manager.connection_limits is limits for manager in managers)
    limits.max_established_inbound = 0
    assert not established(lifecycle, "2", PEER)
    assert not any(manager.open_connection(PEER) for manager in managers)
    assert limits.with_max_established_inbound(5) is limits
    assert established(lifecycle, "2", PEER)
    managers[0].connection_limits = ConnectionLimits(0, 0, 0, 0, 0, 0)
    limits.max_established_inbound = 9  # no longer its limits
    assert managers[0].open_connection(PEER) is None
    assert managers[1].open_connection(PEER)


def test_a_copy_of_limits_is_another() -> None:
    limits = ConnectionLimits(max_established_inbound=1)
    manager = ResourceManager(connection_limits=limits)
    for copied in (copy.copy(limits), copy.deepcopy(limits)):
        assert copied == limits
        copied.max_established_inbound = 0
    assert manager.open_connection(PEER)


def test_limits_from_before_the_installation_are_copied() -> None:
    stock = StockLimits(max_established_inbound=1)
    manager = ResourceManager(connection_limits=stock)
    stock.max_established_inbound = 0
    assert manager.connection_limits.max_established_inbound == 1
    assert manager.open_connection(PEER)


def test_limits_of_others_that_are_gone_are_forgotten() -> None:
    limits = ConnectionLimits()
    for _ in range(50):
        ConnectionLifecycleManager(ConnectionTracker(), limits)
    assert len(limits._observers) <= 2


def test_totals_may_be_changed_at_any_time() -> None:
    stock = StockManager(StockResourceLimits(1), enable_rate_limiting=False)
    ours = ResourceManager(ResourceLimits(1), enable_rate_limiting=False)
    ours.set_protocol_stream_limit("x", 1)
    for manager in (stock, ours):
        kept = [manager.open_connection(PEER)]
        manager.limits.max_connections = 2
        kept += [manager.open_connection(OTHER) for _ in range(2)]
        assert [each is not None for each in kept] == [True, True, False]
    with pytest.raises(ValueError, match=r"max_connections must be 0 or more.*-1"):
        ours.limits.max_connections = -1
    assert ours.limits.max_connections == 2
    absurd = ResourceLimits(max_connections=-1)  # 0.8.1 takes them, and then denies everybody
    with pytest.raises(ValueError, match=r"conns must be 0 or more.*-1"):
        ours.limits = absurd
    with pytest.raises(ValueError, match=r"conns must be 0 or more.*-1"):
        ResourceManager(absurd)
    assert ours.scope_limits.protocol["x"].streams == 1


# -- the lifecycle ---------------------------------------------------------------------------------


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


def test_reconciliation() -> None:
    stock, ours = lifecycles()
    for lifecycle in (stock, ours):
        assert established(lifecycle, "1", PEER)
        assert established(lifecycle, "2", PEER)
        assert lifecycle.reconcile_live_connections({"2"}) == 0
        assert lifecycle.reconcile_live_connections(
            live_connection_ids={"2"}, min_age_seconds=0) == 1
        assert lifecycle.tracker.established_inbound == {"2"}


# -- what a manager shows --------------------------------------------------------------------------


def test_what_a_manager_shows_of_connections() -> None:
    stock, ours = managers()
    for manager in (stock, ours):
        assert manager.connection_lifecycle.tracker is manager.connection_tracker
        assert manager.connection_lifecycle.limits is manager.connection_limits
        assert established(manager.connection_lifecycle, "1", PEER)
    for look in (
        lambda manager: manager.connection_limits.get_limits_summary(),
        lambda manager: manager.connection_lifecycle.get_limits_summary(),
        lambda manager: manager.connection_lifecycle.get_connection_stats().keys(),
        lambda manager: manager.connection_tracker.get_stats()["current_established_inbound"],
        lambda manager: [
            info.peer_id for info in manager.connection_tracker.get_all_connections()],
        lambda manager: manager.connection_tracker.get_connection_count("established_total"),
        lambda manager: manager.connection_lifecycle.tracker.get_peer_connection_count(PEER),
    ):
        assert look(stock) == look(ours)
    assert isinstance(ours.connection_lifecycle, ConnectionLifecycleManager)
    assert isinstance(ours.connection_tracker, ConnectionTracker)


def test_the_defaults_of_a_manager_may_be_changed() -> None:
    manager = ResourceManager()
    assert manager.connection_limits == ConnectionLimits.of(new_connection_limits_with_defaults())
    manager.connection_limits.with_max_established_inbound(0)
    assert manager.open_connection(PEER) is None
    lifecycle: Any = manager.connection_lifecycle
    lifecycle.limits = ConnectionLimits(max_established_inbound=1)
    assert manager.open_connection(PEER)
    assert manager.get_stats()["limits"]["max_established_inbound"] == 1


def test_limits_of_a_node_hold_unless_others_are_given() -> None:
    node = rcmgr.NodeLimits(connections=rcmgr.ConnectionLimits(max_pending_inbound=3))
    assert ResourceManager(node).connection_limits.max_pending_inbound == 3
    given = ResourceManager(node, connection_limits=ConnectionLimits(max_pending_inbound=4))
    assert given.connection_limits.max_pending_inbound == 4


def test_what_open_connection_returns() -> None:
    manager = ResourceManager()
    stock = StockManager().open_connection(PEER)
    ours = manager.open_connection(PEER)
    assert stock is not None
    assert ours is not None
    public = {name for name in dir(stock) if not name.startswith("_")}
    assert {name for name in public if not hasattr(ours, name)} == set()
    assert isinstance(ours, ConnectionScope)
    assert not isinstance(manager, ConnectionScope)
    assert ours.peer_id == stock.peer_id == str(PEER)
    assert ours.resource_manager is manager
    with ours as entered:
        assert entered is ours
        assert not ours.closed
    assert ours.closed
    # the swarm of 0.8.1 looks for this, and would reserve 1 MiB for each QUIC stream (E4)
    assert not hasattr(ours, "_resource_manager")
