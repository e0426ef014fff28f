from libc.stdint cimport int64_t, uint64_t


cdef extern from "pointer_table.h" nogil:
    ctypedef struct rcmgr_slot:
        uint64_t hash
        void *item

    ctypedef struct rcmgr_table:
        rcmgr_slot *slots
        size_t mask
        size_t used
        uint64_t changes
        unsigned shift

    uint64_t rcmgr_table_mix(int64_t hash) noexcept
    size_t rcmgr_table_home(const rcmgr_table *, uint64_t hash) noexcept
    size_t rcmgr_table_after(const rcmgr_table *, size_t at) noexcept
    bint rcmgr_table_match(const rcmgr_table *, uint64_t hash, size_t *at) noexcept
    void rcmgr_table_put(rcmgr_table *, size_t at, uint64_t hash, void *item) noexcept
    void rcmgr_table_remove(rcmgr_table *, size_t at) noexcept
    size_t rcmgr_table_wanted_slots(const rcmgr_table *) noexcept
    rcmgr_slot *rcmgr_table_move(rcmgr_table *, rcmgr_slot *slots, size_t count) noexcept
