"""The cases of test_leaks.py: `python leaks.py CASE ...` measures some in one process.

A case returns one cycle, which takes something and gives it back. The output is the number of bytes
that a cycle leaves behind, by case.
"""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from bytes_left import NUMBERS, Cycle, bytes_left
from swarm import Swarm, finish, no_pause

from rcmgr import (
    AddressGate,
    AddressRates,
    AddressRefusal,
    Allowlist,
    ConcreteLimits,
    ConnectionLifecycleManager,
    ConnectionLimitExceeded,
    ConnectionLimits,
    ConnectionTracker,
    DenialLog,
    Eviction,
    Ledger,
    Limit,
    LimitsFile,
    LimitsFileError,
    NodeLimits,
    Refusal,
    ResourceLimits,
    ResourceManager,
    ScopeLimitExceeded,
    SubnetLimits,
)
from rcmgr.admission.manager_base import accepted
from rcmgr.counting.leases import FleetGate, LeaseTable, PlaceTable

NO_LIMITS = ConnectionLimits()
NO_SCOPE_LIMITS = ConcreteLimits()
NOTHING = ConnectionLimits(0, 0, 0, 0, 0, 0)
WARM_UP, CYCLES = 2_000, 500
"""How many cycles run before the measurement, and in each of its rounds."""
SLACK = 2.0
"""Bytes that a cycle may leave. The smallest object has 16."""


def tracker_cycle() -> Cycle:
    tracker = ConnectionTracker()

    def cycle(i: int) -> None:
        connection_id, peer = f"connection {i}", b"peer %d" % i
        tracker.admit_pending_inbound(connection_id, NO_LIMITS)
        tracker.admit_established_inbound(connection_id, peer, NO_LIMITS)
        tracker.remove_connection(connection_id)

    return cycle


def tracker_reused_ids() -> Cycle:
    tracker = ConnectionTracker(reuse_ids=True)

    def cycle(i: int) -> None:
        tracker.admit("one", b"peer %d" % i, True, NO_LIMITS, _Closable())
        tracker.add_pending_outbound("one")
        tracker.move_to_established_inbound("one", b"other %d" % i)
        tracker.move_to_established_inbound("one", b"other %d" % i)
        tracker.remove_connection("one")

    return cycle


class _Closable:
    def close(self) -> None:
        pass


def tracker_peer_with_several() -> Cycle:
    tracker = ConnectionTracker()

    def cycle(i: int) -> None:
        peer = b"peer %d" % i
        for part in range(3):
            tracker.move_to_established_outbound((i, part), peer)
        for part in (1, 0, 2):
            tracker.remove_connection((i, part))

    return cycle


def tracker_denied() -> Cycle:
    tracker = ConnectionTracker()
    some = ConnectionLimits(max_established_total=0)

    def cycle(i: int) -> None:
        connection_id, peer = f"connection {i}", b"peer %d" % i
        assert tracker.admit_pending_inbound(connection_id, NOTHING) is not None
        assert tracker.admit_established_inbound(connection_id, peer, NOTHING) is not None
        tracker.admit_pending_outbound(connection_id, some)
        denial = tracker.admit_established_outbound(connection_id, peer, some)
        assert denial is not None
        str(denial.to_error(connection_id, peer))

    return cycle


def tracker_wrong_calls() -> Cycle:
    tracker = ConnectionTracker()
    tracker.add_pending_inbound("pending")
    tracker.move_to_established_inbound("live", b"peer")

    def cycle(i: int) -> None:
        for call in (
            lambda: tracker.add_pending_outbound("pending"),
            lambda: tracker.move_to_established_inbound("live", b"other %d" % i),
            lambda: tracker.admit_established_inbound([], b"peer", NO_LIMITS),  # type: ignore[arg-type]
            lambda: tracker.rename(tracker.get_connection("live"), "pending"),  # type: ignore[arg-type]
        ):
            try:
                call()
            except (TypeError, ValueError):
                continue
            raise AssertionError

    return cycle


