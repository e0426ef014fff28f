"""Light peers that dial a node from chosen loopback addresses: noise, yamux and ping, no host."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from libp2p import new_swarm
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import ID as PING
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from multiaddr import Multiaddr

__all__ = ["Peer", "Target", "open_ping", "ping"]


@dataclass(frozen=True)
class Target:
    """The address of the besieged node."""

    host: str
    port: int
    peer_id: str

    @classmethod
    def parse(cls, address: str) -> Target:
        parts = Multiaddr(address)
        return cls(
            parts.value_for_protocol("ip4"), int(parts.value_for_protocol("tcp")),
            parts.value_for_protocol("p2p"))

    async def connect(self, source: str) -> trio.SocketStream:
        """A socket from this loopback address."""
        return await trio.open_tcp_stream(self.host, self.port, local_address=source)


class Peer:
    """An identity at one loopback address."""

    def __init__(self, source: str) -> None:
        swarm: Any = new_swarm(key_pair=create_new_key_pair(), muxer_preference="YAMUX")
        self.source = source
        self._upgrader = swarm.upgrader

    @asynccontextmanager
    async def connection(self, target: Target) -> AsyncIterator[Any]:
        """A connection to the node, which resets streams that the node opens."""
        stream = await target.connect(self.source)
        try:
            raw = RawConnection(TrioTCPStream(stream), True)
            secured = await self._upgrader.upgrade_security(
                raw, True, ID.from_base58(target.peer_id))
            muxed = await self._upgrader.upgrade_connection(secured, secured.get_remote_peer())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(muxed.start)
                await muxed.event_started.wait()
                nursery.start_soon(_reset_streams, muxed)
                yield muxed
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)

    async def handshake(self, target: Target) -> None:
        """Noise and yamux, and hang up."""
        async with self.connection(target):
            pass


async def _reset_streams(muxed: Any) -> None:
    while True:
        stream = await muxed.accept_stream()
        await stream.reset()


async def open_ping(muxed: Any) -> Any:
    """A stream whose other end answers pings."""
    stream = await muxed.open_stream()
    await MultiselectClient().select_one_of([PING], MultiselectCommunicator(stream))
    return stream


async def ping(muxed: Any) -> float:
    """Seconds that one ping on a new stream takes, its negotiation included."""
    began = trio.current_time()
    stream = await open_ping(muxed)
    try:
        sent = secrets.token_bytes(32)
        await stream.write(sent)
        received = b""
        while len(received) < 32:
            received += await stream.read(32 - len(received))
        if received != sent:
            raise ValueError("the node answered another ping")
        return trio.current_time() - began
    finally:
        with trio.move_on_after(1, shield=True):
            await stream.reset()
