"""Register observers, and notify them."""

from __future__ import annotations

import dataclasses
import gc
import logging
import weakref
from typing import Any

import pytest
from connection_events import counts, established, pending
from threads import in_threads, rounds

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimits,
    DialFailedEvent,
)
from rcmgr.events.observers import Observers


def test_an_observer_of_a_base_class_receives_all_subclasses(
    handler: ConnectionLifecycleHandler,
) -> None:
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


def test_an_event_is_wanted_if_its_type_or_a_base_is_observed(
    handler: ConnectionLifecycleHandler,
) -> None:
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
def test_wrong_arguments_cannot_be_registered(
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


def test_an_observer_may_unregister_while_it_runs(handler: ConnectionLifecycleHandler) -> None:
    received: list[str] = []

    def once(event: Any) -> None:
        received.append("once")
        unregister()

    unregister = handler.register_handler(ConnectionLifecycleEvent, once)
    handler.register_handler(ConnectionLifecycleEvent, lambda event: received.append("always"))
    handler.handle_event(pending())
    handler.handle_event(ConnectionClosedEvent(connection_id="a"))
    assert received == ["once", "always", "always"]


def test_equal_observers_that_cannot_be_hashed(handler: ConnectionLifecycleHandler) -> None:
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
    unregister()  # the second one, although both are equal
    handler.handle_event(ConnectionClosedEvent(connection_id="a"))
    assert (first.seen, second.seen) == (2, 1)


def test_an_observer_registered_twice_runs_twice(handler: ConnectionLifecycleHandler) -> None:
    received: list[Any] = []
    first, second = (
        handler.register_handler(ConnectionLifecycleEvent, received.append) for _ in range(2))
    handler.notify(pending())
    assert len(received) == 2
    first()
    first()
    handler.notify(pending())
    assert len(received) == 3
    assert handler.event_handlers == {ConnectionLifecycleEvent: [received.append]}
    second()
    assert handler.event_handlers == {}
    assert not handler.wants(ConnectionClosedEvent)


def test_an_observer_that_an_earlier_one_unregisters_does_not_run(
    handler: ConnectionLifecycleHandler,
) -> None:
    received: list[Any] = []
    handler.register_handler(ConnectionLifecycleEvent, lambda event: unregister())
    unregister = handler.register_handler(ConnectionLifecycleEvent, received.append)
    handler.notify(pending())
    assert received == []


def test_an_unregistered_observer_is_garbage(
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


def test_threads_register_and_notify(handler: ConnectionLifecycleHandler) -> None:
    """All registrations hold, no unregistered observer returns, and all errors are counted."""
    handler.limits = ConnectionLimits()
    received: list[Any] = []
    turns = rounds(500)
    handler.register_handler(ConnectionLifecycleEvent, received.append)
    kept: list[Any] = []

    def broken(event: Any) -> None:
        raise ZeroDivisionError

    handler.register_handler(ConnectionClosedEvent, broken)

    def work(number: int) -> None:
        for i in range(turns):
            unregister = handler.register_handler(ConnectionClosedEvent, lambda event: None)
            kept.append(handler.register_handler(DialFailedEvent, lambda event: None))
            name = f"{number} {i}"
            handler.handle_event(pending(name))
            handler.handle_event(ConnectionClosedEvent(connection_id=name))
            unregister()

    in_threads(work, 4)
    assert len(received) == 8 * turns
    assert counts(handler) == (0, 0, 0, 0)
    assert handler.observer_errors == 4 * turns
    assert len(handler.event_handlers[DialFailedEvent]) == 4 * turns
    assert handler.event_handlers[ConnectionClosedEvent] == [broken]
    for unregister in kept:
        unregister()
    assert DialFailedEvent not in handler.event_handlers


def test_a_watcher_is_called_at_each_change_until_it_ends() -> None:
    observers, calls = Observers(), []
    stop = observers.watch(lambda: calls.append(observers.wants(ConnectionClosedEvent)))
    unregister = observers.register_handler(ConnectionClosedEvent, print)
    unregister()
    stop()
    observers.register_handler(ConnectionClosedEvent, print)
    assert calls == [False, True, False]


def test_a_watcher_that_raises_at_once_is_removed() -> None:
    observers = Observers()

    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        observers.watch(fails)
    observers.register_handler(ConnectionClosedEvent, print)
