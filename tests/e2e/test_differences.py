"""Faults of a host of libp2p 0.8.1 that a host with our manager does not have.

The number in the name of a test is that of a row in docs/differences.md. Faults of a manager alone
are in libp2p/test_differences.py. A test with the sides "stock" and "hardened" only means that our
host without `harden` behaves as the stock one. The docstring of a test says what its steps return.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
import trio.testing
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.identity.identify import ID as IDENTIFY
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerstore import PeerStoreError
from libp2p.rcmgr import ResourceLimits
from libp2p.rcmgr.allowlist import AllowlistConfig
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr
from nodes import (
    PATIENCE_S,
    Node,
    Notifee,
    comes_true,
    eventually,
    hold,
    refuse_when_full,
    running_node,
    swarm_config,
)
from stock_and_ours import Side, outcomes

from rcmgr import AddressRates, NodeLimits, Rate

LOOPBACK = "127.0.0.0/8"
HOLD = TProtocol("/hold/1.0.0")


@asynccontextmanager
async def guarded(
    side: Side, transport: str = "tcp", config: ConnectionConfig | None = None, **arguments: Any
) -> AsyncIterator[Node]:
    """A host with a manager of that side, made with `arguments`. It evicts no connection."""
    manager = side(**arguments)
    if not side.is_stock:
        refuse_when_full(manager)
    async with running_node(transport, manager=manager, config=config) as node:
        with side.hardening(node.host):
            yield node


@asynccontextmanager
async def peers(count: int, transport: str = "tcp") -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_node(transport)) for _ in range(count)]


async def settled(value: Callable[[], Any], seconds: float = 0.2) -> Any:
    """Wait until no task of the hosts has run for `seconds`, for at most 10 s. Return the value."""
    with trio.move_on_after(10):
        while True:
            before = value()
            await trio.testing.wait_all_tasks_blocked(seconds)
            if value() == before:
                break
    return value()


def live(node: Node, other: Node | None = None) -> int:
    network = node.host.get_network()
    return len(network.get_connections() if other is None else network.get_connections(other.id))


async def accepted(node: Node, dialers: list[Node]) -> int:
    """Let them dial one after the other, and count the connections that stay."""
    for dialer in dialers:
        await dialer.gets_into(node)
    return int(await settled(lambda: live(node)))


def waiting(node: Node) -> int:
    """Streams that wait for the swarm's semaphore."""
    semaphore: Any = node.host.get_network()._stream_semaphore  # type: ignore[attr-defined]
    return 0 if semaphore is None else semaphore.statistics().tasks_waiting


def refused(node: Node) -> int:
    return int(node.manager.metrics.get_summary()["blocks"]["streams"])


# -- leaks and double counting ------------------------------------------------------------------


@outcomes(stock=3, ours=0)
async def test_l1_denied_inbound_connections(side: Side) -> int:
    """Connections that are counted after three were denied."""
    limits = ConnectionLimits(max_established_inbound=0)
    async with guarded(side, connection_limits=limits) as node, peers(3) as dialers:
        assert await accepted(node, dialers) == 0
        return int(node.manager._current_connections)


@outcomes(stock=3, ours=0)
async def test_l1_denied_outbound_connections(side: Side) -> int:
    limits = ConnectionLimits(max_established_outbound=0)
    async with guarded(side, connection_limits=limits) as node, peers(3) as listeners:
        for listener in listeners:
            assert not await node.dial(listener)
        return int(await settled(lambda: node.manager._current_connections))


async def burst(attacker: Node, target: Node, count: int) -> list[Any]:
    """Dial `count` times at once with one key. Return the secured connections that succeed."""
    swarm: Any = attacker.host.get_network()
    address = Multiaddr(str(target.host.get_addrs()[0]).partition("/p2p/")[0])
    done = []

    async def dial() -> None:
        with suppress(Exception):  # refused: upgrading raises several kinds of errors
            raw: Any = await TCP().dial(address)
            secured = await swarm.upgrader.upgrade_security(raw, True, target.id)
            await swarm.upgrader.upgrade_connection(secured, target.id)
            done.append(secured)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(dial)
    return done


@outcomes(stock=37, ours=0)
async def test_l2_parallel_dials_with_default_settings(side: Side) -> int:
    """Connections that are counted after one key dialled 45 times at once and left."""
    async with guarded(side, config=swarm_config()) as node, running_node() as attacker:
        connections = await burst(attacker, node, 45)
        await settled(lambda: live(node))
        for connection in connections:
            await connection.close()
        await eventually(lambda: live(node) == 0)
        return int(await settled(lambda: node.manager._current_connections))


