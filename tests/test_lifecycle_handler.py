"""Events: who is told, what is admitted, and that observers cannot spoil it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
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
    for _ in range(100):
        handler.handle_event(pending())
        handler.handle_event(ConnectionClosedEvent(connection_id="a"))
        await trio.testing.wait_all_tasks_blocked()
    assert begun == 64
    assert handler.events_left_out == 136
    assert handler.observer_errors == 200
    assert counts(handler) == (0, 0, 0, 0)
    assert len(caplog.records) == 1


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


def test_threads_register_and_tell(handler: ConnectionLifecycleHandler) -> None:
    handler.limits = ConnectionLimits()
    told: list[Any] = []
    handler.register_handler(ConnectionLifecycleEvent, told.append)

    def work(number: int) -> None:
        for i in range(500):
            unregister = handler.register_handler(ConnectionClosedEvent, lambda event: None)
            name = f"{number} {i}"
            handler.handle_event(pending(name))
            handler.handle_event(ConnectionClosedEvent(connection_id=name))
            unregister()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 4000
    assert counts(handler) == (0, 0, 0, 0)
    assert handler.observer_errors == 0
