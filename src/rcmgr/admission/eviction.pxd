"""For our other compiled modules: the policy's methods without the cost of a Python call."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from rcmgr.admission._eviction cimport (
    SeatPool, rcmgr_eviction, rcmgr_handshake, rcmgr_netgroup, rcmgr_pending_shares, rcmgr_seat,
    rcmgr_sip_key,
)
from rcmgr.counting._pointer_table cimport rcmgr_table


cdef tuple OUTCOMES  # the keys of "choices" in `EvictionPolicy.stats`


# The lock of the object guards everything below but `_key` and `_clock`, which are constant.
cdef class _Seats:
    cdef SeatPool _pool
    cdef rcmgr_table _groups
    cdef rcmgr_sip_key _key
    cdef object _clock

    cdef rcmgr_netgroup *group_of(self, uint64_t hash) noexcept
    cdef rcmgr_netgroup *group_for(self, uint64_t hash) except NULL
    cdef object give_back(self, rcmgr_seat *seat)
    cdef object take_out(self, rcmgr_seat *seat)
    cdef bint drop(self, uint64_t ticket) except -1  # as `remove`


cdef class EvictionPolicy(_Seats):
    cdef rcmgr_eviction _rules
    cdef int64_t _per_second  # 0: by the places
    cdef uint64_t _evicted
    cdef uint64_t[7] _choices

    cdef void _fit_rate(self) noexcept
    cdef uint32_t _places_now(self) noexcept
    cdef bint _found(self, uint64_t hash, int64_t now) noexcept


cdef class PendingShares(_Seats):
    cdef rcmgr_pending_shares _shares
    cdef rcmgr_table _addresses
    cdef uint32_t _count


# See the methods with these names. `hash` is the keyed hash of a group.

cdef object add(EvictionPolicy self, object owner, uint64_t hash, int64_t now)
cdef bint note_work(EvictionPolicy self, uint64_t ticket, double units, int64_t now) noexcept
cdef object choose(EvictionPolicy self, uint64_t hash, int64_t now, bint counted)
cdef object choose_for(EvictionPolicy self, object group)  # as `choose`
cdef int64_t handshake_delay(EvictionPolicy self, object group) except -1  # in ns
# The work of all streams that a connection has begun so far. A stream that is open after the
# grace proves it too. False: this is nothing new.
cdef bint note_streams(
    EvictionPolicy self, uint64_t ticket, uint32_t begun, bint has_open, int64_t now) noexcept
cdef list on_probation(EvictionPolicy self)