@outcomes(stock=False, ours=True)
async def test_l3_a_node_is_wedged_by_bursts(side: Side) -> bool:
    """Whether an honest peer may connect after 12 bursts of 13 dials. Only the limit is not the
    default. (One key can do it in ten seconds; three are faster.)
    """
    limits = ResourceLimits(max_connections=60)
    async with (
        guarded(side, config=swarm_config(), limits=limits) as node,
        peers(4) as (honest, *attackers),
    ):
        for number in range(12):
            connections = await burst(attackers[number % 3], node, 13)
            await settled(lambda: live(node), 0.1)
            for connection in connections:
                await connection.close()
            await eventually(lambda: live(node) == 0)
        return await accepted(node, [honest]) == 1


@outcomes(stock=(0, 0), ours=(1, 1))
async def test_l4_max_connections_of_one(side: Side) -> tuple[int, int]:
    """Connections that are accepted and dialled, of two each."""
    found = []
    async with guarded(side, limits=ResourceLimits(1)) as node, peers(2) as others:
        found.append(await accepted(node, others))
    async with guarded(side, limits=ResourceLimits(1)) as node, peers(2) as others:
        found.append(sum([await node.dial(other) for other in others]))
    return found[0], found[1]


@outcomes(stock={1: 0, 2: 1}, ours={1: 1, 2: 2})
async def test_l5_limits_of_a_network(side: Side) -> dict[int, int]:
    """Connections that are accepted of three, by limit."""
    found = {}
    for most in (1, 2):
        async with guarded(side, cidr_limits=[(LOOPBACK, most)]) as node, peers(3) as dialers:
            found[most] = await accepted(node, dialers)
    return found


class Slow(Notifee):
    """Delays the announcement of each stream until an event."""

    def __init__(self) -> None:
        self.goes_on = trio.Event()
        self.seen = 0

    async def opened_stream(self, network: Any, stream: Any) -> None:
        self.seen += 1
        await self.goes_on.wait()


def unused_permits(node: Node) -> int | None:
    """Permits that the swarm's semaphore has given away. None: the swarm has no semaphore."""
    semaphore: Any = node.host.get_network()._stream_semaphore  # type: ignore[attr-defined]
    return None if semaphore is None else node.manager.limits.max_streams - semaphore.value


@outcomes(stock=(5, 5), hardened=(0, None))
async def test_l6_inbound_streams_that_end_early(side: Side) -> Any:
    """Streams that are counted and permits that are missing, after all streams have ended."""
    async with guarded(side) as node, running_node() as peer:
        await peer.meet(node)
        slow = Slow()
        node.host.get_network().register_notifee(slow)
        for _ in range(5):
            stream = await peer.host.get_network().new_stream(node.id)
            await stream.write(b"x")
        await eventually(lambda: slow.seen == 5)
        await peer.host.disconnect(node.id)
        await eventually(lambda: live(node) == 0)
        slow.goes_on.set()
        return await settled(lambda: (node.manager._current_streams, unused_permits(node)))


@outcomes(stock=(5, 5), hardened=(0, None))
async def test_l6_outbound_streams_that_end_early(side: Side) -> Any:
    async with guarded(side) as node, running_node() as peer:
        await peer.meet(node)
        slow = Slow()
        network = node.host.get_network()
        network.register_notifee(slow)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(network.new_stream, peer.id)
            await eventually(lambda: slow.seen == 5)
            await peer.host.disconnect(node.id)
            await eventually(lambda: live(node) == 0)
            slow.goes_on.set()
        return await settled(lambda: (node.manager._current_streams, unused_permits(node)))


@outcomes(stock=(0, 1), ours=(0, 0))
async def test_l7_connections_to_a_closed_manager(side: Side) -> tuple[int, int]:
    """Connections that the swarm has, and those that count as established."""
    async with guarded(side) as node, running_node() as peer:
        node.manager.close()
        there = await accepted(node, [peer])
        return there, node.count("established_inbound")


