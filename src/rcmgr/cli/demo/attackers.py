"""The five attackers of the demo's host.

They run no host, so a connection costs them far less than their victim, as in a real attack. Each
attacker closes everything from time to time and
starts again. Otherwise the first full limit would hide all the others.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from .identity import Identity, stay
from .visit import UPLOAD, Visit

if TYPE_CHECKING:
    from libp2p.abc import IMuxedConn

__all__ = ["half_open", "identities", "memory", "one_identity", "streams"]

RECONNECT_AFTER_S = 0.5


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
        while True:  # the first wave comes before other attackers have made the host full
            async with trio.open_nursery() as wave:
                for _ in range(sockets):
                    wave.start_soon(visit.attempt, open_one)
            await trio.sleep(pause_s)


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
