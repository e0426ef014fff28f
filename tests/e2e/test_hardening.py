"""`harden` puts its hooks in place and removes them. test_differences.py shows their effect."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.io.trio import TrioTCPStream
from libp2p.rcmgr.manager import ResourceManager as StockManager
from nodes import ECHO, SHORT, Node, echo, eventually, is_reset, running_node, swarm_config

from rcmgr import ResourceLimits, ResourceManager
from rcmgr.libp2p import Libp2pMismatch, harden, scope_streams


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
        swarm._resource_manager is node.manager, node.manager.ledger.system().limit,
        type(node.host.multiselect.handlers),  # type: ignore[attr-defined]
    )


async def test_undoing() -> None:
    async with running_node() as node:
        before = state(node)
        hardening = harden(node.host)
        assert state(node) != before
        assert node.manager.ledger.system().limit["streams_inbound"] == 8750
        assert node.manager.ledger.peer("any").limit["streams_inbound"] == 4375
        hardening.undo()
        hardening.undo()
        assert state(node) == before


async def test_a_host_of_another_manager_is_left_alone() -> None:
    host = new_host()
    before = set(vars(host.get_network()))
    with pytest.raises(Libp2pMismatch, match=r"not guarded by a rcmgr\.ResourceManager"):
        harden(host)
    assert set(vars(host.get_network())) == before


async def test_hardening_twice_is_hardening_once() -> None:
    async with running_node() as node, running_node() as peer:
        before = state(node)
        scoped = scope_streams(node.host, node.manager)
        hardening = harden(node.host)
        assert harden(node.host) is hardening
        assert scope_streams(node.host, node.manager) is scoped
        await peer.meet(node)
        hardening.undo()
        assert state(node) == before
        again = harden(node.host)
        assert again is not hardening
        again.undo()
        assert state(node) == before


async def test_hardening_follows_another_manager() -> None:
    second, third = ResourceManager(ResourceLimits(max_streams=16)), StockManager()
    async with running_node() as node, running_node() as peer:
        node.host.set_stream_handler(ECHO, echo)
        hardening = harden(node.host)
        network: Any = node.host.get_network()
        await peer.meet(node)
        first = await peer.host.new_stream(node.id, [ECHO])
        await eventually(lambda: node.manager.get_stats()["streams"] == 1)
        for manager in (second, third, second):
            network.set_resource_manager(manager)
            assert (network._stream_semaphore is None) == (manager is second)
        assert second.ledger.system().limit["streams_inbound"] == 14
        assert node.manager.ledger.system().limit["streams_inbound"] is None
        held = await peer.host.new_stream(node.id, [ECHO])
        await eventually(lambda: "libp2p" not in str(second.ledger.snapshot()["protocols"])
                         and ECHO in second.ledger.snapshot()["protocols"])
        for stream in (first, held):
            await stream.reset()
        for manager in (node.manager, second):
            await eventually(lambda manager=manager: manager.get_stats()["streams"] == 0)
            assert manager.ledger.over_released == manager.ledger.leaked == 0
        assert third._current_streams == 0
        hardening.undo()
        assert network._resource_manager is second
        assert second.ledger.system().limit["streams_inbound"] is None


async def test_undoing_with_open_streams_loses_no_permit(transport: str) -> None:
    """Streams from before, during and after hardening all give their permits back."""
    limits = ResourceLimits(max_streams=20)
    async with (
        running_node(transport, node_limits=limits) as node,
        running_node(transport) as peer,
    ):
        network: Any = node.host.get_network()
        node.host.set_stream_handler(ECHO, echo)
        await peer.meet(node)

        async def three() -> list[Any]:
            return [
                *[await peer.host.new_stream(node.id, [ECHO]) for _ in range(2)],
                await network.new_stream(peer.id),
            ]

        streams = await three()
        hardening = harden(node.host)
        streams += await three()
        await eventually(lambda: node.manager.get_stats()["streams"] == 6)
        hardening.undo()
        assert network._stream_semaphore.value == 20 - 3
        streams += await three()
        await eventually(lambda: node.manager.get_stats()["streams"] == 9)
        assert network._stream_semaphore.value == 20 - 6
        for stream in streams[:6:2] + streams[1:6:2] + streams[6:]:
            await stream.reset()
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        assert network._stream_semaphore.value == 20
        assert network._resource_manager is node.manager
        assert node.manager.ledger.over_released == node.manager.ledger.leaked == 0


async def test_hardening_many_hosts() -> None:
    """Hooks on the whole process are placed once for all hosts."""
    for _ in range(600):
        harden(new_host(resource_manager=ResourceManager()))
    [listener] = await trio.open_tcp_listeners(0, host="::1")
    async with listener, await trio.open_tcp_stream("::1", listener.socket.getsockname()[1]) as it:
        assert TrioTCPStream(it).get_remote_address() == it.socket.getpeername()[:2]


async def test_a_stream_that_names_no_protocol_in_time() -> None:
    config = swarm_config(inbound_stream_protocol_negotiation_timeout=SHORT)
    async with running_node(config=config) as node, running_node() as peer:
        harden(node.host)
        await peer.meet(node)
        opened = node.manager.ledger.streams_opened
        stream = await peer.host.get_network().new_stream(node.id)
        await stream.write(b"\x13")
        await eventually(lambda: node.manager.ledger.streams_opened == opened + 1)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        assert await is_reset(stream)
