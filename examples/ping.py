"""A guarded host answers pings. A peer that asks too often is reset."""

import trio
from libp2p import new_host
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PingService, handle_ping
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from rcmgr import Rate, RateLimits, ResourceManager
from rcmgr.libp2p import limit_protocols

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def main():
    manager = ResourceManager()
    server, client = new_host(resource_manager=manager), new_host()
    server.set_stream_handler(PING, handle_ping)
    manager.add_protocol_rate_limiter(PING, RateLimits(default=Rate(1, burst=3)))  # each peer
    limiting = limit_protocols(server, manager)
    async with server.run(listen_addrs=[LOOPBACK]), client.run(listen_addrs=[LOOPBACK]):
        await client.connect(PeerInfo(server.get_id(), server.get_addrs()))
        for number in range(1, 6):
            try:
                times = await PingService(client).ping(server.get_id())
                print(f"ping {number}: {times[0] / 1000:.1f} ms")
            except Exception as error:
                print(f"ping {number}: {type(error).__name__}")
        print("server:", manager.last_denial)
    limiting.undo()


trio.run(main)