@outcomes(stock=(6, 1, 0), hardened=(None, 0, 0))
async def test_l15_another_manager_with_a_stream_open(side: Side) -> Any:
    """Permits of five, and the streams that each manager counts, after the stream has ended."""
    async with guarded(side) as node, running_node() as peer:
        await peer.meet(node)
        network: Any = node.host.get_network()
        stream = await network.new_stream(peer.id)
        second = side(ResourceLimits(max_streams=5))
        network.set_resource_manager(second)
        await stream.reset()
        semaphore = network._stream_semaphore
        return (
            semaphore and semaphore.value, node.manager._current_streams, second._current_streams)


@outcomes(stock=(True, True), ours=(False, False))
async def test_l16_a_host_that_stopped_with_three_connections(side: Side) -> tuple[bool, bool]:
    """Whether its metrics and its tracker still count connections."""
    async with peers(3) as dialers:
        async with guarded(side) as node:
            assert await accepted(node, dialers) == 3
        inbound = node.manager.metrics.get_summary()["connections"]["inbound"]
        return inbound > 0, node.count("established_inbound") > 0


# -- limits that exist and are not enforced -----------------------------------------------------


@outcomes(stock=(1, True), ours=(0, False))
async def test_e1_a_limit_of_zero_pending_connections(side: Side) -> tuple[int, bool]:
    """Connections that are accepted, and whether a dial succeeds."""
    limits = ConnectionLimits(max_pending_inbound=0, max_pending_outbound=0)
    async with guarded(side, connection_limits=limits) as node, peers(2) as (first, second):
        return await accepted(node, [first]), await node.dial(second)


@outcomes(stock=(0, 20), ours=(5, 5))
async def test_e1_silent_sockets(side: Side) -> tuple[int, int]:
    """The pending ones of 20 sockets, and all that count. The limit is 5 pending."""
    limits = ConnectionLimits(max_pending_inbound=5)
    async with guarded(side, connection_limits=limits) as node, AsyncExitStack() as stack:
        for _ in range(20):
            stream = await trio.open_tcp_stream("127.0.0.1", node.port)
            stack.push_async_callback(stream.aclose)
        return await settled(
            lambda: (node.count("pending_inbound"), node.manager._current_connections))


@outcomes(stock=(1, True), ours=(0, False))
async def test_e2_more_memory_than_allowed(side: Side) -> tuple[int, bool]:
    """Connections that are accepted, and whether a dial succeeds. The process may use one byte."""
    limits = MemoryConnectionLimits(max_process_memory_bytes=1)
    async with guarded(side, memory_limits=limits) as node, peers(2) as (first, second):
        return await accepted(node, [first]), await node.dial(second)


@outcomes(stock=(True, 0), ours=(True, 0))
async def test_e3_nobody_reserves_memory(side: Side) -> tuple[bool, int]:
    """Whether 64 KiB pass a node that may reserve nothing, and its peak of reserved bytes.

    Limits on the memory of the process apply instead (E2).
    """
    received = 0

    async def count(stream: Any) -> None:
        nonlocal received
        with suppress(StreamError):
            while data := await stream.read(1 << 16):
                received += len(data)

    limits = ResourceLimits(max_memory_mb=0)
    async with guarded(side, limits=limits) as node, running_node() as peer:
        node.host.set_stream_handler(HOLD, count)
        assert await peer.dial(node)
        stream = await peer.host.new_stream(node.id, [HOLD])
        await stream.write(b"x" * (1 << 16))
        await eventually(lambda: received == 1 << 16)
        return True, node.manager.metrics.get_summary()["memory"]["peak"]


@outcomes(stock=(40, 0, 0), ours=(40, 0, 0), hardened=(40, 0, 0))
async def test_e4_quic_streams_count_once_and_reserve_nothing(side: Side) -> tuple[int, int, int]:
    """Streams of 40 that count, the reserved memory, and streams that count after the end.

    The node may reserve 1 MiB.
    """
    limits = ResourceLimits(max_memory_mb=1)
    async with guarded(side, "quic", limits=limits) as node, running_node("quic") as peer:
        node.host.set_stream_handler(HOLD, hold)
        await peer.meet(node)
        streams = [await peer.host.new_stream(node.id, [HOLD]) for _ in range(40)]
        counted = await settled(lambda: node.manager._current_streams)
        for stream in streams:
            await stream.reset()
        return (
            counted, node.manager._current_memory,
            await settled(lambda: node.manager._current_streams),
        )


