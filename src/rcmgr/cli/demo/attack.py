"""The attackers of the demo against a node of this machine, and the verdict."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from rcmgr.errors import printable_name
from rcmgr.report.status_client import StatusError, default_path, read_status

from .checks import (
    attackers_worked,
    has_gone,
    honest_peer_pinged,
    newcomers_served,
    wait_until,
)
from .processes import Target, Visitor
from .run_state import Check
from .run_text import newcomers_line
from .visit import HALF_OPEN, HONEST, IDENTITIES, NEWCOMERS, ONE_IDENTITY, STREAMS, check_loopback

__all__ = ["AttackOptions", "AttackRun", "CannotStart", "run_attack", "target_of"]

ROLES = (HALF_OPEN, IDENTITIES, ONE_IDENTITY, STREAMS)
START_TIMEOUT_S = 60.0
EMPTY_TIMEOUT_S = 10.0
READ_EVERY_S = 0.5
SHOW_EVERY_S = 2.0


class CannotStart(Exception):
    """The attack could not start, with the reason."""


@dataclass(frozen=True)
class AttackOptions:
    """The options of the command line. status: the status socket of the node."""

    target: Target
    seconds: float
    attackers: int
    status: Path | None


@dataclass
class AttackRun:
    """One attack: its visitors, and the results so far."""

    options: AttackOptions
    honest: Visitor = field(default_factory=lambda: Visitor(HONEST))
    newcomers: Visitor = field(default_factory=lambda: Visitor(NEWCOMERS))
    attackers: list[Visitor] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    elapsed: float = 0.0
    signal: int | None = None
    start_error: str | None = None
    before: dict[str, Any] | None = None
    """The status of the node before the attack; None: it serves none."""
    above: dict[str, str] = field(default_factory=dict)
    """The uses that were above their limits."""

    @property
    def visitors(self) -> list[Visitor]:
        return [self.honest, self.newcomers, *self.attackers]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.held for check in self.checks)

    def served(self) -> tuple[int, int]:
        """How many newcomers the node served, and how many came."""
        return len(self.newcomers.pings_ms), self.newcomers.came


def target_of(address: str) -> Target:
    """The node at a multiaddr. ValueError: it is none of TCP over loopback with a peer id."""
    example = "TCP over IPv4, such as /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW..."
    try:
        maddr = Multiaddr(address)
        host = maddr.value_for_protocol("ip4")
        port = int(maddr.value_for_protocol("tcp"))
        peer = maddr.value_for_protocol("p2p")
        ID.from_base58(peer)
    except Exception as error:  # noqa: BLE001 (multiaddr raises many kinds for foreign text)
        raise ValueError(
            f"ADDRESS must be {example}, not {printable_name(address)} "
            f"({printable_name(error)})") from None
    if not host or not peer or [each.name for each in maddr.protocols()] != ["ip4", "tcp", "p2p"]:
        raise ValueError(f"ADDRESS must be {example}, not {printable_name(address)}")
    check_loopback(host)
    return Target(host, port, peer)


async def run_attack(options: AttackOptions, show: Callable[[str], object]) -> AttackRun:
    """Attack, and judge. SIGINT and SIGTERM end the attack early, and the checks follow.

    CannotStart: a visitor did not start, or the honest peer could not connect.
    """
    run = AttackRun(options)
    run.attackers = [Visitor(ROLES[i % len(ROLES)]) for i in range(options.attackers)]
    run.before = await status_now(run)
    attack = trio.CancelScope()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle_signals, signals, run, attack)
            async with trio.open_nursery() as visitors:
                for visitor in run.visitors:
                    await visitors.start(visitor.run, options.target)
                with attack:
                    run.start_error = await wait_until_ready(run)
                    if run.start_error is None:
                        for visitor in run.visitors:
                            await visitor.start()
                        await stay(run, show)
                if run.start_error is None:
                    await check_everything(run)
                visitors.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    if run.start_error is not None:
        raise CannotStart(run.start_error)
    return run


async def handle_signals(
    signals: AsyncIterator[int], run: AttackRun, attack: trio.CancelScope
) -> None:
    async for number in signals:
        run.signal = number
        attack.cancel()


async def wait_until_ready(run: AttackRun) -> str | None:
    """Wait for all visitors. The result is the reason if one of them cannot start."""
    with trio.move_on_after(START_TIMEOUT_S):
        await wait_until(lambda: all(
            visitor.ready for visitor in run.visitors) or any(map(has_gone, run.visitors)))
    for visitor in run.visitors:
        if visitor.lost is not None:
            return f"the honest peer could not connect and ping ({visitor.lost})"
        if visitor.died is not None:
            return f"the process {visitor.role!r} ended: {visitor.died}"
    late = ", ".join(visitor.role for visitor in run.visitors if not visitor.ready)
    return f"not ready after {START_TIMEOUT_S:.0f} s: {late}" if late else None


async def stay(run: AttackRun, show: Callable[[str], object]) -> None:
    """Let the visitors work, and read the status of the node meanwhile."""
    began, shown = time.monotonic(), 0.0
    try:
        with trio.move_on_after(run.options.seconds):
            while True:
                note_above(run, await status_now(run))
                run.elapsed = time.monotonic() - began
                if run.elapsed >= shown:
                    tries = sum(visitor.tried for visitor in run.attackers)
                    show(
                        f"{run.elapsed:3.0f} s: {tries} tries, honest peer "
                        f"{len(run.honest.pings_ms)} pings, newcomers {newcomers_line(run)}")
                    shown += SHOW_EVERY_S
                await trio.sleep(READ_EVERY_S)
    finally:
        run.elapsed = time.monotonic() - began


async def check_everything(run: AttackRun) -> None:
    served = await honest_peer_pinged(run.honest)
    newcomers, worked = newcomers_served(run), attackers_worked(run)
    for visitor in run.visitors:
        await visitor.stop()
    run.checks = [no_limit_passed(run), served, newcomers, await all_given_back(run), worked]


async def status_now(run: AttackRun) -> dict[str, Any] | None:
    """The status of the node; None: it serves none, or is too busy to answer."""
    path = default_path() if run.options.status is None else run.options.status
    try:
        return await trio.to_thread.run_sync(read_status, path)
    except StatusError:
        return None


def note_above(run: AttackRun, status: dict[str, Any] | None) -> None:
    for each in () if status is None else status["usage"]:
        if each["used"] > each["of"]:
            run.above[each["limit"]] = f"{each['limit']} {each['used']} of {each['of']}"


_UNKNOWN = "not measured: the node serves no status (`rcmgr run --status`)"


def no_limit_passed(run: AttackRun) -> Check:
    what = "No use passed its limit"
    if run.before is None:
        return Check(what, True, _UNKNOWN)
    if run.above:
        return Check(what, False, printable_name(", ".join(run.above.values())))
    return Check(what, True, f"of {len(run.before['usage'])} limits")


async def all_given_back(run: AttackRun) -> Check:
    """Wait until the node holds no more than before the attack."""
    what = "Every count fell to its former value"
    if run.before is None:
        return Check(what, True, _UNKNOWN)
    held: list[str] = []
    with trio.move_on_after(EMPTY_TIMEOUT_S):
        while True:
            status = await status_now(run)
            held = ["no status"] if status is None else [
                f"{name} {status['stats'][name]}" for name in ("connections", "streams")
                if status["stats"][name] > run.before["stats"][name]]
            if not held:
                return Check(what, True, "nothing of the visitors is held")
            await trio.sleep(READ_EVERY_S)
    return Check(what, False, f"still counted: {', '.join(held)}")
