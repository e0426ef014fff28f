"""The order of events in one run of the demo, from the first process to the verdict."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import trio
from multiaddr import Multiaddr

from .checks import (
    all_given_back,
    attackers_worked,
    has_gone,
    honest_peer_served,
    memory_kept,
    newcomers_served,
    no_limit_passed,
    wait_until,
)
from .measured_rcmgr import MeasuredRcmgr
from .measured_stock import MeasuredStock
from .processes import Target, Visitor
from .run_state import DemoOptions, Run
from .swarm_view import SwarmView
from .victim import ADDRESS, dial_advertised, new_victim
from .visit import ATTACKS

__all__ = ["CannotStart", "run_scenario"]

START_TIMEOUT_S = 60.0
"""Time for all processes to start. Importing py-libp2p takes each of them a second of CPU."""
EMPTY_TIMEOUT_S = 6.0
"""Time for every count to reach zero after the last peer has left."""
REDRAW_EVERY_S = 0.25
MEASURE_EVERY_S = 0.05


class CannotStart(Exception):
    """The attack could not start, with the reason."""


async def run_scenario(options: DemoOptions, show: Callable[[Run], None]) -> Run:
    """Run the demo and call `show` four times a second.

    SIGINT or SIGTERM ends the attack early, and the checks follow. A second signal skips them.
    Ctrl-C may end a visitor that is just starting: the signal counts, and not its exit status.
    CannotStart: the host or a visitor did not start. OSError: `show` could not print.
    """
    view = SwarmView()
    try:
        manager = MeasuredStock(options.limits, view) if options.stock else MeasuredRcmgr(
            options.limits, options.metrics_port, options.record)
    except OSError as error:
        wanted = (
            f"no record at {options.record}" if error.filename is not None
            else f"no metrics at port {options.metrics_port}")
        raise CannotStart(f"{wanted}: {error.strerror or error}") from None
    run = Run(options, manager, view)
    run.attackers = [Visitor(ATTACKS[i % len(ATTACKS)]) for i in range(options.attackers)]
    attack = trio.CancelScope()
    print_errors: list[OSError] = []  # raised at the end: a nursery would wrap it in a group

    async def keep_showing() -> None:
        try:
            while True:
                show(run)
                await trio.sleep(REDRAW_EVERY_S)
        except OSError as error:
            print_errors.append(error)
            nursery.cancel_scope.cancel()

    with closing(manager), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle_signals, signals, run, attack, nursery.cancel_scope)
            nursery.start_soon(keep_showing)
            await run_host(run, attack)
            nursery.cancel_scope.cancel()
    if print_errors:
        raise print_errors[0]
    if run.start_error is not None and run.signal is None:
        raise CannotStart(run.start_error)
    return run


async def handle_signals(
    signals: AsyncIterator[int], run: Run, attack: trio.CancelScope, everything: trio.CancelScope
) -> None:
    async for number in signals:
        if run.signal is not None:
            everything.cancel()
            return
        run.signal = number
        attack.cancel()


async def run_host(run: Run, attack: trio.CancelScope) -> None:
    """Run the host with its visitors, from their start to the checks."""
    host = new_victim(run.manager)
    swarm = host.get_network()
    run.view.watch(swarm)
    run.host_id = host.get_id().to_base58()
    async with host.run([Multiaddr(f"/ip4/{ADDRESS}/tcp/0")]):
        run.port = int(host.get_addrs()[0].value_for_protocol("tcp"))
        target = Target(ADDRESS, run.port, run.host_id)
        async with trio.open_nursery() as nursery:
            for visitor in run.visitors:
                await nursery.start(visitor.run, target)
            with attack:
                run.start_error = await wait_until_ready(run)
                if run.start_error is None:
                    for visitor in run.visitors:
                        await visitor.start()
                    await stay_under_attack(run, swarm)
            if run.phase != "starting":
                await check_everything(run)
            nursery.cancel_scope.cancel()


async def wait_until_ready(run: Run) -> str | None:
    """Wait for all visitors. Returns the reason if one of them cannot start."""
    with trio.move_on_after(START_TIMEOUT_S):
        visitors = run.visitors
        await wait_until(
            lambda: all(visitor.ready for visitor in visitors) or any(map(has_gone, visitors))
        )
    for visitor in run.visitors:
        if visitor.lost is not None:
            denial = run.manager.last_denial()
            because = "" if denial is None else f"; last denial: {denial}"
            return f"the honest peer could not connect ({visitor.lost}){because}"
        if visitor.died is not None:
            return f"the process {visitor.role!r} ended: {visitor.died}"
    late = ", ".join(visitor.role for visitor in run.visitors if not visitor.ready)
    return f"not ready after {START_TIMEOUT_S:.0f} s: {late}" if late else None


async def stay_under_attack(run: Run, swarm: Any) -> None:
    run.phase = "under attack"
    run.manager.limit_memory()
    started = time.monotonic()
    try:
        with trio.move_on_after(run.options.seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial_advertised, run, swarm)
                while True:
                    run.elapsed = time.monotonic() - started
                    run.manager.memory()  # for its peak
                    await trio.sleep(MEASURE_EVERY_S)
    finally:
        run.elapsed = time.monotonic() - started


async def check_everything(run: Run) -> None:
    """Check the honest peer, stop all visitors, and check the counts."""
    run.phase = "leaving"
    served = await honest_peer_served(run)
    newcomers, worked = newcomers_served(run), attackers_worked(run)
    for visitor in run.visitors:
        await visitor.stop()
    with trio.move_on_after(EMPTY_TIMEOUT_S):
        await wait_until(lambda: not any(row.now for row in run.rows()))
    run.checks = [
        no_limit_passed(run), memory_kept(run), served, newcomers, all_given_back(run), worked]
    run.phase = "over"
