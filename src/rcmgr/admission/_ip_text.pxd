from libc.stdint cimport uint8_t


cdef extern from "ip_text.h" nogil:
    int rcmgr_parse_ip(const char *text, size_t size, uint8_t *ip) noexcept
