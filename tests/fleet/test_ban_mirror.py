"""Bans of a node and those of its fleet, without an engine."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from rcmgr.fleet import ban_mirror
from rcmgr.fleet.ban_mirror import BanMirror
from rcmgr.fleet.engine import Engine
from rcmgr.fleet.reading import FleetBans
from rcmgr.gates.bans import Bans, ban_subject


class Recorder:
    """Stands in for the engine: remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[list[Any]] = []

    def run(self, script: str, keys: list[Any], arguments: list[Any]) -> int:
        self.told.append(arguments)
        return 1


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
    b'1 2 {"ban": "192.0.2.1", "seconds": true}', b'1 2 {"ban": "192.0.2.1", "seconds": -1}',
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
    made.forget_read()
    made.compare(engine, (7, 3))
    assert len(read) == 3
