cdef extern from "nap.h" nogil:
    void rcmgr_nap() noexcept
