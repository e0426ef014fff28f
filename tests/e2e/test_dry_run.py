"""A real host in a dry run refuses nothing, lets nothing wait, and reports each excess."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from nodes import ECHO, Node, all_back, echo, eventually, running_node
from silent_peers import guarded_node

from rcmgr import (
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimits,
    ConnectionWouldBeDeniedEvent,
    DryRun,
    EstablishedInboundConnectionEvent,
    NodeLimits,
    PendingInboundConnectionEvent,
    ResourceLimits,
    ResourceManager,
)
from rcmgr.libp2p import observe

FULL = NodeLimits(
    connections=ConnectionLimits(max_pending_inbound=0, max_established_inbound=0),
    dry_run=DryRun(frozenset(["all"])))


async def test_a_hardened_host_admits_and_reports_each_step_above_a_limit() -> None:
    events: list[ConnectionLifecycleEvent] = []
    handler = ConnectionLifecycleHandler()
    handler.register_handler(ConnectionLifecycleEvent, events.append)
    async with guarded_node(FULL) as node, running_node() as peer:
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        before = node.manager.would_deny.total
        observer = observe(node.host, handler)
        await peer.meet(node)
        assert node.is_connected_to(peer)
        assert node.counts[2] == 1
        assert node.manager.denials.total == 0
        assert node.manager.would_deny.total == before + 2
        seen = [each for each in events if each.connection_id == events[0].connection_id]
        assert [type(each) for each in seen] == [
            PendingInboundConnectionEvent, ConnectionWouldBeDeniedEvent,
            ConnectionWouldBeDeniedEvent, EstablishedInboundConnectionEvent]
        assert [each.error.code for each in seen if isinstance(each, ConnectionWouldBeDeniedEvent)
                and each.error is not None and not each.error.enforced] == [
            "connection.pending_inbound", "connection.established_inbound"]
        node.manager.enforce = True
        assert node.is_connected_to(peer)
        async with running_node() as late:
            assert not await late.gets_into(node)
        observer.undo()
        await all_back(node, peer)


async def open_echoes(node: Node, other: Node, count: int) -> list[Any]:
    return [await node.host.new_stream(other.id, [ECHO]) for _ in range(count)]


@pytest.mark.parametrize("from_the_start", [True, False])
async def test_no_stream_waits_in_the_queue_of_a_stock_host(from_the_start: bool) -> None:
    manager = ResourceManager(ResourceLimits(max_streams=2), enforce=not from_the_start)
    async with running_node(manager=manager) as node, running_node() as other:
        other.host.set_stream_handler(ECHO, echo)
        assert await node.dial(other)
        streams: list[Any] = []

        async def open_all() -> None:
            streams.extend(await open_echoes(node, other, 5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_all)
            if not from_the_start:
                swarm: Any = node.host.get_network()
                await eventually(lambda: swarm._stream_semaphore.statistics().tasks_waiting > 0)
                manager.enforce = False
        assert len(streams) == 5
        assert manager.would_deny.by_code()["stream.system.streams"] >= 1
        for stream in streams:
            await stream.reset()
        await all_back(node, other)
