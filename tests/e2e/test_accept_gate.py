"""Guarded hosts refuse a connection when they accept it, before py-libp2p sees it."""

from __future__ import annotations

import gc
import select
import socket
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from contextvars import ContextVar, copy_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from multiaddr import Multiaddr
from nodes import PATIENCE_S, SHORT, Node, eventually, listen_on, running_node

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
from rcmgr.libp2p.guard import accept_gate
from rcmgr.libp2p.guard.accept_gate import gate_accepts
from rcmgr.libp2p.hooks import Hook

ONE = ConnectionLimits(max_pending_inbound=1)


@asynccontextmanager
async def hardened_node(transport: str = "tcp", **options: Any) -> AsyncIterator[Node]:
    """A node that starts to listen after `harden`, as with `install(harden=True)`."""
    async with running_node(transport, **options) as node:
        swarm: Any = node.host.get_network()
        for listener in list(swarm.listeners.values()):
            await listener.close()
        swarm.listeners.clear()
        harden(node.host)
        await swarm.listen(listen_on(transport))
        if transport == "tcp":  # the listener may have accepted the first one before the gate
            limiter = swarm._inbound_limiter
            most, limiter.total_tokens = limiter.total_tokens, 0
            assert await is_closed(node)
            limiter.total_tokens = most
        yield node


class Seen:
    """Counts the accepted connections that the swarm sees."""

    def __init__(self, node: Node) -> None:
        self.connections = 0
        Hook(node.host.get_network(), "_handle_inbound_connection", self._counting)

    async def _counting(self, original: Any, *args: Any) -> None:
        self.connections += 1
        await original(*args)


async def is_closed(node: Node, seconds: float = PATIENCE_S) -> bool:
    """Whether the node closes a silent connection, before a handshake could time out."""
    with trio.move_on_after(seconds):
        try:
            async with await trio.open_tcp_stream("127.0.0.1", node.port) as stream:
                return await stream.receive_some(1) == b""
        except (OSError, trio.BrokenResourceError):  # a reset, perhaps before this side connected
            return True
    return False


@pytest.mark.parametrize("in_batches", [True, False])
async def test_the_swarm_does_not_see_a_refused_connection(
    monkeypatch: pytest.MonkeyPatch, in_batches: bool
) -> None:
    """Without batches: as on systems where trio has to accept."""
    monkeypatch.setattr(accept_gate, "CAN_ACCEPT", in_batches and accept_gate.CAN_ACCEPT)
    async with hardened_node(limits=ONE) as node:
        seen = Seen(node)
        async with await trio.open_tcp_stream("127.0.0.1", node.port):
            await eventually(lambda: node.counts == (1, 0, 0, 0))
            for number in range(1, 4):
                assert await is_closed(node)
                assert node.manager.get_stats()["denied"] == {"pending_inbound": number}
            assert seen.connections == 1
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert not await is_closed(node, SHORT)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


async def test_a_stock_swarm_sees_every_connection() -> None:
    async with running_node(limits=ONE) as node:
        seen = Seen(node)
        async with await trio.open_tcp_stream("127.0.0.1", node.port):
            await eventually(lambda: node.counts == (1, 0, 0, 0))
            assert await is_closed(node)
        assert seen.connections == 2


async def test_an_admitted_connection_is_counted_once(transport: str) -> None:
    """The limits admit one connection at once, and three in total."""
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


async def test_connections_above_the_swarms_own_limit_are_not_counted() -> None:
    async with hardened_node() as node:
        swarm: Any = node.host.get_network()
        seen = Seen(node)
        swarm._inbound_limiter.total_tokens = 1
        async with await trio.open_tcp_stream("127.0.0.1", node.port):
            await eventually(lambda: seen.connections == 1)
            assert await is_closed(node)
            assert seen.connections == 1
            assert node.counts == (1, 0, 0, 0)


