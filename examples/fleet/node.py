"""A py-libp2p node of a fleet. It knows nothing about the fleet: see compose.yaml."""

from __future__ import annotations

import os

import trio
from libp2p import new_host
from multiaddr import Multiaddr


async def main() -> None:
    host = new_host()
    async with host.run([Multiaddr(f"/ip4/0.0.0.0/tcp/{os.environ.get('PORT', '4001')}")]):
        print(host.get_id(), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
