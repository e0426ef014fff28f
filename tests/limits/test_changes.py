"""Changes of single limits by their keys, and differences between trees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rcmgr import (
    AddressRates,
    ConcreteLimits,
    ConnectionLimits,
    DryRun,
    Eviction,
    Limit,
    LimitsFileError,
    NodeLimits,
    PeerRates,
    ProcessMemoryLimits,
    Rate,
    SubnetLimits,
)
from rcmgr.limits.changes import Change, changed, differences, key_of

PEER_TEXT = "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"
NODE = NodeLimits(
    ConcreteLimits(system=Limit(conns=10, streams=20), protocol={"/a/1.0.0": Limit(streams=5)}),
    subnets=SubnetLimits(), rates=AddressRates())


def system(**values: Any) -> NodeLimits:
    return replace(NODE, scopes=NODE.scopes.with_system(**values))


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("System.Conns", 7, system(conns=7)),
    ("System.Conns", "unlimited", system(conns=None)),
    ("System.Conns", "blockAll", system(conns=0)),
    ("System.Memory", "2GiB", system(memory=2**31)),
    ("System", {"Conns": 1, "Streams": 2}, system(conns=1, streams=2)),
    ("Connections.max_pending_inbound", 3,
     replace(NODE, connections=ConnectionLimits(max_pending_inbound=3))),
    ("Connections", {"max_established_total": 3},
     replace(NODE, connections=ConnectionLimits(max_established_total=3))),
    ("ProcessMemory.max_bytes", "1GiB", replace(NODE, memory=ProcessMemoryLimits(2**30))),
    ("ProcessMemory.max_percentage", 0.5,
     replace(NODE, memory=ProcessMemoryLimits(max_percentage=0.5))),
    ("Rates", "unlimited", replace(NODE, rates=None)),
    ("Subnets", "off", replace(NODE, subnets=None)),
    ("PenaltyBox", "off", replace(NODE, penalties=None)),
    ("Rates.overall", {"refill_rate": 1.0, "burst": 9},
     replace(NODE, rates=replace(AddressRates(), overall=Rate(1.0, 9)))),
    ("Subnets.ipv4.32", 3, replace(NODE, subnets=replace(SubnetLimits(), ipv4=((32, 3),)))),
    ("PeerRates", {"rate": {"refill_rate": 1, "burst": 2}},
     replace(NODE, peer_rates=PeerRates(Rate(1, 2)))),
    ("Eviction", "off", replace(NODE, eviction=Eviction(enabled=False))),
    ("Eviction.enabled", False, replace(NODE, eviction=Eviction(enabled=False))),
    ("DryRun", "on", replace(NODE, dry_run=DryRun(frozenset(["all"])))),
    ("DryRun.limits", ["rate"], replace(NODE, dry_run=DryRun(frozenset(["rate"])))),
])
def test_a_key_changes_one_value(key: str, value: Any, expected: NodeLimits) -> None:
    assert changed(NODE, key, value) == expected


def test_names_with_dots() -> None:
    node = changed(NODE, "Protocol./a/1.0.0.Streams", 6)
    assert node.scopes.protocol == {"/a/1.0.0": Limit(streams=6)}
    node = changed(NODE, "Protocol./b/1.0.Memory", "1KiB")
    assert node.scopes.protocol["/b/1.0"] == Limit(memory=1024)
    node = changed(NODE, f"Peer.{PEER_TEXT}.Conns", 2)
    assert [each.conns for each in node.scopes.peer.values()] == [2]
    node = changed(NODE, "Subnets.overrides.192.0.2.0/24", 5)
    assert node.subnets is not None
    assert node.subnets.overrides["192.0.2.0/24"] == 5
    assert changed(node, "Subnets.overrides.192.0.2.0/24", "unlimited").subnets.overrides[  # type: ignore[union-attr]
        "192.0.2.0/24"] is None
    node = changed(NODE, "Rates.ipv4.32.burst", 99)
    assert node.rates is not None
    assert node.rates.ipv4[0][1].burst == 99


@pytest.mark.parametrize(("key", "value", "text"), [
    ("", 1, "unknown key"),
    ("Sytem.Conns", 1, "Sytem: unknown key; did you mean 'System'"),
    ("System.Con", 1, "System.Con: unknown key; did you mean 'Conns'"),
    ("System.Conns", -1, "System.Conns: must be 0 or more, not -1; did you mean 'unlimited'"),
    ("System.Conns", "many", "System.Conns: must be a number or a word, not 'many'"),
    ("System.Conns", 1.5, "System.Conns: must be a number"),
    ("System.Conns", None, "System.Conns: must be a number"),
    ("System.Conns", "default", "System.Conns: must be a number, .* a running node has no default"),
    ("System", 5, "System: must be an object, not 5"),
    ("Protocol", 5, "Protocol: needs a name and a limit: Protocol.NAME.Streams"),
    ("Protocol./a", 5, "Protocol: needs a name and a limit|Protocol./a: needs"),
    ("Peer.me.Conns", 5, "Peer.me: not a peer id"),
    ("Connections.max_pendng_inbound", 1, "did you mean 'max_pending_inbound'"),
    ("Connections.max_pending_inbound", "1", "max_pending_inbound must be an int"),
    ("ProcessMemory.max_bytes", "much", "ProcessMemory.max_bytes: must be a size such as 2GiB"),
    ("Rates.overall.burst", 5, "Rates.overall.burst: 'overall' has no parts now: set the whole "
                               "Rates.overall"),
    ("Subnets.ipv4.x", 5, "Subnets.ipv4.x: must be a prefix length"),
    ("Eviction", "maybe", "Eviction: must be an object, not 'maybe'"),
    ("DryRun.limits", ["rates"], "DryRun: limits has 'rates', which is no limit"),
    ("PeerRates.rate.burst", 5, "PeerRates"),
])
def test_a_wrong_key_or_value_is_named(key: str, value: Any, text: str) -> None:
    with pytest.raises(LimitsFileError, match=text):
        changed(NODE, key, value)


def test_differences_have_the_place_and_both_values() -> None:
    after = changed(changed(NODE, "System.Conns", 7), "Protocol./b.Streams", 3)
    assert differences(NODE, after) == [
        Change("Protocol./b.Streams", "unlimited", "3"), Change("System.Conns", "10", "7")]
    assert differences(after, after) == []
    none = replace(NODE, rates=None)
    assert ("Rates", "unlimited") in {(each.limit, each.after) for each in differences(NODE, none)}


@pytest.mark.parametrize(("setting", "key"), [
    ("ConnectionLimits.max_pending_inbound", "Connections.max_pending_inbound"),
    ("ConcreteLimits.system.conns", "System.Conns"),
    ("ResourceLimits.max_memory_mb (ConcreteLimits.system.memory)", "System.Memory"),
    ("ConcreteLimits.peer_default.fd or ConcreteLimits.peer['x'].fd", "PeerDefault.FD"),
    ("SubnetLimits.ipv4 or SubnetLimits.overrides['192.0.2.1/32']", "Subnets.ipv4"),
    ("NodeLimits.eviction", "Eviction"),
    ("MemoryConnectionLimits.max_bytes (ResourceManager.memory_limits)", "ProcessMemory.max_bytes"),
    ("FleetLimits.rate", "Fleet.rate"),
    ("ConnectionTracker.max_connections", None), ("Limiter", None),
])
def test_a_setting_has_a_key(setting: str, key: str | None) -> None:
    assert key_of(setting) == key
