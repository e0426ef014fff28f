from libc.stdint cimport int64_t


cdef extern from "clock.h" nogil:
    int64_t rcmgr_now_ns() noexcept
    int64_t rcmgr_now_coarse_ns() noexcept
