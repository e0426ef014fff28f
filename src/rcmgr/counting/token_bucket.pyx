"""A token bucket, by the generic cell rate algorithm on integers (ext/gcra.h).

A bucket is one stored time: when it will be full again.
"""

from math import inf

cimport cython
from libc.stdint cimport int64_t

from rcmgr.counting._clock cimport rcmgr_now_ns
from rcmgr.counting._gcra cimport (
    RCMGR_GCRA_MAX_DEPTH, RCMGR_GCRA_MAX_SCALE, rcmgr_gcra, rcmgr_gcra_allows, rcmgr_gcra_available,
    rcmgr_gcra_full_after, rcmgr_gcra_moved, rcmgr_gcra_wait_ns,
)

from rcmgr.counting.waiting import Waiters
from rcmgr.limits.checks import bucket_ticks, check_count

__all__ = ["TokenBucket"]


cdef rcmgr_gcra gcra_of(object capacity, object refill_rate, int64_t max_scale) except *:
    """The integers of a bucket; TypeError and ValueError as `bucket_ticks`."""
    cdef rcmgr_gcra g
    g.scale, g.cost = bucket_ticks(capacity, refill_rate, max_scale, RCMGR_GCRA_MAX_DEPTH)
    g.capacity = capacity
    g.depth = g.capacity * g.cost
    return g


@cython.final
@cython.binding(False)  # 5 ns less per call; the clinic format keeps signatures
cdef class TokenBucket:
    """TokenBucket(capacity, refill_rate, initial_tokens=None, *, clock=None)\n--\n
    A token bucket: `capacity` tokens at most, `refill_rate` new ones per second.

    capacity: tokens, from 1 to 2**61.
    refill_rate: tokens per second, above 0; inf: no limit, every request is granted.
    initial_tokens: the tokens at the start, 0 to capacity; None: full.
    clock: returns monotonic nanoseconds; default CLOCK_MONOTONIC, read in C.

    TypeError: not a number. ValueError: a value out of its range, or more than 50 years to fill.
    ValueError also if 64 bits cannot hold the times to one part in a million: both values are huge.

    Within any time t at most capacity + refill_rate * t tokens are granted. The rate is exact to
    one part in a million. A clock that stands still or runs backwards changes nothing. Methods
    take `now_ns`, a time on the bucket's clock, instead of reading the clock.

    O(1), 20 to 40 ns. Thread safe. `wait` keeps the order within one event loop.
    """

    def __cinit__(self, capacity, refill_rate, initial_tokens=None, *, clock=None):
        cdef int64_t missing = 0
        self._gcra = gcra_of(capacity, refill_rate, RCMGR_GCRA_MAX_SCALE)
        if initial_tokens is not None:
            check_count("initial_tokens", initial_tokens, 0, capacity)
            missing = capacity - initial_tokens
        self._clock = clock
        self._latest = self._now(None)
        self._full = rcmgr_gcra_full_after(
            &self._gcra, missing * self._gcra.cost, self._latest)

    @property
    def capacity(self):
        """The most tokens it holds."""
        cdef int64_t capacity
        with cython.critical_section(self):
            capacity = self._gcra.capacity
        return capacity

    @property
    def refill_rate(self):
        """Tokens per second as counted: up to half a millionth less than the rate asked for."""
        cdef rcmgr_gcra gcra
        with cython.critical_section(self):
            gcra = self._gcra
        return inf if gcra.cost == 0 else 1e9 * gcra.scale / gcra.cost

    def try_consume(self, tokens=1, now_ns=None):
        """Take `tokens`: True, or False if it holds fewer. Then it keeps them.

        It always grants 0, and never more than its capacity. ValueError: negative.
        """
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._now(now_ns)
        cdef int64_t debt
        cdef bint granted
        with cython.critical_section(self):
            debt = self.debt(&now, now_ns is not None)
            granted = rcmgr_gcra_allows(&self._gcra, debt, amount)
            if granted:
                self.charge(debt, amount, now)
                self.allowed += 1
            else:
                self.denied += 1
        return granted

    def consume_up_to(self, n, now_ns=None):
        """Take as many tokens as it holds, `n` at most; returns how many. ValueError: negative."""
        cdef int64_t amount = amount_of(n)
        cdef int64_t now = self._now(now_ns)
        cdef int64_t debt
        with cython.critical_section(self):
            debt = self.debt(&now, now_ns is not None)
            if self._gcra.cost != 0:
                amount = min(amount, rcmgr_gcra_available(&self._gcra, debt))
            self.charge(debt, amount, now)
        return amount

    def get_available_tokens(self, now_ns=None):
        """Whole tokens that it holds now."""
        cdef int64_t now = self._now(now_ns)
        cdef int64_t available
        with cython.critical_section(self):
            available = rcmgr_gcra_available(&self._gcra, self.debt(&now, now_ns is not None))
        return available

    def time_until(self, tokens=1, now_ns=None):
        """Seconds until it grants `tokens` if no other caller takes any; inf: never.

        ValueError: negative.
        """
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._now(now_ns)
        cdef int64_t wait
        with cython.critical_section(self):
            wait = rcmgr_gcra_wait_ns(&self._gcra, self.debt(&now, now_ns is not None), amount)
        return seconds(wait)

    def set_rate(self, capacity, refill_rate, now_ns=None):
        """Use another capacity and rate from now on. It keeps its tokens, as far as they fit.

        ValueError, TypeError: as for the constructor, and nothing has changed.
        """
        cdef rcmgr_gcra gcra = gcra_of(capacity, refill_rate, RCMGR_GCRA_MAX_SCALE)
        cdef int64_t now = self._now(now_ns)
        cdef int64_t debt
        with cython.critical_section(self):
            debt = rcmgr_gcra_moved(&self._gcra, self.debt(&now, now_ns is not None), &gcra)
            self._gcra = gcra
            self._full = rcmgr_gcra_full_after(&gcra, debt, now)

    def reset(self, now_ns=None):
        """Make it full."""
        cdef int64_t now = self._now(now_ns)
        with cython.critical_section(self):
            self.debt(&now, now_ns is not None)
            self._full = rcmgr_gcra_full_after(&self._gcra, 0, now)

    def refill(self, now_ns=None):
        """Does nothing: a bucket is one stored time, and time refills it."""

    def wait(self, tokens=1):
        """Take `tokens`, and wait for them if needed. Waiters are served in order.

        A coroutine for trio and asyncio. A cancelled waiter gives its place back and takes nothing.
        `try_consume` does not queue, and may take tokens that a waiter is waiting for.
        ValueError: negative, or more than the capacity, which would wait forever.
        """
        with cython.critical_section(self):
            waiters = self._waiters
        if waiters is None:
            fresh = Waiters()
            with cython.critical_section(self):
                if self._waiters is None:
                    self._waiters = fresh
                waiters = self._waiters
        return waiters.wait(self, tokens)

    def __repr__(self):
        return (f"TokenBucket(capacity={self.capacity}, refill_rate={self.refill_rate:g}, "
                f"available={self.get_available_tokens()})")

    cdef int64_t _now(self, object now_ns) except? -1:
        if now_ns is not None:
            return time_of(now_ns)
        return rcmgr_now_ns() if self._clock is None else time_of(self._clock())