def tracker_views_and_records() -> Cycle:
    tracker = ConnectionTracker()

    def cycle(i: int) -> None:
        tracker.admit_established_inbound(i, b"peer", NO_LIMITS, owned=True)
        record = tracker.get_connection(i)
        assert record is not None
        tracker.rename(record, ("renamed", i))
        set(tracker.established_inbound)
        dict(tracker.established_per_peer)
        tracker.snapshot()
        repr(record)
        tracker.remove(record)

    return cycle


def tracker_bypass_clear_reconcile() -> Cycle:
    now = [0]
    tracker = ConnectionTracker(clock=lambda: now[0])

    def cycle(i: int) -> None:
        peer = b"peer %d" % i
        now[0] += 10**9
        tracker.add_bypass_peer(peer)
        tracker.move_to_established_inbound(i, peer)
        tracker.reconcile(set(), 0.0)
        tracker.add_pending_inbound(i, peer)
        tracker.clear()
        tracker.remove_bypass_peer(peer)

    return cycle


def lifecycle_cycle() -> Cycle:
    manager = ConnectionLifecycleManager(ConnectionTracker(), NO_LIMITS)

    def cycle(i: int) -> None:
        connection_id, peer = f"connection {i}", b"peer %d" % i
        finish(manager.handle_pending_inbound_connection(connection_id))
        finish(manager.handle_established_inbound_connection(connection_id, peer))
        finish(manager.handle_established_inbound_connection(connection_id, peer))
        finish(manager.handle_connection_closed(connection_id, peer))
        finish(manager.handle_pending_outbound_connection(connection_id, peer))
        finish(manager.handle_dial_failure(connection_id, peer))

    return cycle


def lifecycle_denied() -> Cycle:
    manager = ConnectionLifecycleManager(ConnectionTracker(), NOTHING)

    def cycle(i: int) -> None:
        for call in (
            manager.handle_pending_inbound_connection(f"connection {i}"),
            manager.handle_established_outbound_connection(f"connection {i}", b"peer %d" % i),
        ):
            try:
                finish(call)
            except ConnectionLimitExceeded as error:
                str(error)
            else:
                raise AssertionError
        assert len(manager.denials) <= 256

    return cycle


def manager_cycle(transport: str, direction: str) -> Cycle:
    manager = ResourceManager()
    swarm = Swarm(manager, no_pause)

    def cycle(i: int) -> None:
        connection = finish(swarm.connect(b"peer %d" % i, direction, transport))
        manager.acquire_stream(connection.peer, direction)
        manager.release_stream(connection.peer, direction)
        manager.acquire_memory(5)
        manager.release_memory(5)
        swarm.disconnect(connection)

    return cycle


def manager_denied() -> Cycle:
    before = ResourceManager(connection_limits=NOTHING)
    after = ResourceManager(
        limits=ResourceLimits(max_streams=0, max_memory_mb=0),
        connection_limits=ConnectionLimits(max_established_total=0),
    )

    def cycle(i: int) -> None:
        assert before.open_connection(None) is None
        scope = after.open_connection(None)
        assert scope is not None
        assert after.open_connection(b"peer %d" % i) is None
        scope.close()
        assert not after.acquire_stream(b"peer %d" % i, "inbound")
        assert not after.acquire_memory(i + 1)
        str(after.last_denial)

    return cycle


def manager_scopes_dropped() -> Cycle:
    """No scope is closed, as in stock py-libp2p after a lifecycle denial."""
    manager = ResourceManager(limits=ResourceLimits(max_connections=3))

    def cycle(i: int) -> None:
        scopes = [manager.open_connection(None), manager.open_connection(b"peer %d" % i)]
        assert None not in scopes
        del scopes
        assert len(manager.connection_tracker) == 0

    return cycle


