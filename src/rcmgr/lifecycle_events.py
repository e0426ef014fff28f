"""What happens to a connection, as values."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rcmgr.errors import ResourceLimitExceeded

__all__ = [
    "ConnectionClosedEvent",
    "ConnectionDeniedEvent",
    "ConnectionLifecycleEvent",
    "DialFailedEvent",
    "Endpoint",
    "EstablishedInboundConnectionEvent",
    "EstablishedOutboundConnectionEvent",
    "ListenFailedEvent",
    "PendingInboundConnectionEvent",
    "PendingOutboundConnectionEvent",
]


class Endpoint(Enum):
    """Which side of a connection this node is."""

    DIALER = "dialer"
    LISTENER = "listener"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLifecycleEvent:
    """Something that happened to a connection.

    connection_id: the same in all events of one connection. timestamp: Unix time, seconds.
    peer_id: of the other side; None if it is not known (for a dial: whom it should reach).
    """

    connection_id: Hashable
    timestamp: float = field(default_factory=time.time)
    peer_id: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingInboundConnectionEvent(ConnectionLifecycleEvent):
    """Somebody connected, and the handshake begins. Addresses are multiaddrs; None: unknown."""

    local_addr: Any = None
    remote_addr: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EstablishedInboundConnectionEvent(ConnectionLifecycleEvent):
    """The handshake of a connection from outside is done."""

    local_addr: Any = None
    remote_addr: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingOutboundConnectionEvent(ConnectionLifecycleEvent):
    """This node dials."""

    addresses: list[Any] = field(default_factory=list)
    endpoint: Endpoint = Endpoint.DIALER


@dataclass(frozen=True, slots=True, kw_only=True)
class EstablishedOutboundConnectionEvent(ConnectionLifecycleEvent):
    """A dial succeeded."""

    local_addr: Any = None
    remote_addr: Any = None
    endpoint: Endpoint = Endpoint.DIALER


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosedEvent(ConnectionLifecycleEvent):
    """An established connection ended.

    reason: "closed by us", "closed by peer", "reset" or "host shutdown"; others may say more.
    duration: seconds since it was established, on the monotonic clock.
    """

    reason: str = ""
    duration: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionDeniedEvent(ConnectionLifecycleEvent):
    """A limit refused it; `error` says which. (None: a manager that gives no reasons.)"""

    error: ResourceLimitExceeded | None = None
    endpoint: Endpoint = Endpoint.LISTENER


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFailedEvent(ConnectionLifecycleEvent):
    """A dial failed for another reason than a limit.

    reason: "refused", "timed out", "wrong peer id", "handshake failed", "cancelled" or "failed".
    error: what py-libp2p said, as text (the exception itself would keep what failed alive).
    """

    addresses: list[Any] = field(default_factory=list)
    reason: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenFailedEvent(ConnectionLifecycleEvent):
    """A connection from outside failed in its handshake. reason: as for `DialFailedEvent`."""

    local_addr: Any = None
    remote_addr: Any = None
    reason: str = ""
    error: str = ""
