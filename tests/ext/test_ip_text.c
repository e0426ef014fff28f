#include "ip_text.h"

#include "check.h"

#ifndef _WIN32
#include <arpa/inet.h>

/* inet_pton is the model. */
static void test_random_texts_are_read_as_by_inet_pton(void)
{
    static const char letters[] = "0123456789abcdefF::::....";
    uint64_t state = 1;
    for (int round = 0; round < 2000000; round++) {
        char text[24];
        uint8_t ours[16], theirs[16];
        size_t size = (size_t)(round % 20);
        for (size_t i = 0; i < size; i++) {
            state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
            text[i] = letters[(state >> 33) % (sizeof(letters) - 1)];
        }
        text[size] = 0;
        bool is_ipv4 = inet_pton(AF_INET, text, theirs) == 1;
        CHECK_EQ(rcmgr_parse_ipv4(text, size, ours), is_ipv4);
        CHECK(!is_ipv4 || memcmp(ours, theirs, 4) == 0);
        bool is_ipv6 = inet_pton(AF_INET6, text, theirs) == 1;
        if (rcmgr_parse_ipv6(text, size, ours) != is_ipv6)
            fprintf(stderr, "%s\n", text);
        CHECK_EQ(rcmgr_parse_ipv6(text, size, ours), is_ipv6);
        CHECK(!is_ipv6 || memcmp(ours, theirs, 16) == 0);
    }
}

#else

static void test_random_texts_are_read_as_by_inet_pton(void) {}

#endif

static void check_ip(const char *text, int size, const uint8_t *expected)
{
    uint8_t ip[16];
    CHECK_EQ(rcmgr_parse_ip(text, strlen(text), ip), size);
    CHECK(size == 0 || memcmp(ip, expected, (size_t)size) == 0);
}

static void test_known_texts(void)
{
    static const uint8_t ipv4[] = {192, 0, 2, 1};
    static const uint8_t ipv6[16] = {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    static const uint8_t full[16] = {0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8};
    static const uint8_t mixed[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 192, 0, 2, 1};
    check_ip("192.0.2.1", 4, ipv4);
    check_ip("::ffff:192.0.2.1", 4, ipv4);
    check_ip("2001:db8::1", 16, ipv6);
    check_ip("2001:DB8:0:0::0:1", 16, ipv6);
    check_ip("1:2:3:4:5:6:7:8", 16, full);
    check_ip("::1:192.0.2.1", 16, mixed);
    for (int i = 0; i < 15; i++) {
        static const char *wrong[] = {
            "", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", "1..2.3", ":", ":::",
            "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "0.0.0.0", "::",
        };
        check_ip(wrong[i], 0, NULL);
    }
}

int main(void)
{
    test_known_texts();
    test_random_texts_are_read_as_by_inet_pton();
    return 0;
}
