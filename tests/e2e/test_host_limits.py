"""A real host keeps its limits, and every slot comes back."""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from nodes import (
    LONG,
    PATIENCE_S,
    SHORT,
    Node,
    SilentPeer,
    all_back,
    comes_true,
    eventually,
    held,
    running_node,
)

from rcmgr import ConnectionLimits, ConnectionRateLimits, Rate, ResourceLimits

NOTHING = (0, 0, 0, 0)


async def dial_all(dialers: list[Node], target: Node) -> None:
    async with trio.open_nursery() as nursery:
        for dialer in dialers:
            nursery.start_soon(dialer.dial, target)


async def test_a_connection_is_counted_once_and_given_back(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        assert await peer.dial(node)
        await eventually(lambda: node.is_connected_to(peer) and node.counts == (0, 0, 1, 0))
        assert peer.counts == (0, 0, 0, 1)
        assert set(node.manager.connection_tracker.established_per_peer) == {peer.id}
        connection = node.host.get_network().get_connections(peer.id)[0]
        assert node.manager.connection_tracker.established_per_peer[peer.id] == {
            str(id(connection.muxed_conn))
        }
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == NOTHING and peer.counts == NOTHING)
        for side in (node, peer):
            totals = side.manager.connection_tracker.snapshot()
            assert (totals.total_created, totals.total_closed, totals.peak_connections) == (1, 1, 1)
            await eventually(lambda side=side: side.manager.get_stats()["streams"] == 0)


async def test_the_accepting_side_closes(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        assert await peer.dial(node)
        await eventually(lambda: node.is_connected_to(peer))
        await node.host.disconnect(peer.id)
        await eventually(lambda: node.counts == NOTHING and peer.counts == NOTHING)


@pytest.mark.parametrize("maximum", [1, 3])
@pytest.mark.parametrize("limit", ["max_established_inbound", "max_established_total"])
async def test_an_established_limit_is_reached_and_never_exceeded(
    transport: str, limit: str, maximum: int
) -> None:
    async with AsyncExitStack() as stack:
        limits = ConnectionLimits.from_dict({limit: maximum})
        node = await stack.enter_async_context(running_node(transport, limits=limits))
        dialers = [
            await stack.enter_async_context(running_node(transport)) for _ in range(maximum + 2)
        ]
        await dial_all(dialers, node)
        tracker = node.manager.connection_tracker
        await eventually(lambda: node.counts == (0, 0, maximum, 0))
        await eventually(lambda: tracker.snapshot().total_denied >= 2)
        assert tracker.snapshot().peak_established_total == maximum
        denial = node.manager.last_denial
        assert denial is not None
        assert (denial.kind.value, denial.current, denial.limit) == (
            limit.removeprefix("max_"), maximum, maximum)
        assert denial.peer_id in [dialer.id for dialer in dialers]

        # the next peer gets a place that becomes free
        first = next(d for d in dialers if d.id in tracker.established_per_peer)
        await eventually(lambda: first.is_connected_to(node))
        await first.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, maximum - 1, 0))
        newcomer = await stack.enter_async_context(running_node(transport))
        await newcomer.dial(node)
        await eventually(lambda: newcomer.id in tracker.established_per_peer)
        assert tracker.snapshot().peak_established_total == maximum


