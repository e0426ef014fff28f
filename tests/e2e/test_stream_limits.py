"""A hardened host refuses streams above its limit, and keeps shares for itself and each peer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
from libp2p.network.stream.exceptions import StreamError
from nodes import ECHO, echo, eventually, is_reset, running_node

from rcmgr import ConcreteLimits, Limit, LimitsFile, NodeLimits, ResourceLimits, ResourceManager
from rcmgr.libp2p import harden


async def test_streams_above_the_limit_are_reset() -> None:
    limits = NodeLimits(ConcreteLimits(  # one peer may have all inbound streams
        system=Limit(streams=8), peer_default=Limit(streams_inbound=8)))
    async with running_node(node_limits=limits) as node, running_node() as peer:
        harden(node.host)
        await peer.meet(node)
        network = peer.host.get_network()
        streams = [await network.new_stream(node.id) for _ in range(12)]
        for stream in streams:
            with suppress(StreamError):  # refused already
                await stream.write(b"\x13")
        await eventually(lambda: node.manager.get_stats()["streams"] == 7)
        assert await is_reset(await network.new_stream(node.id))
        own = await node.host.get_network().new_stream(peer.id)
        await own.reset()


async def test_limits_that_set_the_shares_stay() -> None:
    """Other peers may have all streams, and the next one is refused. In a stock host it waits."""
    nine = Limit(streams=9, streams_inbound=9)
    limits = NodeLimits(ConcreteLimits(system=nine, peer_default=nine))
    async with running_node(node_limits=limits) as node, running_node() as peer:
        harden(node.host)
        assert node.manager.ledger.system().limit["streams_inbound"] == 9
        assert node.manager.scope_limits == limits.scopes
        await peer.meet(node)
        network = peer.host.get_network()
        for _ in range(9):
            await (await network.new_stream(node.id)).write(b"\x13")
        await eventually(lambda: node.manager.get_stats()["streams"] == 9)
        assert await is_reset(await network.new_stream(node.id))


async def test_limits_set_later_keep_their_share_for_the_host() -> None:
    async with running_node() as node:
        harden(node.host)
        node.manager.limits = ResourceLimits(max_streams=80)
        system = node.manager.ledger.system()
        assert system.limit["streams_inbound"] == 70
        node.manager.limits = ResourceLimits(max_streams=1)
        assert system.limit["streams_inbound"] == 1


async def test_two_hosts_with_one_manager() -> None:
    manager = ResourceManager(ResourceLimits(max_streams=8))
    async with (
        running_node(manager=manager) as one,
        running_node(manager=manager) as two,
        running_node() as peer,
    ):
        hardened = harden(one.host), harden(two.host)
        for node in (one, two):
            node.host.set_stream_handler(ECHO, echo)
            await peer.meet(node)
        streams = [await peer.host.new_stream(node.id, [ECHO]) for node in (one, two)]
        await eventually(lambda: manager.ledger.protocol(ECHO).stat().streams_inbound == 2)
        hardened[0].undo()
        assert manager.ledger.system().limit["streams_inbound"] == 7
        hardened[1].undo()
        assert manager.ledger.system().limit["streams_inbound"] is None
        for stream in streams:
            await stream.reset()
        await eventually(lambda: manager.get_stats()["streams"] == 0)
        assert manager.ledger.over_released == manager.ledger.leaked == 0
        for node in (one, two):
            network: Any = node.host.get_network()
            assert network._resource_manager is manager
            assert network._stream_semaphore.value == 8


async def test_waiting_streams_are_refused() -> None:
    async with (
        running_node(node_limits=ResourceLimits(max_streams=4)) as node,
        running_node() as peer,
    ):
        network: Any = node.host.get_network()
        semaphore = network._stream_semaphore
        await peer.meet(node)
        for _ in range(10):
            await (await peer.host.get_network().new_stream(node.id)).write(b"\x13")
        await eventually(lambda: semaphore.statistics().tasks_waiting == 6)
        harden(node.host)
        await eventually(lambda: semaphore.statistics().tasks_waiting == 0)
        await eventually(lambda: node.manager.ledger.refused != {})
        assert node.manager.get_stats()["streams"] == 4


async def test_one_peer_cannot_take_all_of_a_few_streams(transport: str) -> None:
    """`[System] Streams = 40` in a file: the defaults of the other streams are higher."""
    limits = LimitsFile.from_toml("[System]\nStreams = 40").build(NodeLimits.default())
    async with (
        running_node(transport, node_limits=limits) as node,
        running_node(transport) as greedy,
        running_node(transport) as peer,
    ):
        node.host.set_stream_handler(ECHO, echo)
        harden(node.host)
        await greedy.meet(node)
        for _ in range(40):
            with suppress(Exception):  # py-libp2p raises several for a refused stream
                with trio.move_on_after(1):
                    stream = await greedy.host.get_network().new_stream(node.id)
                    await stream.write(b"\x13")
        assert await peer.dial(node)
        for _ in range(3):
            stream = await peer.host.new_stream(node.id, [ECHO])
            await stream.write(b"x")
            assert await stream.read(1) == b"x"
            await stream.reset()
