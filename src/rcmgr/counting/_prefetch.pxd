cdef extern from "prefetch.h" nogil:
    void rcmgr_prefetch(const void *) noexcept
    void rcmgr_prefetch_object(const void *) noexcept
