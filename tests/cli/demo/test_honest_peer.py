from __future__ import annotations

import trio
from demo_run import PEER

from rcmgr.cli.demo.processes import Target, Visitor


async def test_an_honest_peer_that_finds_no_host_is_lost() -> None:
    visitor = Visitor("honest")
    with trio.fail_after(30):
        await visitor.run(Target("127.0.0.1", 1, PEER.to_base58()))
    assert visitor.lost is not None
    assert not visitor.ready
