"""The text that explains to a person why a node refuses."""

from __future__ import annotations

from typing import Any

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    NodeLimits,
    ResourceLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.report.explain import explain

PEER = b"\x12\x20" + b"p" * 32
TEXT = "QmVuZp8s9f1Pk1DnS1tfFPFDARrGR95mTXf1fMDjRQt1CB"
LINK = "The setting of each code: https://github.com/rcmgr/rcmgr/blob/main/docs/error-codes.md"


def test_an_idle_node_is_at_no_limit() -> None:
    manager = ResourceManager()
    assert manager.explain() == "Nothing is at its limit.\nNothing was denied yet."


def test_the_text_of_a_full_node() -> None:
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
        f"ConcreteLimits.peer['{TEXT}'].streams (rcmgr set PeerDefault.Streams VALUE)",
        "  2 by connection.established_per_peer: see ConnectionLimits.max_established_per_peer "
        "(rcmgr set Connections.max_established_per_peer VALUE)",
        "  1 by connection.system.conns: see "
        "ResourceLimits.max_connections (ConcreteLimits.system.conns) "
        "(rcmgr set System.Conns VALUE)",
        "Peers denied most:",
        f"  7 times {TEXT}",
        LINK,
    ]


def test_only_the_five_fullest_limits_are_listed() -> None:
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


def test_denials_of_many_peers_take_one_line() -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(peer_default=Limit(streams=0))))
    for number in range(300):
        assert not manager.acquire_stream(b"\x12\x20" + number.to_bytes(32, "big"), "inbound")
    assert manager.explain().splitlines() == [
        "Nothing is at its limit.",
        "Denied since the start: 300, 300 inbound, 0 outbound. Of the last 256:",
        "  256 by stream.peer.streams: see ConcreteLimits.peer_default.streams "
        "(rcmgr set PeerDefault.Streams VALUE)",
        LINK,
    ]


def test_the_counts_by_code_add_up() -> None:
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


def test_names_that_peers_choose_are_escaped() -> None:
    """They can neither control the terminal nor forge a line."""
    name = "/evil\x1b]0;owned\x07\nNothing is at its limit.\u202e" + "x" * 100_000
    manager = ResourceManager(NodeLimits(ConcreteLimits(protocol_default=Limit(streams=1))))
    kept = [manager.open_stream(PEER, "inbound") for _ in range(2)]
    for stream in kept:
        assert stream is not None
        if not (taken := stream.try_set_protocol(name)):
            manager.denials.add(taken, None, "peer\x1b[2J\n" * 1000, True)
    manager.denials.add(taken, None, "peer\x1b[2J\n" * 1000, True)
    text = manager.explain()
    assert "/evil\\x1b]0;owned\\x07\\nNothing" in text
    assert "peer\\x1b[2J\\n" in text
    assert all(each.isprintable() for each in text.replace("\n", ""))
    assert [line[:2] for line in text.splitlines()] == [
        "At", "  ", "De", "  ", "Pe", "  ", "Th"]
    assert len(text) < 3000


def test_full_networks_are_listed() -> None:
    manager = ResourceManager(NodeLimits(subnets=SubnetLimits(ipv4=((32, 2),))))
    kept = [manager.open_connection(None, "192.0.2.1") for _ in range(3)]
    assert "  network 192.0.2.1/32 connections: 2 of 2 (100%)" in manager.explain().splitlines()
    assert kept[2] is None


class Evicting:
    """A node that has made room for newcomers."""

    def __init__(self, **made: Any) -> None:
        self._node = ResourceManager()
        self._made = {
            "evicted": {"established_inbound": 0, "pending_inbound": 0}, "leaving": 0,
            "most_leaving": 4, "cut": 0, "choices": {}, "refused_handshakes": 0, **made}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def evictions(self) -> dict[str, Any]:
        return self._made


def said(**made: Any) -> list[str]:
    node: Any = Evicting(**made)
    return explain(node).splitlines()[1:-1]


def test_who_made_room() -> None:
    assert said(leaving=1, cut=1) == []
    assert said(refused_handshakes=5) == [
        "Handshakes refused, as their networks came too often: 5."]
    evicted = {"established_inbound": 3, "pending_inbound": 0}
    first = "Evicted for newcomers since the start: 3 established_inbound."
    assert said(evicted=evicted) == [first]
    assert said(evicted=evicted, cut=2) == [first, "  0 of 4 are closing, 2 were cut"]
    assert said(evicted=evicted, leaving=1) == [first, "  1 of 4 are closing, 0 were cut"]
    assert said(evicted={"established_inbound": 3, "pending_inbound": 2}, choices={
        "comes_too_often": 5, "too_many_evictions": 0, "all_worth_more": 7, "crowd": 9,
    }) == [
        "Evicted for newcomers since the start: 3 established_inbound, 2 pending_inbound.",
        "Newcomers for whom there was no room: 5 because their groups came too often, "
        "7 because all connections were worth more",
    ]
    assert said(evicted=evicted, choices={"too_many_evictions": 1, "comes_too_often": 0}) == [
        first,
        "Newcomers for whom there was no room: 1 because too many evictions in a second"]


def test_the_longest_bans_are_listed() -> None:
    manager = ResourceManager()
    for number in range(1, 7):
        manager.ban(f"192.0.2.{number}", 1000 * number + 0.4)
    manager.ban(PEER, None, "rude\n")
    assert manager.explain().splitlines()[-6:] == [
        "Banned now: 7, 0 of them by the penalty box. The longest:",
        f"  {TEXT}: until unban, rude\\n",
        *(f"  192.0.2.{number}: {number}000 s left" for number in (6, 5, 4, 3)),
    ]


def test_nine_tenths_are_nearly_full() -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(system=Limit(streams=10))))
    kept = [manager.open_stream(PEER, "inbound") for _ in range(8)]
    assert manager.explain().splitlines()[0] == "Nothing is at its limit."
    kept.append(manager.open_stream(PEER, "inbound"))
    assert manager.explain().splitlines()[1] == "  system streams: 9 of 10 (90%)"


def test_a_dry_run_that_is_over_is_named() -> None:
    manager = ResourceManager(
        NodeLimits(connections=ConnectionLimits(max_pending_inbound=0)), enforce=False)
    assert manager.open_connection(None, "192.0.2.1") is not None
    manager.enforce = True
    first, second, *_ = explain(manager).splitlines()
    assert first == "The dry run is off: limits refuse again. While it was on:"
    assert second.startswith("Would refuse since the start: 1, ")
