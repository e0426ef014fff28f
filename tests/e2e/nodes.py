"""Real py-libp2p hosts on loopback sockets, guarded by rcmgr."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import trio
from libp2p import new_host
from libp2p.abc import IHost, INotifee
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.identity.identify import ID as IDENTIFY
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.transport.quic.config import QUICTransportConfig
from libp2p.transport.quic.exceptions import QUICConnectionTimeoutError
from multiaddr import Multiaddr

from rcmgr import (
    ConnectionLimits,
    ConnectionRateLimits,
    Eviction,
    NodeLimits,
    ResourceLimits,
    ResourceManager,
)

# A QUIC close is one datagram, which a busy machine may lose. The other side then ends the
# connection after this idle time. libp2p's default is 600 seconds.
QUIC_IDLE_S = 30.0
# A client repeats its first packet after twice this time, and libp2p's listener takes that for
# another connection. libp2p's default is 0.1 seconds, which a busy machine exceeds.
QUIC_INITIAL_RTT_S = 2.0
PATIENCE_S = QUIC_IDLE_S + 15
ECHO = TProtocol("/echo/1.0.0")
LONG = 60.0  # seconds for a handshake that must succeed on a busy machine too
SHORT = 1.0  # seconds for a handshake, in tests that let one stall (below 1 is no limit)


def listen_on(transport: str, address: str = "") -> Multiaddr:
    """This address, or any free one of 127.0.0.1.

    libp2p shares its UDP ports with other sockets (SO_REUSEPORT). So the kernel may give port 0 of
    one process and of another the same port. It does not do so for a socket that shares nothing.
    """
    if transport == "quic" and not address:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unshared:
            unshared.bind(("127.0.0.1", 0))
            port = unshared.getsockname()[1]
        return Multiaddr(f"/ip4/127.0.0.1/udp/{port}/quic-v1")
    return Multiaddr(address or f"/ip4/127.0.0.1/tcp/0{'/ws' if transport == 'ws' else ''}")


@dataclass
class SilentPeer:
    """The address of a listener that never sends a byte, or of no listener."""

    id: ID
    port: int

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.id, [Multiaddr(f"/ip4/127.0.0.1/tcp/{self.port}")])


@dataclass
class Node:
    host: IHost
    manager: ResourceManager

    @property
    def id(self) -> ID:
        return self.host.get_id()

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.id, self.host.get_addrs())

    @property
    def port(self) -> int:
        return int(self.host.get_addrs()[0].value_for_protocol("tcp"))

    def count(self, kind: str) -> int:
        return self.manager.connection_tracker.get_connection_count(kind)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Pending in, pending out, established in, established out."""
        return tuple(self.manager.get_stats()["connection_states"].values())

    async def dial(self, other: Node | SilentPeer) -> bool:
        """Whether this node's swarm reports a connection. The other one may still refuse it."""
        swarm: Any = self.host.get_network()
        # connect() dials nothing while the swarm's table still has a connection that has ended.
        await eventually(lambda: not any(
            old.is_closed or old.muxed_conn.is_closed for old in swarm.get_connections(other.id)))
        for _ in range(3):
            swarm.unblock_peer(other.id)  # for a minute after a failure, connect() dials nothing
            try:
                await self.host.connect(other.info)
            except Exception as error:  # noqa: BLE001 (py-libp2p raises several for a refused dial)
                if not was_too_slow(error):
                    return False
            else:
                return True
        return False

    def is_connected_to(self, other: Node) -> bool:
        """Whether the swarm's table has a connection to it. The manager counts it earlier."""
        return bool(self.host.get_network().get_connections(other.id))

    async def gets_into(self, other: Node) -> bool:
        """Dial, and tell whether the other side keeps the connection."""
        await self.dial(other)
        await eventually(
            lambda: other.is_connected_to(self) or not self.is_connected_to(other))
        return other.is_connected_to(self)

    async def meet(self, other: Node) -> None:
        """Dial, and wait until both sides have identified each other, which takes streams."""
        assert await self.dial(other)
        for one, another in ((self, other), (other, self)):
            await eventually(lambda one=one, another=another: one._has_identified(another))
        for each in (self, other):
            await eventually(lambda each=each: each.manager.get_stats()["streams"] == 0)

    def _has_identified(self, other: Node) -> bool:
        store = self.host.get_peerstore()
        host: Any = self.host
        host._schedule_identify(other.id, reason="test")  # unless done: it gives up after 10 s
        return store.has_peer(other.id) and bool(
            store.supports_protocols(other.id, [str(IDENTIFY)]))


