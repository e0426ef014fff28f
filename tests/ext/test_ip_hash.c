#include "ip_hash.h"

#include "check.h"

static const rcmgr_sip_key KEY = {1, 2};

static int same_bits(const uint8_t *a, const uint8_t *b, int size)
{
    int bits = 0;
    while (bits < 8 * size && !((a[bits / 8] ^ b[bits / 8]) >> (7 - bits % 8) & 1))
        bits++;
    return bits;
}

static void test_networks_stay_networks(void)
{
    uint64_t state = 1;
    for (int round = 0; round < 20000; round++) {
        uint8_t a[16], b[16], hashed_a[16], hashed_b[16];
        int size = round % 2 ? 4 : 16, shared;
        for (int i = 0; i < 16; i++) {
            state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
            a[i] = b[i] = (uint8_t)(state >> 40);
        }
        for (int i = 2 + round % (size - 2); i < size; i++) {
            state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
            b[i] = (uint8_t)(state >> 40);
        }
        memcpy(hashed_a, a, 16);
        memcpy(hashed_b, b, 16);
        rcmgr_ip_hash(&KEY, hashed_a, size);
        rcmgr_ip_hash(&KEY, hashed_b, size);
        shared = same_bits(a, b, size);
        CHECK(shared < 16 || same_bits(hashed_a, hashed_b, size) == shared);
        CHECK((rcmgr_ip_kept_bits(a, size) > 0) == (rcmgr_ip_kept_bits(hashed_a, size) > 0));
        CHECK(same_bits(a, hashed_a, size) >= rcmgr_ip_kept_bits(a, size));
    }
}

static void test_an_address_changes_with_the_key(void)
{
    static const rcmgr_sip_key other = {3, 4};
    uint8_t a[4] = {192, 0, 2, 1}, b[4] = {192, 0, 2, 1}, old[4] = {192, 0, 2, 1};
    rcmgr_ip_hash(&KEY, a, 4);
    rcmgr_ip_hash(&other, b, 4);
    CHECK(memcmp(a, b, 4) != 0);
    CHECK(memcmp(a, old, 4) != 0);
}

static void check_kept(const uint8_t *ip, int size, int bits)
{
    uint8_t hashed[16];
    CHECK_EQ(rcmgr_ip_kept_bits(ip, size), bits);
    memcpy(hashed, ip, (size_t)size);
    rcmgr_ip_hash(&KEY, hashed, size);
    CHECK(same_bits(hashed, ip, size) >= bits);
}

static void test_loopback_and_private_networks_stay(void)
{
    static const uint8_t ipv4[][4] = {
        {127, 1, 2, 3}, {10, 9, 8, 7}, {172, 31, 0, 1}, {172, 32, 0, 1}, {192, 168, 7, 7},
        {169, 254, 1, 1}, {100, 127, 1, 1}, {100, 128, 1, 1}, {11, 0, 0, 1},
    };
    static const int bits[] = {32, 8, 12, 0, 16, 16, 10, 0, 0};
    static const uint8_t local[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    static const uint8_t link[16] = {0xfe, 0xbf, 1}, unique[16] = {0xfd, 1}, global[16] = {0x20, 1};
    for (size_t i = 0; i < sizeof(bits) / sizeof(*bits); i++)
        check_kept(ipv4[i], 4, bits[i]);
    check_kept(local, 16, 128);
    check_kept(link, 16, 10);
    check_kept(unique, 16, 7);
    check_kept(global, 16, 0);
}

int main(void)
{
    test_networks_stay_networks();
    test_an_address_changes_with_the_key();
    test_loopback_and_private_networks_stay();
    return 0;
}
