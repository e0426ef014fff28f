"""Report one connection to observers: each of its events once, and in order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from rcmgr.errors import ResourceLimitExceeded, shortened
from rcmgr.events.kinds import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionWouldBeDeniedEvent,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.events.observers import Observers
from rcmgr.gates.addresses import LONGEST_ADDRESS
from rcmgr.libp2p.observe.socket_addresses import SocketAddresses
from rcmgr.peers import bounded_peer

__all__ = ["ConnectionReport", "Reporter"]

_BEGUN, _PENDING, _ESTABLISHED, _OVER = range(4)
# one sequence for all hosts, because one handler may observe several
_numbers = itertools.count(1)


class Reporter:
    """Shared by the reports of one host. They report until `active` is False."""

    def __init__(self, swarm: Any, observers: Observers) -> None:
        self.active = True
        self.swarm = swarm
        self.observers = observers
        # a task's children inherit it
        self._current: ContextVar[ConnectionReport | None] = ContextVar(
            "rcmgr_connection", default=None)

    def wants(self, kind: type) -> bool:
        return self.active and self.observers.wants(kind)

    @contextmanager
    def working_on(self, report: ConnectionReport) -> Iterator[None]:
        """Within it, the task dials or accepts this connection."""
        token = self._current.set(report)
        try:
            yield
        finally:
            self._current.reset(token)

    @property
    def current(self) -> ConnectionReport | None:
        """The connection that this task dials or accepts; None: none, or the outcome is known."""
        report = self._current.get()
        return report if report is not None and report.in_progress else None

    @property
    def host_is_stopping(self) -> bool:
        service = getattr(self.swarm, "_manager", None)
        return bool(getattr(self.swarm, "_closing", False)) or (
            service is not None and bool(service.is_cancelled or service.is_finished))


class ConnectionReport:
    """One connection, from its first sign to its end.

    Its attributes have the names of the events' fields: an event is made from them. Each method
    reports one event if the state allows it, and does nothing otherwise.

    sockets: both addresses; None until a dial has its socket. dialled: the address of a dial.
    """

    def __init__(
        self, reporter: Reporter, endpoint: Endpoint, peer_id: Any = None,
        sockets: SocketAddresses | None = None, dialled: Any = None,
    ) -> None:
        self._reporter = reporter
        self._state = _BEGUN
        self.inbound = endpoint is Endpoint.LISTENER
        self.connection_id = f"{'in' if self.inbound else 'out'}-{next(_numbers)}"
        self.endpoint = endpoint
        self.peer_id = bounded_peer(peer_id)
        self.sockets = sockets
        self.dialled = _kept(dialled)
        self.reason = ""
        self.error: Any = ""
        self.hooks = ExitStack()  # removes the hooks on the connection when it is over
        self.is_followed = False  # whether a hook waits for the outcome, to report it
        self.connection: Any = None  # as a listener gave it to the swarm
        self.was_denied = False
        self.denial: ResourceLimitExceeded | None = None
        self._dry_denials = 0
        self._established_at = 0.0

    @property
    def in_progress(self) -> bool:
        """Whether the connection is neither established nor over."""
        return self._state in (_BEGUN, _PENDING)

    @property
    def local_addr(self) -> Any:
        return None if self.sockets is None else self.sockets.local_addr

    @property
    def remote_addr(self) -> Any:
        return (None if self.sockets is None else self.sockets.remote_addr) or self.dialled

    @property
    def addresses(self) -> list[Any]:
        return [self.remote_addr]

    @property
    def duration(self) -> float:
        return time.monotonic() - self._established_at

    def pending(self) -> None:
        if self._state is _BEGUN:
            self._state = _PENDING
            self._notify(
                PendingInboundConnectionEvent if self.inbound else PendingOutboundConnectionEvent)

    def established(self, peer_id: Any) -> None:
        if self.in_progress:
            self._state = _ESTABLISHED
            self._established_at = time.monotonic()
            self.peer_id = bounded_peer(peer_id)
            self._notify(
                EstablishedInboundConnectionEvent if self.inbound
                else EstablishedOutboundConnectionEvent)

    def denied(self, denial: BaseException | None) -> None:
        """The manager denied it. denial: None, or an error of another manager: no reason."""
        if self.in_progress:
            self._end()
            # after the handshake, the manager knows the peer before the observers do
            self.peer_id = self.peer_id or getattr(denial, "peer_id", None)
            self.error = denial if isinstance(denial, ResourceLimitExceeded) else None
            self._notify(ConnectionDeniedEvent)

    def would_be_denied(self, denials: list[ResourceLimitExceeded]) -> None:
        """A dry run admitted it above limits. denials: all of them so far."""
        new, self._dry_denials = denials[self._dry_denials:], len(denials)
        before = self.error
        for denial in new if self.in_progress else ():
            self.error = denial
            self._notify(ConnectionWouldBeDeniedEvent)
        self.error = before

    def failed(self, reason: str, error: str = "") -> None:
        """It failed, and the manager did not deny it. error: short and printable."""
        if self.in_progress:
            self._end()
            self.reason = "host shutdown" if self._reporter.host_is_stopping else reason
            self.error = error
            self._notify(ListenFailedEvent if self.inbound else DialFailedEvent)

    def note_close_reason(self, reason: str) -> None:
        """Several callbacks report the same end. Keep the first reason."""
        self.reason = self.reason or reason

    def closed(self) -> None:
        if self._state is _ESTABLISHED:
            self._end()
            self.reason = self.reason or "host shutdown"
            self._notify(ConnectionClosedEvent)

    def _end(self) -> None:
        self._state = _OVER
        self.hooks.close()

    def _notify(self, kind: type) -> None:
        if self._reporter.wants(kind):
            fields: Any = kind.__dataclass_fields__  # type: ignore[attr-defined]
            self._reporter.observers.notify(
                kind(**{name: getattr(self, name) for name in fields if name != "timestamp"}))


def _kept(address: Any) -> Any:
    """A multiaddr to dial. Strangers announce them: one that is too long becomes its short text."""
    if address is None or len(text := str(address)) <= LONGEST_ADDRESS:
        return address
    return shortened(text)
