"""Events: who is told, what is admitted, and that observers cannot spoil it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import logging
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import pytest
import trio
import trio.testing

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimitExceeded,
    ConnectionLimits,
    ConnectionTracker,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    ListenFailedEvent,
    MemoryConnectionLimits,
    MemoryStatsCache,
    MemoryUsageLimitExceeded,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)

PEER = b"peer"


@pytest.fixture
def handler() -> ConnectionLifecycleHandler:
    return ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits(
        max_pending_inbound=1, max_established_per_peer=1))


def pending(name: str = "a") -> PendingInboundConnectionEvent:
    return PendingInboundConnectionEvent(connection_id=name)


def established(name: str = "a") -> EstablishedInboundConnectionEvent:
    return EstablishedInboundConnectionEvent(connection_id=name, peer_id=PEER)


def counts(handler: ConnectionLifecycleHandler) -> tuple[int, ...]:
    return tuple(handler.tracker.get_connection_count(kind) for kind in (
        "pending_inbound", "pending_outbound", "established_inbound", "established_outbound"))


# -- events ----------------------------------------------------------------------------------------


def test_events_are_frozen_values() -> None:
    before = time.time()
    event = PendingOutboundConnectionEvent(connection_id="a", addresses=["/ip4/192.0.2.1/tcp/1"])
    assert before <= event.timestamp <= time.time()
    assert event.endpoint is Endpoint.DIALER
    assert event == dataclasses.replace(event)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.connection_id = "b"  # type: ignore[misc]
    assert not hasattr(event, "__dict__")
    with pytest.raises(TypeError):
        ConnectionClosedEvent("a")  # type: ignore[misc]  # by keyword only


# -- admission -------------------------------------------------------------------------------------


async def test_plain_or_awaited_it_is_done_when_the_call_returns(
    handler: ConnectionLifecycleHandler
) -> None:
    done = handler.handle_event(pending())
    assert counts(handler) == (1, 0, 0, 0)
    await done
    await handler.handle_event(established())
    assert counts(handler) == (0, 0, 1, 0)
    handler.handle_event(PendingOutboundConnectionEvent(connection_id="b"))
    assert counts(handler) == (0, 1, 1, 0)
    handler.handle_event(DialFailedEvent(connection_id="b"))
    handler.handle_event(pending("c"))
    handler.handle_event(ListenFailedEvent(connection_id="c"))
    assert counts(handler) == (0, 0, 1, 0)
    handler.handle_event(
        EstablishedOutboundConnectionEvent(connection_id="d", peer_id=b"other"))
    for name in "ad":
        handler.handle_event(ConnectionClosedEvent(connection_id=name))
    assert counts(handler) == (0, 0, 0, 0)


def test_a_denial_raises_and_is_told(handler: ConnectionLifecycleHandler) -> None:
    told: list[Any] = []
    handler.register_handler(ConnectionLifecycleEvent, told.append)
    handler.handle_event(established())
    with pytest.raises(ConnectionLimitExceeded) as caught:
        handler.handle_event(established("b"))
    assert counts(handler) == (0, 0, 1, 0)
    (first, denied) = told
    assert isinstance(first, EstablishedInboundConnectionEvent)
    assert isinstance(denied, ConnectionDeniedEvent)
    assert (denied.connection_id, denied.peer_id, denied.endpoint) == (
        "b", PEER, Endpoint.LISTENER)
    assert denied.error is caught.value
    with pytest.raises(ConnectionLimitExceeded):
        handler.handle_event(
            EstablishedOutboundConnectionEvent(connection_id="c", peer_id=PEER))
    assert told[-1].endpoint is Endpoint.DIALER


def test_limits_and_memory_may_be_changed(handler: ConnectionLifecycleHandler) -> None:
    handler.limits = ConnectionLimits(max_pending_inbound=0)
    with pytest.raises(ConnectionLimitExceeded):
        handler.handle_event(pending())
    handler.limits = ConnectionLimits()
    handler.memory_limits = MemoryConnectionLimits(
        max_bytes=1, cache=MemoryStatsCache(probe=lambda: 2))
    assert handler.memory_limits is not None
    with pytest.raises(MemoryUsageLimitExceeded):
        handler.handle_event(pending())
    assert counts(handler) == (0, 0, 0, 0)


@pytest.mark.parametrize("wrong", [None, "event", PendingInboundConnectionEvent])
def test_what_is_no_event(handler: ConnectionLifecycleHandler, wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a ConnectionLifecycleEvent"):
        handler.handle_event(wrong)


# -- observers -------------------------------------------------------------------------------------


def test_a_base_class_gets_its_subclasses(handler: ConnectionLifecycleHandler) -> None:
    everything: list[Any] = []
    closed: list[Any] = []
    handler.register_handler(ConnectionLifecycleEvent, everything.append)
    unregister = handler.register_handler(ConnectionClosedEvent, closed.append)
    events = [pending(), established(), ConnectionClosedEvent(connection_id="a")]
    for event in events:
        handler.handle_event(event)
    assert everything == events
    assert closed == events[-1:]
    unregister()
    unregister()
    handler.handle_event(events[-1])
    assert closed == events[-1:]
    assert len(everything) == 4


def test_who_wants_what(handler: ConnectionLifecycleHandler) -> None:
    assert not handler.wants(ConnectionClosedEvent)
    unregister = handler.register_handler(ConnectionClosedEvent, print)
    assert handler.wants(ConnectionClosedEvent)
    assert not handler.wants(ConnectionDeniedEvent)
    handler.register_handler(ConnectionLifecycleEvent, print)
    assert handler.wants(ConnectionDeniedEvent)
    unregister()
    assert handler.wants(ConnectionClosedEvent)


@pytest.mark.parametrize(("event_type", "observer", "reason"), [
    (int, print, "event_type must be"), ("x", print, "event_type must be"),
    (ConnectionClosedEvent, None, "handler must be"),
])
def test_what_cannot_be_registered(
    handler: ConnectionLifecycleHandler, event_type: Any, observer: Any, reason: str
) -> None:
    with pytest.raises(TypeError, match=reason):
        handler.register_handler(event_type, observer)
    assert not handler.event_handlers


def test_a_coroutine_function_cannot_run_in_a_thread(handler: ConnectionLifecycleHandler) -> None:
    async def observer(event: Any) -> None:
        return

    with pytest.raises(TypeError, match="must be a function to run in a thread"):
        handler.register_handler(ConnectionClosedEvent, observer, in_thread=True)


def test_a_denial_says_where_from_and_where_to(handler: ConnectionLifecycleHandler) -> None:
    told: list[Any] = []
    handler.register_handler(ConnectionDeniedEvent, told.append)
    handler.limits = ConnectionLimits(max_pending_inbound=0, max_pending_outbound=0)
    for event in (
        PendingInboundConnectionEvent(connection_id="a", local_addr="here", remote_addr="there"),
        PendingOutboundConnectionEvent(connection_id="b", addresses=["there", "elsewhere"]),
        PendingOutboundConnectionEvent(connection_id="c"),
    ):
        with pytest.raises(ConnectionLimitExceeded):
            handler.handle_event(event)
    assert [(each.local_addr, each.remote_addr) for each in told] == [
        ("here", "there"), (None, "there"), (None, None)]


def test_without_observers_no_event_is_made(
    handler: ConnectionLifecycleHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: Any, **__: Any) -> None:
        raise AssertionError("an event was made")

    event = pending()
    handler.handle_event(event)
    monkeypatch.setattr(ConnectionDeniedEvent, "__init__", made)
    with pytest.raises(ConnectionLimitExceeded):
        handler.handle_event(pending("b"))


def test_an_observer_that_raises(
    handler: ConnectionLifecycleHandler, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def broken(event: Any) -> None:
        raise ZeroDivisionError("spoiled")

    handler.register_handler(ConnectionLifecycleEvent, broken)
    handler.register_handler(ConnectionLifecycleEvent, told.append)
    with caplog.at_level(logging.ERROR):
        for event in (pending(), established(), ConnectionClosedEvent(connection_id="a")):
            handler.handle_event(event)
    assert counts(handler) == (0, 0, 0, 0)
    assert len(told) == handler.observer_errors == 3
    assert len([record for record in caplog.records if "spoiled" in str(record.exc_info)]) == 1


def test_an_observer_that_comes_back(handler: ConnectionLifecycleHandler) -> None:
    """From within an event, another connection is admitted and its own ended."""

    def again(event: Any) -> None:
        if event.connection_id == "a":
            handler.handle_event(ConnectionClosedEvent(connection_id="a"))
            handler.handle_event(pending("b"))

    handler.register_handler(PendingInboundConnectionEvent, again)
    handler.handle_event(pending("a"))
    assert counts(handler) == (1, 0, 0, 0)
    assert "b" in handler.tracker
    assert handler.observer_errors == 0


def test_an_observer_may_leave_while_it_is_told(handler: ConnectionLifecycleHandler) -> None:
    told: list[str] = []

    def once(event: Any) -> None:
        told.append("once")
        unregister()

    unregister = handler.register_handler(ConnectionLifecycleEvent, once)
    handler.register_handler(ConnectionLifecycleEvent, lambda event: told.append("always"))
    handler.handle_event(pending())
    handler.handle_event(ConnectionClosedEvent(connection_id="a"))
    assert told == ["once", "always", "always"]


async def test_a_coroutine_function_runs_by_itself(handler: ConnectionLifecycleHandler) -> None:
    told: list[Any] = []
    go_on = trio.Event()

    async def slow(event: Any) -> None:
        await go_on.wait()
        told.append(event)

    handler.register_handler(ConnectionLifecycleEvent, slow)
    event = pending()
    await handler.handle_event(event)
    assert counts(handler) == (1, 0, 0, 0)
    assert told == []
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert told == [event]


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


async def test_coroutine_functions_are_told_in_order(handler: ConnectionLifecycleHandler) -> None:
    """trio runs the tasks of one moment in any order."""
    told: list[Any] = []

    async def slow(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        told.append(event.connection_id)

    handler.limits = ConnectionLimits()
    handler.register_handler(ConnectionLifecycleEvent, slow)
    names = [str(number) for number in range(100)]
    for name in names:
        handler.handle_event(pending(name))
    await trio.testing.wait_all_tasks_blocked()
    assert told == names


async def test_whatever_can_be_awaited_is(handler: ConnectionLifecycleHandler) -> None:
    told: list[Any] = []

    class Later:
        def __init__(self, event: Any) -> None:
            self.event = event

        def __await__(self) -> Any:
            told.append(self.event)
            yield from two("two", None).__await__()

    async def two(what: str, event: Any) -> None:
        told.append(what)

    event = pending()
    for observer, expected in ((Later, [event, "two"]), (functools.partial(two, "one"), ["one"])):
        unregister = handler.register_handler(ConnectionLifecycleEvent, observer)
        handler.notify(event)
        await trio.testing.wait_all_tasks_blocked()
        assert told == expected
        told.clear()
        unregister()


@pytest.mark.parametrize("raised", [
    SystemExit, asyncio.CancelledError, GeneratorExit, RecursionError, MemoryError])
def test_whatever_an_observer_raises(
    handler: ConnectionLifecycleHandler, raised: type[BaseException]
) -> None:
    def broken(event: Any) -> None:
        raise raised

    handler.register_handler(ConnectionLifecycleEvent, broken)
    handler.handle_event(pending())
    assert counts(handler) == (1, 0, 0, 0)
    assert handler.observer_errors == 1


def test_an_interrupt_is_not_an_observers(handler: ConnectionLifecycleHandler) -> None:
    def interrupted(event: Any) -> None:
        raise KeyboardInterrupt

    handler.register_handler(ConnectionLifecycleEvent, interrupted)
    with pytest.raises(KeyboardInterrupt):
        handler.handle_event(pending())
    assert handler.observer_errors == 0


def test_what_a_coroutine_function_raises_ends_no_event_loop(
    handler: ConnectionLifecycleHandler,
) -> None:
    """trio gives up when one of its system tasks raises."""
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
    assert handler.observer_errors == 3  # both of `leaves`, and what came of cancelling the other
    assert handler.events_left_out == 1
    trio.run(main)  # nothing of the former run is left in the way
    assert begun == ["a", "a"]


def test_observers_that_cannot_be_hashed(handler: ConnectionLifecycleHandler) -> None:
    @dataclasses.dataclass
    class Counting:
        seen: int = 0

        def __call__(self, event: Any) -> None:
            self.seen += 1
            raise ZeroDivisionError

    first, second = Counting(), Counting()
    handler.register_handler(ConnectionLifecycleEvent, first)
    unregister = handler.register_handler(ConnectionLifecycleEvent, second)
    handler.handle_event(pending())
    assert (first.seen, second.seen, handler.observer_errors) == (1, 1, 2)
    unregister()  # the second, though they are equal
    handler.handle_event(ConnectionClosedEvent(connection_id="a"))
    assert (first.seen, second.seen) == (2, 1)


def test_one_that_is_registered_twice_is_told_twice(handler: ConnectionLifecycleHandler) -> None:
    told: list[Any] = []
    first, second = (
        handler.register_handler(ConnectionLifecycleEvent, told.append) for _ in range(2))
    handler.notify(pending())
    assert len(told) == 2
    first()
    first()
    handler.notify(pending())
    assert len(told) == 3
    assert handler.event_handlers == {ConnectionLifecycleEvent: [told.append]}
    second()
    assert handler.event_handlers == {}
    assert not handler.wants(ConnectionClosedEvent)


def test_one_that_left_is_told_no_more(handler: ConnectionLifecycleHandler) -> None:
    """Not even of the event at which somebody before it made it leave."""
    told: list[Any] = []
    handler.register_handler(ConnectionLifecycleEvent, lambda event: unregister())
    unregister = handler.register_handler(ConnectionLifecycleEvent, told.append)
    handler.notify(pending())
    assert told == []


def test_an_observer_that_left_is_forgotten(
    handler: ConnectionLifecycleHandler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="rcmgr")  # a record would remember it

    class Broken:
        def __call__(self, event: Any) -> None:
            raise ZeroDivisionError

    observer = Broken()
    seen = weakref.ref(observer)
    unregister = handler.register_handler(ConnectionLifecycleEvent, observer)
    handler.notify(pending())
    unregister()
    del observer, unregister
    gc.collect()
    assert seen() is None


def test_a_function_in_a_thread_may_take_its_time(handler: ConnectionLifecycleHandler) -> None:
    handler.limits = ConnectionLimits()
    told: list[str] = []
    threads: set[int] = set()
    go_on = threading.Event()

    def slow(event: Any) -> None:
        assert go_on.wait(30)
        threads.add(threading.get_ident())
        told.append(event.connection_id)
        if event.connection_id == "1":
            raise ZeroDivisionError

    handler.register_handler(ConnectionLifecycleEvent, slow, in_thread=True)
    names = [str(number) for number in range(1100)]
    for name in names:
        handler.handle_event(pending(name))
    assert counts(handler) == (1100, 0, 0, 0)
    assert told == []
    go_on.set()
    until = time.monotonic() + 30
    while len(told) + handler.events_left_out < len(names):
        assert time.monotonic() < until
        time.sleep(0.001)
    assert told == names[:len(told)]
    assert len(told) in (1024, 1025)  # the first may be under way before the last comes
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert handler.observer_errors == 1


def test_a_thread_ends_when_nothing_waits(handler: ConnectionLifecycleHandler) -> None:
    told = threading.Event()
    unregister = handler.register_handler(
        ConnectionLifecycleEvent, lambda event: told.set(), in_thread=True)
    for _ in range(3):
        handler.notify(pending())
        assert told.wait(30)
        told.clear()
    unregister()
    until = time.monotonic() + 30
    while any(thread.name == "rcmgr observer" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)
    handler.notify(pending())
    assert not told.wait(0.05)


def test_no_thread_can_be_had(
    handler: ConnectionLifecycleHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    handler.register_handler(ConnectionLifecycleEvent, lambda event: told.set(), in_thread=True)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        handler.handle_event(pending())
    assert handler.observer_errors == 1
    handler.handle_event(ConnectionClosedEvent(connection_id="a"))
    assert told.wait(30)


async def test_events_that_wait_for_one_that_is_cancelled(
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
    told: list[Any] = []
    done: asyncio.Event

    async def observer(event: Any) -> None:
        await asyncio.sleep(0)
        told.append(event)
        done.set()

    async def main() -> None:
        nonlocal done
        done = asyncio.Event()
        handler.register_handler(ConnectionLifecycleEvent, observer)
        handler.handle_event(pending())
        await asyncio.wait_for(done.wait(), 30)

    asyncio.run(main())
    assert len(told) == 1


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


def test_a_coroutine_function_runs_in_its_own_threads_loop(
    handler: ConnectionLifecycleHandler,
) -> None:
    handler.limits = ConnectionLimits()
    told: list[tuple[str, int]] = []
    together = threading.Barrier(3)

    async def observer(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        told.append((event.connection_id, threading.get_ident()))

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
    assert len(told) == 300
    assert len({(name.split()[0], thread) for name, thread in told}) == 3


def test_threads_register_and_tell(handler: ConnectionLifecycleHandler) -> None:
    """None that registers is lost, none that leaves comes back, and no error is not counted."""
    handler.limits = ConnectionLimits()
    told: list[Any] = []
    together = threading.Barrier(4)
    handler.register_handler(ConnectionLifecycleEvent, told.append)
    kept: list[Any] = []

    def broken(event: Any) -> None:
        raise ZeroDivisionError

    handler.register_handler(ConnectionClosedEvent, broken)

    def work(number: int) -> None:
        together.wait()
        for i in range(500):
            unregister = handler.register_handler(ConnectionClosedEvent, lambda event: None)
            kept.append(handler.register_handler(DialFailedEvent, lambda event: None))
            name = f"{number} {i}"
            handler.handle_event(pending(name))
            handler.handle_event(ConnectionClosedEvent(connection_id=name))
            unregister()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(told) == 4000
    assert counts(handler) == (0, 0, 0, 0)
    assert handler.observer_errors == 2000
    assert len(handler.event_handlers[DialFailedEvent]) == 2000
    assert handler.event_handlers[ConnectionClosedEvent] == [broken]
    for unregister in kept:
        unregister()
    assert DialFailedEvent not in handler.event_handlers
