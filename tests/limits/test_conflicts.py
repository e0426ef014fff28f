from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from rcmgr.limits.conflicts import admitted_connections, conflicts
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.memory import ProcessMemoryLimits
from rcmgr.limits.networks import SubnetLimits
from rcmgr.limits.node import INFINITE_LIMITS, NodeLimits
from rcmgr.limits.scopes import ConcreteLimits, Limit
from rcmgr.limits.states import ConnectionLimits

GIB = 1 << 30


@pytest.mark.parametrize("memory", [GIB >> 2, GIB, 8 * GIB, 64 * GIB, 1024 * GIB])
@pytest.mark.parametrize("fds", [512, 1024, 16384, 1 << 20])
def test_the_defaults_agree_with_themselves_and_the_machine(memory: int, fds: int) -> None:
    limits = NodeLimits.default(memory=memory, fds=fds)
    assert conflicts(limits, memory=memory, fds=fds) == []


def test_no_limits_conflict_only_with_the_machine() -> None:
    assert conflicts(INFINITE_LIMITS) == []
    [found] = conflicts(INFINITE_LIMITS, memory=GIB, fds=1024, high_watermark=10**6)
    assert found.where == "system.fd"
    assert "any number where the process may open 1024" in str(found)


def scopes(**limits: Any) -> NodeLimits:
    return NodeLimits(ConcreteLimits(**limits))


@pytest.mark.parametrize(
    ("limits", "where", "words"),
    [
        (scopes(system=Limit(conns=10), peer_default=Limit(conns=11)), "peer_default.conns",
         "allows 11 connections where system has 10"),
        (scopes(system=Limit(conns=10)), "peer_default.conns", "any number of connections"),
        (scopes(protocol_default=Limit(memory=5), protocol_peer_default=Limit(memory=6)),
         "protocol_peer_default.memory", "allows 6 bytes"),
        (scopes(service={"s": Limit(streams=5)}, service_peer={"s": Limit(streams=6)}),
         "service_peer[s].streams", "where service[s] has 5"),
        (scopes(service={"s": Limit(streams=5)}), "service_peer[s].streams", "any number"),
        (scopes(protocol_default=Limit(fd=5), protocol_peer={"/x": Limit(fd=6)}),
         "protocol_peer[/x].fd", "where protocol_default has 5"),
        (scopes(stream=Limit(streams=5, streams_inbound=6)), "stream.streams_inbound",
         "the total refuses first"),
        (scopes(conn=Limit(conns=0)), "conn.conns", "no connections are ever allowed"),
        (scopes(stream=Limit(streams_inbound=0, streams_outbound=0)), "stream.streams",
         "no streams are ever allowed"),
        (NodeLimits(connections=ConnectionLimits(max_established_per_peer=3,
                                                 max_established_total=2)),
         "connections.max_established_per_peer", "one peer can use up the node"),
        (NodeLimits(connections=ConnectionLimits(max_established_inbound=3,
                                                 max_established_outbound=4,
                                                 max_established_total=8)),
         "connections.max_established_total", "8 is above max_established_inbound and"),
        (NodeLimits(subnets=SubnetLimits(ipv4=((24, 4), (32, 5)))), "subnets.ipv4[/32]",
         "5 is more than a /24"),
        (scopes(system=Limit(conns=5), peer={b"abc": Limit(conns=6)}), "peer[ZiCa].conns",
         "allows 6 connections where system has 5"),
        (NodeLimits(ConcreteLimits(system=Limit(conns=5)),
                    ConnectionLimits(max_established_per_peer=6)),
         "connections.max_established_per_peer", "6 is above system.conns, 5"),
        (NodeLimits(ConcreteLimits(system=Limit(conns=5)), subnets=SubnetLimits(ipv6=((48, 6),))),
         "subnets.ipv6[/48]", "6 is above system.conns, 5: one network can use up the node"),
        (NodeLimits(memory=ProcessMemoryLimits(max_bytes=GIB + 1)), "memory.max_bytes",
         "never reached"),
        (scopes(system=Limit(memory=GIB + 1)), "system.memory", "killed"),
        (scopes(system=Limit(fd=1025), peer_default=Limit(fd=1)), "system.fd", "too many open"),
    ],
)
def test_each_conflict_is_found(limits: NodeLimits, where: str, words: str) -> None:
    found = {each.where: str(each) for each in conflicts(limits, memory=GIB, fds=1024)}
    assert words in found[where]


def test_as_many_as_the_machine_has_is_no_conflict() -> None:
    one = Limit(fd=1, memory=1)
    limits = replace(
        scopes(system=Limit(fd=1024, memory=GIB), transient=one, peer_default=one),
        memory=ProcessMemoryLimits(max_bytes=GIB))
    assert conflicts(limits, memory=GIB, fds=1024) == []


@pytest.mark.parametrize("state", [each.name for each in fields(ConnectionLimits)])
def test_no_state_has_more_connections_than_the_system(state: str) -> None:
    limits = scopes(system=Limit(conns=100), transient=Limit(conns=1), peer_default=Limit(conns=1))
    allowed = ConnectionLimits(**{state: 100})
    assert conflicts(replace(limits, connections=allowed)) == []
    found = conflicts(replace(limits, connections=ConnectionLimits(**{state: 101})))
    assert [each.where for each in found] == [f"connections.{state}"]


