"""Call a function in several threads at once. A test that does so gets the marker `threads`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SHARE = float(os.environ.get("RCMGR_TEST_ROUNDS", "1"))
"""The part of all rounds that a test makes. ThreadSanitizer needs few, and each takes long."""


def rounds(number: int) -> int:
    """The repetitions for a test that finds a missing lock in `number` of them."""
    return max(1, round(number * SHARE))


def in_threads(work: Callable[[int], T], threads: int = 8) -> list[T]:
    """Call `work(number)` in each thread. Return the results in order, or raise the first error.

    A tracer, as for coverage, does not see these threads. With a GIL, compiled code takes no locks:
    a tracer would release the GIL in the middle of a step.
    """
    barrier = threading.Barrier(threads)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        sys.settrace(None)
        try:
            barrier.wait()
            results[number] = work(number)
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=run, args=[number]) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for error in errors:
        raise error
    return [results[number] for number in range(threads)]
