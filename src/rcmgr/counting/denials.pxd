cimport cython
from libc.stdint cimport int64_t

from rcmgr.counting.event_ring cimport EventRing


cdef class _Counts:
    cdef dict _counts
    cdef Py_ssize_t _size

    cdef int count(self, object key) except -1
    cdef list most(self, count)


cdef class _Entry:
    cdef object refusal, connection_id, peer_id, inbound
    cdef bint enforced
    cdef str address
    cdef int64_t when

    cdef object error(self)


cdef class _OfLimit:
    cdef object code
    cdef int64_t total
    cdef int64_t times
    cdef int64_t since
    cdef int64_t next_summary
    cdef _Counts addresses
    cdef _Entry latest

    cdef object note(self, _Entry entry, object source)
    cdef object taken(self, int64_t now)


cdef class _Reporting:
    cdef object logger, summarize, each
    cdef dict levels  # whether the logger logs a level

    cdef int tell(self, tuple summary) except -1
    cdef int tell_each(self, _Entry entry) except -1


# The lock of the log guards its fields and counts. `_size`, `_clock` and
# `enforced` are constant. An entry does not change.
cdef class DenialLog:
    cdef list _ring
    cdef Py_ssize_t _size, _at
    cdef _Counts _by_peer, _by_address
    cdef dict _by_code  # an _OfLimit by code of the refusal
    cdef _OfLimit _latest
    cdef _Reporting _reporting  # None: no function wants denials
    cdef object _clock
    cdef readonly bint enforced
    """Whether these requests were refused. False: they would have been, without a dry run."""
    cdef readonly int64_t total
    cdef readonly int64_t inbound
    cdef readonly int64_t outbound
    cdef public object penalties
    """A Penalties, which charges each inbound denial; None: no penalty box."""
    cdef public EventRing ring
    """Where the parts that share this log note their decisions; None: nothing is recorded."""

    cpdef add(self, refusal, connection_id=*, peer_id=*, inbound=*, address=*)
    cdef int64_t now(self) except? -1
    cdef _OfLimit of_limit(self, object code, int64_t now)
    cdef list latest(self)


cdef object code_of(object refusal)


cdef inline EventRing ring_of(DenialLog log):
    """The ring of a log, which another thread may take away. None: nothing is recorded."""
    cdef EventRing ring
    with cython.critical_section(log):
        ring = log.ring
    return ring
