"""Observers of hosts: several at once, observers that misbehave, and unusual hosts.

`test_event_table.py` has the events of each scenario.
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
from nodes import eventually, listen_on, running_node
from test_event_table import ESTABLISHED, PENDING, UP, in_brief

from rcmgr import (
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimits,
)
from rcmgr.libp2p import Libp2pMismatch, harden, observe, scope_streams

ENDS = ("closed by us", "closed by peer")


class Reported:
    """The events of one or several hosts."""

    def __init__(self, *hosts: Any) -> None:
        self.handler = ConnectionLifecycleHandler()
        self.events: list[Any] = []
        self.handler.register_handler(ConnectionLifecycleEvent, self.events.append)
        self.observers = [observe(host, self.handler) for host in hosts]

    def lives(self) -> dict[Any, list[str]]:
        """The events in brief, by connection."""
        lives: dict[Any, list[str]] = {}
        for event in self.events:
            lives.setdefault(event.connection_id, []).append(in_brief(event))
        return lives

    def counted(self) -> Counter[tuple[str, ...]]:
        return Counter(tuple(life) for life in self.lives().values())

    async def until(self, *lives: list[str]) -> None:
        """Wait for the events of all connections so far, the latest connection last."""
        try:
            await eventually(lambda: list(self.lives().values()) == list(lives))
        finally:
            assert list(self.lives().values()) == list(lives)


# -- several at once -------------------------------------------------------------------------------


async def test_simultaneous_dials_are_reported_once_each(transport: str) -> None:
    """Two hosts dial each other three times at once. Every connection is reported to its end."""
    async with running_node(transport) as one, running_node(transport) as other:
        ours, theirs = Reported(one.host), Reported(other.host)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                for node, to in ((one, other), (other, one)):
                    swarm: Any = node.host.get_network()
                    nursery.start_soon(swarm.dial_addr, to.host.get_addrs()[0], to.id)
        for reported in (ours, theirs):
            await eventually(lambda reported=reported: reported.counted() == {tuple(UP): 6})
            kinds = Counter(str(each).split("-")[0] for each in reported.lives())
            assert kinds == {"in": 3, "out": 3}
        for dialer, listener in ((ours, theirs), (theirs, ours)):
            dialled = {
                str(event.local_addr) for event in dialer.events
                if in_brief(event) == ESTABLISHED and event.connection_id.startswith("out")}
            accepted = {
                str(event.remote_addr) for event in listener.events
                if in_brief(event) == ESTABLISHED and event.connection_id.startswith("in")}
            assert dialled == accepted
            assert len(dialled) == 3
        await one.host.disconnect(other.id)
        for reported in (ours, theirs):
            lives = reported.lives
            await eventually(lambda lives=lives: all(life[-1] in ENDS for life in lives().values()))
            assert {len(life) for life in reported.lives().values()} == {3}


async def test_one_handler_observes_two_hosts(transport: str) -> None:
    """Connection ids are unique, and each host reports only its own connections."""
    async with running_node(transport) as node, running_node(transport) as peer:
        reported = Reported(node.host, peer.host)
        assert await peer.dial(node)
        await eventually(lambda: len(reported.events) >= 4)
        assert sorted(reported.lives().values()) == [UP, UP]
        assert {each.split("-")[0] for each in reported.lives()} == {"in", "out"}


async def test_two_observers_of_one_host(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        first, second = Reported(node.host), Reported(node.host)
        assert await node.dial(peer)
        for reported in (first, second):
            await reported.until(UP)
        first.observers[0].undo()
        await node.host.disconnect(peer.id)
        await second.until([*UP, "closed by us"])
        assert list(first.lives().values()) == [UP]


async def test_a_dial_in_a_stream_handler_is_another_connection() -> None:
    """Although the handler's task is a child of the task that accepted its connection."""
    async with AsyncExitStack() as stack:
        node, peer, third = [
            await stack.enter_async_context(running_node()) for _ in range(3)]
        reported = Reported(node.host)
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
        await reported.until(UP, UP)
        assert [event.peer_id for event in reported.events] == [None, peer.id, third.id, third.id]


# -- observers that misbehave ----------------------------------------------------------------------


