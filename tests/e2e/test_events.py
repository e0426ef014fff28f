"""What a host's observer is told, in which order, for every way a connection goes."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from nodes import SHORT, Node, eventually, running_node

from rcmgr import (
    ConcreteLimits,
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimitExceeded,
    ConnectionLimits,
    ConnectionTracker,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    Limit,
    ListenFailedEvent,
    NodeLimits,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
    ScopeLimitExceeded,
)
from rcmgr.libp2p import Libp2pMismatch, observe, report_remote_addresses
from rcmgr.libp2p.hooks import Hook

PENDING_IN, PENDING_OUT = PendingInboundConnectionEvent, PendingOutboundConnectionEvent
INBOUND, OUTBOUND = EstablishedInboundConnectionEvent, EstablishedOutboundConnectionEvent
CLOSED, DENIED = ConnectionClosedEvent, ConnectionDeniedEvent


@pytest.fixture(autouse=True)
def remote_addresses() -> Any:
    reported = report_remote_addresses()
    yield
    reported.undo()


class Told:
    """The events of one host."""

    def __init__(self, node: Node) -> None:
        self.handler = ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits())
        self.events: list[Any] = []
        self.handler.register_handler(ConnectionLifecycleEvent, self.events.append)
        self.observer = observe(node.host, self.handler)

    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]

    async def until(self, *kinds: type) -> list[Any]:
        """The events, once they are of exactly these kinds and of one connection."""
        try:
            await eventually(lambda: len(self.events) >= len(kinds))
        finally:
            assert self.kinds() == list(kinds)
        assert len({event.connection_id for event in self.events}) <= 1
        return self.events


def unknown_peer() -> ID:
    return ID.from_pubkey(create_new_key_pair().public_key)


def port_of(address: Any) -> int:
    name = "udp" if "udp" in str(address) else "tcp"
    return int(address.value_for_protocol(name))


async def test_dial_and_accept(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        ours, theirs = Told(node), Told(peer)
        assert await peer.dial(node)
        accepted = await ours.until(*([] if transport == "quic" else [PENDING_IN]), INBOUND)
        dialled = await theirs.until(PENDING_OUT, OUTBOUND)
        listening = port_of(node.host.get_addrs()[0])
        assert (accepted[-1].peer_id, dialled[-1].peer_id) == (peer.id, node.id)
        assert dialled[0].peer_id == node.id
        assert port_of(dialled[0].addresses[0]) == port_of(dialled[1].remote_addr) == listening
        assert dialled[0].endpoint is Endpoint.DIALER
        assert "127.0.0.1" in str(accepted[-1].remote_addr)
        assert port_of(accepted[-1].remote_addr) not in (0, listening)
        if transport != "quic":
            assert accepted[0].peer_id is None
            assert port_of(accepted[-1].local_addr) == listening
            assert dialled[1].local_addr == accepted[-1].remote_addr
            suffix = "/ws" if transport == "ws" else ""
            assert str(accepted[-1].local_addr) == f"/ip4/127.0.0.1/tcp/{listening}{suffix}"
        await peer.host.disconnect(node.id)
        closed = (await theirs.until(PENDING_OUT, OUTBOUND, CLOSED))[-1]
        assert closed.reason == "closed by us"
        assert closed.peer_id == node.id
        assert 0 < closed.duration < 60
        if transport != "quic":  # whose end the other side hears of only after a while
            kinds = [PENDING_IN, INBOUND, CLOSED]
            assert (await ours.until(*kinds))[-1].reason == "closed by peer"


async def test_the_end_of_a_host(transport: str) -> None:
    async with running_node(transport) as node:
        async with running_node(transport) as peer:
            theirs = Told(peer)
            assert await peer.dial(node)
            await theirs.until(PENDING_OUT, OUTBOUND)
        assert (await theirs.until(PENDING_OUT, OUTBOUND, CLOSED))[-1].reason == "host shutdown"


async def test_a_reset() -> None:
    sockets: list[Any] = []

    def keep(original: Callable[..., Any]) -> Callable[..., Any]:
        async def upgrade(raw_conn: Any, *args: Any, **kwargs: Any) -> Any:
            sockets.append(raw_conn.stream.stream.socket)
            return await original(raw_conn, *args, **kwargs)

        return upgrade

    async with running_node() as node, running_node() as peer:
        ours = Told(node)
        Hook(peer.host.get_network(), "upgrade_outbound_raw_conn", keep)
        assert await peer.dial(node)
        await ours.until(PENDING_IN, INBOUND)
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sockets[0].close()
        assert (await ours.until(PENDING_IN, INBOUND, CLOSED))[-1].reason == "reset"


async def test_a_dial_that_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = Multiaddr(f"/ip4/127.0.0.1/tcp/{unused.getsockname()[1]}")
        async with running_node() as node:
            told = Told(node)
            with pytest.raises(SwarmException):
                await node.host.connect(PeerInfo(unknown_peer(), [address]))
            _, failed = await told.until(PENDING_OUT, DialFailedEvent)
            assert failed.reason == "refused"
            assert "SwarmException" in failed.error
            assert str(address) in str(failed.addresses[0])


async def test_a_dial_that_nobody_answers() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with running_node(upgrade_timeout=SHORT) as node:
        told = Told(node)
        with trio.move_on_after(SHORT):
            await node.host.connect(
                PeerInfo(unknown_peer(), [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]))
        _, failed = await told.until(PENDING_OUT, DialFailedEvent)
        assert failed.reason in ("timed out", "cancelled")
        assert node.counts == (0, 0, 0, 0)
    await listeners[0].aclose()


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_dial_that_reaches_somebody_else(transport: str) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        ours, theirs = Told(node), Told(peer)
        with pytest.raises(SwarmException):
            await peer.host.connect(PeerInfo(unknown_peer(), node.host.get_addrs()))
        _, failed = await theirs.until(PENDING_OUT, DialFailedEvent)
        assert failed.reason == "wrong peer id"
        _, failed = await ours.until(PENDING_IN, ListenFailedEvent)
        assert failed.reason == "handshake failed"
        assert failed.remote_addr is not None


@pytest.mark.parametrize(("words", "reason"), [
    (b"GET / HTTP/1.1\r\n\r\n", "handshake failed"), (b"", "timed out")])
async def test_a_handshake_that_fails(words: bytes, reason: str) -> None:
    async with running_node(upgrade_timeout=SHORT) as node:
        told = Told(node)
        stream = await trio.open_tcp_stream("127.0.0.1", node.port)
        if words:
            await stream.send_all(words)
            await stream.aclose()
        _, failed = await told.until(PENDING_IN, ListenFailedEvent)
        assert failed.reason == reason
        await stream.aclose()


async def test_denied_before_the_handshake() -> None:
    limits = ConnectionLimits(max_pending_inbound=0, max_pending_outbound=0)
    async with running_node(limits=limits) as node, running_node() as peer:
        told = Told(node)
        stream = await trio.open_tcp_stream("127.0.0.1", node.port)
        (denied,) = await told.until(DENIED)
        assert isinstance(denied.error, ConnectionLimitExceeded)
        assert denied.error.kind.value == "pending_inbound"
        assert denied.endpoint is Endpoint.LISTENER
        await stream.aclose()
        told.events.clear()
        assert not await node.dial(peer)
        (denied,) = await told.until(DENIED)
        assert denied.error.kind.value == "pending_outbound"
        assert (denied.endpoint, denied.peer_id) == (Endpoint.DIALER, peer.id)


async def first_denial(told: Told, transport: str) -> Any:
    if transport != "quic":
        return (await told.until(PENDING_IN, DENIED))[-1]
    # py-libp2p's dialler believes it is connected, and comes again
    await eventually(lambda: len(told.events) > 0)
    assert set(told.kinds()) == {DENIED}
    return told.events[0]


async def test_denied_after_the_handshake(transport: str) -> None:
    limits = NodeLimits(ConcreteLimits(peer_default=Limit(conns_inbound=0)))
    async with running_node(transport, node_limits=limits) as node, running_node(transport) as peer:
        told = Told(node)
        await peer.dial(node)
        denied = await first_denial(told, transport)
        assert isinstance(denied.error, ScopeLimitExceeded)
        assert denied.error.scope == f"peer:{peer.id}"


async def test_denied_by_a_limit_on_states(transport: str) -> None:
    limits = ConnectionLimits(max_established_inbound=0)
    async with running_node(transport, limits=limits) as node, running_node(transport) as peer:
        told = Told(node)
        await peer.dial(node)
        denied = await first_denial(told, transport)
        assert isinstance(denied.error, ConnectionLimitExceeded)
        assert denied.error.kind.value == "established_inbound"


async def test_observers_that_raise_or_hang_hinder_no_host(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        told = Told(node)

        def raises(event: Any) -> None:
            raise ZeroDivisionError

        async def hangs(event: Any) -> None:
            await trio.sleep_forever()

        def comes_back(event: Any) -> None:
            scope = node.manager.open_connection(b"somebody else", None, "outbound")
            assert scope is not None
            scope.close()

        for observer in (raises, hangs, comes_back):
            told.handler.register_handler(ConnectionLifecycleEvent, observer)
        with caplog.at_level(logging.ERROR, logger="rcmgr"):
            assert await peer.dial(node)
            await told.until(*([] if transport == "quic" else [PENDING_IN]), INBOUND)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        ours = [record for record in caplog.records if record.name.startswith("rcmgr")]
        assert len(ours) == 1
        assert told.handler.observer_errors == len(told.events)
        await node.host.disconnect(peer.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


async def test_undoing_and_being_late() -> None:
    async with running_node() as node, running_node() as peer:
        swarm: Any = node.host.get_network()
        told = Told(node)
        told.observer.undo()
        hooked = ("_dial_addr_single_attempt", "add_conn", "upgrade_inbound_raw_conn", "run")
        assert not set(hooked) & set(vars(swarm))
        assert "open_connection" not in vars(node.manager)
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        late = Told(node)
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert told.events == late.events == []


async def test_no_event_is_made_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        ConnectionLifecycleEvent, "__init__", lambda self, **_: made.append(self))
    for kind in (PENDING_IN, INBOUND, CLOSED):
        monkeypatch.setattr(kind, "__init__", lambda self, **_: made.append(self))
    async with running_node() as node, running_node() as peer:
        observe(node.host, ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits()))
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
    assert made == []


def test_what_is_no_host() -> None:
    handler = ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits())
    nothing: Any = object()
    with pytest.raises(Libp2pMismatch, match="has no swarm"):
        observe(nothing, handler)


async def test_quic_streams_are_counted_once() -> None:
    """QUIC connections would account for theirs too, if our scope had a `_resource_manager`."""
    async with running_node("quic") as node, running_node("quic") as peer:
        assert await peer.dial(node)
        await eventually(lambda: node.manager.get_stats()["streams"] == 0)
        before = peer.manager.ledger.streams_opened, node.manager.ledger.streams_opened
        streams = [await peer.host.get_network().new_stream(node.id) for _ in range(3)]
        for stream in streams:
            await stream.write(b"\x13")
        await eventually(lambda: node.manager.get_stats()["streams"] == 3)
        assert peer.manager.get_stats()["streams"] == 3
        assert peer.manager.ledger.streams_opened - before[0] == 3
        assert node.manager.ledger.streams_opened - before[1] == 3
        for stream in streams:
            await stream.reset()
        for each in (node, peer):
            await eventually(lambda each=each: each.manager.get_stats()["streams"] == 0)
            assert each.manager.get_stats()["over_released"] == 0