def refuse_when_full(manager: ResourceManager) -> None:
    """Let a manager make no room for newcomers."""
    manager.node_limits = replace(manager.node_limits, eviction=Eviction(enabled=False))


def swarm_config(**options: Any) -> ConnectionConfig:
    """Settings of a swarm that waits long for each handshake, unless the options say otherwise."""
    steps = ("inbound_upgrade", "outbound_upgrade", "inbound_stream_protocol_negotiation",
             "outbound_stream_protocol_negotiation")
    return ConnectionConfig(**{**{f"{step}_timeout": LONG for step in steps}, **options})


@asynccontextmanager
async def running_node(
    transport: str = "tcp",
    *,
    limits: ConnectionLimits | None = None,
    node_limits: ResourceLimits | NodeLimits | None = None,
    key_pair: KeyPair | None = None,
    allowlist: tuple[ID | str, ...] = (),
    upgrade_timeout: float = LONG,
    rates: ConnectionRateLimits | None = None,
    listen: str | None = None,
    manager: Any = None,
    config: ConnectionConfig | None = None,
    muxer: Literal["YAMUX", "MPLEX"] | None = None,
    evicting: bool = False,
) -> AsyncIterator[Node]:
    """A host that runs, with a manager. It makes no retries and no automatic dials.

    manager: an existing one, also py-libp2p's. The default is ours with the limits given here.
    config: the swarm's. The default disables the swarm's own limits.
    evicting: whether a full node makes room as its limits say. It refuses newcomers by default,
        because a connection may lose its place after a second.
    """
    if manager is None:
        manager = ResourceManager(
            node_limits, allowlist, connection_limits=limits, connection_rate_limits=rates
        )
        if not evicting:
            refuse_when_full(manager)
    host = new_host(
        key_pair=key_pair or create_new_key_pair(),
        resource_manager=manager,
        enable_quic=transport == "quic",
        quic_transport_opt=QUICTransportConfig(
            idle_timeout=QUIC_IDLE_S, initial_rtt=QUIC_INITIAL_RTT_S),
        enable_websocket=transport == "ws",
        muxer_preference=muxer,
        connection_config=config or swarm_config(
            min_connections=0,
            low_watermark=0,
            high_watermark=10_000,
            max_connections=10_000,
            max_connections_per_peer=10_000,
            inbound_upgrade_timeout=upgrade_timeout,
            outbound_upgrade_timeout=upgrade_timeout,
        ),
    )
    swarm: Any = host.get_network()
    swarm.retry_config = RetryConfig(max_retries=0)
    async with host.run(listen_addrs=[listen_on(transport, listen)]):
        await swarm.auto_connector.stop()
        yield Node(host, manager)


class Notifee(INotifee):
    """Ignores all notifications of a swarm."""

    async def _ignore(self, *args: Any) -> None:
        pass

    opened_stream = closed_stream = connected = disconnected = listen = listen_close = _ignore


async def echo(stream: Any) -> None:
    """Write each byte back, until the stream ends."""
    with suppress(StreamError):
        while data := await stream.read(1):
            await stream.write(data)


async def hold(stream: Any) -> None:
    """Keep a stream until it ends."""
    with suppress(StreamError):
        while await stream.read(1):
            pass


async def is_reset(stream: Any, seconds: float = PATIENCE_S) -> bool:
    """Whether the other side resets the stream, instead of making us wait."""
    with trio.move_on_after(seconds):
        try:
            await stream.write(b"\x13")
            await stream.read(1)
        except StreamError:
            return True
    return False


def held(node: Node, *path: str) -> dict[str, Any]:
    """A scope in the node's snapshot. {}: it does not exist."""
    found: Any = node.manager.ledger.snapshot()
    for key in path:
        found = found.get(key, {})
    return found


async def all_back(node: Node, *others: Node) -> None:
    """Disconnect the others, and check that the node then holds nothing."""
    for other in others:
        await other.host.disconnect(node.id)
    ledger = node.manager.ledger
    await eventually(lambda: not any(ledger.system().stat()) and ledger.peers() == [])
    assert ledger.leaked == ledger.over_released == 0


def was_too_slow(error: BaseException) -> bool:
    """Whether a QUIC handshake timed out after 10 s, as some do on a busy machine."""
    causes = [error.__cause__, *getattr(error, "errors", ())]
    return isinstance(error, QUICConnectionTimeoutError) or any(
        was_too_slow(cause) for cause in causes if cause is not None)


async def comes_true(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Wait until the condition holds. False: it does not within `seconds`."""
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110 (py-libp2p has no event for these)
            await trio.sleep(0.01)
    return condition()


async def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait until the condition holds. The test fails if it does not within `seconds`."""
    assert await comes_true(condition, seconds)
