"""Peers of the demo that run no host: a key pair, Noise and yamux over TCP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from .visit import Visit

if TYPE_CHECKING:
    from libp2p.abc import IMuxedConn
    from libp2p.peer.id import ID

__all__ = ["Identity", "stay"]

CLOSE_NOTICED_S = 0.05
"""Seconds until a peer notices that the host has closed its connection."""


class Identity:
    """A key pair that opens and accepts connections."""

    def __init__(self) -> None:
        from libp2p import new_swarm

        swarm: Any = new_swarm(muxer_preference="YAMUX")
        self.peer_id = swarm.get_peer_id()
        self._upgrader = swarm.upgrader

    async def dial(self, visit: Visit, source: str | None = None) -> IMuxedConn:
        """Connect to the host from this local address."""
        from libp2p.peer.id import ID

        stream = await trio.open_tcp_stream(visit.host, visit.port, local_address=source)
        return await self.upgrade(stream, ID.from_base58(visit.peer_id))

    async def upgrade(self, stream: trio.SocketStream, dialed: ID | None = None) -> IMuxedConn:
        """Noise and yamux over a socket. `dialed` is None if the other side has dialed."""
        from libp2p.io.trio import TrioTCPStream
        from libp2p.network.connection.raw_connection import RawConnection

        initiator = dialed is not None
        try:
            raw = RawConnection(TrioTCPStream(stream), initiator)
            secured = await self._upgrader.upgrade_security(raw, initiator, dialed)
            conn: IMuxedConn = await self._upgrader.upgrade_connection(
                secured, secured.get_remote_peer()
            )
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return conn


async def stay(
    conn: IMuxedConn, seconds: float, use: Callable[[IMuxedConn], Awaitable[None]] | None = None
) -> bool:
    """Keep and `use` a connection, then close it. False if the host closed it before.

    Streams that the host opens, such as identify, are reset.
    """

    async def reset_streams() -> None:
        while True:
            stream = await conn.accept_stream()
            await stream.reset()

    try:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conn.start)
                await conn.event_started.wait()
                nursery.start_soon(reset_streams)
                if use is not None:
                    nursery.start_soon(use, conn)
                while not conn.is_closed:  # noqa: ASYNC110 - it has no event for that
                    await trio.sleep(CLOSE_NOTICED_S)
                nursery.cancel_scope.cancel()
            return False
        return True
    finally:
        with trio.move_on_after(1) as scope:
            scope.shield = True
            await conn.close()
