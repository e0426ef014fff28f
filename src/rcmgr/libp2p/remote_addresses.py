"""Where connections come from, also those whose address stock py-libp2p does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rcmgr.libp2p.hooks import Make, SharedHooks

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


def _targets() -> Iterator[tuple[Any, str, Make]]:
    from libp2p.io.trio import TrioTCPStream
    from libp2p.transport.websocket.connection import P2PWebSocketConnection

    yield TrioTCPStream, "get_remote_address", _of_tcp
    yield P2PWebSocketConnection, "get_remote_address", _of_websocket


_hooks = SharedHooks(_targets)


class RemoteAddresses:
    """Two methods of py-libp2p that say where a connection comes from, until `undo`."""

    def __init__(self) -> None:
        self._leave = _hooks.want()

    def undo(self) -> None:
        """Only the addresses that stock py-libp2p knows are known again, unless others want them.
        """
        self._leave()


def report_remote_addresses() -> RemoteAddresses:
    """From now on, connections over IPv6 and over WebSocket have a remote address too.

    Stock libp2p 0.8.1 reports none for them, so that no limit on addresses and no entry of an
    allowlist with an address applies to them. For the whole process; hosts made before are
    included. Libp2pMismatch: libp2p is not as expected; then nothing has changed.
    """
    return RemoteAddresses()
