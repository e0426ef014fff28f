"""Attackers, in a separate process: python -m benchmarks.siege.attack SCENE ADDRESS SECONDS

It writes "ready" when its identities are made, and begins when it reads a line.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio
import trio.lowlevel

from benchmarks.siege.peers import Peer, Target, ping

FIRST_NETWORK = 100  # attackers are in 127.100 and above


@dataclass(frozen=True)
class Attack:
    """An act that each worker repeats."""

    act: Callable[[Target, Peer | None, str], Awaitable[None]]
    workers: int
    networks: int
    """/16 networks that the workers come from."""
    has_identity: bool = True
    pause_s: float = 0.0
    """Between two attempts of a worker."""


async def hoard(target: Target, peer: Peer | None, source: str) -> None:
    """Hold a connection, and do nothing."""
    assert peer is not None
    async with peer.connection(target) as muxed:
        while not muxed.is_closed:  # noqa: ASYNC110 (it has no event for that)
            await trio.sleep(0.05)


async def imitate(target: Target, peer: Peer | None, source: str) -> None:
    """Hold a connection, and ping each second as an honest peer does."""
    assert peer is not None
    async with peer.connection(target) as muxed:
        while not muxed.is_closed:
            await ping(muxed)
            await trio.sleep(1)


async def shake_hands(target: Target, peer: Peer | None, source: str) -> None:
    """A real handshake, and hang up."""
    assert peer is not None
    await peer.handshake(target)


async def be_silent(target: Target, peer: Peer | None, source: str) -> None:
    """Connect, and never send a byte."""
    async with await target.connect(source) as stream:
        while await stream.receive_some():  # it ends when the node hangs up
            pass


async def be_slow(target: Target, peer: Peer | None, source: str) -> None:
    """A byte of the handshake every half second."""
    async with await target.connect(source) as stream:
        for byte in b"\x13/multistream/1.0.0\n" * 100:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.5)


async def hang_up(target: Target, peer: Peer | None, source: str) -> None:
    """Connect, and reset the connection at once."""
    stream = await target.connect(source)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


ONCE = float("inf")
ATTACKS = {
    "idle hoarders, 2 networks": Attack(hoard, 320, 2, pause_s=ONCE),
    "idle hoarders, 30 networks": Attack(hoard, 320, 30, pause_s=ONCE),
    "reconnecting hoarders": Attack(hoard, 320, 2, pause_s=0.5),
    "imitators, 2 networks": Attack(imitate, 320, 2, pause_s=0.5),
    **{
        f"{name}, {workers}": Attack(
            act, workers, 1, has_identity=act is shake_hands, pause_s=pause_s)
        for workers in (64, 400)
        for name, act, pause_s in (
            ("silent sockets", be_silent, 0.0), ("sockets that hang up", hang_up, 0.02),
            ("slow handshakes", be_slow, 0.0), ("handshakes", shake_hands, 0.02))
    },
}


async def work(attack: Attack, target: Target, peer: Peer | None, source: str) -> None:
    while True:
        try:
            await attack.act(target, peer, source)
        except Exception:  # noqa: BLE001 (the node refuses in many ways, and the attack goes on)
            await trio.sleep(0.05)
        await trio.sleep(attack.pause_s)


def source_of(attack: Attack, number: int) -> str:
    network = FIRST_NETWORK + number % attack.networks
    if not attack.has_identity or attack.networks == 1:
        return f"127.{network}.0.1"
    return f"127.{network}.{number // 250}.{number % 250 + 1}"


async def run(attack: Attack, target: Target, seconds: float) -> None:
    workers: list[tuple[Peer | None, str]] = []
    for number in range(attack.workers):
        source = source_of(attack, number)
        workers.append((Peer(source) if attack.has_identity else None, source))
    print("ready", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for peer, source in workers:
                nursery.start_soon(work, attack, target, peer, source)
                await trio.lowlevel.checkpoint()


def main(arguments: list[str]) -> Any:
    scene, address, seconds = arguments
    trio.run(run, ATTACKS[scene], Target.parse(address), float(seconds))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    main(sys.argv[1:])