@outcomes(stock=(3, 57, 0), hardened=(2, 0, 58))
async def test_e5_streams_over_the_limit(side: Side) -> tuple[int, int, int]:
    """Streams of 60 that are open, that wait, and that were refused.

    The limit is 3. If hardened, one of them is the host's, and each peer may have one.
    """
    async with guarded(side, limits=ResourceLimits(max_streams=3)) as node, peers(2) as both:
        for peer in both:
            await peer.meet(node)
        before = refused(node)
        for _ in range(30):
            for peer in both:
                with suppress(StreamError):
                    stream = await peer.host.get_network().new_stream(node.id)
                    await stream.write(b"\x13")
        return await settled(lambda: (
            node.manager._current_streams, waiting(node), refused(node) - before))


async def within(seconds: float, work: Callable[[], Awaitable[Any]]) -> bool:
    """Whether the work succeeds in that time."""
    with trio.move_on_after(seconds), suppress(StreamError, StreamFailure):
        await work()
        return True
    return False


@outcomes(stock=False, hardened=True)
async def test_e6_streams_of_the_hosts_own(side: Side) -> bool:
    """Whether the host can open a stream while other peers have as many as they may."""
    async with guarded(side, limits=ResourceLimits(max_streams=8)) as node, peers(3) as others:
        for peer in others:
            await peer.meet(node)
        for _ in range(10):
            for peer in others:
                with suppress(StreamError):
                    await (await peer.host.get_network().new_stream(node.id)).write(b"\x13")
        await settled(lambda: node.manager._current_streams)
        return await within(
            side.patience, lambda: node.host.get_network().new_stream(others[0].id))


@outcomes(stock=(1, 1), hardened=(0, 0))
async def test_e6_two_hosts_that_identify_each_other(side: Side) -> Any:
    """Streams that wait in each host. Each may have one stream."""
    limits = ResourceLimits(max_streams=1)
    async with guarded(side, limits=limits) as one, guarded(side, limits=limits) as two:
        assert await one.dial(two)
        return await settled(lambda: (waiting(one), waiting(two)), 1)


@outcomes(stock=(False, False), hardened=(True, True))
async def test_e6_a_host_flooded_by_another_process(side: Side) -> tuple[bool, bool]:
    """Whether a friend and a newcomer are served while a peer opens streams without end."""
    async with (
        guarded(side, limits=ResourceLimits(max_streams=64)) as node,
        peers(2) as (friend, newcomer),
    ):
        await friend.meet(node)
        flood = await trio.lowlevel.open_process(
            [sys.executable, str(Path(__file__).with_name("flooder.py")),
             str(node.host.get_addrs()[0])], stderr=subprocess.DEVNULL)
        try:
            await eventually(lambda: waiting(node) + refused(node) > 50)

            async def ping() -> None:
                stream = await friend.host.new_stream(node.id, [PING])
                await stream.write(b"p" * 32)
                await stream.read(32)

            async def identified() -> None:
                assert await newcomer.dial(node)
                while True:
                    with suppress(PeerStoreError):
                        if PING in newcomer.host.get_peerstore().get_protocols(node.id):
                            return
                    await trio.sleep(0.05)

            return await within(side.patience, ping), await within(side.patience, identified)
        finally:
            flood.kill()
            await flood.wait()


@outcomes(stock=4, ours=1)
async def test_e7_handshakes_of_one_address(side: Side) -> int:
    """The handshakes of four that succeed at a rate of one connection.

    The rate is of the peer in stock, and of the address in ours, which it knows before a handshake.
    """
    rates: dict[str, Any] = {
        "connections_per_peer_per_sec": 1e-6, "burst_connections_per_peer": 1,
    } if side.is_stock else {
        "limits": NodeLimits(rates=AddressRates(ipv4=((32, Rate(1e-6, 1)),), overrides={}))}
    async with guarded(side, **rates) as node, running_node() as peer:
        return len([await connection.close() for connection in await burst(peer, node, 4)])


@outcomes(
    stock={"tcp": 0, "ws": 1, "quic": 1}, ours={"tcp": 0, "ws": 1, "quic": 0},
    hardened={"tcp": 0, "ws": 0, "quic": 0})
async def test_e8_connections_from_a_forbidden_network(side: Side) -> dict[str, int]:
    """Connections that are accepted, by transport."""
    found = {}
    for transport in ("tcp", "ws", "quic"):
        async with (
            guarded(side, transport, cidr_limits=[(LOOPBACK, 0)]) as node,
            running_node(transport) as peer,
        ):
            found[transport] = await accepted(node, [peer])
    return found


