"""Admit connections as events report them, and notify observers."""

from __future__ import annotations

from collections.abc import Generator
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
from rcmgr.events.observers import Observers
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.limits.states import ConnectionLimits

__all__ = ["ConnectionLifecycleHandler"]


class _Done:
    """The answer of `handle_event`, for callers that await it."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_DONE = _Done()


class ConnectionLifecycleHandler(Observers):
    """Admits connections as events report them, and notifies observers.

    In a host, a `ResourceManager` decides and `rcmgr.libp2p.observe` only notifies: leave out all
    arguments.

    tracker, limits, memory_limits: for `handle_event`, as `ConnectionLifecycleManager` takes them;
        default: a new tracker and no limits.
    """

    def __init__(
        self,
        tracker: ConnectionTracker | None = None,
        limits: ConnectionLimits | None = None,
        memory_limits: MemoryConnectionLimits | None = None,
    ) -> None:
        super().__init__()
        self._lifecycle = ConnectionLifecycleManager(
            ConnectionTracker() if tracker is None else tracker,
            ConnectionLimits() if limits is None else limits,
            memory_limits,
        )

    @property
    def tracker(self) -> ConnectionTracker:
        return self._lifecycle.tracker

    @property
    def limits(self) -> ConnectionLimits:
        """May be set. New limits apply to new connections."""
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

    def handle_event(self, event: ConnectionLifecycleEvent) -> _Done:
        """Apply the limits to the event, then notify the observers. May be awaited.

        When this returns, it has admitted a pending or established connection, or given back one
        that closed or failed. ResourceLimitExceeded: the connection is denied, and observers
        receive a ConnectionDeniedEvent instead. TypeError: this is no event.
        """
        if not isinstance(event, ConnectionLifecycleEvent):
            raise TypeError(f"event must be a ConnectionLifecycleEvent, not {event!r}")
        try:
            self._admit(event)
        except ResourceLimitExceeded as error:
            self._notify_denied(event, error)
            raise
        if self._observers:
            self.notify(event)
        return _DONE

    def _admit(self, event: ConnectionLifecycleEvent) -> None:
        lifecycle, connection_id, peer_id = self._lifecycle, event.connection_id, event.peer_id
        if isinstance(event, PendingInboundConnectionEvent):
            step = lifecycle.handle_pending_inbound_connection(connection_id)
        elif isinstance(event, EstablishedInboundConnectionEvent):
            step = lifecycle.handle_established_inbound_connection(connection_id, peer_id)
        elif isinstance(event, PendingOutboundConnectionEvent):
            step = lifecycle.handle_pending_outbound_connection(connection_id, peer_id)
        elif isinstance(event, EstablishedOutboundConnectionEvent):
            step = lifecycle.handle_established_outbound_connection(connection_id, peer_id)
        elif isinstance(event, ConnectionClosedEvent):
            step = lifecycle.handle_connection_closed(connection_id, peer_id)
        elif isinstance(event, DialFailedEvent | ListenFailedEvent):
            step = lifecycle.handle_dial_failure(connection_id, peer_id)
        else:
            return
        for _ in step.__await__():  # this runs it to its end, because it never suspends
            raise RuntimeError(f"{step!r} suspended")

    def _notify_denied(self, event: ConnectionLifecycleEvent, error: ResourceLimitExceeded) -> None:
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
