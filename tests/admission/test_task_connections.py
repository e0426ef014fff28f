"""A swarm's calls for one connection count as one connection, in each order of the calls."""

from __future__ import annotations

import gc
import threading
from contextvars import copy_context
from typing import Any

import pytest
import trio
from libp2p_values import ID
from swarm import TRANSPORTS, Refused, Swarm, check_nothing_held, counts, finish, no_pause

from rcmgr import (
    ConnectionLimits,
    ConnectionScope,
    ResourceLimits,
    ResourceManager,
)

PEER = ID(b"\x00\x01peer")
OTHER = ID(b"\x00\x01other")


@pytest.fixture(params=["inbound", "outbound"])
def direction(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager()


def one(phase: str, direction: str, number: int = 1) -> tuple[int, ...]:
    index = 2 * (phase == "established") + (direction == "outbound")
    return tuple(number * (i == index) for i in range(4))


def opposite(direction: str) -> str:
    return "outbound" if direction == "inbound" else "inbound"


def open_scope(manager: ResourceManager, *args: Any) -> ConnectionScope:
    scope = manager.open_connection(*args)
    assert scope is not None
    return scope


def report(manager: ResourceManager, direction: str, connection_id: str, peer: Any = PEER) -> None:
    lifecycle = manager.connection_lifecycle
    finish(getattr(lifecycle, f"handle_established_{direction}_connection")(connection_id, peer))


async def test_one_connection_is_counted_once(
    manager: ResourceManager, transport: str, direction: str
) -> None:
    most: list[int] = []

    async def look() -> None:
        await trio.lowlevel.checkpoint()
        most.append(sum(counts(manager)))

    swarm = Swarm(manager, look)
    connection = await swarm.connect(PEER, direction, transport)
    assert counts(manager) == one("established", direction)
    assert max(most) == 1
    snapshot = manager.connection_tracker.snapshot()
    assert (snapshot.total_created, snapshot.total_established, snapshot.peak_connections) == (
        1, 1, 1)
    assert dict(manager.connection_tracker.established_per_peer) == {PEER: {connection.id}}
    # the swarm knows it by this id: reconciliation and notification find it
    record = manager.connection_tracker.get_connection(connection.id)
    assert record is not None
    assert record.is_reported
    swarm.disconnect(connection)
    check_nothing_held(manager)
    assert manager.connection_tracker.snapshot().total_closed == 1


@pytest.mark.parametrize("way", ["scope", "notification", "garbage", "collected late"])
async def test_each_way_to_end_gives_back(
    manager: ResourceManager, transport: str, direction: str, way: str
) -> None:
    swarm = Swarm(manager)
    connection = await swarm.connect(PEER, direction, transport)
    if way == "scope":
        connection.scope.close()
    elif way == "notification":
        manager.connection_lifecycle.notify_connection_closed(connection.id, PEER)
    else:
        if way == "collected late":
            connection.cycle = connection  # type: ignore[attr-defined]
        swarm.live.clear()
        del connection
        gc.collect()
    check_nothing_held(manager)
    assert manager.connection_tracker.snapshot().total_closed == 1


async def test_cancelled_at_any_point(
    manager: ResourceManager, transport: str, direction: str
) -> None:
    """The swarm drops its connection and its scopes. The manager then holds neither."""
    steps = 0
    for cancelled_at in range(1, 10):
        with trio.CancelScope() as scope:
            step = 0

            async def pause(scope: trio.CancelScope = scope, at: int = cancelled_at) -> None:
                nonlocal step
                step += 1
                if step == at:
                    scope.cancel()
                await trio.lowlevel.checkpoint()

            swarm = Swarm(manager, pause)
            await swarm.connect(PEER, direction, transport)
        if not scope.cancelled_caught:
            swarm.live.clear()
            break
        steps += 1
        del swarm, pause
        await trio.lowlevel.checkpoint()  # trio holds the last exception until then
        gc.collect()
        check_lost_is_found(manager, transport)
    assert steps >= 2


def check_lost_is_found(manager: ResourceManager, transport: str) -> None:
    """A QUIC connection has no scope yet when the handler has admitted it: reconciliation's case.
    """
    if transport == "quic" and sum(counts(manager)):
        assert manager.connection_lifecycle.reconcile_live_connections(set(), 0.0) == 1
    check_nothing_held(manager)


@pytest.mark.parametrize("error", [OSError, trio.TooSlowError, KeyboardInterrupt])
async def test_a_handshake_that_fails(
    manager: ResourceManager, transport: str, direction: str, error: type[BaseException]
) -> None:
    if transport == "quic" and direction == "inbound":
        pytest.skip("the swarm gets it after its handshake")

    async def handshake() -> None:
        assert counts(manager) == one("pending", direction)
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(error):
        await Swarm(manager).connect(PEER, direction, transport, handshake=handshake)
    check_nothing_held(manager)


@pytest.mark.parametrize(
    "limit", ["max_established_{direction}", "max_established_per_peer", "max_established_total"]
)
async def test_denied_after_the_handshake(
    transport: str, direction: str, limit: str
) -> None:
    """In 0.8.1 such a denial leaks a slot of max_connections for good."""
    limits = ConnectionLimits.from_dict({limit.format(direction=direction): 1})
    manager = ResourceManager(connection_limits=limits)
    swarm = Swarm(manager)
    first = await swarm.connect(PEER, direction, transport)
    for _ in range(5):
        with pytest.raises(Refused):
            await swarm.connect(PEER, direction, transport)
        assert counts(manager) == one("established", direction)
    assert manager.get_stats()["denied"] == {
        limit.format(direction=direction).removeprefix("max_"): 5
    }
    swarm.disconnect(first)
    check_nothing_held(manager)
    swarm.disconnect(await swarm.connect(PEER, direction, transport))
    check_nothing_held(manager)


async def test_denied_before_the_handshake(transport: str, direction: str) -> None:
    if transport == "quic" and direction == "inbound":
        pytest.skip("the swarm gets it after its handshake")
    limits = ConnectionLimits.from_dict({f"max_pending_{direction}": 0})
    manager = ResourceManager(connection_limits=limits)
    with pytest.raises(Refused):
        await Swarm(manager).connect(PEER, direction, transport)
    check_nothing_held(manager)
    assert manager.get_stats()["denied"] == {f"pending_{direction}": 1}


async def test_max_connections_of_one_admits_one(transport: str, direction: str) -> None:
    manager = ResourceManager(limits=ResourceLimits(max_connections=1))
    swarm = Swarm(manager)
    for _ in range(3):
        connection = await swarm.connect(PEER, direction, transport)
        with pytest.raises(Refused):
            await swarm.connect(OTHER, direction, transport)
        assert counts(manager) == one("established", direction)
        swarm.disconnect(connection)
        check_nothing_held(manager)
    assert manager.connection_tracker.snapshot().peak_connections == 1


async def test_an_allowed_peer(transport: str, direction: str) -> None:
    limits = ConnectionLimits(None, None, 0, 0, 0, 0)
    manager = ResourceManager(connection_limits=limits, allowlist=[PEER])
    swarm = Swarm(manager)
    connections = [await swarm.connect(PEER, direction, transport) for _ in range(3)]
    with pytest.raises(Refused):
        await swarm.connect(OTHER, direction, transport)
    assert counts(manager) == one("established", direction, 3)
    assert manager.connection_tracker.snapshot().bypassed == 3
    for connection in connections:
        swarm.disconnect(connection)
    check_nothing_held(manager)


async def test_several_connections_of_one_task(
    manager: ResourceManager, transport: str, direction: str
) -> None:
    """One task opens them one after the other, to one peer. Each counts as itself."""
    swarm = Swarm(manager)
    connections = []
    for number in range(1, 6):
        connections.append(await swarm.connect(PEER, direction, transport))
        assert counts(manager) == one("established", direction, number)
    assert len({connection.scope.connection_id for connection in connections}) == 5
    for connection in connections:
        assert connection.scope.connection_id == connection.id
        swarm.disconnect(connection)
    check_nothing_held(manager)


async def test_many_tasks_interleaved(manager: ResourceManager) -> None:
    """Every transport, direction and ending at once: each task sees only its own connections."""
    ways = [(t, d) for t in TRANSPORTS for d in ("inbound", "outbound")]
    swarm = Swarm(manager)
    ended: list[str] = []

    async def peer(number: int) -> None:
        transport, direction = ways[number % len(ways)]
        for turn in range(4):
            for _ in range((number + turn) % 3):
                await trio.lowlevel.checkpoint()
            # three tasks share each peer id
            connection = await swarm.connect(b"peer %d" % (number // 3), direction, transport)
            assert connection.scope.connection_id == connection.id
            assert connection.scope.peer_id == b"peer %d" % (number // 3)
            await trio.lowlevel.checkpoint()
            swarm.disconnect(connection)
            ended.append(connection.id)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(peer, number)
    check_nothing_held(manager)
    snapshot = manager.connection_tracker.snapshot()
    assert snapshot.total_created == snapshot.total_established == len(set(ended)) == 240
    assert snapshot.peak_connections <= 60


async def test_a_task_started_in_the_middle_of_a_handshake(manager: ResourceManager) -> None:
    """A child inherits the context; its own connection is its own."""
    swarm = Swarm(manager)

    async def handshake() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async def child() -> None:
        connection = await swarm.connect(OTHER, "outbound", "tcp")
        assert counts(manager) == (0, 1, 0, 1)
        swarm.disconnect(connection)

    connection = await swarm.connect(PEER, "outbound", "tcp", handshake=handshake)
    assert counts(manager) == (0, 0, 0, 1)
    swarm.disconnect(connection)
    check_nothing_held(manager)


async def test_a_dial_within_a_dial(
    manager: ResourceManager, transport: str, direction: str
) -> None:
    """A relayed dial does this. The inner connection stays, and the outer one still takes its own
    pending place."""
    swarm = Swarm(manager)
    inner = []

    async def handshake() -> None:
        inner.append(await swarm.connect(OTHER, "outbound", transport))

    outer = await swarm.connect(PEER, direction, "tcp", handshake=handshake)
    assert sum(counts(manager)) == 2
    assert manager.connection_tracker.snapshot().total_created == 2
    assert manager.connection_tracker.snapshot().peak_connections == 2
    for connection in (outer, *inner):
        assert connection.scope.connection_id == connection.id
        swarm.disconnect(connection)
    check_nothing_held(manager)


async def test_two_managers_in_one_task(transport: str, direction: str) -> None:
    """A host dials through another one of the same process, in one task."""
    outer_manager, inner_manager = ResourceManager(), ResourceManager()
    outer, inner = Swarm(outer_manager), Swarm(inner_manager)
    kept = []

    async def handshake() -> None:
        kept.append(await inner.connect(OTHER, direction, transport))

    connection = await outer.connect(PEER, "outbound", "tcp", handshake=handshake)
    for manager in (outer_manager, inner_manager):
        assert sum(counts(manager)) == 1
        assert manager.connection_tracker.snapshot().total_created == 1
    outer.disconnect(connection)
    inner.disconnect(kept[0])
    check_nothing_held(outer_manager)
    check_nothing_held(inner_manager)


def test_pending_of_three_managers_in_one_task(direction: str) -> None:
    managers = [ResourceManager(), ResourceManager(), ResourceManager()]
    before = [open_scope(manager, None, None, direction) for manager in managers]
    after = [open_scope(manager, PEER, None, direction) for manager in managers]
    for manager in managers:
        assert counts(manager) == one("established", direction)
        assert manager.connection_tracker.snapshot().total_created == 1
    for scope in (*before, *after):
        scope.close()
    for manager in managers:
        check_nothing_held(manager)


def test_an_established_connection_hides_no_pending_one_below_it(direction: str) -> None:
    manager, other = ResourceManager(), ResourceManager()
    before = [open_scope(each, None, None, direction) for each in (manager, manager, other)]
    after = [open_scope(manager, peer, None, direction) for peer in (PEER, OTHER)]
    assert counts(manager) == one("established", direction, 2)
    assert manager.connection_tracker.snapshot().total_created == 2
    assert counts(other) == one("pending", direction)
    for scope in (*before, *after):
        scope.close()
    for each in (manager, other):
        check_nothing_held(each)


def test_in_a_thread_that_has_no_context(manager: ResourceManager, direction: str) -> None:
    def connect() -> None:
        scopes.extend(open_scope(manager, peer, None, direction) for peer in (None, PEER))

    scopes: list[ConnectionScope] = []
    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    assert counts(manager) == one("established", direction)
    assert manager.connection_tracker.snapshot().total_created == 1
    for scope in scopes:
        scope.close()
    check_nothing_held(manager)


# -- the calls one by one ------------------------------------------------------------------------


def test_a_pending_connection_becomes_established(manager: ResourceManager, direction: str) -> None:
    before = open_scope(manager, None, "127.0.0.1", direction)
    assert counts(manager) == one("pending", direction)
    after = open_scope(manager, PEER, "127.0.0.1", direction)
    assert counts(manager) == one("established", direction)
    assert before.closed
    assert after.connection_id == before.connection_id
    before.close()
    del before
    gc.collect()
    assert counts(manager) == one("established", direction)
    after.close()
    check_nothing_held(manager)


def test_a_pending_connection_of_the_other_direction_stays(
    manager: ResourceManager, direction: str
) -> None:
    before = open_scope(manager, None, None, direction)
    after = open_scope(manager, PEER, None, opposite(direction))
    assert sum(counts(manager)) == 2
    assert not before.closed
    before.close()
    after.close()
    check_nothing_held(manager)


def test_a_closed_pending_connection_does_not_come_back(
    manager: ResourceManager, direction: str
) -> None:
    first = open_scope(manager, None, None, direction)
    first.close()
    scope = open_scope(manager, PEER, None, direction)
    assert scope.connection_id != first.connection_id
    assert manager.connection_tracker.snapshot().total_created == 2
    scope.close()
    check_nothing_held(manager)


def test_a_report_takes_over_the_connection_of_a_scope(
    manager: ResourceManager, direction: str
) -> None:
    scope = open_scope(manager, PEER, None, direction)
    report(manager, direction, "c", PEER.to_bytes())
    assert counts(manager) == one("established", direction)
    assert scope.connection_id == "c"
    # only once: a second connection is another one
    report(manager, direction, "d")
    assert counts(manager) == one("established", direction, 2)
    scope.close()
    assert set(manager.connection_tracker.established_per_peer[PEER]) == {"d"}
    manager.connection_lifecycle.notify_connection_closed("d")
    check_nothing_held(manager)


def test_a_scope_takes_over_a_reported_connection(
    manager: ResourceManager, direction: str
) -> None:
    report(manager, direction, "c")
    scope = open_scope(manager, PEER.to_bytes(), None, direction)
    assert counts(manager) == one("established", direction)
    assert scope.connection_id == "c"
    other = open_scope(manager, PEER, None, direction)
    assert counts(manager) == one("established", direction, 2)
    for each in (scope, other):
        each.close()
    check_nothing_held(manager)


def test_a_handshake_that_began_since_is_not_the_reported_connection(
    manager: ResourceManager, direction: str
) -> None:
    report(manager, direction, "c")
    pending = open_scope(manager, None, None, direction)
    scope = open_scope(manager, PEER, None, direction)
    assert pending.closed
    assert scope.connection_id != "c"
    assert counts(manager) == one("established", direction, 2)
    scope.close()
    manager.connection_lifecycle.notify_connection_closed("c")
    check_nothing_held(manager)


@pytest.mark.parametrize("difference", ["peer", "direction"])
def test_a_different_connection_is_not_taken_over(
    manager: ResourceManager, direction: str, difference: str
) -> None:
    peer = OTHER if difference == "peer" else PEER
    way = opposite(direction) if difference == "direction" else direction
    report(manager, direction, "c")
    scope = open_scope(manager, peer, None, way)
    assert sum(counts(manager)) == 2
    assert scope.connection_id != "c"
    report(manager, direction, "d")
    assert sum(counts(manager)) == 3
    scope.close()
    for connection_id in ("c", "d"):
        manager.connection_lifecycle.notify_connection_closed(connection_id)
    check_nothing_held(manager)


def test_a_closed_connection_is_not_taken_over(manager: ResourceManager, direction: str) -> None:
    report(manager, direction, "c")
    manager.connection_lifecycle.notify_connection_closed("c")
    scope = open_scope(manager, PEER, None, direction)
    assert scope.connection_id != "c"
    scope.close()
    report(manager, direction, "d")
    assert counts(manager) == one("established", direction)
    manager.connection_lifecycle.notify_connection_closed("d")
    check_nothing_held(manager)


def test_a_report_establishes_a_pending_connection(
    manager: ResourceManager, direction: str
) -> None:
    before = open_scope(manager, None, None, direction)
    report(manager, direction, "c")
    assert counts(manager) == one("established", direction)
    assert before.closed
    after = open_scope(manager, PEER, None, direction)
    assert after.connection_id == before.connection_id == "c"
    assert manager.connection_tracker.snapshot().total_created == 1
    before.close()
    after.close()
    check_nothing_held(manager)


def test_connections_of_another_context_are_left_alone(
    manager: ResourceManager, direction: str
) -> None:
    elsewhere = copy_context()
    before = elsewhere.run(open_scope, manager, None, None, direction)
    here = open_scope(manager, PEER, None, direction)
    assert sum(counts(manager)) == 2
    after = elsewhere.run(open_scope, manager, OTHER, None, direction)
    assert sum(counts(manager)) == 2
    assert after.connection_id == before.connection_id
    report(manager, direction, "here")
    elsewhere.run(report, manager, direction, "elsewhere", OTHER)
    assert (here.connection_id, after.connection_id) == ("here", "elsewhere")
    for scope in (before, here, after):
        scope.close()
    check_nothing_held(manager)


def test_a_window_of_overlapping_handshakes_in_one_task(manager: ResourceManager) -> None:
    """Each begins before the one before it ends: only the live ones may be remembered."""
    alive = ResourceManager()
    window: list[ConnectionScope] = []
    for _ in range(2000):
        window.append(open_scope(manager, None, None, "outbound"))
        if len(window) > 2:
            window.pop(0).close()
    gc.collect()
    task: Any = next(var for var in copy_context() if var.name == "rcmgr_task_connections").get()
    assert len(window) <= len(task) < 100
    for scope in window:
        scope.close()
    check_nothing_held(manager)
    check_nothing_held(alive)


def test_outside_of_trio(manager: ResourceManager, transport: str, direction: str) -> None:
    swarm = Swarm(manager, no_pause)
    connection = finish(swarm.connect(PEER, direction, transport))
    assert counts(manager) == one("established", direction)
    swarm.disconnect(connection)
    check_nothing_held(manager)


def test_many_handshakes_of_one_task(
    manager: ResourceManager, direction: str
) -> None:
    before = [open_scope(manager, None, None, direction) for _ in range(100)]
    after = [open_scope(manager, b"peer %d" % i, None, direction) for i in range(100)]
    assert counts(manager) == one("established", direction, 100)
    assert all(scope.closed for scope in before)
    assert manager.connection_tracker.snapshot().total_created == 100
    for scope in (*before, *after):
        scope.close()
    check_nothing_held(manager)
