"""One run of the demo: a host, who comes to it, what it was asked to bear, and whether it did.

Imports libp2p.
"""

from __future__ import annotations

import math
import mmap
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr

from . import visitors
from .limit_rows import GuardedWatch, Row, StockWatch, SwarmView, Watch
from .limits import Limits
from .processes import Target, Visitor

HOST = "127.0.0.1"
ATTACKS = (
    visitors.HALF_OPEN,
    visitors.IDENTITIES,
    visitors.ONE_IDENTITY,
    visitors.STREAMS,
    visitors.MEMORY,
)
BLOCK = 1024 * 1024
"""Bytes of an upload that are reserved and kept at a time."""

STARTS_WITHIN = 60.0
"""Seconds for all processes to start; py-libp2p alone takes a second of CPU in each."""
EMPTIES_WITHIN = 6.0
"""Seconds after the last peer left in which every count has to be zero."""
PONG_WITHIN = 5.0
"""Seconds that the honest peer's last ping may take."""
REDRAW_EVERY = 0.25
TARPIT_DIALS, TARPIT_PATIENCE, TARPIT_EVERY = 10, 1.5, 3.0
DIAL_PATIENCE = 5.0


class CannotStart(Exception):
    """The stage could not be set; says why."""


@dataclass(frozen=True)
class Play:
    """What was asked for on the command line."""

    seconds: float
    attackers: int
    limits: Limits
    stock: bool


@dataclass(frozen=True)
class Check:
    """One thing that had to hold. `detail` says what was seen."""

    what: str
    held: bool
    detail: str


@dataclass
class Run:
    """Everything that happens in a run, as far as it has come."""

    play: Play
    watch: Watch
    view: SwarmView
    host_id: str = ""
    port: int = 0
    phase: str = "starting"
    elapsed: float = 0.0
    """Seconds of attack."""
    signal: int | None = None
    """The signal that ended the attack early."""
    trouble: str | None = None
    """Why it could not start."""
    honest: Visitor = field(default_factory=lambda: Visitor(visitors.HONEST))
    attackers: list[Visitor] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def visitors(self) -> list[Visitor]:
        return [self.honest, *self.attackers]

    def rows(self) -> list[Row]:
        return self.watch.rows()

    def ping(self) -> tuple[float, float] | None:
        """Median and 99th percentile of the honest peer's pings, in milliseconds."""
        pings = sorted(self.honest.pings_ms)
        if not pings:
            return None
        return nearest_rank(pings, 0.5), nearest_rank(pings, 0.99)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.held for check in self.checks)


def nearest_rank(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def perform(play: Play, show: Callable[[Run], None]) -> Run:
    """Run the demo; `show` is called four times a second. Returns the run as far as it came.

    SIGINT or SIGTERM ends the attack early, and the rest takes its course; a second one ends all.
    CannotStart: the host or a visitor did not come up. OSError: `show` cannot print any more.
    """
    view = SwarmView()
    watch = StockWatch(play.limits, view) if play.stock else GuardedWatch(play.limits)
    run = Run(play, watch, view)
    run.attackers = [Visitor(ATTACKS[i % len(ATTACKS)]) for i in range(play.attackers)]
    attack = trio.CancelScope()
    print_errors: list[OSError] = []  # handed out by hand: a nursery would wrap it in a group

    async def keep_showing() -> None:
        try:
            while True:
                show(run)
                await trio.sleep(REDRAW_EVERY)
        except OSError as error:
            print_errors.append(error)
            nursery.cancel_scope.cancel()

    with closing(watch), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed_signals, signals, run, attack, nursery.cancel_scope)
            nursery.start_soon(keep_showing)
            await set_stage(run, attack)
            nursery.cancel_scope.cancel()
    if print_errors:
        raise print_errors[0]
    if run.trouble is not None:
        raise CannotStart(run.trouble)
    return run


async def heed_signals(
    signals: AsyncIterator[int], run: Run, attack: trio.CancelScope, everything: trio.CancelScope
) -> None:
    async for number in signals:
        if run.signal is not None:
            everything.cancel()
            return
        run.signal = number
        attack.cancel()


