"""Tells whoever wants to know what happens to connections."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from rcmgr.admission.lifecycle import ConnectionLifecycleManager
from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.errors import ResourceLimitExceeded
from rcmgr.events.kinds import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.events.observers import Observer, ObserverCounts
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.limits.states import ConnectionLimits

__all__ = ["ConnectionLifecycleHandler"]


class _Done:
    """The answer of `handle_event`, for callers that await it: it is done already."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_DONE = _Done()


class ConnectionLifecycleHandler:
    """Admits connections as events tell of them, and tells observers.

    tracker, limits, memory_limits: as for `ConnectionLifecycleManager`, which decides. In a host,
    where a `ResourceManager` decides, `rcmgr.libp2p.observe` only uses `notify`.

    Observers come after the decision: whatever they do, it stands, and nothing leaks. What one
    raises is logged once for each, and counted in `observer_errors`. Each is told of one event
    after the other, in the order of the events:

    * a function at once, in the caller's thread, and so it should be brief;
    * a coroutine function in a task of trio or asyncio, which ends with their run;
    * a function registered with `in_thread` in a thread of its own: it may take its time.

    Of those that are slow or hang, 1,024 events wait for each; what comes more is left out and
    counted in `events_left_out`. Thread safe.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        limits: ConnectionLimits,
        memory_limits: MemoryConnectionLimits | None = None,
    ) -> None:
        self._lifecycle = ConnectionLifecycleManager(tracker, limits, memory_limits)
        self._observers: dict[type, tuple[Observer, ...]] = {}
        self._counts = ObserverCounts()
        self._watching: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()

    @property
    def tracker(self) -> ConnectionTracker:
        return self._lifecycle.tracker

    @property
    def limits(self) -> ConnectionLimits:
        """May be set; holds for new connections."""
        return self._lifecycle.limits

    @limits.setter
    def limits(self, limits: ConnectionLimits) -> None:
        self._lifecycle.limits = limits

    @property
    def memory_limits(self) -> MemoryConnectionLimits | None:
        """May be set; None: no limit."""
        return self._lifecycle.memory_limits

    @memory_limits.setter
    def memory_limits(self, limits: MemoryConnectionLimits | None) -> None:
        self._lifecycle.memory_limits = limits

    # -- observers -----------------------------------------------------------------------------

    @property
    def event_handlers(self) -> dict[type, list[Callable[[Any], Any]]]:
        """Who is registered for what, now."""
        return {
            kind: [observer.handler for observer in observers]
            for kind, observers in self._observers.items()
        }

    @property
    def observer_errors(self) -> int:
        """How often an observer raised."""
        return self._counts.errors

    @property
    def events_left_out(self) -> int:
        """How many events an observer was not told of, since too many waited for it."""
        return self._counts.left_out

    def register_handler(
        self, event_type: type, handler: Callable[[Any], Any], *, in_thread: bool = False
    ) -> Callable[[], None]:
        """From now on, call `handler(event)` for events of this type and of its subclasses.

        in_thread: in a thread of its own, so that a function may block.
        Returns a function that ends it; what waits then is not told any more. TypeError: not such a
        type, nothing to call, or a coroutine function that should run in a thread.
        """
        if not (inspect.isclass(event_type) and issubclass(event_type, ConnectionLifecycleEvent)):
            raise TypeError(f"event_type must be a ConnectionLifecycleEvent class: {event_type!r}")
        if not callable(handler):
            raise TypeError(f"handler must be a function or a coroutine function: {handler!r}")
        if in_thread and inspect.iscoroutinefunction(handler):
            raise TypeError(f"handler must be a function to run in a thread: {handler!r}")
        observer = Observer(handler, self._counts, in_thread=in_thread)
        with self._lock:
            observers = self._observers.get(event_type, ())
            self._observers = {**self._observers, event_type: (*observers, observer)}
        self._changed()

        def unregister() -> None:
            observer.leave()
            with self._lock:
                left = tuple(
                    each for each in self._observers.get(event_type, ()) if each is not observer)
                others = {
                    kind: each for kind, each in self._observers.items() if kind is not event_type}
                # one that nobody observes has no entries, and costs nothing
                self._observers = {**others, event_type: left} if left else others
            self._changed()

        return unregister

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed()` now, and whenever somebody registered or left, until what this returns
        is called. For those who notify, and spend nothing on events that nobody wants.
        """

        def watch_no_more() -> None:
            with self._lock:
                self._watching = tuple(each for each in self._watching if each is not changed)

        with self._lock:
            self._watching = (*self._watching, changed)
        try:
            changed()
        except BaseException:
            watch_no_more()
            raise
        return watch_no_more

    def _changed(self) -> None:
        for changed in self._watching:
            changed()

    def wants(self, event_type: type) -> bool:
        """Whether somebody is told of such an event: if not, it need not be made."""
        observers = self._observers
        return bool(observers) and any(kind in observers for kind in event_type.__mro__)

    def notify(self, event: ConnectionLifecycleEvent) -> None:
        """Tell the observers, and decide nothing. Never raises for what they do."""
        observers = self._observers
        if not observers:
            return
        for kind in type(event).__mro__:
            for observer in observers.get(kind, ()):
                observer.tell(event)

    # -- admission -----------------------------------------------------------------------------

    def handle_event(self, event: ConnectionLifecycleEvent) -> _Done:
        """Do what the event asks of the limits, then tell the observers. May be awaited.

        A pending or established connection is admitted, and one that ended or failed given back,
        when this returns. ResourceLimitExceeded: it was refused; then the observers are told of a
        ConnectionDeniedEvent instead. TypeError: not an event.
        """
        if not isinstance(event, ConnectionLifecycleEvent):
            raise TypeError(f"event must be a ConnectionLifecycleEvent, not {event!r}")
        try:
            self._admit(event)
        except ResourceLimitExceeded as error:
            self._denied(event, error)
            raise
        if self._observers:
            self.notify(event)
        return _DONE

    def _admit(self, event: ConnectionLifecycleEvent) -> None:
        if isinstance(event, PendingInboundConnectionEvent):
            self._handle_pending_inbound(event)
        elif isinstance(event, EstablishedInboundConnectionEvent):
            self._handle_established_inbound(event)
        elif isinstance(event, PendingOutboundConnectionEvent):
            self._handle_pending_outbound(event)
        elif isinstance(event, EstablishedOutboundConnectionEvent):
            self._handle_established_outbound(event)
        elif isinstance(event, ConnectionClosedEvent):
            self._handle_connection_closed(event)
        elif isinstance(event, DialFailedEvent | ListenFailedEvent):
            _finish(self._lifecycle.handle_dial_failure(event.connection_id, event.peer_id))

    def _handle_pending_inbound(self, event: PendingInboundConnectionEvent) -> None:
        _finish(self._lifecycle.handle_pending_inbound_connection(
            event.connection_id, event.local_addr, event.remote_addr))

    def _handle_established_inbound(self, event: EstablishedInboundConnectionEvent) -> None:
        _finish(self._lifecycle.handle_established_inbound_connection(
            event.connection_id, event.peer_id, event.local_addr, event.remote_addr))

    def _handle_pending_outbound(self, event: PendingOutboundConnectionEvent) -> None:
        _finish(self._lifecycle.handle_pending_outbound_connection(
            event.connection_id, event.peer_id, event.addresses, event.endpoint))

    def _handle_established_outbound(self, event: EstablishedOutboundConnectionEvent) -> None:
        _finish(self._lifecycle.handle_established_outbound_connection(
            event.connection_id, event.peer_id, event.local_addr, event.endpoint))

    def _handle_connection_closed(self, event: ConnectionClosedEvent) -> None:
        self._lifecycle.notify_connection_closed(event.connection_id, event.peer_id)

    def _denied(self, event: ConnectionLifecycleEvent, error: ResourceLimitExceeded) -> None:
        if not self.wants(ConnectionDeniedEvent):
            return
        inbound = isinstance(
            event, PendingInboundConnectionEvent | EstablishedInboundConnectionEvent)
        addresses = getattr(event, "addresses", None)
        self.notify(ConnectionDeniedEvent(
            connection_id=event.connection_id,
            peer_id=event.peer_id,
            error=error,
            endpoint=Endpoint.LISTENER if inbound else Endpoint.DIALER,
            local_addr=getattr(event, "local_addr", None),
            remote_addr=addresses[0] if addresses else getattr(event, "remote_addr", None),
        ))


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """The lifecycle's coroutines never suspend."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError(f"{work!r} suspended")
