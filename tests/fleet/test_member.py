"""The thread of a node, called step by step with a fake clock and a fake engine."""

from __future__ import annotations

import gc
import json
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from engine_server import comes_true

from rcmgr import FleetLimits, FleetPlaces, Rate, ResourceManager
from rcmgr.fleet import member
from rcmgr.fleet.engine import Engine, EngineError
from rcmgr.fleet.member import Member
from rcmgr.fleet.scripts import BEAT, CHANGE_BANS, EXCHANGE
from rcmgr.fleet.shares import Shares


class FakeEngine:
    """Answers with its nodes, or not at all."""

    def __init__(self) -> None:
        self.fails = False
        self.nodes = 3
        self.is_new = 0
        self.bans = (0, 0)
        self.runs: list[tuple[str, list[Any], list[Any]]] = []
        self.when_run: Callable[[], object] = lambda: None
        self.messages: queue.Queue[bytes | None] = queue.Queue()  # None: the connection is cut
        self.listened: list[tuple[str, float]] = []
        self.uses: list[str] = []
        self.asked: list[tuple[int, int]] = []  # leases and places
        self.commands: list[tuple[str, ...]] = []

    def run(self, script: str, keys: list[Any], arguments: list[Any]) -> list[int]:
        self.when_run()
        if self.fails:
            raise EngineError("it is gone")
        self.runs.append((script, keys, arguments))
        if script is CHANGE_BANS:
            return [1]
        if script is BEAT:
            self.uses.append(arguments[2])
            return [self.nodes, self.is_new, *self.bans]
        self.uses.append("")
        leases = arguments[3 + 4 * arguments[2]]
        places = arguments[4 + 4 * (arguments[2] + leases)]
        self.asked.append((leases, places))
        return [1, 0] * leases + [0] * places

    def call(self, *command: str) -> None:
        self.commands.append(command)
        if self.fails:
            raise EngineError("it is gone")

    def listen(self, channel: str) -> str:
        self.when_run()
        if self.fails:
            raise EngineError("it is gone")
        self.uses.append("listens")
        return channel

    def next_message(self, subscription: str, timeout: float) -> bytes | None:
        self.listened.append((subscription, timeout))
        try:
            message = self.messages.get(timeout=0.01)
        except queue.Empty:
            return None
        if message is None:
            raise EngineError("it is gone")
        return message

    def close(self) -> None:
        self.uses.append("closed")


class Case:
    def __init__(self, limits: FleetLimits | None = None) -> None:
        self.now = 100.0
        self.engine, self.ears = FakeEngine(), FakeEngine()
        self.member = Member(
            cast(Engine, self.engine), cast(Engine, self.ears), "p:", "node", "place",
            now=lambda: self.now)
        self.manager = ResourceManager()
        self.shares = Shares(
            limits or FleetLimits(rate=Rate(10, 30)), self.manager.connection_tracker,
            self.manager.ledger, lambda key: 0, self.member.wake)
        self.member.shares = self.shares

    def call(self, wait: float = 0.0) -> None:
        self.now += wait
        self.member.call()

    def talk(self, calls: int) -> list[float]:
        """Do the work of the thread that talks, and return the times of so many calls."""
        times: list[float] = []

        def note() -> None:
            times.append(round(self.now - 100, 3))
            if len(times) == calls:
                self.member._stopped.set()

        self.engine.when_run = note
        self.member._node = weakref.ref(self.manager)
        was_woken = self.member._awake.is_set()
        self.member._awake, self.member._stopped = Waits(self), Waits(self)
        if was_woken:
            self.member.wake()
        self.member._talk()
        return times


