"""A peer on the allowlist gets into a full node, over every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from nodes import (
    ECHO,
    PATIENCE_S,
    Node,
    comes_true,
    echo,
    eventually,
    refuse_when_full,
    running_node,
    swarm_config,
)

from rcmgr import ConcreteLimits, ConnectionLimits, Limit, NodeLimits, ResourceManager
from rcmgr.libp2p import harden, installed

FRIEND_KEY = create_new_key_pair()
FRIEND = ID.from_pubkey(FRIEND_KEY.public_key)
ENTRIES = {
    "id": FRIEND,
    "address": "127.0.0.1",
    "id at address": f"/ip4/127.0.0.1/p2p/{FRIEND}",
}
FULL = {
    "total": NodeLimits(ConcreteLimits(system=Limit(conns=1))),
    "inbound": NodeLimits(ConcreteLimits(system=Limit(conns_inbound=1))),
    "transient": NodeLimits(ConcreteLimits(transient=Limit(conns=0))),
    "pending": NodeLimits(connections=ConnectionLimits(max_pending_inbound=0)),
    "established": NodeLimits(connections=ConnectionLimits(
        max_established_inbound=1, max_established_total=1, max_established_per_peer=1)),
}
NO_WATERMARKS = {"low_watermark": 0, "high_watermark": 2}


@asynccontextmanager
async def friend_of(transport: str, key_pair: KeyPair = FRIEND_KEY) -> AsyncIterator[Node]:
    async with running_node(transport, key_pair=key_pair) as friend:
        yield friend


async def gets_in(peer: Node, node: Node) -> bool:
    """Whether the peer can use a stream on its connection."""
    if not await peer.dial(node):
        return False
    with trio.move_on_after(PATIENCE_S):
        try:
            stream = await peer.host.new_stream(node.id, [ECHO])
            await stream.write(b"x")
            answered = await stream.read(1) == b"x"
            await stream.reset()
        except Exception:  # noqa: BLE001 (py-libp2p raises several for a connection that ended)
            return False
        return bool(answered)
    return False


@asynccontextmanager
async def full_node(
    transport: str, limits: NodeLimits, entry: Any, *, hardened: bool,
    config: ConnectionConfig | None = None,
) -> AsyncIterator[Node]:
    async with running_node(
        transport, node_limits=limits, allowlist=(entry,), config=config
    ) as node:
        if hardened:
            harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        yield node


@pytest.mark.parametrize("hardened", [False, True], ids=["plain", "harden"])
@pytest.mark.parametrize("full", FULL)
async def test_by_id(transport: str, full: str, hardened: bool) -> None:
    async with (
        full_node(transport, FULL[full], FRIEND, hardened=hardened) as node,
        running_node(transport) as first,
        running_node(transport) as second,
        friend_of(transport) as friend,
    ):
        for stranger in (first, second):
            await stranger.dial(node)
        established = 0 if full in ("pending", "transient") and transport != "quic" else 1
        if full in ("total", "inbound", "established"):
            await eventually(lambda: node.count("established_inbound") == established)
            assert not await gets_in(second, node)
        assert await gets_in(friend, node)
        await eventually(lambda: node.is_connected_to(friend))
        assert node.manager.connection_tracker.snapshot().bypassed == 1


@pytest.mark.parametrize("hardened", [False, True], ids=["plain", "harden"])
@pytest.mark.parametrize("entry", ["address", "id at address"])
async def test_by_address(transport: str, entry: str, hardened: bool) -> None:
    if transport == "ws" and not hardened:
        pytest.skip("stock py-libp2p knows no address of a WebSocket connection")
    limits = NodeLimits(
        ConcreteLimits(system=Limit(conns=0), transient=Limit(conns=0)),
        ConnectionLimits(0, 0, 0, 0, 0, 0))
    async with (
        full_node(transport, limits, ENTRIES[entry], hardened=hardened) as node,
        friend_of(transport) as friend,
    ):
        assert await gets_in(friend, node)


async def test_a_friend_takes_no_slot_of_the_swarm(transport: str) -> None:
    async with (
        full_node(transport, NodeLimits(), FRIEND, hardened=True) as node,
        running_node(transport) as stranger,
        friend_of(transport) as friend,
    ):
        limiter = node.host.get_network()._inbound_limiter  # type: ignore[attr-defined]
        assert await gets_in(stranger, node)
        assert await gets_in(friend, node)
        await eventually(lambda: node.is_connected_to(friend))
        assert limiter.borrowed_tokens == 1
        for peer in (friend, stranger):
            await peer.host.disconnect(node.id)
        await eventually(lambda: limiter.borrowed_tokens == 0)


async def test_under_install(transport: str) -> None:
    with installed(harden=True):
        manager = ResourceManager(FULL["total"], [FRIEND])
        refuse_when_full(manager)
        async with (
            running_node(transport, manager=manager) as node,
            running_node(transport) as first,
            running_node(transport) as second,
            friend_of(transport) as friend,
        ):
            node.host.set_stream_handler(ECHO, echo)
            assert await gets_in(first, node)
            assert not await gets_in(second, node)
            assert await gets_in(friend, node)


async def test_handshakes_that_stall_leave_room_for_a_friend() -> None:
    limits = NodeLimits(connections=ConnectionLimits(max_pending_inbound=2))
    async with full_node("tcp", limits, FRIEND, hardened=True) as node, AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", node.port))
        await eventually(lambda: node.count("pending_inbound") == 10)
        async with friend_of("tcp") as friend:
            assert await gets_in(friend, node)


async def test_stalled_handshakes_are_bounded() -> None:
    limits = NodeLimits(connections=ConnectionLimits(max_pending_inbound=2))
    async with full_node("tcp", limits, FRIEND, hardened=True) as node, AsyncExitStack() as stack:
        for _ in range(40):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", node.port))
        await eventually(lambda: len(node.manager.denials) == 40 - 2 - 16)
        assert node.count("pending_inbound") == 2 + 16


@pytest.mark.parametrize("cap", ["inbound", "total"])
async def test_the_caps_of_the_swarm(transport: str, cap: str) -> None:
    """Two strangers fill the swarm. A third one leaves, and the friend stays."""
    most = {"max_connections": 3, "min_connections": 1} if cap == "inbound" else {
        "max_connections": 2, "min_connections": 0}
    config = swarm_config(
        low_watermark=1, high_watermark=2, max_connections_per_peer=8, **most)
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(full_node(
            transport, NodeLimits(), FRIEND, hardened=True, config=config))
        swarm: Any = node.host.get_network()
        strangers = [
            await stack.enter_async_context(running_node(transport)) for _ in range(4)]
        friend = await stack.enter_async_context(friend_of(transport))
        for stranger in strangers[:2]:
            assert await gets_in(stranger, node)
        assert not await gets_in(strangers[2], node)
        assert await gets_in(friend, node)
        assert not await gets_in(strangers[2], node)
        await eventually(lambda: len(swarm.get_connections()) == 3)
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 2)
        # the friend's connection does not count
        await strangers[0].host.disconnect(node.id)
        await eventually(lambda: len(swarm.get_connections()) == 2)
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 1)
        assert await gets_in(strangers[3], node)
        for each in (friend, *strangers[1:]):
            await each.host.disconnect(node.id)
        # the friend's task takes no token and may be the last to end
        await eventually(lambda: not swarm._inbound_limiter._slots)
        assert swarm._inbound_limiter.borrowed_tokens == 0


async def test_undoing_with_a_friend_connected() -> None:
    config = swarm_config(
        max_connections=1, min_connections=0, low_watermark=0, high_watermark=1)
    async with (
        running_node(allowlist=(FRIEND,), config=config) as node,
        running_node() as stranger,
        friend_of("tcp") as friend,
    ):
        node.host.set_stream_handler(ECHO, echo)
        swarm: Any = node.host.get_network()
        before, limiter = swarm.connection_config, swarm._inbound_limiter
        hardening = harden(node.host)
        assert swarm.connection_config.max_connections == 1 + 16
        assert await gets_in(stranger, node)
        assert await gets_in(friend, node)
        hardening.undo()
        assert swarm.connection_config is before
        assert swarm._inbound_limiter is not limiter  # the friend's task has no token to give back
        for each in (stranger, friend):
            await each.host.disconnect(node.id)
    assert swarm._inbound_limiter is limiter
    assert limiter.borrowed_tokens == 0


async def test_the_pruner_spares_a_friend() -> None:
    config = swarm_config(
        max_connections=9, min_connections=0, low_watermark=0, high_watermark=9, grace_period=0)
    async with (
        full_node("tcp", NodeLimits(), FRIEND, hardened=True, config=config) as node,
        running_node() as stranger,
        friend_of("tcp") as friend,
    ):
        swarm: Any = node.host.get_network()
        for each in (friend, stranger):
            await each.meet(node)
        swarm.connection_config.high_watermark = 1
        await swarm.connection_pruner.maybe_prune_connections()
        await eventually(lambda: not node.is_connected_to(stranger))
        assert not await comes_true(lambda: not node.is_connected_to(friend), 0.2)
