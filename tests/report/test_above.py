"""The uses that other limits would exceed at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    NodeLimits,
    ProcessMemoryLimits,
    ResourceManager,
    SubnetLimits,
)

PEER = b"\x12\x20" + b"p" * 32
OPEN = NodeLimits(subnets=SubnetLimits(ipv4=((32, 100),)))


def used(manager: ResourceManager, limits: NodeLimits) -> dict[str, tuple[int, int]]:
    return {each.name: (each.used, each.limit) for each in manager.usages_above(limits)}


def test_each_kind_of_limit() -> None:
    manager = ResourceManager(OPEN)
    held = [manager.open_connection(PEER, "192.0.2.7") for _ in range(3)]
    stream = manager.open_stream(PEER, "inbound")
    assert stream
    stream.set_protocol("/a")
    peer = manager.ledger.peer(PEER).name
    assert used(manager, OPEN) == {}
    assert used(manager, replace(OPEN, connections=ConnectionLimits(
        max_established_inbound=2, max_established_per_peer=1, max_established_outbound=0))) == {
        "established_inbound": (3, 2), "established_per_peer": (3, 1)}
    scopes = ConcreteLimits(
        system=Limit(conns=2), peer_default=Limit(conns_inbound=1), peer={PEER: Limit(conns=0)},
        protocol={"/a": Limit(streams=0), "/b": Limit(streams=0)})
    assert used(manager, replace(OPEN, scopes=scopes)) == {
        "system conns": (3, 2), f"{peer} conns": (3, 0), "protocol:/a streams": (1, 0)}
    assert used(manager, replace(OPEN, subnets=SubnetLimits(ipv4=((24, 2), (32, 3))))) == {
        "network 192.0.2.0/24 connections": (3, 2)}
    [(name, (_, limit))] = used(
        manager, replace(OPEN, memory=ProcessMemoryLimits(1000))).items()
    assert (name, limit) == ("process memory", 1000)
    # asking has changed nothing
    assert manager.node_limits == OPEN
    assert manager.usages_above() == []
    manager.node_limits = replace(OPEN, scopes=scopes)
    assert len(manager.usages_above()) == 3
    for each in held:
        assert each
        each.close()
    assert used(manager, replace(OPEN, subnets=SubnetLimits(ipv4=((24, 0),)))) == {}


def test_only_limits_of_a_node_are_compared() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match=r"must be a rcmgr\.NodeLimits, not 3"):
        ResourceManager().usages_above(wrong)
