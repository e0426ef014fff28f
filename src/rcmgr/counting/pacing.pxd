from libc.stdint cimport int64_t


# Lets other threads run while a call works for long. Make one when the work begins, and call `step`
# between two pieces of it, outside of all locks.
cdef class Pacer:
    cdef readonly int64_t pauses
    """How often it let others run."""

    cpdef int step(self) except -1
