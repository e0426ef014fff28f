"""A hardened host frees the slot of an inbound connection when the connection ends."""

from __future__ import annotations

from typing import Any

import trio
from nodes import ECHO, SHORT, Node, Notifee, echo, eventually, running_node

from rcmgr.libp2p import harden


async def test_a_connection_keeps_its_slot_until_it_ends(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        swarm: Any = node.host.get_network()
        assert await peer.dial(node)
        stream = await peer.host.new_stream(node.id, [ECHO])
        for number in range(20):
            await stream.write(bytes([number]))
            assert await stream.read(1) == bytes([number])
        assert swarm._inbound_limiter.borrowed_tokens == 1
        await stream.reset()
        again = await peer.host.new_stream(node.id, [ECHO])
        await again.write(b"y")
        assert await again.read(1) == b"y"
        await node.host.disconnect(peer.id)
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)


class DialsBack(Notifee):
    """Dials another peer for every connection, and returns late."""

    def __init__(self, other: Node, done: trio.Event) -> None:
        self.other, self.done = other, done

    async def connected(self, network: Any, connection: Any) -> None:
        if connection.muxed_conn.peer_id != self.other.id:
            await network.dial_peer(self.other.id)
            self.done.set()
            await trio.sleep(0.2)


class HangsUp(Notifee):
    """Closes every connection before `add_conn` returns it."""

    async def connected(self, network: Any, connection: Any) -> None:
        await connection.close()


async def test_a_connection_that_an_observer_closes_at_once(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        harden(node.host)
        swarm: Any = node.host.get_network()
        swarm.register_notifee(HangsUp())
        for _ in range(3):
            await peer.dial(node)
            await eventually(lambda: not peer.host.get_network().get_connections(node.id))
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)


async def test_a_dial_of_an_observer_frees_no_slot() -> None:
    async with running_node() as node, running_node() as peer, running_node() as other:
        harden(node.host)
        swarm: Any = node.host.get_network()
        node.host.get_peerstore().add_addrs(other.id, other.host.get_addrs(), 60)
        dialled = trio.Event()
        swarm.register_notifee(DialsBack(other, dialled))
        assert await peer.dial(node)
        await dialled.wait()
        await node.host.disconnect(other.id)
        await eventually(lambda: not swarm.get_connections(other.id))
        await trio.sleep(0.3)  # the slot must not come back
        assert len(swarm.get_connections(peer.id)) == 1
        assert swarm._inbound_limiter.borrowed_tokens == 1
        await peer.host.disconnect(node.id)
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)


async def test_handshakes_that_fail_give_their_slots_back() -> None:
    async with running_node() as node:
        harden(node.host)
        swarm: Any = node.host.get_network()
        silent = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(2)]
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 2)
        await silent[0].aclose()
        await silent[1].send_all(b"GET / HTTP/1.1\r\n\r\n" * 8)
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)
        swarm.connection_config.inbound_upgrade_timeout = SHORT
        async with await trio.open_tcp_stream("127.0.0.1", node.port):
            await eventually(lambda: node.manager.connection_tracker.snapshot().total_created == 3)
            await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)
        await silent[1].aclose()
    assert node.manager.get_stats()["connections"] == 0
