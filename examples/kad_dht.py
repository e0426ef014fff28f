"""A node of the Kademlia DHT limits the streams of each peer for its protocol."""

import trio
from libp2p import new_host
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from rcmgr import ResourceManager
from rcmgr.libp2p import scope_streams

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def main():
    manager = ResourceManager()
    manager.set_protocol_peer_stream_limit(PROTOCOL_ID, 8)  # streams of one peer at once
    manager.set_service_stream_limit("libp2p.kad-dht", 64)  # all peers together
    server, client = new_host(resource_manager=manager), new_host()
    scoping = scope_streams(server, manager)
    async with server.run(listen_addrs=[LOOPBACK]), client.run(listen_addrs=[LOOPBACK]):
        served, asked = KadDHT(server, DHTMode.SERVER), KadDHT(client, DHTMode.CLIENT)
        async with background_trio_service(served), background_trio_service(asked):
            await client.connect(PeerInfo(server.get_id(), server.get_addrs()))
            await asked.add_peer(server.get_id(), skip_server_mode_check=True)
            stranger = ID.from_base58("12D3KooWFocbUPvuZ6mtALBFqebL7QbVZXfPf6Az6ovAxP4QxBZf")
            print("found:", await asked.find_peer(stranger))
        seen = manager.ledger.protocol(PROTOCOL_ID).stat()
        print(f"streams of {PROTOCOL_ID} now: {seen.streams_inbound}, allowed to one peer: 8")
        print("services that were used:", manager.ledger.services())
    scoping.undo()


trio.run(main)
