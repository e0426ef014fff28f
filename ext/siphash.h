/* SipHash-1-3: a 64-bit hash with a secret key of 128 bits.
 *
 * Without the key an attacker cannot choose inputs that collide. He also cannot tell which of two
 * inputs has the greater hash. CPython hashes bytes with this function from 3.11 on.
 * Specification: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).
 *
 * No allocation, no system call, no state. About 10 ns for an address. */
#ifndef RCMGR_SIPHASH_H
#define RCMGR_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t k0, k1;
} rcmgr_sip_key;

static inline uint64_t rcmgr_sip_rotate(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static inline uint64_t rcmgr_sip_word(const unsigned char *bytes, size_t count)
{
    uint64_t word = 0;
    for (size_t i = 0; i < count; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

static inline void rcmgr_sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rcmgr_sip_rotate(v[1], 13) ^ v[0];
    v[3] = rcmgr_sip_rotate(v[3], 16) ^ v[2];
    v[0] = rcmgr_sip_rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rcmgr_sip_rotate(v[1], 17) ^ v[2];
    v[3] = rcmgr_sip_rotate(v[3], 21) ^ v[0];
    v[2] = rcmgr_sip_rotate(v[2], 32);
}

static inline void rcmgr_sip_absorb(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    rcmgr_sip_round(v);
    v[0] ^= word;
}

static inline uint64_t rcmgr_siphash(const rcmgr_sip_key *key, const void *data, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)data;
    uint64_t v[4] = {
        key->k0 ^ UINT64_C(0x736f6d6570736575), key->k1 ^ UINT64_C(0x646f72616e646f6d),
        key->k0 ^ UINT64_C(0x6c7967656e657261), key->k1 ^ UINT64_C(0x7465646279746573),
    };
    size_t at = 0;
    for (; at + 8 <= size; at += 8)
        rcmgr_sip_absorb(v, rcmgr_sip_word(bytes + at, 8));
    /* the rest, and the size in the highest byte */
    rcmgr_sip_absorb(v, rcmgr_sip_word(bytes + at, size - at) | (uint64_t)size << 56);
    v[2] ^= 0xff;
    rcmgr_sip_round(v);
    rcmgr_sip_round(v);
    rcmgr_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
