"""Bans of a node and those of its fleet, without an engine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, cast

import pytest

from rcmgr.fleet import ban_mirror
from rcmgr.fleet.ban_mirror import BanMirror
from rcmgr.fleet.engine import Engine
from rcmgr.fleet.reading import FleetBans
from rcmgr.fleet.scripts import CHANGE_BANS
from rcmgr.gates.bans import Bans, ban_subject


class Recorder:
    """Stands in for the engine: remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[list[Any]] = []

    def run(self, script: str, keys: list[Any], arguments: list[Any]) -> int:
        self.told.append(arguments)
        return 1


class BanEngine:
    """The engine's bans, which says the same as the script CHANGE_BANS, with a clock in us."""

    def __init__(self) -> None:
        self.now, self.generation, self.version = 5_000_000, 0, 0
        self.ends: dict[bytes, float] = {}
        self.reasons: dict[bytes, bytes] = {}
        self.ears: list[Callable[[bytes], None]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def run(self, script: str, keys: list[Any], arguments: list[Any]) -> int:
        assert (script, keys, arguments[0]) == (CHANGE_BANS, ["p:bans", "p:reasons"], "p:changes")
        self.generation = self.generation or self.now
        columns = (arguments[at::4] for at in range(1, 5))
        for what, us, reason, message in zip(*columns, strict=True):
            assert us in ("", "0") or type(us) is int
            json.loads(message, parse_constant=pytest.fail)  # JSON has no infinity
            if us == "0":
                self.ends.pop(what.encode(), None)
                self.reasons.pop(what.encode(), None)
            else:
                self.ends[what.encode()] = math.inf if us == "" else self.now + us
                self.reasons[what.encode()] = reason.encode()
            self.version += 1
            for hear in self.ears:
                hear(f"{self.generation} {self.version} {message}".encode())
        self.meanwhile()
        return 1

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "time":
            self.meanwhile()
            return divmod(self.now, 1_000_000)
        if name == "hgetall":
            assert arguments == ("p:reasons",)
            return self.reasons
        assert (name, arguments, options) == ("zrange", ("p:bans", 0, -1), {"withscores": True})
        return [
            (b"!g", -float(self.generation)), (b"!v", -float(self.version)), *self.ends.items()]

    @property
    def numbers(self) -> tuple[int, int]:
        return self.generation, self.version


def names(bans: Bans) -> list[str]:
    return sorted(ban.what for ban in bans)


def mirror(bans: Bans | None = None) -> tuple[BanMirror, Bans, Recorder, Engine]:
    bans = Bans() if bans is None else bans
    made = BanMirror("p:", "node", "me", lambda: None)
    made.watch(bans)
    recorder = Recorder()
    return made, bans, recorder, cast(Engine, recorder)


def test_the_latest_change_of_each_subject_is_told_in_one_call() -> None:
    made, bans, recorder, engine = mirror()
    for number in range(10):
        bans.add(ban_subject(f"192.0.2.{number}"), None)
    bans.remove(ban_subject("192.0.2.0"))
    bans.add(ban_subject("192.0.2.1"), 5, "why")
    made.send(engine)
    [said] = recorder.told
    assert said[0] == "p:changes"
    assert said[1::4] == [f"192.0.2.{number}" for number in range(2, 10)]
    made.send(engine)
    assert recorder.told[1][1:3] == ["192.0.2.0", "0"]
    assert recorder.told[1][6] == 5_000_000
    assert json.loads(recorder.told[1][7])["reason"] == "why"
    assert made.waiting == 0
    made.send(engine)
    assert len(recorder.told) == 2


def test_bans_of_other_nodes_are_not_told_again() -> None:
    made, bans, _, _ = mirror()
    made.hear(b'1 1 {"ban": "192.0.2.1", "seconds": 60, "from": "other", "node": "n"}')
    assert [(ban.what, ban.node) for ban in bans] == [("192.0.2.1", "n")]
    made.hear(b'1 2 {"unban": "192.0.2.1", "from": "other"}')
    assert list(bans) == []
    assert made.waiting == 0


@pytest.mark.parametrize("message", [
    b"", b"x", b"1 2", b"1 2 [", b"1 2 5", b"a 2 {}", b"1 2 {}", b'1 2 {"ban": 5}',
    b'1 2 {"ban": "192.0.2.1", "seconds": true}', b'1 2 {"ban": "192.0.2.1", "seconds": 0}',
    b'1 2 {"ban": "192.0.2.1", "seconds": -1}',
    b'1 2 {"ban": "192.0.2.1", "seconds": 1e300}', b'1 2 {"ban": "no peer", "seconds": 1}',
    b'1 2 {"ban": "192.0.2.1", "seconds": 5, "from": "me"}', b'1 2 {"unban": "no peer"}',
    b'1 2 {"ban": "192.0.2.1", "seconds": NaN}', b"\xff 1 {}", b"[" * 100_000,
])
def test_a_foreign_message_changes_nothing(message: bytes) -> None:
    made, bans, _, _ = mirror()
    made.hear(message)
    assert list(bans) == []


def test_a_ban_heard_before_the_first_reading_ends_if_the_fleet_has_ended_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, bans, _, engine = mirror()
    made.forget_read()  # it listens since now
    made.hear(b'7 1 {"ban": "192.0.2.1", "seconds": 60, "from": "other", "node": "n"}')
    made.forget_read()  # it was cut off, and missed the end of the ban
    monkeypatch.setattr(ban_mirror, "read_bans", lambda *_: FleetBans({}, 7, 2))
    made.compare(engine, (7, 2))
    assert list(bans) == []


def test_a_watcher_that_left_is_told_nothing() -> None:
    made, bans, _, _ = mirror()
    made.unwatch()
    made.unwatch()
    bans.add(ban_subject("192.0.2.1"), None)
    assert made.waiting == 0


def test_the_bans_are_read_only_when_they_differ_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    def read_bans(engine: object, prefix: str) -> FleetBans:
        read.append(1)
        return FleetBans({}, 7, 3)

    monkeypatch.setattr(ban_mirror, "read_bans", read_bans)
    now = [0.0]
    made = BanMirror("p:", "node", "me", lambda: None, now=lambda: now[0])
    made.watch(Bans())
    engine = cast(Engine, Recorder())
    made.compare(engine, (7, 3))  # a late joiner reads at once
    made.compare(engine, (7, 3))
    assert len(read) == 1
    made.compare(engine, (7, 4))  # a message may still come
    made.hear(b'7 4 {"unban": "192.0.2.1", "from": "other"}')
    now[0] = 1
    made.compare(engine, (7, 4))
    assert len(read) == 1
    made.compare(engine, (7, 5))
    now[0] = 2
    made.compare(engine, (7, 5))
    assert len(read) == 2
    made.hear(b'7 8 {"unban": "192.0.2.1", "from": "other"}')  # those before it are missing
    made.compare(engine, (7, 8))
    now[0] = 3
    made.compare(engine, (7, 8))
    assert len(read) == 3
    made.forget_read()
    made.compare(engine, (7, 3))
    assert len(read) == 4


PEER = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"


@pytest.mark.parametrize("way", ["message", "reading"])
def test_a_ban_is_the_same_on_each_node(way: str) -> None:
    fleet = BanEngine()
    engine = cast(Engine, fleet)
    near, here, _, _ = mirror(Bans(clock=lambda: 0))
    other = BanMirror("p:", "other", "it", lambda: None)
    there = Bans(clock=lambda: 0)
    other.watch(there)
    fleet.ears = [near.hear, other.hear] if way == "message" else []
    here.add(ban_subject("192.0.2.0/24"), None, "why")
    here.add(ban_subject(PEER), 60, "too many requests", "penalty box", 3)
    here.add(ban_subject("198.51.100.1"), 1e-9, "", "penalty box", 1, slows=True)
    here.add(ban_subject("198.51.100.2"), 600, "", "penalty box", 1, slows=True)
    near.send(engine)
    assert fleet.ends[b"198.51.100.1"] == fleet.now + 1  # the shortest time of the engine
    if way == "reading":
        other.compare(engine, fleet.numbers)
    assert [(ban.what, ban.seconds_left, ban.reason, ban.by, ban.times) for ban in there][-3:] == [
        (ban.what, ban.seconds_left, ban.reason, ban.by, ban.times) for ban in here][-3:]
    assert {ban.node for ban in there} == {"node"}
    assert {
        text: there.entries[ban_subject(text)].trickle is not None
        for text in ("192.0.2.0/24", PEER, "198.51.100.2")
    } == {"192.0.2.0/24": False, PEER: False, "198.51.100.2": True}
    here.remove(ban_subject("192.0.2.0/24"))
    near.send(engine)
    if way == "reading":
        other.forget_read()
        other.compare(engine, fleet.numbers)
    assert "192.0.2.0/24" not in names(there)
    assert (near.waiting, other.waiting) == (0, 0)


def test_bans_in_force_are_told_and_each_change_wakes() -> None:
    woken: list[int] = []
    bans = Bans()
    bans.add(ban_subject("192.0.2.1"), None)
    made = BanMirror("p:", "node", "me", lambda: woken.append(1))
    made.watch(bans)
    assert (made.waiting, len(woken)) == (1, 1)
    bans.add(ban_subject("192.0.2.2"), None)
    bans.remove(ban_subject("192.0.2.2"))
    assert (made.waiting, len(woken)) == (2, 3)


def test_the_changes_that_wait_are_bounded() -> None:
    made, bans, _, _ = mirror()
    for number in range(10_001):
        made.ended(f"{number}", bans)
    assert made.waiting == 10_000


def test_a_change_during_a_call_waits_for_the_next() -> None:
    made, bans, _, _ = mirror()
    fleet = BanEngine()
    fleet.meanwhile = lambda: bans.add(ban_subject("192.0.2.1"), 60)
    bans.add(ban_subject("192.0.2.1"), None)
    made.send(cast(Engine, fleet))
    assert made.waiting == 1
    fleet.meanwhile = lambda: None
    made.send(cast(Engine, fleet))
    assert made.waiting == 0
    assert fleet.ends[b"192.0.2.1"] < math.inf


def test_an_engine_without_bans_is_told_all_again() -> None:
    now, bans = [0.0], Bans()
    made = BanMirror("p:", "node", "me", lambda: None, now=lambda: now[0])
    made.watch(bans)
    fleet = BanEngine()
    engine = cast(Engine, fleet)
    made.compare(engine, (0, 0))
    bans.add(ban_subject("192.0.2.1"), None)
    fleet.ears = [made.hear]
    made.send(engine)
    fleet.meanwhile = lambda: pytest.fail("the bans are known by messages")
    for _ in range(2):
        made.compare(engine, fleet.numbers)
        now[0] += 1
    assert (names(bans), made.waiting) == (["192.0.2.1"], 0)
    made.compare(engine, (0, 0))  # an operator empties it
    assert (names(bans), made.waiting) == (["192.0.2.1"], 1)


def test_a_node_that_knows_an_engine_by_its_messages_alone_ends_bans_too() -> None:
    made, bans, _, _ = mirror()
    fleet = BanEngine()
    made.compare(cast(Engine, fleet), (0, 0))
    bans.add(ban_subject("192.0.2.1"), None)
    fleet.ears = [made.hear]
    made.send(cast(Engine, fleet))
    fleet.ends.clear()
    made.forget_read()
    made.compare(cast(Engine, fleet), fleet.numbers)
    assert names(bans) == []


def test_bans_that_a_node_had_before_it_joined_stay() -> None:
    bans = Bans()
    bans.add(ban_subject("192.0.2.1"), None, node="other")
    made, _, _, _ = mirror(bans)
    made.compare(cast(Engine, BanEngine()), (7, 3))
    assert names(bans) == ["192.0.2.1"]


def test_the_own_end_of_a_ban_does_not_end_a_later_one() -> None:
    made, bans, _, _ = mirror()
    fleet = BanEngine()
    late: list[bytes] = []
    fleet.ears = [late.append]
    for _ in range(2):
        bans.add(ban_subject("192.0.2.1"), None)
        if late:
            made.hear(late[-1])
        else:
            bans.remove(ban_subject("192.0.2.1"))
            made.send(cast(Engine, fleet))
    assert names(bans) == ["192.0.2.1"]


def test_bans_of_another_generation_end_none_of_this_node() -> None:
    """An operator empties the engine, and other nodes tell their bans first."""
    made, bans, _, _ = mirror()
    old, new = BanEngine(), BanEngine()
    bans.add(ban_subject("192.0.2.1"), None)
    made.send(cast(Engine, old))
    made.compare(cast(Engine, old), old.numbers)
    other, others_bans, _, _ = mirror()
    other._origin = "it"
    new.now += 1
    others_bans.add(ban_subject("192.0.2.2"), None)
    new.ears = [made.hear]
    other.send(cast(Engine, new))
    made.forget_read()
    made.compare(cast(Engine, new), new.numbers)
    assert (names(bans), made.waiting) == (["192.0.2.1", "192.0.2.2"], 1)


def test_a_ban_that_was_made_during_the_reading_stays() -> None:
    made, bans, _, _ = mirror()
    fleet = BanEngine()
    engine = cast(Engine, fleet)
    for number in (1, 2):
        bans.add(ban_subject(f"192.0.2.{number}"), None)
    made.send(engine)
    made.compare(engine, fleet.numbers)
    del fleet.ends[b"192.0.2.1"]
    fleet.meanwhile = lambda: bans.add(ban_subject("192.0.2.3"), None)
    made.forget_read()
    made.compare(engine, fleet.numbers)
    assert (names(bans), made.waiting) == (["192.0.2.2", "192.0.2.3"], 1)


def test_a_node_takes_no_ban_of_its_own_from_the_fleet() -> None:
    made, bans, _, _ = mirror()
    fleet = BanEngine()
    bans.add(ban_subject("192.0.2.1"), None)
    made.send(cast(Engine, fleet))
    bans.remove(ban_subject("192.0.2.1"), told=False)
    made.compare(cast(Engine, fleet), fleet.numbers)
    assert names(bans) == []


def test_a_ban_of_a_nameless_node_is_no_ban_of_this_one() -> None:
    made, bans, _, _ = mirror()
    made.hear(b'1 1 {"ban": "192.0.2.1", "seconds": 60}')
    assert [ban.node for ban in bans] == ["?"]
    assert made.waiting == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "NaN"])