def manager_overlapping_handshakes() -> Cycle:
    """One task whose handshakes never all end at once."""
    manager = ResourceManager()
    window: list[Any] = []

    def cycle(i: int) -> None:
        window.append(manager.open_connection(None, direction="outbound"))
        if len(window) > 3:
            window.pop(0).close()

    return cycle


def manager_accepting() -> Cycle:
    """An accept loop, tasks that ask for their connection, and tasks that do not."""
    manager = ResourceManager(limits=ResourceLimits(max_connections=3))

    def cycle(i: int) -> None:
        accepted.set(None)
        scope = manager.accept_connection("192.0.2.1")
        assert scope is not None
        accepted.set(scope)
        handler = copy_context()
        if i % 2:
            assert handler.run(manager.open_connection) is scope
            scope.close()

    return cycle


def manager_makes_room() -> Cycle:
    """A full node, whose newcomers take the places of others, and handshakes that make room."""
    manager = ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_established_inbound=8, max_pending_inbound=4),
        eviction=Eviction(grace_s=0.001, turn_s=0.001, pending_grace_s=0.001)))
    room = manager._admission.room
    kept: deque[Any] = deque(maxlen=16)

    class Host:
        most_inbound = most_total = None

        def find(self, record: Any) -> Any:
            return record

        def end(self, found: Any) -> None:
            room.left(False)

    class Handshake:
        latency_us = 0

        def __init__(self, scope: Any) -> None:
            self.scope = scope

        def end(self) -> None:
            self.scope.close()

    host = Host()
    room.add_host(host)

    def cycle(i: int) -> None:
        address = f"10.{i % 200}.0.1"
        kept.append(manager.open_connection(b"peer %d" % i, address, "inbound"))
        scope = manager.accept_connection(address)
        if scope is not None:
            room.enter_handshake(scope.record, Handshake(scope), address)
            kept.append(scope)

    return cycle


def manager_allowlist_text() -> Cycle:
    """A thousand peers by their text. test_manager_scopes.py tests how many are kept."""
    import base58

    manager = ResourceManager()
    names = [
        base58.b58encode(b"\x12\x20" + i.to_bytes(32, "big")).decode() for i in range(1_000)]

    def cycle(i: int) -> None:
        name = names[i % len(names)]
        manager.add_allowed_peer(name)
        manager.acquire_stream(name, "inbound")
        manager.release_stream(name, "inbound")
        manager.remove_allowed_peer(name)

    return cycle


def managers_made_and_dropped() -> Cycle:
    def cycle(i: int) -> None:
        manager = ResourceManager()
        scope = manager.open_connection(None)
        other = manager.open_connection(b"peer %d" % i)
        manager.acquire_stream(b"peer", "inbound")
        del scope, other, manager

    return cycle


def dropin_lifecycle() -> Cycle:
    from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
    from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
    from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker

    limits = ConnectionLimits(max_established_total=9)
    lifecycle = ConnectionLifecycleManager(ConnectionTracker(limits), limits)

    def cycle(i: int) -> None:
        finish(lifecycle.handle_pending_inbound_connection("c"))
        finish(lifecycle.handle_established_inbound_connection("c", b"peer %d" % i))
        limits.max_established_total = i
        lifecycle.tracker.get_all_connections()
        lifecycle.get_connection_stats()
        lifecycle.notify_connection_closed("c")

    return cycle


def dropin_managers() -> Cycle:
    from libp2p.rcmgr.allowlist import AllowlistConfig

    from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
    from rcmgr.libp2p.dropin.manager import ResourceLimits, ResourceManager

    limits, states = ResourceLimits(max_connections=9), ConnectionLimits()
    allowed = AllowlistConfig(multiaddrs={"/ip4/192.0.2.1"})

    def cycle(i: int) -> None:
        if i % 100:  # it costs half a millisecond
            return
        manager = ResourceManager(
            limits, allowlist_config=allowed, connection_limits=states,
            cidr_limits=[("10.0.0.0/8", 1)])
        manager.open_connection(b"peer", "10.0.0.1")
        limits.max_connections = i

    return cycle


