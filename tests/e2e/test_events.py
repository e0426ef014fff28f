"""Observers of hosts: several at once, misbehaving ones, and hosts that are not like others.

What is told for each way that a connection goes: `test_event_rows.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.network.exceptions import SwarmException
from libp2p.rcmgr import ResourceManager as StockManager
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits
from multiaddr import Multiaddr
from nodes import LISTEN, Node, eventually, running_node
from test_event_rows import ESTABLISHED, PENDING, UP, in_words

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimits,
    ConnectionTracker,
)
from rcmgr.libp2p import Libp2pMismatch, harden, observe, scope_streams

ENDS = ("closed by us", "closed by peer")


def new_handler() -> ConnectionLifecycleHandler:
    return ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits())


class Told:
    """The events of one observer, of one host or several."""

    def __init__(self, *hosts: Any) -> None:
        self.handler = new_handler()
        self.events: list[Any] = []
        self.handler.register_handler(ConnectionLifecycleEvent, self.events.append)
        self.observers = [observe(host, self.handler) for host in hosts]

    def lives(self) -> dict[Any, list[str]]:
        """By connection, what happened to it."""
        lives: dict[Any, list[str]] = {}
        for event in self.events:
            lives.setdefault(event.connection_id, []).append(in_words(event))
        return lives

    def counted(self) -> Counter[tuple[str, ...]]:
        return Counter(tuple(life) for life in self.lives().values())

    async def until(self, *lives: list[str]) -> None:
        """The lives of all connections there were, the latest last."""
        try:
            await eventually(lambda: list(self.lives().values()) == list(lives))
        finally:
            assert list(self.lives().values()) == list(lives)


async def quiet(node: Node) -> Node:
    """Without the dials of its own."""
    await node.host.get_network().auto_connector.stop()
    return node


# -- several at once -------------------------------------------------------------------------------


async def test_dials_at_the_same_time(transport: str) -> None:
    """Two hosts dial each other, both several times: all is told, once, and to the end."""
    async with running_node(transport) as one, running_node(transport) as other:
        for each in (one, other):
            await quiet(each)
        ours, theirs = Told(one.host), Told(other.host)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                for node, to in ((one, other), (other, one)):
                    swarm: Any = node.host.get_network()
                    nursery.start_soon(swarm.dial_addr, to.host.get_addrs()[0], to.id)
        for told in (ours, theirs):
            await eventually(lambda told=told: told.counted() == {tuple(UP): 6})
            kinds = Counter(str(each).split("-")[0] for each in told.lives())
            assert kinds == {"in": 3, "out": 3}
        for dialer, listener in ((ours, theirs), (theirs, ours)):
            dialled = {
                str(event.local_addr) for event in dialer.events
                if in_words(event) == ESTABLISHED and event.connection_id.startswith("out")}
            accepted = {
                str(event.remote_addr) for event in listener.events
                if in_words(event) == ESTABLISHED and event.connection_id.startswith("in")}
            assert dialled == accepted
            assert len(dialled) == 3
        await one.host.disconnect(other.id)
        for told in (ours, theirs):
            await eventually(
                lambda told=told: all(life[-1] in ENDS for life in told.lives().values()))
            assert all(len(life) == 3 for life in told.lives().values())


async def test_one_observer_of_two_hosts(transport: str) -> None:
    """No two connections have the same id, and neither host takes the other's for its own."""
    async with running_node(transport) as node, running_node(transport) as peer:
        told = Told(node.host, peer.host)
        assert await peer.dial(node)
        await eventually(lambda: len(told.events) >= 4)
        assert sorted(told.lives().values()) == [UP, UP]
        assert {each.split("-")[0] for each in told.lives()} == {"in", "out"}


