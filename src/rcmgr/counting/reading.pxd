"""For our other compiled modules: a copy of a ledger's groups, and how it is shown."""

from cpython.object cimport PyObject

cimport cython

from rcmgr.counting._scope cimport rcmgr_amounts, rcmgr_limit
from rcmgr.counting.groups cimport Group

cdef object stat_of(const rcmgr_amounts *held)
cdef dict refused_by_kind(dict refusals)
cdef dict refused_by_direction(dict refusals)


ctypedef struct Row:
    rcmgr_amounts held
    rcmgr_limit limit
    PyObject *group


@cython.final
cdef class Reading:
    cdef Row *rows
    cdef size_t count

    cdef int make_room(self, size_t rows) except -1
    cdef void put(self, Group group) noexcept
    cdef dict snapshot(self, bint peers)
    cdef list peer_stats(self)
    cdef tuple peer_distribution(self, int what, tuple bounds)
    cdef list fullest(self, size_t most, bint peers)
