"""Threads on a barrier never pass a limit, and every count returns to zero.

Each test makes 100,000 operations or more. With fewer, or without the barrier, the tests miss a
tracker that checks first and takes later.
"""

from __future__ import annotations

import random
import sys
import threading
import time

import pytest
from swarm import Swarm, check_nothing_held, finish, no_pause
from threads import in_threads, rounds

from rcmgr import (
    ConnectionLimits,
    ConnectionScope,
    ConnectionTracker,
    ResourceLimits,
    ResourceManager,
)
from rcmgr.counting.connection_tracker import ConnectionRecord

THREADS = 8


def check_empty(tracker: ConnectionTracker) -> None:
    snapshot = tracker.snapshot()
    assert snapshot.pending_total == snapshot.established_total == snapshot.bypassed == 0
    assert snapshot.peers == len(tracker) == 0
    assert snapshot.oldest_pending_age is None
    assert snapshot.total_created == snapshot.total_closed
    assert not list(tracker.established_per_peer)


LIMITS = ConnectionLimits(3, 3, 4, 4, 2, 6)


def check_peaks(tracker: ConnectionTracker, limits: ConnectionLimits = LIMITS) -> None:
    snapshot = tracker.snapshot()
    for field, limit in limits.to_dict().items():
        peak = getattr(snapshot, field.replace("max_", "peak_"))
        assert limit is None or peak <= limit


def test_the_last_free_place_goes_to_one() -> None:
    """All threads ask for one place at the same moment, again and again."""
    turns = rounds(50_000)
    tracker = ConnectionTracker()
    limits = ConnectionLimits(max_established_total=1)
    admitted = [0] * THREADS
    barrier = threading.Barrier(THREADS)

    def work(number: int) -> None:
        ids = [(number, i) for i in range(turns)]
        for i, connection_id in enumerate(ids):
            if i % 1000 == 0:
                barrier.wait()
            if tracker.admit_established_inbound(connection_id, b"peer", limits) is None:
                admitted[number] += 1
                assert len(tracker.established_inbound) == 1
                assert tracker.remove_connection(connection_id)

    in_threads(work)
    check_empty(tracker)
    snapshot = tracker.snapshot()
    assert snapshot.peak_established_total == 1
    assert snapshot.total_established == sum(admitted)
    assert snapshot.total_denied == THREADS * turns - sum(admitted)


