"""The honest newcomers of the demo: they come during the attack, ping once, and leave."""

from __future__ import annotations

import itertools
import math
import secrets
import socket
from typing import TYPE_CHECKING

import trio

from .identity import Identity, stay
from .visit import Visit

if TYPE_CHECKING:
    from libp2p.abc import IMuxedConn

__all__ = ["newcomers"]

EVERY_S = 0.5
TRY_AGAIN_S = 0.5
SERVED_WITHIN_S = 10.0
NETWORKS = [f"127.{number}.0.1" for number in range(10, 90)]
"""A loopback address for each newcomer. The limits see 80 networks."""


async def newcomers(visit: Visit) -> None:
    """Let a newcomer come every half second, each with a new peer id from another network."""
    try:
        with socket.socket() as trial:
            trial.bind((NETWORKS[0], 0))
    except OSError as error:  # macOS has only 127.0.0.1
        visit.report("unmeasured", why=f"this machine has one loopback address only: {error}")
        await visit.ready()
        return
    await visit.ready()
    async with trio.open_nursery() as nursery:
        for source in itertools.cycle(NETWORKS):
            nursery.start_soon(come, visit, source)
            await trio.sleep(EVERY_S)


async def come(visit: Visit, source: str) -> None:
    """Dial until the host answers a ping, and report how long that takes."""
    began = trio.current_time()
    identity = Identity()
    took_ms: float | None = None

    async def use(conn: IMuxedConn) -> None:
        nonlocal took_ms
        await ping(conn)
        took_ms = 1000 * (trio.current_time() - began)
        patience.cancel()

    async def connect() -> bool:
        return await stay(await identity.dial(visit, source), math.inf, use)

    with trio.move_on_after(SERVED_WITHIN_S) as patience:
        while True:
            await visit.attempt(connect)
            await trio.sleep(TRY_AGAIN_S)
    visit.report("newcomer", ms=took_ms)


async def ping(conn: IMuxedConn) -> None:
    """One ping on a new stream. ValueError: the host answered something else."""
    from libp2p.host.ping import ID as PING
    from libp2p.host.ping import PING_LENGTH
    from libp2p.io.utils import read_exactly
    from libp2p.protocol_muxer.multiselect_client import MultiselectClient
    from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

    stream = await conn.open_stream()
    await MultiselectClient().select_one_of([PING], MultiselectCommunicator(stream))
    payload = secrets.token_bytes(PING_LENGTH)
    await stream.write(payload)
    if await read_exactly(stream, PING_LENGTH) != payload:
        raise ValueError("a ping came back changed")
