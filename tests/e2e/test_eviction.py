"""A full host ends the connection that is worth least, and a newcomer gets its place."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import trio
from nodes import LONG, Node, all_back, eventually, running_node

from rcmgr import (
    ConcreteLimits,
    ConnectionClosedEvent,
    ConnectionLimits,
    Eviction,
    Limit,
    NodeLimits,
)
from rcmgr.libp2p import harden, observe

PLACES = 8
QUICK = Eviction(grace_s=0.2, close_s=LONG)
BY_STATE = NodeLimits(
    connections=ConnectionLimits(max_established_inbound=PLACES), eviction=QUICK)
BY_SCOPE = NodeLimits(ConcreteLimits(system=Limit(conns_inbound=PLACES)), eviction=QUICK)


async def full_node(
    stack: AsyncExitStack, transport: str, limits: NodeLimits = BY_STATE, **options: Any
) -> tuple[Node, list[Node]]:
    """A node with as many idle peers as it has places, past their grace."""
    node = await stack.enter_async_context(
        running_node(transport, node_limits=limits, evicting=True, **options))
    handler = observe(node.host).handler
    node.closed = []  # type: ignore[attr-defined]
    handler.register_handler(ConnectionClosedEvent, node.closed.append)  # type: ignore[attr-defined]
    peers = [await stack.enter_async_context(running_node(transport)) for _ in range(PLACES)]
    for peer in peers:
        await peer.meet(node)
    await trio.sleep(3 * QUICK.grace_s)
    assert node.count("established_inbound") == PLACES
    return node, peers


def connected(peers: list[Node], node: Node) -> int:
    return sum(peer.is_connected_to(node) for peer in peers)


async def test_a_newcomer_gets_in(transport: str) -> None:
    async with AsyncExitStack() as stack:
        node, peers = await full_node(stack, transport)
        newcomer = await stack.enter_async_context(running_node(transport))
        await newcomer.meet(node)
        assert node.count("established_inbound") == PLACES
        await eventually(lambda: connected(peers, node) == PLACES - 1)
        await eventually(lambda: node.manager.evictions()["leaving"] == 0 and node.closed != [])  # type: ignore[attr-defined]
        made = node.manager.evictions()
        assert made["evicted"] == {"established_inbound": 1, "pending_inbound": 0}
        assert made["cut"] == 0
        assert node.manager.denied_by_limit() == {"evicted": 1}
        assert "Evicted for newcomers since the start: 1 established" in node.manager.explain()
        assert [event.reason for event in node.closed] == ["evicted"]  # type: ignore[attr-defined]
        assert node.manager.connection_tracker.snapshot().peak_established_inbound == PLACES
        await all_back(node, *peers, newcomer)


async def test_off_by_one_word(transport: str) -> None:
    off: Any = "off"
    async with AsyncExitStack() as stack:
        node, peers = await full_node(stack, transport, replace(BY_STATE, eviction=off))
        newcomer = await stack.enter_async_context(running_node(transport))
        await newcomer.dial(node)
        await eventually(lambda: not newcomer.is_connected_to(node))
        assert connected(peers, node) == PLACES
        assert node.count("established_inbound") == PLACES


async def test_the_system_scope_is_full(transport: str) -> None:
    async with AsyncExitStack() as stack:
        node, peers = await full_node(stack, transport, BY_SCOPE)
        newcomer = await stack.enter_async_context(running_node(transport))
        await newcomer.meet(node)
        await eventually(lambda: connected(peers, node) == PLACES - 1)
        assert node.manager.denied_by_limit() == {"evicted": 1}
        assert node.count("established_inbound") == PLACES


async def test_a_hardened_host_makes_room_too(transport: str) -> None:
    async with AsyncExitStack() as stack:
        node, _ = await full_node(stack, transport)
        harden(node.host)
        for _ in range(3):
            newcomer = await stack.enter_async_context(running_node(transport))
            await newcomer.meet(node)
            await trio.sleep(2 * QUICK.grace_s)
        await eventually(lambda: node.manager.evictions()["leaving"] == 0)
        assert node.manager.evictions()["evicted"]["established_inbound"] == 3
        assert node.count("established_inbound") == PLACES


async def test_protected_and_tagged_and_allowed_peers_stay() -> None:
    async with AsyncExitStack() as stack:
        node, peers = await full_node(stack, "tcp")
        swarm: Any = node.host.get_network()
        for number, peer in enumerate(peers):
            if number % 2:
                swarm.tag_store.protect(peer.id, "test")
            else:
                swarm.tag_store.tag_peer(peer.id, "test", 5)
        newcomer = await stack.enter_async_context(running_node("tcp"))
        await newcomer.dial(node)
        await eventually(lambda: not newcomer.is_connected_to(node))
        assert connected(peers, node) == PLACES
        swarm.tag_store.unprotect(peers[3].id, "test")
        await newcomer.meet(node)
        await eventually(lambda: not peers[3].is_connected_to(node))


async def test_a_host_stops_in_the_middle_of_an_eviction() -> None:
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(running_node("tcp")) for _ in range(PLACES + 1)]
        async with running_node("tcp", node_limits=BY_STATE, evicting=True) as node:
            for peer in peers[:-1]:
                await peer.meet(node)
            await trio.sleep(3 * QUICK.grace_s)
            await peers[-1].dial(node)
            made = node.manager.evictions
            await eventually(lambda: made()["evicted"]["established_inbound"] == 1)
        assert made()["leaving"] == 0
        assert node.counts == (0, 0, 0, 0)
        assert not made()["enabled"]


@pytest.mark.parametrize("hardened", [False, True])
async def test_a_peer_that_does_not_read_is_cut(hardened: bool) -> None:
    """Its window is full, so that the close would wait for it."""
    limits = replace(BY_STATE, eviction=replace(QUICK, close_s=0.3))
    async with AsyncExitStack() as stack:
        node, peers = await full_node(stack, "tcp", limits)
        if hardened:
            harden(node.host)
        for each in (connection for connections in node.host.get_network().connections.values()
                     for connection in connections):
            each.muxed_conn.close = trio.sleep_forever
        newcomer = await stack.enter_async_context(running_node("tcp"))
        await newcomer.meet(node)
        await eventually(lambda: node.manager.evictions()["cut"] == 1)
        await eventually(lambda: connected(peers, node) == PLACES - 1)
        await eventually(lambda: node.manager.evictions()["leaving"] == 0)
        assert node.count("established_inbound") == PLACES
        for connections in node.host.get_network().connections.values():
            for each in connections:
                vars(each.muxed_conn).pop("close", None)