def ledger_lives() -> Cycle:
    ledger = Ledger(NO_SCOPE_LIMITS)

    def cycle(i: int) -> None:
        peer, protocol = b"peer %d" % i, f"/protocol/{i}"
        with ledger.open_connection() as connection, ledger.open_stream(peer) as stream:
            connection.set_peer(peer)
            stream.set_protocol(protocol)
            stream.set_service("service")
            with stream.begin_span() as span:
                span.reserve_memory(i)
        ledger.acquire_stream(peer, True)
        ledger.release_stream(peer, True)

    return cycle


def ledger_refusals() -> Cycle:
    none = Limit(0, 0, 0, 0, 0, 0, 0, 0)
    before = Ledger(ConcreteLimits(system=none))
    after = Ledger(ConcreteLimits(peer_default=none, protocol_default=none))

    def cycle(i: int) -> None:
        peer = b"peer %d" % i
        refusals = [before.try_open_connection(), before.try_open_stream(peer)]
        with after.open_connection() as connection:
            refusals += [connection.try_set_peer(peer), after.acquire_stream(peer, False)]
        for refusal in refusals:
            assert isinstance(refusal, Refusal)
            str(refusal.to_error())
        try:
            before.system().reserve_memory(i)
        except ScopeLimitExceeded as error:
            str(error)

    return cycle


def ledger_views_limits_snapshots() -> Cycle:
    ledger = Ledger(NO_SCOPE_LIMITS)

    def cycle(i: int) -> None:
        peer = b"peer %d" % i
        with ledger.peer(peer) as view, ledger.service_peer("service", peer) as member:
            view.set_limit(Limit(memory=i))
            view.reserve_memory(i)
            member.reserve_memory(i)
            ledger.snapshot()
            view.set_limit(None)
            repr(view)
        ledger.set_limits(ConcreteLimits(peer={peer: Limit(i)}))

    return cycle


def ledger_limiter_and_single_limits() -> Cycle:
    few = Limit(memory=5, streams=3)
    ledger = Ledger(limiter=lambda kind, name, peer: few if peer is not None else None)

    def cycle(i: int) -> None:
        with ledger.open_stream(b"peer %d" % (i % 100)) as stream, ledger.protocol("/x") as view:
            stream.set_protocol("/x")
            span = view.begin_span()
            for scope in (stream, span):
                scope.set_limit(few)
                scope.set_limit(few)
                assert not scope.try_reserve_memory(6)
        span.close()

    return cycle


def ledger_dropped_and_cleared() -> Cycle:
    ledger = Ledger(NO_SCOPE_LIMITS)

    def cycle(i: int) -> None:
        kept = [ledger.open_stream(b"peer %d" % i), ledger.protocol("/x").begin_span()]
        kept[0].set_protocol(f"/protocol/{i}")  # type: ignore[attr-defined]
        ledger.open_connection()
        if i % 2:
            ledger.clear()
        del kept
        Ledger(NO_SCOPE_LIMITS).open_stream(b"peer").set_protocol("/x")

    return cycle


def gate_and_allowlist() -> Cycle:
    allowlist = Allowlist()
    gate = AddressGate(SubnetLimits(), AddressRates(max_networks=1000), allowlist)

    def cycle(i: int) -> None:
        address = f"/ip4/10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}/tcp/{i}"
        allowlist.add(address)
        allowlist.remove(address)
        entered = gate.try_enter(address, True)
        if isinstance(entered, AddressRefusal):
            str(entered.to_error())
        else:
            entered.close()
        gate.verify_source_address(address)

    return cycle


def denials_of_many() -> Cycle:
    log = DenialLog()
    refusal: Any = ConnectionTracker(max_connections=0).admit_pending_inbound("c", NO_LIMITS)

    def cycle(i: int) -> None:
        log.add(refusal, f"connection {i}", b"peer %d" % i, i % 2 == 0)
        if i % 500 == 0:
            log.entries()
            log.most_denied()
            str(log.last)

    return cycle


