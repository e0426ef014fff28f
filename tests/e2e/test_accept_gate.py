"""Guarded hosts refuse a connection where they accept it, before py-libp2p hears of it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from multiaddr import Multiaddr
from nodes import LISTEN, SHORT, Node, eventually, running_node

from rcmgr import (
    ConnectionDeniedEvent,
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimitExceeded,
    ConnectionLimits,
    ConnectionRateLimits,
    ConnectionTracker,
    Endpoint,
    Rate,
    ResourceLimits,
    ResourceManager,
)
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.libp2p import harden, observe
from rcmgr.libp2p.guard.accept_gate import gate_accepts
from rcmgr.libp2p.hooks import Hook

ONE = ConnectionLimits(max_pending_inbound=1)


@asynccontextmanager
async def hardened_node(transport: str = "tcp", **options: Any) -> AsyncIterator[Node]:
    """Listens after it was hardened, as with `install(harden=True)`."""
    async with running_node(transport, **options) as node:
        swarm: Any = node.host.get_network()
        for listener in list(swarm.listeners.values()):
            await listener.close()
        swarm.listeners.clear()
        harden(node.host)
        await swarm.listen(Multiaddr(LISTEN[transport]))
        if transport == "tcp":  # the first may have been waited for before there was a gate
            limiter = swarm._inbound_limiter
            most, limiter.total_tokens = limiter.total_tokens, 0
            assert await is_closed_at_once(node)
            limiter.total_tokens = most
        yield node


class Heard:
    """How many accepted connections the swarm was told of."""

    def __init__(self, node: Node) -> None:
        self.connections = 0
        Hook(node.host.get_network(), "_handle_inbound_connection", self._counting)

    def _counting(self, original: Any) -> Any:
        async def handle(*args: Any) -> None:
            self.connections += 1
            await original(*args)

        return handle


async def is_closed_at_once(node: Node) -> bool:
    """Whether the node hangs up on one that says nothing."""
    with trio.move_on_after(SHORT):
        async with await trio.open_tcp_stream("127.0.0.1", node.port) as stream:
            try:
                return await stream.receive_some(1) == b""
            except trio.BrokenResourceError:
                return True
    return False


async def test_refused_before_the_swarm_hears_of_it() -> None:
    async with hardened_node(limits=ONE) as node:
        heard = Heard(node)
        async with await trio.open_tcp_stream("127.0.0.1", node.port):
            await eventually(lambda: node.counts == (1, 0, 0, 0))
            for number in range(1, 4):
                assert await is_closed_at_once(node)
                assert node.manager.get_stats()["denied"] == {"pending_inbound": number}
            assert heard.connections == 1
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert not await is_closed_at_once(node)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


async def test_stock_hosts_hear_of_all() -> None:
    async with running_node(limits=ONE) as node:
        heard = Heard(node)
        async with await trio.open_tcp_stream("127.0.0.1", node.port):
            await eventually(lambda: node.counts == (1, 0, 0, 0))
            assert await is_closed_at_once(node)
        assert heard.connections == 2


async def test_an_admitted_one_is_counted_once(transport: str) -> None:
    """Also where one is all there may be, and where each takes a token."""
    if transport == "quic":
        pytest.skip("has no accepting")
    async with (
        hardened_node(
            transport, limits=ONE, node_limits=ResourceLimits(max_connections=1),
            rates=ConnectionRateLimits(per_ip=Rate(0.001, burst=3)),
        ) as node,
        running_node(transport) as peer,
    ):
        for _ in range(3):
            assert await peer.dial(node)
            await eventually(lambda: node.counts == (0, 0, 1, 0))
            await peer.host.disconnect(node.id)
            await eventually(lambda: node.counts == (0, 0, 0, 0))
        totals = node.manager.connection_tracker.snapshot()
        assert (totals.total_created, totals.total_closed) == (3, 3)
        assert await peer.dial(node) is False
        assert node.manager.get_stats()["denied"] == {"address_rate": 1}
        assert node.manager.ledger.leaked == node.manager.ledger.over_released == 0


async def test_what_the_swarm_itself_refuses_is_not_counted() -> None:
    async with hardened_node() as node:
        swarm: Any = node.host.get_network()
        heard = Heard(node)
        swarm._inbound_limiter.total_tokens = 1
        async with await trio.open_tcp_stream("127.0.0.1", node.port):
            await eventually(lambda: heard.connections == 1)
            assert await is_closed_at_once(node)
            assert heard.connections == 1
            assert node.counts == (1, 0, 0, 0)


async def test_the_gate_may_still_refuse() -> None:
    async with hardened_node(limits=ONE) as node:
        network: Any = node.host.get_network()

        contexts = []
        counts = []

        async def refuse(address: Any) -> bool:
            counts.append(node.counts)
            contexts.append(copy_context())  # so that no scope ends by being forgotten
            return False

        network.connection_gate.is_allowed = refuse
        for _ in range(3):
            assert await is_closed_at_once(node)
            await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert counts == [(1, 0, 0, 0)] * 3


async def test_allowlisted_addresses_get_in() -> None:
    full = ResourceLimits(max_connections=0)
    async with (
        hardened_node(node_limits=full, allowlist=("/ip4/127.0.0.1",)) as node,
        running_node() as peer,
    ):
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))


@pytest.mark.parametrize("observed_first", [True, False])
async def test_observers_hear_of_denials(observed_first: bool) -> None:
    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        handler = ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits())
        events: list[Any] = []
        handler.register_handler(ConnectionLifecycleEvent, events.append)
        if observed_first:
            observe(node.host, handler)
        harden(node.host)
        if not observed_first:
            observe(node.host, handler)
        for _ in range(3):
            assert await is_closed_at_once(node)
        await eventually(lambda: len(events) == 3)
        for event in events:
            assert isinstance(event, ConnectionDeniedEvent)
            assert event.endpoint is Endpoint.LISTENER
            assert str(event.local_addr) == f"/ip4/127.0.0.1/tcp/{node.port}"
            assert str(event.remote_addr).startswith("/ip4/127.0.0.1/tcp/")
            assert isinstance(event.error, ConnectionLimitExceeded)
            assert event.error.kind.value == "pending_inbound"


async def test_no_error_is_made_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(manager: ResourceManager) -> None:
        pytest.fail("a denial was described")

    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        observe(node.host, ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits()))
        harden(node.host)
        monkeypatch.setattr(ResourceManager, "last_denial", property(made))
        for _ in range(3):
            assert await is_closed_at_once(node)
        assert node.manager.denials.total == 3


async def test_undoing() -> None:
    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        hardening = harden(node.host)
        heard = Heard(node)
        assert await is_closed_at_once(node)  # its first was being accepted already
        assert await is_closed_at_once(node)
        assert heard.connections == 1
        hardening.undo()
        assert await is_closed_at_once(node)
        assert heard.connections == 2


async def test_one_gate_for_all_who_want_one() -> None:
    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        leave = gate_accepts(node.host.get_network())
        hardening = harden(node.host)
        heard = Heard(node)
        assert await is_closed_at_once(node)  # its first was being accepted already
        for undo in (hardening.undo, hardening.undo, leave):
            before = node.manager.denials.total
            assert await is_closed_at_once(node)
            assert (heard.connections, node.manager.denials.total) == (1, before + 1)
            undo()
        assert await is_closed_at_once(node)  # it was being accepted when the gate went
        assert await is_closed_at_once(node)
        assert heard.connections == 3
        leave = gate_accepts(node.host.get_network())
        assert await is_closed_at_once(node)  # it was being accepted when the gate came
        assert await is_closed_at_once(node)
        assert heard.connections == 4
        leave()


async def test_the_swarms_metrics_count_those_that_are_refused() -> None:
    async with hardened_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        swarm: Any = node.host.get_network()
        swarm.metric_send_channel, events = trio.open_memory_channel(10)
        assert await is_closed_at_once(node)
        swarm._inbound_limiter.total_tokens = 1
        await swarm._inbound_limiter.acquire_on_behalf_of("somebody")
        assert await is_closed_at_once(node)
        with trio.fail_after(10):
            for _ in range(2):
                assert (await events.receive()).conn_incoming
        events.close()
        for _ in range(2):
            assert await is_closed_at_once(node)

        class Broken:
            async def send(self, event: Any) -> None:
                raise RuntimeError("nobody counts")

        swarm.metric_send_channel = Broken()
        for _ in range(2):
            assert await is_closed_at_once(node)


async def test_a_manager_that_fails_does_not_end_the_listener(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with hardened_node() as node, running_node() as peer:
        fails = True

        class Failing(MemoryConnectionLimits):
            def excess(self, **options: Any) -> Any:
                if fails:
                    raise TypeError("none of the manager's")
                return super().excess(**options)

        node.manager.connection_lifecycle.memory_limits = Failing(1 << 50)
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", node.port) as stream:
                await stream.send_all(b"x")
        await eventually(lambda: caplog.text.count("none of the manager's") >= 3)
        assert "asking for a connection from ('127.0.0.1'" in caplog.text
        fails = False
        assert await peer.dial(node)
        await eventually(lambda: node.counts == (0, 0, 1, 0))


async def test_listeners_of_ones_own_are_left_to_the_swarm() -> None:
    async with hardened_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        swarm: Any = node.host.get_network()
        swarm.listeners["/ip4/1.2.3.4/tcp/4001"] = SimpleNamespace(listeners=[object()])
        for address in swarm.listeners:
            await swarm.notify_listen(Multiaddr(address))
            await swarm.notify_listen(Multiaddr(address))  # nothing is asked twice for that
        await swarm.notify_listen(Multiaddr("/ip4/1.2.3.4/tcp/4002"))
        del swarm.listeners["/ip4/1.2.3.4/tcp/4001"]
        assert await is_closed_at_once(node)
        before = node.manager.denials.total
        assert await is_closed_at_once(node)
        assert node.manager.denials.total == before + 1


async def test_nothing_is_kept_of_listeners_that_closed() -> None:
    async with hardened_node() as node:
        swarm: Any = node.host.get_network()
        [listener] = swarm.listeners.values()
        sockets = [weakref.ref(each.socket) for each in listener.listeners]
        await listener.close()
        swarm.listeners.clear()
        del listener
        await swarm.listen(Multiaddr(LISTEN["tcp"]))
        await eventually(lambda: gc.collect() >= 0 and not any(each() for each in sockets))


async def test_what_an_observer_sets_is_not_inherited() -> None:
    seen = ContextVar("seen", default="nothing")
    async with hardened_node(limits=ONE) as node:
        handler = ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits())
        handler.register_handler(ConnectionDeniedEvent, lambda event: seen.set("a denial") and None)
        observe(node.host, handler)
        network: Any = node.host.get_network()
        found = []

        async def is_allowed(address: Any) -> bool:
            found.append(seen.get())
            return True

        network.connection_gate.is_allowed = is_allowed
        for _ in range(2):
            async with await trio.open_tcp_stream("127.0.0.1", node.port):
                await eventually(lambda: node.counts == (1, 0, 0, 0))
                assert await is_closed_at_once(node)
            await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert node.manager.denials.total == 2
        assert found == ["nothing", "nothing"]


async def test_another_manager_before_the_swarm_has_asked() -> None:
    async with hardened_node() as node, running_node() as peer:
        network: Any = node.host.get_network()
        goes_on = trio.Event()

        async def is_allowed(address: Any) -> bool:
            await goes_on.wait()
            return True

        network.connection_gate.is_allowed = is_allowed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.dial, node)
            await eventually(lambda: node.counts == (1, 0, 0, 0))
            network.set_resource_manager(other := ResourceManager())
            goes_on.set()
        await eventually(lambda: peer.counts == (0, 0, 0, 1))
        assert node.counts == (0, 0, 0, 0)
        assert other.get_stats()["connections"] == 1


async def test_a_manager_of_another_kind_is_asked_by_the_swarm() -> None:
    from libp2p.rcmgr.manager import ResourceManager as StockManager

    async with hardened_node() as node, running_node(
        key_pair=create_new_key_pair()
    ) as peer:
        network: Any = node.host.get_network()
        network.set_resource_manager(stock := StockManager())
        assert await peer.dial(node)
        await eventually(lambda: stock.get_stats()["connections"] == 1)
        assert node.counts == (0, 0, 0, 0)
