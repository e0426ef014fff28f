"""Limits, compared with numbers from go-libp2p (tests/data/go_libp2p_limits.json)."""

from __future__ import annotations

import pickle
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import base58
import pytest
from go_limits import GO, GO_NAMES, ORDER, row

import rcmgr.limits.scopes
from rcmgr.counting.scope import Ledger
from rcmgr.limits.scopes import (
    DEFAULT_LIMITS,
    SERVICES,
    UNLIMITED_FDS,
    ConcreteLimits,
    Limit,
    LimitIncrease,
    PartialLimit,
    PartialLimits,
    ScalingLimit,
    ScalingLimits,
    autoscale,
    soft_fd_limit,
)


@pytest.mark.parametrize("case", GO["scaled"], ids=lambda case: f"{case[0]}-{case[1]}")
def test_scales_as_go_does(case: Any) -> None:
    memory, fds, expected = case
    scaled = DEFAULT_LIMITS.scale(memory, fds)
    assert {go: row(getattr(scaled, ours)) for go, ours in GO_NAMES.items()} == expected


def test_services_differ_from_go_only_in_memory_of_some_peers() -> None:
    memory, fds, expected = GO["services"]
    scaled = DEFAULT_LIMITS.scale(memory, fds)
    differ = {}
    for go, ours in (
        ("Service", "service"), ("ServicePeer", "service_peer"),
        ("Protocol", "protocol"), ("ProtocolPeer", "protocol_peer"),
    ):
        for name, values in expected[go].items():
            mine = row(getattr(scaled, ours)[name])
            assert mine[:-1] == values[:-1]
            if mine != values:
                differ[ours, name] = values[-1], mine[-1]
    slip = 32 * (256 * 2**20 + 16 * 2**10)
    hop, stop = (f"/libp2p/circuit/relay/0.2.0/{end}" for end in ("hop", "stop"))
    assert differ == {
        ("service_peer", "libp2p.ping"): (slip, 2**20),
        ("protocol_peer", "/ipfs/ping/1.0.0"): (slip, 2**20),
        ("protocol_peer", "/ipfs/id/1.0.0"): (slip, 2**20),
        ("protocol_peer", "/ipfs/id/push/1.0.0"): (slip, 2**20),
        ("protocol_peer", hop): (2**25, 2**23),
        ("protocol_peer", stop): (2**25, 2**23),
    }


def test_every_service_has_all_limits_and_its_peers_have_less() -> None:
    scaled = DEFAULT_LIMITS.scale(2**33, 16384)
    assert set(SERVICES.values()) == set(scaled.service) == set(scaled.service_peer)
    assert set(SERVICES) == set(scaled.protocol) == set(scaled.protocol_peer)
    for name, limit in scaled.service.items():
        peer = scaled.service_peer[name]
        for each in ORDER:
            assert getattr(peer, each) <= getattr(limit, each) <= getattr(scaled.system, each)


def test_autoscale_takes_an_eighth_and_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    assert autoscale(memory=64 << 30, fds=32768) == DEFAULT_LIMITS.scale(8 << 30, 16384)
    monkeypatch.setattr(rcmgr.limits.scopes, "total_memory", lambda: 16 << 30)
    monkeypatch.setattr(rcmgr.limits.scopes, "soft_fd_limit", lambda: 1024)
    assert autoscale() == DEFAULT_LIMITS.scale(2 << 30, 512)
    for wrong in ({"memory": -1}, {"fds": -1}):
        with pytest.raises(ValueError, match="0 or more"):
            autoscale(**wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_unlimited_descriptors_are_many_not_few(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    assert soft_fd_limit() == min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], UNLIMITED_FDS)
    for soft in (resource.RLIM_INFINITY, 2**40):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert soft_fd_limit() == UNLIMITED_FDS


def test_values_are_checked_and_named() -> None:
    for kind in (Limit, PartialLimit, LimitIncrease):
        for value, error in ((-1, ValueError), (2**63, ValueError), (1.5, TypeError),
                             (True, TypeError), ("5", TypeError)):
            with pytest.raises(error, match="conns_inbound must be"):
                kind(conns_inbound=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fd_fraction"):
        LimitIncrease(fd_fraction=1.5)
    with pytest.raises(TypeError, match="fd_fraction"):
        LimitIncrease(fd_fraction="all")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="streams must be an int"):
        LimitIncrease(streams=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="system must be a Limit"):
        ConcreteLimits(system=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"protocol\['/x'\] must be a PartialLimit"):
        PartialLimits(protocol={"/x": Limit()})  # type: ignore[dict-item]