async def test_one_key_gets_no_more_than_its_limit(transport: str) -> None:
    """One key dials in a burst. In 0.8.1, the refused dials leak their slots."""
    key_pair = create_new_key_pair()
    limits = ConnectionLimits(max_established_per_peer=2)
    async with running_node(transport, limits=limits) as node:
        tracker = node.manager.connection_tracker
        async with AsyncExitStack() as stack:
            dialers = [
                await stack.enter_async_context(running_node(transport, key_pair=key_pair))
                for _ in range(6)
            ]
            for _ in range(3):  # on a busy machine, dials over QUIC time out
                await dial_all(dialers, node)
                # a dial over QUIC may return before the node counts the connection
                if await comes_true(lambda: "established_per_peer" in tracker.snapshot().denied):
                    break
            assert tracker.snapshot().denied["established_per_peer"] >= 1
            assert tracker.snapshot().peak_established_per_peer == 2
            await eventually(lambda: node.count("pending_total") == 0)
            for dialer in dialers:
                await dialer.host.disconnect(node.id)
        # a swarm that gave up a QUIC dial may not know its connection, which ends with the host
        await eventually(lambda: node.counts == NOTHING)
        # an honest peer is still welcome
        async with running_node(transport) as honest:
            assert await honest.dial(node)
            await eventually(lambda: honest.id in tracker.established_per_peer)


async def test_max_connections_of_one_admits_one(transport: str) -> None:
    async with (
        running_node(transport, node_limits=ResourceLimits(max_connections=1)) as node,
        running_node(transport) as first,
        running_node(transport) as second,
    ):
        assert await first.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        await second.dial(node)
        await eventually(lambda: "system connection" in node.manager.get_stats()["denied"])
        assert node.counts == (0, 0, 1, 0)
        await first.host.disconnect(node.id)
        await eventually(lambda: node.counts == NOTHING)
        assert await second.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        assert node.manager.connection_tracker.snapshot().peak_connections == 1


async def test_outbound_limit(transport: str) -> None:
    limits = ConnectionLimits(max_established_outbound=1)
    async with (
        running_node(transport, limits=limits) as node,
        running_node(transport) as first,
        running_node(transport) as second,
    ):
        assert await node.dial(first)
        assert not await node.dial(second)
        await eventually(lambda: node.counts == (0, 0, 0, 1))
        await eventually(lambda: second.counts == NOTHING)
        await node.host.disconnect(first.id)
        await eventually(lambda: node.counts == NOTHING)
        assert await node.dial(second)


async def test_an_allowed_peer_is_never_denied(transport: str) -> None:
    key_pair = create_new_key_pair()
    friend_id = ID.from_pubkey(key_pair.public_key)
    limits = ConnectionLimits(max_established_inbound=0)
    async with (
        running_node(transport, limits=limits, allowlist=(friend_id,)) as node,
        running_node(transport, key_pair=key_pair) as friend,
        running_node(transport) as stranger,
    ):
        await stranger.dial(node)
        assert await friend.dial(node)
        await eventually(lambda: set(node.manager.connection_tracker.established_per_peer)
                         == {friend_id})
        await eventually(lambda: node.count("pending_total") == 0)
        assert node.manager.connection_tracker.snapshot().peak_established_inbound == 0


async def open_streams(node: Node, count: int, data: bytes = b"") -> list[trio.SocketStream]:
    """So many connections that send `data` and nothing else."""
    streams = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(count)]
    for stream in streams:
        with suppress(trio.BrokenResourceError):  # refused already
            await stream.send_all(data)
    return streams


async def test_half_open_connections_meet_the_pending_limit() -> None:
    async with running_node(limits=ConnectionLimits(max_pending_inbound=3)) as node:
        tracker = node.manager.connection_tracker
        streams = await open_streams(node, 8)
        await eventually(lambda: tracker.snapshot().total_denied == 5)
        assert node.counts == (3, 0, 0, 0)
        for stream in streams:
            await stream.aclose()
        await eventually(lambda: node.counts == NOTHING)
        assert tracker.snapshot().peak_pending_inbound == 3
        async with running_node() as honest:
            assert await honest.dial(node)


@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.1\r\n\r\n" * 8, b"\xff" * 4096])
async def test_half_open_connections_end(garbage: bytes) -> None:
    """The swarm ends stalled handshakes by its time-out, and the others because of the garbage."""
    async with running_node(
        limits=ConnectionLimits(max_pending_inbound=3), upgrade_timeout=LONG if garbage else SHORT
    ) as node:
        tracker = node.manager.connection_tracker
        streams = await open_streams(node, 8, garbage)
        await eventually(lambda: tracker.snapshot().total_created
                         + tracker.snapshot().total_denied == 8)
        await eventually(lambda: node.counts == NOTHING)
        assert tracker.snapshot().peak_pending_inbound <= 3
        for stream in streams:
            await stream.aclose()