def test_more_connections_than_the_system_has() -> None:
    limits = scopes(
        system=Limit(conns=100), transient=Limit(conns=100), peer_default=Limit(conns=1)
    )
    assert conflicts(limits, high_watermark=100) == []
    [found] = conflicts(limits, high_watermark=101)
    assert "before the connection manager begins to trim" in str(found)
    limits = replace(limits, connections=ConnectionLimits(max_established_total=101))
    [found] = conflicts(limits)
    assert found.where == "connections.max_established_total"


@pytest.mark.parametrize(
    ("limits", "most", "names"),
    [
        (scopes(system=Limit(conns=100)), 100, "system.conns"),
        (scopes(system=Limit(conns_inbound=60, conns_outbound=50)), 110,
         "system.conns_inbound and system.conns_outbound together"),
        (NodeLimits(connections=ConnectionLimits(max_established_total=90)), 90,
         "connections.max_established_total"),
        (NodeLimits(connections=ConnectionLimits(
            max_established_inbound=30, max_established_outbound=40)), 70,
         "connections.max_established_inbound and connections.max_established_outbound together"),
    ],
)
def test_a_high_watermark_that_the_limits_never_reach(
    limits: NodeLimits, most: int, names: str
) -> None:
    def watermarks(number: int) -> list[str]:
        found = conflicts(limits, high_watermark=number)
        return [each.what for each in found if each.where == "high watermark"]

    assert admitted_connections(limits) == (most, names)
    assert watermarks(most) == []
    [what] = watermarks(most + 1)
    assert what.startswith(f"{most + 1} is above {names}, {most}: ")


def test_no_bound_on_connections() -> None:
    one_direction = NodeLimits(connections=ConnectionLimits(max_established_inbound=5))
    assert admitted_connections(INFINITE_LIMITS) is admitted_connections(one_direction) is None
    assert conflicts(one_direction, high_watermark=10**6) == []


SENSIBLE = """
[Protocol."/my"]
Streams = 3
---
[ProtocolPeer."/my"]
Streams = 2
---
[Service."libp2p.ping"]
StreamsInbound = 8
---
[System]
Conns = 100
---
[System]
Streams = 500
Memory = "256MiB"
---
[System]
ConnsInbound = "blockAll"
---
[Transient]
ConnsInbound = 20
---
[PeerDefault]
Conns = 2
Streams = 32
---
[ProtocolDefault]
Streams = "blockAll"
[Protocol."/my"]
Streams = 100
---
[Connections]
max_pending_inbound = 32
max_established_per_peer = 2
---
[Connections]
max_established_total = 120
---
[ProcessMemory]
max_percentage = 0.8
---
[ProcessMemory]
max_bytes = "1GiB"
deny_new_peers_above = 0.9
---
[Subnets]
ipv4 = { 32 = 2, 24 = 8 }
overrides = { "10.0.0.0/8" = "unlimited" }
---
[Rates]
ipv4 = { 32 = { refill_rate = 1, burst = 5 } }
---
[PeerRates]
rate = { refill_rate = 1, burst = 5 }
---
[System]
Conns = 60
[PeerDefault]
Conns = 4
[Connections]
max_established_inbound = 40
max_established_outbound = 20
max_established_total = 60
"""


@pytest.mark.parametrize("text", SENSIBLE.split("---"))
@pytest.mark.parametrize("memory", [2 * GIB, 8 * GIB, 256 * GIB])
def test_a_small_sensible_file_has_no_conflict(text: str, memory: int) -> None:
    """A default that a lower limit overrules is no mistake."""
    file = LimitsFile.from_toml(text)
    limits = file.build(NodeLimits.default(memory=memory, fds=4096))
    assert conflicts(limits, memory=memory, fds=4096, said=file) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[System]\nConnsInbound = 5000", "system.conns_inbound"),
        ("[PeerDefault]\nConns = 2000", "peer_default.conns"),
        ("[System]\nConns = 4\n[PeerDefault]\nConns = 5", "peer_default.conns"),
        ('[Protocol."/my"]\nStreams = 3\n[ProtocolPeer."/my"]\nStreams = 4',
         "protocol_peer[/my].streams"),
        ('[Protocol."/my"]\nStreams = 3\nStreamsInbound = 4', "protocol[/my].streams_inbound"),
        ('[ProtocolPeer."/a.b"]\nStreams = 100000', "protocol_peer[/a.b].streams"),
        ("[System]\nFD = 100000", "system.fd"),
        ("[System]\nStreams = 0", "system.streams"),
        ("[Connections]\nmax_established_inbound = 5000", "connections.max_established_inbound"),
        ('[ProcessMemory]\nmax_bytes = "64GiB"', "memory.max_bytes"),
        ("[Subnets]\nipv4 = { 32 = 9, 24 = 8 }", "subnets.ipv4[/32]"),
    ],
)
def test_a_limit_of_a_file_that_has_no_effect(text: str, where: str) -> None:
    file = LimitsFile.from_toml(text)
    limits = file.build(NodeLimits.default(memory=8 * GIB, fds=4096))
    found = conflicts(limits, memory=8 * GIB, fds=4096, said=file)
    assert [each.where for each in found] == [where]


def test_a_file_that_says_every_limit_may_lower_one() -> None:
    usual = NodeLimits.default(memory=1 << 30, fds=1024)
    lower = LimitsFile.from_toml("[System]\nConns = 16\n").build(usual)
    assert conflicts(lower, said=LimitsFile.of(lower), usual=usual) == []
    assert conflicts(lower, said=LimitsFile.of(lower)) != []
    higher = LimitsFile.from_toml("[PeerDefault]\nConns = 999\n").build(usual)
    [conflict] = conflicts(higher, said=LimitsFile.of(higher), usual=usual)
    assert conflict.where == "peer_default.conns"
