"""A hardened host paces a burst of dials. Without hardening, the manager denies some of them."""

from __future__ import annotations

import pytest
import trio
from nodes import Node, eventually, running_node

from rcmgr import ConnectionLimits
from rcmgr.libp2p import harden

LIMITS = ConnectionLimits(max_pending_outbound=2)


@pytest.mark.parametrize("hardened", [False, True])
async def test_a_burst_of_dials(transport: str, hardened: bool) -> None:
    async with running_node(transport, limits=LIMITS) as node, trio.open_nursery() as nursery:
        if hardened:
            hardening = harden(node.host)
        peers: list[Node] = []

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            async with running_node(transport) as peer:
                peers.append(peer)
                task_status.started()
                await trio.sleep_forever()

        for _ in range(6):
            await nursery.start(serve)
        answers: list[bool] = []

        async def dial(peer: Node) -> None:
            answers.append(await node.dial(peer))

        async with trio.open_nursery() as dials:
            for peer in peers:
                dials.start_soon(dial, peer)
        if hardened:
            assert answers == [True] * 6
            assert node.manager.denials.total == 0
            await eventually(lambda: node.counts == (0, 0, 0, 6))
            hardening.undo()
        else:
            assert False in answers
            assert node.manager.denials.total > 0
        snapshot = node.manager.connection_tracker.snapshot()
        assert snapshot.peak_pending_outbound == 2
        nursery.cancel_scope.cancel()
