"""For our other compiled modules: a ledger's methods without the cost of a Python call.

`ledger` is a Ledger, `scope` a ConnScope; TypeError otherwise.
"""

cdef object exact_peer(object peer)
cdef object try_open_connection(
    object ledger, bint inbound, bint fd, bint allowlisted, object peer)
cdef object try_set_peer(object scope, object peer, bint allowlisted)
cdef object acquire_stream(object ledger, object peer, bint inbound, bint allowlisted)
cdef bint release_stream(object ledger, object peer, bint inbound) except -1
cdef bint has_allowlisted_connection(object ledger, object peer) except -1
