from libc.stdint cimport int64_t


cdef class DenialLog:
    cdef list _ring
    cdef Py_ssize_t _size, _at
    cdef dict _by_peer
    cdef readonly int64_t total
    cdef readonly int64_t inbound
    cdef readonly int64_t outbound
    cdef public object penalties
    """A Penalties, which charges each inbound denial; None: no penalty box."""

    cpdef add(self, refusal, connection_id=*, peer_id=*, inbound=*, address=*)
    cdef int count(self, object peer) except -1
    cdef list latest(self)