async def test_the_connection_gate_may_refuse_later() -> None:
    async with hardened_node(limits=ONE) as node:
        network: Any = node.host.get_network()

        contexts = []
        counts = []

        async def refuse(address: Any) -> bool:
            counts.append(node.counts)
            contexts.append(copy_context())  # keeps the scope alive, so that the gate must close it
            return False

        network.connection_gate.is_allowed = refuse
        for _ in range(3):
            assert await is_closed(node)
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
async def test_observers_get_an_event_for_each_denial(observed_first: bool) -> None:
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
            assert await is_closed(node)
        await eventually(lambda: len(events) == 3)
        for event in events:
            assert isinstance(event, ConnectionDeniedEvent)
            assert event.endpoint is Endpoint.LISTENER
            assert str(event.local_addr) == f"/ip4/127.0.0.1/tcp/{node.port}"
            assert str(event.remote_addr).startswith("/ip4/127.0.0.1/tcp/")
            assert isinstance(event.error, ConnectionLimitExceeded)
            assert event.error.kind.value == "pending_inbound"


async def test_no_error_is_made_without_an_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(manager: ResourceManager) -> None:
        pytest.fail("a denial was described")

    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        observe(node.host, ConnectionLifecycleHandler(ConnectionTracker(), ConnectionLimits()))
        harden(node.host)
        monkeypatch.setattr(ResourceManager, "last_denial", property(made))
        for _ in range(3):
            assert await is_closed(node)
        assert node.manager.denials.total == 3


async def test_a_flood_is_refused_in_batches_and_counted_one_by_one() -> None:
    """The first refusals end as usual. Then the kernel keeps nothing: the others are reset."""
    times = 200
    async with hardened_node(limits=ONE) as node:
        node.manager.ban("127.0.0.0/8")
        ends: Counter[str] = Counter()

        async def knock() -> None:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", node.port) as stream:
                    ends["closed" if await stream.receive_some(1) == b"" else "data"] += 1
            except (OSError, trio.BrokenResourceError):
                ends["reset"] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(knock)
        assert ends.total() == times
        assert ends["closed"] > 0
        assert ends["reset"] > times // 2
        assert ends["data"] == 0
        assert node.manager.get_stats()["denied"] == {"ban": times}
        assert node.manager.denials.most_denied_addresses() == [("127.0.0.1", times)]
        node.manager.unban("127.0.0.0/8")
        assert not await is_closed(node, SHORT)


def queue_of_this_system() -> int:
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except OSError:
        return 0


@pytest.mark.skipif(queue_of_this_system() < 512, reason="this system keeps a short queue")
async def test_a_busy_node_keeps_more_connections_than_libp2p_would() -> None:
    """libp2p's listener would drop the 130th, whose peer tries again a second later."""
    async with hardened_node() as node:
        with ExitStack() as stack:
            unanswered = set()
            for _ in range(300):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", node.port))
                unanswered.add(client)
            while unanswered:  # the node does not run meanwhile
                _, connected, _ = select.select([], unanswered, [], SHORT)
                assert connected, f"{len(unanswered)} of 300 are not connected"
                unanswered -= set(connected)