class Waits(threading.Event):
    """An event whose wait moves the fake clock and takes no time."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._case = case

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert timeout >= 0
        if not self.is_set():
            self._case.now += timeout
        return self.is_set()


def test_an_idle_node_calls_once_a_second() -> None:
    case = Case()
    for _ in range(100):
        case.call(0.1)
    assert 9 <= len(case.engine.uses) <= 11
    assert json.loads(case.engine.uses[0]) == {"node": "node", "calls": 0}


def test_a_busy_node_shows_its_use_only_once_a_second() -> None:
    case = Case()
    assert case.shares.gate.rate is not None
    for _ in range(40):
        case.shares.gate.rate.try_consume("", 1)
        case.call(0.05)
    assert len(case.engine.uses) > 10
    assert sum(use != "" for use in case.engine.uses) <= 3


def test_each_limit_is_the_first_in_turn() -> None:
    case = Case(FleetLimits(peer_rate=Rate(10, 30), peer=FleetPlaces(connections=8)))
    case.call()
    gate = case.shares.gate
    assert gate.peer_rate is not None
    assert gate.peer_connections is not None
    for number in range(20):
        gate.peer_rate.try_consume(b"%d" % number)
        gate.peer_connections.may_take(b"%d" % number, 0)
    for _ in range(4):
        case.call(0.1)
    assert sorted(case.engine.asked[:2]) == [(0, 6), (6, 0)]
    assert case.engine.asked[2:] == case.engine.asked[:2]


def test_a_node_that_leaves_takes_its_use_along() -> None:
    case = Case()
    case.member._leave()  # it never joined
    assert case.engine.commands == []
    case.call()
    case.member._leave()
    [(_, nodes, one), (_, use, other)] = case.engine.commands
    assert [each[0] for each in case.engine.commands] == ["zrem", "hdel"]
    assert (nodes, use) == ("p:nodes", "p:use")
    assert one == other
    assert one.startswith("node-")


def test_a_loss_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    case.call()
    assert not case.member.is_lost
    case.engine.fails = True
    for _ in range(5):
        case.call(2)
    assert case.member.is_lost
    assert all(table.is_lost for table in case.shares.tables())
    assert case.member.losses == 1
    case.engine.fails = False
    for _ in range(5):
        case.call(2)
    assert not case.member.is_lost
    assert caplog.messages == [
        "fleet: the engine at place is lost (it is gone); this node applies 1/3 of the limits of "
        "the fleet",
        "fleet: the engine at place answers again after 10.0 s"]


def test_each_loss_is_said(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    for fails in (False, True) * 2:
        case.engine.fails = fails
        case.call(2)
    assert case.member.losses == 2
    assert ["lost" in each for each in caplog.messages] == [True, False, True]


def test_an_engine_may_be_lost_between_two_beats() -> None:
    case = Case()
    case.call()
    rate = case.shares.gate.rate
    assert rate is not None
    rate.try_consume("", 10)  # as much as the node may spend in advance
    case.engine.fails = True
    case.call(0.1)
    assert case.member.is_lost
    case.engine.fails = False
    case.call(1)
    assert rate.try_consume("", 1)
    case.call(0.1)
    assert case.engine.asked == [(1, 0)]


def test_an_engine_that_has_lost_the_bans_learns_them_again() -> None:
    case = Case()
    case.member._bans.watch(case.manager._bans)
    case.manager.ban("192.0.2.1")
    for _ in range(2):
        case.call(1)
    scripts = [script for script, _, _ in case.engine.runs]
    assert scripts == [BEAT, CHANGE_BANS] * 2


def test_an_engine_that_never_answered_is_lost_too(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(FleetLimits(rate=Rate(10, 30), on_loss="refuse"))
    case.engine.fails = True
    for _ in range(3):
        case.call(2)
    assert len(caplog.messages) == 1
    assert "refuses what the fleet limits" in caplog.text


def test_fewer_nodes_are_believed_after_a_while() -> None:
    """The engine's clock may have jumped, so that all nodes look dead for a moment."""
    case = Case()
    case.call()
    case.engine.nodes = 1
    case.call(1)
    assert case.member.nodes == 3
    case.engine.nodes = 4
    case.call(1)
    assert case.member.nodes == case.member.nodes_seen == 4
    assert case.shares.gate.rate is not None
    assert case.shares.gate.rate.advance == 30 // 4
    case.engine.nodes = 2
    for _ in range(12):
        case.call(1)
    assert case.member.nodes == 2
    assert case.shares.gate.rate is not None
    assert case.shares.gate.rate.advance == 15


def test_the_last_count_of_nodes_is_believed_for_ten_seconds() -> None:
    case = Case()
    assert case.member.nodes == 1
    for _ in range(9):
        case.call(1)
    case.engine.nodes = 1
    for _ in range(9):
        case.call(1)
    assert case.member.nodes == 3
    case.call(1)
    assert case.member.nodes == 1


def test_the_engine_is_asked_for_the_keys_of_the_fleet() -> None:
    case = Case()
    case.call()
    assert case.shares.gate.rate is not None
    case.shares.gate.rate.try_consume("", 1)
    case.call(0.1)
    (beat, keys, arguments), (exchange, first, more) = case.engine.runs
    assert (beat, keys) == (BEAT, ["p:nodes", "p:use", "p:bans", "p:reasons"])
    assert arguments[:2] == [case.member._id, 5_000_000]
    assert (exchange, first) == (EXCHANGE, [b"p:nodes", b"p:rate:rate"])
    assert more[0] == case.member._id
    assert case.member.calls == 2


def test_an_idle_thread_calls_at_each_beat_and_leaves() -> None:
    case = Case()
    assert case.talk(3) == [0, 1, 2]
    assert case.engine.uses[-1] == "closed"
    assert [each[0] for each in case.engine.commands] == ["zrem", "hdel"]
    assert json.loads(case.engine.uses[1])["connections"] == 0  # the node shows its use


def test_a_busy_thread_pauses_between_its_calls() -> None:
    """20 keys take four calls, because a call has six at most. A beat comes first."""
    case = Case(FleetLimits(peer_rate=Rate(10, 30)))
    case.call()
    assert case.shares.gate.peer_rate is not None
    for number in range(20):
        case.shares.gate.peer_rate.try_consume(b"%d" % number)
    assert case.talk(5) == [0.05, 0.1, 0.15, 0.2, 1]


