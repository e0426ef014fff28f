"""Streams of real hosts are charged to the right scopes, and give everything back."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.network.exceptions import SwarmException
from nodes import (
    ECHO,
    Node,
    Notifee,
    all_back,
    echo,
    eventually,
    held,
    hold,
    is_reset,
    running_node,
)

from rcmgr import (
    ConcreteLimits,
    Limit,
    NodeLimits,
    ResourceManager,
    ScopeLimitExceeded,
    StreamLimitExceeded,
)
from rcmgr.libp2p import Libp2pMismatch, harden, scope_streams
from rcmgr.libp2p.hooks import Hook

SLOW = TProtocol("/slow/1.0.0")


def streams(node: Node, *path: str) -> tuple[int, int]:
    scope = held(node, *path)
    return scope.get("streams_inbound", 0), scope.get("streams_outbound", 0)


async def test_a_stream_is_transient_until_its_protocol_is_known(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        scope_streams(node.host, node.manager)
        node.host.set_stream_handler(ECHO, hold)
        await peer.meet(node)
        mute = await peer.host.get_network().new_stream(node.id)
        await mute.write(b"\x13")  # the length of a protocol's name, without the name
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


async def test_a_full_transient_scope_does_not_affect_negotiated_streams() -> None:
    """Streams that never name a protocol fill the transient scope, not the node."""
    limits = NodeLimits(ConcreteLimits(transient=Limit(streams_inbound=3)))
    async with (
        running_node(node_limits=limits) as node,
        running_node() as attacker,
        running_node() as friend,
    ):
        scope_streams(node.host, node.manager)
        node.host.set_stream_handler(ECHO, hold)
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


async def test_streams_above_the_limit_of_a_protocol_and_peer_are_reset(transport: str) -> None:
    limits = NodeLimits(ConcreteLimits(protocol_peer={SLOW: Limit(streams_inbound=1)}))
    async with (
        running_node(transport, node_limits=limits) as node,
        running_node(transport) as peer,
        running_node(transport) as other,
    ):
        scope_streams(node.host, node.manager)
        node.host.set_stream_handler(SLOW, hold)
        for each in (peer, other):
            assert await each.dial(node)
        first = await peer.host.new_stream(node.id, [SLOW])
        await eventually(lambda: streams(node, "protocols", SLOW) == (1, 0))
        try:
            second = await peer.host.new_stream(node.id, [SLOW])
        except StreamFailure:
            pass  # the reset arrived before the end of the negotiation
        else:
            assert await is_reset(second)
        third = await other.host.new_stream(node.id, [SLOW])
        await eventually(lambda: streams(node, "protocols", SLOW) == (2, 0))
        assert node.manager.ledger.refused == {"protocol-peer": {"inbound stream": 1}}
        for stream in (first, third):
            await stream.reset()
        await all_back(node, peer, other)


async def test_an_outbound_stream_above_a_limit_raises() -> None:
    limits = NodeLimits(ConcreteLimits(protocol={ECHO: Limit(streams_outbound=0)}))
    async with running_node() as node, running_node(node_limits=limits) as peer:
        scope_streams(peer.host, peer.manager)
        node.host.set_stream_handler(ECHO, hold)
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
        node.host.set_stream_handler(ECHO, hold)
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
    """The slot and the permit of the swarm's semaphore come back once."""
    async with running_node() as node, running_node() as peer:
        scope_streams(node.host, node.manager)
        await peer.meet(node)
        network: Any = node.host.get_network()
        announced, goes_on = trio.Event(), trio.Event()

        async def slowly(notify: Any, method: str, *args: Any) -> None:
            await notify(method, *args)
            if method == "opened_stream":
                announced.set()
                await goes_on.wait()

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


async def test_cancelling_the_opening_of_a_stream() -> None:
    """The swarm has a semaphore too. The stream gives back its slot and its permit once."""
    async with running_node() as node, running_node() as peer:
        scope_streams(node.host, node.manager)
        network: Any = node.host.get_network()
        await node.meet(peer)
        announced = trio.Event()

        class Slow(Notifee):
            async def opened_stream(self, network: Any, stream: Any) -> None:
                announced.set()
                await trio.sleep_forever()

        slow = Slow()
        network.register_notifee(slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.new_stream, peer.id)
            await announced.wait()
            nursery.cancel_scope.cancel()
        network.remove_notifee(slow)
        assert node.manager.get_stats()["streams"] == 0
        await node.host.disconnect(peer.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert network._stream_semaphore.value == 10_000
        assert node.manager.ledger.over_released == node.manager.ledger.leaked == 0


async def test_refusing_an_outbound_quic_stream_loses_no_permit() -> None:
    limits = NodeLimits(ConcreteLimits(system=Limit(streams=8, streams_outbound=0)))
    async with (
        running_node("quic", node_limits=limits) as node,
        running_node("quic") as peer,
    ):
        harden(node.host)
        peer.host.set_stream_handler(ECHO, echo)
        assert await peer.dial(node)
        [connection] = node.host.get_network().get_connections(peer.id)
        permits: Any = connection.muxed_conn._negotiation_semaphore  # type: ignore[attr-defined]
        before = permits.value
        for _ in range(3):
            with pytest.raises(SwarmException, match="Stream limit exceeded"):
                await node.host.new_stream(peer.id, [ECHO])
        await eventually(lambda: permits.value >= before)  # identify may have had one
