"""For our other compiled modules: note a decision for the record of a node.

A part that decides has an `EventRing`, or None while nothing is recorded. It notes what it has
decided, after it has decided it. Kinds and flags are those of event_columns.h.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from rcmgr.counting._event_ring cimport rcmgr_event_columns, rcmgr_event_ring


cdef class EventRing:
    cdef rcmgr_event_ring ring
    cdef rcmgr_event_columns columns  # the thread that drains the ring has them alone
    cdef dict places     # name -> its place in `names`; the lock of the object guards both
    cdef readonly list names
    # hash of a peer in this process -> peer; None: the record has hashes
    cdef dict identities, former_identities
    cdef object clock

    # An event about a peer or an address gets the flag for it. code: None: it was not refused.
    cdef void note(
        self, int kind, int flags, uint64_t number, object peer, object address, object name,
        object other, object code, int64_t value, int detail) noexcept
    cdef uint32_t place_of(self, object name) except? 0
