"""The exact events of both sides, for every scenario, transport and version of IP.

`SCENARIOS` has the events of each scenario, and `EXCEPTIONS` those of a transport that differs.
`STOCK_CANNOT` has the cases that stock py-libp2p cannot report, each with its reason.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import pytest
import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from nodes import LONG, SHORT, Node, eventually, running_node
from trio_websocket import connect_websocket_url, serve_websocket

from rcmgr import (
    ConcreteLimits,
    ConnectionClosedEvent,
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLimits,
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

PENDING, ESTABLISHED = "pending", "established"
INBOUND = (
    PendingInboundConnectionEvent, EstablishedInboundConnectionEvent, ListenFailedEvent)
OUTBOUND = (
    PendingOutboundConnectionEvent, EstablishedOutboundConnectionEvent, DialFailedEvent)


def in_brief(event: Any) -> str:
    if isinstance(event, ConnectionClosedEvent):
        return event.reason
    if isinstance(event, ConnectionDeniedEvent):
        return f"denied: {event.error.code if event.error else 'no reason'}"
    if isinstance(event, DialFailedEvent | ListenFailedEvent):
        return f"failed: {event.reason}"
    return PENDING if isinstance(
        event, PendingInboundConnectionEvent | PendingOutboundConnectionEvent) else ESTABLISHED


class Side:
    """A host and its events."""

    def __init__(self, node: Node, endpoint: Endpoint) -> None:
        self.node = node
        self.stop = trio.Event()
        self.stopped = trio.Event()
        self.swarm: Any = node.host.get_network()
        self.endpoint = endpoint
        self.events: list[Any] = []
        self.observer = observe(node.host)
        self.observer.handler.register_handler(ConnectionLifecycleEvent, self.events.append)

    @property
    def reported(self) -> list[str]:
        return [in_brief(event) for event in self.events]

    @property
    def connection(self) -> Any:
        ((connection,),) = self.swarm.connections.values()
        return connection

    @property
    def quic(self) -> Any:
        transports = self.swarm.transport_manager.get_transports()
        return next(each for each in transports if type(each).__name__ == "QUICTransport")

    async def until(self, *expected: str) -> None:
        try:
            await eventually(lambda: len(self.reported) >= len(expected))
        finally:
            assert self.reported == list(expected), self.events


class Pair:
    """Two hosts with one transport: a listener and its dialer."""

    def __init__(self, transport: str, version: str, nursery: trio.Nursery) -> None:
        self.transport = transport
        self.version = version
        self._nursery = nursery
        self.dialer: Side
        self.listener: Side
        self.port: int
        self.began = time.monotonic()

    def address(self, port: int) -> Multiaddr:
        kind = "udp" if self.transport == "quic" else "tcp"
        host = HOSTS[self.version]
        return Multiaddr(f"/{self.version}/{host}/{kind}/{port}{SUFFIX[self.transport]}")

    async def start(
        self, *, inbound_timeout: float = LONG, outbound_timeout: float = LONG
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
            task_status.started(side)
            await side.stop.wait()
        side.stopped.set()

    def udp(self) -> socket.socket:
        family = socket.AF_INET if self.version == "ip4" else socket.AF_INET6
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.bind((HOSTS[self.version], 0))
        return udp

    async def dial(self, peer: ID | None = None, address: Multiaddr | None = None) -> None:
        """Dial and ignore the error: the events report it."""
        peer = peer or self.listener.node.id
        address = address or self.address(self.port)
        with suppress(Exception):
            await self.dialer.swarm.dial_addr(address, peer)


def port_of(address: Any) -> int:
    kind = "udp" if "/udp/" in str(address) else "tcp"
    return int(address.value_for_protocol(kind))


def somebody() -> ID:
    return ID.from_pubkey(create_new_key_pair().public_key)


# -- scenarios -------------------------------------------------------------------------------------


async def dialled(pair: Pair) -> None:
    await pair.start()
    await pair.dial()


async def closed_by_dialer(pair: Pair) -> None:
    await dialled(pair)
    await pair.listener.until(PENDING, ESTABLISHED)
    await pair.dialer.node.host.disconnect(pair.listener.node.id)


async def closed_by_listener(pair: Pair) -> None:
    await dialled(pair)
    await pair.listener.until(PENDING, ESTABLISHED)
    try:
        raise KeyError("some reason of its own")
    except KeyError:  # it must not become the reason of the close
        await pair.listener.node.host.disconnect(pair.dialer.node.id)


async def closed_at_the_muxer(pair: Pair) -> None:
    await dialled(pair)
    await pair.listener.until(PENDING, ESTABLISHED)
    await pair.dialer.connection.muxed_conn.close()


async def reset_on_the_way(pair: Pair) -> None:
    await pair.start()
    if pair.transport == "quic":
        await pair.dial()
        await pair.listener.until(PENDING, ESTABLISHED)
        muxed_conn = pair.dialer.connection.muxed_conn
        muxed_conn._quic.close(error_code=7, reason_phrase="out of order")
        await muxed_conn._transmit()
        return
    async with cable(pair) as (address, cut):
        await pair.dial(address=address)
        await pair.listener.until(PENDING, ESTABLISHED)
        cut()
        await pair.listener.until(PENDING, ESTABLISHED, "reset")
        await pair.dialer.until(PENDING, ESTABLISHED, "reset")


@asynccontextmanager
async def cable(pair: Pair) -> AsyncIterator[tuple[Multiaddr, Callable[[], None]]]:
    """An address that leads to the listener, and a function that resets its connections."""
    sockets: list[Any] = []

    async def carry(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(HOSTS[pair.version], pair.port)
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
        (listener,) = await trio.open_tcp_listeners(0, host=HOSTS[pair.version])
        nursery.start_soon(trio.serve_listeners, carry, [listener])
        yield pair.address(listener.socket.getsockname()[1]), cut
        nursery.cancel_scope.cancel()


def leaving(name: str, *, closing: bool) -> Callable[[Pair], Awaitable[None]]:
    async def left(pair: Pair) -> None:
        await dialled(pair)
        await pair.listener.until(PENDING, ESTABLISHED)
        side = getattr(pair, name)
        if closing:
            await side.node.host.close()
        else:
            side.stop.set()
            await side.stopped.wait()

    return left


async def dialled_nobody(pair: Pair) -> None:
    await pair.start()
    family = socket.AF_INET if pair.version == "ip4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as unused:
        unused.bind((HOSTS[pair.version], 0))
        await pair.dial(somebody(), pair.address(unused.getsockname()[1]))


async def dialled_without_answer(pair: Pair) -> None:
    await pair.start(outbound_timeout=SHORT)
    if pair.transport == "quic":
        pair.dialer.quic._config.CONNECTION_HANDSHAKE_TIMEOUT = SHORT
        with pair.udp() as silent:
            await pair.dial(somebody(), pair.address(silent.getsockname()[1]))
        return
    pair.listener.observer.undo()

    async def wait(*_: Any) -> None:
        await trio.sleep_forever()

    pair.listener.swarm.upgrader.upgrade_connection = wait
    await pair.dial()


async def dialled_somebody_else(pair: Pair) -> None:
    await pair.start()
    await pair.dial(somebody())


async def spoke_nonsense(pair: Pair) -> None:
    """The dialer reaches an impostor, and a stranger dials the listener. Both send nonsense."""
    await pair.start()
    if pair.transport == "quic":
        pair.dialer.quic._config.CONNECTION_HANDSHAKE_TIMEOUT = SHORT
        for configuration in pair.dialer.quic._quic_configs.values():
            configuration.alpn_protocols = ["nonsense"]
            configuration.initial_rtt = 10.0  # a repeated packet would be another connection
        await pair.dial()
        return
    async with trio.open_nursery() as nursery:
        async with stranger(pair, nursery) as say:
            await say(NONSENSE)
        port = await nursery.start(impostor, pair)
        await pair.dial(somebody(), pair.address(port))
        await pair.listener.until(PENDING, "failed: handshake failed")
        nursery.cancel_scope.cancel()


NONSENSE = b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"


async def impostor(
    pair: Pair, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    host = HOSTS[pair.version]
    if pair.transport == "ws":

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


async def said_nothing(pair: Pair) -> None:
    await pair.start(inbound_timeout=SHORT)
    async with trio.open_nursery() as nursery, stranger(pair, nursery):
        if pair.transport == "quic":
            await pair.listener.until(PENDING)
            (listener,) = pair.listener.swarm.listeners.values()
            await listener._registry.cleanup_stale_pending(max_age=0)  # stock does this after 15 s
        await pair.listener.until(PENDING, "failed: timed out")
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger(pair: Pair, nursery: trio.Nursery) -> AsyncIterator[Any]:
    """Connects up to the point where the handshake of libp2p begins."""
    host = HOSTS[pair.version]
    if pair.transport == "tcp":
        async with await trio.open_tcp_stream(host, pair.port) as stream:
            yield stream.send_all
    elif pair.transport == "ws":
        where = f"[{host}]" if ":" in host else host
        websocket = await connect_websocket_url(nursery, f"ws://{where}:{pair.port}/")
        yield websocket.send_message
    else:
        client = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["libp2p"]))
        client.connect((host, pair.port), now=0.0)
        with pair.udp() as udp:
            for data, address in client.datagrams_to_send(now=0.0):
                udp.sendto(data, address)
            yield None


def refusing(limits: ConnectionLimits | ConcreteLimits) -> Callable[[Pair], Awaitable[None]]:
    async def refused(pair: Pair) -> None:
        await pair.start()
        for side in (pair.dialer, pair.listener):
            if isinstance(limits, ConcreteLimits):
                side.node.manager.scope_limits = limits
            else:
                side.node.manager.connection_limits = limits
        await pair.dial()

    return refused


async def over_the_cap_of_the_swarm(pair: Pair) -> None:
    await pair.start()
    pair.listener.swarm.connection_config.max_connections = 0
    await pair.dial()


async def dialled_over_the_cap_of_the_swarm(pair: Pair) -> None:
    await pair.start()
    pair.dialer.swarm.connection_config.max_connections = 0
    await pair.dial()


# -- the table ------------------------------------------------------------------------------------


class Scenario(NamedTuple):
    run: Callable[[Pair], Awaitable[None]]
    dialer: list[str] | None
    listener: list[str] | None
    """The events of each side; None: another scenario checks them."""


NO_INBOUND = ConcreteLimits(peer_default=Limit(conns_inbound=0))
NO_OUTBOUND = ConcreteLimits(peer_default=Limit(conns_outbound=0))
UP = [PENDING, ESTABLISHED]

SCENARIOS: dict[str, Scenario] = {
    "dialled and accepted": Scenario(dialled, UP, UP),
    "closed by the dialer": Scenario(
        closed_by_dialer, [*UP, "closed by us"], [*UP, "closed by peer"]),
    "closed by the listener": Scenario(
        closed_by_listener, [*UP, "closed by peer"], [*UP, "closed by us"]),
    "closed at the muxer": Scenario(
        closed_at_the_muxer, [*UP, "closed by us"], [*UP, "closed by peer"]),
    "reset": Scenario(reset_on_the_way, [*UP, "reset"], [*UP, "reset"]),
    "the dialer's host is closed": Scenario(
        leaving("dialer", closing=True), [*UP, "host shutdown"], [*UP, "closed by peer"]),
    "the listener's host is closed": Scenario(
        leaving("listener", closing=True), [*UP, "closed by peer"], [*UP, "host shutdown"]),
    # stock leaves the sockets open until they are garbage, and the other side waits that long
    "the dialer's host is cancelled": Scenario(
        leaving("dialer", closing=False), [*UP, "host shutdown"], None),
    "the listener's host is cancelled": Scenario(
        leaving("listener", closing=False), None, [*UP, "host shutdown"]),
    "dial refused": Scenario(dialled_nobody, [PENDING, "failed: refused"], []),
    "dial timed out": Scenario(dialled_without_answer, [PENDING, "failed: timed out"], []),
    "wrong peer id": Scenario(
        dialled_somebody_else, [PENDING, "failed: wrong peer id"],
        [PENDING, "failed: handshake failed"]),
    "handshake failed": Scenario(
        spoke_nonsense, [PENDING, "failed: handshake failed"],
        [PENDING, "failed: handshake failed"]),
    "handshake timed out": Scenario(said_nothing, [], [PENDING, "failed: timed out"]),
    "dial denied before the upgrade": Scenario(
        refusing(ConnectionLimits(max_pending_outbound=0)),
        ["denied: connection.pending_outbound"], []),
    "denied before the upgrade": Scenario(
        refusing(ConnectionLimits(max_pending_inbound=0)),
        None, ["denied: connection.pending_inbound"]),
    "dial denied after the upgrade, by a scope": Scenario(
        refusing(NO_OUTBOUND),
        [PENDING, "denied: connection.peer.conns_outbound"], None),
    "dial denied after the upgrade, by state": Scenario(
        refusing(ConnectionLimits(max_established_outbound=0)),
        [PENDING, "denied: connection.established_outbound"], None),
    "denied after the upgrade, by a scope": Scenario(
        refusing(NO_INBOUND),
        None, [PENDING, "denied: connection.peer.conns_inbound"]),
    "denied after the upgrade, by state": Scenario(
        refusing(ConnectionLimits(max_established_inbound=0)),
        None, [PENDING, "denied: connection.established_inbound"]),
    "dial over the swarm's own cap": Scenario(
        dialled_over_the_cap_of_the_swarm, ["failed: refused by the swarm"], []),
    "over the swarm's own cap": Scenario(
        over_the_cap_of_the_swarm, None, ["failed: refused by the swarm"]),
}

# the events of the dialer and of the listener where a transport differs
EXCEPTIONS: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    # QUICConnection.close closes its socket before it sends the close
    ("closed at the muxer", "quic"): ([*UP, "closed by us"], UP),
    # the dialer ignores the answers and waits
    ("handshake failed", "quic"): (
        [PENDING, "failed: timed out"], [PENDING, "failed: handshake failed"]),
    # the listener's handshake is done before the dialer checks the peer id
    ("wrong peer id", "quic"): (
        [PENDING, "failed: wrong peer id"], [*UP, "closed by peer"]),
    # and before the swarm gets the connection
    ("over the swarm's own cap", "quic"): (
        [*UP, "closed by peer"], [PENDING, "failed: refused by the swarm"]),
}

NO_REFUSAL = "an unconnected UDP socket gets no refusal: the dial times out"
NOT_ASKED = "the swarm gets a QUIC connection after its handshake, and asks the manager then"
NO_QUIC_OVER_IPV6 = "over IPv6, libp2p 0.8.1's QUIC completes no handshake"
WITHOUT_HANDSHAKE = (
    "dial timed out", "handshake timed out", "dial denied before the upgrade",
    "dial over the swarm's own cap",
)
STOCK_CANNOT: dict[tuple[str, str, str], str] = {
    **{(name, "quic", "ip6"): NO_QUIC_OVER_IPV6
       for name in SCENARIOS if name not in WITHOUT_HANDSHAKE},
    ("dial refused", "quic", "ip4"): NO_REFUSAL,
    ("denied before the upgrade", "quic", "ip4"): NOT_ASKED,
}
CASES = [
    (name, transport, version)
    for name in SCENARIOS for transport in TRANSPORTS for version in HOSTS]


def test_only_quic_has_cases_that_stock_cannot_report() -> None:
    assert set(STOCK_CANNOT) <= set(CASES)
    assert {transport for _, transport, _ in STOCK_CANNOT} == {"quic"}
    assert sum(version == "ip4" for *_, version in STOCK_CANNOT) == 2


@pytest.mark.parametrize(
    ("name", "transport", "version"), [case for case in CASES if case not in STOCK_CANNOT])
async def test_the_events_of_both_sides(name: str, transport: str, version: str) -> None:
    run, *expected = SCENARIOS[name]
    expected = list(EXCEPTIONS.get((name, transport), expected))
    async with trio.open_nursery() as nursery:
        pair = Pair(transport, version, nursery)
        await run(pair)
        checks = [
            (side, events)
            for side, events in zip((pair.dialer, pair.listener), expected, strict=True)
            if events is not None]
        for side, events in checks:
            await side.until(*events)
        await trio.sleep(0.2)  # no further event may come
        for side, events in checks:
            assert side.reported == events, side.events
            check_content(side, pair)
        check_both_ends(pair)
        nursery.cancel_scope.cancel()


def check_content(side: Side, pair: Pair) -> None:
    events = side.events
    if not events:
        return
    assert len({event.connection_id for event in events}) == 1
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)
    other = pair.listener if side is pair.dialer else pair.dialer
    dials = side.endpoint is Endpoint.DIALER
    for event in events:
        if isinstance(event, ConnectionClosedEvent | ConnectionDeniedEvent):
            assert event.endpoint is side.endpoint
        else:
            assert isinstance(event, OUTBOUND if dials else INBOUND)
        if isinstance(event, ConnectionClosedEvent):
            assert 0 < event.duration < time.monotonic() - pair.began
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
        else:  # a denial, or an event of a listener that does not know the peer yet
            if isinstance(event, ConnectionDeniedEvent):
                known = getattr(event.error, "peer_id", None)
                assert known is None or event.peer_id == other.node.id
            else:
                assert event.peer_id is None
            assert event.remote_addr is not None
        for address in (getattr(event, "local_addr", None), getattr(event, "remote_addr", None)):
            if address is not None:
                assert str(address).startswith(f"/{pair.version}/{HOSTS[pair.version]}/")
                assert str(address).endswith(SUFFIX[pair.transport])
                assert port_of(address) != 0


def check_both_ends(pair: Pair) -> None:
    """The local address of each side is the remote address of the other, without a cable."""
    ends = [
        (event.local_addr, event.remote_addr)
        for side in (pair.dialer, pair.listener) for event in side.events
        if isinstance(
            event, EstablishedInboundConnectionEvent | EstablishedOutboundConnectionEvent)
    ]
    if len(ends) == 2:
        (dialer_local, dialer_remote), (local, remote) = ends
        assert port_of(local) == pair.port
        if port_of(dialer_remote) == pair.port:  # no cable
            assert (dialer_local, dialer_remote) == (remote, local)
