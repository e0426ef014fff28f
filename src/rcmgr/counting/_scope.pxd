from libc.stdint cimport int64_t, uint32_t


cdef extern from "scope.h" nogil:
    enum:
        RCMGR_MEMORY
        RCMGR_STREAMS_INBOUND
        RCMGR_STREAMS_OUTBOUND
        RCMGR_CONNS_INBOUND
        RCMGR_CONNS_OUTBOUND
        RCMGR_FD
        RCMGR_AMOUNTS
        RCMGR_STREAMS
        RCMGR_CONNS
        RCMGR_RESOURCES
        RCMGR_PRIORITY_ALWAYS
    const int64_t RCMGR_UNLIMITED

    ctypedef struct rcmgr_amounts:
        int64_t[6] of

    ctypedef struct rcmgr_limit:
        int64_t[8] of

    ctypedef struct rcmgr_scope:
        const rcmgr_limit *limit
        int64_t memory

    ctypedef struct rcmgr_refusal:
        int resource
        int place
        int64_t held
        int64_t asked
        int64_t limit

    int rcmgr_kind_of(const rcmgr_scope *) noexcept
    void rcmgr_set_kind(rcmgr_scope *, int kind) noexcept
    uint32_t rcmgr_pins_of(const rcmgr_scope *) noexcept
    void rcmgr_pin(rcmgr_scope *) noexcept
    void rcmgr_unpin(rcmgr_scope *) noexcept
    int64_t rcmgr_held(const rcmgr_scope *, int what) noexcept
    rcmgr_amounts rcmgr_all_held(const rcmgr_scope *) noexcept
    void rcmgr_hold_nothing(rcmgr_scope *) noexcept
    bint rcmgr_scope_refuses(const rcmgr_scope *, const rcmgr_amounts *ask, int priority,
                             rcmgr_refusal *why) noexcept
    bint rcmgr_chain_admits(rcmgr_scope **chain, int count, const rcmgr_amounts *ask,
                            int priority, rcmgr_refusal *why) noexcept
    bint rcmgr_is_nothing(const rcmgr_amounts *) noexcept
    bint rcmgr_charge(rcmgr_scope **chain, int count, const rcmgr_amounts *ask,
                      int priority, rcmgr_refusal *why) noexcept
    void rcmgr_add(rcmgr_scope *to, const rcmgr_amounts *what) noexcept
    void rcmgr_give_back(rcmgr_scope **chain, int count, const rcmgr_amounts *what) noexcept
