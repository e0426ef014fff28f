"""A protocol with requests of different costs: a search costs a peer more than a look-up."""

import trio
from libp2p import new_host
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from rcmgr import Rate, RateLimitExceeded, RateLimits, ResourceManager

PROTOCOL = "/library/1.0.0"
LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")

manager = ResourceManager()
limiter = manager.add_protocol_rate_limiter(PROTOCOL, RateLimits(
    default=Rate(2, burst=10),  # tokens of each peer
    costs={"search": 4},  # tokens; a request that is not named costs 1
    overall=Rate(100, burst=200),  # all peers together
))


async def serve(stream):
    peer = stream.muxed_conn.peer_id
    while request := (await stream.read(4096)).decode():
        try:
            async with limiter.request(peer, request):
                await stream.write(b"found")
        except RateLimitExceeded as error:
            await stream.write(f"again in {error.retry_after_s:.1f} s".encode())
    await stream.close()


async def main():
    server, client = new_host(resource_manager=manager), new_host()
    server.set_stream_handler(PROTOCOL, serve)
    async with server.run(listen_addrs=[LOOPBACK]), client.run(listen_addrs=[LOOPBACK]):
        await client.connect(PeerInfo(server.get_id(), server.get_addrs()))
        stream = await client.new_stream(server.get_id(), [PROTOCOL])
        for request in ("search", "search", "look-up", "search", "look-up", "look-up"):
            await stream.write(request.encode())
            print(f"{request}: {(await stream.read(4096)).decode()}")


trio.run(main)
