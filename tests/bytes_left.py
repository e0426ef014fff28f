"""How many bytes a call leaves behind, exact to the byte with glibc and ENVIRONMENT.

Other systems count the memory of Python objects alone.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import itertools
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

Cycle = Callable[[int], Any]

ENVIRONMENT = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mmap_max=0",
}
"""With these, glibc knows each byte that is in use.

mmap_max: glibc 2.43 counts 16 bytes too many for each `free(realloc(malloc(1 << 20), 300))` of a
block from mmap. A read of up to 1 MiB from a small file does this.
"""
NOISE = 64
"""Bytes that the measurement leaves."""
ROUNDS = 20
NUMBERS = itertools.count(1_000_000)  # all of one size
"""Arguments of the calls. No two calls have the same, so that a dict that keeps them grows."""


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


def find_mallinfo() -> Callable[[], _Mallinfo] | None:
    """The function of glibc that counts the bytes in use. None: another system."""
    found = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if found is not None:
        found.restype = _Mallinfo
    return found


_mallinfo = find_mallinfo()
# Python's cache keeps thousands of the names that getattr() has looked up
_forget_names = getattr(sys, "_clear_internal_caches", sys._clear_type_cache)


def in_use() -> int:
    gc.collect()
    _forget_names()
    if _mallinfo is None:
        return tracemalloc.get_traced_memory()[0]
    found = _mallinfo()
    return int(found.uordblks + found.hblkhd)


async def bytes_left(call: Cycle, count: int, slack: float) -> float:
    """The bytes that each of `count` calls leaves behind in a round.

    This compares the least that is in use after three rounds with the least after three later ones.
    A thread that is about to end uses memory too. Caches grow less each time, a leak does not. So
    up to ROUNDS rounds run, until the calls leave less than `slack`.

    call: a function, or a coroutine function. With a function this does not suspend.
    """
    if _mallinfo is None:
        tracemalloc.start()
    awaits = inspect.iscoroutinefunction(call)
    used: list[int] = []
    for _ in range(ROUNDS):
        for _ in range(count):
            done = call(next(NUMBERS))
            if awaits:
                await done
        del done
        used.append(in_use())
        if len(used) >= 6:
            grown = min(used[-3:]) - min(used[-6:-3])
            left = max(0, grown - NOISE) / (3 * count)
            if left < slack:
                break
    return left