async def set_stage(run: Run, attack: trio.CancelScope) -> None:
    """The host, with room in py-libp2p's own connection manager: only the limits shall bind."""
    plenty = 1_000_000
    host = new_host(
        muxer_preference="YAMUX",
        resource_manager=run.watch.manager,
        connection_config=ConnectionConfig(
            max_connections=plenty,
            min_connections=0,
            low_watermark=0,
            high_watermark=plenty,
            max_connections_per_peer=plenty,
        ),
    )
    swarm: Any = host.get_network()
    # Without this the swarm lets streams wait when max_streams is reached, instead of asking the
    # manager, and the host's own streams wait behind the flood.
    swarm.set_resource_manager(run.watch.manager, enable_stream_semaphore=False)
    swarm.retry_config = RetryConfig(max_retries=0)
    host.set_stream_handler(TProtocol(visitors.UPLOAD), partial(keep_upload, run.watch))
    run.watch.attach(host)
    run.view.watch(swarm)
    run.host_id = host.get_id().to_base58()
    async with host.run([Multiaddr(f"/ip4/{HOST}/tcp/0")]):
        run.port = int(host.get_addrs()[0].value_for_protocol("tcp"))
        target = Target(HOST, run.port, run.host_id)
        async with trio.open_nursery() as nursery:
            for visitor in run.visitors:
                await nursery.start(visitor.visit, target)
            with attack:
                run.trouble = await wait_for_everybody(run)
                if run.trouble is None:
                    for visitor in run.visitors:
                        await visitor.go()
                    await under_attack(run, swarm)
            if run.phase != "starting":
                await take_stock(run)
            nursery.cancel_scope.cancel()


async def wait_for_everybody(run: Run) -> str | None:
    """None when all visitors are ready, or why that will not be."""
    with trio.move_on_after(STARTS_WITHIN):
        everybody = run.visitors
        await until(
            lambda: all(visitor.ready for visitor in everybody) or any(map(is_gone, everybody))
        )
    for visitor in run.visitors:
        if visitor.lost is not None:
            denial = run.watch.last_denial()
            because = "" if denial is None else f"; last denial: {denial}"
            return f"the honest peer could not connect ({visitor.lost}){because}"
        if visitor.died is not None:
            return f"the process {visitor.role!r} ended: {visitor.died}"
    late = ", ".join(visitor.role for visitor in run.visitors if not visitor.ready)
    return f"not ready after {STARTS_WITHIN:.0f} s: {late}" if late else None


async def under_attack(run: Run, swarm: Any) -> None:
    run.phase = "under attack"
    run.watch.limit_memory()
    started = time.monotonic()
    try:
        with trio.move_on_after(run.play.seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial_strangers, run, swarm)
                while True:
                    run.elapsed = time.monotonic() - started
                    run.watch.memory()  # for its peak
                    await trio.sleep(0.05)
    finally:
        run.elapsed = time.monotonic() - started


async def keep_upload(watch: Watch, stream: INetStream) -> None:
    """A protocol that keeps what it is sent, and asks before it takes memory for it."""
    blocks: list[mmap.mmap] = []
    try:
        while True:
            if not watch.manager.acquire_memory(BLOCK):
                await stream.reset()
                return
            watch.memory_admitted += 1
            block = mmap.mmap(-1, BLOCK)  # given back to the system when it is closed
            blocks.append(block)
            while block.tell() < BLOCK:
                data = await stream.read(BLOCK - block.tell())
                if not data:
                    return
                block.write(data)
    except (StreamError, MuxedStreamError):
        return  # it hung up
    finally:
        watch.manager.release_memory(BLOCK * len(blocks))
        for block in blocks:
            block.close()


