"""For our other compiled modules: a ledger's methods without the cost of a Python call.

`ledger` is a Ledger, `scope` a ConnScope; TypeError otherwise. `network_share`: None, or something
with a `close()` that the ConnScope holds from then on and closes when it is closed. A refusal, or an
exception, leaves it to the caller.
"""

cdef object exact_peer(object peer)
cdef object try_open_connection(
    object ledger, bint inbound, bint fd, bint allowlisted, object peer, object network_share)
cdef object try_set_peer(object scope, object peer, bint allowlisted, object network_share)
cdef bint has_network_share(object scope) except -1
cdef object acquire_stream(object ledger, object peer, bint inbound, bint allowlisted)
cdef bint release_stream(object ledger, object peer, bint inbound) except -1
cdef bint has_allowlisted_connection(object ledger, object peer) except -1
