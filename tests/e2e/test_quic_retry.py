"""A QUIC peer proves its address if the manager asks for it, and then connects as usual."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from nodes import ECHO, PATIENCE_S, echo, eventually, running_node

from rcmgr import NodeLimits, ResourceManager, SubnetLimits
from rcmgr.libp2p import harden, installed
from rcmgr.libp2p.guard.quic_retry import Tokens

ADDRESS = ("192.0.2.1", 4001)
FEW = NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),), overrides={}))
"""Few connections for an address: then a peer must prove its address each time."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The questions to managers, with the answers."""
    seen: list[tuple[str, bool]] = []
    verify = ResourceManager.verify_source_address

    def verifying(manager: ResourceManager, address: Any) -> bool:
        seen.append((address, verify(manager, address)))
        return seen[-1][1]

    monkeypatch.setattr(ResourceManager, "verify_source_address", verifying)
    return seen


@pytest.mark.parametrize("way", ["harden", "install"])
@pytest.mark.parametrize(("limits", "must_prove"), [(FEW, True), (NodeLimits(), False)])
async def test_a_peer_connects(
    asked: list[Any], limits: NodeLimits, must_prove: bool, way: str
) -> None:
    with ExitStack() as stack:
        if way == "install":
            stack.enter_context(installed())
        async with running_node("quic", node_limits=limits) as node, running_node("quic") as peer:
            if way == "harden":
                harden(node.host)
            node.host.set_stream_handler(ECHO, echo)
            assert await peer.dial(node)
            assert asked == [("127.0.0.1", must_prove)]
            stream = await peer.host.new_stream(node.id, [ECHO])
            await stream.write(b"x")
            assert await stream.read(1) == b"x"
            await eventually(lambda: node.counts == (0, 0, 1, 0))
            await peer.host.disconnect(node.id)
            await eventually(lambda: node.counts == (0, 0, 0, 0))


def first_packet(token: bytes = b"") -> bytes:
    client = QuicConnection(configuration=QuicConfiguration(
        alpn_protocols=["libp2p"], token=token))
    client.connect(ADDRESS, now=0.0)
    return client.datagrams_to_send(now=0.0)[0][0]


@pytest.mark.parametrize("token", [b"", b"not ours", b"\0" * 40, b"x" * 500])
async def test_nothing_is_spent_on_a_peer_without_a_token_of_ours(token: bytes) -> None:
    async with running_node("quic", node_limits=FEW) as node:
        harden(node.host)
        [listener] = node.host.get_network().listeners.values()  # type: ignore[attr-defined]
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as stranger:
            await stranger.connect(listener._socket.getsockname())
            for _ in range(5):
                await stranger.send(first_packet(token))
                with trio.fail_after(PATIENCE_S):
                    answer = await stranger.recv(2000)
                from aioquic.buffer import Buffer

                header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
                assert header.packet_type is QuicPacketType.RETRY
                assert header.token
        assert listener._registry.get_stats()["pending_connections"] == 0


async def test_a_peer_that_sends_its_token_again_has_one_handshake() -> None:
    client = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["libp2p"]))
    client.connect(ADDRESS, now=0.0)
    async with running_node("quic", node_limits=FEW) as node:
        harden(node.host)
        [listener] = node.host.get_network().listeners.values()  # type: ignore[attr-defined]
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as peer:
            await peer.connect(listener._socket.getsockname())
            await peer.send(client.datagrams_to_send(now=0.0)[0][0])
            with trio.fail_after(PATIENCE_S):
                retry = await peer.recv(2000)
            client.receive_datagram(retry, ADDRESS, now=0.0)
            [(proof, _)] = client.datagrams_to_send(now=0.0)
            before = listener._stats["packets_processed"]
            for _ in range(3):  # as if an answer was lost
                await peer.send(proof)
            await eventually(lambda: listener._stats["packets_processed"] == before + 3)
            await eventually(lambda: len(listener._registry._pending) == 1)


def test_tokens() -> None:
    now = 1000.0
    tokens = Tokens(lambda: now)
    token = tokens.make(ADDRESS, b"original", b"retry id")
    assert tokens.read(ADDRESS, token) == (b"original", b"retry id")
    assert tokens.read((*ADDRESS, 0, 0), token) == (b"original", b"retry id")
    assert tokens.read(("192.0.2.2", 4001), token) is None
    assert tokens.read(("192.0.2.1", 4002), token) is None
    assert Tokens(lambda: now).read(ADDRESS, token) is None
    for changed in range(len(token)):
        other = bytearray(token)
        other[changed] ^= 1
        assert tokens.read(ADDRESS, bytes(other)) is None
    for length in range(len(token)):
        assert tokens.read(ADDRESS, token[:length]) is None
    now += 10
    assert tokens.read(ADDRESS, token) is not None
    now += 2
    assert tokens.read(ADDRESS, token) is None
