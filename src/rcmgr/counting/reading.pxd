"""For our other compiled modules: copies of a ledger's groups, and how they are shown."""

from libc.stdint cimport int64_t
from cpython.object cimport PyObject

cimport cython

from rcmgr.counting._scope cimport rcmgr_amounts, rcmgr_limit
from rcmgr.counting.groups cimport KINDS, Group
from rcmgr.counting.pacing cimport Pacer

cdef object stat_of(const rcmgr_amounts *held)
cdef dict refused_by_kind(dict refusals)
cdef dict refused_by_direction(dict refusals)

cdef enum:
    MOST_ROWS = 1024
    MOST_BOUNDS = 64
    MOST_FIELDS = 8
    BLOCK_BYTES = 1 << 18
    FREED_AT_ONCE = 8  # blocks


ctypedef struct Row:
    rcmgr_amounts held
    rcmgr_limit limit
    PyObject *group


# Some groups of a ledger as they were at one moment.
@cython.final
cdef class Reading:
    cdef Row *rows
    cdef size_t count

    cdef void put(self, Group group) noexcept  # allocates nothing
    cdef void clear(self) noexcept  # outside of all locks


# Sees all groups, in one Reading after the other.
cdef class Reader:
    cdef Pacer pacer

    # Under the ledger's lock: whether `take` needs this group. It allocates nothing.
    cdef bint wants(self, Group group) noexcept
    cdef int take(self, Reading reading) except -1


ctypedef struct KeptRow:
    rcmgr_amounts held
    rcmgr_limit limit
    Py_ssize_t size  # bytes of the key
    bint is_text     # the key is no peer id


@cython.final
cdef class PeerRows:
    cdef list blocks  # bytearrays
    cdef Py_ssize_t count

    cdef int add(self, const Row *row, object peer) except -1
    cdef Py_ssize_t read(self, bytearray block, Py_ssize_t at, KeptRow *kept) except -1


@cython.final
cdef class SnapshotReader(Reader):
    cdef dict shown


@cython.final
cdef class StatsReader(Reader):
    cdef list stats


@cython.final
cdef class KeysReader(Reader):
    cdef int kind
    cdef list keys


@cython.final
cdef class DistributionReader(Reader):
    cdef tuple fields
    cdef Py_ssize_t count  # how many fields
    cdef int resources[MOST_FIELDS]
    cdef Py_ssize_t last[MOST_FIELDS]
    cdef int64_t upper[MOST_FIELDS][MOST_BOUNDS]
    cdef int64_t counts[MOST_FIELDS][MOST_BOUNDS + 1]
    cdef int64_t totals[MOST_FIELDS]

    cdef dict distributions(self)


@cython.final
cdef class FullestReader(Reader):
    cdef size_t most
    cdef double least  # a fuller limit belongs to the result
    cdef list found    # (share, group, resource, used, limit), the fullest first

    cdef list fullest(self)


# As FullestReader, under other limits than those of the ledger.
@cython.final
cdef class UnderReader(Reader):
    cdef FullestReader inner
    cdef rcmgr_limit defaults[KINDS]
    cdef list named  # by kind: limits of particular names, as GroupLimit


@cython.final
cdef class LargestReader(Reader):
    cdef size_t most, seen
    cdef list found

    cdef list largest(self)


cdef SnapshotReader new_snapshot()
cdef StatsReader new_stats()
cdef KeysReader new_keys(int kind)
cdef DistributionReader new_distributions(dict bounds)
cdef FullestReader new_fullest(size_t most)
cdef UnderReader new_under(const rcmgr_limit *defaults, list named, size_t most)
cdef LargestReader new_largest(size_t most)
