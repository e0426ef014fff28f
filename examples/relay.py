"""A relay limits the streams of each guest. Its guests do not share its limit by address."""

import trio
from libp2p import new_host
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from rcmgr import NodeLimits, ResourceManager, SubnetLimits
from rcmgr.libp2p import harden

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")
LIMITS = RelayLimits(duration=60, data=1 << 20, max_circuit_conns=8, max_reservations=8)
ONE_OF_AN_ADDRESS = NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),), overrides={}))


async def manager_counts_two(manager):
    with trio.move_on_after(10):
        for _ in range(200):
            if manager.connection_tracker.get_connection_count("established_inbound") == 2:
                return
            await trio.sleep(0.05)


async def main():
    relay_manager = ResourceManager()
    relay_manager.set_protocol_peer_stream_limit(PROTOCOL_ID, 4)
    manager = ResourceManager(ONE_OF_AN_ADDRESS)
    relay, node = new_host(resource_manager=relay_manager), new_host(resource_manager=manager)
    guests = [new_host() for _ in range(2)]
    hardenings = [harden(relay), harden(node)]
    async with (
        relay.run(listen_addrs=[LOOPBACK]), node.run(listen_addrs=[LOOPBACK]),
        guests[0].run(listen_addrs=[LOOPBACK]), guests[1].run(listen_addrs=[LOOPBACK]),
        background_trio_service(CircuitV2Protocol(relay, LIMITS, allow_hop=True)),
        trio.open_nursery() as nursery,
    ):
        stop = CircuitV2Protocol(node, LIMITS)
        async with background_trio_service(stop):
            await node.connect(PeerInfo(relay.get_id(), relay.get_addrs()))
            reservations = CircuitV2Transport(
                node, stop, RelayConfig(roles=RelayRole.STOP, limits=LIMITS))
            stream = await node.new_stream(relay.get_id(), [PROTOCOL_ID])
            await reservations.reserve(stream, relay.get_id(), nursery)
            for guest in guests:
                transport = CircuitV2Transport(
                    guest, CircuitV2Protocol(guest, LIMITS),
                    RelayConfig(roles=RelayRole.CLIENT, limits=LIMITS))
                await guest.connect(PeerInfo(relay.get_id(), relay.get_addrs()))
                await transport.dial(Multiaddr(
                    f"{relay.get_addrs()[0]}/p2p-circuit/p2p/{node.get_id()}"))
            await manager_counts_two(manager)
            counts = manager.connection_tracker.snapshot()
            print("connections of the node:", counts.established_inbound, "in through the relay,",
                  counts.established_outbound, "out to it; 127.0.0.1 may have 1")
            print("refused by the node:", manager.get_stats()["denied"])
            print("relay:", relay_manager.ledger.protocols())
        nursery.cancel_scope.cancel()
    for each in hardenings:
        each.undo()


trio.run(main)
