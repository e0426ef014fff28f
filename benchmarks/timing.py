"""Measures time without noise: the fastest of many rounds, each right after an untimed one."""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from libp2p.peer.id import ID

Run = Callable[[], object]
Name = TypeVar("Name")

noop: Run = gc.isenabled
"""A compiled method that does nothing: the cost of the call alone."""
noop_int: Run = sys.getrecursionlimit
"""A compiled method that does nothing and returns an int."""


def fastest(
    runs: Mapping[Name, Run], *, rounds: int, operations: int | Mapping[Name, int]
) -> dict[Name, float]:
    """Nanoseconds per operation of the fastest round of each run, which has so many operations.

    Each timed round follows an untimed round of the same run, so that the processor's caches hold
    the data of this run. The order changes from round to round.
    """
    best = dict.fromkeys(runs, float("inf"))
    order = list(runs.items())
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in order:
                run()
                start = time.perf_counter_ns()
                run()
                best[name] = min(best[name], time.perf_counter_ns() - start)
            order.reverse()
    finally:
        gc.enable()
    if isinstance(operations, int):
        return {name: total / operations for name, total in best.items()}
    return {name: total / operations[name] for name, total in best.items()}


def repeated(call: Run, times: int) -> Run:
    """A run of so many calls."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def peer_ids(count: int, seed: object = None) -> list[ID]:
    """Peer ids of the usual length, always the same for one seed. The default seed is `count`."""
    from libp2p.peer.id import ID

    draw = random.Random(count if seed is None else seed)
    return [ID(b"\x00\x25\x08\x02\x12\x21" + draw.randbytes(33)) for _ in range(count)]


def drive(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that never suspends, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("the coroutine suspended")
