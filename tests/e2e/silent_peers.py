"""Nodes with few places for handshakes, and sockets that take these places and stay silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio
from nodes import Node, eventually, listen_on, running_node

from rcmgr import ConcreteLimits, ConnectionLimits, Limit, NodeLimits
from rcmgr.libp2p import harden

PLACES = 8
BY_STATE = NodeLimits(connections=ConnectionLimits(max_pending_inbound=PLACES))
BY_SCOPE = NodeLimits(ConcreteLimits(transient=Limit(conns_inbound=PLACES)))


@asynccontextmanager
async def guarded_node(
    limits: NodeLimits = BY_STATE, transport: str = "tcp", listen: str = "", **options: Any
) -> AsyncIterator[Node]:
    """A node that starts to listen after `harden`, as with `install(harden=True)`."""
    async with running_node(transport, node_limits=limits, evicting=True, **options) as node:
        swarm: Any = node.host.get_network()
        for listener in list(swarm.listeners.values()):
            await listener.close()
        swarm.listeners.clear()
        harden(node.host)
        await swarm.listen(listen_on(transport, listen))
        host = "::1" if listen.startswith("/ip6/") else "127.0.0.1"
        tracker = node.manager.connection_tracker
        # The listener may accept the first one before the gate, and then counts no WebSocket.
        async with (
            await trio.open_tcp_stream(host, node.port), await trio.open_tcp_stream(host, node.port)
        ):
            counted = 1 if transport == "ws" else 2
            await eventually(lambda: tracker.snapshot().total_created >= counted)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        yield node


@asynccontextmanager
async def silent(node: Node, count: int, ip: str = "127.0.0.1") -> AsyncIterator[list[Any]]:
    """So many connections from this address that send nothing."""
    host = "::1" if ":" in ip else "127.0.0.1"
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await trio.open_tcp_stream(
            host, node.port, local_address=ip)) for _ in range(count)]
