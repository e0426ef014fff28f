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
    """This node dials these addresses: with py-libp2p one, an event for each."""

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

    reason: "closed by us"; "closed by peer" (also if what it sent made no sense); "reset" (TCP, or
        QUIC with an error); "timed out" (QUIC: nothing came for too long); "host shutdown".
    duration: seconds since it was established, on the monotonic clock.
    endpoint: which side this node was; None: whoever told did not say.
    """

    reason: str = ""
    duration: float = 0.0
    endpoint: Endpoint | None = None
    local_addr: Any = None
    remote_addr: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionDeniedEvent(ConnectionLifecycleEvent):
    """A limit refused it; `error` says which.

    error: None if the manager gives no reasons: it is closed, or py-libp2p's own.
    remote_addr: for a dial, the address that was dialled.
    """

    error: ResourceLimitExceeded | None = None
    endpoint: Endpoint = Endpoint.LISTENER
    local_addr: Any = None
    remote_addr: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFailedEvent(ConnectionLifecycleEvent):
    """A dial failed for another reason than a limit.

    reason: "refused" (by the other machine), "timed out", "wrong peer id", "handshake failed",
        "cancelled" (another address answered first, or the caller gave up), "refused by the swarm"
        (which has as many connections as it wants), "duplicate", "host shutdown" or "failed".
    error: what py-libp2p said, as text (the exception itself would keep what failed alive). Parts
        of it may be the other side's words; it can be printed, and is not long.
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
