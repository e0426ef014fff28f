"""What a person is told about a node's limits."""

from __future__ import annotations

from typing import Any

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    MemoryConnectionLimits,
    MemoryStatsCache,
    NodeLimits,
    ResourceLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.report.usage import usages

PEER = b"\x12\x20" + b"p" * 32
TEXT = "QmVuZp8s9f1Pk1DnS1tfFPFDARrGR95mTXf1fMDjRQt1CB"


def test_an_idle_node() -> None:
    manager = ResourceManager()
    assert manager.explain() == "Nothing is at its limit.\nNothing was denied yet."


def test_a_full_node() -> None:
    manager = ResourceManager(
        NodeLimits(
            ConcreteLimits(system=Limit(conns=4, memory=8 << 20), peer_default=Limit(streams=1)),
            ConnectionLimits(max_established_per_peer=2, max_pending_inbound=100),
        ))
    kept: list[Any] = [manager.open_connection(PEER) for _ in range(4)]
    kept += [manager.open_connection(None, None, "outbound") for _ in range(3)]
    assert manager.acquire_memory(8 << 20)
    assert manager.acquire_stream(PEER, "inbound")
    for _ in range(5):
        assert not manager.acquire_stream(PEER, "inbound")
    assert manager.explain().splitlines() == [
        "At or near its limit now:",
        "  system conns: 4 of 4 (100%)",
        "  system memory: 8.0 of 8.0 MiB (100%)",
        "  established_per_peer: 2 of 2 (100%)",
        f"  peer:{TEXT} streams: 1 of 1 (100%)",
        "Denied since the start: 8, 7 inbound, 1 outbound. Of the last 8:",
        "  5 by stream.peer.streams: see ConcreteLimits.peer_default.streams or "
        f"ConcreteLimits.peer['{TEXT}'].streams",
        "  2 by connection.established_per_peer: see ConnectionLimits.max_established_per_peer",
        "  1 by connection.system.conns: see "
        "ResourceLimits.max_connections (ConcreteLimits.system.conns)",
        "Peers denied most:",
        f"  7 times {TEXT}",
    ]


def test_only_the_worst_is_told() -> None:
    limits = ConnectionLimits(1, 1, 1, 1, 1, 1)
    manager = ResourceManager(
        NodeLimits(ConcreteLimits(system=Limit(*[1] * 8)), limits))
    kept: list[Any] = [manager.open_connection(PEER)]
    manager.acquire_stream(PEER, "inbound")
    manager.acquire_memory(1)
    lines = manager.explain().splitlines()
    assert len([line for line in lines if "(100%)" in line]) == 5
    assert any(line.startswith("  and ") and line.endswith(" more") for line in lines)
    del kept


def test_full_peers_hide_nothing_of_the_node() -> None:
    limits = ConcreteLimits(
        system=Limit(streams=55), peer_default=Limit(streams=1), protocol={"/a": Limit(streams=50)})
    manager = ResourceManager(NodeLimits(limits, ConnectionLimits()))
    kept: list[Any] = []
    for number in range(50):
        stream = manager.open_stream(b"\x12\x20" + number.to_bytes(32, "big"), "inbound")
        assert stream is not None
        stream.set_protocol("/a")
        kept.append(stream)
    seen = usages(manager)
    assert seen[0] == ("protocol:/a streams", 50, 50, None)
    assert [usage.of_one_peer for usage in seen] == [False] + [True] * 10 + [False]
    assert seen[-1] == ("system streams", 50, 55, 50)
    assert manager.explain().splitlines()[1:3] == [
        "  protocol:/a streams: 50 of 50 (100%)", "  system streams: 50 of 55 (91%)"]


def test_many_peers_take_one_line() -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(peer_default=Limit(streams=0))))
    for number in range(300):
        assert not manager.acquire_stream(b"\x12\x20" + number.to_bytes(32, "big"), "inbound")
    assert manager.explain().splitlines() == [
        "Nothing is at its limit.",
        "Denied since the start: 300, 300 inbound, 0 outbound. Of the last 256:",
        "  256 by stream.peer.streams: see ConcreteLimits.peer_default.streams",
    ]


def test_the_reasons_add_up() -> None:
    limits = ConnectionLimits(0, 0, 0, 0, 0, 0)
    manager = ResourceManager(connection_limits=limits)
    for _ in range(3):
        manager.open_connection(None, direction="inbound")
        manager.open_connection(None, direction="outbound")
        manager.open_connection(PEER, direction="inbound")
        manager.open_connection(PEER, direction="outbound")
        manager.limits = ResourceLimits(max_connections=0)
        manager.open_connection(PEER)
        manager.limits = ResourceLimits()
    manager.limits = ResourceLimits(max_streams=0)
    manager.acquire_stream(PEER, "inbound")
    lines = manager.explain().splitlines()
    assert lines[1] == "Denied since the start: 16, 10 inbound, 6 outbound. Of the last 16:"
    assert [int(line.split()[0]) for line in lines[2:8]] == [3, 3, 3, 3, 3, 1]
    assert lines[7] == "  1 by others"


def test_names_that_peers_choose_are_only_text() -> None:
    """They can neither write to the terminal nor forge a line."""
    name = "/evil\x1b]0;owned\x07\nNothing is at its limit.\u202e" + "x" * 100_000
    manager = ResourceManager(NodeLimits(ConcreteLimits(protocol_default=Limit(streams=1))))
    kept = [manager.open_stream(PEER, "inbound") for _ in range(2)]
    for stream in kept:
        assert stream is not None
        if not (taken := stream.try_set_protocol(name)):
            manager.denials.add(taken, None, "peer\x1b[2J\n" * 1000, True)
    manager.denials.add(taken, None, "peer\x1b[2J\n" * 1000, True)
    told = manager.explain()
    assert "/evil\\x1b]0;owned\\x07\\nNothing" in told
    assert "peer\\x1b[2J\\n" in told
    assert all(each.isprintable() for each in told.replace("\n", ""))
    assert [line[:2] for line in told.splitlines()] == ["At", "  ", "De", "  ", "Pe", "  "]
    assert len(told) < 3000


def test_full_networks_are_told() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 2),))))
    kept = [manager.open_connection(None, "192.0.2.1") for _ in range(3)]
    assert "  network 192.0.2.1/32 connections: 2 of 2 (100%)" in manager.explain().splitlines()
    assert kept[2] is None


def test_the_fullest_comes_first() -> None:
    memory = MemoryConnectionLimits(max_bytes=200, cache=MemoryStatsCache(probe=lambda: 150))
    manager = ResourceManager(
        NodeLimits(ConcreteLimits(system=Limit(conns=2)), ConnectionLimits(max_pending_inbound=9)),
        memory_limits=memory,
    )
    scope = manager.open_connection(PEER)
    assert [(each.name, each.used, each.limit) for each in usages(manager)] == [
        ("process memory", 150, 200), ("system conns", 1, 2), ("pending_inbound", 0, 9)]
    assert scope is not None
    manager.connection_limits = ConnectionLimits(max_pending_inbound=0)
    assert usages(manager)[0].share == 1.0  # of nothing, nothing is left
    assert "pending_inbound" not in manager.explain()
