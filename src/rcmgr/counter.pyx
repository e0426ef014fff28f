"""One amount that is taken and given back, under one limit."""

cimport cython
from cpython.long cimport PyLong_AsLongLong
from libc.stdint cimport INT64_MAX, int64_t

__all__ = ["Counter"]


@cython.final
cdef class Counter:
    """How much of something is in use, and whether more may be.

    limit: 0 or more; None, or more than 2**63: no limit. May be set at any time; holds for what is
    taken from then on.
    Amounts are ints of 0 or more (TypeError for others, ValueError below 0, OverflowError from
    2**63). O(1), about 30 ns; thread safe.
    """

    cdef int64_t _limit
    cdef readonly int64_t used
    cdef readonly int64_t peak
    cdef readonly int64_t admitted
    """How often something was taken."""
    cdef readonly int64_t denied
    """How often it was refused."""
    cdef readonly int64_t over_released
    """How much was given back that had not been taken: a defect of the caller, and ignored."""

    def __cinit__(self, limit=None):
        self.limit = limit

    @property
    def limit(self):
        return None if self._limit == INT64_MAX else self._limit

    @limit.setter
    def limit(self, value):
        cdef int64_t limit = INT64_MAX
        if value is not None and not value > INT64_MAX:
            limit = PyLong_AsLongLong(value)
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, or None (no limit), not {value}")
        with cython.critical_section(self):
            self._limit = limit

    def take(self, amount=1, *, bint exempt=False):
        """Take `amount` if the limit allows it; False if not, and nothing is taken.

        exempt: the limit does not apply (the amount counts as used).
        """
        cdef bint admit
        cdef int64_t wanted = amount_of(amount)
        with cython.critical_section(self):
            admit = wanted <= (INT64_MAX if exempt else self._limit) - self.used
            if admit:
                self.used += wanted
                self.admitted += 1
                if self.used > self.peak:
                    self.peak = self.used
            else:
                self.denied += 1
        return admit

    def give(self, amount=1):
        """Give back what was taken; False if it was more than is in use: then all of that is."""
        cdef int64_t excess
        cdef int64_t given = amount_of(amount)
        with cython.critical_section(self):
            excess = max(0, given - self.used)
            self.used -= given - excess
            self.over_released += excess
        return excess == 0

    def clear(self):
        """Give everything back."""
        with cython.critical_section(self):
            self.used = 0

    def __repr__(self):
        return f"Counter({self.used} of {self.limit})"


cdef inline int64_t amount_of(object value) except -1:
    # not a cast: that would cut a float down to an int
    cdef int64_t amount = PyLong_AsLongLong(value)
    if amount < 0:
        raise ValueError(f"amount must be 0 or more, not {value}")
    return amount