@outcomes(stock={"ws": 3, "quic": 3}, ours={"ws": 1, "quic": 1})
async def test_e9_dials_to_a_limited_network(side: Side) -> dict[str, int]:
    """Dials of three that succeed, by transport. The limit is one."""
    found = {}
    for transport in ("ws", "quic"):
        async with (
            guarded(side, transport, cidr_limits=[(LOOPBACK, 1)]) as node,
            peers(3, transport) as others,
        ):
            found[transport] = sum([await node.dial(other) for other in others])
    return found


@outcomes(stock=3, hardened=1)
async def test_e12_streams_of_a_protocol(side: Side) -> int:
    """Streams that are open of three. The protocol may have one."""
    async with guarded(side) as node, running_node() as peer:
        node.host.set_stream_handler(HOLD, hold)
        node.manager.set_protocol_stream_limit(HOLD, 1)
        await peer.meet(node)
        for _ in range(3):
            with suppress(StreamFailure):
                await peer.host.new_stream(node.id, [HOLD])
        return int(await settled(lambda: node.manager._current_streams))


# -- allowlist ----------------------------------------------------------------------------------


@outcomes(stock=(0, 1), ours=(1, 1))
async def test_a2_an_allowed_peer_with_a_limit_of_zero(side: Side) -> tuple[int, int]:
    """Connections that are accepted, and those that count."""
    async with running_node() as friend, guarded(
        side, connection_limits=ConnectionLimits(max_established_inbound=0),
        allowlist_config=AllowlistConfig(peers={friend.id}),
    ) as node:
        return await accepted(node, [friend]), node.manager._current_connections


@outcomes(
    stock={"peer": False, "peer at address": False},
    ours={"peer": True, "peer at address": True})
async def test_a3_an_allowed_peer_of_a_full_node(side: Side) -> dict[str, bool]:
    """Whether the peer gets in. Its id is unknown before the handshake, its address is not."""
    found = {}
    for kind in ("peer", "peer at address"):
        async with peers(3) as (*others, friend):
            allowlist = AllowlistConfig(peers={friend.id}) if kind == "peer" else AllowlistConfig(
                peer_multiaddrs={(friend.id, "/ip4/127.0.0.1")})
            limits = ResourceLimits(max_connections=2)
            async with guarded(side, limits=limits, allowlist_config=allowlist) as node:
                await accepted(node, others)
                await accepted(node, [friend])
                found[kind] = live(node, friend) == 1
    return found


# -- the swarm's own ------------------------------------------------------------------------------


@outcomes(
    stock={"tcp": 2, "ws": 2, "quic": 2}, hardened={"tcp": 3, "ws": 3, "quic": 3})
async def test_x1_connections_of_a_lifetime(side: Side) -> dict[str, int]:
    """Connections of three, one after the other, that a host with two slots accepts.

    QUIC connections take a slot too. (X2 claims that they do not, which is wrong for 0.8.1.)
    """
    found = {}
    for transport in ("tcp", "ws", "quic"):
        async with guarded(side, transport) as node, peers(3, transport) as dialers:
            swarm: Any = node.host.get_network()
            swarm._inbound_limiter.total_tokens = 2
            found[transport] = 0
            for peer in dialers:
                found[transport] += await accepted(node, [peer])
                await node.host.disconnect(peer.id)
                await eventually(lambda node=node: live(node) == 0)
                await settled(lambda swarm=swarm: swarm._inbound_limiter.borrowed_tokens)
    return found


@outcomes(
    stock={"YAMUX": (20, 20), "MPLEX": (0, 22), "QUIC": (0, 0)},
    hardened={"YAMUX": (0, 0), "MPLEX": (0, 0), "QUIC": (0, 0)})
