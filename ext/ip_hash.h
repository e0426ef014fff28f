/* Another IP address in place of one, by a secret key, so that networks stay networks.
 *
 * Two addresses with the same first n bits get addresses with the same first n bits, for each n from
 * 16 on. So limits on networks count the new addresses as they counted the old ones. (The method is
 * that of Crypto-PAn, by Xu, Fan, Ammar and Moon, with SipHash as its function.)
 *
 * Loopback stays as it is. A private network (10.0.0.0/8, fc00::/7, ...) stays that network, and only
 * the rest of its bits change. No other address becomes one of these. */
#ifndef RCMGR_IP_HASH_H
#define RCMGR_IP_HASH_H

#include "siphash.h"

#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t prefix[2];
    uint8_t bits; /* all addresses that begin with them are in the network */
    uint8_t kept; /* bits that stay; 255: all */
} rcmgr_kept_network;

/* The first bits that stay as they are: those of a loopback or private network. */
static inline int rcmgr_ip_kept_bits(const uint8_t *ip, int size)
{
    static const rcmgr_kept_network ipv4[] = {
        {{127, 0}, 8, 255}, {{10, 0}, 8, 8}, {{172, 16}, 12, 12}, {{192, 168}, 16, 16},
        {{169, 254}, 16, 16}, {{100, 64}, 10, 10},
    };
    static const rcmgr_kept_network ipv6[] = {{{0xfe, 0x80}, 10, 10}, {{0xfc, 0}, 7, 7}};
    static const uint8_t loopback[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    const rcmgr_kept_network *networks = size == 4 ? ipv4 : ipv6;
    int count = size == 4 ? (int)(sizeof(ipv4) / sizeof(*ipv4)) : (int)(sizeof(ipv6) / sizeof(*ipv6));
    if (size == 16 && memcmp(ip, loopback, 16) == 0)
        return 128;
    for (int i = 0; i < count; i++) {
        unsigned difference = (unsigned)((networks[i].prefix[0] ^ ip[0]) << 8 | (networks[i].prefix[1] ^ ip[1]));
        if (difference >> (16 - networks[i].bits) == 0)
            return networks[i].kept == 255 ? 8 * size : networks[i].kept;
    }
    return 0;
}

/* Flip each bit from number `first` on by a function of the bits before it. */
static inline void rcmgr_ip_flip(const rcmgr_sip_key *key, uint8_t *ip, int size, int first)
{
    uint8_t old[16], before[17];
    memset(old, 0, sizeof(old));
    memcpy(old, ip, (size_t)size);
    for (int bit = first; bit < 8 * size; bit++) {
        memset(before, 0, sizeof(before));
        memcpy(before, old, (size_t)(bit / 8));
        if (bit % 8)
            before[bit / 8] = (uint8_t)(old[bit / 8] & (0xff00 >> bit % 8));
        before[16] = (uint8_t)bit;
        if (rcmgr_siphash(key, before, sizeof(before)) & 1)
            ip[bit / 8] = (uint8_t)(ip[bit / 8] ^ (0x80 >> bit % 8));
    }
}

/* size: 4 or 16. About 1 us, and 3 us for IPv6. */
static inline void rcmgr_ip_hash(const rcmgr_sip_key *key, uint8_t *ip, int size)
{
    int kept = rcmgr_ip_kept_bits(ip, size);
    if (kept > 0) {
        rcmgr_ip_flip(key, ip, size, kept);
        return;
    }
    do {
        rcmgr_ip_flip(key, ip, size, 0);
    } while (rcmgr_ip_kept_bits(ip, size) > 0);
}

#endif
