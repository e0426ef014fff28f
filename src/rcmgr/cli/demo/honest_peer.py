"""The honest peer of the demo: a real host that pings the demo's host."""

from __future__ import annotations

import os
import time

import trio

from .visit import Visit

__all__ = ["honest"]

PING_EVERY_S = 0.05


async def honest(visit: Visit) -> None:
    """Keep one connection and one ping stream, and never replace either."""
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
            visit.report("connected", peer_id=host.get_id().to_base58())
            await visit.ready()
            while True:
                payload = os.urandom(PING_LENGTH)
                sent = time.perf_counter()
                await stream.write(payload)
                if await read_exactly(stream, PING_LENGTH) != payload:
                    visit.report("lost", why="a ping came back changed")
                    return
                visit.report("ping", ms=(time.perf_counter() - sent) * 1000)
                await trio.sleep(PING_EVERY_S)
        except Exception as error:  # noqa: BLE001 - the demo reports any reason
            visit.report("lost", why=f"{type(error).__name__}: {error}")
