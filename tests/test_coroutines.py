"""Every public `async` name works in a nursery and in a task, and may be cancelled at any point."""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio.lowlevel
import pytest
import trio

import rcmgr
from rcmgr import (
    ConnectionLimits,
    Rate,
    RateLimitExceeded,
    RateLimits,
    ResourceLimitExceeded,
    ResourceManager,
    TokenBucket,
)

PEER = b"\x12\x20" + b"p" * 32
STEPS = range(12)


class Case:
    """One call, the objects it uses, and the state that it must leave behind."""

    def __init__(self) -> None:
        self.manager = ResourceManager(connection_limits=ConnectionLimits(max_pending_outbound=1))
        self.limiter = self.manager.add_protocol_rate_limiter("/p", RateLimits(Rate(1e6, 1000)))
        self.bucket = TokenBucket(3, 200.0, 0)
        self.held = self.manager.open_connection(None, None, "outbound")

    async def wait(self) -> None:
        await self.bucket.wait(2)

    async def request(self) -> None:
        async with self.limiter.request(PEER):
            await pause()

    async def wait_for_room(self) -> None:
        await self.manager.wait_for_room("outbound")

    async def dial_slot(self) -> None:
        async with self.manager.dial_slot():
            await pause()

    async def life(self) -> None:
        """All calls of a lifecycle manager."""
        lifecycle = self.manager.connection_lifecycle
        await lifecycle.handle_pending_inbound_connection("in")
        await pause()
        await lifecycle.handle_established_inbound_connection("in", PEER)
        await pause()
        await lifecycle.handle_connection_closed("in", PEER)
        await lifecycle.handle_pending_inbound_connection("failed")
        await lifecycle.handle_listen_failure("failed")
        with pytest.raises(ResourceLimitExceeded):
            await lifecycle.handle_pending_outbound_connection("out")
        await lifecycle.handle_established_outbound_connection("out", PEER)
        await lifecycle.handle_dial_failure("out")
        await lifecycle.handle_connection_closed("out")

    def release(self) -> None:
        if self.held is not None:
            self.held.close()

    def check(self, name: str) -> None:
        """Nothing is held, and the next caller is served."""
        self.release()
        if name == "life":  # a cancelled host closes its connections
            self.manager.connection_tracker.clear()
        stats = self.manager.get_stats()["connection_states"]
        assert sum(stats.values()) == 0
        assert self.bucket.time_until(3) <= 3 / 200
        assert self.manager.ledger.over_released == 0


async def pause() -> None:
    await anyio.lowlevel.checkpoint()


Call = Callable[[], Awaitable[None]]


def trio_nursery(calls: list[Call]) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for call in calls:
                    nursery.start_soon(call)

    trio.run(main)


def asyncio_tasks(calls: list[Call]) -> None:
    async def main() -> None:
        await asyncio.gather(*[asyncio.create_task(call()) for call in calls])

    asyncio.run(asyncio.wait_for(main(), 30))


CASES = ["wait", "request", "wait_for_room", "dial_slot", "life"]
PUBLIC = {
    "TokenBucket.wait", "ProtocolRateLimiter.request", "ResourceManager.wait_for_room",
    "ResourceManager.dial_slot",
    *(f"ConnectionLifecycleManager.handle_{name}" for name in (
        "connection_closed", "dial_failure", "established_inbound_connection",
        "established_outbound_connection", "listen_failure", "pending_inbound_connection",
        "pending_outbound_connection")),
}


def test_each_public_async_name_is_tested_here() -> None:
    found = set()
    for name in rcmgr.__all__:
        kind = getattr(rcmgr, name)
        for member in dir(kind) if inspect.isclass(kind) else ():
            function = inspect.unwrap(getattr(kind, member))
            is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
            if is_async and not member.startswith("_"):
                found.add(f"{name}.{member}")
    # these are functions that return a coroutine or a context manager
    assert found | {"TokenBucket.wait", "ResourceManager.dial_slot"} == PUBLIC


def test_they_are_coroutines_of_python() -> None:
    """trio asks a coroutine for attributes that those of Cython lack."""
    case = Case()
    lifecycle = case.manager.connection_lifecycle
    made: list[Any] = [
        case.bucket.wait(), case.manager.wait_for_room(),
        lifecycle.handle_pending_inbound_connection("c"),
        lifecycle.handle_established_inbound_connection("c", PEER),
        lifecycle.handle_connection_closed("c"),
        case.manager.graceful_degradation.run_periodic_recovery(),
        case.manager.dial_slot().__aenter__(), case.limiter.request(PEER).__aenter__(),
    ]
    for each in made:
        assert type(each) is types.CoroutineType
        each.close()


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope just before a task runs for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self.task, self.scope, self.left = task, scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", STEPS)
def test_cancelled_at_each_step_under_trio(name: str, step: int) -> None:
    case = Case()

    async def cancelled() -> None:
        with trio.CancelScope() as scope:
            if step == 0:
                scope.cancel()
            instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await getattr(case, name)()
            finally:
                trio.lowlevel.remove_instrument(instrument)

    async def main() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancelled)
                await trio.sleep(0.002)
                if name != "life":
                    for _ in range(2):
                        nursery.start_soon(getattr(case, name))
                    case.release()

    trio.run(main)
    case.check(name)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", STEPS)
def test_cancelled_at_each_step_under_asyncio(name: str, step: int) -> None:
    case = Case()

    async def main() -> None:
        task = asyncio.create_task(getattr(case, name)())
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        others = [] if name == "life" else [
            asyncio.create_task(getattr(case, name)()) for _ in range(2)]
        case.release()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.gather(*others)

    asyncio.run(asyncio.wait_for(main(), 30))
    case.check(name)


@pytest.mark.parametrize("start", [trio_nursery, asyncio_tasks])
@pytest.mark.parametrize("name", [each for each in CASES if each != "life"])
def test_several_at_once(name: str, start: Callable[[list[Call]], None]) -> None:
    case = Case()
    case.release()
    start([getattr(case, name)] * 4)
    case.check(name)


@pytest.mark.parametrize("start", [trio_nursery, asyncio_tasks])
def test_the_methods_themselves_as_tasks(start: Callable[[list[Call]], None]) -> None:
    """Not wrapped in a function: `nursery.start_soon(bucket.wait)`."""
    case = Case()
    case.release()
    start([
        case.bucket.wait, case.bucket.wait, case.manager.wait_for_room, case.manager.wait_for_room,
        partial(case.manager.connection_lifecycle.handle_connection_closed, "c"),
    ])
    start([case.bucket.wait] * 2)
    case.check("wait")


def test_a_request_over_the_rate_under_both() -> None:
    limiter = ResourceManager().add_protocol_rate_limiter("/p", RateLimits(Rate(0.001, 1)))

    async def ask() -> None:
        async with limiter.request(PEER):
            await pause()

    async def twice() -> None:
        await ask()
        with pytest.raises(RateLimitExceeded):
            await ask()

    trio.run(twice)
    limiter = ResourceManager().add_protocol_rate_limiter("/p", RateLimits(Rate(0.001, 1)))
    asyncio.run(twice())
