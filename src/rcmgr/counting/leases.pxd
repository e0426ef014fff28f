"""For our other compiled modules: the limits of a fleet, as far as this node may spend them."""

cimport cython
from libc.stdint cimport int64_t


@cython.final
@cython.no_gc
cdef class _Lease:
    # The lock of its table guards it.
    cdef object key
    cdef int64_t tokens   # that may be spent
    cdef int64_t low      # with so few of them, the node asks for more
    cdef int64_t spent    # since the engine was asked
    cdef int64_t owed     # granted in advance, unknown to the engine
    cdef int64_t lacking  # the largest request that was denied since then
    cdef int64_t used_ns
    cdef int64_t full_ns  # when the engine's bucket will be full
    cdef bint is_queued
    cdef bint is_asked    # between `collect` and `settle`


@cython.final
cdef class LeaseTable:
    # The lock of the object guards everything that changes. The rate, `_advance_of`, the size and
    # the callbacks are constant.
    cdef int64_t _capacity
    cdef int64_t _cost_ns   # the time of a token
    cdef object _refill_rate
    cdef int64_t _nodes
    cdef int64_t _advance   # tokens that the node grants a key before the engine knows
    cdef int64_t _half      # keys after which the older half goes
    cdef bint _is_lost
    cdef bint _refuses      # while it is lost
    cdef dict _young        # key -> _Lease, the recent half
    cdef dict _old
    cdef dict _dying        # leases to free, a few at a time
    cdef list _hungry       # keys that were denied,
    cdef list _queued       # and the others that the engine should know
    cdef list _unswept
    cdef int64_t _seen_ns   # the time of the latest `collect`
    cdef object _local      # the BucketTable of the node's share, once the engine was lost
    cdef int64_t _local_nodes
    cdef object _clock
    cdef object _wake
    cdef readonly int64_t allowed
    """Requests granted."""
    cdef readonly int64_t denied
    """Requests denied."""

    cdef bint take(self, object key, int64_t amount) except -1
    cdef _Lease known(self, object key)
    cdef bint grants_advance(self, _Lease lease, int64_t amount, bint *wake) except -1
    cdef bint denies(self, _Lease lease, int64_t amount) except -1
    cdef bint queue(self, _Lease lease, list queue) except -1
    cdef bint take_share(self, object key, int64_t amount) except -1
    cdef object local(self)
    cdef object find(self, object key)
    cdef object entry(self, _Lease lease)
    cdef int sweep(self, list found, Py_ssize_t most) except -1
    cdef int64_t now(self) except? -1


@cython.final
@cython.no_gc
cdef class _Place:
    # The lock of its table guards it.
    cdef object key
    cdef int64_t told      # on this node, when the engine was told
    cdef int64_t free      # places that were left then in the fleet
    cdef int64_t told_ns   # when
    cdef int64_t next_ns   # a full key asks again then
    cdef bint is_queued
    cdef bint is_asked


@cython.final
cdef class PlaceTable:
    # The lock of the object guards everything that changes. The rest is constant.
    cdef int64_t _limit
    cdef int64_t _nodes
    cdef int64_t _advance   # places that the node gives a key before the engine knows
    cdef int64_t _most
    cdef bint _is_lost
    cdef bint _refuses
    cdef dict _places       # key -> _Place
    cdef list _hungry
    cdef list _queued
    cdef list _unswept
    cdef object _clock
    cdef object _wake
    cdef readonly int64_t denied
    """Requests denied."""

    cdef bint admits(self, object key, int64_t held) except -1
    cdef _Place new(self, object key)
    cdef bint queue(self, _Place place, list queue) except -1
    cdef int64_t now(self) except? -1


@cython.final
cdef class FleetGate:
    # constant
    cdef readonly LeaseTable rate
    cdef readonly LeaseTable peer_rate
    cdef readonly PlaceTable peer_connections
    cdef readonly PlaceTable peer_streams
    cdef readonly object refusals
    """The refusal of each limit, by the name of the attribute that has its table."""
