"""Peers without a host, against a connection that counts what they do, and against a real host."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from nodes import eventually, running_node

from rcmgr.cli.demo.identity import Identity, stay
from rcmgr.cli.demo.visit import Visit


class FakeConnection:
    """The calls of a muxed connection that `stay` makes."""

    def __init__(self) -> None:
        self.is_closed = False
        self.event_started = trio.Event()
        self.closes = 0

    async def start(self) -> None:
        self.event_started.set()

    async def accept_stream(self) -> Any:
        await trio.sleep_forever()

    async def close(self) -> None:
        self.closes += 1


async def test_stay_is_true_until_the_time_is_over(autojump_clock: Any) -> None:
    conn = FakeConnection()
    assert await stay(conn, 5)  # type: ignore[arg-type]
    assert trio.current_time() == pytest.approx(5, abs=0.1)
    assert conn.closes == 1


async def test_stay_is_false_when_the_host_closes(autojump_clock: Any) -> None:
    conn = FakeConnection()

    async def close_after_one_second(_conn: Any) -> None:
        await trio.sleep(1)
        conn.is_closed = True

    assert not await stay(conn, 5, close_after_one_second)  # type: ignore[arg-type]
    assert trio.current_time() < 2
    assert conn.closes == 1


@pytest.mark.loopback
async def test_a_peer_dials_from_the_address_that_it_gets() -> None:
    async with running_node() as node:
        visit = Visit("127.0.0.1", node.port, node.id.to_base58())
        conn = await Identity().dial(visit, "127.66.0.1")
        await eventually(lambda: bool(node.host.get_network().get_connections()))
        [known] = node.host.get_network().get_connections()
        assert known.muxed_conn.get_remote_address()[0] == "127.66.0.1"  # type: ignore[attr-defined]
        await conn.close()
