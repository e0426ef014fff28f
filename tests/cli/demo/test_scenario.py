from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import trio
from demo_run import a_run, row

from rcmgr.cli.demo import scenario
from rcmgr.cli.demo.checks import wait_until
from rcmgr.cli.demo.limits import DEMO_LIMITS
from rcmgr.cli.demo.run_state import DemoOptions, Run
from rcmgr.cli.demo.scenario import (
    check_everything,
    handle_signals,
    run_scenario,
    wait_until_ready,
)


async def test_the_first_signal_ends_the_attack_and_the_second_everything() -> None:
    run, attack, everything = a_run(), trio.CancelScope(), trio.CancelScope()

    async def signals() -> AsyncIterator[int]:
        yield signal.SIGTERM
        assert (run.signal, attack.cancel_called) == (signal.SIGTERM, True)
        assert not everything.cancel_called
        yield signal.SIGINT

    await handle_signals(signals(), run, attack, everything)
    assert everything.cancel_called
    assert run.signal == signal.SIGTERM


async def test_the_attack_starts_when_all_visitors_are_ready() -> None:
    run = a_run()
    for visitor in run.visitors:
        visitor.ready = True
    assert await wait_until_ready(run) is None


async def test_a_visitor_that_is_late_is_named(autojump_clock: Any) -> None:
    run = a_run()
    run.honest.ready = run.newcomers.ready = run.attackers[0].ready = True
    assert await wait_until_ready(run) == "not ready after 60 s: streams"


async def test_a_visitor_that_ended_is_named() -> None:
    run = a_run()
    run.attackers[1].died = "exit status 1"
    assert await wait_until_ready(run) == "the process 'streams' ended: exit status 1"


async def test_ctrl_c_that_ends_a_starting_visitor_is_no_failure(monkeypatch: Any) -> None:
    async def ended_by_ctrl_c(run: Run) -> str:
        signal.raise_signal(signal.SIGINT)
        with trio.CancelScope(shield=True):
            await wait_until(lambda: run.signal is not None)
        return "the process 'honest' ended: exit status -2"

    monkeypatch.setattr(scenario, "wait_until_ready", ended_by_ctrl_c)
    run = await run_scenario(DemoOptions(1, 0, DEMO_LIMITS, stock=False), lambda _run: None)
    assert run.signal == signal.SIGINT
    assert run.phase == "starting"


async def test_an_honest_peer_that_was_denied_is_told_why() -> None:
    run = a_run()
    run.honest.lost = "SwarmException"
    run.manager.last_denial = lambda: "full"
    assert await wait_until_ready(run) == (
        "the honest peer could not connect (SwarmException); last denial: full"
    )


async def test_all_visitors_stop_and_six_conditions_are_checked(
    autojump_clock: Any, monkeypatch: Any
) -> None:
    run = a_run(row("established_inbound", now=1))
    stopped: list[str] = []

    async def stop(visitor: Any) -> None:
        stopped.append(visitor.role)

    monkeypatch.setattr(type(run.honest), "stop", stop)
    await check_everything(run)
    assert stopped == ["honest", "newcomers", "half-open", "streams"]
    assert len(run.checks) == 6
    assert run.phase == "over"
    assert trio.current_time() >= scenario.EMPTY_TIMEOUT_S  # one count stays above zero
