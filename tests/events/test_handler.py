"""Admit connections as events report them."""

from __future__ import annotations

from typing import Any

import pytest
from connection_events import PEER, counts, established, pending

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimitExceeded,
    ConnectionLimits,
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


async def test_an_event_is_handled_when_the_call_returns(
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


def test_a_denial_raises_and_notifies(handler: ConnectionLifecycleHandler) -> None:
    received: list[Any] = []
    handler.register_handler(ConnectionLifecycleEvent, received.append)
    handler.handle_event(established())
    with pytest.raises(ConnectionLimitExceeded) as caught:
        handler.handle_event(established("b"))
    assert counts(handler) == (0, 0, 1, 0)
    (first, denied) = received
    assert isinstance(first, EstablishedInboundConnectionEvent)
    assert isinstance(denied, ConnectionDeniedEvent)
    assert (denied.connection_id, denied.peer_id, denied.endpoint) == (
        "b", PEER, Endpoint.LISTENER)
    assert denied.error is caught.value
    with pytest.raises(ConnectionLimitExceeded):
        handler.handle_event(
            EstablishedOutboundConnectionEvent(connection_id="c", peer_id=PEER))
    assert received[-1].endpoint is Endpoint.DIALER


def test_limits_and_memory_limits_may_be_set(handler: ConnectionLifecycleHandler) -> None:
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
def test_anything_else_than_an_event_is_a_type_error(
    handler: ConnectionLifecycleHandler, wrong: Any
) -> None:
    with pytest.raises(TypeError, match="must be a ConnectionLifecycleEvent"):
        handler.handle_event(wrong)


def test_a_denied_event_has_both_addresses(handler: ConnectionLifecycleHandler) -> None:
    received: list[Any] = []
    handler.register_handler(ConnectionDeniedEvent, received.append)
    handler.limits = ConnectionLimits(max_pending_inbound=0, max_pending_outbound=0)
    for event in (
        PendingInboundConnectionEvent(connection_id="a", local_addr="here", remote_addr="there"),
        PendingOutboundConnectionEvent(connection_id="b", addresses=["there", "elsewhere"]),
        PendingOutboundConnectionEvent(connection_id="c"),
    ):
        with pytest.raises(ConnectionLimitExceeded):
            handler.handle_event(event)
    assert [(each.local_addr, each.remote_addr) for each in received] == [
        ("here", "there"), (None, "there"), (None, None)]


def test_without_observers_no_denied_event_is_made(
    handler: ConnectionLifecycleHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: Any, **__: Any) -> None:
        raise AssertionError("an event was made")

    event = pending()
    handler.handle_event(event)
    monkeypatch.setattr(ConnectionDeniedEvent, "__init__", made)
    with pytest.raises(ConnectionLimitExceeded):
        handler.handle_event(pending("b"))


def test_an_observer_may_handle_events_itself(handler: ConnectionLifecycleHandler) -> None:
    """It admits another connection and closes its own, while `handle_event` runs."""

    def again(event: Any) -> None:
        if event.connection_id == "a":
            handler.handle_event(ConnectionClosedEvent(connection_id="a"))
            handler.handle_event(pending("b"))

    handler.register_handler(PendingInboundConnectionEvent, again)
    handler.handle_event(pending("a"))
    assert counts(handler) == (1, 0, 0, 0)
    assert "b" in handler.tracker
    assert handler.observer_errors == 0


def test_a_handler_without_arguments_counts_and_limits_nothing() -> None:
    handler = ConnectionLifecycleHandler()
    for number in range(100):
        handler.handle_event(pending(str(number)))
    assert counts(handler) == (100, 0, 0, 0)
    assert handler.limits == ConnectionLimits()
    assert handler.memory_limits is None
