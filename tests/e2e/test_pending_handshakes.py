"""Handshakes of one address do not close the door for others, nor for newcomers of this address."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from nodes import LONG, PATIENCE_S, Node, comes_true, eventually, running_node
from silent_peers import BY_SCOPE, BY_STATE, PLACES, guarded_node, silent

from rcmgr import ConnectionDeniedEvent, ConnectionEvicted, Eviction, ListenFailedEvent, NodeLimits
from rcmgr.libp2p import observe
from rcmgr.libp2p.guard import accept_gate

PATIENT = replace(BY_STATE, eviction=Eviction(
    pending_grace_s=LONG, pending_patience_s=LONG, waiting_s=LONG))
"""No handshake makes room, and sockets wait long."""


@pytest.fixture(params=[True, False], ids=["in batches", "one by one"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one: as on systems where trio has to accept."""
    monkeypatch.setattr(accept_gate, "CAN_ACCEPT", request.param and accept_gate.CAN_ACCEPT)


@pytest.mark.parametrize("limits", [BY_STATE, BY_SCOPE])
async def test_a_newcomer_of_the_same_address_gets_in(limits: NodeLimits) -> None:
    async with guarded_node(limits) as node, silent(node, 3 * PLACES), running_node() as peer:
        await eventually(lambda: node.count("pending_inbound") >= PLACES - 1)
        with trio.fail_after(PATIENCE_S):
            assert await peer.dial(node)
        await eventually(lambda: node.count("established_inbound") == 1)
        peaks = node.manager.connection_tracker.snapshot()
        assert peaks.peak_pending_inbound <= PLACES
        assert node.manager.evictions()["evicted"]["pending_inbound"] >= 1


async def test_newcomers_over_ipv6_get_in() -> None:
    async with (
        guarded_node(listen="/ip6/::1/tcp/0") as node, silent(node, 3 * PLACES, "::1"),
        running_node() as peer,
    ):
        await eventually(lambda: node.count("pending_inbound") >= PLACES - 1)
        with trio.fail_after(PATIENCE_S):
            assert await peer.dial(node)
        await eventually(lambda: node.count("established_inbound") == 1)
        assert node.manager.connection_tracker.snapshot().peak_pending_inbound <= PLACES


@pytest.mark.loopback
@pytest.mark.usefixtures("_way")
async def test_a_newcomer_of_another_address_takes_a_place_at_once() -> None:
    patient = replace(BY_STATE, eviction=Eviction(pending_grace_s=60, pending_patience_s=60))
    async with guarded_node(patient) as node, silent(node, PLACES):
        await eventually(lambda: node.count("pending_inbound") == PLACES)
        async with silent(node, 1, "127.77.0.1") as [newcomer]:
            assert await newcomer.receive_some() != b""  # the node begins to negotiate
        made = node.manager.evictions()["evicted"]
        assert made["pending_inbound"] == 1


async def test_a_silent_flood_leaves_nothing_behind() -> None:
    async with guarded_node() as node:
        for _ in range(3):
            async with silent(node, 3 * PLACES):
                await trio.sleep(0.1)
        await eventually(lambda: node.counts == (0, 0, 0, 0))
        assert len(node.manager._admission.room.handshakes) == 0
        ledger = node.manager.ledger
        assert ledger.leaked == ledger.over_released == 0
        limiter = node.host.get_network()._inbound_limiter
        await eventually(lambda: limiter.borrowed_tokens == 0)


@pytest.mark.usefixtures("_way")
async def test_sockets_that_hang_up_cost_no_place() -> None:
    async with guarded_node() as node, running_node() as peer:
        for _ in range(10 * PLACES):
            await (await trio.open_tcp_stream("127.0.0.1", node.port)).aclose()
        with trio.fail_after(PATIENCE_S):
            assert await peer.dial(node)
        assert node.manager.connection_tracker.snapshot().peak_pending_inbound <= PLACES


async def ends(stream: trio.SocketStream) -> bool:
    """Whether the node hangs up."""
    with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    return True


@pytest.mark.loopback
@pytest.mark.usefixtures("_way")
async def test_banned_sockets_do_not_wait_for_a_place() -> None:
    async with guarded_node(PATIENT) as node, silent(node, PLACES):
        await eventually(lambda: node.count("pending_inbound") == PLACES)
        node.manager.ban("127.0.0.2")  # its network group has all places
        async with silent(node, 3, "127.0.0.2") as banned:
            assert all([await ends(each) for each in banned])
        assert node.manager.denied_by_limit()["ban"] == 3
        assert node.count("pending_inbound") == PLACES  # they did not wait for the end of one


@pytest.mark.usefixtures("_way")
async def test_a_listener_ends_while_sockets_wait() -> None:
    async with guarded_node(PATIENT) as node, silent(node, PLACES):
        await eventually(lambda: node.count("pending_inbound") == PLACES)
        async with silent(node, PLACES) as waiting:
            for listener in list(node.host.get_network().listeners.values()):
                await listener.close()
            assert all([await ends(each) for each in waiting])
        assert node.manager.denials.total == 0


async def test_real_handshakes_wait_for_each_other() -> None:
    """Three times as many as there are places, all of one address."""
    async with guarded_node(PATIENT) as node, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(running_node()) for _ in range(3 * PLACES)]

        async def dial(peer: Node) -> None:
            while not await peer.dial(node):
                pass  # on a busy machine, a handshake that takes long may lose its place

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(dial, peer)
        assert await comes_true(lambda: node.count("established_inbound") == len(peers))
        assert node.manager.connection_tracker.snapshot().peak_pending_inbound <= PLACES


@pytest.mark.loopback
async def test_the_end_of_a_handshake_is_told() -> None:
    async with guarded_node() as node:
        events: list[Any] = []
        handler = observe(node.host).handler
        for kind in (ConnectionDeniedEvent, ListenFailedEvent):
            handler.register_handler(kind, events.append)
        async with silent(node, PLACES):
            await eventually(lambda: node.count("pending_inbound") == PLACES)
            async with silent(node, 1, "127.77.0.1"):
                await eventually(lambda: bool(events))
                assert isinstance(events[0], ConnectionDeniedEvent)
                assert isinstance(events[0].error, ConnectionEvicted)
                assert str(events[0].remote_addr).startswith("/ip4/127.0.0.1/tcp/")


@pytest.mark.usefixtures("_way")
async def test_one_that_waits_too_long_is_refused() -> None:
    quick = replace(BY_STATE, eviction=Eviction(
        pending_grace_s=60, pending_patience_s=60, waiting_s=0.2))
    async with guarded_node(quick) as node, silent(node, PLACES):
        await eventually(lambda: node.count("pending_inbound") == PLACES)
        async with silent(node, 1) as [late]:
            assert await late.receive_some() == b""
        assert node.manager.last_denial is not None
        assert node.manager.last_denial.code == "connection.pending_inbound"
