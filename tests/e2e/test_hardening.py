"""What `harden` puts in place and takes away; what it is for is in test_host_findings.py."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.rcmgr.manager import ResourceManager as StockManager
from nodes import SHORT, Node, eventually, running_node

from rcmgr import ConcreteLimits, Limit, NodeLimits, ResourceLimits, ResourceManager
from rcmgr.libp2p import Libp2pMismatch, harden, scope_streams

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


async def test_streams_over_the_limit() -> None:
    limits = NodeLimits(ConcreteLimits(  # which let one peer have all that are not the host's
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
        assert await is_refused(await network.new_stream(node.id))
        own = await node.host.get_network().new_stream(peer.id)
        await own.reset()


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


@pytest.mark.parametrize("muxer", ["YAMUX", "MPLEX"])
async def test_a_hardened_host_takes_in_what_is_read(muxer: Any) -> None:
    """More than any window, and an answer to whoever has closed its half."""
    size, chunk = 4 << 20, 1 << 16
    done = trio.Event()

    async def swallow(stream: Any) -> None:
        got = 0
        while got < size:
            got += len(await stream.read(chunk))
        await stream.write(b"answer")
        await stream.close()
        done.set()

    async with running_node() as node, running_node(muxer=muxer) as peer:
        for each in (node, peer):
            harden(each.host)
        node.host.set_stream_handler(ECHO, swallow)
        assert await peer.dial(node)
        stream = await peer.host.new_stream(node.id, [ECHO])
        for _ in range(size // chunk):
            await stream.write(b"x" * chunk)
        await stream.close_write()
        await done.wait()
        await trio.sleep(0.2)
        assert await stream.read(6) == b"answer"
        [connection] = node.host.get_network().get_connections(peer.id)
        assert not connection.is_closed
        await eventually(lambda: not connection.muxed_conn.streams)  # type: ignore[attr-defined]


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


async def test_limits_that_say_it_themselves_stay() -> None:
    """Others may have all streams, and are refused beyond: in a stock host, one would wait."""
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
        assert await is_refused(await network.new_stream(node.id))


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
            assert await peer.dial(node)
        await eventually(lambda: manager.get_stats()["streams"] == 0)
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


async def test_undoing_with_streams_open_keeps_count(transport: str) -> None:
    """Plain ones of before, those with scopes, and plain ones of after: every permit comes back."""
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


async def test_streams_that_wait_already_are_asked_about() -> None:
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


async def test_an_accepted_connection_outlives_what_accepted_it(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        swarm: Any = node.host.get_network()
        assert await peer.dial(node)
        stream = await peer.host.new_stream(node.id, [ECHO])
        for number in range(20):
            await stream.write(bytes([number]))
            assert await stream.read(1) == bytes([number])
            await trio.sleep(0.05)
        assert swarm._inbound_limiter.borrowed_tokens == 1
        await stream.reset()
        again = await peer.host.new_stream(node.id, [ECHO])
        await again.write(b"y")
        assert await again.read(1) == b"y"
        await node.host.disconnect(peer.id)
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)


class DialsBack:
    """Dials another peer for every connection, and takes its time."""

    def __init__(self, other: Node, done: trio.Event) -> None:
        self.other, self.done = other, done

    async def connected(self, network: Any, connection: Any) -> None:
        if connection.muxed_conn.peer_id != self.other.id:
            await network.dial_peer(self.other.id)
            self.done.set()
            await trio.sleep(0.2)

    def __getattr__(self, name: str) -> Any:
        async def nothing(*args: Any) -> None:
            pass

        return nothing


async def test_what_an_observer_dials_is_not_what_was_accepted() -> None:
    async with running_node() as node, running_node() as peer, running_node() as other:
        harden(node.host)
        swarm: Any = node.host.get_network()
        node.host.get_peerstore().add_addrs(other.id, other.host.get_addrs(), 60)
        dialled = trio.Event()
        swarm.register_notifee(DialsBack(other, dialled))
        assert await peer.dial(node)
        await dialled.wait()
        await node.host.disconnect(other.id)
        await trio.sleep(0.3)
        assert len(swarm.get_connections(peer.id)) == 1
        assert swarm._inbound_limiter.borrowed_tokens == 1
        await peer.host.disconnect(node.id)
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)


async def test_handshakes_that_fail_give_their_slots_back() -> None:
    async with running_node(upgrade_timeout=SHORT) as node:
        harden(node.host)
        swarm: Any = node.host.get_network()
        silent = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(3)]
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 3)
        await silent[0].aclose()
        await silent[1].send_all(b"GET / HTTP/1.1\r\n\r\n")
        await eventually(lambda: swarm._inbound_limiter.borrowed_tokens == 0)
        for stream in silent:
            await stream.aclose()
    assert node.manager.get_stats()["connections"] == 0


async def test_a_stream_whose_opening_is_cancelled() -> None:
    """With a semaphore as well: what was taken is given back once."""
    async with running_node() as node, running_node() as peer:
        scope_streams(node.host, node.manager)
        network: Any = node.host.get_network()
        assert await node.dial(peer)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        announced = trio.Event()

        class Slow(DialsBack):
            async def opened_stream(self, network: Any, stream: Any) -> None:
                announced.set()
                await trio.sleep_forever()

        slow: Any = Slow(node, announced)
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


async def test_refusing_a_stream_of_our_own_costs_no_permit_of_quic() -> None:
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
        assert permits.value == before


async def test_many_hardened_hosts() -> None:
    """What is hooked for the whole process is hooked once."""
    for _ in range(600):
        harden(new_host(resource_manager=ResourceManager()))
    [listener] = await trio.open_tcp_listeners(0, host="::1")
    async with listener, await trio.open_tcp_stream("::1", listener.socket.getsockname()[1]) as it:
        assert TrioTCPStream(it).get_remote_address() == it.socket.getpeername()[:2]


async def test_a_stream_that_names_no_protocol_in_time() -> None:
    config = ConnectionConfig(inbound_stream_protocol_negotiation_timeout=SHORT)
    async with running_node(config=config) as node, running_node() as peer:
        harden(node.host)
        await peer.meet(node)
        stream = await peer.host.get_network().new_stream(node.id)
        await stream.write(b"\x13")
        await eventually(lambda: node.manager.get_stats()["streams"] == 1)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        assert await is_refused(stream)
