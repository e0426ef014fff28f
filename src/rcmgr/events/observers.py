"""Register observers for types of events, and notify them."""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from rcmgr.events.delivery import Observer
from rcmgr.events.kinds import ConnectionLifecycleEvent

__all__ = ["Observers"]


class Observers:
    """The observers of connection events, by type of event. Thread safe.

    Observers run after the decision: nothing they do changes it, and no count is lost. The first
    exception of each observer is logged, and all are counted in `observer_errors`. Each observer
    receives its events in order:

    * a function in the caller's thread, before the call returns, so it should be brief;
    * a coroutine function in a task of trio or asyncio, which ends with their run;
    * a function registered with `in_thread` in a separate thread, where it may block.

    Up to 1,024 events wait for a slow observer. Further events are left out and counted in
    `events_left_out`.
    """

    def __init__(self) -> None:
        self._observers: dict[type, tuple[Observer, ...]] = {}
        self._counts: Counter[str] = Counter()
        self._watchers: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()

    @property
    def event_handlers(self) -> dict[type, list[Callable[[Any], Any]]]:
        """The registered functions, by type of event."""
        return {
            kind: [observer.handler for observer in observers]
            for kind, observers in self._observers.items()
        }

    @property
    def observer_errors(self) -> int:
        """How often an observer raised."""
        return self._counts["error"]

    @property
    def events_left_out(self) -> int:
        """How many events an observer did not receive, because too many were waiting."""
        return self._counts["left out"]

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def register_handler(
        self, event_type: type, handler: Callable[[Any], Any], *, in_thread: bool = False
    ) -> Callable[[], None]:
        """Call `handler(event)` for each event of this type and of its subclasses.

        in_thread: call it in a separate thread, where it may block.

        The result is a function that ends it; events that wait are then dropped. TypeError: this is
        no type of event, no function, or a coroutine function to run in a thread.
        """
        if not (inspect.isclass(event_type) and issubclass(event_type, ConnectionLifecycleEvent)):
            raise TypeError(f"event_type must be a ConnectionLifecycleEvent class: {event_type!r}")
        if not callable(handler):
            raise TypeError(f"handler must be a function or a coroutine function: {handler!r}")
        if in_thread and inspect.iscoroutinefunction(handler):
            raise TypeError(f"handler must be a function to run in a thread: {handler!r}")
        observer = Observer(handler, self._count, in_thread=in_thread)
        self._change(event_type, lambda observers: (*observers, observer))

        def unregister() -> None:
            observer.stop()
            self._change(event_type, lambda observers: tuple(
                each for each in observers if each is not observer))

        return unregister

    def _change(
        self, event_type: type,
        change: Callable[[tuple[Observer, ...]], tuple[Observer, ...]],
    ) -> None:
        with self._lock:
            observers = self._observers.copy()  # `notify` may read the old ones
            changed = change(observers.pop(event_type, ()))
            if changed:  # a type without observers has no entry, so that `wants` stays cheap
                observers[event_type] = changed
            self._observers = observers
        for watcher in self._watchers:
            watcher()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed()` now and whenever an observer is registered or unregistered.

        A source of events can then skip the events that no observer wants. The result is a function
        that ends it.
        """

        def stop_watching() -> None:
            with self._lock:
                self._watchers = tuple(each for each in self._watchers if each is not changed)

        with self._lock:
            self._watchers = (*self._watchers, changed)
        try:
            changed()
        except BaseException:
            stop_watching()
            raise
        return stop_watching

    def wants(self, event_type: type) -> bool:
        """Whether an observer receives events of this type. If not, the event need not be made."""
        observers = self._observers
        return bool(observers) and any(kind in observers for kind in event_type.__mro__)

    def notify(self, event: ConnectionLifecycleEvent) -> None:
        """Deliver the event to its observers, and decide nothing."""
        observers = self._observers
        if not observers:
            return
        for kind in type(event).__mro__:
            for observer in observers.get(kind, ()):
                observer.notify(event)
