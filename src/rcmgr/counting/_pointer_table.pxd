from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t, uint64_t


cdef extern from "pointer_table.h" nogil:
    ctypedef struct rcmgr_slot:
        pass

    ctypedef struct rcmgr_table:
        rcmgr_slot *slots
        size_t count
        size_t used
        uint64_t changes

    uint64_t rcmgr_table_mix(int64_t hash) noexcept
    void *rcmgr_table_item(const rcmgr_table *, size_t at) noexcept
    void rcmgr_table_set_item(rcmgr_table *, size_t at, void *item) noexcept
    size_t rcmgr_table_home(const rcmgr_table *, uint64_t hash) noexcept
    size_t rcmgr_table_after(const rcmgr_table *, size_t at) noexcept
    bint rcmgr_table_match(const rcmgr_table *, uint64_t hash, size_t *at) noexcept
    void rcmgr_table_expect(const rcmgr_table *, uint64_t hash) noexcept
    void rcmgr_table_expect_item(const rcmgr_table *, uint64_t hash) noexcept
    void rcmgr_table_put(rcmgr_table *, size_t at, uint64_t hash, void *item) noexcept
    void rcmgr_table_remove(rcmgr_table *, size_t at) noexcept
    enum:
        RCMGR_TABLE_NO_ROOM
    const uint64_t RCMGR_TABLE_END
    int64_t rcmgr_table_walk(
        const rcmgr_table *, uint64_t *at, size_t slots, void **found, size_t room) noexcept
    size_t rcmgr_table_wanted_slots(const rcmgr_table *) noexcept
    rcmgr_slot *rcmgr_table_move(rcmgr_table *, rcmgr_slot *slots, size_t count) noexcept


cdef inline bint table_fit(rcmgr_table *table) noexcept:
    """Have room for one more item, and not much spare room. False: no memory is left."""
    cdef size_t wanted = rcmgr_table_wanted_slots(table)
    cdef rcmgr_slot *slots
    if table.slots is not NULL and wanted == table.count:
        return True
    slots = <rcmgr_slot *>PyMem_RawCalloc(wanted, sizeof(rcmgr_slot))
    if slots is not NULL:
        PyMem_RawFree(rcmgr_table_move(table, slots, wanted))
        return True
    return table.slots is not NULL and wanted <= table.count
