"""Two real hosts share one manager: each one keeps and gives back its own connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
import trio
from nodes import ECHO, Node, echo, eventually, running_node

from rcmgr import ResourceManager
from rcmgr.admission.hosts import Hosts
from rcmgr.libp2p import harden, installed

WAYS = ("plain", "harden", "install", "install, harden")


@pytest.fixture(autouse=True)
def _no_connection_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock py-libp2p forgets connections of 30 s and more."""
    original = Hosts.reconcile

    def reconcile(hosts: Hosts, swarm: Any, live: Any, _: float) -> int:
        return original(hosts, swarm, live, 0.0)

    monkeypatch.setattr(Hosts, "reconcile", reconcile)
    monkeypatch.setattr(Hosts, "must_know_caller", lambda *_: True)


@contextmanager
def sharing(way: str) -> Iterator[Any]:
    """A manager for hosts that are made here."""
    if not way.startswith("install"):
        yield ResourceManager()
        return
    with installed(harden=way.endswith("harden")):
        from libp2p.rcmgr import ResourceManager as Installed

        yield Installed()


class Host:
    """A host in a separate task, so that hosts may end in any order."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.stopping, self.stopped = trio.Event(), trio.Event()

    async def stop(self) -> None:
        self.stopping.set()
        await self.stopped.wait()


async def run_host(
    manager: Any, way: str, transport: str, task_status: trio.TaskStatus[Host]
) -> None:
    async with running_node(transport, manager=manager) as node:
        if way == "harden":
            harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        host = Host(node)
        task_status.started(host)
        await host.stopping.wait()
    host.stopped.set()


async def echoing(peer: Node, node: Node) -> Any:
    stream = await peer.host.new_stream(node.id, [ECHO])
    await stream.write(b"x")
    assert await stream.read(1) == b"x"
    return stream


def live(node: Node) -> int:
    return len(node.host.get_network().get_connections())  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", WAYS)
async def test_connections_of_two_hosts(transport: str, way: str) -> None:
    with sharing(way) as manager:
        async with trio.open_nursery() as hosts, AsyncExitStack() as peers:
            first, last = [
                await hosts.start(run_host, manager, way, transport) for _ in range(2)]
            one, two = first.node, last.node
            others = [
                await peers.enter_async_context(running_node(transport)) for _ in range(4)]
            for number, peer in enumerate(others):
                await peer.meet((one, two)[number % 2])
                assert live(one) + live(two) == number + 1
                assert manager.get_stats()["connections"] == number + 1
            await others[0].meet(two)
            assert live(two) == 3
            assert manager.get_stats()["connections"] == 5
            assert manager.get_stats()["peers"] == 4
            for node, peer in ((one, others[2]), (two, others[1])):
                await echoing(peer, node)
            await eventually(lambda: manager.get_stats()["streams"] == 2)
            await first.stop()
            await eventually(lambda: manager.get_stats()["connections"] == 3)
            await eventually(lambda: manager.get_stats()["streams"] == 1)
            assert live(two) == 3
            stream = await echoing(others[1], two)
            await stream.reset()
            await eventually(lambda: manager.get_stats()["streams"] == 1)
            await last.stop()
        stats = manager.get_stats()
        assert stats["connections"] == stats["streams"] == stats["peers"] == 0
        assert stats["leaked"] == stats["over_released"] == 0
