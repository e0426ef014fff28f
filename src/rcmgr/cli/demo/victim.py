"""The host that the demo attacks: its settings, its upload protocol, and its dials."""

from __future__ import annotations

import mmap
from functools import partial
from typing import Any

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr

from .limit_rows import MeasuredManager
from .run_state import Run
from .visit import UPLOAD

__all__ = ["ADDRESS", "dial_advertised", "new_victim"]

ADDRESS = "127.0.0.1"
BLOCK = 1024 * 1024
"""Bytes. An upload reserves memory in blocks of this size."""
DIAL_TIMEOUT_S = 5.0
DIAL_EVERY_S = 0.4
TARPIT_DIALS, TARPIT_TIMEOUT_S, TARPIT_EVERY_S = 10, 1.5, 3.0


def new_victim(manager: MeasuredManager) -> IHost:
    """A host whose connection manager never interferes, so that only the limits refuse."""
    plenty = 1_000_000
    host = new_host(
        muxer_preference="YAMUX",
        resource_manager=manager.manager,
        connection_config=ConnectionConfig(
            max_connections=plenty,
            min_connections=0,
            low_watermark=0,
            high_watermark=plenty,
            max_connections_per_peer=plenty,
        ),
    )
    swarm: Any = host.get_network()
    # By default the swarm lets streams above max_streams wait and does not ask the manager. The
    # host's own streams would wait behind the flood.
    swarm.set_resource_manager(manager.manager, enable_stream_semaphore=False)
    swarm.retry_config = RetryConfig(max_retries=0)
    host.set_stream_handler(TProtocol(UPLOAD), partial(keep_upload, manager))
    manager.attach(host)
    return host


async def keep_upload(manager: MeasuredManager, stream: INetStream) -> None:
    """Keep all that the peer sends in memory, and reserve the memory first."""
    blocks: list[mmap.mmap] = []
    try:
        while True:
            if not manager.manager.acquire_memory(BLOCK):
                await stream.reset()
                return
            manager.memory_admitted += 1
            block = mmap.mmap(-1, BLOCK)  # close() gives it back to the system
            blocks.append(block)
            while block.tell() < BLOCK:
                data = await stream.read(BLOCK - block.tell())
                if not data:
                    return
                block.write(data)
    except (StreamError, MuxedStreamError):
        return  # the peer has closed
    finally:
        manager.manager.release_memory(BLOCK * len(blocks))
        for block in blocks:
            block.close()


async def dial_advertised(run: Run, swarm: Any) -> None:
    """Dial the addresses that the attackers advertise, as peer discovery does."""
    in_flight: set[tuple[str, int]] = set()

    async def dial(peer_id: ID, port: int, timeout_s: float) -> None:
        key = (peer_id.to_base58(), port)
        in_flight.add(key)
        try:
            with trio.move_on_after(timeout_s):
                await swarm.dial_addr(Multiaddr(f"/ip4/{ADDRESS}/tcp/{port}"), peer_id)
        except SwarmException:
            pass  # refused here or there; the table shows our denials
        finally:
            in_flight.discard(key)

    async def dial_tarpits() -> None:
        while True:
            await trio.sleep(TARPIT_EVERY_S - TARPIT_TIMEOUT_S)
            for port in [each["tarpit"] for each in advertised() if "tarpit" in each]:
                for _ in range(TARPIT_DIALS):
                    made_up = ID.from_pubkey(create_new_key_pair().public_key)
                    nursery.start_soon(dial, made_up, port, TARPIT_TIMEOUT_S)
            await trio.sleep(TARPIT_TIMEOUT_S)

    def advertised() -> list[dict[str, Any]]:
        return [each for visitor in run.attackers for each in visitor.advertised]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial_tarpits)
        while True:
            for each in [each for each in advertised() if "peer_id" in each]:
                peer_id, port = ID.from_base58(each["peer_id"]), each["port"]
                if not run.view.has(peer_id) and (each["peer_id"], port) not in in_flight:
                    nursery.start_soon(dial, peer_id, port, DIAL_TIMEOUT_S)
            await trio.sleep(DIAL_EVERY_S)