async def test_x3_data_of_streams_that_were_reset(side: Side) -> dict[str, tuple[int, int]]:
    """Streams, and buffers or channels, that the muxer keeps after all streams have ended.

    20 streams are reset with unread data. Identify has two more.
    """

    async def reset(stream: Any) -> None:
        open_streams.append(stream)
        await unread.wait()
        await stream.reset()

    found = {}
    for muxer in ("YAMUX", "MPLEX", "QUIC"):
        transport, preference = ("quic", None) if muxer == "QUIC" else ("tcp", muxer)
        async with (
            guarded(side, transport) as node, running_node(transport, muxer=preference) as peer,
        ):
            unread, open_streams = trio.Event(), list[Any]()
            node.host.set_stream_handler(HOLD, reset)
            await peer.meet(node)
            [connection] = node.host.get_network().get_connections(peer.id)
            muxed: Any = connection.muxed_conn
            for _ in range(20):
                stream = await peer.host.new_stream(node.id, [HOLD])
                await stream.write(b"x" * 1000)
            await eventually(lambda held=open_streams: len(held) == 20)
            await settled(lambda: None)
            unread.set()
            await settled(lambda node=node: node.manager._current_streams)
            kept = vars(muxed)
            found[muxer] = (
                len(kept.get("streams", kept.get("_streams"))),
                len(kept.get("stream_buffers", kept.get(
                    "streams_msg_channels", kept.get("_stream_cache")))))
    return found


def frame(stream: int, data: bytes, flags: int = 0) -> bytes:
    """A yamux frame with data of a stream."""
    return struct.pack(">BBHLL", 0, 0, flags, stream, len(data)) + data


@asynccontextmanager
async def raw_yamux(side: Side) -> AsyncIterator[tuple[Node, Any, Any]]:
    """A host, a connection to it that takes raw frames, and the host's end of that connection."""
    async with guarded(side) as node, running_node() as peer:
        [connection] = await burst(peer, node, 1)
        await eventually(lambda: live(node) == 1)
        [accepted_one] = node.host.get_network().get_connections(peer.id)
        yield node, connection, accepted_one.muxed_conn
        await connection.close()


def asked(protocol: str) -> bytes:
    return b"".join(
        bytes([len(line)]) + line for line in (b"/multistream/1.0.0\n", f"{protocol}\n".encode()))


@outcomes(stock=(True, 1), hardened=(False, 0))
async def test_x4_more_than_a_window(side: Side) -> tuple[bool, int]:
    """Whether the host buffers more than 16 MiB of one stream, and its connections afterwards.

    16 MiB is the largest window.
    """

    async def wait(stream: Any) -> None:
        await trio.sleep_forever()

    async with raw_yamux(side) as (node, connection, muxed):
        node.host.set_stream_handler(HOLD, wait)
        await connection.write(frame(1, asked(HOLD), flags=1))
        await settled(lambda: node.manager._current_streams)
        with suppress(Exception):  # the host closes the connection
            for _ in range(20 << 4):
                await connection.write(frame(1, b"x" * (1 << 16)))
        kept = await settled(lambda: len(muxed.stream_buffers.get(1, b"")))
        await comes_true(lambda: live(node) == 0, side.patience)
        return kept > 16 << 20, live(node)


@outcomes(stock=(20, 20 * 50_000), hardened=(0, 0))
async def test_x4_streams_that_only_the_host_has_closed(side: Side) -> tuple[int, int]:
    """Streams and bytes that the muxer keeps of 20 identify streams with 50,000 unread bytes."""
    async with raw_yamux(side) as (node, connection, muxed):
        await eventually(lambda: bool(muxed.streams))  # identify, in the other direction
        before = len(muxed.streams)
        for number in range(20):
            await connection.write(frame(2 * number + 1, asked(IDENTIFY), flags=1))
            await connection.write(frame(2 * number + 1, b"x" * 50_000))
        await settled(lambda: node.manager._current_streams)
        await settled(lambda: sum(map(len, muxed.stream_buffers.values())))
        return len(muxed.streams) - before, sum(map(len, muxed.stream_buffers.values()))


@outcomes(stock="the host ended: wrong bytes", hardened="the host runs, no stream is left")
async def test_x5_an_error_in_a_handler(side: Side) -> str:
    """One stream reaches a handler that raises. The result says how the host is."""

    async def fail(stream: Any) -> None:
        raise ValueError("wrong bytes")

    try:
        async with guarded(side) as node, running_node() as peer:
            node.host.set_stream_handler(HOLD, fail)
            assert await peer.dial(node)
            with suppress(StreamFailure, StreamError), trio.fail_after(PATIENCE_S):
                await (await peer.host.new_stream(node.id, [HOLD])).read(1)
            assert await comes_true(lambda: node.manager._current_streams == 0)
            assert live(node) == 1
    except Exception as error:  # noqa: BLE001 (Python 3.10 has no ExceptionGroup)
        while groups := getattr(error, "exceptions", ()):
            error = groups[0]
        return f"the host ended: {error}"
    return "the host runs, no stream is left"
