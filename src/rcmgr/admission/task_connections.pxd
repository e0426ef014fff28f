from rcmgr.counting.connection_tracker cimport ConnectionRecord


cdef class TaskConnections:
    cdef object context    # weak, as the context leads to this object
    # the connections whose handshakes this task has begun
    cdef ConnectionRecord latest
    cdef list earlier      # those before it, the latest last
    cdef Py_ssize_t room   # how many of these to keep before the ended ones are dropped
    cdef ConnectionRecord established  # the latest that only its scope, or only a report, knows

    cdef int add_pending(self, ConnectionRecord record) except -1
    cdef ConnectionRecord latest_pending(self, object tracker, bint inbound)
    cdef ConnectionRecord earlier_pending(self, object tracker)
    cdef ConnectionRecord take_established(
        self, object tracker, object peer, bint inbound, bint reported)
    cdef int drop_ended(self) except -1


cdef TaskConnections of_this_task()           # None: it has no object yet
cdef TaskConnections created_for_this_task()  # those it has, or new ones