def test_threads_share_ids_under_all_limits() -> None:
    tracker = ConnectionTracker(max_connections=9)
    cycles = rounds(20_000)

    def work(number: int) -> None:
        chance = random.Random(number)
        for i in range(cycles):
            # ids are shared by two threads, peers by all
            connection_id = f"{number // 2}-{i % 5}"
            peer = b"peer %d" % (i % 3)
            direction = ("inbound", "outbound")[number // 2 % 2]
            try:
                getattr(tracker, f"admit_pending_{direction}")(connection_id, LIMITS)
                getattr(tracker, f"admit_established_{direction}")(connection_id, peer, LIMITS)
            except ValueError:
                pass  # the other thread has established it meanwhile
            if chance.random() < 0.5:
                assert len(tracker) <= 9
                assert tracker.get_peer_connection_count(peer) <= 2
            tracker.remove_connection(connection_id, peer)

    in_threads(work)
    tracker.clear()
    check_empty(tracker)
    check_peaks(tracker)
    snapshot = tracker.snapshot()
    assert snapshot.peak_connections <= 9
    assert snapshot.total_established > 0


def test_an_id_is_removed_by_one_thread_only() -> None:
    tracker = ConnectionTracker()
    total = rounds(60_000)
    for i in range(total):
        tracker.move_to_established_inbound(i, b"peer %d" % (i % 7))
    records = [tracker.get_connection(i) for i in range(total)]
    removed = [0] * THREADS

    def work(number: int) -> None:
        for i, record in enumerate(records):
            assert record is not None
            if number % 2:
                removed[number] += tracker.remove_connection(i)
            else:
                removed[number] += tracker.remove(record)

    in_threads(work)
    assert sum(removed) == total
    check_empty(tracker)


def test_a_pending_connection_is_established_once_or_ends_once() -> None:
    """All threads establish, remove and rename the same connections, and close their scopes."""
    tracker = ConnectionTracker()
    total = rounds(60_000)
    for i in range(total):
        tracker.add_pending_outbound(i)
    records: list[ConnectionRecord] = []
    for i in range(total):
        record = tracker.get_connection(i)
        assert record is not None
        records.append(record)

    def work(number: int) -> None:
        for i, record in enumerate(records):
            if number % 4 == 0:
                try:
                    tracker.move_to_established_outbound(i, b"peer")
                except ValueError:
                    # this one, or, if it was renamed, a new one that another thread established
                    holder = tracker.get_connection(i)
                    assert holder is None or not holder.is_pending
            elif number % 4 == 1:
                tracker.remove(record, only_pending=True)
            elif number % 4 == 2:
                tracker.rename(record, ("new", i))
            else:
                tracker.remove(record)

    in_threads(work)
    assert not any(tracker.holds(record) and record.is_pending for record in records)
    tracker.clear()
    check_empty(tracker)
    assert tracker.snapshot().total_created >= total


def test_all_kinds_of_calls_at_once() -> None:
    """Readers, writers, reconciliation, bypass, limits and clear; the views never break."""
    clock_now = [0]
    tracker = ConnectionTracker(clock=lambda: clock_now[0])
    cycles = rounds(25_000)
    done: list[int] = []

    def write(number: int) -> None:
        try:
            for i in range(cycles):
                connection_id = (number, i)
                peer = b"peer %d" % (i % 4)
                if tracker.admit_pending_inbound(connection_id, LIMITS, peer) is not None:
                    continue
                tracker.admit_established_inbound(
                    connection_id, peer, LIMITS, owned=bool(i % 2)
                )
                record = tracker.get_connection(connection_id)
                if record is not None and i % 3 == 0:
                    tracker.rename(record, (number, "renamed", i))
                    tracker.remove(record)
                tracker.remove_connection(connection_id)
        finally:
            done.append(number)

    def read(number: int) -> None:
        while len(done) < 5:
            assert len(set(tracker.established_inbound)) <= 5  # one of each writer
            for peer, connections in tracker.established_per_peer.items():
                assert connections
                assert peer.startswith(b"peer")  # type: ignore[attr-defined]
            snapshot = tracker.snapshot()
            assert snapshot.total_created - snapshot.total_closed == (
                snapshot.pending_total + snapshot.established_total
            )
            if snapshot.oldest_pending_age is not None:
                assert snapshot.oldest_pending_age <= clock_now[0] / 1e9
            repr(tracker.pending_inbound)

    def meddle(number: int) -> None:
        turn = 0
        while len(done) < 5:
            turn += 1
            clock_now[0] += 1_000_000
            tracker.reconcile(set(), 0.001)
            tracker.add_bypass_peer(b"peer 1")
            assert tracker.is_bypassed(b"peer 1")
            assert tracker.remove_bypass_peer(b"peer 1")
            assert not tracker.is_bypassed(b"peer 1")
            tracker.max_connections = turn % 12
            if turn % 50 == 0:
                tracker.clear()

    def work(number: int) -> None:
        (write if number < 5 else read if number < 7 else meddle)(number)

    in_threads(work)
    tracker.clear()
    check_empty(tracker)
    check_peaks(tracker)


def test_a_scope_that_all_threads_close_is_closed_once() -> None:
    """In 0.8.1, three threads that close one scope free three slots."""
    total = rounds(14_000)
    tracker = ConnectionTracker()
    limits = ConnectionLimits()
    tracker.move_to_established_inbound("stays", b"peer")
    scopes: list[ConnectionScope] = []
    for i in range(total):
        assert tracker.admit_established_inbound(i, b"peer", limits, owned=True) is None
        record = tracker.get_connection(i)
        assert record is not None
        scopes.append(ConnectionScope(tracker, record, only_pending=False))

    def work(number: int) -> None:
        for scope in scopes:
            scope.close()

    in_threads(work)
    assert len(tracker) == 1
    assert tracker.snapshot().total_closed == total


class PythonId:
    """Its hash and comparison are Python code, so other threads may run meanwhile."""

    def __init__(self, name: tuple[int, int]) -> None:
        self.name = name

    def __hash__(self) -> int:
        time.sleep(0)
        return hash(self.name) % 64

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PythonId) and self.name == other.name


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="promised with the GIL only"
)
def test_ids_that_let_other_threads_in() -> None:
    """Even then, nothing happens between the check of the limits and the taking."""
    tracker = ConnectionTracker(max_connections=5)
    limits = ConnectionLimits(2, None, 2, None, None, 3)

    def work(number: int) -> None:
        for i in range(rounds(5000)):
            connection_id = PythonId((number, i))
            tracker.admit_pending_inbound(connection_id, limits)
            tracker.admit_established_inbound(connection_id, b"peer", limits)
            tracker.remove_connection(PythonId((number, i)))

    in_threads(work)
    check_empty(tracker)
    check_peaks(tracker, limits)
    assert tracker.snapshot().peak_connections <= 5
    assert tracker.snapshot().total_denied > 0


def test_a_manager_in_many_threads() -> None:
    """Each thread drives swarms of all transports on one manager; streams and memory too."""
    limits = ConnectionLimits(5, 5, 5, 5, 4, 7)
    manager = ResourceManager(
        limits=ResourceLimits(max_connections=11, max_memory_mb=1, max_streams=6),
        connection_limits=limits,
    )
    calls = [0] * THREADS

    def work(number: int) -> None:
        from swarm import TRANSPORTS, Refused

        swarm = Swarm(manager, no_pause)
        for i in range(rounds(6000)):
            transport, direction = TRANSPORTS[i % 3], ("inbound", "outbound")[i // 3 % 2]
            calls[number] += 1
            try:
                connection = finish(
                    swarm.connect(b"peer %d" % (i % 3), direction, transport)
                )
            except Refused:
                continue
            calls[number] += 9
            if manager.acquire_stream(connection.peer, direction):
                manager.release_stream(connection.peer, direction)
            if manager.acquire_memory(300_000):
                manager.release_memory(300_000)
            swarm.disconnect(connection)

    in_threads(work)
    assert sum(calls) >= rounds(100_000)
    check_nothing_held(manager)
    check_peaks(manager.connection_tracker, limits)
    stats = manager.get_stats()
    assert stats["peak_connections"] <= 11
    assert stats["peak_streams"] <= 6
    assert stats["peak_memory_bytes"] <= 1 << 20
    assert stats["over_released"] == stats["leaked"] == 0
