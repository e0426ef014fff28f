"""Connections over WebSocket count from their accept on, before the HTTP upgrade."""

from __future__ import annotations

import trio
from nodes import PATIENCE_S, SHORT, eventually, running_node
from silent_peers import PLACES, guarded_node, silent

from rcmgr import Eviction, NodeLimits


async def test_silent_websockets_are_counted_and_make_room() -> None:
    async with (
        guarded_node(transport="ws") as node, silent(node, 3 * PLACES), running_node("ws") as peer
    ):
        await eventually(lambda: node.count("pending_inbound") >= PLACES - 1)
        with trio.fail_after(PATIENCE_S):
            assert await peer.dial(node)
        await eventually(lambda: node.count("established_inbound") == 1)
        assert node.manager.connection_tracker.snapshot().peak_pending_inbound <= PLACES


async def test_a_websocket_that_asks_for_nothing_is_closed_in_time() -> None:
    off = NodeLimits(eviction=Eviction(enabled=False))
    async with guarded_node(off, "ws", upgrade_timeout=SHORT) as node:
        before = node.manager.connection_tracker.snapshot().total_created
        async with silent(node, 2) as sockets:
            for each in sockets:
                assert await each.receive_some() == b""
        assert node.manager.connection_tracker.snapshot().total_created >= before + 2
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert node.manager.ledger.leaked == 0


async def test_websockets_that_hang_up_leave_nothing_behind() -> None:
    async with guarded_node(transport="ws") as node:
        async with silent(node, PLACES - 1):
            await eventually(lambda: node.count("pending_inbound") == PLACES - 1)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        for _ in range(3 * PLACES):
            await (await trio.open_tcp_stream("127.0.0.1", node.port)).aclose()
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert len(node.manager._admission.room.handshakes) == 0
        assert node.manager.ledger.leaked == 0


async def test_a_websocket_stays_after_its_upgrade() -> None:
    async with (
        guarded_node(transport="ws", upgrade_timeout=SHORT) as node, running_node("ws") as peer
    ):
        while not await peer.gets_into(node):  # a busy machine may take longer than SHORT
            pass
        await trio.sleep(2 * SHORT)
        assert peer.is_connected_to(node)
        assert node.counts == (0, 0, 1, 0)
