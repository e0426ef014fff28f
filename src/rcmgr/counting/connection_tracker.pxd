"""For our other compiled modules: a tracker's methods without the cost of a Python call."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from rcmgr.counting._connection_counts cimport (
    RCMGR_CLOSED, RCMGR_ESTABLISHED_INBOUND, RCMGR_EXEMPT_BIT, RCMGR_PENDING_INBOUND,
    RCMGR_REPORTED_BIT, rcmgr_connection_back, rcmgr_connection_entry, rcmgr_entry_has,
    rcmgr_entry_state,
)


cdef class Denial:
    cdef int _kind
    cdef readonly int64_t current
    cdef readonly int64_t limit


cdef class ConnectionRecord:
    # The short lock of the record guards these objects and the ticket. `name` and `peer` are
    # written under the lock of the tracker too, so that they may be read under either.
    #
    # The id of the connection: the address of an object that it owns, or 2 * N + 1 for "conn-N".
    # Most connections of a manager are numbered, and no caller asks for the text of 64 bytes.
    cdef uint64_t name
    cdef object peer
    cdef object held
    # The links of a list: all pending connections, oldest first, or those of one peer. They own no
    # reference: the tracker's table owns each record, and a record outside it is in no list.
    cdef rcmgr_connection_back back
    # Only the lock of the tracker guards them.
    cdef PyObject *next
    # Written under the lock of the tracker, a whole word at once. So it may be read without.
    cdef rcmgr_connection_entry entry
    # for the watcher of the tracker
    cdef object endpoint  # the remote address of an inbound connection, as the caller gave it
    cdef uint64_t ticket  # 0: the watcher does not know it


cdef class ConnectionWatcher:
    """Is told, outside of the lock, that a connection with a ticket has ended."""

    cdef int ended(self, ConnectionRecord record) except -1


cdef inline int state_of(bint established, bint inbound) noexcept:
    return 2 * established + (not inbound)


cdef inline bint is_inbound(ConnectionRecord record) noexcept:
    """False after the end."""
    cdef int state = rcmgr_entry_state(&record.entry)
    return state == RCMGR_PENDING_INBOUND or state == RCMGR_ESTABLISHED_INBOUND


cdef inline bint is_pending(ConnectionRecord record) noexcept:
    return rcmgr_entry_state(&record.entry) < RCMGR_ESTABLISHED_INBOUND


cdef inline bint is_established(ConnectionRecord record) noexcept:
    return RCMGR_ESTABLISHED_INBOUND <= rcmgr_entry_state(&record.entry) < RCMGR_CLOSED


cdef inline bint is_exempt(ConnectionRecord record) noexcept:
    return rcmgr_entry_has(&record.entry, RCMGR_EXEMPT_BIT)


cdef inline bint is_reported(ConnectionRecord record) noexcept:
    return rcmgr_entry_has(&record.entry, RCMGR_REPORTED_BIT)


# The fields of a record, which another thread may change meanwhile.
cdef object id_of(ConnectionRecord record)
cdef object peer_of(ConnectionRecord record)
cdef object held_of(ConnectionRecord record)
cdef object endpoint_of(ConnectionRecord record)
# A ticket is given once, and only in the state that it is for. False: it has one, or has left that
# state.
cdef uint64_t ticket_of(ConnectionRecord record) noexcept
cdef uint64_t take_ticket(ConnectionRecord record) noexcept  # and take it away
cdef bint give_ticket(ConnectionRecord record, uint64_t ticket, bint established) noexcept
cdef void note_endpoint(ConnectionRecord record, object address) noexcept  # the first one stays


# `tracker` is a ConnectionTracker. The methods of these names have the documentation.

# As the method, for any state and peer. reported: the swarm knows the connection by this id.
# reserved: exempt if a limit on pending connections refuses.
# connection_id: UNNAMED: that of `known`, or if it is None, the next "conn-N".
# `repeated` becomes true if the connection was in this state already and this is no error. Then the
# answer is its record, and the caller still has `held`.
# passed: None, or a list for the Denial of a limit that only reports: the connection is admitted.
cdef object UNNAMED
# key: the key of the peer; None: it is read from the peer.
cdef object admit(
    object tracker, ConnectionRecord known, object connection_id, object peer_id, object key,
    int state, object limits, object held, bint exempt, bint reserved, bint reported,
    bint *repeated, list passed)
# As `scope.expect_peer`, for the peer's first connection.
cdef void expect_peer(object tracker, uint64_t hashed, bint slot_is_here) noexcept
cdef int64_t connections_of(object tracker, object key) except -1  # established ones of a peer key
# Let the limits of these codes refuse nothing. `admit` tells what they would refuse.
cdef int only_report(object tracker, object codes) except -1
# Pending connections in a direction that no limit counts.
cdef int64_t exempt_pending(object tracker, bint inbound) except -1
cdef object code_of(Denial denial)
# Whether a limit refused because of inbound connections that are there. False: another refusal.
cdef bint is_full_of_inbound(object refusal) noexcept
cdef ConnectionRecord find(object tracker, object connection_id)  # as `get_connection`
cdef dict exempt_peers(object tracker)  # the bypassed peers by peer key, not a copy
cdef bint holds(object tracker, ConnectionRecord record) except -1
cdef bint remove(object tracker, ConnectionRecord record, bint only_pending) except -1

# Held objects of this type end by a function, which costs less than a call of their `close`.
ctypedef int (*closer)(object held) except -1
cdef void close_by(object kind, closer function) noexcept

cdef int watch(object tracker, ConnectionWatcher watcher) except -1
# The connections that limits count, by state: RCMGR_STATES numbers.
cdef int read_counted(object tracker, int64_t *counted) except -1
cdef list established_inbound(object tracker)
