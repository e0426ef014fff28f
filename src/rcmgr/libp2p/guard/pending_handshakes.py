"""Inbound handshakes that a full node may end, and what they have achieved so far."""

from __future__ import annotations

import math
import socket as sockets
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rcmgr.admission.door import AcceptedSocket
from rcmgr.admission.host_closer import mark_evicted
from rcmgr.admission.manager_base import ConnectionScope
from rcmgr.admission.room import Room
from rcmgr.libp2p.hooks import Hook, Undo

if TYPE_CHECKING:
    import trio

__all__ = ["Handshake", "current", "follow_progress", "peek"]

Transfer = Callable[..., Awaitable[Any]]

_TCP_INFO = getattr(sockets, "TCP_INFO", None)
_RTT_AT, _RTT = 68, struct.Struct("=I")  # tcpi_rtt of Linux's struct tcp_info

current: ContextVar[Handshake | None] = ContextVar("rcmgr_handshake", default=None)
"""The handshake of a socket that was accepted, for the task that handles it."""


class Handshake:
    """One accepted socket, until its connection is established or has ended.

    latency_us: the round trip of the TCP handshake. The other side cannot make it shorter, because
        it has to see a number that the kernel chose. 0: unknown.
    patience_s: seconds for which a transport may wait for its own upgrade.
    """

    def __init__(
        self, socket: Any, scope: ConnectionScope, room: Room, ip: str, patience_s: float
    ) -> None:
        self.latency_us = _round_trip_us(socket)
        self.patience_s = patience_s
        self._connection: Any = None  # the stream of py-libp2p, once there is one
        self._waiting: trio.CancelScope | None = None
        self._socket = socket
        self._scope = scope
        self._room = room
        if scope.record is not None and room.is_active:
            room.enter_handshake(scope.record, self, ip)

    def advance(self) -> None:
        """It made progress that costs the other side something."""
        if self._scope.record is not None:
            self._room.advance(self._scope.record)

    def end(self) -> None:
        """Hang up, and give the place back at once."""
        if self._connection is not None:
            mark_evicted(self._connection)
        self.stop_waiting()
        self._socket.close()
        self._scope.close()

    def waits_in(self, waiting: trio.CancelScope) -> None:
        """The transport waits for its own upgrade in this scope, which ends with it."""
        self._waiting = waiting

    def stop_waiting(self) -> None:
        """End the wait of the transport, if it still waits."""
        if self._waiting is not None:
            self._waiting.cancel()

    def begin(self, connection: Any) -> None:
        """The swarm has it now: the transport does not wait any more."""
        self._connection = connection
        if self._waiting is not None:
            self._waiting.deadline = math.inf
            self._waiting = None
            return

        async def reading(original: Transfer, *args: Any) -> Any:
            data = await original(*args)
            if data:
                hook.undo()
                self.advance()
            return data

        hook = Hook(connection, "read", reading)


def follow_progress(swarm: Any) -> Iterator[Undo]:
    """Advance handshakes that negotiate a security protocol, and that are secured."""

    async def step(original: Transfer, *args: Any, **kwargs: Any) -> Any:
        """libp2p 0.8.1: transport/upgrader.py line 50,
        security/security_multistream.py line 111.
        """
        done = await original(*args, **kwargs)
        handshake = current.get()
        if handshake is not None:
            handshake.advance()
        return done

    upgrader = swarm.upgrader
    yield Hook(upgrader, "upgrade_security", step).undo
    yield Hook(upgrader.security_multistream, "select_transport_and_protocol", step).undo


def peek(socket: Any) -> bytes | None:
    """The first byte that the other side sent. b"": it hung up. None: it is silent.

    socket: an AcceptedSocket, or a socket of trio.
    """
    if isinstance(socket, AcceptedSocket):
        return socket.peek()
    try:
        peeked: bytes = socket._sock.recv(1, sockets.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
    return peeked


def _round_trip_us(socket: Any) -> int:
    if _TCP_INFO is None:
        return 0
    try:
        info = socket.getsockopt(sockets.IPPROTO_TCP, _TCP_INFO, _RTT_AT + _RTT.size)
    except OSError:
        return 0
    return int(_RTT.unpack_from(info, _RTT_AT)[0]) if len(info) == _RTT_AT + _RTT.size else 0
