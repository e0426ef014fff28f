"""Limits and allowlists see the addresses of relayed connections and of IPv6."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.network import swarm
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr
from nodes import PATIENCE_S, Node, all_back, eventually, held, running_node

from rcmgr import ConcreteLimits, Limit, NodeLimits, SubnetLimits

pytestmark = pytest.mark.usefixtures("remote_addresses")
LIMITS = RelayLimits(duration=60, data=1 << 20, max_circuit_conns=8, max_reservations=8)
ONE_AT_ONCE = NodeLimits(subnets=SubnetLimits(ipv4=((32, 1),), overrides={}))


async def dial_through(relay: Node, guest: Node, node: Node) -> None:
    """Connect the guest to the node over its connection to the relay."""
    transport = CircuitV2Transport(
        guest.host, CircuitV2Protocol(guest.host, LIMITS),
        RelayConfig(roles=RelayRole.CLIENT, limits=LIMITS),
    )
    await guest.host.connect(relay.info)
    address = f"{relay.info.addrs[0]}/p2p-circuit/p2p/{node.id}"
    await transport.dial(Multiaddr(address))


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
            assert await node.dial(relay)  # the one connection that 127.0.0.1 may have
            reservations = CircuitV2Transport(
                node.host, stop, RelayConfig(roles=RelayRole.STOP, limits=LIMITS))
            stream = await node.host.new_stream(relay.id, [PROTOCOL_ID])
            assert await reservations.reserve(stream, relay.id, nursery)
            for each in (guest, other):
                await dial_through(relay, each, node)
                await eventually(
                    lambda each=each: str(each.id) in node.manager.ledger.snapshot()["peers"])
            await eventually(lambda: node.counts == (0, 0, 2, 1))
            assert node.manager.get_stats()["denied"] == {}
            nursery.cancel_scope.cancel()


def test_a_circuit_has_no_address() -> None:
    direct = Multiaddr("/ip4/192.0.2.1/tcp/4001")
    peer = "QmNLfbof5rLekrACjeuLk9JmGZD2HDBHCU4z16iYKmx5SE"
    circuit = Multiaddr(f"{direct}/p2p/{peer}/p2p-circuit/p2p/{peer}")
    assert swarm.extract_ip_from_multiaddr(direct) == "192.0.2.1"
    assert swarm.extract_ip_from_multiaddr(circuit) is None


LIMITED = NodeLimits(subnets=SubnetLimits(
    ipv4=((32, 2),), ipv6=((128, 2),), overrides={"127.0.0.9/32": 1}))


@asynccontextmanager
async def connections_to(
    node: Node, address: str
) -> AsyncIterator[Callable[..., Awaitable[trio.SocketStream]]]:
    """A function that connects to the node, from another address if it gets one."""
    async with AsyncExitStack() as stack:

        async def connect(source: str | None = None) -> trio.SocketStream:
            stream = await trio.open_tcp_stream(address, node.port, local_address=source)
            stack.push_async_callback(stream.aclose)
            return stream

        yield connect
    await eventually(lambda: node.counts == (0, 0, 0, 0))
    subnets = node.manager.addresses and node.manager.addresses.subnets
    assert subnets is not None
    assert len(subnets) == subnets.over_released == 0


async def is_cut(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(PATIENCE_S):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        return True
    return False


@pytest.mark.parametrize(("listen", "address"), [
    ("/ip4/0.0.0.0/tcp/0", "127.0.0.1"), ("/ip6/::1/tcp/0", "::1")])
async def test_connections_of_one_address_are_limited(listen: str, address: str) -> None:
    async with (
        running_node(node_limits=LIMITED, listen=listen) as node,
        connections_to(node, address) as connect,
    ):
        for _ in range(2):
            await connect()
        await eventually(lambda: node.counts[0] == 2)
        assert await is_cut(await connect())
        denied = node.manager.get_stats()["denied"]
        assert denied == {"address_connections": 1}
        assert address in str(node.manager.last_denial)


@pytest.mark.loopback
async def test_each_address_has_its_own_limit_or_that_of_its_override() -> None:
    async with (
        running_node(node_limits=LIMITED, listen="/ip4/0.0.0.0/tcp/0") as node,
        connections_to(node, "127.0.0.1") as connect,
    ):
        for count, source in enumerate(("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.9"), 1):
            await connect(source)
            await eventually(lambda count=count: node.counts[0] == count)
        assert await is_cut(await connect("127.0.0.9"))
        assert await is_cut(await connect("127.0.0.1"))


async def test_an_allowlisted_peer_gets_in_when_the_system_is_full(transport: str) -> None:
    key_pair = create_new_key_pair()
    friend_id = ID.from_pubkey(key_pair.public_key)
    limits = NodeLimits(ConcreteLimits(
        system=Limit(conns=1), allowlisted_system=Limit(conns=1)))
    allowlist = (f"/ip4/127.0.0.1/p2p/{friend_id}",)
    async with (
        running_node(transport, node_limits=limits, allowlist=allowlist) as node,
        running_node(transport) as first,
        running_node(transport) as stranger,
        running_node(transport, key_pair=key_pair) as friend,
    ):
        assert await first.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        await stranger.dial(node)
        await eventually(lambda: bool(node.manager.ledger.refused))
        assert await friend.dial(node)
        await eventually(lambda: node.counts == (0, 0, 2, 0))
        assert held(node, "allowlisted_system")["conns_inbound"] == 1
        assert held(node, "system")["conns_inbound"] == 1
        # a stranger at the friend's address may begin a handshake, and no more
        await eventually(lambda: node.counts == (0, 0, 2, 0))
        assert held(node, "peers", str(stranger.id)) == {}
        await all_back(node, first, friend)
