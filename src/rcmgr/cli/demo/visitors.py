"""Who comes to the demo's host, each in a process of its own: five attackers and one honest peer.

    python -m rcmgr.cli.demo.visitors ROLE

Standard input carries one JSON object (where the host is), later a line `go`, and is then held
open: when it ends, for whatever reason (the demo is done, or was killed with SIGKILL), the process
ends at once. Standard output carries one JSON object a line, each with an `event`.

The attackers speak Noise and yamux with py-libp2p's own code but run no host: a connection costs
the attacker far less than it costs the victim, as in life. Each lets go of everything now and then
and comes again, so that every limit is reached, left and reached again, instead of the first full
one hiding all the others for good.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from libp2p.abc import IMuxedConn
    from libp2p.peer.id import ID

HALF_OPEN, IDENTITIES, ONE_IDENTITY, STREAMS = "half-open", "identities", "one-identity", "streams"
MEMORY = "memory"
HONEST = "honest"

UPLOAD = "/rcmgr-demo/upload/1.0.0"
"""A protocol of the demo's host, which keeps in memory what it is sent on it."""

CUT_WITHIN = 0.05
"""Seconds after which an attacker notices that the host has cut it off."""

logger = logging.getLogger(__name__)


@dataclass
class Visit:
    """What a role is given: where the host is, when to start, and a way to tell the demo."""

    host: str
    port: int
    peer_id: str
    started: trio.Event = field(default_factory=trio.Event)
    tried: int = 0
    holding: int = 0
    refused: int = 0

    def tell(self, event: str, **what: object) -> None:
        sys.stdout.write(json.dumps({"event": event, **what}) + "\n")
        sys.stdout.flush()

    async def ready(self) -> None:
        """Say so, and wait until the demo says go."""
        self.tell("ready")
        await self.started.wait()

    async def tell_counts(self) -> None:
        await self.started.wait()
        while True:
            self.tell("counts", tried=self.tried, holding=self.holding, refused=self.refused)
            await trio.sleep(0.25)

    async def attempt(self, visit: Callable[[], Awaitable[bool]]) -> None:
        """Count one try; `visit` returns False when the host refused or cut it.

        py-libp2p and trio have a dozen kinds of error for a connection that the other side cuts,
        and a nursery groups them; to an attacker each of them says no more than "refused".
        """
        self.tried += 1
        self.holding += 1
        try:
            stayed = await visit()
        except Exception as error:  # noqa: BLE001
            logger.debug("refused: %r", error)
            stayed = False
        finally:
            self.holding -= 1
        self.refused += not stayed


class Identity:
    """One key pair, for as many connections as one likes."""

    def __init__(self) -> None:
        from libp2p import new_swarm

        swarm: Any = new_swarm(muxer_preference="YAMUX")
        self.peer_id = swarm.get_peer_id()
        self._upgrader = swarm.upgrader

    async def call(self, visit: Visit) -> IMuxedConn:
        from libp2p.peer.id import ID

        stream = await trio.open_tcp_stream(visit.host, visit.port)
        return await self.upgrade(stream, ID.from_base58(visit.peer_id))

    async def upgrade(self, stream: trio.SocketStream, called: ID | None = None) -> IMuxedConn:
        """Noise and yamux over a socket; `called` is whom we called, None if we were called."""
        from libp2p.io.trio import TrioTCPStream
        from libp2p.network.connection.raw_connection import RawConnection

        initiator = called is not None
        try:
            raw = RawConnection(TrioTCPStream(stream), initiator)
            secured = await self._upgrader.upgrade_security(raw, initiator, called)
            conn: IMuxedConn = await self._upgrader.upgrade_connection(
                secured, secured.get_remote_peer()
            )
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return conn


