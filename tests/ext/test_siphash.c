#include "siphash.h"

#include "check.h"

/* CPython's own SipHash-1-3 (`_imp.source_hash`, whose second half of the key is zero). */
static void test_known_hashes(void)
{
    static const struct {
        size_t size;
        uint64_t hash;
    } known[] = {
        {0, UINT64_C(0xf46d3bfe2ea281dc)},
        {1, UINT64_C(0x5bb2c195fe70a449)},
        {4, UINT64_C(0x0b7f74a5372abaef)},
        {7, UINT64_C(0x3dd20bc6123b60e0)},
        {8, UINT64_C(0x5124317f8cfc24cb)},
        {9, UINT64_C(0x9d1f9dbb9125d122)},
        {15, UINT64_C(0x7f501f340ece0c62)},
        {16, UINT64_C(0xa07bf4038d638986)},
        {17, UINT64_C(0xf0f41b97a64c8426)},
        {63, UINT64_C(0x9c56dbe0649233f3)},
    };
    rcmgr_sip_key key = {UINT64_C(0x0706050403020100), 0};
    unsigned char bytes[64];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)i;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        CHECK(rcmgr_siphash(&key, bytes, known[i].size) == known[i].hash);
}

static void test_both_halves_of_the_key_count(void)
{
    rcmgr_sip_key key = {1, 2}, other = {1, 3}, third = {4, 2};
    uint64_t hash = rcmgr_siphash(&key, "address", 7);
    CHECK(hash == rcmgr_siphash(&key, "address", 7));
    CHECK(hash != rcmgr_siphash(&other, "address", 7));
    CHECK(hash != rcmgr_siphash(&third, "address", 7));
    CHECK(hash != rcmgr_siphash(&key, "address", 6));
    CHECK(rcmgr_siphash(&key, "", 0) != rcmgr_siphash(&key, "\0", 1));
}

int main(void)
{
    test_known_hashes();
    test_both_halves_of_the_key_count();
    return 0;
}
