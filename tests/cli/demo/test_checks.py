"""The demo's verdict: every check can fail, and says what it measured."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from demo_run import FixedView, a_run, row

from rcmgr.cli.demo.checks import (
    all_given_back,
    attackers_worked,
    honest_peer_served,
    memory_kept,
    newcomers_served,
    no_limit_passed,
)


@pytest.mark.parametrize(
    ("peak", "limit", "held"), [(0, 5, True), (5, 5, True), (6, 5, False), (6, None, True)]
)
def test_a_peak_may_reach_its_limit_and_not_pass_it(
    peak: int, limit: int | None, held: bool
) -> None:
    check = no_limit_passed(a_run(row(peak=peak, limit=limit)))
    assert check.held is held
    assert ("streams 6 of 5" in check.detail) is not held


def test_the_swarm_counts_against_the_manager() -> None:
    view = FixedView()
    run = a_run(row("established_inbound", peak=4), view=view)
    view.peaks = Counter(established_inbound=5)
    assert no_limit_passed(run).held
    view.peaks = Counter(established_inbound=6)
    check = no_limit_passed(run)
    assert not check.held
    assert check.detail == "established_inbound 6 of 5 in the swarm"


@pytest.mark.parametrize(("peak", "held"), [(100, True), (116, True), (117, False)])
def test_memory_may_pass_its_limit_by_the_slack(peak: int, held: bool) -> None:
    run = a_run()
    run.manager.memory_peak = peak
    check = memory_kept(run)
    assert check.held is held
    assert check.detail == f"peak {peak} of 100 MiB plus 16 MiB of tolerance, 3 denials"


def test_the_check_names_the_counts_that_stayed() -> None:
    assert all_given_back(a_run(row(), row("connections"))).held
    check = all_given_back(a_run(row(now=2), row("connections", now=1), row("pending")))
    assert not check.held
    assert check.detail == "still counted: streams 2, connections 1"


def test_the_check_names_an_attacker_that_stopped() -> None:
    run = a_run()
    check = attackers_worked(run)
    assert check.held
    assert check.detail == "4 tries from 2 processes"
    run.attackers[1].tried = 0
    assert not attackers_worked(run).held
    run.attackers[0].died = "exit status 9"
    check = attackers_worked(run)
    assert not check.held
    assert check.detail == "half-open ended: exit status 9"


async def test_one_more_ping_passes(autojump_clock: Any) -> None:
    run = a_run()

    async def pong() -> None:
        await trio.sleep(1)
        run.honest.pings_ms.append(2.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pong)
        check = await honest_peer_served(run)
    assert check.held
    assert check.detail.startswith("1 pings")


async def test_no_further_ping_fails(autojump_clock: Any) -> None:
    run = a_run()
    run.honest.pings_ms = [2.0, 2.0]
    check = await honest_peer_served(run)
    assert not check.held
    assert check.detail == "no answer to its last ping within 5 s"


async def test_a_lost_connection_fails() -> None:
    run = a_run()
    run.honest.lost = "StreamReset: gone"
    check = await honest_peer_served(run)
    assert not check.held
    assert "StreamReset: gone" in check.detail


async def test_an_honest_peer_that_the_swarm_lacks_fails(autojump_clock: Any) -> None:
    run = a_run(view=FixedView(connected=False))

    async def pong() -> None:
        await trio.sleep(1)
        run.honest.pings_ms.append(2.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pong)
        check = await honest_peer_served(run)
    assert not check.held
    assert "no connection" in check.detail


@pytest.mark.parametrize(("came", "served", "held"), [
    (0, 0, True), (40, 40, True), (40, 38, True), (40, 37, False), (1, 0, False)])
def test_nearly_all_newcomers_must_get_in(came: int, served: int, held: bool) -> None:
    run = a_run()
    run.newcomers.came, run.newcomers.pings_ms = came, [30.0] * served
    assert newcomers_served(run).held is held


def test_newcomers_that_could_not_come_fail_nothing() -> None:
    run = a_run()
    run.newcomers.unmeasured = "one address"
    check = newcomers_served(run)
    assert check.held
    assert check.detail == "not measured: one address"
