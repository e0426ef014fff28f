"""Histories by hand: what a replay asks again, and what it cannot ask."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model import Clock

from rcmgr import (
    AddressRates,
    Allowlist,
    ConcreteLimits,
    ConnectionLimits,
    DryRun,
    Limit,
    NodeLimits,
    PenaltyBox,
    Rate,
    RateLimits,
    ResourceManager,
)
from rcmgr.limits.networks import Network
from rcmgr.peers import peer_text
from rcmgr.replay import events as kinds
from rcmgr.replay.events import BY_BOX, FD, INBOUND
from rcmgr.replay.player import NOT_ASKED, Player
from rcmgr.replay.replay import Replay, replay

PEER = b"\x12\x20" + b"p" * 32
KNOWN = 32


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
    def act(manager: ResourceManager) -> None:
        for _ in range(200):
            manager.open_stream(b"peer", "inbound")

    recorded(tmp_path / "r", act)
    none = NodeLimits(ConcreteLimits(system=Limit(streams=0)), penalties=PenaltyBox(threshold=2))
    with caplog.at_level(logging.DEBUG):
        result = under(tmp_path / "r", none)
        assert codes(result) == ["stream.system.streams"] * 100
        assert result.player.manager.bans()
        under(tmp_path / "r", replace(none, dry_run=DryRun(frozenset(("all",)))))
    assert caplog.records == []


def test_a_player_has_no_limits_of_this_process() -> None:
    from rcmgr import ProcessMemoryLimits

    player = Player(NodeLimits(memory=ProcessMemoryLimits(max_bytes=1)), lambda *_: None)
    assert player.manager.acquire_memory(1)


# -- single events ---------------------------------------------------------------------------------


def event(
    kind: int, number: int = 0, peer: Any = PEER, *, flags: int = 0, address: str | None = None,
    name: str = "", other: str = "", code: str | None = None, value: int = 0, detail: int = 255,
) -> Any:
    return kind, flags, 0, number, peer, address, name, other, code, value, detail


def is_banned(manager: ResourceManager) -> bool:
    return any(ban.what == peer_text(PEER) for ban in manager.bans())


class Played:
    """A player and its answers to some events."""

    def __init__(self, *events: Any, limits: NodeLimits | None = None) -> None:
        self.answers: list[str | bool] = []
        self.player = Player(limits, self._take)
        self.manager = self.player.manager
        self.skipped = self.player.skipped
        self.play(*events)

    def play(self, *events: Any) -> None:
        self.player.play_events(events)

    def _take(self, event: Any, answer: Any) -> None:
        if answer is not NOT_ASKED:
            self.answers.append(answer.code if not answer else True)

    @property
    def held(self) -> tuple[int, ...]:
        """Memory, streams in and out, connections in and out, descriptors."""
        return tuple(self.manager._held())


# scopes of memory in a record, and their limits
SCOPES = {
    "system": "system", "transient": "transient", "allowlistedSystem": "allowlisted_system",
    "allowlistedTransient": "allowlisted_transient", "service": "service_default",
    "protocol": "protocol_default", "peer": "peer_default", "service-peer": "service_peer_default",
    "protocol-peer": "protocol_peer_default",
}


@pytest.mark.parametrize("scope", SCOPES)
def test_memory_is_reserved_in_the_scope_of_the_record(scope: str) -> None:
    reserved = event(kinds.MEMORY, other=scope, name="n", value=10)
    given = event(kinds.GIVE_MEMORY, other=scope, name="n", value=10)
    small = NodeLimits(ConcreteLimits(**{SCOPES[scope]: Limit(memory=9)}))
    refused = Played(reserved, given, limits=small)
    assert refused.answers == [f"memory.{SCOPES[scope].removesuffix('_default')}.memory"]
    assert refused.held[0] == 0
    played = Played(reserved, limits=NodeLimits())
    assert played.player.agreed == 1
    for where in ("services", "protocols"):
        names = list(played.manager.ledger.snapshot()[where])
        assert names == ["n"] * scope.startswith(where[:-1])
    played.play(given)
    assert played.held[0] == 0
    assert played.player._views == {}
    assert played.manager.ledger.over_released == 0


def test_memory_of_a_peer_that_the_record_does_not_name_is_skipped() -> None:
    played = Played(*(
        event(kinds.MEMORY, peer=None, other=scope, name="n", value=10)
        for scope in ("peer", "service-peer", "protocol-peer", "no scope")))
    assert played.skipped == {"follows a refusal": 4}


def test_a_ledgers_connection_gives_its_memory_and_descriptor_back() -> None:
    played = Played(
        event(kinds.CHARGE, 7, None, flags=INBOUND | FD), event(kinds.SET_PEER, 7),
        event(kinds.CONN_MEMORY, 7, value=10), limits=NodeLimits())
    assert played.held == (10, 0, 0, 1, 0, 1)
    played.play(event(kinds.NO_FD, 7), event(kinds.GIVE_CONN_MEMORY, 7, value=4))
    assert played.held == (6, 0, 0, 1, 0, 0)
    played.play(event(kinds.SET_PEER, 7), event(kinds.SET_PEER, 7, None))
    assert played.skipped == {"before the record": 2}
    assert played.manager.ledger.snapshot()["peers"].keys() == {kept_peer(played)}
    played.play(event(kinds.CLOSE, 7))
    assert played.held == (0, 0, 0, 0, 0, 0)


def kept_peer(played: Played) -> str:
    [peer] = played.manager.ledger.snapshot()["peers"]
    return str(peer)


def test_a_peer_opens_streams_again_once_its_refused_connection_has_ended() -> None:
    played = Played(
        event(kinds.CHARGE, 7, None, flags=INBOUND), event(kinds.SET_PEER, 7),
        event(kinds.OPEN_STREAM, 1, flags=INBOUND),
        event(kinds.CLOSE, 7), event(kinds.OPEN_STREAM, 2, flags=INBOUND),
        limits=NodeLimits(ConcreteLimits(peer_default=Limit(conns=0))))
    assert played.answers == ["connection.peer.conns"]
    assert played.skipped == {"follows a refusal": 1}
    assert played.held == (0, 1, 0, 0, 0, 0)


def test_a_closed_manager_forgets_whom_it_refused() -> None:
    played = Played(
        event(kinds.CHARGE, 7), event(kinds.FORGET_ALL), event(kinds.CONN_MEMORY, 7),
        event(kinds.ESTABLISH, 7, flags=KNOWN), event(kinds.OPEN_STREAM, 1, flags=INBOUND),
        limits=NodeLimits(ConcreteLimits(system=Limit(conns=0))))
    assert played.skipped == {"follows a refusal": 1, "before the record": 1}
    assert played.held == (0, 1, 0, 0, 0, 0)


def test_a_connection_whose_end_was_dropped_is_held_once() -> None:
    begun = event(kinds.BEGIN, 7, None, flags=INBOUND, address="192.0.2.1")
    assert Played(begun, begun, limits=NodeLimits()).held == (0, 0, 0, 1, 0, 1)


def test_a_reported_connection_is_established_and_taken_over() -> None:
    played = Played(event(kinds.REPORT, 7, flags=INBOUND), limits=NodeLimits())
    assert played.manager.connection_tracker.snapshot().established_inbound == 1
    played.play(event(kinds.TAKE_OVER, 7, flags=KNOWN | INBOUND))
    assert played.player.agreed == 2


@pytest.mark.parametrize("kind", [
    kinds.ESTABLISH, kinds.REPORT, kinds.OPEN_STREAM, kinds.TAKE_STREAM, kinds.RATE])
def test_what_needs_a_peer_is_skipped_without_one(kind: int) -> None:
    played = Played(event(kind, 1, None, name="/a"))
    assert played.skipped == {"before the record": 1}


def test_streams_without_a_handle_are_given_back_as_taken() -> None:
    take, give = (
        [event(kind, flags=flags) for flags in (INBOUND, 0)]
        for kind in (kinds.TAKE_STREAM, kinds.GIVE_STREAM))
    played = Played(*give, *take, event(kinds.FORGET), *give, limits=NodeLimits())
    assert played.held == (0, 0, 0, 0, 0, 0)
    played.play(*take, give[1], give[1])
    assert played.held == (0, 1, 0, 0, 0, 0)
    played.play(event(kinds.TAKE_STREAM, flags=0, code="stream.system.streams"))
    assert played.held == (0, 1, 0, 0, 0, 0)  # the record refused it
    assert played.manager.ledger.over_released == 0


def test_a_stream_of_a_refused_protocol_has_no_later_events() -> None:
    played = Played(
        event(kinds.OPEN_STREAM, 1, flags=INBOUND), *[event(kinds.PROTOCOL, 1, name="/a")] * 2,
        limits=NodeLimits(ConcreteLimits(protocol_default=Limit(streams=0))))
    assert played.answers == ["stream.protocol.streams"]
    assert played.skipped == {"follows a refusal": 1}
    assert played.held == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("kind", [kinds.OPEN_STREAM, kinds.TAKE_STREAM])
def test_refused_streams_are_offences(kind: int) -> None:
    limits = NodeLimits(
        ConcreteLimits(peer_default=Limit(streams=0)), penalties=PenaltyBox(threshold=2))
    played = Played(*[event(kind, 1, flags=INBOUND)] * 4, limits=limits)
    assert played.manager.denials.by_code() == {"stream.peer.streams": 4}
    assert is_banned(played.manager)


def test_bans_of_peers_and_of_the_penalty_box() -> None:
    played = Played(event(kinds.BAN, value=-1, flags=INBOUND), limits=NodeLimits())
    assert is_banned(played.manager)
    assert [(ban.by, ban.reason) for ban in played.manager.bans()] == [
        ("operator", "in the record")]
    played.play(event(kinds.UNBAN))
    assert not is_banned(played.manager)
    boxed = event(kinds.BAN, None, address="192.0.2.1", detail=24, value=-1, flags=BY_BOX)
    assert not Played(boxed, limits=NodeLimits()).manager.bans()  # it has no penalty box
    played = Played(boxed, limits=NodeLimits(penalties=PenaltyBox()))
    [ban] = played.manager.bans()  # the record begins later
    assert (ban.what, ban.by) == ("192.0.2.0/24", "penalty box")


def test_evictions_of_the_record_are_counted() -> None:
    assert Played(event(kinds.EVICT, 7), event(kinds.EVICT, 8)).player.evicted == 2


@pytest.mark.parametrize("networks", [False, True])
def test_requests_are_asked_by_peer_and_network(tmp_path: Path, networks: bool) -> None:
    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    rates = AddressRates(ipv4=((24, Rate(1e-6, 1)),))
    limiter = manager.add_protocol_rate_limiter(
        "/a", RateLimits(default=None if networks else Rate(1e-6, 1)),
        networks=rates if networks else None)
    with manager.record(tmp_path / "r"):
        answers = [
            limiter.check_peer_rate_limit(peer, "get", address=address)
            for peer, address in (
                (b"a", "192.0.2.1"), (b"b", "192.0.2.2"), (b"a", "198.51.100.1"))]
    assert answers == ([True, False, True] if networks else [True, True, False])
    result = under(tmp_path / "r")
    assert codes(result) == []
    assert result.outcome.agreed == 1
    assert result.player.agreed == 2
    assert result.outcome.recorded == {"rate.protocol": 1}


def test_requests_of_a_peer_whose_connection_is_refused_are_not_asked(tmp_path: Path) -> None:
    def act(manager: ResourceManager) -> None:
        limiter = manager.add_protocol_rate_limiter("/a", RateLimits(default=Rate(1.0, 9)))
        with manager.open_connection(b"peer", "192.0.2.1", "inbound"):
            assert limiter.check_peer_rate_limit(b"peer", "get")

    recorded(tmp_path / "r", act)
    result = under(tmp_path / "r", NodeLimits(ConcreteLimits(system=Limit(conns=0))))
    assert result.player.skipped == {"follows a refusal": 1}


def test_the_allowlist_changes_as_in_the_record(tmp_path: Path) -> None:
    peer, network = PEER, Network.parse("192.0.2.0/24")
    manager = ResourceManager(
        NodeLimits(ConcreteLimits(system=Limit(conns=0))), allowlist=Allowlist())
    answers: list[bool] = []

    def connect(address: str) -> None:
        scope = manager.open_connection(peer, address, "inbound")
        answers.append(scope is not None)
        if scope is not None:
            scope.close()

    with manager.record(tmp_path / "r", identities=True) as recording:
        for change, what in (
            (manager.allowlist.add_peer, (peer,)), (manager.allowlist.remove_peer, (peer,)),
            (manager.allowlist.allow_from, (network, peer)),
            (manager.allowlist.disallow_from, (network, peer)),
        ):
            change(*what)  # type: ignore[operator]
            manager.ban("203.0.113.1", 1)  # changes are noted after events
            recording.flush()
            connect("192.0.2.1")
    assert answers == [True, False, True, False]
    result = under(tmp_path / "r")
    assert codes(result) == []
    assert result.player.agreed == 2
