from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from libp2p_values import ID
from libp2p_values import ResourceLimitExceeded as UpstreamLimitExceeded
from model import Clock
from swarm import finish

from rcmgr import (
    ConnectionLifecycleManager,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    ConnectionLimits,
    ConnectionTracker,
    MemoryConnectionLimits,
)
from rcmgr.counting.denials import DenialLog

PEER = ID(b"\x00\x01peer")
OTHER = ID(b"\x00\x01other")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manager(clock: Clock) -> ConnectionLifecycleManager:
    return ConnectionLifecycleManager(ConnectionTracker(clock=clock), ConnectionLimits())


@pytest.fixture(params=["inbound", "outbound"])
def direction(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opposite(direction: str) -> str:
    return "outbound" if direction == "inbound" else "inbound"


def pending(manager: ConnectionLifecycleManager, direction: str, connection_id: str) -> Any:
    if direction == "inbound":
        return manager.handle_pending_inbound_connection(connection_id, "local", "remote")
    return manager.handle_pending_outbound_connection(connection_id, None, ["address"], "endpoint")


def established(
    manager: ConnectionLifecycleManager, direction: str, connection_id: str, peer: Any = PEER
) -> Any:
    handle = getattr(manager, f"handle_established_{direction}_connection")
    return handle(connection_id, peer, "local", "remote")


def failure(manager: ConnectionLifecycleManager, direction: str, connection_id: str) -> Any:
    if direction == "inbound":
        return manager.handle_listen_failure(connection_id, "local", "remote", OSError("reset"))
    return manager.handle_dial_failure(connection_id, PEER, OSError("refused"))


def counts(manager: ConnectionLifecycleManager) -> tuple[int, int, int, int]:
    tracker = manager.tracker
    return (
        len(tracker.pending_inbound), len(tracker.pending_outbound),
        len(tracker.established_inbound), len(tracker.established_outbound),
    )


def only(direction: str, phase: str) -> tuple[int, int, int, int]:
    index = 2 * (phase == "established") + (direction == "outbound")
    return tuple(int(i == index) for i in range(4))  # type: ignore[return-value]


NOTHING = (0, 0, 0, 0)


async def test_pending_established_closed(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    await pending(manager, direction, "c")
    assert counts(manager) == only(direction, "pending")
    await established(manager, direction, "c")
    assert counts(manager) == only(direction, "established")
    assert manager.tracker.established_per_peer[PEER] == {"c"}
    await manager.handle_connection_closed("c", PEER)
    assert counts(manager) == NOTHING


async def test_established_without_pending(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    await established(manager, direction, "c")
    manager.notify_connection_closed("c", PEER)
    assert counts(manager) == NOTHING


async def test_a_failure_ends_only_a_pending_connection(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    await pending(manager, direction, "c")
    await failure(manager, direction, "c")
    assert counts(manager) == NOTHING
    await failure(manager, direction, "c")
    await failure(manager, direction, "never seen")
    await established(manager, direction, "c")
    await failure(manager, direction, "c")
    assert counts(manager) == only(direction, "established")
    assert manager.tracker.snapshot().total_closed == 1


async def test_late_and_duplicate_events(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    for _ in range(2):
        await pending(manager, direction, "c")
    assert counts(manager) == only(direction, "pending")
    for peer in (PEER, PEER, PEER.to_bytes()):
        await established(manager, direction, "c", peer)
    assert counts(manager) == only(direction, "established")
    for _ in range(2):
        await manager.handle_connection_closed("c", PEER)
        manager.notify_connection_closed("c")
    assert counts(manager) == NOTHING
    snapshot = manager.tracker.snapshot()
    assert (snapshot.total_created, snapshot.total_established, snapshot.total_closed) == (1, 1, 1)


async def test_a_duplicate_is_no_second_admission(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    manager.limits = ConnectionLimits(max_established_total=1, max_established_per_peer=1)
    for _ in range(3):
        await established(manager, direction, "c")
    assert len(manager.denials) == 0
    with pytest.raises(ConnectionLimitExceeded):
        await established(manager, direction, "d")


async def test_reports_that_contradict_the_state(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    await pending(manager, direction, "p")
    await established(manager, direction, "c")
    before = manager.tracker.snapshot()
    wrong: list[Callable[[], Awaitable[None]]] = [
        lambda: pending(manager, opposite(direction), "p"),
        lambda: established(manager, opposite(direction), "p"),
        lambda: pending(manager, direction, "c"),
        lambda: established(manager, direction, "c", OTHER),
        lambda: established(manager, opposite(direction), "c"),
        lambda: established(manager, direction, "d", None),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match="connection"):
            await call()
        assert manager.tracker.snapshot() == before
    assert len(manager.denials) == 0


async def test_a_bypassed_peer_that_is_known_before_the_handshake(
    manager: ConnectionLifecycleManager,
) -> None:
    manager.limits = ConnectionLimits(max_pending_inbound=0)
    manager.memory_limits = MemoryConnectionLimits(0)
    manager.tracker.add_bypass_peer(PEER)
    await manager.handle_pending_inbound_connection("c", None, None, PEER)
    with pytest.raises(UpstreamLimitExceeded):
        await manager.handle_pending_inbound_connection("d", None, None, OTHER)
    assert set(manager.tracker.pending_inbound) == {"c"}
    await manager.handle_connection_closed("c", PEER, reason="tired")
    assert len(manager.tracker) == 0


def test_limits_of_a_wrong_type_are_not_set(manager: ConnectionLifecycleManager) -> None:
    before = manager.limits
    with pytest.raises(TypeError, match="limits must be a ConnectionLimits, not 5"):
        manager.limits = 5  # type: ignore[assignment]
    assert manager.limits is before


async def test_a_denial_raises_and_is_noted(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    manager.limits = ConnectionLimits(0, 0, 0, 0, 0, 0)
    with pytest.raises(UpstreamLimitExceeded) as caught:
        await pending(manager, direction, "c")
    assert isinstance(caught.value, ConnectionLimitExceeded)
    assert caught.value.kind is ConnectionLimitKind(f"pending_{direction}")
    assert (caught.value.connection_id, caught.value.peer_id) == ("c", None)
    with pytest.raises(ConnectionLimitExceeded) as second:
        await established(manager, direction, "d")
    assert second.value.kind is ConnectionLimitKind(f"established_{direction}")
    assert (second.value.connection_id, second.value.peer_id) == ("d", PEER)
    assert counts(manager) == NOTHING
    assert [str(error) for error in manager.denials] == [str(caught.value), str(second.value)]
    assert manager.denials.last is not second.value
    assert str(manager.denials.last) == str(second.value)


async def test_a_denied_establishment_ends_the_pending_state(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    manager.limits = ConnectionLimits(max_established_total=0)
    await pending(manager, direction, "c")
    with pytest.raises(ConnectionLimitExceeded):
        await established(manager, direction, "c")
    assert counts(manager) == NOTHING


async def test_a_dial_to_a_bypassed_peer(manager: ConnectionLifecycleManager) -> None:
    manager.limits = ConnectionLimits(0, 0, 0, 0, 0, 0)
    manager.tracker.add_bypass_peer(PEER)
    await manager.handle_pending_outbound_connection("c", PEER)
    await manager.handle_established_outbound_connection("c", PEER)
    assert manager.tracker.snapshot().bypassed == 1


async def test_limits_are_replaced_for_new_connections(
    manager: ConnectionLifecycleManager, direction: str
) -> None:
    for connection_id in ("a", "b"):
        await established(manager, direction, connection_id)
    manager.limits = ConnectionLimits(max_established_total=1)
    assert len(manager.tracker) == 2
    with pytest.raises(ConnectionLimitExceeded) as caught:
        await established(manager, direction, "c")
    assert (caught.value.current, caught.value.limit) == (2, 1)


@pytest.mark.parametrize("limits", [None, {}, 5])
def test_limits_of_a_wrong_type(limits: Any) -> None:
    with pytest.raises(TypeError, match="ConnectionLimits"):
        ConnectionLifecycleManager(ConnectionTracker(), limits)


def calls(manager: ConnectionLifecycleManager) -> list[tuple[Any, tuple[int, int, int, int]]]:
    """A life in both directions, with the counts after each step."""
    return [
        (pending(manager, "inbound", "i"), (1, 0, 0, 0)),
        (pending(manager, "outbound", "o"), (1, 1, 0, 0)),
        (established(manager, "inbound", "i"), (0, 1, 1, 0)),
        (established(manager, "outbound", "o"), (0, 0, 1, 1)),
        (pending(manager, "inbound", "failed"), (1, 0, 1, 1)),
        (failure(manager, "inbound", "failed"), (0, 0, 1, 1)),
        (pending(manager, "outbound", "failed"), (0, 1, 1, 1)),
        (failure(manager, "outbound", "failed"), (0, 0, 1, 1)),
        (manager.handle_connection_closed("i", PEER), (0, 0, 0, 1)),
        (manager.handle_connection_closed("o"), (0, 0, 0, 0)),
    ]


def test_handlers_never_suspend(manager: ConnectionLifecycleManager) -> None:
    """So a cancellation cannot come in the middle of a handler."""
    for call, expected in calls(manager):
        finish(call)
        assert counts(manager) == expected
    manager.limits = ConnectionLimits(0, 0, 0, 0, 0, 0)
    for direction in ("inbound", "outbound"):
        for handle in (pending, established):
            with pytest.raises(ConnectionLimitExceeded):
                finish(handle(manager, direction, "c"))
    assert counts(manager) == NOTHING


async def test_handlers_in_a_cancelled_task(manager: ConnectionLifecycleManager) -> None:
    """A handler does everything or nothing."""
    for call, expected in calls(manager):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call
        assert counts(manager) == expected
        assert not scope.cancelled_caught


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize("cancelled_at", range(6))
async def test_cancelled_between_any_two_calls(
    manager: ConnectionLifecycleManager, direction: str, cancelled_at: int
) -> None:
    """A caller that reports the end in a `finally` gets everything back."""
    with trio.CancelScope() as scope:
        step = 0

        async def checkpoint() -> None:
            nonlocal step
            if step == cancelled_at:
                scope.cancel()
            step += 1
            await trio.lowlevel.checkpoint()

        try:
            await checkpoint()
            await pending(manager, direction, "c")
            await checkpoint()
            await established(manager, direction, "c")
            await checkpoint()
            await established(manager, direction, "c")
            await checkpoint()
        finally:
            await failure(manager, direction, "c")
            await manager.handle_connection_closed("c", PEER)
            await manager.handle_connection_closed("c", PEER)
    assert scope.cancelled_caught == (cancelled_at < 4)
    assert counts(manager) == NOTHING
    snapshot = manager.tracker.snapshot()
    assert snapshot.total_created == snapshot.total_closed == min(1, cancelled_at)


async def test_many_tasks_never_pass_a_limit(manager: ConnectionLifecycleManager) -> None:
    manager.limits = ConnectionLimits(4, 3, 5, 6, 3, 8)
    refused = 0

    async def peer(number: int) -> None:
        nonlocal refused
        for i in range(30):
            direction = ("inbound", "outbound")[(number + i) % 2]
            connection_id = f"{number}-{i}"
            try:
                await pending(manager, direction, connection_id)
                await trio.lowlevel.checkpoint()
                await established(manager, direction, connection_id, b"peer %d" % (number % 5))
                await trio.lowlevel.checkpoint()
            except ConnectionLimitExceeded:
                refused += 1
            finally:
                manager.notify_connection_closed(connection_id)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(peer, number)
    snapshot = manager.tracker.snapshot()
    assert counts(manager) == NOTHING
    assert snapshot.total_created == snapshot.total_closed
    assert refused == snapshot.total_denied > 0
    assert snapshot.peak_pending_inbound == 4
    assert snapshot.peak_pending_outbound == 3
    assert snapshot.peak_established_inbound <= 5
    assert snapshot.peak_established_outbound <= 6
    assert snapshot.peak_established_per_peer <= 3
    assert snapshot.peak_established_total <= 8


async def test_reconcile_removes_connections_that_the_swarm_lost(
    manager: ConnectionLifecycleManager, clock: Clock
) -> None:
    for connection_id in ("a", "b"):
        await established(manager, "inbound", connection_id)
    await pending(manager, "outbound", "p")
    assert manager.reconcile_live_connections({"a"}) == 0  # too young
    clock.advance(30)
    assert manager.reconcile_live_connections({"a"}) == 1
    assert counts(manager) == (0, 1, 1, 0)
    clock.advance(5)
    await established(manager, "inbound", "c")
    clock.advance(1)
    assert manager.reconcile_live_connections({"a"}, min_age_seconds=0.5) == 1
    assert counts(manager) == (0, 1, 1, 0)
    await manager.handle_connection_closed("b", PEER)  # a late report of a closed connection


async def test_several_managers_share_a_log(clock: Clock) -> None:
    log = DenialLog()
    managers = [
        ConnectionLifecycleManager(
            ConnectionTracker(clock=clock), ConnectionLimits(max_pending_inbound=0), denials=log
        )
        for _ in range(2)
    ]
    for manager in managers:
        with pytest.raises(ConnectionLimitExceeded):
            await pending(manager, "inbound", "c")
    assert len(log) == 2
