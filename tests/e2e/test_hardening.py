"""What libp2p 0.8.1 leaves open, before and after `harden`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from nodes import Node, eventually, running_node

from rcmgr import ConcreteLimits, Limit, NodeLimits, ResourceLimits
from rcmgr.libp2p import Libp2pMismatch, harden

ECHO = TProtocol("/echo/1.0.0")


async def echo(stream: Any) -> None:
    try:
        while data := await stream.read(1):
            await stream.write(data)
    except StreamError:
        pass


async def is_refused(stream: Any, seconds: float = 5) -> bool:
    """Whether the other side resets it, instead of leaving us waiting."""
    with trio.move_on_after(seconds):
        try:
            await stream.write(b"\x13")
            await stream.read(1)
        except StreamError:
            return True
    return False


@pytest.mark.parametrize("hardened", [False, True], ids=["stock", "hardened"])
async def test_streams_over_the_limit(hardened: bool) -> None:
    async with (
        running_node(node_limits=ResourceLimits(max_streams=8)) as node,
        running_node() as peer,
    ):
        if hardened:
            harden(node.host)
        assert await peer.dial(node)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        network = peer.host.get_network()
        streams = [await network.new_stream(node.id) for _ in range(12)]
        for stream in streams:
            with suppress(StreamError):  # refused already
                await stream.write(b"\x13")
        most = 7 if hardened else 8
        await eventually(lambda: node.manager.get_stats()["streams"] == most)
        last = await network.new_stream(node.id)
        assert await is_refused(last, 5 if hardened else 0.5) == hardened
        assert bool(node.manager.ledger.refused) == hardened
        # the host's own streams
        with trio.move_on_after(5 if hardened else 0.5) as waiting:
            own = await node.host.get_network().new_stream(peer.id)
            await own.reset()
        assert waiting.cancelled_caught != hardened


@pytest.mark.parametrize("hardened", [False, True], ids=["stock", "hardened"])
async def test_inbound_connections_of_a_lifetime(transport: str, hardened: bool) -> None:
    if transport == "quic":
        pytest.skip("a QUIC host of libp2p 0.8.1 hears of a closed connection only after a while")
    async with running_node(transport) as node:
        swarm: Any = node.host.get_network()
        swarm._inbound_limiter.total_tokens = 2
        if hardened:
            harden(node.host)
        for number in range(5):
            async with running_node(transport) as peer:
                await peer.dial(node)
                with trio.move_on_after(1):
                    await eventually(lambda: node.counts == (0, 0, 1, 0))
                accepted = node.counts == (0, 0, 1, 0)
                assert accepted == (hardened or number < 2)
                await peer.host.disconnect(node.id)
                await eventually(lambda: node.counts == (0, 0, 0, 0))
        if hardened:
            await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)


async def test_a_hardened_host_works(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        for each in (node, peer):
            harden(each.host)
        node.host.set_stream_handler(ECHO, echo)
        assert await peer.dial(node)
        for _ in range(3):
            stream = await peer.host.new_stream(node.id, [ECHO])
            await stream.write(b"x")
            assert await stream.read(1) == b"x"
            await stream.reset()
        await peer.host.disconnect(node.id)
        await eventually(lambda: peer.counts == (0, 0, 0, 0))
        assert peer.manager.ledger.leaked == node.manager.ledger.leaked == 0
        assert peer.manager.ledger.over_released == node.manager.ledger.over_released == 0


def state(node: Node) -> tuple[Any, ...]:
    swarm: Any = node.host.get_network()
    hidden = set(vars(swarm)) | set(vars(node.host))
    hooks = ("_do_handle_inbound_connection", "add_conn", "notify_closed_stream", "new_stream")
    return (
        {name for name in hooks if name in hidden}, swarm._stream_semaphore is None,
        swarm._resource_manager is node.manager, node.manager.scope_limits,
        type(node.host.multiselect.handlers),  # type: ignore[attr-defined]
    )


async def test_undoing() -> None:
    async with running_node() as node:
        before = state(node)
        hardening = harden(node.host)
        assert state(node) != before
        assert node.manager.scope_limits.system.streams_inbound == 8750
        hardening.undo()
        hardening.undo()
        assert state(node) == before


async def test_limits_that_say_it_themselves_stay() -> None:
    """Others may have all streams, and are refused beyond: in a stock host, one would wait."""
    limits = NodeLimits(ConcreteLimits(system=Limit(streams=9, streams_inbound=9)))
    async with running_node(node_limits=limits) as node, running_node() as peer:
        harden(node.host)
        assert node.manager.scope_limits == limits.scopes
        assert await peer.dial(node)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        network = peer.host.get_network()
        for _ in range(9):
            await (await network.new_stream(node.id)).write(b"\x13")
        await eventually(lambda: node.manager.get_stats()["streams"] == 9)
        assert await is_refused(await network.new_stream(node.id))


async def test_a_host_of_another_manager_is_left_alone() -> None:
    host = new_host()
    before = set(vars(host.get_network()))
    with pytest.raises(Libp2pMismatch, match=r"not guarded by a rcmgr\.ResourceManager"):
        harden(host)
    assert set(vars(host.get_network())) == before
