"""The events of a connection."""

from __future__ import annotations

import dataclasses
import time

import pytest

from rcmgr import (
    ConnectionClosedEvent,
    Endpoint,
    PendingOutboundConnectionEvent,
)


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
