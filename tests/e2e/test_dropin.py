"""Real hosts with py-libp2p's manager, and with ours that takes the same arguments."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.rcmgr import ResourceLimits
from libp2p.rcmgr.allowlist import AllowlistConfig
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits as StockMemoryLimits
from nodes import eventually, refuse_when_full, running_node

from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.manager import ResourceManager

both = pytest.mark.parametrize("make", [StockManager, ResourceManager])


@both
async def test_e1_half_open_connections(make: Any) -> None:
    manager = make(connection_limits=StockLimits(max_pending_inbound=2))
    async with running_node(manager=manager) as node:
        streams = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(5)]
        if make is StockManager:
            await eventually(lambda: manager._current_connections == 5)
            assert node.count("pending_inbound") == 0
        else:
            await eventually(lambda: manager.connection_tracker.snapshot().total_denied == 3)
            assert node.count("pending_inbound") == manager._current_connections == 2
        for stream in streams:
            await stream.aclose()
        await eventually(lambda: manager._current_connections == 0)


@both
async def test_e2_memory(make: Any) -> None:
    manager = make(memory_limits=StockMemoryLimits(max_process_memory_bytes=1))
    async with running_node(manager=manager) as node, running_node() as peer:
        assert await peer.gets_into(node) == (make is StockManager)


@both
async def test_a1_an_allowed_address(make: Any) -> None:
    manager = make(
        ResourceLimits(max_connections=0), enable_graceful_degradation=False,
        allowlist_config=AllowlistConfig(multiaddrs={"/ip4/127.0.0.1/tcp/4001"}))
    async with running_node(manager=manager) as node, running_node() as peer:
        assert await peer.gets_into(node) == (make is ResourceManager)


@both
async def test_a2_an_allowed_peer(make: Any) -> None:
    key_pair = create_new_key_pair()
    friend = ID.from_pubkey(key_pair.public_key)
    manager = make(
        allowlist_config=AllowlistConfig(peers={friend}),
        connection_limits=StockLimits(max_established_inbound=0))
    async with running_node(manager=manager) as node, running_node(key_pair=key_pair) as peer:
        assert await peer.gets_into(node) == (make is ResourceManager)


async def test_a_program_reads_and_changes_a_running_host(transport: str) -> None:
    limits = ConnectionLimits()
    manager = ResourceManager(connection_limits=limits)
    refuse_when_full(manager)
    async with (
        running_node(transport, manager=manager) as node,
        running_node(transport) as first,
        running_node(transport) as second,
    ):
        assert await first.gets_into(node)
        tracker: Any = manager.connection_tracker
        [info] = tracker.get_all_connections()
        assert (info.peer_id, info.direction, info.state) == (first.id, "inbound", "established")
        assert tracker.established_per_peer[first.id] == {info.connection_id}
        assert tracker.get_stats()["current_peers_with_connections"] == 1
        limits.with_max_established_inbound(1)
        assert not await second.gets_into(node)
        key_pair = create_new_key_pair()
        manager.allowlist.add_peer(ID.from_pubkey(key_pair.public_key))
        async with running_node(transport, key_pair=key_pair) as friend:
            assert await friend.gets_into(node)
            await friend.host.disconnect(node.id)
        await first.host.disconnect(node.id)
        await eventually(lambda: tracker.get_all_connections() == [])
        assert manager.memory_limits.get_memory_summary()["current"]