def ledger_seen_from_outside() -> Cycle:
    ledger = Ledger(ConcreteLimits(peer_default=Limit(conns=5, streams=0)))
    kept = [ledger.open_connection(peer=b"peer %d" % i) for i in range(20)]

    def cycle(i: int) -> None:
        ledger.try_open_stream(b"peer %d" % i)
        if i % 50 == 0:
            ledger.fullest()
            ledger.peer_stats()
            ledger.snapshot(peers=False)
            assert ledger.blocked
            assert ledger.transient_peak["conns"] == 0
            assert len(kept) == 20

    return cycle


def limits_file() -> Cycle:
    text = LimitsFile.of(NodeLimits.default(memory=2**33, fds=1024)).to_json()

    def cycle(i: int) -> None:
        if i % 200:  # a file takes a millisecond
            return
        LimitsFile.from_json(text)
        try:
            LimitsFile.from_json(text.replace("Streams", f"Stream{i}"))
        except LimitsFileError as error:
            str(error)

    return cycle


def fleet_tables() -> Cycle:
    leases = LeaseTable(4, 1.0, max_keys=100, nodes=2)
    places = PlaceTable(4, max_keys=100, nodes=2)
    gate = FleetGate(rate=leases, peer_connections=places)

    def cycle(i: int) -> None:
        key = b"%d" % (i % 300)
        for table in (leases, places):
            (table.lose if i % 50 == 0 else table.find_again)()
            table.set_nodes(1 + i % 3)
        for _ in range(4):
            gate.rate.try_consume(key)  # type: ignore[union-attr]
        gate.peer_connections.may_take(key, i % 4)  # type: ignore[union-attr]
        leases.time_until(key)
        leases.get_available_tokens(key)
        for told, _, want in leases.collect(8):
            (leases.settle(told, want, i) if i % 7 else leases.abandon(told))
        for told, held in places.collect(8, lambda key: i % 2):
            (places.settle(told, held) if i % 7 else places.abandon(told))
        if i % 100 == 0:
            places.forget_told()

    return cycle


def leaks_sixteen_bytes() -> Cycle:
    """A leak of this case itself: the measurement must find it."""
    kept: list[object] = [None] * 200_000
    places = iter(range(len(kept)))

    def cycle(i: int) -> None:
        kept[next(places)] = object()  # the smallest object

    return cycle


CASES: dict[str, Callable[[], Cycle]] = {
    function.__name__: function
    for function in (
        leaks_sixteen_bytes, tracker_cycle, tracker_peer_with_several, tracker_denied,
        tracker_wrong_calls, tracker_reused_ids, dropin_lifecycle, dropin_managers,
        tracker_views_and_records, tracker_bypass_clear_reconcile, lifecycle_cycle,
        lifecycle_denied, manager_denied, manager_scopes_dropped, manager_overlapping_handshakes,
        manager_accepting, manager_makes_room,
        manager_allowlist_text, managers_made_and_dropped, ledger_lives,
        ledger_refusals, ledger_views_limits_snapshots, ledger_dropped_and_cleared,
        ledger_limiter_and_single_limits,
        gate_and_allowlist, fleet_tables, limits_file, denials_of_many, ledger_seen_from_outside,
    )
}
for _transport in ("tcp", "quic"):
    for _direction in ("inbound", "outbound"):
        CASES[f"manager_{_transport}_{_direction}"] = functools.partial(
            manager_cycle, _transport, _direction
        )


def left_by(case: str) -> float:
    """The bytes that one cycle leaves behind."""
    cycle = CASES[case]()
    for _ in range(WARM_UP):
        cycle(next(NUMBERS))
    return finish(bytes_left(cycle, CYCLES, SLACK))


if __name__ == "__main__":
    gc.freeze()
    print(json.dumps({case: left_by(case) for case in sys.argv[1:]}))
