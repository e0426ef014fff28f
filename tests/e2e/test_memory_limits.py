"""A real host refuses connections above its memory limit, and admits them again below it."""

from __future__ import annotations

from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID
from nodes import eventually, running_node

from rcmgr import MemoryUsageLimitExceeded


async def test_above_the_limit_no_connection_is_admitted(transport: str) -> None:
    key_pair = create_new_key_pair()
    friend_id = ID.from_pubkey(key_pair.public_key)
    async with (
        running_node(transport, allowlist=(friend_id,)) as node,
        running_node(transport) as early,
        running_node(transport) as late,
        running_node(transport) as later,
        running_node(transport, key_pair=key_pair) as friend,
    ):
        assert await early.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        node.manager.set_memory_limits(max_bytes=1)
        await late.dial(node)
        await eventually(lambda: "memory_usage" in node.manager.get_stats()["denied"])
        assert isinstance(node.manager.last_denial, MemoryUsageLimitExceeded)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        if transport == "quic":  # the only transport that knows the peer at the first question
            assert await friend.dial(node)
            await eventually(lambda: node.counts == (0, 0, 2, 0))
            await friend.host.disconnect(node.id)
            await eventually(lambda: node.counts == (0, 0, 1, 0))
        node.manager.set_memory_limits(max_percentage=1.0)
        assert await later.dial(node)
        await eventually(lambda: node.counts == (0, 0, 2, 0))


async def test_above_the_limit_the_host_does_not_dial(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        node.manager.set_memory_limits(max_bytes=1)
        assert not await node.dial(peer)
        assert isinstance(node.manager.last_denial, MemoryUsageLimitExceeded)
        assert node.counts == peer.counts == (0, 0, 0, 0)
        async with running_node(transport) as another:
            node.manager.set_memory_limits(max_percentage=1.0)
            assert await node.dial(another)