def test_a_ban_of_no_time_ends_no_other(seconds: str) -> None:
    made, bans, _, _ = mirror()
    bans.add(ban_subject("192.0.2.1"), None)
    made.hear(f'1 1 {{"ban": "192.0.2.1", "seconds": {seconds}, "from": "other"}}'.encode())
    assert names(bans) == ["192.0.2.1"]


def test_a_mirror_that_watches_no_bans_ignores_messages() -> None:
    made = BanMirror("p:", "node", "me", lambda: None)
    made.hear(b'1 1 {"ban": "192.0.2.1", "seconds": 60}')
    made.hear(b'1 2 {"unban": "192.0.2.1"}')
    assert made.waiting == 0


def test_each_difference_has_its_own_patience() -> None:
    now = [0.0]
    made = BanMirror("p:", "node", "me", lambda: None, now=lambda: now[0])
    made.watch(Bans())
    fleet = BanEngine()
    read: list[float] = []
    fleet.meanwhile = lambda: read.append(now[0])
    for now[0], numbers in (
        (0.0, (7, 1)), (1.0, (7, 2)), (1.2, (7, 1)), (1.4, (7, 2)), (1.6, (7, 2)), (1.7, (7, 2)),
        (1.8, (7, 2)), (2.2, (7, 2)),
    ):
        fleet.generation, fleet.version = 7, 1
        made.compare(cast(Engine, fleet), numbers)
    assert read == [0.0, 1.7, 2.2]
