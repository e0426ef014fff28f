"""Deliver events to observers that raise, block or hang."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import time
import warnings
from typing import Any

import pytest
import trio
import trio.testing
from connection_events import counts, established, pending

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimits,
    PendingInboundConnectionEvent,
)


def test_exceptions_are_counted_and_the_first_is_logged(
    handler: ConnectionLifecycleHandler, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[Any] = []

    def broken(event: Any) -> None:
        raise ZeroDivisionError("spoiled")

    handler.register_handler(ConnectionLifecycleEvent, broken)
    handler.register_handler(ConnectionLifecycleEvent, received.append)
    with caplog.at_level(logging.ERROR):
        for event in (pending(), established(), ConnectionClosedEvent(connection_id="a")):
            handler.handle_event(event)
    assert counts(handler) == (0, 0, 0, 0)
    assert len(received) == handler.observer_errors == 3
    assert len([record for record in caplog.records if "spoiled" in str(record.exc_info)]) == 1


async def test_a_coroutine_function_runs_in_a_task(handler: ConnectionLifecycleHandler) -> None:
    received: list[Any] = []
    go_on = trio.Event()

    async def slow(event: Any) -> None:
        await go_on.wait()
        received.append(event)

    handler.register_handler(ConnectionLifecycleEvent, slow)
    event = pending()
    await handler.handle_event(event)
    assert counts(handler) == (1, 0, 0, 0)
    assert received == []
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert received == [event]


async def test_a_coroutine_function_that_hangs_or_raises(
    handler: ConnectionLifecycleHandler, caplog: pytest.LogCaptureFixture
) -> None:
    begun = 0

    async def hangs(event: Any) -> None:
        nonlocal begun
        begun += 1
        await trio.sleep_forever()

    async def raises(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    handler.register_handler(ConnectionLifecycleEvent, hangs)
    handler.register_handler(ConnectionLifecycleEvent, raises)
    for _ in range(600):
        handler.handle_event(pending())
        handler.handle_event(ConnectionClosedEvent(connection_id="a"))
        await trio.testing.wait_all_tasks_blocked()
    assert begun == 1
    assert handler.events_left_out == 1200 - 1025
    assert handler.observer_errors == 1200
    assert counts(handler) == (0, 0, 0, 0)
    assert len(caplog.records) == 1


async def test_a_coroutine_function_receives_events_in_order(
    handler: ConnectionLifecycleHandler,
) -> None:
    """trio would run separate tasks in random order."""
    received: list[Any] = []

    async def slow(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        received.append(event.connection_id)

    handler.limits = ConnectionLimits()
    handler.register_handler(ConnectionLifecycleEvent, slow)
    names = [str(number) for number in range(100)]
    for name in names:
        handler.handle_event(pending(name))
    await trio.testing.wait_all_tasks_blocked()
    assert received == names


async def test_every_awaitable_is_awaited(handler: ConnectionLifecycleHandler) -> None:
    received: list[Any] = []

    class Later:
        def __init__(self, event: Any) -> None:
            self.event = event

        def __await__(self) -> Any:
            received.append(self.event)
            yield from two("two", None).__await__()

    async def two(what: str, event: Any) -> None:
        received.append(what)

    event = pending()
    for observer, expected in ((Later, [event, "two"]), (functools.partial(two, "one"), ["one"])):
        unregister = handler.register_handler(ConnectionLifecycleEvent, observer)
        handler.notify(event)
        await trio.testing.wait_all_tasks_blocked()
        assert received == expected
        received.clear()
        unregister()


@pytest.mark.parametrize("raised", [
    SystemExit, asyncio.CancelledError, GeneratorExit, RecursionError, MemoryError])
def test_no_exception_reaches_the_caller(
    handler: ConnectionLifecycleHandler, raised: type[BaseException]
) -> None:
    def broken(event: Any) -> None:
        raise raised

    handler.register_handler(ConnectionLifecycleEvent, broken)
    handler.handle_event(pending())
    assert counts(handler) == (1, 0, 0, 0)
    assert handler.observer_errors == 1


def test_a_keyboard_interrupt_reaches_the_caller(handler: ConnectionLifecycleHandler) -> None:
    def interrupted(event: Any) -> None:
        raise KeyboardInterrupt

    handler.register_handler(ConnectionLifecycleEvent, interrupted)
    with pytest.raises(KeyboardInterrupt):
        handler.handle_event(pending())
    assert handler.observer_errors == 0


def test_an_exception_in_a_task_does_not_end_the_event_loop(
    handler: ConnectionLifecycleHandler,
) -> None:
    """trio ends the run if a system task raises."""
    handler.limits = ConnectionLimits()
    begun: list[str] = []

    async def in_a_nursery(event: Any) -> None:
        begun.append(event.connection_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

    async def leaves(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise SystemExit

    async def main() -> None:
        handler.handle_event(pending("a"))
        handler.handle_event(pending("b"))
        await trio.testing.wait_all_tasks_blocked()

    handler.register_handler(PendingInboundConnectionEvent, in_a_nursery)
    handler.register_handler(PendingInboundConnectionEvent, leaves)
    trio.run(main)
    assert begun == ["a"]
    assert handler.observer_errors == 3  # two of `leaves`, one of the cancelled `in_a_nursery`
    assert handler.events_left_out == 1
    trio.run(main)  # a new run starts afresh
    assert begun == ["a", "a"]


def test_a_function_in_a_thread_may_block(handler: ConnectionLifecycleHandler) -> None:
    handler.limits = ConnectionLimits()
    received: list[str] = []
    threads: set[int] = set()
    go_on = threading.Event()

    def slow(event: Any) -> None:
        assert go_on.wait(30)
        threads.add(threading.get_ident())
        received.append(event.connection_id)
        if event.connection_id == "1":
            raise ZeroDivisionError

    handler.register_handler(ConnectionLifecycleEvent, slow, in_thread=True)
    names = [str(number) for number in range(1100)]
    for name in names:
        handler.handle_event(pending(name))
    assert counts(handler) == (1100, 0, 0, 0)
    assert received == []
    go_on.set()
    until = time.monotonic() + 30
    while len(received) + handler.events_left_out < len(names):
        assert time.monotonic() < until
        time.sleep(0.001)
    assert received == names[:len(received)]
    assert len(received) in (1024, 1025)  # the thread may already have the first one
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert handler.observer_errors == 1


def test_the_thread_ends_when_no_event_waits(handler: ConnectionLifecycleHandler) -> None:
    received = threading.Event()
    unregister = handler.register_handler(
        ConnectionLifecycleEvent, lambda event: received.set(), in_thread=True)
    for _ in range(3):
        handler.notify(pending())
        assert received.wait(30)
        received.clear()
    unregister()
    until = time.monotonic() + 30
    while any(thread.name == "rcmgr observer" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)
    handler.notify(pending())
    assert not received.wait(0.05)


def test_an_error_is_counted_if_no_thread_can_start(
    handler: ConnectionLifecycleHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = threading.Event()
    handler.register_handler(ConnectionLifecycleEvent, lambda event: received.set(), in_thread=True)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        handler.handle_event(pending())
    assert handler.observer_errors == 1
    handler.handle_event(ConnectionClosedEvent(connection_id="a"))
    assert received.wait(30)


async def test_events_that_wait_for_a_cancelled_task_are_left_out(
    handler: ConnectionLifecycleHandler,
) -> None:
    begun: list[str] = []

    async def observer(event: Any) -> None:
        begun.append(event.connection_id)
        await trio.sleep_forever()

    def in_another_run() -> None:
        async def main() -> None:
            for name in "abc":
                handler.notify(pending(name))
            await trio.testing.wait_all_tasks_blocked()

        trio.run(main)

    handler.register_handler(ConnectionLifecycleEvent, observer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await trio.to_thread.run_sync(in_another_run)
        gc.collect()
    assert begun == ["a"]
    assert handler.events_left_out == 2
    assert handler.observer_errors == 0


def test_a_coroutine_function_under_asyncio(handler: ConnectionLifecycleHandler) -> None:
    received: list[Any] = []
    done: asyncio.Event

    async def observer(event: Any) -> None:
        await asyncio.sleep(0)
        received.append(event)
        done.set()

    async def main() -> None:
        nonlocal done
        done = asyncio.Event()
        handler.register_handler(ConnectionLifecycleEvent, observer)
        handler.handle_event(pending())
        await asyncio.wait_for(done.wait(), 30)

    asyncio.run(main())
    assert len(received) == 1


@pytest.mark.filterwarnings("error")
def test_a_coroutine_function_without_an_event_loop(
    handler: ConnectionLifecycleHandler, caplog: pytest.LogCaptureFixture
) -> None:
    async def observer(event: Any) -> None:
        raise AssertionError("it cannot run")

    handler.register_handler(ConnectionLifecycleEvent, observer)
    handler.handle_event(pending())
    assert counts(handler) == (1, 0, 0, 0)
    assert handler.observer_errors == 1
    assert "needs trio or asyncio" in caplog.text


def test_a_coroutine_function_runs_in_the_loop_of_the_notifying_thread(
    handler: ConnectionLifecycleHandler,
) -> None:
    handler.limits = ConnectionLimits()
    received: list[tuple[str, int]] = []
    together = threading.Barrier(3)

    async def observer(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        received.append((event.connection_id, threading.get_ident()))

    async def main(number: int) -> None:
        together.wait()
        for i in range(100):
            handler.handle_event(pending(f"{number} {i}"))
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()

    handler.register_handler(ConnectionLifecycleEvent, observer)
    threads = [threading.Thread(target=trio.run, args=(main, number)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert handler.observer_errors == 0
    assert len(received) == 300
    assert len({(name.split()[0], thread) for name, thread in received}) == 3