async def test_two_observers_of_one_host(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        await quiet(node)
        first, second = Told(node.host), Told(node.host)
        assert await node.dial(peer)
        for told in (first, second):
            await told.until(UP)
        first.observers[0].undo()
        await node.host.disconnect(peer.id)
        await second.until([*UP, "closed by us"])
        assert list(first.lives().values()) == [UP]


async def test_what_a_stream_handler_does_is_not_its_connections() -> None:
    """Its task was started by the one that accepted the connection."""
    async with AsyncExitStack() as stack:
        node, peer, third = [
            await quiet(await stack.enter_async_context(running_node())) for _ in range(3)]
        told = Told(node.host)
        done = trio.Event()

        async def handle(stream: Any) -> None:
            scope = node.manager.open_connection(None, None, "outbound")
            assert scope is not None
            scope.close()
            assert await node.dial(third)
            done.set()

        node.host.set_stream_handler("/dial", handle)
        assert await peer.dial(node)
        await peer.host.new_stream(node.id, ["/dial"])
        await done.wait()
        await told.until(UP, UP)
        assert [event.peer_id for event in told.events] == [None, peer.id, third.id, third.id]


# -- observers that misbehave ----------------------------------------------------------------------


async def test_observers_that_raise_or_hang_hinder_no_host(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        for each in (node, peer):
            await quiet(each)
        told = Told(node.host)

        def raises(event: Any) -> None:
            raise ZeroDivisionError

        def leaves(event: Any) -> None:
            raise SystemExit

        async def hangs(event: Any) -> None:
            await trio.sleep_forever()

        async def leaves_later(event: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise SystemExit

        def comes_back(event: Any) -> None:
            scope = node.manager.open_connection(b"somebody else", None, "outbound")
            assert scope is not None
            scope.close()

        for observer in (raises, leaves, hangs, leaves_later, comes_back):
            told.handler.register_handler(ConnectionLifecycleEvent, observer)
        with caplog.at_level(logging.ERROR, logger="rcmgr"):
            assert await peer.dial(node)
            await told.until(UP)
            await eventually(lambda: told.handler.observer_errors == 3 * len(told.events))
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        ours = [record for record in caplog.records if record.name.startswith("rcmgr")]
        assert len(ours) == 3
        await node.host.disconnect(peer.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


async def test_an_observer_that_dials_in_its_turn(transport: str) -> None:
    async with AsyncExitStack() as stack:
        node, peer, third = [
            await quiet(await stack.enter_async_context(running_node(transport)))
            for _ in range(3)]
        told = Told(node.host)

        async def dials(event: Any) -> None:
            if event.peer_id == peer.id and in_words(event) == ESTABLISHED:
                assert await node.dial(third)

        told.handler.register_handler(ConnectionLifecycleEvent, dials)
        assert await peer.dial(node)
        await told.until(UP, UP)
        assert told.handler.observer_errors == 0
        assert node.counts == (0, 0, 1, 1)


async def test_undoing_and_being_late() -> None:
    async with running_node() as node, running_node() as peer:
        swarm: Any = node.host.get_network()
        before = set(vars(swarm))
        told = Told(node.host)
        assert set(vars(swarm)) > before
        assert await peer.dial(node)
        await told.until(UP)
        told.observers[0].undo()
        assert set(vars(swarm)) == before
        assert "open_connection" not in vars(node.manager)
        ((connection,),) = swarm.connections.values()
        assert "close" not in vars(connection)
        assert "close" not in vars(connection.muxed_conn)
        late = Told(node.host)
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert list(told.lives().values()) == [UP]
        assert late.events == []


async def test_a_manager_is_only_hooked_for_those_who_want_to_know() -> None:
    async with running_node() as node:
        handler = new_handler()
        observer = observe(node.host, handler)
        manager = vars(node.manager)
        assert "open_connection" not in manager
        end = handler.register_handler(ConnectionClosedEvent, print)
        assert "open_connection" not in manager
        others = [handler.register_handler(ConnectionDeniedEvent, print) for _ in range(2)]
        assert "open_connection" in manager
        others.pop()()
        assert "open_connection" in manager
        others.pop()()
        assert "open_connection" not in manager
        end()
        handler.register_handler(ConnectionLifecycleEvent, print)
        assert "open_connection" in manager
        observer.undo()
        assert "open_connection" not in manager
        handler.register_handler(ConnectionDeniedEvent, print)
        assert "open_connection" not in manager


async def test_nothing_is_left_of_a_connection(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        told = Told(node.host)
        for _ in range(2):
            assert await peer.dial(node)
            await eventually(lambda: node.is_connected_to(peer))
            swarm: Any = node.host.get_network()
            ((connection,),) = swarm.connections.values()
            await node.host.disconnect(peer.id)
            await eventually(lambda: told.events[-1:] and in_words(told.events[-1]) in ENDS)
            assert not told.observers[0]._established
            assert "close" not in vars(connection)
            await eventually(lambda: peer.counts == (0, 0, 0, 0))


async def test_no_event_is_made_for_nobody(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(self: Any, **_: Any) -> None:
        raise AssertionError("an event was made")

    def kinds(kind: type) -> list[type]:
        return [kind, *(each for sub in kind.__subclasses__() for each in kinds(sub))]

    for kind in kinds(ConnectionLifecycleEvent):
        monkeypatch.setattr(kind, "__init__", made)
    refused = ConnectionLimits(max_established_per_peer=1)
    async with running_node(transport, limits=refused) as node, running_node(transport) as peer:
        for each in (node, peer):
            await quiet(each)
            observe(each.host, new_handler())
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        swarm: Any = peer.host.get_network()
        await swarm.dial_addr(node.host.get_addrs()[0], node.id)  # one too many
        await eventually(lambda: node.manager.denials.total > 0)
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


# -- hosts that are not like others ----------------------------------------------------------------


def test_what_is_no_host() -> None:
    nothing: Any = object()
    with pytest.raises(Libp2pMismatch, match="has no swarm"):
        observe(nothing, new_handler())


async def test_a_host_of_another_version_is_left_as_it_was() -> None:
    async with running_node() as node:
        swarm: Any = node.host.get_network()
        before = dict(vars(swarm))
        swarm.notify_connected = None
        with pytest.raises(Libp2pMismatch, match=r"no Swarm\.notify_connected to hook"):
            observe(node.host, new_handler())
        del swarm.notify_connected
        assert vars(swarm) == before


async def test_hosts_whose_streams_have_scopes(transport: str) -> None:
    """Whichever came first, and whichever goes first."""
    async with running_node(transport) as node, running_node(transport) as peer:
        await quiet(node)
        scoped = scope_streams(node.host, node.manager)
        told = Told(node.host)
        scoped.undo()
        assert await node.dial(peer)
        await told.until(UP)
        harden(node.host)
        await node.host.disconnect(peer.id)
        await told.until([*UP, "closed by us"])


async def test_a_manager_of_py_libp2p_or_none(transport: str) -> None:
    """Then there are no reasons; with none, a connection is pending from the first word on."""
    limited = StockManager(connection_limits=StockLimits(max_established_inbound=0))
    for manager, expected in ((None, UP), (limited, [PENDING, "denied: no reason"])):
        host = new_host(
            resource_manager=manager, enable_quic=transport == "quic",
            enable_websocket=transport == "ws")
        host.get_network().set_resource_manager(manager)
        told = Told(host)
        async with (
            host.run(listen_addrs=[Multiaddr(LISTEN[transport])]), running_node(transport) as peer
        ):
            await quiet(peer)
            swarm: Any = peer.host.get_network()
            try:
                await swarm.dial_addr(host.get_addrs()[0], host.get_id())
            except Exception:  # noqa: BLE001 (whichever it is, it is refused)
                assert manager is limited
            await told.until(expected)


async def test_a_manager_that_fails(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        told = Told(node.host)

        def fails(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        told.observers[0].undo()
        node.manager.open_connection = fails
        told = Told(node.host)
        await peer.dial(node)
        # before a handshake, stock lets it in; after it, it does not
        await told.until([PENDING, "failed: handshake failed"])


async def test_a_closed_manager_gives_no_reason() -> None:
    async with running_node() as node, running_node() as peer:
        told = Told(node.host)
        node.manager.connection_limits = ConnectionLimits(max_pending_inbound=0)
        assert node.manager.open_connection() is None  # some reason of before
        node.manager.close()
        await peer.dial(node)
        await eventually(lambda: len(told.events) >= 1)
        assert isinstance(told.events[0], ConnectionDeniedEvent)
        assert told.events[0].error is None


async def test_the_reason_of_a_denial_is_its_own() -> None:
    """However many others are denied meanwhile."""
    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        told = Told(node.host)

        def others(event: Any) -> None:
            node.manager.acquire_memory(1 << 60)

        told.handler.register_handler(ConnectionDeniedEvent, others)
        streams = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(5)]
        await told.until(*[["denied: connection.pending_inbound"]] * 5)
        for stream in streams:
            await stream.aclose()


async def test_a_connection_that_a_notifee_closes_at_once() -> None:
    async with running_node() as node, running_node() as peer:
        await quiet(node)
        told = Told(node.host)
        swarm: Any = node.host.get_network()

        class Unfriendly:
            async def connected(self, network: Any, connection: Any) -> None:
                await connection.close()

            async def ignore(self, *_: Any) -> None:
                return

            disconnected = opened_stream = closed_stream = listen = listen_close = ignore

        swarm.register_notifee(Unfriendly())
        await peer.dial(node)
        await told.until([*UP, "closed by us"])


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_name_is_told_as_dialled_and_then_as_it_is(name: str) -> None:
    kind = "dns4" if name == "localhost" else "ip4"
    async with running_node() as node, running_node() as peer:
        told = Told(peer.host)
        swarm: Any = peer.host.get_network()
        address = Multiaddr(f"/{kind}/{name}/tcp/{node.port}")
        with trio.move_on_after(10), suppress(SwarmException):
            await swarm.dial_addr(address, node.id)
        pending, *others = told.events
        assert str(pending.addresses[0]) == str(address)
        if in_words(others[0]) == ESTABLISHED:
            assert str(others[0].remote_addr) == f"/ip4/127.0.0.1/tcp/{node.port}"
        else:  # py-libp2p asks a name server, and there may be none
            assert kind == "dns4"
            assert others[0].addresses == pending.addresses


async def test_a_dial_as_the_responder() -> None:
    """Of a hole punch: the swarm upgrades what it dialled as if it had accepted it."""
    async with running_node() as node, running_node() as peer:
        await quiet(node)
        told, dialled = Told(node.host), Told(peer.host)
        swarm: Any = peer.host.get_network()
        with trio.move_on_after(3), pytest.raises(Exception):  # noqa: B017, PT011 (both listen)
            await swarm.dial_addr_as_responder(node.host.get_addrs()[0], node.id)
        assert [life[0] for life in dialled.lives().values()] == [PENDING]
        local = str(dialled.events[0].local_addr)
        assert local.startswith("/ip4/127.0.0.1/tcp/")
        assert "p2p" not in local
        await eventually(lambda: len(told.events) > 0)
        assert str(told.events[0].remote_addr) == local


async def test_mplex_and_a_private_network() -> None:
    from libp2p.stream_muxer.mplex.mplex import MPLEX_PROTOCOL_ID, Mplex

    key = "ab" * 32
    hosts = [
        new_host(muxer_opt={MPLEX_PROTOCOL_ID: Mplex}, psk=key, resource_manager=None)
        for _ in range(2)
    ]
    one, other = (Told(host) for host in hosts)
    async with (
        hosts[0].run(listen_addrs=[Multiaddr(LISTEN["tcp"])]),
        hosts[1].run(listen_addrs=[Multiaddr(LISTEN["tcp"])]),
    ):
        for host in hosts:
            await host.get_network().auto_connector.stop()
        swarm: Any = hosts[0].get_network()
        await swarm.dial_addr(hosts[1].get_addrs()[0], hosts[1].get_id())
        await other.until(UP)
        await hosts[0].disconnect(hosts[1].get_id())
        await one.until([*UP, "closed by us"])
        await eventually(lambda: len(other.events) == 3)
        # mplex says no good-bye, and the system resets what it was sent and nobody read
        assert in_words(other.events[-1]) in ("closed by peer", "reset")
        closed, heard = one.events[-1], other.events[-1]
        assert isinstance(closed, ConnectionClosedEvent)
        assert (closed.local_addr, closed.remote_addr) == (heard.remote_addr, heard.local_addr)
        assert closed.local_addr is not None


async def test_quic_streams_are_counted_once() -> None:
    """QUIC connections would account for theirs too, if our scope had a `_resource_manager`."""
    async with running_node("quic") as node, running_node("quic") as peer:
        assert await peer.dial(node)
        for each in (node, peer):  # identify asks once each way
            await eventually(lambda each=each: each.manager.ledger.streams_opened == 2)
            await eventually(lambda each=each: each.manager.get_stats()["streams"] == 0)
        streams = [await peer.host.get_network().new_stream(node.id) for _ in range(3)]
        for stream in streams:
            await stream.write(b"\x13")
        await eventually(lambda: node.manager.get_stats()["streams"] == 3)
        assert peer.manager.get_stats()["streams"] == 3
        assert peer.manager.ledger.streams_opened == node.manager.ledger.streams_opened == 2 + 3
        for stream in streams:
            await stream.reset()
        for each in (node, peer):
            await eventually(lambda each=each: each.manager.get_stats()["streams"] == 0)
            assert each.manager.get_stats()["over_released"] == 0
