"""Where a connection comes from or goes to, in the cases that stock py-libp2p gets wrong."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.extras import require
from rcmgr.libp2p.hooks import Hook, SharedHooks, Undo

__all__ = ["RemoteAddresses", "report_remote_addresses"]

Address = tuple[str, int]
Find = Callable[[Any], Address | None]


def _of_tcp(original: Find, stream: Any) -> Address | None:
    """libp2p 0.8.1: io/trio.py line 103 rejects an IPv6 address, because it has four parts."""
    known = original(stream)
    if known is not None:
        return known
    try:
        host, port, *_ = stream.stream.socket.getpeername()
    except (OSError, AttributeError, ValueError):  # closed, or not an internet socket
        return None
    stream._cached_remote_address = found = (str(host), int(port))
    return found


def _of_websocket(original: Find, connection: Any) -> Address | None:
    """libp2p 0.8.1: transport/websocket/connection.py line 536 always answers None."""
    try:
        remote = connection._ws_connection.remote
        return str(remote.address), int(remote.port)
    except (OSError, AttributeError):  # closed, or not over a socket: then `remote` is a text
        return original(connection)


def _of_relayed(original: Find, connection: Any) -> Address | None:
    """libp2p 0.8.1: network/connection/raw_connection.py line 73 answers with the relay's."""
    from libp2p.connection_types import ConnectionType

    is_relayed = connection.get_connection_type() is ConnectionType.RELAYED
    return None if is_relayed else original(connection)


def _of_dialled(original: Callable[[Any], str | None], address: Any) -> str | None:
    """libp2p 0.8.1: network/swarm.py line 1106 takes the relay's for the address of a circuit."""
    is_relayed = any(part.name == "p2p-circuit" for part in address.protocols())
    return None if is_relayed else original(address)


async def _received(
    original: Callable[..., Awaitable[None]], listener: Any, data: bytes, address: tuple[Any, ...]
) -> None:
    """libp2p 0.8.1: transport/quic/listener.py line 1030 expects two parts ("too many values to
    unpack"). An IPv6 address has four, so that no connection over IPv6 reaches the swarm.
    """
    await original(listener, data, address[:2])


async def _dialling(original: Callable[..., Awaitable[None]], connection: Any) -> None:
    """libp2p 0.8.1: transport/quic/connection.py line 614 hands aioquic all four parts. It drops
    them, because it dialled an address of two parts.
    """
    await original(connection)
    if connection._socket.family == socket.AF_INET6:
        Hook(connection._socket, "recvfrom", _received_from)


async def _received_from(
    original: Callable[..., Awaitable[tuple[bytes, tuple[Any, ...]]]], *args: Any
) -> tuple[bytes, tuple[Any, ...]]:
    data, address = await original(*args)
    return data, address[:2]


def _placing() -> Iterator[Undo]:
    from libp2p.io.trio import TrioTCPStream
    from libp2p.network import swarm
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.transport.quic.connection import QUICConnection
    from libp2p.transport.quic.listener import QUICListener
    from libp2p.transport.websocket.connection import P2PWebSocketConnection

    yield Hook(TrioTCPStream, "get_remote_address", _of_tcp).undo
    yield Hook(P2PWebSocketConnection, "get_remote_address", _of_websocket).undo
    yield Hook(RawConnection, "get_remote_address", _of_relayed).undo
    yield Hook(swarm, "extract_ip_from_multiaddr", _of_dialled).undo
    yield Hook(QUICListener, "_process_packet", _received).undo
    yield Hook(QUICConnection, "_initiate_connection", _dialling).undo


address_hooks = SharedHooks(_placing)


class RemoteAddresses:
    """The hooks of `report_remote_addresses`, in place until `undo`."""

    def __init__(self) -> None:
        self.undo = address_hooks.use()
        """Report addresses as stock py-libp2p does, unless another user still needs these."""


def report_remote_addresses() -> RemoteAddresses:
    """Make py-libp2p report where a connection comes from, over every transport.

    Stock libp2p 0.8.1 reports no address over IPv6 and WebSocket. So limits on addresses and
    allowlist entries with an address have no effect there. And it reports the relay's address for
    every connection through that relay, so that all of them share its limits. With this, a relayed
    connection has no address. QUIC works over IPv6. A stock listener drops such a connection after
    the handshake, while the peer believes that it is connected. A stock host cannot dial one.

    It affects the whole process, including existing hosts. Libp2pMismatch: libp2p is not as
    expected. Then nothing has changed.
    """
    require("libp2p", "rcmgr.libp2p.report_remote_addresses", "libp2p")
    return RemoteAddresses()
