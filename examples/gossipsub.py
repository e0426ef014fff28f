"""A subscriber of gossipsub takes messages of one topic from a peer at a limited rate."""

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from rcmgr import Rate, RateLimits, ResourceManager

TOPIC = "news"
PROTOCOL = TProtocol("/meshsub/1.0.0")
LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


def gossip(host):
    return Pubsub(host, GossipSub([PROTOCOL], 3, 2, 4, heartbeat_interval=1))


async def main():
    manager = ResourceManager()
    limiter = manager.add_protocol_rate_limiter(PROTOCOL, RateLimits(
        default=None,  # other topics have no limit
        overrides={TOPIC: Rate(1, burst=5)},  # messages of each peer in this topic
    ))
    reader_host, writer_host = new_host(resource_manager=manager), new_host()
    reader, writer = gossip(reader_host), gossip(writer_host)
    reader.set_topic_validator(
        TOPIC, lambda peer, message: limiter.check_peer_rate_limit(peer, TOPIC),
        is_async_validator=False)
    async with (
        reader_host.run(listen_addrs=[LOOPBACK]), writer_host.run(listen_addrs=[LOOPBACK]),
        background_trio_service(reader), background_trio_service(writer),
        background_trio_service(reader.router), background_trio_service(writer.router),
    ):
        await reader.wait_until_ready()
        await writer.wait_until_ready()
        await writer_host.connect(PeerInfo(reader_host.get_id(), reader_host.get_addrs()))
        news = await reader.subscribe(TOPIC)
        await writer.subscribe(TOPIC)
        await writer.wait_for_subscription(reader_host.get_id(), TOPIC)
        for number in range(20):
            await writer.publish(TOPIC, b"message %d" % number)
        came = 0
        with trio.move_on_after(2):
            while True:
                await news.get()
                came += 1
        print(f"{came} of 20 messages passed")
        print("reader:", manager.last_denial)


trio.run(main)
