"""Every way that a connection goes, over every transport: what both sides are told, to the letter.

A row is a way; a cell is a row over one transport. Each cell is either in `ROWS`, with the events
of both sides, or in `STOCK_CANNOT`, with the reason why there is nothing to be told.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from nodes import SHORT, Node, eventually, running_node
from trio_websocket import connect_websocket_url, serve_websocket

from rcmgr import (
    ConcreteLimits,
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimits,
    ConnectionTracker,
    DialFailedEvent,
    Endpoint,
    EstablishedInboundConnectionEvent,
    EstablishedOutboundConnectionEvent,
    Limit,
    ListenFailedEvent,
    PendingInboundConnectionEvent,
    PendingOutboundConnectionEvent,
)
from rcmgr.libp2p import observe

TRANSPORTS = ("tcp", "ws", "quic")
HOSTS = {"ip4": "127.0.0.1", "ip6": "::1"}
SUFFIX = {"tcp": "", "ws": "/ws", "quic": "/quic-v1"}
PATIENCE = 20.0  # seconds: QUIC hears of an end after three probe timeouts

PENDING, ESTABLISHED = "pending", "established"
INBOUND = (
    PendingInboundConnectionEvent, EstablishedInboundConnectionEvent, ListenFailedEvent)
OUTBOUND = (
    PendingOutboundConnectionEvent, EstablishedOutboundConnectionEvent, DialFailedEvent)


def in_words(event: Any) -> str:
    if isinstance(event, ConnectionClosedEvent):
        return event.reason
    if isinstance(event, ConnectionDeniedEvent):
        return f"denied: {event.error.code if event.error else 'no reason'}"
    if isinstance(event, DialFailedEvent | ListenFailedEvent):
        return f"failed: {event.reason}"
    return PENDING if isinstance(
        event, PendingInboundConnectionEvent | PendingOutboundConnectionEvent) else ESTABLISHED


class Side:
    """A host and what it was told."""

    def __init__(self, node: Node, endpoint: Endpoint) -> None:
        self.node = node
        self.stop = trio.Event()
        self.stopped = trio.Event()
        self.swarm: Any = node.host.get_network()
        self.endpoint = endpoint
        self.events: list[Any] = []
        handler = ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits())
        handler.register_handler(ConnectionLifecycleEvent, self.events.append)
        self.observer = observe(node.host, handler)

    @property
    def told(self) -> list[str]:
        return [in_words(event) for event in self.events]

    @property
    def connection(self) -> Any:
        ((connection,),) = self.swarm.connections.values()
        return connection

    @property
    def quic(self) -> Any:
        transports = self.swarm.transport_manager.get_transports()
        return next(each for each in transports if type(each).__name__ == "QUICTransport")

    async def until(self, *told: str) -> None:
        try:
            await eventually(lambda: len(self.told) >= len(told))
        finally:
            assert self.told == list(told), self.events


class Stage:
    """Two hosts of one transport: one listens, the other one dials it."""

    def __init__(self, transport: str, version: str, nursery: trio.Nursery) -> None:
        self.transport = transport
        self.version = version
        self._nursery = nursery
        self.dialer: Side
        self.listener: Side
        self.port: int

    def address(self, port: int) -> Multiaddr:
        kind = "udp" if self.transport == "quic" else "tcp"
        host = HOSTS[self.version]
        return Multiaddr(f"/{self.version}/{host}/{kind}/{port}{SUFFIX[self.transport]}")

    async def start(
        self, *, inbound_timeout: float = PATIENCE, outbound_timeout: float = PATIENCE
    ) -> None:
        self.listener = await self._nursery.start(self._run, Endpoint.LISTENER, inbound_timeout)
        self.dialer = await self._nursery.start(self._run, Endpoint.DIALER, outbound_timeout)
        self.port = port_of(self.listener.node.host.get_addrs()[0])

    async def _run(
        self, endpoint: Endpoint, upgrade_timeout: float,
        task_status: trio.TaskStatus[Side] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with running_node(
            self.transport, listen=str(self.address(0)), upgrade_timeout=upgrade_timeout
        ) as node:
            side = Side(node, endpoint)
            await side.swarm.auto_connector.stop()  # it would dial again whoever left
            task_status.started(side)
            await side.stop.wait()
        side.stopped.set()

    def udp(self) -> socket.socket:
        family = socket.AF_INET if self.version == "ip4" else socket.AF_INET6
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.bind((HOSTS[self.version], 0))
        return udp

    async def dial(self, peer: ID | None = None, address: Multiaddr | None = None) -> None:
        """The error is told by the events."""
        peer = peer or self.listener.node.id
        address = address or self.address(self.port)
        # some of py-libp2p's are groups
        with trio.move_on_after(PATIENCE):
            try:
                await self.dialer.swarm.dial_addr(address, peer)
            except Exception:  # noqa: BLE001
                return


def port_of(address: Any) -> int:
    kind = "udp" if "/udp/" in str(address) else "tcp"
    return int(address.value_for_protocol(kind))


def somebody() -> ID:
    return ID.from_pubkey(create_new_key_pair().public_key)


# -- what happens ----------------------------------------------------------------------------------


async def dialled(stage: Stage) -> None:
    await stage.start()
    await stage.dial()


async def closed_by_dialer(stage: Stage) -> None:
    await dialled(stage)
    await stage.listener.until(PENDING, ESTABLISHED)
    await stage.dialer.node.host.disconnect(stage.listener.node.id)


async def closed_by_listener(stage: Stage) -> None:
    await dialled(stage)
    await stage.listener.until(PENDING, ESTABLISHED)
    try:
        raise KeyError("some reason of its own")
    except KeyError:  # which does not make it the other one's
        await stage.listener.node.host.disconnect(stage.dialer.node.id)


async def closed_at_the_muxer(stage: Stage) -> None:
    await dialled(stage)
    await stage.listener.until(PENDING, ESTABLISHED)
    await stage.dialer.connection.muxed_conn.close()


async def reset_on_the_way(stage: Stage) -> None:
    await stage.start()
    if stage.transport == "quic":
        await stage.dial()
        await stage.listener.until(PENDING, ESTABLISHED)
        muxed_conn = stage.dialer.connection.muxed_conn
        muxed_conn._quic.close(error_code=7, reason_phrase="out of order")
        await muxed_conn._transmit()
        return
    async with cable(stage) as (address, cut):
        await stage.dial(address=address)
        await stage.listener.until(PENDING, ESTABLISHED)
        cut()
        await stage.listener.until(PENDING, ESTABLISHED, "reset")
        await stage.dialer.until(PENDING, ESTABLISHED, "reset")


@asynccontextmanager
async def cable(stage: Stage) -> AsyncIterator[tuple[Multiaddr, Callable[[], None]]]:
    """An address that leads to the listener, and a function that resets all that goes there."""
    sockets: list[Any] = []

    async def carry(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(HOSTS[stage.version], stage.port)
        sockets.extend((near.socket, far.socket))

        async def pump(one: trio.SocketStream, other: trio.SocketStream) -> None:
            try:
                async for data in one:
                    await other.send_all(data)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return

        async with trio.open_nursery() as both:
            both.start_soon(pump, near, far)
            both.start_soon(pump, far, near)

    def cut() -> None:
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=HOSTS[stage.version])
        nursery.start_soon(trio.serve_listeners, carry, [listener])
        yield stage.address(listener.socket.getsockname()[1]), cut
        nursery.cancel_scope.cancel()


def leaving(name: str, *, closing: bool) -> Callable[[Stage], Awaitable[None]]:
    async def left(stage: Stage) -> None:
        await dialled(stage)
        await stage.listener.until(PENDING, ESTABLISHED)
        side = getattr(stage, name)
        if closing:
            await side.node.host.close()
        else:
            side.stop.set()
            await side.stopped.wait()

    return left


async def dialled_nobody(stage: Stage) -> None:
    await stage.start()
    family = socket.AF_INET if stage.version == "ip4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as unused:
        unused.bind((HOSTS[stage.version], 0))
        await stage.dial(somebody(), stage.address(unused.getsockname()[1]))


async def dialled_without_answer(stage: Stage) -> None:
    await stage.start(outbound_timeout=SHORT)
    if stage.transport == "quic":
        stage.dialer.quic._config.CONNECTION_HANDSHAKE_TIMEOUT = SHORT
        with stage.udp() as silent:
            await stage.dial(somebody(), stage.address(silent.getsockname()[1]))
        return
    stage.listener.observer.undo()

    async def wait(*_: Any) -> None:
        await trio.sleep_forever()

    stage.listener.swarm.upgrader.upgrade_connection = wait
    await stage.dial()


async def dialled_somebody_else(stage: Stage) -> None:
    await stage.start()
    await stage.dial(somebody())


async def spoke_nonsense(stage: Stage) -> None:
    """The dialer does not get to the listener, but to whoever answers with nonsense; and the
    listener is called by a program that does not know the protocol.
    """
    await stage.start()
    if stage.transport == "quic":
        stage.dialer.quic._config.CONNECTION_HANDSHAKE_TIMEOUT = SHORT
        for configuration in stage.dialer.quic._quic_configs.values():
            configuration.alpn_protocols = ["nonsense"]
        await stage.dial()
        return
    async with trio.open_nursery() as nursery:
        async with stranger(stage, nursery) as say:
            await say(NONSENSE)
        port = await nursery.start(impostor, stage)
        await stage.dial(somebody(), stage.address(port))
        await stage.listener.until(PENDING, "failed: handshake failed")
        nursery.cancel_scope.cancel()


NONSENSE = b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"


async def impostor(
    stage: Stage, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    host = HOSTS[stage.version]
    if stage.transport == "ws":

        async def accept(request: Any) -> None:
            websocket = await request.accept()
            await websocket.get_message()
            await websocket.send_message(NONSENSE)
            await websocket.aclose()

        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_websocket, accept, host, 0, None))
            task_status.started(server.port)
        return

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(NONSENSE)
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host=host)
    task_status.started(listener.socket.getsockname()[1])
    await trio.serve_listeners(answer, [listener])


async def said_nothing(stage: Stage) -> None:
    await stage.start(inbound_timeout=SHORT)
    async with trio.open_nursery() as nursery, stranger(stage, nursery):
        if stage.transport == "quic":
            await stage.listener.until(PENDING)
            (listener,) = stage.listener.swarm.listeners.values()
            await listener._registry.cleanup_stale_pending(max_age=0)  # as it does after 15 s
        await stage.listener.until(PENDING, "failed: timed out")
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger(stage: Stage, nursery: trio.Nursery) -> AsyncIterator[Any]:
    """Gets to where the handshake of libp2p would begin."""
    host = HOSTS[stage.version]
    if stage.transport == "tcp":
        async with await trio.open_tcp_stream(host, stage.port) as stream:
            yield stream.send_all
    elif stage.transport == "ws":
        where = f"[{host}]" if ":" in host else host
        websocket = await connect_websocket_url(nursery, f"ws://{where}:{stage.port}/")
        yield websocket.send_message
    else:
        client = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["libp2p"]))
        client.connect((host, stage.port), now=0.0)
        with stage.udp() as udp:
            for data, address in client.datagrams_to_send(now=0.0):
                udp.sendto(data, address)
            yield None


def refusing(limits: ConnectionLimits | ConcreteLimits) -> Callable[[Stage], Awaitable[None]]:
    async def refused(stage: Stage) -> None:
        await stage.start()
        for side in (stage.dialer, stage.listener):
            if isinstance(limits, ConcreteLimits):
                side.node.manager.scope_limits = limits
            else:
                side.node.manager.connection_limits = limits
        await stage.dial()

    return refused


async def over_the_cap_of_the_swarm(stage: Stage) -> None:
    await stage.start()
    stage.listener.swarm.connection_config.max_connections = 0
    await stage.dial()


async def dialled_over_the_cap_of_the_swarm(stage: Stage) -> None:
    await stage.start()
    stage.dialer.swarm.connection_config.max_connections = 0
    await stage.dial()


# -- what is told ----------------------------------------------------------------------------------


class Row(NamedTuple):
    happens: Callable[[Stage], Awaitable[None]]
    dialer: list[str] | None
    listener: list[str] | None
    """None: what it is told is another row's."""


