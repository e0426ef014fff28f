from libc.stdint cimport uint8_t, uint32_t


cdef extern from "accept.h" nogil:
    enum:
        RCMGR_CAN_ACCEPT
        RCMGR_SILENT
        RCMGR_HUNG_UP
        RCMGR_LONGEST_IP

    ctypedef struct rcmgr_accepted:
        int fd
        int family
        int port
        uint32_t flow
        uint32_t scope
        uint8_t[16] ip

    int rcmgr_accept(int listener, rcmgr_accepted *to) noexcept
    void rcmgr_reset(int fd) noexcept
    void rcmgr_close(int fd) noexcept
    int rcmgr_first_byte(int fd) noexcept
    void rcmgr_ip_text(const rcmgr_accepted *, char *text) noexcept
