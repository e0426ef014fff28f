"""The demo's newcomers against real hosts."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from nodes import running_node

from rcmgr import ConnectionLimits
from rcmgr.cli.demo import newcomers
from rcmgr.cli.demo.visit import Visit

Reports = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    found: Reports = []

    def report(self: Visit, event: str, **values: Any) -> None:
        found.append((event, values))

    monkeypatch.setattr(Visit, "report", report)
    return found


@pytest.mark.loopback
async def test_a_newcomer_that_gets_an_answer_was_served(reports: Reports) -> None:
    async with running_node() as node:
        await newcomers.come(
            Visit("127.0.0.1", node.port, node.id.to_base58()), newcomers.NETWORKS[0])
    [(event, values)] = reports
    assert event == "newcomer"
    assert values["ms"] > 0


async def test_a_newcomer_tries_again_until_it_gives_up(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "SERVED_WITHIN_S", 2.0)
    monkeypatch.setattr(newcomers, "TRY_AGAIN_S", 0.05)
    limits = ConnectionLimits(max_established_inbound=0)
    async with running_node(limits=limits) as node:
        visit = Visit("127.0.0.1", node.port, node.id.to_base58())
        await newcomers.come(visit, newcomers.NETWORKS[0])
    assert reports == [("newcomer", {"ms": None})]
    assert visit.tried >= 2


@pytest.mark.loopback
async def test_newcomers_come_from_many_networks(
    reports: Reports, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    sources: list[str] = []

    async def come(visit: Visit, source: str) -> None:
        sources.append(source)

    monkeypatch.setattr(newcomers, "come", come)
    visit = Visit("127.0.0.1", 1, "peer")
    visit.started.set()
    with trio.move_on_after(newcomers.EVERY_S * 85.5):
        await newcomers.newcomers(visit)
    assert sources == [*newcomers.NETWORKS, *newcomers.NETWORKS[:6]]
    assert reports == [("ready", {})]


async def test_a_machine_with_one_loopback_address_measures_nothing(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "NETWORKS", ["192.0.2.1"])
    visit = Visit("127.0.0.1", 1, "peer")
    visit.started.set()
    await newcomers.newcomers(visit)
    assert [event for event, _ in reports] == ["unmeasured", "ready"]
    assert "one loopback address only" in reports[0][1]["why"]
