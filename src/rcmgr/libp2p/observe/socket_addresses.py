"""The real local and remote address of a connection, which stock py-libp2p often does not know."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cached_property
from typing import Any

from rcmgr.admission.host_closer import socket_stream
from rcmgr.limits.networks import packed_ip

__all__ = [
    "SocketAddresses", "addresses_of", "addresses_of_socket", "addresses_of_udp", "socket_stream",
]

Address = tuple[str, int]


class SocketAddresses:
    """Both addresses of a connection. Their multiaddrs are made when they are read.

    like: a multiaddr of the same transport, or only the part behind the port. Both addresses get
        that part.
    otherwise: the remote multiaddr if the socket's address is unknown.
    """

    def __init__(
        self, local: Address | None, remote: Address | None, like: Any, transport: str = "tcp",
        otherwise: Any = None,
    ) -> None:
        self._local = local
        self.remote = remote
        """Host and port of the other side; None: unknown."""
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
        return self._multiaddr(self.remote) or self._otherwise

    def _multiaddr(self, address: Address | None) -> Any:
        """An IPv4 address mapped into IPv6 becomes that IPv4 address."""
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


def addresses_of(connection: Any, like: Any) -> SocketAddresses:
    """The addresses of a connection of py-libp2p, raw or muxed. like: see `SocketAddresses`."""
    if "QUIC" in type(connection).__name__:
        return addresses_of_udp(connection._socket, connection._remote_addr, like)
    stream = socket_stream(connection)
    if stream is not None:
        return addresses_of_socket(stream.socket, like)
    # another transport, or a relayed connection
    known: list[Any] = getattr(connection, "get_transport_addresses", list)()
    return SocketAddresses(None, None, like, otherwise=known[0] if known else None)


def addresses_of_socket(socket: Any, like: Any = None) -> SocketAddresses:
    """The addresses of a connection over TCP."""
    return SocketAddresses(_address(socket.getsockname), _address(socket.getpeername), like)


def addresses_of_udp(udp: Any, remote: Address, like: Any = None) -> SocketAddresses:
    """The addresses of a QUIC connection. Several connections may share the socket.

    libp2p 0.8.1 binds the socket of a dial, and often that of a listener, to all interfaces.
    """
    local = None if udp is None else _address(udp.getsockname)
    if local is not None and packed_ip(local[0]) in (bytes(4), bytes(16)):
        local = _source_towards(remote), local[1]
    return SocketAddresses(local, remote, like or "/quic-v1", "udp")


def _source_towards(remote: Address) -> str:
    """The address from which this system would send to the remote one. It sends nothing."""
    family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(remote)
        except OSError:  # no route
            return ""
        return str(probe.getsockname()[0])


def _address(ask: Callable[[], Any]) -> Address | None:
    try:
        host, port, *_ = ask()
    except (OSError, ValueError):  # closed, unreachable, or not an internet socket
        return None
    return str(host), int(port)