async def test_half_open_connections_free_their_place() -> None:
    async with running_node(limits=ConnectionLimits(max_pending_inbound=2)) as node:
        for _ in range(3):
            streams = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(2)]
            await eventually(lambda: node.count("pending_inbound") == 2)
            for stream in streams:
                await stream.aclose()
            await eventually(lambda: node.counts == NOTHING)
        assert node.manager.connection_tracker.snapshot().total_denied == 0


async def test_dials_that_stall_or_are_cancelled() -> None:
    limits = ConnectionLimits(max_pending_outbound=2)
    async with running_node(limits=limits) as node:
        listeners = [await trio.open_tcp_listeners(0, host="127.0.0.1") for _ in range(5)]
        *silent, last = [
            SilentPeer(ID.from_pubkey(create_new_key_pair().public_key),
                       listener.socket.getsockname()[1])
            for [listener] in listeners
        ]
        async with trio.open_nursery() as dials:
            for peer in silent:
                dials.start_soon(node.dial, peer)
            await eventually(lambda: node.count("pending_outbound") == 2)
            await eventually(
                lambda: node.manager.get_stats()["denied"].get("pending_outbound", 0) >= 2
            )
            dials.cancel_scope.cancel()
        await eventually(lambda: node.counts == NOTHING)
        # and a dial that the silent peer ends (the swarm's own time-out takes 30 s)
        async with trio.open_nursery() as dials:
            dials.start_soon(node.dial, last)
            await eventually(lambda: node.count("pending_outbound") == 1)
            for [listener] in listeners:
                await listener.aclose()
        await eventually(lambda: node.counts == NOTHING)
        assert node.manager.connection_tracker.snapshot().peak_pending_outbound == 2


async def test_refused_dial_and_wrong_peer() -> None:
    async with running_node() as node, running_node() as other:
        assert not await node.dial(SilentPeer(other.id, 1))
        stranger = ID.from_pubkey(create_new_key_pair().public_key)
        assert not await node.dial(SilentPeer(stranger, other.port))
        await eventually(lambda: node.counts == NOTHING and other.counts == NOTHING)


async def test_streams_are_counted_limited_and_given_back(transport: str) -> None:
    protocol = TProtocol("/hold/1.0.0")
    node_limits = ResourceLimits(max_streams=8)
    async with (
        running_node(transport, node_limits=node_limits) as node,
        running_node(transport) as peer,
    ):

        async def hold(stream: object) -> None:
            await trio.sleep_forever()

        node.host.set_stream_handler(protocol, hold)
        await peer.meet(node)
        streams = []
        for _ in range(8):
            streams.append(await peer.host.new_stream(node.id, [protocol]))
        await eventually(lambda: node.manager.get_stats()["streams"] == 8)
        with trio.move_on_after(1):
            await peer.host.new_stream(node.id, [protocol])
        assert node.manager.get_stats()["peak_streams"] <= 8
        for stream in streams:
            await stream.reset()
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        await eventually(lambda: peer.manager.get_stats()["streams"] == 0)
        assert node.manager.get_stats()["over_released"] == 0