async def stay(
    conn: IMuxedConn, seconds: float, do: Callable[[IMuxedConn], Awaitable[None]] | None = None
) -> bool:
    """Keep a connection for some time, then hang up; False if the host cut it before.

    Meanwhile `do` runs on it, and streams that the host opens (identify) are reset.
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
                if do is not None:
                    nursery.start_soon(do, conn)
                while not conn.is_closed:  # noqa: ASYNC110 - it has no event for that
                    await trio.sleep(CUT_WITHIN)
                nursery.cancel_scope.cancel()
            return False
        return True
    finally:
        with trio.move_on_after(1) as scope:
            scope.shield = True
            await conn.close()


async def half_open(visit: Visit) -> None:
    """Opens sockets and never says a word; has a listener that never answers a dial."""
    wave, hold, rest = 40, 1.0, 1.2
    listeners = await trio.open_tcp_listeners(0, host=visit.host)

    async def drain(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass

    async def never_answer(stream: trio.SocketStream) -> None:
        await visit.attempt(lambda: silent(stream, 30))

    async def silent(stream: trio.SocketStream, seconds: float) -> bool:
        async with stream:
            with trio.move_on_after(seconds) as scope:
                await drain(stream)  # the host may say its protocol's name; a refusal is the end
        return scope.cancelled_caught

    async def one() -> bool:
        return await silent(await trio.open_tcp_stream(visit.host, visit.port), hold)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, never_answer, listeners)
        visit.tell("advertise", tarpit=listeners[0].socket.getsockname()[1])
        await visit.ready()
        while True:
            await trio.sleep(rest)
            async with trio.open_nursery() as crowd:
                for _ in range(wave):
                    crowd.start_soon(visit.attempt, one)


async def identities(visit: Visit) -> None:
    """Forty peers that all want in; a dozen that want to be dialed, and hang up together."""
    crowd, lures, hold, rest = 40, 12, 3.0, 0.6
    handshakes = trio.CapacityLimiter(3)
    began = trio.current_time()

    async def come_and_go(identity: Identity) -> None:
        async def one() -> bool:
            async with handshakes:
                conn = await identity.call(visit)
            return await stay(conn, random.uniform(2, 5))

        while True:
            await trio.sleep(random.uniform(0.4, 1.2))
            await visit.attempt(one)

    async def lure(identity: Identity) -> None:
        async def answer(stream: trio.SocketStream) -> None:
            async def one() -> bool:
                conn = await identity.upgrade(stream)
                since = (trio.current_time() - began) % (hold + rest)
                return await stay(conn, max(0.0, hold - since))

            await visit.attempt(one)

        listeners = await trio.open_tcp_listeners(0, host=visit.host)
        port = listeners[0].socket.getsockname()[1]
        visit.tell("advertise", peer_id=identity.peer_id.to_base58(), port=port)
        await trio.serve_listeners(answer, listeners)

    async with trio.open_nursery() as nursery:
        for _ in range(lures):
            nursery.start_soon(lure, Identity())
        people = [Identity() for _ in range(crowd)]
        await visit.ready()
        began = trio.current_time()
        for identity in people:
            nursery.start_soon(come_and_go, identity)


async def one_identity(visit: Visit) -> None:
    """One key pair that opens connection after connection."""
    at_once = 8
    identity = Identity()

    async def one() -> bool:
        return await stay(await identity.call(visit), random.uniform(3, 6))

    async def insist() -> None:
        while True:
            await trio.sleep(random.uniform(0.2, 0.8))
            await visit.attempt(one)

    await visit.ready()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(insist)


async def streams(visit: Visit) -> None:
    """One connection, on it stream after stream that never says which protocol it wants."""
    at_once, hold = 90, 2.5
    identity = Identity()

    async def flood(conn: IMuxedConn) -> None:
        async def one() -> bool:
            stream = await conn.open_stream()
            try:
                with trio.move_on_after(hold) as scope:
                    while await stream.read(256):
                        pass
                return scope.cancelled_caught
            finally:
                with trio.move_on_after(1) as last:
                    last.shield = True
                    await stream.reset()

        async def insist() -> None:
            while True:
                await trio.sleep(random.uniform(0.5, 1.5))
                await visit.attempt(one)

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(insist)

    async def connect() -> bool:
        return await stay(await identity.call(visit), float("inf"), flood)

    await visit.ready()
    while True:  # at once, while there is room: what it is after are the streams
        await visit.attempt(connect)
        await trio.sleep(0.5)


async def memory(visit: Visit) -> None:
    """One connection, on it streams that send and send, to a host that keeps it all."""
    from libp2p.custom_types import TProtocol
    from libp2p.protocol_muxer.multiselect_client import MultiselectClient
    from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

    at_once, hold = 3, 6.0
    data = bytes(64 * 1024)
    identity = Identity()

    async def pour(conn: IMuxedConn) -> None:
        async def one() -> bool:
            stream: Any = await conn.open_stream()
            try:
                with trio.move_on_after(hold) as scope:
                    await MultiselectClient().select_one_of(
                        [TProtocol(UPLOAD)], MultiselectCommunicator(stream)
                    )
                    while True:
                        await stream.write(data)
                return scope.cancelled_caught
            finally:
                with trio.move_on_after(1) as last:
                    last.shield = True
                    await stream.reset()

        async def insist() -> None:
            while True:
                await visit.attempt(one)
                await trio.sleep(random.uniform(0.3, 1.0))

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(insist)

    async def connect() -> bool:
        return await stay(await identity.call(visit), float("inf"), pour)

    await visit.ready()
    while True:
        await visit.attempt(connect)
        await trio.sleep(0.5)


async def honest(visit: Visit) -> None:
    """A real host with one connection and one ping stream, which it never renews."""
    from libp2p import new_host
    from libp2p.host.ping import ID as PING
    from libp2p.host.ping import PING_LENGTH
    from libp2p.io.utils import read_exactly
    from libp2p.peer.id import ID
    from libp2p.peer.peerinfo import PeerInfo
    from multiaddr import Multiaddr

    host = new_host()
    async with host.run(listen_addrs=[]):
        demo = PeerInfo(
            ID.from_base58(visit.peer_id), [Multiaddr(f"/ip4/{visit.host}/tcp/{visit.port}")]
        )
        try:
            await host.connect(demo)
            stream = await host.new_stream(demo.peer_id, [PING])
            visit.tell("connected", peer_id=host.get_id().to_base58())
            await visit.ready()
            while True:
                payload = os.urandom(PING_LENGTH)
                sent = time.perf_counter()
                await stream.write(payload)
                if await read_exactly(stream, PING_LENGTH) != payload:
                    visit.tell("lost", why="a ping came back changed")
                    return
                visit.tell("ping", ms=(time.perf_counter() - sent) * 1000)
                await trio.sleep(0.05)
        except Exception as error:  # noqa: BLE001 - any reason not to be connected is the finding
            visit.tell("lost", why=f"{type(error).__name__}: {error}")


ROLES: dict[str, Callable[[Visit], Awaitable[None]]] = {
    HALF_OPEN: half_open,
    IDENTITIES: identities,
    ONE_IDENTITY: one_identity,
    STREAMS: streams,
    MEMORY: memory,
    HONEST: honest,
}


def mute_libp2p() -> None:
    """Print nothing of py-libp2p's log but what LIBP2P_DEBUG asks for.

    Some of its modules use the root logger, and without LIBP2P_DEBUG it leaves its own without a
    handler: either way its warnings would go to standard error, and there is one a denial.
    """
    for name in (None, "libp2p"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def end_with_the_demo(go: Callable[[], None]) -> None:
    """Thread: `go` at the next line of standard input, the end of this process at its end."""
    for _ in sys.stdin:
        go()
    os._exit(0)


async def run(role: str) -> None:
    visit = Visit(**json.loads(sys.stdin.readline()))
    token = trio.lowlevel.current_trio_token()
    threading.Thread(
        target=end_with_the_demo,
        args=(lambda: token.run_sync_soon(visit.started.set),),
        daemon=True,
    ).start()
    async with trio.open_nursery() as nursery:
        if role != HONEST:
            nursery.start_soon(visit.tell_counts)
        await ROLES[role](visit)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    mute_libp2p()
    trio.run(run, sys.argv[1])
