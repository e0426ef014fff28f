"""Three real hosts, and an attacker that goes from one to the next."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from engine_server import needs_server, running
from nodes import Node, eventually, running_node

from rcmgr import Fleet, FleetLimits, NodeLimits, PeerRates, Rate, ResourceManager

RATE = Rate(0.001, 3)
TRIES = 8

pytestmark = needs_server()


async def connections_of(attacker: Node, nodes: list[Node]) -> int:
    """How often it gets in, if it tries the next node once one refuses it."""
    times = 0
    for node in nodes:
        for _ in range(TRIES):
            if not await attacker.gets_into(node):
                break
            times += 1
            await attacker.host.disconnect(node.id)
            await eventually(lambda node=node: not (
                node.is_connected_to(attacker) or attacker.is_connected_to(node)))
            await eventually(lambda node=node: is_settled(node.manager))
    return times


def is_settled(manager: Any) -> bool:
    return manager.fleet is None or manager.fleet.status()["waiting"] == 0


async def started(stack: AsyncExitStack, managers: list[ResourceManager]) -> list[Node]:
    return [
        await stack.enter_async_context(running_node(manager=manager)) for manager in managers]


async def test_before_each_node_gives_an_attacker_a_fresh_budget() -> None:
    limits = NodeLimits(peer_rates=PeerRates(RATE))
    async with AsyncExitStack() as stack:
        attacker = await stack.enter_async_context(running_node())
        nodes = await started(stack, [ResourceManager(limits) for _ in range(3)])
        assert await connections_of(attacker, nodes) == 3 * RATE.burst


async def test_in_a_fleet_the_attacker_has_one_budget_and_one_ban() -> None:
    with running() as server:
        limits = NodeLimits(fleet=FleetLimits(peer_rate=RATE))
        managers = [
            ResourceManager(limits, fleet=Fleet(server.url, node=f"node-{number}", timeout=10))
            for number in range(3)]
        async with AsyncExitStack() as stack:
            attacker = await stack.enter_async_context(running_node())
            nodes = await started(stack, managers)
            await eventually(lambda: all(
                not fleet.is_lost and fleet.status()["nodes"] == 3
                for fleet in (manager.fleet for manager in managers) if fleet is not None))
            # the burst, and an advance of one for each node
            assert RATE.burst <= await connections_of(attacker, nodes) <= RATE.burst + 3
            managers[0].ban(attacker.id, 600, "goes from node to node")
            await eventually(lambda: len(managers[2].bans()) == 1)
            assert not await attacker.gets_into(nodes[2])
            assert managers[2].last_denial is not None
            assert managers[2].last_denial.code == "connection.banned"
        for manager in managers:
            manager.close()
