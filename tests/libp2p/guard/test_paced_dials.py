"""How long a dial waits for room. tests/e2e has the dials of real hosts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from rcmgr import ConnectionLimitExceeded, ConnectionLimits, NodeLimits, ResourceManager
from rcmgr.libp2p.guard.paced_dials import pace_dials


class Swarm:
    connection_config = SimpleNamespace(inbound_upgrade_timeout=30, outbound_upgrade_timeout=7)

    def __init__(self, manager: Any) -> None:
        self._resource_manager = manager
        self.dialled: list[str] = []

    async def _dial_addr_single_attempt(self, addr: str, peer_id: bytes) -> str:
        self.dialled.append(addr)
        return "connection"


async def test_a_dial_waits_as_long_as_its_handshake_may_take(
    autojump_clock: trio.testing.MockClock,
) -> None:
    swarm = Swarm(ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_pending_outbound=0))))
    hook = pace_dials(swarm)
    begin = trio.current_time()
    with pytest.raises(ConnectionLimitExceeded):
        await swarm._dial_addr_single_attempt("/ip4/192.0.2.1", b"peer")
    assert trio.current_time() - begin == pytest.approx(7, abs=0.5)
    assert swarm.dialled == []
    hook.undo()
    assert await swarm._dial_addr_single_attempt("/ip4/192.0.2.1", b"peer") == "connection"


@pytest.mark.parametrize("closed", [False, True])
async def test_a_manager_that_is_not_ours_or_closed_is_not_asked(closed: bool) -> None:
    manager: Any = object()
    if closed:
        manager = ResourceManager(NodeLimits(
            connections=ConnectionLimits(max_pending_outbound=0)))
        manager.close()
    swarm = Swarm(manager)
    pace_dials(swarm)
    assert await swarm._dial_addr_single_attempt("/ip4/192.0.2.1", b"peer") == "connection"
