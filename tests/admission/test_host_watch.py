from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing
from swarm import check_nothing_held

from rcmgr import RateLimits, ResourceManager

PEER = b"peer"


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager()


async def test_a_host_that_stops_gives_back_what_it_held(manager: ResourceManager) -> None:
    async with trio.open_nursery() as nursery:
        watch = manager.graceful_degradation.run_periodic_recovery
        nursery.start_soon(watch)
        nursery.start_soon(watch)  # a second host with the same manager
        await trio.testing.wait_all_tasks_blocked()
        assert manager.graceful_degradation.running_hosts == 2
        scope = manager.open_connection(PEER)
        assert scope is not None
        manager.acquire_stream(PEER, "inbound")
        nursery.cancel_scope.cancel()
    check_nothing_held(manager)
    assert scope.closed
    assert not manager.closed
    assert manager.open_connection(PEER) is not None


async def test_one_of_two_hosts_stops(manager: ResourceManager) -> None:
    watch = manager.graceful_degradation.run_periodic_recovery
    async with trio.open_nursery() as outer:
        outer.start_soon(watch)
        async with trio.open_nursery() as inner:
            inner.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            scope = manager.open_connection(PEER)
            assert scope is not None
            inner.cancel_scope.cancel()
        assert not scope.closed  # it may be the other host's
        outer.cancel_scope.cancel()
    check_nothing_held(manager)


def test_a_dropped_manager_is_freed_at_once() -> None:
    """The parts that a manager holds do not hold the manager."""
    manager = ResourceManager()
    manager.add_protocol_rate_limiter("/protocol", RateLimits())
    scope = manager.open_connection(PEER)
    freed = weakref.ref(manager)
    gc.disable()
    try:
        del manager
        assert freed() is None
    finally:
        gc.enable()
    assert scope is not None
    scope.close()


async def test_a_host_that_outlives_its_manager() -> None:
    """Its end has nothing to give back."""
    manager = ResourceManager()
    watch = manager.graceful_degradation
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run_periodic_recovery)
        await trio.testing.wait_all_tasks_blocked()
        del manager
        nursery.cancel_scope.cancel()
    assert watch.running_hosts == 0
