"""Histories by hand: what a replay asks again, and what it cannot ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model import Clock

from rcmgr import ConcreteLimits, ConnectionLimits, Limit, NodeLimits, ResourceManager
from rcmgr.replay.player import Player
from rcmgr.replay.replay import Replay, replay


def recorded(path: Path, act: Any, limits: NodeLimits | None = None) -> ResourceManager:
    manager = ResourceManager(limits or NodeLimits())
    with manager.record(path):
        act(manager)
    return manager


def under(path: Path, limits: NodeLimits | None = None) -> Replay:
    return replay(path, limits, differences=100)


def codes(result: Replay) -> list[str | None]:
    return [each.replayed for each in result.outcome.differences]


def test_what_follows_a_refusal_is_not_asked(tmp_path: Path) -> None:
    def act(manager: ResourceManager) -> None:
        with manager.open_connection(None, "192.0.2.1", "inbound"):
            connection = manager.open_connection(b"peer", "192.0.2.1", "inbound")
            stream = manager.open_stream(b"peer", "inbound")
            stream.set_protocol("/a")
            stream.reserve_memory(5)
            stream.release_memory(5)
            manager.acquire_stream(b"peer", "inbound")
            manager.release_stream(b"peer", "inbound")
            stream.close()
            connection.close()
        # later, without a connection of which the replay knows
        manager.open_stream(b"peer", "inbound")

    recorded(tmp_path / "r", act)
    result = under(tmp_path / "r", NodeLimits(ConcreteLimits(system=Limit(conns=0))))
    assert codes(result) == ["connection.system.conns"]
    assert result.player.skipped == {"follows a refusal": 5}
    assert result.same == 1


def test_a_refused_reservation_is_not_given_back(tmp_path: Path) -> None:
    def act(manager: ResourceManager) -> None:
        manager.acquire_memory(100)
        manager.acquire_memory(60)
        manager.release_memory(60)
        manager.acquire_memory(20)
        with manager.ledger.service("s") as view:
            view.reserve_memory(7)

    recorded(tmp_path / "r", act)
    result = under(tmp_path / "r", NodeLimits(ConcreteLimits(system=Limit(memory=120))))
    assert codes(result) == ["memory.system.memory", "memory.system.memory"]
    ledger = result.player.manager.ledger
    assert ledger.system().stat().memory == 120
    assert ledger.over_released == 0


def test_a_connection_of_the_ledger_alone_is_replayed(tmp_path: Path) -> None:
    def act(manager: ResourceManager) -> None:
        first = manager.ledger.open_connection(fd=False)
        first.set_peer(b"peer")
        first.reserve_memory(9)
        manager.ledger.open_connection(inbound=False)
        first.close()

    recorded(tmp_path / "r", act)
    assert codes(under(tmp_path / "r")) == []
    result = under(tmp_path / "r", NodeLimits(ConcreteLimits(peer_default=Limit(conns=0))))
    assert codes(result) == ["connection.peer.conns"]


def test_the_end_by_a_refusal_comes_before_the_refusal(tmp_path: Path) -> None:
    one = NodeLimits(connections=ConnectionLimits(max_established_per_peer=0))

    def act(manager: ResourceManager) -> None:
        with manager.open_connection(None, "192.0.2.1", "inbound"):
            assert manager.open_connection(b"peer", "192.0.2.1", "inbound") is None

    recorded(tmp_path / "r", act, one)
    assert codes(under(tmp_path / "r")) == []
    result = under(tmp_path / "r", NodeLimits())
    assert codes(result) == [None]
    assert result.player.manager._held().conns_inbound == 0


def test_stopped_hosts_and_closed_managers_give_everything_back(tmp_path: Path) -> None:
    def act(manager: ResourceManager) -> None:
        manager.acquire_stream(b"peer", "inbound")
        manager.ledger._forget_streams(b"peer")
        manager.acquire_stream(b"peer", "inbound")
        manager.open_connection(None, "192.0.2.1", "inbound")
        manager._forget_connections()
        manager.acquire_stream(b"peer", "outbound")

    recorded(tmp_path / "r", act)
    result = under(tmp_path / "r")
    assert codes(result) == []
    assert result.player.manager._held() == (0, 0, 1, 0, 0, 0)


def test_a_refused_peer_of_a_ledgers_connection_holds_nothing(tmp_path: Path) -> None:
    def act(manager: ResourceManager) -> None:
        connection = manager.ledger.open_connection()
        connection.set_peer(b"peer")
        connection.reserve_memory(9)
        manager.acquire_stream(b"peer", "inbound")

    recorded(tmp_path / "r", act)
    result = under(tmp_path / "r", NodeLimits(ConcreteLimits(peer_default=Limit(conns=0))))
    assert codes(result) == ["connection.peer.conns"]
    assert result.player.skipped == {"follows a refusal": 2}
    assert result.player.manager._held() == (0, 0, 0, 0, 0, 0)
    assert result.player.manager.ledger.leaked == 0


def test_a_refused_stream_is_not_given_back(tmp_path: Path) -> None:
    def act(manager: ResourceManager) -> None:
        for _ in range(2):
            for direction in ("inbound", "outbound"):
                for _ in range(2):
                    manager.acquire_stream(b"peer", direction)
                for _ in range(2):
                    manager.release_stream(b"peer", direction)

    recorded(tmp_path / "r", act)
    result = under(tmp_path / "r", NodeLimits(ConcreteLimits(system=Limit(streams_inbound=1))))
    assert codes(result) == ["stream.system.streams_inbound"] * 2
    manager = result.player.manager
    assert manager._held() == (0, 0, 0, 0, 0, 0)
    assert manager.ledger.over_released == 0


def test_protocols_and_services_are_asked_by_their_names(tmp_path: Path) -> None:
    kept: list[Any] = []

    def act(manager: ResourceManager) -> None:
        for number in range(3):
            kept.append(manager.open_stream(b"peer", "inbound"))
            kept[-1].set_protocol("/a")
            if number < 2:
                kept[-1].set_service("svc")

    recorded(tmp_path / "r", act)
    one = Limit(streams=1)
    assert codes(under(tmp_path / "r", NodeLimits(ConcreteLimits(protocol={"/a": one})))) == [
        "stream.protocol.streams"] * 2
    assert codes(under(tmp_path / "r", NodeLimits(ConcreteLimits(service={"svc": one})))) == [
        "stream.service.streams"]
    assert codes(under(tmp_path / "r", NodeLimits(ConcreteLimits(protocol={"svc": one})))) == []
    result = under(tmp_path / "r")
    assert {
        scope: result.player.manager.ledger.snapshot()[scope][name]["streams_inbound"]
        for scope, name in (("protocols", "/a"), ("services", "svc"))
    } == {"protocols": 3, "services": 2}


def test_bans_last_as_long_as_in_the_record(tmp_path: Path) -> None:
    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    with manager.record(tmp_path / "r"):
        manager.ban("192.0.2.0/24", 60)
        manager.ban("198.51.100.1", None)
        manager.ban("203.0.113.1", 60)
        manager.unban("203.0.113.1")
        answers = []
        for seconds in (0, 59, 2, 10_000):
            clock.advance(seconds)
            answers.append([
                bool(manager.open_connection(b"%d" % seconds, address, "inbound"))
                for address in ("192.0.2.7", "198.51.100.1", "203.0.113.1")])
    assert answers == [[False, False, True]] * 2 + [[True, False, True]] * 2
    result = under(tmp_path / "r")
    assert codes(result) == []
    assert result.outcome.agreed == 6


def test_the_memory_of_the_process_is_not_replayed(tmp_path: Path) -> None:
    from rcmgr import ProcessMemoryLimits

    def act(manager: ResourceManager) -> None:
        assert not manager.acquire_memory(1)
        assert manager.open_connection(None, "192.0.2.1", "inbound") is None

    recorded(tmp_path / "r", act, NodeLimits(memory=ProcessMemoryLimits(max_bytes=1)))
    result = under(tmp_path / "r")
    assert result.player.skipped == {"machine": 2}
    assert result.outcome.recorded == {"memory.process": 2}
    assert result.decisions == 0


def test_a_replay_logs_nothing(tmp_path: Path, caplog: Any) -> None:
    recorded(tmp_path / "r", lambda manager: manager.acquire_stream(b"peer", "inbound"))
    result = under(tmp_path / "r", NodeLimits(ConcreteLimits(system=Limit(streams=0))))
    assert codes(result) == ["stream.system.streams"]
    assert caplog.records == []


def test_a_player_has_no_limits_of_this_process() -> None:
    from rcmgr import ProcessMemoryLimits

    player = Player(NodeLimits(memory=ProcessMemoryLimits(max_bytes=1)), lambda *_: None)
    assert player.manager.acquire_memory(1)