async def test_a_host_closed_in_mid_flood_holds_nothing(transport: str) -> None:
    async with AsyncExitStack() as stack:
        dialers = [await stack.enter_async_context(running_node(transport)) for _ in range(4)]
        async with trio.open_nursery() as nursery:
            async with running_node(transport, limits=ConnectionLimits(
                    max_pending_inbound=3, max_established_inbound=2)) as node:

                async def flood(dialer: Node) -> None:
                    while True:
                        await dialer.dial(node)
                        await dialer.host.disconnect(node.id)
                        await trio.sleep(0.01)

                for dialer in dialers:
                    nursery.start_soon(flood, dialer)
                tracker = node.manager.connection_tracker
                await eventually(lambda: tracker.snapshot().total_established >= 5, 20)
            # Handshakes that are in progress when the host stops end a moment later, because the
            # dialers still run. The traceback of an error that the swarm logs may hold a scope.

            def all_back() -> bool:
                gc.collect()
                totals = tracker.snapshot()
                return node.counts == NOTHING and totals.total_created == totals.total_closed

            await eventually(all_back)
            nursery.cancel_scope.cancel()
        snapshot = tracker.snapshot()
        assert snapshot.peak_pending_inbound <= 3
        assert snapshot.peak_established_inbound <= 2


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_cancelled_host_accepts_no_more(transport: str) -> None:
    """Stock py-libp2p's listeners do not end with a host that is cancelled."""
    async with running_node(transport) as node, running_node(transport) as peer:
        await peer.meet(node)
        port = node.port
        swarm: Any = node.host.get_network()
        swarm.manager.cancel()
        with trio.fail_after(PATIENCE_S), suppress(OSError):
            while True:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        await eventually(lambda: node.counts == NOTHING)


async def test_limits_changed_at_run_time_hold_for_new_connections(transport: str) -> None:
    async with (
        running_node(transport) as node,
        running_node(transport) as first,
        running_node(transport) as second,
    ):
        assert await first.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        node.manager.connection_limits = ConnectionLimits(max_established_inbound=1)
        await second.dial(node)
        await eventually(lambda: node.manager.last_denial is not None)
        assert set(node.manager.connection_tracker.established_per_peer) == {first.id}


async def test_a_quic_connection_counts_no_descriptor(transport: str) -> None:
    """The direction of the dial does not matter, as in go-libp2p."""
    descriptors = 0 if transport == "quic" else 1
    async with running_node(transport) as node, running_node(transport) as peer:
        await peer.meet(node)
        for each, direction in ((node, "conns_inbound"), (peer, "conns_outbound")):
            assert held(each, "system")[direction] == 1
            assert held(each, "system")["fd"] == descriptors
        await peer.host.disconnect(node.id)
        for each in (node, peer):
            await eventually(lambda each=each: not any(each.manager.ledger.system().stat()))


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


async def test_the_rate_of_an_address() -> None:
    rates = ConnectionRateLimits(per_ip=Rate(0.001, 3))
    async with running_node(rates=rates) as node:
        for _ in range(6):
            stream = await trio.open_tcp_stream("127.0.0.1", node.port)
            await stream.aclose()
        await eventually(
            lambda: node.manager.get_stats()["denied"].get("address_rate") == 3
        )
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert node.manager.connection_tracker.snapshot().total_created == 3
        assert "connection of network 127.0.0.1/32" in str(node.manager.last_denial)


async def test_the_rate_of_a_peer(transport: str) -> None:
    rates = ConnectionRateLimits(per_peer=Rate(0.001, 2))
    key_pair = create_new_key_pair()
    async with running_node(transport, rates=rates) as node:
        for _ in range(2):
            async with running_node(transport, key_pair=key_pair) as peer:
                assert await peer.dial(node)
                await eventually(lambda: node.counts == (0, 0, 1, 0))
                await peer.host.disconnect(node.id)
                await eventually(lambda: node.counts == (0, 0, 0, 0))
        async with (
            running_node(transport, key_pair=key_pair) as peer,
            running_node(transport) as other,
        ):
            await peer.dial(node)
            denied = "connection_rate_per_peer"
            await eventually(lambda: denied in node.manager.get_stats()["denied"])
            await eventually(lambda: node.counts == (0, 0, 0, 0))
            assert await other.dial(node)
            await eventually(lambda: node.counts == (0, 0, 1, 0))
