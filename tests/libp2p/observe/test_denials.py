"""Learn what the manager denies, and why."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from libp2p.rcmgr.exceptions import ResourceLimitExceeded as StockResourceLimitExceeded

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLimits,
    DialFailedEvent,
    Endpoint,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    ResourceManager,
)
from rcmgr.events.observers import Observers
from rcmgr.libp2p.guard.accept_gate import AcceptGate
from rcmgr.libp2p.observe.connection_report import ConnectionReport, Reporter
from rcmgr.libp2p.observe.denials import Denials


class Observed:
    """A swarm with a manager, observed."""

    def __init__(self, **limits: int) -> None:
        self.manager = ResourceManager(connection_limits=ConnectionLimits(**limits))
        self.swarm: Any = SimpleNamespace(_resource_manager=self.manager, _manager=None)
        self.reporter = Reporter(self.swarm, Observers())
        self.denials = Denials(self.reporter)
        self.events: list[Any] = []

    def observe(self, kind: type = ConnectionLifecycleEvent) -> Callable[[], None]:
        return self.reporter.observers.register_handler(kind, self.events.append)

    def report(self, endpoint: Endpoint = Endpoint.LISTENER) -> ConnectionReport:
        return ConnectionReport(self.reporter, endpoint)


def is_hooked(manager: ResourceManager) -> bool:
    return "open_connection" in vars(manager)


@pytest.mark.parametrize("kind", [
    PendingInboundConnectionEvent, ConnectionDeniedEvent, DialFailedEvent, ListenFailedEvent])
def test_the_manager_is_hooked_while_an_event_needs_its_answers(kind: type) -> None:
    observed = Observed()
    observed.observe(ConnectionClosedEvent)
    assert not is_hooked(observed.manager)
    unregister = observed.observe(kind)
    assert is_hooked(observed.manager)
    unregister()
    assert not is_hooked(observed.manager)
    observed.observe(kind)
    observed.denials.undo()
    assert not is_hooked(observed.manager)
    observed.reporter.active = False
    observed.observe(kind)
    assert not is_hooked(observed.manager)


def test_an_admitted_connection_is_pending() -> None:
    observed = Observed()
    observed.observe()
    report = observed.report()
    with observed.reporter.working_on(report):
        assert observed.manager.open_connection(None) is not None
        assert observed.manager.open_connection(b"peer") is not None
    (event,) = observed.events
    assert isinstance(event, PendingInboundConnectionEvent)
    assert not report.was_denied


def test_a_denied_connection_has_the_managers_reason() -> None:
    observed = Observed(max_pending_inbound=0)
    observed.observe()
    report = observed.report()
    with observed.reporter.working_on(report):
        assert observed.manager.open_connection(None) is None
    assert not observed.manager.acquire_memory(1 << 60)  # a later denial is not its reason
    observed.denials.report_failure(report, KeyError("the swarm hangs up"))
    (event,) = observed.events
    assert isinstance(event, ConnectionDeniedEvent)
    assert event.error is not None
    assert event.error.code == "connection.pending_inbound"


def test_a_closed_manager_denies_without_a_reason() -> None:
    observed = Observed(max_pending_inbound=0)
    observed.observe()
    assert observed.manager.open_connection(None) is None
    observed.manager.close()
    report = observed.report()
    with observed.reporter.working_on(report):
        assert observed.manager.open_connection(None) is None
    observed.denials.report_failure(report, KeyError("the swarm hangs up"))
    assert isinstance(observed.events[0], ConnectionDeniedEvent)
    assert observed.events[0].error is None


def test_other_questions_to_the_manager_change_no_report() -> None:
    observed = Observed(max_pending_inbound=0)
    observed.observe()
    assert observed.manager.open_connection(None) is None
    assert observed.events == []


def test_a_denial_in_the_chain_of_an_error_is_the_reason() -> None:
    observed = Observed(max_pending_inbound=0)
    observed.observe()
    assert observed.manager.open_connection(None) is None
    ours, stocks = observed.manager.last_denial, StockResourceLimitExceeded("full")
    for denial, expected in ((ours, ours), (stocks, None)):
        error = KeyError("the dial failed")
        error.__cause__ = denial
        observed.denials.report_failure(observed.report(Endpoint.DIALER), error)
        assert isinstance(observed.events[-1], ConnectionDeniedEvent)
        assert observed.events[-1].error is expected


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_any_other_error_is_a_failure_with_a_short_printable_text(endpoint: Endpoint) -> None:
    observed = Observed()
    observed.observe()
    observed.denials.report_failure(observed.report(endpoint), ValueError("\x1b[2J" + "x" * 1000))
    (event,) = observed.events
    inbound = endpoint is Endpoint.LISTENER
    assert isinstance(event, ListenFailedEvent if inbound else DialFailedEvent)
    assert event.reason == ("handshake failed" if inbound else "failed")
    assert event.error.startswith("ValueError: \\x1b[2Jxxx")
    assert event.error.isprintable()
    assert len(event.error) <= 500


@pytest.mark.parametrize("by_manager", [True, False])
def test_a_hardened_host_refuses_a_socket(by_manager: bool) -> None:
    observed = Observed(max_pending_inbound=0)
    observed.observe()
    gate: Any = AcceptGate.__new__(AcceptGate)
    gate.swarm = observed.swarm
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        connection, _ = server.accept()
    assert observed.manager.open_connection(None) is None
    gate.refuse(connection, by_manager)
    assert connection.fileno() == -1
    (event,) = observed.events
    assert str(event.remote_addr).endswith(f"/tcp/{client.getsockname()[1]}")
    if by_manager:
        assert isinstance(event, ConnectionDeniedEvent)
        assert event.error is not None
        assert event.error.code == "connection.pending_inbound"
    else:
        assert isinstance(event, ListenFailedEvent)
        assert event.reason == "refused by the swarm"
    observed.denials.undo()
    client.close()
