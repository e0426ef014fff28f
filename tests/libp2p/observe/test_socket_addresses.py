"""The addresses of both ends of a connection."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from multiaddr import Multiaddr

from rcmgr.libp2p.observe.socket_addresses import (
    SocketAddresses,
    addresses_of,
    addresses_of_socket,
    addresses_of_udp,
    socket_stream,
)


@pytest.mark.parametrize(("address", "like", "expected"), [
    (("192.0.2.1", 5), None, "/ip4/192.0.2.1/tcp/5"),
    (("2001:db8::1", 5), None, "/ip6/2001:db8::1/tcp/5"),
    (("::ffff:192.0.2.1", 5), None, "/ip4/192.0.2.1/tcp/5"),
    (("192.0.2.1", 5), "/ip4/0.0.0.0/tcp/9/ws/p2p/QmPeer", "/ip4/192.0.2.1/tcp/5/ws"),
    (("192.0.2.1", 5), "/ws", "/ip4/192.0.2.1/tcp/5/ws"),
])
def test_a_multiaddr_has_the_real_address_and_the_known_transport(
    address: tuple[str, int], like: str | None, expected: str
) -> None:
    addresses = SocketAddresses(address, address, like)
    assert addresses.local_addr == addresses.remote_addr == Multiaddr(expected)


def test_an_unknown_address_is_none_or_the_given_one() -> None:
    for unknown in (None, ("not an address", 5)):
        addresses = SocketAddresses(unknown, unknown, None, otherwise="known")
        assert (addresses.local_addr, addresses.remote_addr) == (None, "known")


def test_a_tcp_socket_knows_both_addresses_until_it_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            addresses = addresses_of_socket(client, "/ws")
            local = client.getsockname()[1]
    assert str(addresses.local_addr) == f"/ip4/127.0.0.1/tcp/{local}/ws"
    assert str(addresses.remote_addr) == f"/ip4/127.0.0.1/tcp/{port}/ws"
    assert addresses_of_socket(client).local_addr is None


def test_a_udp_socket_bound_to_all_interfaces_gets_the_address_it_sends_from() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("0.0.0.0", 0))
        port = udp.getsockname()[1]
        addresses = addresses_of_udp(udp, ("127.0.0.1", 9))
    assert str(addresses.local_addr) == f"/ip4/127.0.0.1/udp/{port}/quic-v1"
    assert str(addresses.remote_addr) == "/ip4/127.0.0.1/udp/9/quic-v1"
    assert addresses_of_udp(None, ("127.0.0.1", 9)).local_addr is None


def test_the_stream_is_found_below_all_layers() -> None:
    stream: Any = SimpleNamespace(socket="a socket")
    websocket = SimpleNamespace(_ws_connection=SimpleNamespace(_stream=stream))
    assert socket_stream(SimpleNamespace(stream=websocket)) is stream
    assert socket_stream(SimpleNamespace(_conn=SimpleNamespace())) is None
    raw = SimpleNamespace(stream=SimpleNamespace(stream=stream))
    for secure in (SimpleNamespace(conn=raw), SimpleNamespace(raw_connection=raw), raw):
        assert socket_stream(SimpleNamespace(secured_conn=SimpleNamespace(conn=secure))) is stream


def test_a_connection_without_a_socket_has_the_addresses_it_knows() -> None:
    relayed = SimpleNamespace(get_transport_addresses=lambda: ["through a relay"])
    assert addresses_of(relayed, None).remote_addr == "through a relay"
    assert addresses_of(SimpleNamespace(), None).remote_addr is None
