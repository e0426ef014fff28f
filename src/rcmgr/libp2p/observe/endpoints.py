"""Where both ends of a connection are, also where stock py-libp2p does not know it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cached_property
from typing import Any

from rcmgr.limits.networks import packed_ip

__all__ = ["Ends", "ends_of", "ends_of_socket", "ends_of_udp", "socket_stream"]

Address = tuple[str, int]
_LAYERS = ("_conn", "stream", "_ws_connection", "_stream", "transport_stream")


class Ends:
    """Both ends of a connection. Their multiaddrs are made when they are asked for.

    like: a multiaddr of the same transport, which says what stands behind the port; or just that.
    otherwise: the remote multiaddr if its address is unknown.
    """

    def __init__(
        self, local: Address | None, remote: Address | None, like: Any, transport: str = "tcp",
        otherwise: Any = None,
    ) -> None:
        self._local = local
        self._remote = remote
        self._like = like
        self._transport = transport
        self._otherwise = otherwise

    @cached_property
    def local_addr(self) -> Any:
        """A multiaddr; None: unknown."""
        return self._multiaddr(self._local)

    @cached_property
    def remote_addr(self) -> Any:
        """A multiaddr; None: unknown."""
        return self._multiaddr(self._remote) or self._otherwise

    def _multiaddr(self, address: Address | None) -> Any:
        """An IPv4 address that is mapped into IPv6 is that IPv4 address."""
        ip = None if address is None else packed_ip(address[0])
        if address is None or ip is None:
            return None
        from multiaddr import Multiaddr

        version, family = ("ip4", socket.AF_INET) if len(ip) == 4 else ("ip6", socket.AF_INET6)
        host, port = socket.inet_ntop(family, ip), address[1]
        return Multiaddr(
            f"/{version}/{host}/{self._transport}/{port}{_behind_port(str(self._like or ''))}")


def _behind_port(multiaddr: str) -> str:
    parts = multiaddr.partition("/p2p/")[0].split("/")
    for transport in ("tcp", "udp"):
        if transport in parts:
            return "".join(f"/{part}" for part in parts[parts.index(transport) + 2 :])
    return multiaddr


def ends_of(connection: Any, like: Any) -> Ends:
    """Of a connection of py-libp2p, raw or muxed. `like`: see `Ends`."""
    if "QUIC" in type(connection).__name__:
        return ends_of_udp(connection._socket, connection._remote_addr, like)
    stream = socket_stream(connection)
    if stream is not None:
        return ends_of_socket(stream.socket, like)
    # another transport, or a relayed connection
    known: list[Any] = getattr(connection, "get_transport_addresses", list)()
    return Ends(None, None, like, otherwise=known[0] if known else None)


def ends_of_socket(socket: Any, like: Any = None) -> Ends:
    """Of a TCP connection, and what is above it."""
    return Ends(_asked(socket.getsockname), _asked(socket.getpeername), like)


def ends_of_udp(udp: Any, remote: Address, like: Any = None) -> Ends:
    """Of a QUIC connection that uses this socket, which others may use as well.

    libp2p 0.8.1 binds the socket of a dial, and often that of a listener, to all interfaces.
    """
    local = None if udp is None else _asked(udp.getsockname)
    if local is not None and packed_ip(local[0]) in (bytes(4), bytes(16)):
        local = _source_towards(remote), local[1]
    return Ends(local, remote, like or "/quic-v1", "udp")


def socket_stream(connection: Any) -> Any:
    """trio's stream above the socket, under all layers of py-libp2p; None: there is none."""
    layer = connection
    while layer is not None and getattr(layer, "socket", None) is None:
        inside = vars(layer)
        layer = next((inside[name] for name in _LAYERS if inside.get(name) is not None), None)
    return layer


def _source_towards(remote: Address) -> str:
    """The address that this system sends from to that one. Nothing is sent."""
    family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(remote)
        except OSError:  # no route to it
            return ""
        return str(probe.getsockname()[0])


def _asked(ask: Callable[[], Any]) -> Address | None:
    try:
        host, port, *_ = ask()
    except (OSError, ValueError):  # closed, unreachable, or no socket of the internet
        return None
    return str(host), int(port)
