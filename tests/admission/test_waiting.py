"""Waiting for room: order, time limits, cancellation, and places that are never lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio
import trio.lowlevel
import trio.testing

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    NodeLimits,
    ResourceLimitExceeded,
    ResourceManager,
    ResourceScopeClosed,
)

ADDRESS = "192.0.2.1"
PEER = b"\x12\x20" + b"p" * 32
FULL: dict[str, tuple[NodeLimits, str]] = {
    "pending": (
        NodeLimits(connections=ConnectionLimits(max_pending_outbound=2)),
        "connection.pending_outbound"),
    "established": (
        NodeLimits(connections=ConnectionLimits(max_established_outbound=2)),
        "connection.established_outbound"),
    "total": (
        NodeLimits(connections=ConnectionLimits(max_established_total=2)),
        "connection.established_total"),
    "system": (
        NodeLimits(ConcreteLimits(system=Limit(conns=2))), "connection.system.conns"),
    "system outbound": (
        NodeLimits(ConcreteLimits(system=Limit(conns_outbound=2))),
        "connection.system.conns_outbound"),
    "transient": (
        NodeLimits(ConcreteLimits(transient=Limit(conns=2))), "connection.transient.conns"),
    "descriptors": (NodeLimits(ConcreteLimits(system=Limit(fd=2))), "connection.system.fd"),
}


def pending(manager: ResourceManager) -> int:
    return manager.connection_tracker.get_connection_count("pending_outbound")


@pytest.fixture(params=FULL)
def full(request: pytest.FixtureRequest) -> tuple[ResourceManager, str]:
    """A manager with two places, and the code of the limit that refuses a third dial."""
    limits, code = FULL[request.param]
    return ResourceManager(limits), code


def both_loops(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run the test in trio and in asyncio."""

    @pytest.mark.parametrize("backend", ["trio", "asyncio"])
    def run(backend: str, **fixtures: Any) -> None:
        async def limited() -> None:
            with anyio.fail_after(60):
                await test(**fixtures)

        anyio.run(limited, backend=backend)

    run.__signature__ = _signature(test)  # type: ignore[attr-defined]
    run.__name__ = test.__name__
    return run


def _signature(test: Callable[..., Any]) -> Any:
    import inspect

    found = inspect.signature(test)
    backend = inspect.Parameter("backend", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return found.replace(parameters=[backend, *found.parameters.values()])


@both_loops
async def test_dials_wait_in_order_of_arrival(full: tuple[ResourceManager, str]) -> None:
    manager, _ = full
    order: list[int] = []
    most = 0
    together = anyio.Event()

    async def dial(number: int) -> None:
        nonlocal most
        async with manager.dial_slot(timeout=50):
            order.append(number)
            scope = manager.open_connection(None, ADDRESS, "outbound")
            assert scope is not None
            most = max(most, pending(manager))
            if most == 2:
                together.set()
            await together.wait()  # the first dial is there until the second one comes
            await anyio.sleep(0.005)
            scope.close()

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(dial, number)
            await anyio.sleep(0.001)
    assert order == list(range(10))
    assert most == 2
    assert pending(manager) == manager.ledger.system().stat().conns_outbound == 0
    assert manager.denials.total == 0
    assert manager.denied_by_limit() == {}


@both_loops
async def test_no_room_in_time(full: tuple[ResourceManager, str]) -> None:
    manager, code = full
    places = [manager.reserve_dial(), manager.reserve_dial()]
    for waiting in (manager.wait_for_room("outbound", timeout=0.03), enter(manager)):
        with pytest.raises(ResourceLimitExceeded) as caught:
            await waiting
        assert caught.value.code == code
    assert manager.denied_by_limit() == {}
    places.pop().close()
    await manager.wait_for_room(timeout=0)
    await enter(manager)
    assert pending(manager) == 1


async def enter(manager: ResourceManager) -> None:
    async with manager.dial_slot(timeout=0.03):
        pass


@both_loops
async def test_a_place_without_a_dial_is_given_back() -> None:
    manager = ResourceManager(FULL["pending"][0])
    async with manager.dial_slot():
        assert pending(manager) == 1
    assert pending(manager) == 0
    with pytest.raises(ZeroDivisionError):
        async with manager.dial_slot():
            1 / 0  # noqa: B018
    assert pending(manager) == 0


@both_loops
async def test_a_task_that_outlives_the_slot_keeps_no_place() -> None:
    manager = ResourceManager(FULL["pending"][0])
    async with manager.dial_slot():
        background = copy_context()  # as a task that was started here has it
    assert pending(manager) == 0
    scope = background.run(manager.open_connection, None, ADDRESS, "outbound")
    assert scope is not None
    assert pending(manager) == 1
    scope.close()


@both_loops
async def test_a_dial_takes_the_place_once() -> None:
    manager = ResourceManager(FULL["pending"][0])
    async with manager.dial_slot():
        first = manager.open_connection(None, ADDRESS, "outbound")
        assert pending(manager) == 1
        second = manager.open_connection(None, ADDRESS, "outbound")
        assert pending(manager) == 2
        assert manager.open_connection(None, ADDRESS, "outbound") is None
        established = manager.open_connection(PEER, ADDRESS, "outbound")
    assert manager.get_stats()["connection_states"]["established_outbound"] == 1
    assert pending(manager) == 1
    for scope in (first, second, established):
        assert scope is not None
        scope.close()
    assert manager.get_stats()["connections"] == 0


async def test_the_place_is_for_one_of_several_children() -> None:
    manager = ResourceManager(FULL["pending"][0])
    scopes: list[Any] = []

    async def child() -> None:
        scopes.append(manager.open_connection(None, ADDRESS, "outbound"))
        await trio.lowlevel.checkpoint()

    async with manager.dial_slot(), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(child)
    assert [scope is None for scope in scopes].count(True) == 1
    assert pending(manager) == 2


@both_loops
async def test_inbound_connections_take_no_dial_slot() -> None:
    manager = ResourceManager(FULL["pending"][0])
    async with manager.dial_slot():
        inbound = manager.open_connection(None, ADDRESS, "inbound")
        assert inbound is not None
        assert pending(manager) == 1


@both_loops
async def test_another_manager_does_not_take_the_place() -> None:
    manager, other = ResourceManager(FULL["pending"][0]), ResourceManager()
    async with manager.dial_slot():
        scope = other.open_connection(None, ADDRESS, "outbound")
        assert scope is not None
        assert (pending(other), pending(manager)) == (1, 0)


@both_loops
async def test_other_limits_refuse_at_once() -> None:
    manager = ResourceManager()
    manager.ban(PEER)
    with pytest.raises(ResourceLimitExceeded, match="banned"):
        async with manager.dial_slot(PEER, timeout=None):
            pass
    manager.close()
    with pytest.raises(ResourceScopeClosed):
        async with manager.dial_slot():
            pass


@both_loops
async def test_an_exempt_peer_does_not_wait() -> None:
    manager = ResourceManager(FULL["pending"][0], allowlist=[PEER])
    places = [manager.reserve_dial(), manager.reserve_dial()]
    async with manager.dial_slot(PEER, timeout=0.01):
        assert pending(manager) == 3
    assert pending(manager) == len(places)


@both_loops
async def test_a_higher_limit_lets_them_in() -> None:
    manager = ResourceManager(FULL["pending"][0])
    places = [manager.reserve_dial(), manager.reserve_dial()]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.wait_for_room)
        await anyio.sleep(0.02)
        manager.node_limits = replace(
            manager.node_limits, connections=ConnectionLimits(max_pending_outbound=3))
    assert pending(manager) == len(places)


