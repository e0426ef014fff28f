"""Tells whoever wants to know what happens to connections."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from rcmgr.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.connection_limits import ConnectionLimits
from rcmgr.connection_tracker import ConnectionTracker
from rcmgr.errors import ResourceLimitExceeded
from rcmgr.lifecycle_events import (
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
from rcmgr.memory_limits import MemoryConnectionLimits

__all__ = ["ConnectionLifecycleHandler"]

Observer = Callable[[Any], Any]
_MOST_AT_WORK = 64

logger = logging.getLogger(__name__)
_asyncio_tasks: set[asyncio.Task[None]] = set()


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
    raises is logged once for each observer, and counted in `observer_errors`. A function is called
    at once, in the caller's thread, and so should be brief. A coroutine function runs in a task of
    its own, in trio or asyncio; of one that hangs, 64 runs are waited for, more are left out and
    counted in `events_left_out`. Thread safe.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        limits: ConnectionLimits,
        memory_limits: MemoryConnectionLimits | None = None,
    ) -> None:
        self._lifecycle = ConnectionLifecycleManager(tracker, limits, memory_limits)
        self.event_handlers: dict[type, tuple[Observer, ...]] = {}
        self.observer_errors = 0
        self.events_left_out = 0
        self._reported: set[Observer] = set()
        self._at_work: dict[Observer, int] = {}

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

    def register_handler(self, event_type: type, handler: Observer) -> Callable[[], None]:
        """From now on, call `handler(event)` for events of this type and of its subclasses.

        Returns a function that ends it. TypeError: not such a type, or nothing to call.
        """
        if not (inspect.isclass(event_type) and issubclass(event_type, ConnectionLifecycleEvent)):
            raise TypeError(f"event_type must be a ConnectionLifecycleEvent class: {event_type!r}")
        if not callable(handler):
            raise TypeError(f"handler must be a function or a coroutine function: {handler!r}")
        handlers = self.event_handlers
        handlers[event_type] = (*handlers.get(event_type, ()), handler)

        def unregister() -> None:
            left = list(handlers.get(event_type, ()))
            if handler in left:
                left.remove(handler)
            handlers[event_type] = tuple(left)

        return unregister

    def wants(self, event_type: type) -> bool:
        """Whether somebody is told of such an event: if not, it need not be made."""
        return any(self.event_handlers.get(kind) for kind in event_type.__mro__)

    def notify(self, event: ConnectionLifecycleEvent) -> None:
        """Tell the observers, and decide nothing. Never raises for what they do."""
        for kind in type(event).__mro__:
            for observer in self.event_handlers.get(kind, ()):
                self._tell(observer, event)

    def _tell(self, observer: Observer, event: ConnectionLifecycleEvent) -> None:
        try:
            if self._at_work.get(observer, 0) >= _MOST_AT_WORK:
                self.events_left_out += 1
                return
            result = observer(event)
            if inspect.iscoroutine(result):
                self._run(observer, result)
        except Exception as error:  # noqa: BLE001 (an observer's; whatever it is, it is reported)
            self._failed(observer, error)

    def _run(self, observer: Observer, work: Coroutine[Any, Any, Any]) -> None:
        async def run() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 (as above)
                self._failed(observer, error)
            finally:
                self._at_work[observer] -= 1

        self._at_work[observer] = self._at_work.get(observer, 0) + 1
        try:
            _start(run())
        except BaseException:
            self._at_work[observer] -= 1
            work.close()
            raise

    def _failed(self, observer: Observer, error: Exception) -> None:
        self.observer_errors += 1
        if observer not in self._reported:
            self._reported.add(observer)
            logger.error(
                "an observer of connections failed; from now on this is only counted: %r",
                observer, exc_info=error,
            )

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
            if self.wants(ConnectionDeniedEvent):
                inbound = isinstance(
                    event, PendingInboundConnectionEvent | EstablishedInboundConnectionEvent)
                self.notify(ConnectionDeniedEvent(
                    connection_id=event.connection_id,
                    peer_id=event.peer_id,
                    error=error,
                    endpoint=Endpoint.LISTENER if inbound else Endpoint.DIALER,
                ))
            raise
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


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """The lifecycle's coroutines never suspend."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError(f"{work!r} suspended")


def _start(work: Coroutine[Any, Any, None]) -> None:
    """In a task of the event loop of this thread. RuntimeError: it has none."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():

        async def run() -> None:
            await work

        trio.lowlevel.spawn_system_task(run)
        return
    try:
        task = asyncio.get_running_loop().create_task(work)
    except RuntimeError:
        work.close()
        raise RuntimeError(
            "an observer that is a coroutine function needs trio or asyncio") from None
    _asyncio_tasks.add(task)  # asyncio itself keeps no reference
    task.add_done_callback(_asyncio_tasks.discard)