def test_bans_that_wait_make_a_thread_busy() -> None:
    case = Case()
    case.member._bans.watch(case.manager._bans)
    for number in range(20):
        case.manager.ban(f"192.0.2.{number}")
    assert case.talk(4) == [0, 0, 0.05, 0.1]
    script, keys, arguments = case.engine.runs[1]
    assert (script, keys) == (CHANGE_BANS, ["p:bans", "p:reasons"])
    assert arguments[0] == "p:changes"
    assert json.loads(arguments[3])["node"] == "node"
    assert json.loads(arguments[3])["from"] == case.member._id


def test_a_thread_ends_with_its_manager() -> None:
    case = Case()
    case.member._node = weakref.ref(case.manager)
    del case.manager, case.shares
    case.member.shares = None
    gc.collect()
    case.member._talk()
    case.member._listen()
    assert case.engine.uses == case.ears.uses == ["closed"]


def test_a_lost_engine_is_asked_again_after_half_a_beat_or_more() -> None:
    case = Case()
    case.engine.fails = True
    waits = []
    for _ in range(50):
        case.call(2)
        waits.append(case.member._next_beat - case.now)
        assert case.member._next_call == case.member._next_beat
    assert 0.5 <= min(waits) < 0.7
    assert 0.8 < max(waits) <= 1
    assert case.engine.uses == ["closed"] * 50
    assert case.member.losses == 1


def test_a_node_that_cannot_listen_pauses_before_it_tries_again() -> None:
    case = Case()
    case.member._node = weakref.ref(case.manager)
    stopped = case.member._stopped = Waits(case)
    times: list[float] = []

    def note() -> None:
        times.append(case.now)
        if len(times) == 50:
            stopped.set()

    case.ears.fails, case.ears.when_run = True, note
    case.member._listen()
    waits = [after - before for before, after in pairwise(times)]
    assert 0.5 <= min(waits) < 0.7
    assert 0.8 < max(waits) <= 1


def test_an_engine_that_took_the_node_for_dead_learns_its_places_again() -> None:
    case = Case(FleetLimits(peer=FleetPlaces(connections=8)))
    case.call()
    assert case.shares.gate.peer_connections is not None
    peer = b"\x12\x20" + bytes(32)
    held = case.manager.open_connection(peer)
    case.shares.gate.peer_connections.may_take(peer, 0)
    case.call(1)
    case.call(1)
    assert case.engine.asked == [(0, 1)]
    case.engine.is_new = 1
    case.call(1)
    assert case.engine.asked == [(0, 1)] * 2
    assert held is not None


def test_a_node_without_limits_asks_only_for_news() -> None:
    case = Case()
    case.member.shares = None
    case.engine.is_new = 1
    case.call()
    assert (case.member.nodes, case.member.is_lost) == (3, True)
    case.engine.fails = True
    case.call(1)
    assert case.member.losses == 1
    case.member.stop()


def test_a_node_that_cannot_leave_says_so_to_those_who_debug(
    caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rcmgr.fleet")
    case = Case()
    case.call()
    case.engine.fails = True
    case.member._leave()
    assert caplog.messages == ["fleet: could not leave: it is gone"]


@pytest.mark.usefixtures("quick")
def test_the_threads_of_a_node() -> None:
    case = Case()
    case.member.start(case.manager)
    talks, listens = case.member._threads
    assert (talks.name, listens.name) == ("rcmgr fleet talks", "rcmgr fleet listens")
    assert talks.daemon
    assert listens.daemon
    comes_true(lambda: not case.member.is_lost)
    case.ears.messages.put(b'1 1 {"ban": "192.0.2.1", "seconds": 60, "from": "other"}')
    comes_true(lambda: len(case.manager.bans()) == 1)
    assert set(case.ears.listened) == {("p:changes", 0.5)}
    case.member._bans._read = (7, 1)
    case.ears.messages.put(None)
    comes_true(lambda: case.ears.uses == ["listens", "closed", "listens"])
    comes_true(lambda: case.member._bans._read is None)  # messages may have been missed
    case.ears.messages.put(b'1 2 {"unban": "192.0.2.1", "from": "other"}')
    comes_true(lambda: not case.manager.bans())
    case.manager.ban("192.0.2.2")
    comes_true(lambda: case.engine.runs[-1][0] is CHANGE_BANS)
    case.member.stop()
    assert not talks.is_alive()
    assert case.engine.uses[-1] == "closed"
    assert all(table.is_lost for table in case.shares.tables())
    case.manager.ban("192.0.2.3")
    assert case.member._bans.waiting == 0
    listens.join()
    assert case.ears.uses == ["listens", "closed"] * 2
    case.member.stop()


def test_an_idle_node_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "_BEAT_S", 1000.0)
    case = Case()
    case.member.start(case.manager)
    comes_true(lambda: not case.member.is_lost)
    case.now += 2000
    case.member.stop()
    assert len(case.engine.runs) == 1
    assert case.engine.uses[-1] == "closed"


def test_the_thread_may_stop_its_own_node() -> None:
    """As when it holds the last reference to the manager."""
    case = Case()
    case.engine.when_run = case.member.stop
    case.member.start(case.manager)
    talks, listens = case.member._threads
    talks.join()
    assert case.engine.uses[-1] == "closed"
    listens.join()