@both_loops
async def test_room_for_inbound_connections() -> None:
    manager = ResourceManager(connection_limits=ConnectionLimits(max_established_inbound=1))
    scope = manager.open_connection(PEER, ADDRESS, "inbound")
    assert scope is not None
    with pytest.raises(ResourceLimitExceeded, match="established_inbound"):
        await manager.wait_for_room("inbound", timeout=0.02)
    await manager.wait_for_room("outbound", timeout=0)
    scope.close()
    await manager.wait_for_room("inbound", timeout=0)


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), True])
async def test_a_wrong_time_limit(timeout: Any) -> None:
    manager = ResourceManager()
    with pytest.raises((TypeError, ValueError), match="timeout"):
        await manager.wait_for_room(timeout=timeout)
    with pytest.raises((TypeError, ValueError), match="timeout"):
        async with manager.dial_slot(timeout=timeout):
            pass
    with pytest.raises(ValueError, match="direction"):
        await manager.wait_for_room("sideways")


@pytest.mark.parametrize("steps", range(12))
async def test_a_task_cancelled_at_any_point_loses_no_place(steps: int) -> None:
    manager = ResourceManager(FULL["pending"][0])
    places = [manager.reserve_dial(), manager.reserve_dial()]

    async def dial() -> None:
        async with manager.dial_slot():
            scope = manager.open_connection(None, ADDRESS, "outbound")
            try:
                await trio.lowlevel.checkpoint()
            finally:
                scope.close()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(dial)
        for step in range(steps):
            if step == 3:
                places.pop().close()
            await trio.sleep(0.004)
        nursery.cancel_scope.cancel()
    for place in places:
        place.close()
    assert pending(manager) == 0
    assert manager.ledger.leaked == 0
    assert manager._waiting._turns[False]._queues == {}


def test_an_asyncio_task_cancelled_at_any_point_loses_no_place() -> None:
    manager = ResourceManager(FULL["pending"][0])

    async def main(steps: int) -> None:
        places = [manager.reserve_dial(), manager.reserve_dial()]
        tasks = [asyncio.create_task(enter_and_wait(manager)) for _ in range(3)]
        for step in range(steps):
            if step == 3:
                places.pop().close()
            await asyncio.sleep(0.004)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for place in places:
            place.close()

    for steps in range(12):
        asyncio.run(main(steps))
        assert pending(manager) == 0


async def enter_and_wait(manager: ResourceManager) -> None:
    async with manager.dial_slot():
        await asyncio.sleep(0)


def test_two_loops_in_two_threads() -> None:
    manager = ResourceManager(FULL["pending"][0])
    most, done = 0, []

    async def dial() -> None:
        nonlocal most
        async with manager.dial_slot(timeout=50):
            most = max(most, pending(manager))
            await anyio.sleep(0.001)
            done.append(1)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(dial)

    threads = [
        threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend})
        for backend in ("trio", "asyncio")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(done), pending(manager)) == (40, 0)
    assert most <= 2
