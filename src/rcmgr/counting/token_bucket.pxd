"""For our other compiled modules: a bucket's state, and the readers of its arguments."""

cimport cython
from cpython.number cimport PyNumber_Index
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MAX, int64_t

from rcmgr.counting._gcra cimport (
    RCMGR_GCRA_MAX_NOW, rcmgr_gcra, rcmgr_gcra_debt, rcmgr_gcra_full_after, rcmgr_gcra_time,
)


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1
    bint PyLong_CheckExact(object)


cdef rcmgr_gcra gcra_of(object capacity, object refill_rate, int64_t max_scale) except *


cdef inline int64_t amount_of(object tokens) except -1:
    """A number of tokens. A number of more than 64 bits becomes the largest of 64 bits."""
    cdef int overflow = 0
    cdef int64_t amount
    if not PyLong_CheckExact(tokens):
        tokens = PyNumber_Index(tokens)
    amount = PyLong_AsLongLongAndOverflow(tokens, &overflow)
    if overflow > 0:
        return INT64_MAX
    if overflow < 0 or amount < 0:
        raise ValueError(f"tokens must be 0 or more, not {tokens}")
    return amount


cdef inline int64_t time_of(object now_ns) except? -1:
    cdef int64_t now = now_ns if PyLong_CheckExact(now_ns) else PyNumber_Index(now_ns)
    if now > RCMGR_GCRA_MAX_NOW or now < -RCMGR_GCRA_MAX_NOW:
        raise ValueError(f"now_ns must be within 2**61 ns of 0 (73 years), not {now_ns}")
    return now


cdef inline double seconds(int64_t wait_ns) noexcept:
    return INFINITY if wait_ns < 0 else wait_ns / 1e9


@cython.final
cdef class TokenBucket:
    # the lock of the object guards everything but `_clock`, which is constant
    cdef rcmgr_gcra _gcra
    cdef rcmgr_gcra_time _full
    cdef int64_t _latest  # the latest time at which it was read
    cdef bint _was_read   # until then a caller's first time may be before `_latest`
    cdef object _clock
    cdef object _waiters  # a Waiters, once a caller waits
    cdef readonly int64_t allowed
    """Requests granted by `try_consume` and `wait`."""
    cdef readonly int64_t denied
    """Requests denied by `try_consume`, and the tries of `wait` that found too few tokens."""

    cdef int64_t _now(self, object now_ns) except? -1

    cdef inline int64_t debt(self, int64_t *now, bint explicit) noexcept:
        """The ticks missing at `now`. Locked.

        An earlier time than the latest becomes the latest one. explicit: a caller gave `now`. Its
        first one may be before the time at which the bucket was made.
        """
        if now[0] < self._latest:
            if explicit and not self._was_read:
                self._full.full_ns -= self._latest - now[0]
            else:
                now[0] = self._latest
        self._was_read = True
        self._latest = now[0]
        return rcmgr_gcra_debt(&self._gcra, self._full, now[0])

    cdef inline void charge(self, int64_t debt, int64_t tokens, int64_t now) noexcept:
        """Take tokens that `debt` allows. Locked."""
        if self._gcra.cost != 0:
            self._full = rcmgr_gcra_full_after(&self._gcra, debt + tokens * self._gcra.cost, now)
