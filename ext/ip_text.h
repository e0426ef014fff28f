/* An IP address from its text, as inet_pton reads it: 4 or 16 bytes, or nothing.
 *
 * An IPv4 address that is mapped into IPv6 (::ffff:1.2.3.4) becomes that IPv4 address. It does
 * not call inet_pton, which wants a terminated text, and another library on Windows. */
#ifndef RCMGR_IP_TEXT_H
#define RCMGR_IP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Four numbers of 0 to 255 without leading zeros. */
static inline bool rcmgr_parse_ipv4(const char *text, size_t size, uint8_t ip[4])
{
    size_t at = 0;
    for (int part = 0; part < 4; part++) {
        unsigned value = 0;
        size_t begin = at;
        while (at < size && at - begin < 3 && text[at] >= '0' && text[at] <= '9')
            value = value * 10 + (unsigned)(text[at++] - '0');
        if (at == begin || value > 255 || (text[begin] == '0' && at - begin > 1))
            return false;
        ip[part] = (uint8_t)value;
        if (part < 3 && (at == size || text[at++] != '.'))
            return false;
    }
    return at == size;
}

static inline int rcmgr_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Groups of up to four hexadecimal digits; one "::" stands for the missing ones. */
static inline bool rcmgr_parse_ipv6(const char *text, size_t size, uint8_t ip[16])
{
    uint8_t parsed[16] = {0};
    size_t filled = 0, at = 0;
    int gap = -1; /* how many bytes are before "::" */
    if (size >= 2 && text[0] == ':' && text[1] == ':') {
        gap = 0;
        at = 2;
    }
    while (at < size) {
        size_t begin = at;
        unsigned value = 0;
        if (filled >= 16)
            return false;
        while (at < size && at - begin < 4 && rcmgr_hex_digit(text[at]) >= 0)
            value = value * 16 + (unsigned)rcmgr_hex_digit(text[at++]);
        if (at == begin)
            return false;
        if (at < size && text[at] == '.') {
            if (filled > 12 || !rcmgr_parse_ipv4(text + begin, size - begin, parsed + filled))
                return false;
            filled += 4;
            break;
        }
        parsed[filled++] = (uint8_t)(value >> 8);
        parsed[filled++] = (uint8_t)(value & 255);
        if (at == size)
            break;
        if (text[at++] != ':' || at == size)
            return false;
        if (text[at] == ':') {
            if (gap >= 0)
                return false;
            gap = (int)filled;
            at++;
        }
    }
    if (gap < 0 ? filled != 16 : filled > 14)
        return false;
    memset(ip, 0, 16);
    if (gap < 0) {
        memcpy(ip, parsed, 16);
    } else {
        memcpy(ip, parsed, (size_t)gap);
        memcpy(ip + 16 - (filled - (size_t)gap), parsed + gap, filled - (size_t)gap);
    }
    return true;
}

/* The bytes of an IP address: 4, 16, or 0 if the text is no address, or all zeros. */
static inline int rcmgr_parse_ip(const char *text, size_t size, uint8_t ip[16])
{
    static const uint8_t nothing[16], mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255};
    if (rcmgr_parse_ipv4(text, size, ip))
        return memcmp(ip, nothing, 4) == 0 ? 0 : 4;
    if (!rcmgr_parse_ipv6(text, size, ip))
        return 0;
    if (memcmp(ip, mapped, 12) == 0) {
        memmove(ip, ip + 12, 4);
        return memcmp(ip, nothing, 4) == 0 ? 0 : 4;
    }
    return memcmp(ip, nothing, 16) == 0 ? 0 : 16;
}

#endif