NO_INBOUND = ConcreteLimits(peer_default=Limit(conns_inbound=0))
NO_OUTBOUND = ConcreteLimits(peer_default=Limit(conns_outbound=0))
UP = [PENDING, ESTABLISHED]

ROWS: dict[str, Row] = {
    "dialled and accepted": Row(dialled, UP, UP),
    "closed by the dialer": Row(
        closed_by_dialer, [*UP, "closed by us"], [*UP, "closed by peer"]),
    "closed by the listener": Row(
        closed_by_listener, [*UP, "closed by peer"], [*UP, "closed by us"]),
    "closed at the muxer": Row(
        closed_at_the_muxer, [*UP, "closed by us"], [*UP, "closed by peer"]),
    "reset": Row(reset_on_the_way, [*UP, "reset"], [*UP, "reset"]),
    "the dialer's host is closed": Row(
        leaving("dialer", closing=True), [*UP, "host shutdown"], [*UP, "closed by peer"]),
    "the listener's host is closed": Row(
        leaving("listener", closing=True), [*UP, "closed by peer"], [*UP, "host shutdown"]),
    # here stock leaves its sockets open until they are garbage, so that the other side waits
    "the dialer's host is not run any more": Row(
        leaving("dialer", closing=False), [*UP, "host shutdown"], None),
    "the listener's host is not run any more": Row(
        leaving("listener", closing=False), None, [*UP, "host shutdown"]),
    "dial refused": Row(dialled_nobody, [PENDING, "failed: refused"], []),
    "dial timed out": Row(dialled_without_answer, [PENDING, "failed: timed out"], []),
    "wrong peer id": Row(
        dialled_somebody_else, [PENDING, "failed: wrong peer id"],
        [PENDING, "failed: handshake failed"]),
    "handshake failed": Row(
        spoke_nonsense, [PENDING, "failed: handshake failed"],
        [PENDING, "failed: handshake failed"]),
    "handshake timed out": Row(said_nothing, [], [PENDING, "failed: timed out"]),
    "dial denied before the upgrade": Row(
        refusing(ConnectionLimits(max_pending_outbound=0)),
        ["denied: connection.pending_outbound"], []),
    "denied before the upgrade": Row(
        refusing(ConnectionLimits(max_pending_inbound=0)),
        None, ["denied: connection.pending_inbound"]),
    "dial denied after the upgrade, by a scope": Row(
        refusing(NO_OUTBOUND),
        [PENDING, "denied: connection.peer.conns_outbound"], None),
    "dial denied after the upgrade, by state": Row(
        refusing(ConnectionLimits(max_established_outbound=0)),
        [PENDING, "denied: connection.established_outbound"], None),
    "denied after the upgrade, by a scope": Row(
        refusing(NO_INBOUND),
        None, [PENDING, "denied: connection.peer.conns_inbound"]),
    "denied after the upgrade, by state": Row(
        refusing(ConnectionLimits(max_established_inbound=0)),
        None, [PENDING, "denied: connection.established_inbound"]),
    "dial over the swarm's own cap": Row(
        dialled_over_the_cap_of_the_swarm, ["failed: refused by the swarm"], []),
    "over the swarm's own cap": Row(
        over_the_cap_of_the_swarm, None, ["failed: refused by the swarm"]),
}