async def test_observers_that_raise_or_hang_do_not_disturb_the_host(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        reported = Reported(node.host)

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
            reported.handler.register_handler(ConnectionLifecycleEvent, observer)
        with caplog.at_level(logging.ERROR, logger="rcmgr"):
            assert await peer.dial(node)
            await reported.until(UP)
            await eventually(lambda: reported.handler.observer_errors == 3 * len(reported.events))
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        ours = [record for record in caplog.records if record.name.startswith("rcmgr")]
        assert len(ours) == 3
        await node.host.disconnect(peer.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


async def test_an_observer_may_dial(transport: str) -> None:
    async with AsyncExitStack() as stack:
        node, peer, third = [
            await stack.enter_async_context(running_node(transport)) for _ in range(3)]
        reported = Reported(node.host)

        async def dials(event: Any) -> None:
            if event.peer_id == peer.id and in_brief(event) == ESTABLISHED:
                assert await node.dial(third)

        reported.handler.register_handler(ConnectionLifecycleEvent, dials)
        assert await peer.dial(node)
        await reported.until(UP, UP)
        await eventually(lambda: node.counts == (0, 0, 1, 1))
        assert reported.handler.observer_errors == 0


async def test_undo_removes_all_hooks_and_a_late_observer_gets_no_event() -> None:
    async with running_node() as node, running_node() as peer:
        swarm: Any = node.host.get_network()
        before = set(vars(swarm))
        reported = Reported(node.host)
        assert set(vars(swarm)) > before
        assert await peer.dial(node)
        await reported.until(UP)
        reported.observers[0].undo()
        assert set(vars(swarm)) == before
        assert "open_connection" not in vars(node.manager)
        ((connection,),) = swarm.connections.values()
        assert "close" not in vars(connection)
        assert "close" not in vars(connection.muxed_conn)
        late = Reported(node.host)
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert list(reported.lives().values()) == [UP]
        assert late.events == []


async def test_the_manager_is_hooked_only_while_an_observer_needs_it() -> None:
    async with running_node() as node:
        observer = observe(node.host)
        handler = observer.handler
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


async def test_a_closed_connection_keeps_no_hook(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        reported = Reported(node.host)
        for _ in range(2):
            assert await peer.dial(node)
            swarm: Any = node.host.get_network()
            # a dial that took too long may have left a connection here for a while
            await eventually(lambda swarm=swarm: len(swarm.get_connections()) == 1)
            [connection] = swarm.get_connections()
            await node.host.disconnect(peer.id)
            await eventually(lambda: reported.events[-1:] and in_brief(reported.events[-1]) in ENDS)
            assert not reported.observers[0]._established
            assert "close" not in vars(connection)
            await eventually(lambda: peer.counts == (0, 0, 0, 0))


async def test_no_event_is_made_without_observers(
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
            observe(each.host)
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        swarm: Any = peer.host.get_network()
        with suppress(Exception):  # one too many
            await swarm.dial_addr(node.host.get_addrs()[0], node.id)
        await eventually(lambda: node.manager.denials.total > 0)
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


# -- unusual hosts ---------------------------------------------------------------------------------


async def test_a_host_of_another_libp2p_stays_unchanged() -> None:
    async with running_node() as node:
        swarm: Any = node.host.get_network()
        before = dict(vars(swarm))
        swarm.notify_connected = None
        with pytest.raises(Libp2pMismatch, match=r"no Swarm\.notify_connected to hook"):
            observe(node.host)
        del swarm.notify_connected
        assert vars(swarm) == before


async def test_hosts_with_scoped_streams(transport: str) -> None:
    """Observing and scoping begin and end in any order."""
    async with running_node(transport) as node, running_node(transport) as peer:
        scoped = scope_streams(node.host, node.manager)
        reported = Reported(node.host)
        scoped.undo()
        assert await node.dial(peer)
        await reported.until(UP)
        harden(node.host)
        await node.host.disconnect(peer.id)
        await reported.until([*UP, "closed by us"])


async def test_py_libp2ps_manager_or_none_gives_no_reason(transport: str) -> None:
    """Without a manager, a connection is pending from its first sign."""
    limited = StockManager(connection_limits=StockLimits(max_established_inbound=0))
    for manager, expected in ((None, UP), (limited, [PENDING, "denied: no reason"])):
        host = new_host(
            resource_manager=manager, enable_quic=transport == "quic",
            enable_websocket=transport == "ws")
        host.get_network().set_resource_manager(manager)
        reported = Reported(host)
        async with (
            host.run(listen_addrs=[listen_on(transport)]), running_node(transport) as peer
        ):
            swarm: Any = peer.host.get_network()
            try:
                await swarm.dial_addr(host.get_addrs()[0], host.get_id())
            except Exception:  # noqa: BLE001 (py-libp2p has many errors for a refusal)
                assert manager is limited
            await reported.until(expected)


async def test_a_manager_that_raises(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        reported = Reported(node.host)

        def fails(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        reported.observers[0].undo()
        node.manager.open_connection = fails
        reported = Reported(node.host)
        await peer.dial(node)
        # if the manager raises, stock admits before the handshake and refuses after it
        await reported.until([PENDING, "failed: handshake failed"])


async def test_a_closed_manager_gives_no_reason() -> None:
    async with running_node() as node, running_node() as peer:
        reported = Reported(node.host)
        node.manager.connection_limits = ConnectionLimits(max_pending_inbound=0)
        assert node.manager.open_connection() is None  # an older denial
        node.manager.close()
        await peer.dial(node)
        await eventually(lambda: len(reported.events) >= 1)
        assert isinstance(reported.events[0], ConnectionDeniedEvent)
        assert reported.events[0].error is None


async def test_each_denial_has_its_own_reason() -> None:
    """Although observers cause other denials meanwhile."""
    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        reported = Reported(node.host)

        def others(event: Any) -> None:
            node.manager.acquire_memory(1 << 60)

        reported.handler.register_handler(ConnectionDeniedEvent, others)
        streams = [await trio.open_tcp_stream("127.0.0.1", node.port) for _ in range(5)]
        await reported.until(*[["denied: connection.pending_inbound"]] * 5)
        for stream in streams:
            await stream.aclose()


async def test_a_connection_that_a_notifee_closes_at_once() -> None:
    async with running_node() as node, running_node() as peer:
        reported = Reported(node.host)
        swarm: Any = node.host.get_network()

        class Unfriendly:
            async def connected(self, network: Any, connection: Any) -> None:
                await connection.close()

            async def ignore(self, *_: Any) -> None:
                return

            disconnected = opened_stream = closed_stream = listen = listen_close = ignore

        swarm.register_notifee(Unfriendly())
        await peer.dial(node)
        await reported.until([*UP, "closed by us"])


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_dialled_name_is_reported_and_later_its_address(name: str) -> None:
    kind = "dns4" if name == "localhost" else "ip4"
    async with running_node() as node, running_node() as peer:
        reported = Reported(peer.host)
        swarm: Any = peer.host.get_network()
        address = Multiaddr(f"/{kind}/{name}/tcp/{node.port}")
        with trio.move_on_after(10), suppress(SwarmException):
            await swarm.dial_addr(address, node.id)
        pending, *others = reported.events
        assert str(pending.addresses[0]) == str(address)
        if in_brief(others[0]) == ESTABLISHED:
            assert str(others[0].remote_addr) == f"/ip4/127.0.0.1/tcp/{node.port}"
        else:  # py-libp2p asks a name server, which may be missing
            assert kind == "dns4"
            assert others[0].addresses == pending.addresses


async def test_a_dial_as_the_responder_of_a_hole_punch() -> None:
    """The swarm upgrades the dialled connection as if it had accepted it."""
    async with running_node() as node, running_node() as peer:
        reported, dialled = Reported(node.host), Reported(peer.host)
        swarm: Any = peer.host.get_network()
        async with trio.open_nursery() as dial:

            async def respond() -> None:
                with suppress(Exception):  # both listen, and wait for each other
                    await swarm.dial_addr_as_responder(node.host.get_addrs()[0], node.id)

            dial.start_soon(respond)
            await eventually(lambda: bool(dialled.events and reported.events))
            dial.cancel_scope.cancel()
        assert [life[0] for life in dialled.lives().values()] == [PENDING]
        local = str(dialled.events[0].local_addr)
        assert local.startswith("/ip4/127.0.0.1/tcp/")
        assert "p2p" not in local
        assert str(reported.events[0].remote_addr) == local


async def test_mplex_and_a_private_network() -> None:
    from libp2p.stream_muxer.mplex.mplex import MPLEX_PROTOCOL_ID, Mplex

    key = "ab" * 32
    hosts = [
        new_host(muxer_opt={MPLEX_PROTOCOL_ID: Mplex}, psk=key, resource_manager=None)
        for _ in range(2)
    ]
    one, other = (Reported(host) for host in hosts)
    async with (
        hosts[0].run(listen_addrs=[listen_on("tcp")]),
        hosts[1].run(listen_addrs=[listen_on("tcp")]),
    ):
        for host in hosts:
            await host.get_network().auto_connector.stop()
        swarm: Any = hosts[0].get_network()
        await swarm.dial_addr(hosts[1].get_addrs()[0], hosts[1].get_id())
        await other.until(UP)
        await hosts[0].disconnect(hosts[1].get_id())
        await one.until([*UP, "closed by us"])
        await eventually(lambda: len(other.events) == 3)
        # mplex sends no close, and the system resets a connection with unread data
        assert in_brief(other.events[-1]) in ("closed by peer", "reset")
        ours, theirs = one.events[-1], other.events[-1]
        assert isinstance(ours, ConnectionClosedEvent)
        assert (ours.local_addr, ours.remote_addr) == (theirs.remote_addr, theirs.local_addr)
        assert ours.local_addr is not None


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
