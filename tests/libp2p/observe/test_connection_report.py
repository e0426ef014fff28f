"""The events that one connection makes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.events.observers import Observers
from rcmgr.libp2p.observe.connection_report import ConnectionReport, Reporter

ADDRESSES: Any = SimpleNamespace(local_addr="here", remote_addr="there")
BOTH = pytest.mark.parametrize("endpoint", list(Endpoint))


@pytest.fixture
def reporter() -> Reporter:
    reporter = Reporter(SimpleNamespace(_manager=None), Observers())
    reporter.swarm.events = []
    reporter.observers.register_handler(ConnectionLifecycleEvent, reporter.swarm.events.append)
    return reporter


def report(reporter: Reporter, endpoint: Endpoint) -> ConnectionReport:
    if endpoint is Endpoint.LISTENER:
        return ConnectionReport(reporter, endpoint, sockets=ADDRESSES)
    return ConnectionReport(reporter, endpoint, "peer", dialled="dialled")


@BOTH
def test_pending_established_closed(reporter: Reporter, endpoint: Endpoint) -> None:
    connection = report(reporter, endpoint)
    for _ in range(2):
        connection.pending()
    connection.sockets = ADDRESSES
    connection.established("peer")
    connection.note_close_reason("reset")
    connection.note_close_reason("closed by us")
    for _ in range(2):
        connection.closed()
    connection.failed("too late")
    connection.denied(None)
    pending, established, closed = reporter.swarm.events
    if endpoint is Endpoint.LISTENER:
        assert isinstance(pending, PendingInboundConnectionEvent)
        assert isinstance(established, EstablishedInboundConnectionEvent)
        assert (pending.local_addr, pending.remote_addr) == ("here", "there")
    else:
        assert isinstance(pending, PendingOutboundConnectionEvent)
        assert isinstance(established, EstablishedOutboundConnectionEvent)
        assert pending.addresses == ["dialled"]
    assert (established.local_addr, established.remote_addr) == ("here", "there")
    assert established.peer_id == "peer"
    assert isinstance(closed, ConnectionClosedEvent)
    assert (closed.reason, closed.endpoint) == ("reset", endpoint)
    assert 0 <= closed.duration < 60
    assert len({event.connection_id for event in reporter.swarm.events}) == 1


def test_a_duration_does_not_follow_the_wall_clock(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"wall": 2e9, "monotonic": 1000.0}
    monkeypatch.setattr(time, "time", lambda: now["wall"])
    monkeypatch.setattr(time, "monotonic", lambda: now["monotonic"])
    connection = report(reporter, Endpoint.LISTENER)
    connection.established("peer")
    now["wall"] -= 3600
    now["monotonic"] += 2.5
    connection.closed()
    assert reporter.swarm.events[-1].duration == 2.5


@BOTH
def test_a_denial_ends_the_report(reporter: Reporter, endpoint: Endpoint) -> None:
    denial = ConnectionLimitExceeded(1, 1, ConnectionLimitKind.PENDING_INBOUND, peer_id="peer")
    connection = report(reporter, endpoint)
    for _ in range(2):
        connection.denied(denial)
    connection.failed("too late")
    (event,) = reporter.swarm.events
    assert isinstance(event, ConnectionDeniedEvent)
    assert (event.error, event.endpoint, event.peer_id) == (denial, endpoint, "peer")
    assert event.remote_addr == ("there" if endpoint is Endpoint.LISTENER else "dialled")


def test_the_error_of_another_manager_is_no_reason(reporter: Reporter) -> None:
    report(reporter, Endpoint.LISTENER).denied(ValueError("not ours"))
    assert reporter.swarm.events[0].error is None


@BOTH
def test_a_failure_ends_the_report(reporter: Reporter, endpoint: Endpoint) -> None:
    connection = report(reporter, endpoint)
    connection.failed("timed out", "TimeoutError: no answer")
    connection.failed("too late")
    connection.denied(None)
    (event,) = reporter.swarm.events
    if endpoint is Endpoint.LISTENER:
        assert isinstance(event, ListenFailedEvent)
        assert event.remote_addr == "there"
    else:
        assert isinstance(event, DialFailedEvent)
        assert event.addresses == ["dialled"]
    assert (event.reason, event.error) == ("timed out", "TimeoutError: no answer")


@pytest.mark.parametrize("stopping", [
    {"_closing": True}, {"_manager": SimpleNamespace(is_cancelled=True, is_finished=False)}])
def test_a_stopping_host_is_the_reason_of_its_failures(
    reporter: Reporter, stopping: dict[str, Any]
) -> None:
    vars(reporter.swarm).update(stopping)
    report(reporter, Endpoint.DIALER).failed("timed out")
    assert reporter.swarm.events[0].reason == "host shutdown"


def test_an_inactive_reporter_reports_nothing(reporter: Reporter) -> None:
    reporter.active = False
    connection = report(reporter, Endpoint.LISTENER)
    connection.pending()
    connection.failed("timed out")
    assert reporter.swarm.events == []


def test_hooks_are_removed_at_the_end(reporter: Reporter) -> None:
    undone: list[str] = []
    for end in ("failed", "denied", "closed"):
        connection = report(reporter, Endpoint.LISTENER)
        connection.hooks.callback(undone.append, "undone")
        if end == "closed":
            connection.established("peer")
            assert undone == []
            connection.closed()
        else:
            getattr(connection, end)("a reason")
        assert undone == ["undone"]
        undone.clear()


def test_the_current_connection_of_a_task(reporter: Reporter) -> None:
    outer, inner = (report(reporter, Endpoint.LISTENER) for _ in range(2))
    assert reporter.current is None
    with reporter.working_on(outer):
        with reporter.working_on(inner):
            assert reporter.current is inner
            inner.failed("timed out")
            assert reporter.current is None
        assert reporter.current is outer
    assert reporter.current is None
