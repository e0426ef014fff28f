"""A bitswap server limits how many blocks one peer may ask for in a second."""

import trio
from libp2p import new_host
from libp2p.bitswap.cid import compute_cid_v1
from libp2p.bitswap.client import BitswapClient
from libp2p.bitswap.config import BITSWAP_PROTOCOL_V120
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from rcmgr import Rate, RateLimits, ResourceManager
from rcmgr.libp2p import limit_protocols

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def main():
    manager = ResourceManager()
    server, client = new_host(resource_manager=manager), new_host()
    async with server.run(listen_addrs=[LOOPBACK]), client.run(listen_addrs=[LOOPBACK]):
        serving, asking = BitswapClient(server), BitswapClient(client)
        await serving.start()
        await asking.start()
        manager.add_protocol_rate_limiter(
            BITSWAP_PROTOCOL_V120, RateLimits(default=Rate(1, burst=6)))  # streams of each peer
        limiting = limit_protocols(server, manager)
        await client.connect(PeerInfo(server.get_id(), server.get_addrs()))
        blocks = asking.new_session()
        came = 0
        for number in range(12):
            block = b"block %d" % number
            cid = compute_cid_v1(block)
            await serving.add_block(cid, block)
            try:
                came += await blocks.get_block(cid, server.get_id(), timeout=2) == block
            except Exception as error:
                print(f"block {number}: {type(error).__name__}")
                break
        print(f"{came} blocks came")
        print("server:", manager.last_denial)
        limiting.undo()
        await asking.stop()
        await serving.stop()


trio.run(main)
