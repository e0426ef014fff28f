"""Connections that come through a relay are not charged to the relay's address."""

from __future__ import annotations

import pytest
import trio
from libp2p.network import swarm
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr
from nodes import Node, eventually, running_node

from rcmgr import NodeLimits, SubnetLimits

LIMITS = RelayLimits(duration=60, data=1 << 20, max_circuit_conns=8, max_reservations=8)
ONE_AT_ONCE = NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),), overrides={}))


async def dial_through(relay: Node, guest: Node, node: Node) -> None:
    """The guest connects to the node over its connection to the relay."""
    transport = CircuitV2Transport(
        guest.host, CircuitV2Protocol(guest.host, LIMITS),
        RelayConfig(roles=RelayRole.CLIENT, limits=LIMITS),
    )
    await guest.host.connect(relay.info)
    address = f"{relay.info.addrs[0]}/p2p-circuit/p2p/{node.id}"
    await transport.dial(Multiaddr(address))


pytestmark = pytest.mark.usefixtures("remote_addresses")


async def test_guests_of_a_relay_do_not_share_its_limit() -> None:
    async with (
        running_node(node_limits=ONE_AT_ONCE) as node,
        running_node() as relay,
        running_node() as guest,
        running_node() as other,
        trio.open_nursery() as nursery,
    ):
        hop = CircuitV2Protocol(relay.host, LIMITS, allow_hop=True)
        stop = CircuitV2Protocol(node.host, LIMITS)
        async with background_trio_service(hop), background_trio_service(stop):
            assert await node.dial(relay)  # all that there may be with 127.0.0.1
            reservations = CircuitV2Transport(
                node.host, stop, RelayConfig(roles=RelayRole.STOP, limits=LIMITS))
            stream = await node.host.new_stream(relay.id, [PROTOCOL_ID])
            assert await reservations.reserve(stream, relay.id, nursery)
            for each in (guest, other):
                await dial_through(relay, each, node)
                await eventually(
                    lambda each=each: str(each.id) in node.manager.ledger.snapshot()["peers"])
            assert node.counts == (0, 0, 2, 1)
            assert node.manager.get_stats()["denied"] == {}
            nursery.cancel_scope.cancel()


def test_a_circuit_goes_to_no_address() -> None:
    direct = Multiaddr("/ip4/192.0.2.1/tcp/4001")
    peer = "QmNLfbof5rLekrACjeuLk9JmGZD2HDBHCU4z16iYKmx5SE"
    circuit = Multiaddr(f"{direct}/p2p/{peer}/p2p-circuit/p2p/{peer}")
    assert swarm.extract_ip_from_multiaddr(direct) == "192.0.2.1"
    assert swarm.extract_ip_from_multiaddr(circuit) is None