# cells of a row in which a transport tells something else: of the dialer, of the listener
OTHERWISE: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    # QUICConnection.close, called by itself, closes its socket before it says good-bye
    ("closed at the muxer", "quic"): ([*UP, "closed by us"], UP),
    # the dialer waits on, whatever it is answered
    ("handshake failed", "quic"): (
        [PENDING, "failed: timed out"], [PENDING, "failed: handshake failed"]),
    # the listener's handshake is done before the dialer looks who it is
    ("wrong peer id", "quic"): (
        [PENDING, "failed: wrong peer id"], [*UP, "closed by peer"]),
    # and before the swarm hears of the connection
    ("over the swarm's own cap", "quic"): (
        [*UP, "closed by peer"], [PENDING, "failed: refused by the swarm"]),
}

NO_REFUSAL = "a UDP socket that is not connected hears of no refusal: the dial times out"
NOBODY_ASKS = "the swarm hears of a QUIC connection after its handshake, and asks nobody before it"
NO_QUIC_OVER_IPV6 = "no handshake of libp2p 0.8.1's QUIC ends over IPv6: see the test below"
WITHOUT_HANDSHAKE = (
    "dial timed out", "handshake timed out", "dial denied before the upgrade",
    "dial over the swarm's own cap",
)
STOCK_CANNOT: dict[tuple[str, str, str], str] = {
    **{(row, "quic", "ip6"): NO_QUIC_OVER_IPV6 for row in ROWS if row not in WITHOUT_HANDSHAKE},
    ("dial refused", "quic", "ip4"): NO_REFUSAL,
    ("denied before the upgrade", "quic", "ip4"): NOBODY_ASKS,
}
CELLS = [
    (row, transport, version) for row in ROWS for transport in TRANSPORTS for version in HOSTS]