async def test_the_node_goes_on_after_it_had_no_descriptors(
    caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    async with hardened_node() as node, running_node() as peer:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = trio.socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            await client.connect(("127.0.0.1", node.port))
            await eventually(lambda: "accept returned EMFILE" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
        assert await peer.dial(node)


async def test_undoing() -> None:
    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        assert await is_closed(node)  # now the listener accepts
        hardening = harden(node.host)
        seen = Seen(node)
        assert await is_closed(node)  # a first one, which passes the gate
        assert await is_closed(node)
        assert seen.connections == 1
        hardening.undo()
        assert await is_closed(node)
        assert seen.connections == 2


async def test_one_gate_serves_several_users() -> None:
    async with running_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        assert await is_closed(node)  # now the listener accepts
        leave = gate_accepts(node.host.get_network())
        hardening = harden(node.host)
        seen = Seen(node)
        assert await is_closed(node)  # a first one, which passes the gate
        for undo in (hardening.undo, hardening.undo, leave):
            before = node.manager.denials.total
            assert await is_closed(node)
            assert (seen.connections, node.manager.denials.total) == (1, before + 1)
            undo()
        assert await is_closed(node)  # a first one, which the old gate takes
        assert await is_closed(node)
        assert seen.connections == 3
        leave = gate_accepts(node.host.get_network())
        assert await is_closed(node)  # a first one, which passes the gate
        assert await is_closed(node)
        assert seen.connections == 4
        leave()


async def test_the_swarms_metrics_count_refused_connections() -> None:
    async with hardened_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        swarm: Any = node.host.get_network()
        swarm.metric_send_channel, events = trio.open_memory_channel(10)
        assert await is_closed(node)
        swarm._inbound_limiter.total_tokens = 1
        await swarm._inbound_limiter.acquire_on_behalf_of("somebody")
        assert await is_closed(node)
        with trio.fail_after(PATIENCE_S):
            for _ in range(2):
                assert (await events.receive()).conn_incoming
        events.close()
        for _ in range(2):
            assert await is_closed(node)

        class Broken:
            async def send(self, event: Any) -> None:
                raise RuntimeError("nobody counts")

        swarm.metric_send_channel = Broken()
        for _ in range(2):
            assert await is_closed(node)


@pytest.mark.parametrize("in_batches", [True, False])
async def test_a_failing_manager_does_not_end_the_listener(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, in_batches: bool
) -> None:
    monkeypatch.setattr(accept_gate, "CAN_ACCEPT", in_batches and accept_gate.CAN_ACCEPT)
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


async def test_other_kinds_of_listeners_are_left_alone() -> None:
    async with hardened_node(limits=ConnectionLimits(max_pending_inbound=0)) as node:
        swarm: Any = node.host.get_network()
        swarm.listeners["/ip4/1.2.3.4/tcp/4001"] = SimpleNamespace(listeners=[object()])
        for address in swarm.listeners:
            await swarm.notify_listen(Multiaddr(address))
            await swarm.notify_listen(Multiaddr(address))  # hooks no socket twice
        await swarm.notify_listen(Multiaddr("/ip4/1.2.3.4/tcp/4002"))
        del swarm.listeners["/ip4/1.2.3.4/tcp/4001"]
        assert await is_closed(node)
        before = node.manager.denials.total
        assert await is_closed(node)
        assert node.manager.denials.total == before + 1


async def test_sockets_of_closed_listeners_are_freed() -> None:
    async with hardened_node() as node:
        swarm: Any = node.host.get_network()
        [listener] = swarm.listeners.values()
        sockets = [weakref.ref(each.socket) for each in listener.listeners]
        await listener.close()
        swarm.listeners.clear()
        del listener
        await swarm.listen(listen_on("tcp"))
        await eventually(lambda: gc.collect() >= 0 and not any(each() for each in sockets))


async def test_connections_do_not_inherit_what_an_observer_sets() -> None:
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
                assert await is_closed(node)
            await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert node.manager.denials.total == 2
        assert found == ["nothing", "nothing"]


async def test_the_manager_changes_before_the_swarm_asks() -> None:
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
        await eventually(lambda: other.get_stats()["connections"] == 1)
        await eventually(lambda: node.counts == (0, 0, 0, 0))


async def test_the_swarm_asks_another_kind_of_manager_itself() -> None:
    from libp2p.rcmgr.manager import ResourceManager as StockManager

    async with hardened_node() as node, running_node(
        key_pair=create_new_key_pair()
    ) as peer:
        network: Any = node.host.get_network()
        network.set_resource_manager(stock := StockManager())
        assert await peer.dial(node)
        await eventually(lambda: stock.get_stats()["connections"] == 1)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
