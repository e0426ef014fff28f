from libc.stdint cimport int64_t, uint16_t, uint32_t


cdef extern from "gcra.h" nogil:
    const int64_t RCMGR_GCRA_MAX_SCALE
    const int64_t RCMGR_GCRA_MAX_DEPTH
    const int64_t RCMGR_GCRA_MAX_NOW

    ctypedef struct rcmgr_gcra:
        int64_t capacity
        int64_t cost
        int64_t depth
        int64_t scale

    ctypedef struct rcmgr_gcra_time:
        int64_t full_ns
        uint32_t ticks

    int64_t rcmgr_gcra_debt(const rcmgr_gcra *, rcmgr_gcra_time, int64_t now) noexcept
    rcmgr_gcra_time rcmgr_gcra_full_after(const rcmgr_gcra *, int64_t debt, int64_t now) noexcept
    int64_t rcmgr_gcra_available(const rcmgr_gcra *, int64_t debt) noexcept
    bint rcmgr_gcra_allows(const rcmgr_gcra *, int64_t debt, int64_t tokens) noexcept
    int64_t rcmgr_gcra_wait_ns(const rcmgr_gcra *, int64_t debt, int64_t tokens) noexcept
    int64_t rcmgr_gcra_moved(const rcmgr_gcra *, int64_t debt, const rcmgr_gcra *) noexcept


cdef extern from "bucket_table.h" nogil:
    const int RCMGR_BUCKET_MAX_SCALE
    const int RCMGR_BUCKET_MIN_SLOTS

    ctypedef struct rcmgr_bucket:
        uint32_t tag
        uint16_t ticks
        uint16_t denials
        void *key
        int64_t full_ns

    ctypedef struct rcmgr_shard:
        rcmgr_bucket *slots
        uint32_t count
        uint32_t used
        uint32_t hand

    uint32_t rcmgr_shard_home(const rcmgr_shard *, uint32_t tag) noexcept
    uint32_t rcmgr_shard_after(const rcmgr_shard *, uint32_t at) noexcept
    bint rcmgr_shard_match(const rcmgr_shard *, uint32_t tag, uint32_t *at) noexcept
    rcmgr_gcra_time rcmgr_bucket_time(const rcmgr_bucket *) noexcept
    void rcmgr_bucket_set(rcmgr_bucket *, rcmgr_gcra_time) noexcept
    void rcmgr_bucket_count_denial(rcmgr_bucket *) noexcept
    uint32_t rcmgr_shard_wanted_slots(const rcmgr_shard *) noexcept
    void rcmgr_shard_put(rcmgr_shard *, uint32_t at, uint32_t tag, void *key) noexcept
    void *rcmgr_shard_remove(rcmgr_shard *, uint32_t at) noexcept
    rcmgr_bucket *rcmgr_shard_move(rcmgr_shard *, rcmgr_bucket *slots, uint32_t count) noexcept
    int64_t rcmgr_shard_find_full(rcmgr_shard *, int64_t now, uint32_t steps) noexcept
    int64_t rcmgr_shard_find_fullest(rcmgr_shard *, uint32_t among) noexcept
