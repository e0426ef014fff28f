"""How full each limit of a node is."""

from __future__ import annotations

from typing import Any

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    MemoryConnectionLimits,
    MemoryStatsCache,
    NodeLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.report.usage import usages

PEER = b"\x12\x20" + b"p" * 32


def test_full_peers_do_not_crowd_out_the_nodes_own_limits() -> None:
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


def test_the_fullest_limit_comes_first() -> None:
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
    assert usages(manager)[0].share == 1.0  # a limit of 0 is full
    assert "pending_inbound" not in manager.explain()


def test_each_limit_has_its_own_peak() -> None:
    limits = NodeLimits(
        ConcreteLimits(system=Limit(conns=9, streams=9), transient=Limit(conns=9)),
        ConnectionLimits(max_pending_inbound=9, max_established_inbound=9))
    manager = ResourceManager(limits)
    kept: list[Any] = [manager.open_connection(None) for _ in range(3)]
    kept.append(manager.open_connection(PEER))  # one of the three, whose handshake is done
    kept[0].close()
    assert {each.name: (each.used, each.peak) for each in usages(manager)} == {
        "pending_inbound": (1, 3), "established_inbound": (1, 1), "system conns": (2, 3),
        "transient conns": (1, 3)}


def test_the_memory_of_the_process_is_read_anew() -> None:
    cache = MemoryStatsCache(0.0, probe=iter(range(150, 200)).__next__)
    manager = ResourceManager(
        NodeLimits(), memory_limits=MemoryConnectionLimits(max_bytes=200, cache=cache))
    used = [usages(manager)[0].used for _ in range(2)]
    assert used[0] < used[1]
    manager.memory_limits = MemoryConnectionLimits(deny_new_peers_above=None, cache=cache)
    assert usages(manager) == []  # without a limit in bytes


def test_full_networks_are_in_the_list() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 2),))))
    kept = [manager.open_connection(None, "192.0.2.1") for _ in range(3)]
    assert kept[2] is None
    assert usages(manager)[0] == ("network 192.0.2.1/32 connections", 2, 2, None)
    assert usages(manager)[0].of_one_peer


def test_a_peer_has_one_row() -> None:
    limits = ConcreteLimits(peer_default=Limit(
        conns=3, conns_inbound=3, conns_outbound=3, streams=9, streams_inbound=2))
    manager = ResourceManager(NodeLimits(limits))
    kept: list[Any] = []
    for number in range(12):
        peer = b"\x12\x20" + number.to_bytes(32, "big")
        kept += [manager.open_connection(peer, None, "inbound") for _ in range(3)]
        kept.append(manager.open_stream(peer, "inbound"))
    assert all(kept)
    rows = [usage.name for usage in usages(manager) if usage.name.startswith("peer:")]
    assert len(rows) == len({row.partition(" ")[0] for row in rows}) == 10
    assert {row.partition(" ")[2] for row in rows} == {"conns"}
    kept.append(manager.open_stream(peer, "inbound"))
    manager.scope_limits = ConcreteLimits(peer_default=Limit(conns=6, streams=9, streams_inbound=2))
    [row] = [usage for usage in usages(manager) if usage.share == 1.0]
    assert row.name.endswith(" streams_inbound")
