"""An error of a handler is logged and resets the stream. e2e/test_differences.py has real hosts."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from rcmgr import TokenBucket
from rcmgr.libp2p.guard import handler_errors
from rcmgr.libp2p.guard.handler_errors import contain_handler_errors


class Stream:
    muxed_conn = SimpleNamespace(peer_id="peer")
    resets = 0

    def get_protocol(self) -> str:
        return "/p\x1b"

    async def reset(self) -> None:
        self.resets += 1


async def fail(stream: Any) -> None:
    raise ValueError("wrong bytes")


async def test_a_flood_of_errors_writes_few_tracebacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handler_errors, "_TRACEBACKS", TokenBucket(2, 1e-6))
    swarm, stream = SimpleNamespace(common_stream_handler=fail), Stream()
    hook = contain_handler_errors(swarm)
    with caplog.at_level(logging.DEBUG, "rcmgr"):
        for _ in range(5):
            await swarm.common_stream_handler(stream)
    levels = [each.levelno for each in caplog.records]
    assert levels == [logging.ERROR] * 2 + [logging.DEBUG] * 3
    assert "the handler of /p\\x1b failed" in caplog.text
    assert "ValueError: wrong bytes" in caplog.text
    assert stream.resets == 5
    hook.undo()
    with pytest.raises(ValueError, match="wrong bytes"):
        await swarm.common_stream_handler(stream)


async def test_a_cancelled_handler_stays_cancelled() -> None:
    async def sleep(stream: Any) -> None:
        await trio.sleep_forever()

    swarm, stream = SimpleNamespace(common_stream_handler=sleep), Stream()
    contain_handler_errors(swarm)
    with trio.move_on_after(0.01) as scope:
        await swarm.common_stream_handler(stream)
    assert scope.cancelled_caught
    assert stream.resets == 0
