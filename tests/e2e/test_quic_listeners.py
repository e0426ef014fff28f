"""Hooks on QUIC listeners: a refusal counts once, and connections over IPv6 work."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import trio
from nodes import ECHO, PATIENCE_S, Node, comes_true, echo, eventually, running_node

from rcmgr import ConcreteLimits, ConnectionLimits, Limit, NodeLimits
from rcmgr.libp2p import harden, installed

IPV6 = "/ip6/::1/udp/0/quic-v1"


def refusing(name: str, limits: NodeLimits) -> Any:
    return pytest.param(limits, id=name)


@pytest.mark.parametrize("way", ["harden", "install"])
@pytest.mark.parametrize("limits", [
    refusing("states", NodeLimits(connections=ConnectionLimits(max_established_inbound=0))),
    refusing("scopes", NodeLimits(ConcreteLimits(system=Limit(conns=0)))),
])
async def test_a_refused_connection_is_one_denial(limits: NodeLimits, way: str) -> None:
    with ExitStack() as stack:
        if way == "install":
            stack.enter_context(installed())
        async with running_node("quic", node_limits=limits) as node, running_node("quic") as peer:
            if way == "harden":
                harden(node.host)
            for times in range(1, 4):
                await peer.dial(node)
                await eventually(lambda times=times: len(node.manager.denials) >= times)
                await eventually(lambda: not peer.is_connected_to(node))
                # the stock listener offers it again at the next packet
                assert not await comes_true(
                    lambda times=times: len(node.manager.denials) > times, 0.5)
            assert sum(node.manager.denied_by_limit().values()) == 3


async def ping(peer: Node, node: Node) -> bool:
    with trio.move_on_after(PATIENCE_S):
        stream = await peer.host.new_stream(node.id, [ECHO])
        await stream.write(b"x")
        return bool(await stream.read(1) == b"x")
    return False


async def test_quic_over_ipv6() -> None:
    limits = NodeLimits(connections=ConnectionLimits(max_established_inbound=1))
    async with (
        running_node("quic", listen=IPV6, node_limits=limits) as node,
        running_node("quic", listen=IPV6) as peer,
        running_node("quic", listen=IPV6) as late,
    ):
        harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))
        assert await ping(peer, node)
        [connection] = node.host.get_network().get_connections()  # type: ignore[attr-defined]
        assert connection.muxed_conn.get_remote_address()[0] == "::1"
        await late.dial(node)
        await eventually(lambda: len(node.manager.denials) == 1)
        assert node.counts == (0, 0, 1, 0)
        await peer.host.disconnect(node.id)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


async def test_stock_quic_over_ipv6() -> None:
    """If this fails, py-libp2p has fixed it: remove the hook and the line in README."""
    async with (
        running_node("quic", listen=IPV6) as node,
        running_node("quic", listen=IPV6) as peer,
    ):
        with trio.move_on_after(2):
            await peer.host.connect(node.info)
        assert node.counts == (0, 0, 0, 0)