async def dial_strangers(run: Run, swarm: Any) -> None:
    """Dial the addresses that strangers advertise, as a node's discovery does."""
    in_flight: set[tuple[str, int]] = set()

    async def dial(peer_id: ID, port: int, patience: float) -> None:
        key = (peer_id.to_base58(), port)
        in_flight.add(key)
        try:
            with trio.move_on_after(patience):
                await swarm.dial_addr(Multiaddr(f"/ip4/{HOST}/tcp/{port}"), peer_id)
        except SwarmException:
            pass  # refused by our own limits or by them; the table shows our denials
        finally:
            in_flight.discard(key)

    async def fall_for_tarpits() -> None:
        while True:
            await trio.sleep(TARPIT_EVERY - TARPIT_PATIENCE)
            for port in [stranger["tarpit"] for stranger in advertised() if "tarpit" in stranger]:
                for _ in range(TARPIT_DIALS):
                    nobody = ID.from_pubkey(create_new_key_pair().public_key)
                    nursery.start_soon(dial, nobody, port, TARPIT_PATIENCE)
            await trio.sleep(TARPIT_PATIENCE)

    def advertised() -> list[dict[str, Any]]:
        return [stranger for visitor in run.attackers for stranger in visitor.advertised]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fall_for_tarpits)
        while True:
            for stranger in [stranger for stranger in advertised() if "peer_id" in stranger]:
                peer_id, port = ID.from_base58(stranger["peer_id"]), stranger["port"]
                if not run.view.has(peer_id) and (stranger["peer_id"], port) not in in_flight:
                    nursery.start_soon(dial, peer_id, port, DIAL_PATIENCE)
            await trio.sleep(0.4)


async def take_stock(run: Run) -> None:
    """The attack is over: see how the honest peer is, send everybody away, and count again."""
    run.phase = "leaving"
    served = await still_served(run)
    working = attackers_that_stopped(run)
    for visitor in run.visitors:
        await visitor.leave()
    with trio.move_on_after(EMPTIES_WITHIN):
        await until(lambda: not any(row.now for row in run.rows()))
    run.checks = [no_limit_passed(run), memory_kept(run), served, all_given_back(run), working]
    run.phase = "over"


async def still_served(run: Run) -> Check:
    honest = run.honest
    answered = len(honest.pings_ms)
    with trio.move_on_after(PONG_WITHIN):
        await until(lambda: len(honest.pings_ms) > answered or is_gone(honest))
    what = "The honest peer stayed connected"
    if is_gone(honest):
        return Check(what, False, f"it lost its connection: {honest.lost or honest.died}")
    if len(honest.pings_ms) == answered:
        return Check(what, False, f"no answer to its last ping within {PONG_WITHIN:.0f} s")
    if honest.peer_id is None or not run.view.has(ID.from_base58(honest.peer_id)):
        return Check(what, False, "the host has no connection to it any more")
    return Check(what, True, f"{len(honest.pings_ms)} pings answered on one stream")


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - counters have no event
        await trio.sleep(0.02)


def is_gone(visitor: Visitor) -> bool:
    return visitor.lost is not None or visitor.died is not None


def attackers_that_stopped(run: Run) -> Check:
    what = "Every attacker attacked to the end"
    for visitor in run.attackers:
        if visitor.died is not None:
            return Check(what, False, f"{visitor.role} ended: {visitor.died}")
        if not visitor.tried:
            return Check(what, False, f"{visitor.role} has not tried anything")
    tries = sum(visitor.tried for visitor in run.attackers)
    return Check(what, True, f"{tries} tries from {len(run.attackers)} processes")


def no_limit_passed(run: Run) -> Check:
    what = "No count passed its limit"
    limits = {row.name: row.limit for row in run.rows()}
    passed = [f"{row.name} {row.peak} of {row.limit}" for row in run.rows() if row.passed]
    passed += [
        f"{name} {peak} of {limit} in the swarm"
        for name, peak in run.view.peaks.items()
        if (limit := limits[name]) is not None and peak > limit
    ]
    if passed:
        return Check(what, False, ", ".join(dict.fromkeys(passed)))
    reached = sum(row.reached for row in run.rows())
    return Check(what, True, f"{reached} of {len(limits)} limits were reached")


def memory_kept(run: Run) -> Check:
    memory = run.watch.memory()
    detail = (
        f"peak {memory.peak} of {memory.limit} + {memory.slack} MiB, "
        f"{memory.denied} refusals for it"
    )
    return Check("The process's memory stayed at its limit", not memory.passed, detail)


def all_given_back(run: Run) -> Check:
    what = "Every count is zero after all peers left"
    held = [f"{row.name} {row.now}" for row in run.rows() if row.now]
    if held:
        return Check(what, False, f"still counted: {', '.join(held)}")
    return Check(what, True, "nothing is held")
