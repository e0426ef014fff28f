"""The record of a real host under a flood is replayed, and each decision is the same."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from nodes import ECHO, Node, all_back, eventually, hold, running_node
from silent_peers import silent

from rcmgr import ConcreteLimits, ConnectionLimits, Limit, NodeLimits, Rate, RateLimits
from rcmgr.libp2p import harden, limit_protocols
from rcmgr.replay.replay import replay
from rcmgr.replay.suggest import suggest
from rcmgr.replay.survey import survey

LIMITS = NodeLimits(
    ConcreteLimits(
        system=Limit(memory=1 << 30), peer_default=Limit(streams_inbound=4),
        protocol={str(ECHO): Limit(streams=5)}),
    ConnectionLimits(max_pending_inbound=5, max_established_inbound=3))
REFUSED = {
    "connection.pending_inbound", "connection.established_inbound",
    "stream.peer.streams_inbound", "stream.protocol.streams", "memory.system.memory",
    "rate.protocol",
}


async def flood(node: Node) -> None:
    """Ask for more of everything than the node has."""
    async with running_node() as first, running_node() as second, running_node() as third:
        peers = (first, second, third)
        for peer in peers:
            await peer.meet(node)
        async with running_node() as late:
            assert not await late.gets_into(node)
        async with silent(node, 9):
            await eventually(lambda: "connection.pending_inbound" in refused(node))
        await eventually(lambda: node.counts[0] == 0)
        for peer in peers:
            for _ in range(6):
                await open_stream(peer, node, ECHO)
        for _ in range(3):
            await ping(third, node)
        node.manager.acquire_memory(2 << 30)
        await eventually(lambda: refused(node).keys() >= REFUSED)
        await all_back(node, *peers)


async def open_stream(peer: Node, node: Node, protocol: TProtocol) -> INetStream | None:
    """None: the node refused it."""
    with suppress(StreamFailure, StreamError, SwarmException):
        return await peer.host.new_stream(node.id, [protocol])
    return None


async def ping(peer: Node, node: Node) -> None:
    stream = await open_stream(peer, node, PING)
    if stream is not None:
        await stream.reset()


def refused(node: Node) -> Counter[str]:
    return Counter(node.manager.denials.by_code())


async def test_each_decision_of_a_flooded_host_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    async with running_node(node_limits=LIMITS) as node:
        harden(node.host)
        node.host.set_stream_handler(ECHO, hold)
        limit_protocols(node.host, node.manager)
        node.manager.add_protocol_rate_limiter(PING, RateLimits(default=Rate(0.0001, 2)))
        with node.manager.record(path) as recording:
            await flood(node)
        assert recording.stats()["dropped"] == recording.stats()["lost"] == 0
    result = replay(path, differences=10)
    assert result.outcome.differences == []
    assert result.player.skipped.total() == 0
    assert result.outcome.recorded == refused(node)
    assert result.outcome.agreed == refused(node).total()
    assert result.decisions > 3 * result.outcome.agreed
    assert result.player.manager._held() == node.manager._held()
    suggested = suggest(survey(path)[0]).file().build(NodeLimits.default())
    assert replay(path, suggested).outcome.refused == {}
