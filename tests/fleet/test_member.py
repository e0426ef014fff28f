"""The thread of a node, called step by step with a fake clock and a fake engine."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from rcmgr import FleetLimits, FleetPlaces, Rate, ResourceManager
from rcmgr.fleet.engine import Engine, EngineError
from rcmgr.fleet.member import Member
from rcmgr.fleet.scripts import BEAT
from rcmgr.fleet.shares import Shares


class FakeEngine:
    """Answers with its nodes, or not at all."""

    def __init__(self) -> None:
        self.fails = False
        self.nodes = 3
        self.uses: list[str] = []
        self.asked: list[tuple[int, int]] = []  # leases and places
        self.commands: list[tuple[str, ...]] = []

    def run(self, script: str, keys: list[Any], arguments: list[Any]) -> list[int]:
        if self.fails:
            raise EngineError("it is gone")
        if script is BEAT:
            self.uses.append(arguments[2])
            return [self.nodes, 0, 0, 0]
        self.uses.append("")
        leases = arguments[3 + 4 * arguments[2]]
        places = arguments[4 + 4 * (arguments[2] + leases)]
        self.asked.append((leases, places))
        return [1, 0] * leases + [0] * places

    def call(self, *command: str) -> None:
        self.commands.append(command)

    def close(self) -> None:
        self.uses.append("closed")


class Case:
    def __init__(self, limits: FleetLimits | None = None) -> None:
        self.now = 100.0
        self.engine = FakeEngine()
        engine = cast(Engine, self.engine)
        self.member = Member(engine, engine, "p:", "node", "place", now=lambda: self.now)
        self.manager = ResourceManager()
        self.shares = Shares(
            limits or FleetLimits(rate=Rate(10, 30)), self.manager.connection_tracker,
            self.manager.ledger, lambda key: 0, self.member.wake)
        self.member.shares = self.shares

    def call(self, wait: float = 0.0) -> None:
        self.now += wait
        self.member.call()


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
    assert case.member.nodes == 4
    case.engine.nodes = 2
    for _ in range(12):
        case.call(1)
    assert case.member.nodes == 2
    assert case.shares.gate.rate is not None
    assert case.shares.gate.rate.advance == 15
