"""The events of a connection."""

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
    "ConnectionWouldBeDeniedEvent",
    "DialFailedEvent",
    "Endpoint",
    "EstablishedInboundConnectionEvent",
    "EstablishedOutboundConnectionEvent",
    "ListenFailedEvent",
    "PendingInboundConnectionEvent",
    "PendingOutboundConnectionEvent",
]


class Endpoint(Enum):
    """Which side of a connection this node is.

    DIALER: it dialled. LISTENER: it accepted.
    """

    DIALER = "dialer"
    LISTENER = "listener"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLifecycleEvent:
    """Something that happened to a connection.

    connection_id: the same in all events of one connection.
    timestamp: Unix time in seconds.
    peer_id: the remote peer, or the peer to dial; None: unknown.
    """

    connection_id: Hashable
    timestamp: float = field(default_factory=time.time)
    peer_id: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressedEvent(ConnectionLifecycleEvent):
    """An event with the multiaddrs of both sides; None: unknown."""

    local_addr: Any = None
    remote_addr: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingInboundConnectionEvent(AddressedEvent):
    """A connection arrived, and its handshake begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EstablishedInboundConnectionEvent(AddressedEvent):
    """The handshake of an inbound connection is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingOutboundConnectionEvent(ConnectionLifecycleEvent):
    """This node dials these addresses. py-libp2p dials one at a time: an event for each.

    addresses: multiaddrs. endpoint: always the dialer.
    """

    addresses: list[Any] = field(default_factory=list)
    endpoint: Endpoint = Endpoint.DIALER


@dataclass(frozen=True, slots=True, kw_only=True)
class EstablishedOutboundConnectionEvent(AddressedEvent):
    """A dial succeeded.

    endpoint: always the dialer.
    """

    endpoint: Endpoint = Endpoint.DIALER


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosedEvent(AddressedEvent):
    """An established connection ended.

    reason: one of these:

        * "closed by us", "host shutdown";
        * "evicted": the node was full, and a newcomer got the place;
        * "closed by peer": also after the peer sent invalid data;
        * "reset": by TCP, or by QUIC with an error;
        * "timed out": QUIC received nothing for too long.

    duration: seconds since the connection was established, on the monotonic clock.
    endpoint: which side this node was; None: unknown.
    """

    reason: str = ""
    duration: float = 0.0
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionDeniedEvent(AddressedEvent):
    """A limit refused the connection.

    error: names the limit; None: the manager gives no reason (a closed one, or py-libp2p's own).
    remote_addr: for a dial, the address that was dialled. endpoint: which side this node was.
    """

    error: ResourceLimitExceeded | None = None
    endpoint: Endpoint = Endpoint.LISTENER


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionWouldBeDeniedEvent(AddressedEvent):
    """A limit in a dry run would have refused the connection, which continues.

    A connection may have several: at each step that asks limits.

    error: names the limit; its `enforced` is False.
    endpoint: which side of the connection this node is.
    remote_addr: for a dial, the address that is dialled.
    """

    error: ResourceLimitExceeded | None = None
    endpoint: Endpoint = Endpoint.LISTENER


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFailedEvent(ConnectionLifecycleEvent):
    """A dial failed, and no limit refused it.

    addresses: multiaddrs that were dialled.
    reason: one of these:

        * "timed out", "wrong peer id", "handshake failed", "duplicate", "host shutdown", "failed";
        * "refused": by the other machine;
        * "refused by the swarm": it has as many connections as it wants;
        * "cancelled": another address answered first, or the caller gave up.

    error: py-libp2p's error as short, printable text. The remote peer may have chosen parts. (The
        exception itself would keep the failed connection alive.)
    """

    addresses: list[Any] = field(default_factory=list)
    reason: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenFailedEvent(AddressedEvent):
    """An inbound connection failed in its handshake.

    reason, error: as for `DialFailedEvent`.
    """

    reason: str = ""
    error: str = ""