def test_trees_are_frozen_and_can_be_pickled() -> None:
    limits = autoscale(memory=2**33, fds=1024)
    with pytest.raises(FrozenInstanceError):
        limits.system = Limit()  # type: ignore[misc]
    with pytest.raises(TypeError):
        limits.protocol["/x"] = Limit()  # type: ignore[index]
    assert pickle.loads(pickle.dumps(limits)) == limits


@pytest.mark.parametrize("kind", [ConcreteLimits, PartialLimits, ScalingLimits])
def test_a_peer_is_one_peer_by_every_name(kind: Any) -> None:
    limit = kind.LEAF()
    key = bytes.fromhex("1220") + bytes(range(32))
    text = base58.b58encode(key).decode()

    class ID:
        _bytes = key

    assert kind(peer={text: limit}) == kind(peer={key: limit}) == kind(peer={ID(): limit})
    with pytest.raises(ValueError, match=r"^peer\[.*\] is there twice"):
        kind(peer={text: limit, key: limit})
    assert set(kind(peer={"alice": limit, 7: limit, b"p": limit}).peer) == {"alice", 7, b"p"}
    with pytest.raises(TypeError, match=r"a peer must be an ID, bytes, a str or an int, not 1\.5"):
        kind(peer={1.5: limit})


def test_a_limit_by_text_holds_for_the_id() -> None:
    text = "QmNLfbof5rLekrACjeuLk9JmGZD2HDBHCU4z16iYKmx5SE"
    ledger = Ledger(ConcreteLimits(peer={text: Limit(conns=0)}))
    assert not ledger.try_open_connection(peer=base58.b58decode(text))
    partial = PartialLimits(peer={text: PartialLimit(conns=0)})
    assert partial.build(ConcreteLimits()).peer == {base58.b58decode(text): Limit(conns=0)}


def test_building_by_name() -> None:
    base = ConcreteLimits(
        protocol_default=Limit(streams=1, memory=2), protocol={"/old": Limit(streams=3, memory=4)},
    )
    built = PartialLimits(
        protocol_default=PartialLimit(memory=20),
        protocol={"/old": PartialLimit(memory=40), "/new": PartialLimit(streams=None)},
    ).build(base)
    assert built.protocol_default == Limit(streams=1, memory=20)
    assert built.protocol == {
        "/old": Limit(streams=3, memory=40), "/new": Limit(streams=None, memory=20),
    }
    assert PartialLimits().build(base) == base
    assert base.to_partial().build(ConcreteLimits(conn=Limit(fd=1))) == base
    assert PartialLimit(streams=2**63 - 1).build(Limit(streams=1)).streams is None


def test_scaling_limits_of_a_program() -> None:
    mine = ScalingLimit(Limit(streams=1, memory=None), LimitIncrease(streams=1024, memory=5))
    limits = DEFAULT_LIMITS.with_entries("protocol", {"/mine": mine})
    scaled = limits.scale(2**30, 0)
    assert scaled.protocol["/mine"] == Limit(streams=1025, memory=None)
    assert scaled.protocol["/ipfs/ping/1.0.0"].streams == 128
    assert "/mine" not in DEFAULT_LIMITS.protocol
    with pytest.raises(KeyError):
        limits.with_entries("system", {})
    assert isinstance(replace(limits, stream=mine), ScalingLimits)


def test_a_ledger_takes_them() -> None:
    ledger = Ledger(autoscale(memory=64 << 30, fds=32768))
    assert ledger.system().limit == DEFAULT_LIMITS.scale(8 << 30, 16384).system.to_dict()
    assert ledger.protocol("/ipfs/ping/1.0.0").limit["streams"] == 576
    conn = ledger.open_connection()
    assert conn.try_set_peer(b"p")
    for _ in range(2):
        ledger.open_stream(b"p").set_protocol("/ipfs/ping/1.0.0")
    ledger.set_limits(ConcreteLimits())
    assert set(ledger.system().limit.values()) == {None}
