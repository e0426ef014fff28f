"""For our other compiled modules: note a decision for the record of a node.

A part that decides has an `EventRing`, or None while nothing is recorded. It notes what it has
decided, after it has decided it. Kinds and flags are those of event_columns.h.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from rcmgr.counting._event_ring cimport rcmgr_event_columns, rcmgr_event_ring


cdef class EventRing:
    cdef rcmgr_event_ring ring
    # The thread that drains the ring has these alone. Their key is constant.
    cdef rcmgr_event_columns columns
    cdef dict former_identities
    # The lock of the object guards the changes of these three. No name ever leaves, so that a
    # look-up needs no lock.
    cdef dict places     # name -> its place in `names`
    cdef readonly list names
    cdef dict identities  # hash of a peer in this process -> peer
    # constant
    cdef bint keeps_identities  # False: the record has hashes
    cdef object clock

    # An event about a peer or an address gets the flag for it. code: None: it was not refused.
    cdef void note(
        self, int kind, int flags, uint64_t number, object peer, object address, object name,
        object other, object code, int64_t value, int detail) noexcept
    cdef uint32_t place_of(self, object name) except? 0
