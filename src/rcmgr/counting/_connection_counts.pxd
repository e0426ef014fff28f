from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "connection_counts.h" nogil:
    enum:
        RCMGR_PENDING_INBOUND
        RCMGR_PENDING_OUTBOUND
        RCMGR_ESTABLISHED_INBOUND
        RCMGR_ESTABLISHED_OUTBOUND
        RCMGR_STATES
        RCMGR_CLOSED
        RCMGR_PER_PEER
        RCMGR_ESTABLISHED_TOTAL
        RCMGR_CONNECTIONS
        RCMGR_LIMITS
        RCMGR_ADMITTED
        RCMGR_PEAK_PENDING_TOTAL
        RCMGR_EXEMPT_BIT
        RCMGR_REPORTED_BIT
        RCMGR_FIRST_BIT
    const int64_t RCMGR_NO_LIMIT

    ctypedef struct rcmgr_connection_limits:
        int64_t[7] at

    ctypedef struct rcmgr_connection_counts:
        int64_t[4] present
        int64_t[4] counted
        int64_t[8] peak
        int64_t[7] denied
        int64_t[4] entered
        int64_t created
        int64_t closed

    ctypedef struct rcmgr_connection_entry:
        uint64_t word

    ctypedef struct rcmgr_peer_counts:
        uint32_t present
        uint32_t counted

    ctypedef union rcmgr_connection_back:
        void *previous
        rcmgr_peer_counts of_peer

    int rcmgr_entry_state(const rcmgr_connection_entry *) noexcept
    bint rcmgr_entry_has(const rcmgr_connection_entry *, int bit) noexcept
    void rcmgr_entry_set(rcmgr_connection_entry *, int bit, bint on) noexcept
    void rcmgr_close_entry(rcmgr_connection_entry *) noexcept
    int64_t rcmgr_since_ns(const rcmgr_connection_entry *) noexcept
    void rcmgr_enter_state(
        rcmgr_connection_entry *, int state, bint exempt, int64_t now_ns) noexcept

    int64_t rcmgr_counted_pending(const rcmgr_connection_counts *) noexcept
    int64_t rcmgr_counted_established(const rcmgr_connection_counts *) noexcept
    int64_t rcmgr_counted(const rcmgr_connection_counts *, int limit, int64_t of_peer) noexcept
    int rcmgr_refusing_limit(
        const rcmgr_connection_counts *, const rcmgr_connection_limits *,
        int state, int64_t of_peer, bint counted_already) noexcept
    void rcmgr_raise_peak(int64_t *peak, int64_t value) noexcept
    void rcmgr_enter(rcmgr_connection_counts *, int state, bint exempt) noexcept
    void rcmgr_leave(rcmgr_connection_counts *, int state, bint exempt) noexcept
