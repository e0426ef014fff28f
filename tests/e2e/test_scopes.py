"""Scopes in real hosts: who is charged when, what is refused, and that all of it comes back."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from nodes import Node, eventually, running_node

from rcmgr import (
    ConcreteLimits,
    Limit,
    NodeLimits,
    ResourceManager,
    ScopeLimitExceeded,
    StreamLimitExceeded,
    SubnetLimits,
)
from rcmgr.libp2p import Libp2pMismatch, scope_streams
from rcmgr.libp2p.hooks import Hook

ECHO = TProtocol("/echo/1.0.0")
SLOW = TProtocol("/slow/1.0.0")


def held(node: Node, *path: str) -> dict[str, Any]:
    """A scope of the node's snapshot; {} if it is not there."""
    found: Any = node.manager.ledger.snapshot()
    for key in path:
        found = found.get(key, {})
    return found


def streams(node: Node, *path: str) -> tuple[int, int]:
    scope = held(node, *path)
    return scope.get("streams_inbound", 0), scope.get("streams_outbound", 0)


async def wait_forever(stream: Any) -> None:
    try:
        while await stream.read(1):
            pass
    except StreamError:
        pass


async def is_reset(stream: Any) -> bool:
    try:
        await stream.write(b"\x13")
        await stream.read(1)
    except StreamError:
        return True
    return False


async def all_back(node: Node, *others: Node) -> None:
    """Nothing is held once the others have hung up (and the node is still running)."""
    for other in others:
        await other.host.disconnect(node.id)
    ledger = node.manager.ledger
    await eventually(lambda: not any(ledger.system().stat()) and ledger.peers() == [])
    assert ledger.leaked == ledger.over_released == 0


async def test_a_connection_is_transient_until_its_peer_is_known(transport: str) -> None:
    async with running_node(transport) as node:
        if transport == "tcp":  # a WebSocket listener waits for the HTTP request by itself
            silent = await trio.open_tcp_stream("127.0.0.1", node.port)
            await eventually(lambda: held(node, "transient")["conns_inbound"] == 1)
            assert held(node, "system")["fd"] == 1
            await silent.aclose()
            await eventually(lambda: held(node, "system")["conns_inbound"] == 0)
        async with running_node(transport) as peer:
            assert await peer.dial(node)
            await eventually(lambda: held(node, "peers", str(peer.id)) != {})
            assert held(node, "peers", str(peer.id))["conns_inbound"] == 1
            assert held(peer, "peers", str(node.id))["conns_outbound"] == 1
            assert held(node, "transient")["conns_inbound"] == 0
            await all_back(node, peer)


