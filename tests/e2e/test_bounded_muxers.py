"""Bounded muxers pass all data that a handler reads. test_differences.py shows what they drop."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from nodes import ECHO, eventually, running_node

from rcmgr.libp2p import harden


@pytest.mark.parametrize("muxer", ["YAMUX", "MPLEX"])
async def test_a_hardened_host_reads_more_than_a_window(muxer: Any) -> None:
    """The peer sends more than any window and closes its half. It still gets an answer."""
    size, chunk = 4 << 20, 1 << 16
    done = trio.Event()

    async def swallow(stream: Any) -> None:
        got = 0
        while got < size:
            got += len(await stream.read(chunk))
        await stream.write(b"answer")
        await stream.close()
        done.set()

    async with running_node() as node, running_node(muxer=muxer) as peer:
        for each in (node, peer):
            harden(each.host)
        node.host.set_stream_handler(ECHO, swallow)
        assert await peer.dial(node)
        stream = await peer.host.new_stream(node.id, [ECHO])
        for _ in range(size // chunk):
            await stream.write(b"x" * chunk)
        await stream.close_write()
        await done.wait()
        await trio.sleep(0.2)
        assert await stream.read(6) == b"answer"
        [connection] = node.host.get_network().get_connections(peer.id)
        assert not connection.is_closed
        await eventually(lambda: not connection.muxed_conn.streams)  # type: ignore[attr-defined]
