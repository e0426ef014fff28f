from __future__ import annotations

from typing import Any

import pytest
import trio
from demo_run import a_run
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from rcmgr.cli.demo import victim
from rcmgr.cli.demo.limits import DEMO_LIMITS
from rcmgr.cli.demo.measured_rcmgr import MeasuredRcmgr
from rcmgr.cli.demo.victim import BLOCK, dial_advertised, keep_upload, new_victim


class Upload:
    """A stream on which a peer sends `size` bytes, and then closes or resets."""

    def __init__(self, size: int, error: bool = False) -> None:
        self.size, self.error = size, error
        self.resets = 0

    async def read(self, most: int) -> bytes:
        if not self.size and self.error:
            raise StreamError("reset")
        size = min(self.size, most, 1 << 16)
        self.size -= size
        return bytes(size)

    async def reset(self) -> None:
        self.resets += 1


class Manager:
    """Grants `blocks` reservations, and remembers the most memory that was reserved."""

    def __init__(self, blocks: int) -> None:
        self.manager = self
        self.memory_admitted = 0
        self.blocks, self.reserved, self.peak = blocks, 0, 0

    def acquire_memory(self, size: int) -> bool:
        if self.reserved == self.blocks * BLOCK:
            return False
        self.reserved += size
        self.peak = max(self.peak, self.reserved)
        return True

    def release_memory(self, size: int) -> None:
        self.reserved -= size


@pytest.mark.parametrize("error", [False, True])
async def test_an_upload_is_kept_and_given_back(error: bool) -> None:
    manager, upload = Manager(blocks=10), Upload(2 * BLOCK + 1, error)
    await keep_upload(manager, upload)  # type: ignore[arg-type]
    assert (manager.peak, manager.reserved) == (3 * BLOCK, 0)
    assert (manager.memory_admitted, upload.resets) == (3, 0)


async def test_an_upload_over_the_limit_is_reset() -> None:
    manager, upload = Manager(blocks=2), Upload(5 * BLOCK)
    await keep_upload(manager, upload)  # type: ignore[arg-type]
    assert (manager.peak, manager.reserved) == (2 * BLOCK, 0)
    assert (manager.memory_admitted, upload.resets) == (2, 1)


async def test_the_victim_asks_its_manager_about_streams_and_never_dials_twice() -> None:
    manager = MeasuredRcmgr(DEMO_LIMITS)
    swarm: Any = new_victim(manager).get_network()
    manager.close()
    assert swarm._resource_manager is not None
    assert swarm._stream_semaphore is None
    assert swarm.retry_config.max_retries == 0


async def test_it_dials_advertised_peers_once_at_a_time_and_tarpits_often(
    autojump_clock: Any,
) -> None:
    run = a_run()
    connected: list[ID] = []
    run.view.has = lambda peer_id: peer_id in connected  # type: ignore[method-assign]
    peer = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
    run.attackers[0].advertised = [{"tarpit": 1}]
    run.attackers[1].advertised = [{"peer_id": peer, "port": 2}]
    dials: list[tuple[str, ID]] = []

    class Swarm:
        async def dial_addr(self, address: Any, peer_id: ID) -> None:
            dials.append((str(address), peer_id))
            await trio.sleep(1)

    with trio.move_on_after(2.9):
        await dial_advertised(run, Swarm())
    to_peer = [each for each in dials if each[0] == "/ip4/127.0.0.1/tcp/2"]
    to_tarpit = [each for each in dials if each[0] == "/ip4/127.0.0.1/tcp/1"]
    assert 2 <= len(to_peer) <= 3
    assert {str(each[1]) for each in to_peer} == {peer}
    assert len({each[1] for each in to_tarpit}) == victim.TARPIT_DIALS
    connected.append(ID.from_base58(peer))
    dials.clear()
    with trio.move_on_after(1.2):
        await dial_advertised(run, Swarm())
    assert dials == []
