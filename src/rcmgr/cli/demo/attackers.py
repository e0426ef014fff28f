"""The five attackers of the demo's host.

They use py-libp2p's code for Noise and yamux, but they run no host. A connection costs the attacker
far less than its victim, as in a real attack. Each attacker closes everything from time to time and
starts again. Otherwise the first full limit would hide all the others.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from .visit import UPLOAD, Visit

if TYPE_CHECKING:
    from libp2p.abc import IMuxedConn
    from libp2p.peer.id import ID

__all__ = ["half_open", "identities", "memory", "one_identity", "streams"]

CLOSE_NOTICED_S = 0.05
"""Seconds until an attacker notices that the host has closed its connection."""
RECONNECT_AFTER_S = 0.5


class Identity:
    """A key pair that opens and accepts connections."""

    def __init__(self) -> None:
        from libp2p import new_swarm

        swarm: Any = new_swarm(muxer_preference="YAMUX")
        self.peer_id = swarm.get_peer_id()
        self._upgrader = swarm.upgrader

    async def dial(self, visit: Visit) -> IMuxedConn:
        from libp2p.peer.id import ID

        stream = await trio.open_tcp_stream(visit.host, visit.port)
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


async def keep_trying(
    visit: Visit, attempt: Callable[[], Awaitable[bool]], shortest_s: float, longest_s: float
) -> None:
    """Attempt again and again, each time after a random pause."""
    while True:
        await trio.sleep(random.uniform(shortest_s, longest_s))
        await visit.attempt(attempt)


async def half_open(visit: Visit) -> None:
    """Open sockets and never send a byte. Advertise a listener that never answers a dial."""
    sockets, hold_s, pause_s = 40, 1.0, 1.2
    listeners = await trio.open_tcp_listeners(0, host=visit.host)

    async def never_answer(stream: trio.SocketStream) -> None:
        await visit.attempt(lambda: stay_silent(stream, 30))

    async def stay_silent(stream: trio.SocketStream, seconds: float) -> bool:
        async with stream:
            with trio.move_on_after(seconds) as scope:
                while await stream.receive_some():  # it ends when the host closes the socket
                    pass
        return scope.cancelled_caught

    async def open_one() -> bool:
        return await stay_silent(await trio.open_tcp_stream(visit.host, visit.port), hold_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, never_answer, listeners)
        visit.report("advertise", tarpit=listeners[0].socket.getsockname()[1])
        await visit.ready()
        while True:
            await trio.sleep(pause_s)
            async with trio.open_nursery() as wave:
                for _ in range(sockets):
                    wave.start_soon(visit.attempt, open_one)


async def identities(visit: Visit) -> None:
    """Dial with 40 peer ids. Let the host dial 12 more, which all close at the same moment."""
    dialers, listeners, hold_s, pause_s = 40, 12, 3.0, 0.6
    handshakes = trio.CapacityLimiter(3)
    began = trio.current_time()

    async def dial_often(identity: Identity) -> None:
        async def dial() -> bool:
            async with handshakes:
                conn = await identity.dial(visit)
            return await stay(conn, random.uniform(2, 5))

        await keep_trying(visit, dial, 0.4, 1.2)

    async def listen(identity: Identity) -> None:
        async def answer(stream: trio.SocketStream) -> None:
            async def accept() -> bool:
                conn = await identity.upgrade(stream)
                since = (trio.current_time() - began) % (hold_s + pause_s)
                return await stay(conn, max(0.0, hold_s - since))

            await visit.attempt(accept)

        sockets = await trio.open_tcp_listeners(0, host=visit.host)
        port = sockets[0].socket.getsockname()[1]
        visit.report("advertise", peer_id=identity.peer_id.to_base58(), port=port)
        await trio.serve_listeners(answer, sockets)

    async with trio.open_nursery() as nursery:
        for _ in range(listeners):
            nursery.start_soon(listen, Identity())
        dialing = [Identity() for _ in range(dialers)]
        await visit.ready()
        began = trio.current_time()
        for identity in dialing:
            nursery.start_soon(dial_often, identity)


async def one_identity(visit: Visit) -> None:
    """Open connection after connection with one peer id."""
    parallel = 8
    identity = Identity()

    async def dial() -> bool:
        return await stay(await identity.dial(visit), random.uniform(3, 6))

    await visit.ready()
    async with trio.open_nursery() as nursery:
        for _ in range(parallel):
            nursery.start_soon(keep_trying, visit, dial, 0.2, 0.8)


async def streams(visit: Visit) -> None:
    """Open stream after stream on one connection, and never name a protocol."""

    async def read(stream: Any) -> None:
        while await stream.read(256):
            pass

    await flood_streams(visit, read, parallel=90, hold_s=2.5, shortest_s=0.5, longest_s=1.5)


async def memory(visit: Visit) -> None:
    """Send without end on the streams of one connection, to a host that keeps all data."""
    from libp2p.custom_types import TProtocol
    from libp2p.protocol_muxer.multiselect_client import MultiselectClient
    from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

    data = bytes(64 * 1024)

    async def upload(stream: Any) -> None:
        communicator = MultiselectCommunicator(stream)
        await MultiselectClient().select_one_of([TProtocol(UPLOAD)], communicator)
        while True:
            await stream.write(data)

    await flood_streams(visit, upload, parallel=3, hold_s=6.0, shortest_s=0.3, longest_s=1.0)


async def flood_streams(
    visit: Visit,
    use: Callable[[Any], Awaitable[None]],
    *,
    parallel: int,
    hold_s: float,
    shortest_s: float,
    longest_s: float,
) -> None:
    """Use many streams of one connection in parallel, and reconnect when the host closes it."""
    identity = Identity()

    async def flood(conn: IMuxedConn) -> None:
        async def open_one() -> bool:
            stream = await conn.open_stream()
            try:
                with trio.move_on_after(hold_s) as scope:
                    await use(stream)
                return scope.cancelled_caught
            finally:
                with trio.move_on_after(1) as last:
                    last.shield = True
                    await stream.reset()

        async with trio.open_nursery() as nursery:
            for _ in range(parallel):
                nursery.start_soon(keep_trying, visit, open_one, shortest_s, longest_s)

    async def connect() -> bool:
        return await stay(await identity.dial(visit), float("inf"), flood)

    await visit.ready()
    while True:  # connect without a first pause, before the other attackers fill the limits
        await visit.attempt(connect)
        await trio.sleep(RECONNECT_AFTER_S)
