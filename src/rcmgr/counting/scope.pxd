"""For our other compiled modules: a ledger's methods without the cost of a Python call.

`ledger` is a Ledger, `scope` a ConnScope; TypeError otherwise. `network_share`: None, or an object
with a `close()`. The ConnScope holds it from then on, and closes it when it is closed itself. A
refusal or an exception leaves it to the caller. `passed`: None, or a list for the Refusal of a
limit that only reports: the connection is charged.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from rcmgr.counting.groups cimport Refusal

cdef object try_open_connection(
    object ledger, bint inbound, bint fd, bint exempt, bint reserved, object peer,
    object network_share, list passed)
# A decision about a peer follows soon: ask the processor for its place in the table, and later for
# its group. hashed: `groups.hash_of` its key.
cdef void expect_peer(object ledger, uint64_t hashed, bint slot_is_here) noexcept
cdef bint is_exempt(object scope) except -1
# The number of a connection's scope; 0: it is no ConnScope.
cdef uint64_t number_of(object scope) noexcept
# Give back the file descriptor of a connection that turns out to use no own one.
cdef int give_descriptor(object scope) except -1
cdef int close_connection(object scope) except -1  # as `ConnScope.close`
cdef object try_set_peer(
    object scope, object peer, bint exempt, object network_share, list passed)
cdef bint has_network_share(object scope) except -1
cdef object open_stream(object ledger, object peer, bint inbound, bint exempt)
cdef object acquire_stream(object ledger, object peer, bint inbound, bint exempt)
cdef bint release_stream(object ledger, object peer, bint inbound) except -1
cdef bint has_exempt_connection(object ledger, object peer) except -1
cdef int64_t inbound_streams_of(object ledger, object peer) except -1

# How many inbound streams the peer of a connection has begun, and how many of them are open. A peer
# has one count for all of its connections. 0: the peer is not known yet.
cdef uint32_t inbound_streams(object scope, int64_t *now_open) except? 0
# Whether the system, or what is transient, had too many connections. No other limit refused.
cdef bint is_full_of_connections(Refusal refusal) noexcept
cdef bint is_of_system(Refusal refusal) noexcept
# Why the transient scope, or the system's, would refuse one more handshake. It counts nothing.
# None: the scope would admit it.
cdef Refusal refusal_of_handshake(object ledger, bint inbound, bint of_system)
# Do not count a refusal after all, because the caller makes room.
cdef int uncount(object ledger, Refusal refusal) except -1
