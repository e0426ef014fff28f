"""The attackers against a listener that counts their connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from rcmgr.cli.demo.attackers import half_open, keep_trying
from rcmgr.cli.demo.visit import Visit


def a_visit(port: int = 1) -> Visit:
    return Visit("127.0.0.1", port, "peer")


async def test_a_failed_attempt_is_tried_again(autojump_clock: Any) -> None:
    visit = a_visit()

    async def fail() -> bool:
        raise OSError("refused")

    with trio.move_on_after(10.5):
        await keep_trying(visit, fail, 1, 1)
    assert (visit.tried, visit.refused, visit.holding) == (10, 10, 0)


async def serve(attack: Callable[[Visit], Awaitable[None]], refuse: bool) -> Visit:
    """The visit of an attacker to a listener that closes every socket or keeps it."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            if not refuse:
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        visit = a_visit(listener.socket.getsockname()[1])
        visit.started.set()
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        nursery.start_soon(attack, visit)
        with trio.fail_after(30):
            while visit.tried < 40 or (refuse and visit.refused < 40):  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return visit


async def test_half_open_counts_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    assert (await serve(half_open, refuse=True)).refused >= 40
    assert '"event": "advertise", "tarpit": ' in capsys.readouterr().out


async def test_half_open_holds_sockets_that_stay_open() -> None:
    assert (await serve(half_open, refuse=False)).refused == 0
