from libc.stdint cimport uint64_t


cdef extern from "shared_words.h" nogil:
    uint64_t rcmgr_read_word(const uint64_t *) noexcept
    void rcmgr_write_word(uint64_t *, uint64_t value) noexcept
    void rcmgr_lock_shortly(const void *object) noexcept
    void rcmgr_unlock_shortly(const void *object) noexcept
