"""A record under the same limits, under smaller ones, and under those that it suggests."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from record_script import Clock, Run, manager_of

from rcmgr import (
    AddressRates,
    Allowlist,
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    NodeLimits,
    PeerRates,
    PenaltyBox,
    Rate,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.replay.replay import Replay, replay
from rcmgr.replay.suggest import suggest
from rcmgr.replay.survey import survey

STEPS = 3000
WIDE = NodeLimits(
    ConcreteLimits(
        system=Limit(120, 90, 60, 60, 50, 20, 60, 400_000),
        transient=Limit(20, 10, 10, 10, 6, 6, 10, 20_000),
        peer_default=Limit(24, 20, 12, 8, 8, 8, 8, 200_000),
        protocol_default=Limit(60, 40, 30), protocol_peer_default=Limit(16, 8, 8),
        protocol={"/b/1": Limit(40, 30, 20)}, service_default=Limit(30),
        stream=Limit(memory=40_000),
    ),
    ConnectionLimits(6, 6, 50, 20, 8, 60),
    subnets=SubnetLimits(((32, 6), (24, 40)), ((56, 8), (48, 12))),
    rates=AddressRates(((32, Rate(2.0, 16)),), ((56, Rate(2.0, 20)),)),
    peer_rates=PeerRates(Rate(2.0, 20)),
)


def recorded(
    path: Path, limits: NodeLimits, steps: int = STEPS, rate: float | None = 1.0, **more: Any
) -> Run:
    clock = Clock()
    manager = ResourceManager(limits, clock=clock, **more)
    recording = manager.record(path)
    run = Run(manager, clock, rate=rate).go(steps)
    assert recording.stats()["dropped"] == 0
    recording.close()
    return run


def refusals(result: Replay) -> list[tuple[int, str]]:
    return [
        (each.time_ns, each.replayed) for each in result.outcome.differences
        if each.replayed is not None]


def halved(limit: Limit) -> Limit:
    return Limit(**{
        each.name: None if (value := getattr(limit, each.name)) is None else value // 2
        for each in fields(limit)})


HALF = replace(
    WIDE,
    scopes=replace(
        WIDE.scopes, **{
            name: halved(getattr(WIDE.scopes, name)) for name in (
                "system", "transient", "peer_default", "protocol_default", "protocol_peer_default",
                "service_default", "stream")},
        protocol={"/b/1": halved(WIDE.scopes.protocol["/b/1"])}),
    connections=ConnectionLimits(3, 3, 25, 10, 4, 30),
    subnets=SubnetLimits(((32, 3), (24, 20)), ((56, 4), (48, 6))),
    rates=AddressRates(((32, Rate(1.0, 8)),), ((56, Rate(1.0, 10)),)),
    peer_rates=PeerRates(Rate(1.0, 10)),
)


def test_a_record_under_its_own_limits_gives_the_same_decisions(tmp_path: Path) -> None:
    run = recorded(tmp_path / "node.rec", HALF)
    assert len({code for _, code in run.refused}) >= 8
    result = replay(tmp_path / "node.rec", differences=10)
    assert result.outcome.differences == []
    assert result.decisions > 1000
    assert result.player.skipped.total() == 0
    assert sum(result.outcome.recorded.values()) == result.outcome.agreed == len(run.refused)
    # both hold the same at the end
    assert result.player.manager._held() == run.manager._held()


def test_the_penalty_box_and_bans_are_replayed(tmp_path: Path) -> None:
    limits = replace(HALF, penalties=PenaltyBox(threshold=5, address_decay=0.01, peer_decay=0.01))
    run = recorded(tmp_path / "node.rec", limits)
    assert run.manager.refused_by_ban > 10
    result = replay(tmp_path / "node.rec", differences=10)
    assert result.outcome.differences == []
    assert result.player.manager.refused_by_ban == run.manager.refused_by_ban


def test_half_of_the_limits_refuse_exactly_what_a_second_live_run_refuses(tmp_path: Path) -> None:
    first = recorded(tmp_path / "node.rec", NodeLimits(), rate=None)
    assert first.refused == []
    clock = Clock()
    second = Run(manager_of(HALF, clock), clock, rate=None).go(STEPS)
    result = replay(tmp_path / "node.rec", HALF, differences=1_000_000)
    assert len({code for _, code in second.refused}) >= 8
    assert refusals(result) == second.refused
    assert result.outcome.newly_refused == len(second.refused)
    assert result.player.manager._held() == second.manager._held()


@pytest.mark.parametrize("limits", [NodeLimits(), WIDE])
def test_the_limits_that_a_record_suggests_admit_all_of_it(
    tmp_path: Path, limits: NodeLimits
) -> None:
    recorded(tmp_path / "node.rec", limits)
    found, _ = survey(tmp_path / "node.rec")
    made = suggest(found, headroom=1.0, percentile=90)
    node = made.file().build(NodeLimits())
    assert replay(tmp_path / "node.rec", node).outcome.refused == {}


def test_exempt_peers_and_networks_are_exempt_in_the_replay(tmp_path: Path) -> None:
    allowed = Allowlist(["198.51.100.0/24", "2001:db8:3::/48"])
    allowed.add_peer(b"\0\x24peer\3")
    run = recorded(tmp_path / "node.rec", HALF, allowlist=allowed)
    result = replay(tmp_path / "node.rec", differences=10)
    assert result.outcome.differences == []
    exempt = run.manager.ledger.allowlisted_system().stat()
    assert exempt.conns_inbound > 0
    assert result.player.manager.ledger.allowlisted_system().stat() == exempt


def test_limits_that_change_change_in_the_replay(tmp_path: Path) -> None:
    clock = Clock()
    manager = ResourceManager(WIDE, clock=clock)
    recording = manager.record(tmp_path / "node.rec")
    run = Run(manager, clock).go(500)
    manager.node_limits = HALF
    run.go(500, seed=2)
    manager.add_allowed_peer(b"\0\x24peer\4")
    recording.flush()  # which sees the allowlist
    run.go(500, seed=3)
    recording.close()
    assert replay(tmp_path / "node.rec", differences=10).outcome.differences == []


def test_what_only_the_record_refused_is_granted_and_ends(tmp_path: Path) -> None:
    run = recorded(tmp_path / "node.rec", HALF)
    result = replay(tmp_path / "node.rec", NodeLimits())
    assert result.outcome.newly_refused == 0
    # the recorded rates of the protocol apply to each replay
    rates = sum(code == "rate.protocol" for _, code in run.refused)
    assert result.outcome.newly_granted == len(run.refused) - rates


def test_each_refusal_has_its_setting_and_its_offenders(tmp_path: Path) -> None:
    clock = Clock()
    manager = ResourceManager(clock=clock)
    recording = manager.record(tmp_path / "node.rec")
    streams = [manager.open_stream(b"peer", "inbound") for _ in range(3)]
    recording.close()
    assert None not in streams
    one = NodeLimits(ConcreteLimits(peer_default=Limit(streams_inbound=1)))
    [refused] = replay(tmp_path / "node.rec", one).outcome.refused.values()
    assert (refused.code, refused.times) == ("stream.peer.streams_inbound", 2)
    assert "peer_default.streams_inbound" in refused.setting
    assert list(refused.peers.values()) == [2]
    assert b"peer" not in refused.peers


def test_an_interrupted_replay_has_a_result(tmp_path: Path) -> None:
    run = recorded(tmp_path / "node.rec", WIDE, 200)
    assert run.manager

    def interrupt(result: Replay) -> None:
        raise KeyboardInterrupt

    result = replay(tmp_path / "node.rec", progress=interrupt)
    assert not result.complete
    assert result.events == 0


def test_a_record_may_begin_while_connections_are_open(tmp_path: Path) -> None:
    clock = Clock()
    manager = ResourceManager(HALF, clock=clock)
    run = Run(manager, clock).go(300)
    held = [manager.open_connection(b"held", "203.0.113.9")]
    pending = manager.open_connection(None, "203.0.113.9")
    assert None not in (*held, pending)
    recording = manager.record(tmp_path / "node.rec")
    held.append(manager.open_connection(b"early", "203.0.113.9"))
    assert held[-1] is not None
    assert pending is not None
    assert held[-1].record is pending.record
    run.go(300, seed=2)
    recording.close()
    result = replay(tmp_path / "node.rec")
    assert result.held_before[3] > 2
    assert result.player.skipped["before the record"] == 1
    assert result.decisions > 50
