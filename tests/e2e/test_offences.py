"""Offenders that attack a real host are banned, and honest peers at its door are not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from nodes import ECHO, LONG, SHORT, Node, echo, eventually, running_node, swarm_config
from test_differences import HOLD, asked, burst, frame

from rcmgr import NodeLimits, PenaltyBox
from rcmgr.gates.penalties import Offence
from rcmgr.libp2p import harden
from rcmgr.peers import peer_text

# loopback is exempt by default
BOX = PenaltyBox(exempt=frozenset())
LIMITS = NodeLimits(penalties=BOX)


def banned(node: Node) -> list[tuple[str, str]]:
    return [(ban.what, ban.reason) for ban in node.manager.bans()]


async def garbage(node: Node, times: int, host: str = "127.0.0.1") -> None:
    """Connect from another loopback address, and send what is no handshake."""
    for _ in range(times):
        socket = trio.socket.socket()
        await socket.bind((host, 0))
        with suppress(OSError):
            await socket.connect(("127.0.0.1", node.port))
            await socket.send(b"GET / HTTP/1.0\r\n\r\n")
            await socket.recv(1024)
        socket.close()


@pytest.mark.loopback
@pytest.mark.parametrize("hardened", [False, True])
async def test_failed_handshakes_ban_their_address_alone(hardened: bool) -> None:
    async with running_node(node_limits=LIMITS) as node, running_node() as honest:
        if hardened:
            harden(node.host)
        await garbage(node, 40, "127.0.0.9")
        await eventually(lambda: banned(node) == [("127.0.0.9", Offence.HANDSHAKE.text)])
        assert await honest.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))


async def test_a_banned_peer_is_refused_and_an_unbanned_one_comes_back(transport: str) -> None:
    async with running_node(transport, node_limits=LIMITS) as node, running_node(transport) as peer:
        node.manager.ban(peer.id, reason="rude")
        await peer.dial(node)
        await eventually(lambda: node.manager.refused_by_ban >= 1)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert node.manager.last_denial is not None
        assert node.manager.last_denial.code == "connection.banned"
        assert node.manager.unban(peer.id)
        await eventually(lambda: not peer.host.get_network().get_connections(node.id))
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))


async def test_a_banned_address_is_refused_before_the_handshake() -> None:
    async with running_node() as node, running_node() as peer:
        node.manager.ban("127.0.0.0/8")
        assert not await peer.dial(node)
        assert node.manager.refused_by_ban >= 1
        assert node.manager.unban("127.0.0.0/8")
        assert await peer.dial(node)


async def test_our_dial_to_a_banned_peer_is_refused() -> None:
    async with running_node() as node, running_node() as peer:
        node.manager.ban(peer.id)
        assert not await node.dial(peer)
        await eventually(lambda: peer.counts == (0, 0, 0, 0))
        assert node.counts == (0, 0, 0, 0)


async def test_streams_without_a_protocol_ban_their_peer(transport: str) -> None:
    config = swarm_config(inbound_stream_protocol_negotiation_timeout=SHORT)
    async with (
        running_node(transport, node_limits=LIMITS, config=config) as node,
        running_node(transport) as peer, running_node(transport) as honest,
    ):
        harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        assert await peer.dial(node)
        assert await honest.dial(node)
        [connection] = peer.host.get_network().get_connections(node.id)
        async with trio.open_nursery() as nursery:

            async def silent() -> None:
                with suppress(Exception):
                    stream = await connection.muxed_conn.open_stream()
                    await stream.write(b"\x13")
                    await trio.sleep(3 * SHORT)

            for _ in range(25):
                nursery.start_soon(silent)
        await eventually(
            lambda: banned(node) == [(peer_text(peer.id.to_bytes()), Offence.NO_PROTOCOL.text)])
        swarm: Any = node.host.get_network()
        swarm.connection_config.inbound_stream_protocol_negotiation_timeout = LONG
        stream = await honest.host.new_stream(node.id, [ECHO])
        await stream.write(b"x")
        assert await stream.read(1) == b"x"


async def test_data_beyond_the_window_bans_its_peer() -> None:
    async def wait(stream: Any) -> None:
        await trio.sleep_forever()

    async with running_node(node_limits=LIMITS) as node, running_node() as peer:
        harden(node.host)
        node.host.set_stream_handler(HOLD, wait)
        for _ in range(5):
            [connection] = await burst(peer, node, 1)
            with suppress(Exception):  # the host closes the connection
                await connection.write(frame(1, asked(HOLD), flags=1))
                for _ in range(20 << 4):
                    await connection.write(frame(1, b"x" * (1 << 16)))
            await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert banned(node) == [(peer_text(peer.id.to_bytes()), Offence.WINDOW.text)]
