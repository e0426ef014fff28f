"""`rcmgr.manager_of` finds a host's manager, and the swarm's own attribute is as good."""

from __future__ import annotations

from typing import Any

import pytest
from libp2p import new_host
from nodes import eventually, running_node

import rcmgr
from rcmgr import ConnectionLimits, ResourceLimits, ResourceManager
from rcmgr.libp2p import harden, installed, manager_of


def test_of_each_kind_of_host() -> None:
    ours = ResourceManager()
    host = new_host(resource_manager=ours)
    swarm: Any = host.get_network()
    assert manager_of(host) is manager_of(swarm) is ours
    hardening = harden(host)
    assert swarm._resource_manager is not ours
    assert manager_of(host) is manager_of(swarm) is ours
    hardening.undo()
    assert manager_of(host) is ours
    stock = new_host()
    assert manager_of(stock) is stock.get_network()._resource_manager  # type: ignore[attr-defined]
    swarm.set_resource_manager(None)
    assert manager_of(host) is None
    assert rcmgr.manager_of is manager_of


@pytest.mark.parametrize("hardened", [False, True])
def test_under_install(hardened: bool) -> None:
    with installed(harden=hardened):
        manager = manager_of(new_host())
        assert isinstance(manager, ResourceManager)
        assert type(manager) is type(manager_of(new_host()))


async def test_writes_to_a_hardened_swarms_manager() -> None:
    async with running_node() as node, running_node() as peer:
        harden(node.host)
        stand_in: Any = node.host.get_network()._resource_manager  # type: ignore[attr-defined]
        stand_in.limits = ResourceLimits(max_connections=3, max_streams=7)
        assert node.manager.limits.max_connections == 3
        assert node.manager.ledger.system().limit["conns"] == 3
        stand_in.connection_limits = ConnectionLimits(max_established_inbound=0)
        await peer.dial(node)
        await eventually(lambda: node.manager.denied_by_limit() == {"established_inbound": 1})
        stand_in.mine = 5
        assert node.manager.mine == 5
        assert "mine" in dir(stand_in)
        del stand_in.mine
        assert not hasattr(node.manager, "mine")
        with pytest.raises(AttributeError):
            del stand_in.mine
        with pytest.raises(TypeError, match="limits must be"):
            stand_in.limits = 5
        assert repr(stand_in) == repr(node.manager)
