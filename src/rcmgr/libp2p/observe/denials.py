"""Learn which connections the resource manager denies, and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from rcmgr.admission.host_closer import was_evicted
from rcmgr.errors import ConnectionEvicted, ResourceLimitExceeded, printable
from rcmgr.events.kinds import (
    ConnectionDeniedEvent,
    ConnectionWouldBeDeniedEvent,
    DialFailedEvent,
    Endpoint,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.libp2p.guard.accept_gate import AcceptGate
from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.hooks import Hook, Undo, place_all
from rcmgr.libp2p.observe.connection_report import ConnectionReport, Reporter
from rcmgr.libp2p.observe.failure_reasons import chain_of, why_failed
from rcmgr.libp2p.observe.socket_addresses import addresses_of_socket

__all__ = ["Denials"]

_MOST_CHARACTERS = 500
# events that depend on the answers of the manager
_BY_MANAGER = (
    PendingInboundConnectionEvent, PendingOutboundConnectionEvent, ConnectionDeniedEvent,
    ConnectionWouldBeDeniedEvent, DialFailedEvent, ListenFailedEvent,
)


class Denials:
    """Gives each report the manager's answer about its connection, until `undo`.

    The swarm asks the manager about a connection over TCP or WebSocket before its handshake, and
    about every connection after it. A hardened host asks about TCP as soon as it accepts the
    socket.
    """

    def __init__(self, reporter: Reporter) -> None:
        from libp2p.rcmgr.exceptions import ResourceLimitExceeded as StockResourceLimitExceeded

        self._denials = (ResourceLimitExceeded, StockResourceLimitExceeded)
        self._reporter = reporter
        self._manager = manager_of(reporter.swarm)
        self.has_manager = self._manager is not None
        self._hook: Hook | None = None
        self._lock = threading.Lock()
        self.undo = place_all(self._placing())

    def _placing(self) -> Iterator[Undo]:
        yield Hook(AcceptGate, "refuse", self._refuse).undo
        yield self._unhook
        yield self._reporter.observers.watch(self._hook_while_wanted)

    def report_failure(self, report: ConnectionReport, error: BaseException) -> None:
        """Report a connection that ended with this error: as denied, or else as failed."""
        denial = report.denial or next(
            (each for each in chain_of(error) if isinstance(each, self._denials)), None)
        if was_evicted(report.connection):
            denial = ConnectionEvicted("pending_inbound")
        if report.was_denied or denial is not None:
            report.denied(denial)
            return
        reason = why_failed(error, "handshake failed" if report.inbound else "failed")
        text = f"{type(error).__name__}: {error}"[:_MOST_CHARACTERS]
        report.failed(reason, printable(text)[:_MOST_CHARACTERS])

    def _hook_while_wanted(self) -> None:
        """Swarms ask often. Hook the manager only while an observer wants events that need it."""
        with self._lock:
            wanted = any(map(self._reporter.wants, _BY_MANAGER))
            if wanted and self._hook is None and self.has_manager:
                self._hook = Hook(self._manager, "open_connection", self._open_connection)
        if not wanted:
            self._unhook()

    def _unhook(self) -> None:
        with self._lock:
            hook, self._hook = self._hook, None
        if hook is not None:
            hook.undo()

    def _open_connection(
        self, original: Callable[..., Any], peer_id: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """The swarm's question to the manager, before a handshake and after it."""
        report = self._reporter.current
        if report is None:
            return original(peer_id, *args, **kwargs)
        before = self._count()
        scope = original(peer_id, *args, **kwargs)
        if scope is None:
            report.was_denied = True
            if self._count() != before and self._reporter.wants(ConnectionDeniedEvent):
                report.denial = self._manager.last_denial
        elif peer_id is None:
            report.pending()
        if scope is not None:
            self._report_dry_run(report, scope)
        return scope

    def _count(self) -> int:
        """How many denials the manager has logged. A closed manager and py-libp2p's log none."""
        log = getattr(self._manager, "denials", None)
        return 0 if log is None else log.total

    def _report_dry_run(self, report: ConnectionReport, scope: Any) -> None:
        log = getattr(self._manager, "would_deny", None)
        if log is not None and log.total and self._reporter.wants(ConnectionWouldBeDeniedEvent):
            # an accept gate may have asked before this report began
            report.would_be_denied(log.of_connection(scope.connection_id))

    def _refuse(
        self, original: Callable[..., None], gate: AcceptGate, socket: Any, by_manager: bool
    ) -> None:
        """The refusal of a hardened host, which closes the socket at once."""
        kind = ConnectionDeniedEvent if by_manager else ListenFailedEvent
        if gate.swarm is self._reporter.swarm and self._reporter.wants(kind):
            report = ConnectionReport(
                self._reporter, Endpoint.LISTENER, sockets=addresses_of_socket(socket))
            if by_manager:
                manager = manager_of(gate.swarm)
                report.denied(None if manager.closed else manager.last_denial)
            else:
                report.failed("refused by the swarm")
        original(gate, socket, by_manager)
