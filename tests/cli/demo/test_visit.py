from __future__ import annotations

import json
import logging

import pytest
import trio

from rcmgr.cli.demo.visit import Visit, mute_libp2p


@pytest.fixture
def visit() -> Visit:
    return Visit("127.0.0.1", 1, "peer")


async def test_attempts_are_counted(visit: Visit) -> None:
    async def stayed() -> bool:
        assert visit.holding == 1
        return True

    async def cut_off() -> bool:
        return False

    async def fail() -> bool:
        async with trio.open_nursery(strict_exception_groups=True):
            raise OSError("refused")

    for attempt in (stayed, cut_off, fail):
        await visit.attempt(attempt)
    assert (visit.tried, visit.holding, visit.refused) == (3, 0, 2)


async def test_a_cancelled_attempt_is_no_refusal(visit: Visit) -> None:
    with trio.move_on_after(0.01):
        await visit.attempt(trio.sleep_forever)
    assert (visit.tried, visit.holding, visit.refused) == (1, 0, 0)


async def test_reports_are_lines_of_json(
    visit: Visit, capsys: pytest.CaptureFixture[str]
) -> None:
    visit.tried, visit.refused = 5, 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit.report_counts)
        nursery.start_soon(visit.ready)
        await trio.sleep(0.01)
        visit.started.set()
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "ready"},
        {"event": "counts", "tried": 5, "holding": 0, "refused": 3},
    ]


def test_a_warning_of_libp2p_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("libp2p")
    before = list(logger.handlers), list(logging.getLogger().handlers)
    try:
        mute_libp2p()
        logger.warning("a denial")
    finally:
        logger.handlers, logging.getLogger().handlers = before
    assert capsys.readouterr().err == ""