def test_every_cell_is_accounted_for() -> None:
    assert set(STOCK_CANNOT) <= set(CELLS)
    assert {transport for _, transport, _ in STOCK_CANNOT} == {"quic"}
    assert sum(version == "ip4" for *_, version in STOCK_CANNOT) == 2


@pytest.mark.parametrize(
    ("row", "transport", "version"), [cell for cell in CELLS if cell not in STOCK_CANNOT])
async def test_what_both_sides_are_told(row: str, transport: str, version: str) -> None:
    happens, *expected = ROWS[row]
    expected = list(OTHERWISE.get((row, transport), expected))
    async with trio.open_nursery() as nursery:
        stage = Stage(transport, version, nursery)
        await happens(stage)
        for side, told in zip((stage.dialer, stage.listener), expected, strict=True):
            if told is not None:
                await side.until(*told)
        await trio.sleep(0.2)  # in which nothing more is told
        for side, told in zip((stage.dialer, stage.listener), expected, strict=True):
            if told is not None:
                assert side.told == told, side.events
                check_content(side, stage)
        check_both_ends(stage)
        nursery.cancel_scope.cancel()


def check_content(side: Side, stage: Stage) -> None:
    events = side.events
    if not events:
        return
    assert len({event.connection_id for event in events}) == 1
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)
    other = stage.listener if side is stage.dialer else stage.dialer
    dials = side.endpoint is Endpoint.DIALER
    for event in events:
        if isinstance(event, ConnectionClosedEvent | ConnectionDeniedEvent):
            assert event.endpoint is side.endpoint
        else:
            assert isinstance(event, OUTBOUND if dials else INBOUND)
        if isinstance(event, ConnectionClosedEvent):
            assert 0 < event.duration < 60
        if isinstance(event, ConnectionClosedEvent | EstablishedInboundConnectionEvent
                      | EstablishedOutboundConnectionEvent):
            assert event.peer_id == other.node.id
            assert event.local_addr is not None
            assert event.remote_addr is not None
        elif isinstance(event, DialFailedEvent | PendingOutboundConnectionEvent):
            assert event.peer_id is not None
            assert getattr(event, "error", "").isprintable()
            (address,) = event.addresses
            assert port_of(address) != 0
        else:  # the listener's, whose peer nobody knows yet; or a denial
            if isinstance(event, ConnectionDeniedEvent):
                known = getattr(event.error, "peer_id", None)
                assert known is None or event.peer_id == other.node.id
            else:
                assert event.peer_id is None
            assert event.remote_addr is not None
        for address in (getattr(event, "local_addr", None), getattr(event, "remote_addr", None)):
            if address is not None:
                assert str(address).startswith(f"/{stage.version}/{HOSTS[stage.version]}/")
                assert str(address).endswith(SUFFIX[stage.transport])
                assert port_of(address) != 0


def check_both_ends(stage: Stage) -> None:
    """What is local to one is remote to the other, unless somebody else is between them."""
    ends = [
        (event.local_addr, event.remote_addr)
        for side in (stage.dialer, stage.listener) for event in side.events
        if isinstance(
            event, EstablishedInboundConnectionEvent | EstablishedOutboundConnectionEvent)
    ]
    if len(ends) == 2:
        (dialer_local, dialer_remote), (local, remote) = ends
        assert port_of(local) == stage.port
        if port_of(dialer_remote) == stage.port:  # no cable
            assert (dialer_local, dialer_remote) == (remote, local)
