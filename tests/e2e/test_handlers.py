"""A guard refuses streams before the handlers of a real host get them."""

from __future__ import annotations

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.host.ping import handle_ping
from libp2p.network.stream.exceptions import StreamError
from nodes import Node, eventually, running_node

from rcmgr import AddressRates, Rate, RateLimits
from rcmgr.libp2p import limit_protocols


async def ping(node: Node, target: Node) -> bool:
    """Send one ping on a new stream. Whether the target answers it."""
    try:
        stream = await node.host.new_stream(target.id, [PING])
        await stream.write(b"p" * 32)
        answered = await stream.read(32) == b"p" * 32
        await stream.reset()
    except (StreamFailure, StreamError, trio.BrokenResourceError, trio.ClosedResourceError):
        return False
    return answered


@pytest.mark.parametrize("set_before", [True, False])
async def test_a_flooding_peer_is_limited_and_an_honest_one_is_not(
    transport: str, set_before: bool
) -> None:
    async with (
        running_node(transport) as node,
        running_node(transport) as flooder,
        running_node(transport) as honest,
    ):
        if set_before:
            node.host.set_stream_handler(PING, handle_ping)
        limited = limit_protocols(node.host, node.manager)
        node.manager.add_protocol_rate_limiter(PING, RateLimits(default=Rate(0.001, 5)))
        if not set_before:
            node.host.remove_stream_handler(PING)
            node.host.set_stream_handler(PING, handle_ping)
        assert await flooder.dial(node)
        assert await honest.dial(node)
        answers = [await ping(flooder, node) for _ in range(12)]
        assert answers == [True] * 5 + [False] * 7
        assert [await ping(honest, node) for _ in range(5)] == [True] * 5
        # the connection of the flooder stays, and every slot comes back
        assert node.counts == (0, 0, 2, 0)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        stats = node.manager.get_stats()["protocol_rates"][PING]
        assert (stats["allowed"], stats["denied"], stats["tracked_peers"]) == (10, 7, 2)
        assert stats["most_denied"] == [(str(flooder.id), None, 7)]
        assert "stream of /ipfs/ping/1.0.0" in str(node.manager.last_denial)
        limited.undo()
        assert await ping(flooder, node)


async def test_other_protocols_are_not_limited() -> None:
    echo = TProtocol("/echo/1.0.0")

    async def answer(stream: object) -> None:
        await stream.write(b"here")  # type: ignore[attr-defined]

    async with running_node() as node, running_node() as peer:
        limit_protocols(node.host, node.manager)
        node.manager.add_protocol_rate_limiter(PING, RateLimits(default=Rate(0.001, 1)))
        node.host.set_stream_handler(echo, answer)
        assert await peer.dial(node)
        for _ in range(5):
            stream = await peer.host.new_stream(node.id, [echo])
            assert await stream.read(4) == b"here"
            await stream.reset()


async def test_many_ids_behind_one_address_share_a_rate(transport: str) -> None:
    async with (
        running_node(transport) as node,
        running_node(transport) as one,
        running_node(transport) as other,
    ):
        limit_protocols(node.host, node.manager)
        node.host.set_stream_handler(PING, handle_ping)
        node.manager.add_protocol_rate_limiter(PING, RateLimits(), networks=AddressRates(
            ipv4=((24, Rate(0.001, 5)),), ipv6=((56, Rate(0.001, 5)),), overrides={}))
        assert await one.dial(node)
        assert await other.dial(node)
        answers = [await ping(each, node) for each in (one, other) * 4]
        assert answers == [True] * 5 + [False] * 3
        assert "by network 127.0.0.0/24" in str(node.manager.last_denial)
        assert node.counts == (0, 0, 2, 0)


async def test_opening_a_stream_leaves_the_requests_of_a_peer() -> None:
    """A protocol that asks its limiter for each request may be limited by streams as well."""
    search = TProtocol("/search/1.0.0")

    async with running_node() as node, running_node() as peer:
        limiter = node.manager.add_protocol_rate_limiter(
            search, RateLimits(default=Rate(0.001, 2)))
        limit_protocols(node.host, node.manager)

        async def answer(stream: INetStream) -> None:
            async with limiter.request(stream.muxed_conn.peer_id):
                await stream.write(b"found")

        node.host.set_stream_handler(search, answer)
        assert await peer.dial(node)
        for _ in range(2):
            stream = await peer.host.new_stream(node.id, [search])
            assert await stream.read(5) == b"found"
            await stream.reset()
