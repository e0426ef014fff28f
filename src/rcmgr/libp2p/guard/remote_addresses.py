"""Where connections come from, also those whose address stock py-libp2p does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rcmgr.libp2p.hooks import Hook, SharedHooks

__all__ = ["RemoteAddresses", "report_remote_addresses"]

Address = tuple[str, int]


def _of_tcp(original: Callable[[Any], Address | None]) -> Callable[[Any], Address | None]:
    """libp2p 0.8.1: io/trio.py line 103 takes the four parts of an IPv6 address for none."""

    def get_remote_address(stream: Any) -> Address | None:
        known = original(stream)
        if known is not None:
            return known
        try:
            host, port, *_ = stream.stream.socket.getpeername()
        except (OSError, AttributeError, ValueError):  # closed, or no socket of the internet
            return None
        stream._cached_remote_address = found = (str(host), int(port))
        return found

    return get_remote_address


def _of_websocket(original: Callable[[Any], Address | None]) -> Callable[[Any], Address | None]:
    """libp2p 0.8.1: transport/websocket/connection.py line 536 always answers None."""

    def get_remote_address(connection: Any) -> Address | None:
        known = original(connection)
        if known is not None:
            return known
        try:
            remote = connection._ws_connection.remote
            return str(remote.address), int(remote.port)
        except (OSError, AttributeError):  # closed, or not over a socket (then it is a text)
            return None

    return get_remote_address


def _of_relayed(original: Callable[[Any], Address | None]) -> Callable[[Any], Address | None]:
    """libp2p 0.8.1: network/connection/raw_connection.py line 73 answers with the relay's."""
    from libp2p.connection_types import ConnectionType

    def get_remote_address(connection: Any) -> Address | None:
        if connection.get_connection_type() is ConnectionType.RELAYED:
            return None
        return original(connection)

    return get_remote_address


def _of_dialled(original: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """libp2p 0.8.1: network/swarm.py line 1106 takes the relay's for that of a circuit."""

    def extract_ip_from_multiaddr(address: Any) -> str | None:
        is_relayed = any(part.name == "p2p-circuit" for part in address.protocols())
        return None if is_relayed else original(address)

    return extract_ip_from_multiaddr


def _hooks() -> Iterator[Hook]:
    from libp2p.io.trio import TrioTCPStream
    from libp2p.network import swarm
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.transport.websocket.connection import P2PWebSocketConnection

    yield Hook(TrioTCPStream, "get_remote_address", _of_tcp)
    yield Hook(P2PWebSocketConnection, "get_remote_address", _of_websocket)
    yield Hook(RawConnection, "get_remote_address", _of_relayed)
    yield Hook(swarm, "extract_ip_from_multiaddr", _of_dialled)


address_hooks = SharedHooks(_hooks)


class RemoteAddresses:
    """Functions of py-libp2p that say where a connection comes from or goes to, until `undo`."""

    def __init__(self) -> None:
        self._leave = address_hooks.want()

    def undo(self) -> None:
        """Addresses are what stock py-libp2p takes for them again, unless others want these."""
        self._leave()


def report_remote_addresses() -> RemoteAddresses:
    """From now on, a connection's remote address is where it comes from, over each transport.

    Stock libp2p 0.8.1 reports none over IPv6 and WebSocket, so that no limit on addresses and no
    entry of an allowlist with an address applies there, and the relay's for all connections that
    come through a relay, which then share its limits; from now on these have none. For the whole
    process; hosts made before are included. Libp2pMismatch: libp2p is not as expected; then nothing
    has changed.
    """
    return RemoteAddresses()