async def test_a_stream_is_transient_until_its_protocol_is_known(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        scope_streams(node.host, node.manager)
        node.host.set_stream_handler(ECHO, wait_forever)
        await peer.meet(node)
        mute = await peer.host.get_network().new_stream(node.id)
        await mute.write(b"\x13")  # the length of a protocol's name, and no name
        await eventually(lambda: streams(node, "transient") == (1, 0))
        assert streams(node, "peers", str(peer.id)) == (1, 0)
        spoken = await peer.host.new_stream(node.id, [ECHO])
        await eventually(lambda: streams(node, "protocols", ECHO) == (1, 0))
        assert streams(node, "transient") == (1, 0)
        assert streams(node, "protocols", ECHO, "peers", str(peer.id)) == (1, 0)
        assert streams(node, "system") == (2, 0)
        await mute.reset()
        await spoken.reset()
        await eventually(lambda: streams(node, "system") == (0, 0))
        assert held(node, "protocols").get(ECHO) is None
        await all_back(node, peer)


async def test_both_directions_are_charged_to_the_service(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        scope_streams(node.host, node.manager)
        scope_streams(peer.host, peer.manager)
        await peer.meet(node)
        stream = await peer.host.new_stream(node.id, [PING])
        for each, expected in ((node, (1, 0)), (peer, (0, 1))):
            await eventually(
                lambda each=each, expected=expected: (
                    streams(each, "services", "libp2p.ping") == expected))
            assert streams(each, "protocols", PING) == expected
            assert streams(each, "transient") == (0, 0)
        await stream.write(b"p" * 32)
        assert await stream.read(32) == b"p" * 32
        await stream.reset()
        for each in (node, peer):
            await eventually(lambda each=each: streams(each, "system") == (0, 0))
        await all_back(node, peer)
        await all_back(peer)


async def test_transient_exhaustion_leaves_negotiated_streams_alone() -> None:
    """Streams that never say what they want fill the transient scope, not the node."""
    limits = NodeLimits(ConcreteLimits(transient=Limit(streams_inbound=3)))
    async with (
        running_node(node_limits=limits) as node,
        running_node() as attacker,
        running_node() as friend,
    ):
        scope_streams(node.host, node.manager)
        node.host.set_stream_handler(ECHO, wait_forever)
        await friend.meet(node)
        await attacker.meet(node)
        kept = await friend.host.new_stream(node.id, [ECHO])
        await eventually(lambda: streams(node, "protocols", ECHO) == (1, 0))
        mute = [await attacker.host.get_network().new_stream(node.id) for _ in range(3)]
        for stream in mute:
            await stream.write(b"\x13")
        await eventually(lambda: streams(node, "transient") == (3, 0))
        fourth = await attacker.host.get_network().new_stream(node.id)
        assert await is_reset(fourth)
        error = node.manager.last_denial
        assert isinstance(error, StreamLimitExceeded)
        assert (error.scope, error.resource, error.limit) == ("transient", "inbound stream", 3)
        assert streams(node, "protocols", ECHO) == (1, 0)
        for stream in mute:
            await stream.reset()
        await eventually(lambda: streams(node, "transient") == (0, 0))
        again = await attacker.host.new_stream(node.id, [ECHO])
        await eventually(lambda: streams(node, "protocols", ECHO) == (2, 0))
        await again.reset()
        await kept.reset()
        await all_back(node, friend, attacker)


async def test_a_protocol_full_for_a_peer_resets_its_streams(transport: str) -> None:
    limits = NodeLimits(ConcreteLimits(protocol_peer={SLOW: Limit(streams_inbound=1)}))
    async with (
        running_node(transport, node_limits=limits) as node,
        running_node(transport) as peer,
        running_node(transport) as other,
    ):
        scope_streams(node.host, node.manager)
        node.host.set_stream_handler(SLOW, wait_forever)
        for each in (peer, other):
            assert await each.dial(node)
        first = await peer.host.new_stream(node.id, [SLOW])
        await eventually(lambda: streams(node, "protocols", SLOW) == (1, 0))
        try:
            second = await peer.host.new_stream(node.id, [SLOW])
        except StreamFailure:
            pass  # the reset came before the last word of the negotiation was read
        else:
            assert await is_reset(second)
        third = await other.host.new_stream(node.id, [SLOW])
        await eventually(lambda: streams(node, "protocols", SLOW) == (2, 0))
        assert node.manager.ledger.refused == {"protocol-peer": {"inbound stream": 1}}
        for stream in (first, third):
            await stream.reset()
        await all_back(node, peer, other)


async def test_an_outbound_stream_over_a_limit_raises() -> None:
    limits = NodeLimits(ConcreteLimits(protocol={ECHO: Limit(streams_outbound=0)}))
    async with running_node() as node, running_node(node_limits=limits) as peer:
        scope_streams(peer.host, peer.manager)
        node.host.set_stream_handler(ECHO, wait_forever)
        assert await peer.dial(node)
        with pytest.raises(ScopeLimitExceeded, match=f"protocol:{ECHO}"):
            await peer.host.new_stream(node.id, [ECHO])
        await eventually(lambda: streams(peer, "system") == (0, 0))
        await all_back(node, peer)
        await all_back(peer)


async def test_undoing_leaves_streams_their_scopes() -> None:
    async with running_node() as node, running_node() as peer:
        before: Any = node.host.get_network()
        scoped = scope_streams(node.host, node.manager)
        node.host.set_stream_handler(ECHO, wait_forever)
        await peer.meet(node)
        stream = await peer.host.new_stream(node.id, [ECHO])
        await eventually(lambda: streams(node, "protocols", ECHO) == (1, 0))
        scoped.undo()
        counted = await peer.host.new_stream(node.id, [ECHO])
        await eventually(lambda: streams(node, "system") == (2, 0))
        assert streams(node, "protocols", ECHO) == (1, 0)
        for each in (stream, counted):
            await each.reset()
        await eventually(lambda: streams(node, "system") == (0, 0))
        assert before._resource_manager is node.manager
        for attribute in ("notify_opened_stream", "notify_closed_stream"):
            assert attribute not in vars(before)
        assert "new_stream" not in vars(node.host)
        await all_back(node, peer)


@pytest.mark.parametrize("dialling", [False, True])
async def test_a_stream_that_ends_while_it_is_announced(dialling: bool) -> None:
    """With the swarm's semaphore: the slot and the permit come back, once."""
    async with running_node() as node, running_node() as peer:
        scope_streams(node.host, node.manager)
        await peer.meet(node)
        network: Any = node.host.get_network()
        announced, goes_on = trio.Event(), trio.Event()

        def slowly(notify: Any) -> Any:
            async def announce(method: str, *args: Any) -> None:
                await notify(method, *args)
                if method == "opened_stream":
                    announced.set()
                    await goes_on.wait()

            return announce

        hook = Hook(network, "_notify", slowly)
        async with trio.open_nursery() as nursery:
            if dialling:
                nursery.start_soon(network.new_stream, peer.id)
            else:
                await (await peer.host.get_network().new_stream(node.id)).write(b"x")
            await announced.wait()
            assert network._stream_semaphore.value == 9_999
            await node.host.disconnect(peer.id)
            goes_on.set()
        hook.undo()
        await eventually(lambda: network._stream_semaphore.value == 10_000)
        await all_back(node)


async def test_another_manager_is_refused() -> None:
    async with running_node() as node:
        with pytest.raises(Libp2pMismatch, match="not the resource manager"):
            scope_streams(node.host, ResourceManager())
        assert not vars(node.host).get("new_stream")


@pytest.mark.usefixtures("remote_addresses")
@pytest.mark.parametrize(("listen", "address"), [
    ("/ip4/0.0.0.0/tcp/0", "127.0.0.1"), ("/ip6/::1/tcp/0", "::1")])
async def test_connections_of_one_address_are_limited(listen: str, address: str) -> None:
    limits = NodeLimits(subnets=SubnetLimits(
        ipv4=((32, 2),), ipv6=((128, 2),), overrides={"127.0.0.9/32": 1}))
    async with running_node(node_limits=limits, listen=listen) as node:
        async with AsyncExitStack() as stack:

            async def connect(source: str | None = None) -> trio.SocketStream:
                stream = await trio.open_tcp_stream(
                    address, node.port, local_address=source)
                stack.push_async_callback(stream.aclose)
                return stream

            async def is_cut(stream: trio.SocketStream) -> bool:
                with trio.move_on_after(5):
                    try:
                        while await stream.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass
                    return True
                return False

            for _ in range(2):
                await connect()
            await eventually(lambda: node.counts[0] == 2)
            assert await is_cut(await connect())
            denied = node.manager.get_stats()["denied"]
            assert denied == {"address_connections": 1}
            assert address in str(node.manager.last_denial)
            if address == "127.0.0.1":
                # another address has room of its own, and 127.0.0.9 the room of its override
                await connect("127.0.0.2")
                await eventually(lambda: node.counts[0] == 3)
                await connect("127.0.0.9")
                await eventually(lambda: node.counts[0] == 4)
                assert await is_cut(await connect("127.0.0.9"))
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        subnets = node.manager.addresses and node.manager.addresses.subnets
        assert subnets is not None
        assert len(subnets) == subnets.over_released == 0


@pytest.mark.usefixtures("remote_addresses")
async def test_an_allowlisted_peer_gets_in_when_the_system_is_full(transport: str) -> None:
    key_pair = create_new_key_pair()
    friend_id = ID.from_pubkey(key_pair.public_key)
    limits = NodeLimits(ConcreteLimits(
        system=Limit(conns=1), allowlisted_system=Limit(conns=1)))
    allowlist = (f"/ip4/127.0.0.1/p2p/{friend_id}",)
    async with (
        running_node(transport, node_limits=limits, allowlist=allowlist) as node,
        running_node(transport) as first,
        running_node(transport) as stranger,
        running_node(transport, key_pair=key_pair) as friend,
    ):
        assert await first.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        await stranger.dial(node)
        await eventually(lambda: bool(node.manager.ledger.refused))
        assert await friend.dial(node)
        await eventually(lambda: node.counts == (0, 0, 2, 0))
        assert held(node, "allowlisted_system")["conns_inbound"] == 1
        assert held(node, "system")["conns_inbound"] == 1
        # an address that is allowed for the friend alone lets a stranger begin, and no more
        await eventually(lambda: node.counts == (0, 0, 2, 0))
        assert held(node, "peers", str(stranger.id)) == {}
        await all_back(node, first, friend)
