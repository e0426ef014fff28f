from __future__ import annotations

import pytest
import trio
import trio.testing
from demo_run import PEER

from rcmgr.cli.demo.processes import Target, Visitor, lines_of


async def test_a_visitor_that_crashes_says_why() -> None:
    visitor = Visitor("no-such-role")
    with trio.fail_after(30):
        await visitor.run(Target("127.0.0.1", 1, PEER.to_base58()))
    assert visitor.died is not None
    assert visitor.died.startswith("exit status 1\n")
    assert "KeyError: 'no-such-role'" in visitor.died


@pytest.mark.parametrize("cut", range(1, 12))
async def test_lines_are_whole_wherever_a_chunk_ends(cut: int) -> None:
    ours, theirs = trio.testing.memory_stream_one_way_pair()
    sent = b"one\ntwo\r\n\nlast"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_chunks, ours, [sent[:cut], sent[cut:]])
        received = [line async for line in lines_of(theirs)]
    assert received == [b"one\n", b"two\r\n", b"\n", b"last"]


async def send_chunks(pipe: trio.abc.SendStream, chunks: list[bytes]) -> None:
    for chunk in chunks:
        await pipe.send_all(chunk)
        await trio.testing.wait_all_tasks_blocked()
    await pipe.aclose()
