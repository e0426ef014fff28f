"""For our other compiled modules: a tracker's methods without the cost of a Python call."""

from cpython.object cimport PyObject

from rcmgr.counting._connection_counts cimport (
    RCMGR_CLOSED, RCMGR_ESTABLISHED_INBOUND, RCMGR_PENDING_INBOUND, rcmgr_connection_back,
    rcmgr_connection_entry,
)


cdef class ConnectionRecord:
    cdef object id
    cdef object peer
    cdef readonly object held
    """What the connection holds elsewhere; closed when the connection ends. None: nothing."""
    # Links of the list the record is in: all pending ones, oldest first, or those of one peer.
    # Not owned: the tracker's table owns every record in it, and only linked records are in it.
    cdef rcmgr_connection_back back
    cdef PyObject *next
    cdef rcmgr_connection_entry entry


cdef inline int state_of(bint established, bint inbound) noexcept:
    return 2 * established + (not inbound)


cdef inline bint is_inbound(ConnectionRecord record) noexcept:
    """False after the end."""
    return record.entry.state in (RCMGR_PENDING_INBOUND, RCMGR_ESTABLISHED_INBOUND)


cdef inline bint is_pending(ConnectionRecord record) noexcept:
    return record.entry.state < RCMGR_ESTABLISHED_INBOUND


cdef inline bint is_established(ConnectionRecord record) noexcept:
    return RCMGR_ESTABLISHED_INBOUND <= record.entry.state < RCMGR_CLOSED


# `tracker` is a ConnectionTracker; the methods of these names say the rest

# As the method, for any state and peer. reported: the swarm knows the connection by this id.
# `repeated` becomes true if the connection was in this state already, and this is no error: then
# the answer is its record, and `held` is still the caller's.
cdef object admit(
    object tracker, object connection_id, object peer_id, int state, object limits, object held,
    bint exempt, bint reported, bint *repeated)
cdef ConnectionRecord find(object tracker, object connection_id)  # as `get_connection`
cdef dict exempt_peers(object tracker)  # the bypassed peers, by peer key; the very dict
cdef bint holds(object tracker, ConnectionRecord record) except -1
cdef bint remove(object tracker, ConnectionRecord record, bint only_pending) except -1
