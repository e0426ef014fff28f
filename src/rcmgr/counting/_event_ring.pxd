from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "event_ring.h" nogil:
    ctypedef struct rcmgr_event:
        int64_t time_ns
        uint64_t number
        uint64_t peer
        int64_t value
        uint32_t name
        uint32_t other
        uint16_t code
        uint8_t kind
        uint8_t flags
        uint8_t detail
        uint8_t text_size

    ctypedef struct rcmgr_event_ring:
        rcmgr_event *slots
        uint64_t dropped

    void rcmgr_ring_start(rcmgr_event_ring *, rcmgr_event *slots, uint64_t size) noexcept
    rcmgr_event *rcmgr_ring_claim(rcmgr_event_ring *) noexcept
    void rcmgr_ring_publish(rcmgr_event *) noexcept
    uint64_t rcmgr_ring_load(uint64_t *) noexcept
    void rcmgr_event_note_address(rcmgr_event *, const char *text, size_t size) noexcept


cdef extern from "event_columns.h" nogil:
    enum:
        RCMGR_EV_BEGIN
        RCMGR_EV_ESTABLISH
        RCMGR_EV_REPORT
        RCMGR_EV_TAKE_OVER
        RCMGR_EV_ACQUIRE
        RCMGR_EV_CHARGE
        RCMGR_EV_SET_PEER
        RCMGR_EV_NO_FD
        RCMGR_EV_CLOSE
        RCMGR_EV_STREAM
        RCMGR_EV_PROTOCOL
        RCMGR_EV_SERVICE
        RCMGR_EV_CLOSE_STREAM
        RCMGR_EV_TAKE_STREAM
        RCMGR_EV_GIVE_STREAM
        RCMGR_EV_FORGET
        RCMGR_EV_FORGET_ALL
        RCMGR_EV_CONN_MEMORY
        RCMGR_EV_STREAM_MEMORY
        RCMGR_EV_MEMORY
        RCMGR_EV_GIVE_CONN_MEMORY
        RCMGR_EV_GIVE_STREAM_MEMORY
        RCMGR_EV_GIVE_MEMORY
        RCMGR_EV_PROCESS
        RCMGR_EV_RATE
        RCMGR_EV_OFFENCE
        RCMGR_EV_BAN
        RCMGR_EV_UNBAN
        RCMGR_EV_EVICT
        RCMGR_EV_SETTINGS
        RCMGR_EV_KINDS
        RCMGR_EV_INBOUND
        RCMGR_EV_EXEMPT
        RCMGR_EV_REFUSED
        RCMGR_EV_HAS_PEER
        RCMGR_EV_HAS_ADDRESS
        RCMGR_EV_KNOWN
        RCMGR_EV_FD
        RCMGR_EV_BY_BOX
        RCMGR_COLUMNS
        RCMGR_COL_SECRETS

    ctypedef struct rcmgr_sip_key:
        uint64_t k0
        uint64_t k1

    ctypedef struct rcmgr_column:
        unsigned char *bytes
        size_t size

    ctypedef struct rcmgr_event_columns:
        rcmgr_column columns[14]
        rcmgr_sip_key key
        bint keeps_ips
        bint failed
        int64_t begin_ns
        int64_t last_ns
        uint64_t first_number[2]
        uint64_t events

    uint64_t rcmgr_drain(rcmgr_event_ring *, rcmgr_event_columns *, uint64_t most) noexcept
    int rcmgr_event_needs(int kind) noexcept
    void rcmgr_columns_clear(rcmgr_event_columns *) noexcept
    void rcmgr_columns_forget(rcmgr_event_columns *) noexcept
    void rcmgr_columns_free(rcmgr_event_columns *) noexcept
    void rcmgr_ip_hash(const rcmgr_sip_key *, uint8_t *ip, int size) noexcept
    uint64_t rcmgr_siphash(const rcmgr_sip_key *, const void *data, size_t size) noexcept
