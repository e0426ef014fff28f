"""Long work in pieces, between which other threads run.

CPython takes the GIL from a thread after 5 ms at the earliest, and never inside a compiled call. So
a report about 100,000 peers would stop the host's thread. A report with a `Pacer` sleeps for a
moment after 0.3 ms of work.
"""

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

import heapq
import sys
from time import sleep

from rcmgr.counting._clock cimport rcmgr_now_ns

__all__ = ["Pacer", "in_order", "keys_in", "paced"]

cdef int64_t WORK_NS = 300_000
cdef int64_t SWITCH_NS = 5_000_000  # CPython itself lets another thread run after so long
# A thread that waits for the GIL wakes up meanwhile. Releasing the GIL alone would not suffice,
# because the thread that released it is the first to take it again.
cdef double PAUSE_S = 1e-5
cdef enum:
    SORTED_AT_ONCE = 256
    KEYS_AT_ONCE = 256
cdef bint HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
# All Pacers share it, because a report consists of short parts with a Pacer each.
cdef int64_t last_pause = 0


@cython.final
@cython.binding(False)
cdef class Pacer:
    """Pacer()\n--\n
    Lets other threads run while a call works for long. For one thread.

    Call `step` between two pieces of work, without a lock. It takes 30 ns, or 60 us if all Pacers
    have not paused for 0.3 ms. Without a GIL it does nothing.
    """

    def __cinit__(self):
        global last_pause
        cdef int64_t now
        if HAS_GIL:
            now = rcmgr_now_ns()
            if now - last_pause > SWITCH_NS:
                last_pause = now

    cpdef int step(self) except -1:
        """Sleep for a moment if 0.3 ms have passed since the last pause of any Pacer."""
        global last_pause
        if HAS_GIL and rcmgr_now_ns() - last_pause >= WORK_NS:
            sleep(PAUSE_S)
            self.pauses += 1
            last_pause = rcmgr_now_ns()
        return 0


def paced(items):
    """The items, with a moment for other threads between them."""
    cdef Pacer pacer = Pacer()
    for item in items:
        yield item
        pacer.step()


def keys_in(dict items):
    """The keys of a dict that may change meanwhile: some that come or go then may be missing.

    A copy of 100,000 keys would stop the other threads for milliseconds.
    """
    cdef list keys = [None]
    cdef Py_ssize_t at = 0, left = len(items)
    cdef PyObject *key
    while keys:
        keys = []
        with cython.critical_section(items):
            while len(keys) < min(left, KEYS_AT_ONCE) and PyDict_Next(items, &at, &key, NULL):
                keys.append(<object>key)
        left -= len(keys)
        yield from keys


def in_order(list items, key=None):
    """The items as `sorted` gives them, in pieces. For large lists it takes twice as long."""
    cdef list parts = [
        sorted(items[first:first + SORTED_AT_ONCE], key=key)
        for first in paced(range(0, len(items), SORTED_AT_ONCE))
    ]
    if len(parts) < 2:
        return parts[0] if parts else []
    return list(paced(heapq.merge(*parts, key=key)))
