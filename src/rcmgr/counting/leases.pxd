"""For our other compiled modules: the limits of a fleet, as far as this node may spend them."""

cimport cython
from libc.stdint cimport int64_t


@cython.no_gc
cdef class _Entry:
    # The lock of its table guards everything but the key, which is constant.
    cdef object key
    cdef bint is_queued
    cdef bint is_asked    # between `collect` and `settle`


cdef class FleetTable:
    # The lock of the object guards everything that changes, in the tables below too. The limit,
    # `_refuses` and the callbacks are constant.
    cdef int64_t _limit     # a key has it on all nodes together
    cdef int64_t _nodes
    cdef int64_t _advance   # the node grants it to a key before the engine knows
    cdef bint _is_lost
    cdef bint _refuses      # while it is lost
    cdef list _hungry       # entries of keys that were denied,
    cdef list _queued       # and the others that the engine should know
    cdef list _unswept
    cdef object _clock
    cdef object _wake
    cdef readonly int64_t denied
    """Requests denied."""

    cdef int begin(
        self, int64_t limit, object max_keys, object nodes, object on_loss, object clock,
        object wake) except -1
    cdef bint queue(self, _Entry entry, list queue) except -1
    cdef list dequeue(self, Py_ssize_t most)
    cdef int64_t now(self) except? -1


@cython.final
@cython.no_gc
cdef class _Lease(_Entry):
    cdef int64_t tokens   # that may be spent
    cdef int64_t low      # with so few of them, the node asks for more
    cdef int64_t spent    # since the engine was asked
    cdef int64_t owed     # granted in advance, unknown to the engine
    cdef int64_t lacking  # the largest request that was denied since then
    cdef int64_t used_ns
    cdef int64_t full_ns  # when the engine's bucket will be full


@cython.final
cdef class LeaseTable(FleetTable):
    # The rate and `_half` are constant.
    cdef int64_t _cost_ns   # the time of a token
    cdef object _refill_rate
    cdef int64_t _half      # keys after which the older half goes
    cdef dict _young        # key -> _Lease, the recent half
    cdef dict _old
    cdef _Lease _recent     # the last one asked for, which is in the recent half; or None
    cdef dict _dying        # leases to free, a few at a time
    cdef int64_t _seen_ns   # the time of the latest `collect`
    cdef object _local      # the BucketTable of the node's share, once the engine was lost
    cdef int64_t _local_nodes
    cdef readonly int64_t allowed
    """Requests granted."""

    cdef bint take(self, object key, int64_t amount) except -1
    cdef _Lease known(self, object key)
    cdef bint grants_advance(self, _Lease lease, int64_t amount, bint *wake) except -1
    cdef bint denies(self, _Lease lease, int64_t amount) except -1
    cdef bint take_share(self, object key, int64_t amount) except -1
    cdef object local(self)
    cdef object find(self, object key)
    cdef object news(self, _Lease lease)
    cdef int sweep(self, list found, Py_ssize_t most) except -1


@cython.final
@cython.no_gc
cdef class _Place(_Entry):
    cdef int64_t told      # on this node, when the engine was told
    cdef int64_t free      # places that were left then in the fleet
    cdef int64_t told_ns   # when
    cdef int64_t next_ns   # a full key asks again then


@cython.final
cdef class PlaceTable(FleetTable):
    cdef int64_t _most      # keys; constant
    cdef dict _places       # key -> _Place
    cdef _Place _recent     # the last one asked for; or None

    cdef bint admits(self, object key, int64_t held) except -1
    cdef _Place new(self, object key)


@cython.final
cdef class FleetGate:
    # constant
    cdef readonly LeaseTable rate
    cdef readonly LeaseTable peer_rate
    cdef readonly PlaceTable peer_connections
    cdef readonly PlaceTable peer_streams
    cdef readonly object refusals
    """The refusal of each limit, by the name of the attribute that has its table."""
