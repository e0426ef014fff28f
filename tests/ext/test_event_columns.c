#include <stdlib.h>

static int allocations_left = -1; /* then the next one fails; -1: none does */

static int may_allocate(void)
{
    if (allocations_left < 0)
        return 1;
    return allocations_left-- > 0;
}

#define malloc(size) (may_allocate() ? malloc(size) : NULL)
#define calloc(count, size) (may_allocate() ? calloc(count, size) : NULL)
#define realloc(at, size) (may_allocate() ? realloc(at, size) : NULL)

#include "event_columns.h"

#include "check.h"

static uint64_t number_at(const rcmgr_event_columns *columns, int which, size_t at, int width)
{
    const rcmgr_column *column = &columns->columns[which];
    uint64_t value = 0;
    CHECK((at + 1) * (size_t)width <= column->size);
    for (int i = 0; i < width; i++)
        value |= (uint64_t)column->bytes[at * (size_t)width + (size_t)i] << 8 * i;
    return value;
}

static void put(rcmgr_event_columns *columns, int kind, int flags, uint64_t number, int64_t time_ns)
{
    rcmgr_event event;
    memset(&event, 0, sizeof(event));
    event.kind = (uint8_t)kind;
    event.flags = (uint8_t)flags;
    event.number = number;
    event.time_ns = time_ns;
    event.peer = 77 + number % 2;
    event.code = 5;
    event.name = 6;
    event.other = 7;
    event.value = -1;
    event.detail = 8;
    event.text_size = 7;
    memcpy(event.text, number % 2 ? "1.2.3.4" : "nothing", 7);
    rcmgr_put_event(columns, &event);
}

static void test_each_event_has_the_columns_that_it_needs(void)
{
    static rcmgr_event_columns columns;
    columns.newest[0] = 100;
    put(&columns, RCMGR_EV_BEGIN, RCMGR_EV_HAS_ADDRESS, 101, 5000);
    put(&columns, RCMGR_EV_BEGIN, RCMGR_EV_HAS_ADDRESS | RCMGR_EV_REFUSED, 0, 7999);
    put(&columns, RCMGR_EV_REPORT, RCMGR_EV_KNOWN | RCMGR_EV_HAS_PEER, 101, 6000);
    put(&columns, RCMGR_EV_STREAM, RCMGR_EV_HAS_PEER, 1, 9000);
    put(&columns, RCMGR_EV_PROTOCOL, RCMGR_EV_KNOWN | RCMGR_EV_REFUSED, 1, 9000);
    put(&columns, RCMGR_EV_CONN_MEMORY, RCMGR_EV_KNOWN, 101, 9000);
    put(&columns, RCMGR_EV_CLOSE, RCMGR_EV_KNOWN, 101, 9000);
    CHECK_EQ(columns.events, 7);
    CHECK_EQ(columns.begin_ns, 5000);
    CHECK_EQ(columns.first_number[0], 100);
    CHECK_EQ(columns.columns[RCMGR_COL_KIND].size, 7);
    /* time in microseconds; an event from before the last one has the same time */
    CHECK_EQ(number_at(&columns, RCMGR_COL_TIME, 0, 4), 0);
    CHECK_EQ(number_at(&columns, RCMGR_COL_TIME, 1, 4), 2);
    CHECK_EQ(number_at(&columns, RCMGR_COL_TIME, 2, 4), 0);
    CHECK_EQ(number_at(&columns, RCMGR_COL_TIME, 3, 4), 2);
    /* the refused one has no number */
    CHECK_EQ(columns.columns[RCMGR_COL_NUMBER].size, 6 * 4);
    CHECK_EQ(number_at(&columns, RCMGR_COL_NUMBER, 0, 4), 1);
    CHECK_EQ(number_at(&columns, RCMGR_COL_NUMBER, 1, 4), 0);
    CHECK_EQ(number_at(&columns, RCMGR_COL_NUMBER, 2, 4), 1);
    CHECK_EQ(number_at(&columns, RCMGR_COL_NUMBER, 3, 4), 0);
    CHECK_EQ(columns.columns[RCMGR_COL_PEER].size, 2 * 4);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_PEERS].size, 8);
    CHECK_EQ(number_at(&columns, RCMGR_COL_SECRETS, 0, 8), 78);
    CHECK(number_at(&columns, RCMGR_COL_NEW_PEERS, 0, 8) != 78);
    /* "nothing" is no address, and its flag is gone */
    CHECK_EQ(columns.columns[RCMGR_COL_ADDRESS].size, 4);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_ADDRESSES].size, 5);
    CHECK_EQ(columns.columns[RCMGR_COL_FLAGS].bytes[1], RCMGR_EV_REFUSED);
    CHECK_EQ(columns.columns[RCMGR_COL_CODE].size, 2 * 2);
    CHECK_EQ(number_at(&columns, RCMGR_COL_CODE, 0, 2), 5);
    CHECK_EQ(columns.columns[RCMGR_COL_NAME].size, 2);
    CHECK_EQ(columns.columns[RCMGR_COL_OTHER].size, 0);
    CHECK_EQ(columns.columns[RCMGR_COL_VALUE].size, 8);
    CHECK_EQ(number_at(&columns, RCMGR_COL_VALUE, 0, 8), -1);
    CHECK_EQ(columns.columns[RCMGR_COL_DETAIL].size, 1);
    CHECK(!columns.failed);
    rcmgr_columns_clear(&columns);
    put(&columns, RCMGR_EV_STREAM, RCMGR_EV_HAS_PEER, 3, 10000);
    CHECK_EQ(columns.begin_ns, 10000);
    CHECK_EQ(columns.first_number[1], 1);
    CHECK_EQ(number_at(&columns, RCMGR_COL_NUMBER, 0, 4), 2);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_PEERS].size, 0); /* the table stays */
    rcmgr_columns_forget(&columns);
    put(&columns, RCMGR_EV_STREAM, RCMGR_EV_HAS_PEER, 5, 10000);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_PEERS].size, 8);
    rcmgr_columns_free(&columns);
}

static void test_many_peers_have_places_of_their_own(void)
{
    static rcmgr_event_columns columns;
    for (int round = 0; round < 2; round++)
        for (uint64_t peer = 0; peer < 10000; peer++)
            rcmgr_put_peer(&columns, peer * UINT64_C(0x9E3779B97F4A7C15));
    for (size_t i = 0; i < 20000; i++)
        CHECK_EQ(number_at(&columns, RCMGR_COL_PEER, i, 4), i % 10000);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_PEERS].size, 80000);
    rcmgr_columns_free(&columns);
}

static void test_addresses_stay_on_demand(void)
{
    static rcmgr_event_columns columns;
    static const uint8_t ip[4] = {192, 0, 2, 1};
    rcmgr_put_address(&columns, ip, 4);
    CHECK(memcmp(columns.columns[RCMGR_COL_NEW_ADDRESSES].bytes + 1, ip, 4) != 0);
    rcmgr_columns_free(&columns);
    columns.keeps_ips = true;
    rcmgr_put_address(&columns, ip, 4);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_ADDRESSES].bytes[0], 4);
    CHECK(memcmp(columns.columns[RCMGR_COL_NEW_ADDRESSES].bytes + 1, ip, 4) == 0);
    rcmgr_columns_free(&columns);
}

static void test_an_address_of_either_version_has_a_place(void)
{
    static rcmgr_event_columns columns;
    static const uint8_t ip[16] = {192, 0, 2, 1}; /* 192.0.2.1, and c000:201:: */
    rcmgr_put_address(&columns, ip, 4);
    rcmgr_put_address(&columns, ip, 16);
    rcmgr_put_address(&columns, ip, 4);
    CHECK_EQ(number_at(&columns, RCMGR_COL_ADDRESS, 1, 4), 1);
    CHECK_EQ(number_at(&columns, RCMGR_COL_ADDRESS, 2, 4), 0);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_ADDRESSES].size, 5 + 17);
    rcmgr_columns_clear(&columns);
    rcmgr_columns_forget(&columns);
    rcmgr_put_address(&columns, ip, 16);
    CHECK_EQ(number_at(&columns, RCMGR_COL_ADDRESS, 0, 4), 0);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_ADDRESSES].size, 17);
    rcmgr_columns_free(&columns);
}

static void test_a_long_pause_is_the_longest_that_fits(void)
{
    static rcmgr_event_columns columns;
    static const int64_t longest_us = UINT32_MAX;
    put(&columns, RCMGR_EV_CLOSE, RCMGR_EV_KNOWN, 1, 0);
    put(&columns, RCMGR_EV_CLOSE, RCMGR_EV_KNOWN, 1, 1000 * (longest_us + 3));
    put(&columns, RCMGR_EV_CLOSE, RCMGR_EV_KNOWN, 1, 1000 * (longest_us + 3));
    CHECK_EQ(number_at(&columns, RCMGR_COL_TIME, 1, 4), longest_us);
    CHECK_EQ(number_at(&columns, RCMGR_COL_TIME, 2, 4), 3);
    rcmgr_columns_free(&columns);
}

static void test_a_failed_allocation_loses_one_frame(void)
{
    static rcmgr_event_columns columns;
    static const uint8_t ip[4] = {192, 0, 2, 1};
    for (int allowed = 0; allowed < 4; allowed++) { /* two for the table, one for each column */
        allocations_left = allowed;
        rcmgr_put_address(&columns, ip, 4);
        CHECK(columns.failed);
        allocations_left = -1;
        rcmgr_columns_clear(&columns);
        CHECK(!columns.failed);
        rcmgr_columns_free(&columns);
    }
    rcmgr_put_address(&columns, ip, 4);
    CHECK(!columns.failed);
    CHECK_EQ(columns.columns[RCMGR_COL_NEW_ADDRESSES].size, 5);
    rcmgr_columns_free(&columns);
}

static void test_a_drain_empties_the_ring(void)
{
    static rcmgr_event_columns columns;
    static rcmgr_event slots[8];
    rcmgr_event_ring ring;
    rcmgr_ring_start(&ring, slots, 8);
    for (int i = 0; i < 5; i++) {
        rcmgr_event *event = rcmgr_ring_claim(&ring);
        event->kind = RCMGR_EV_FORGET_ALL;
        event->flags = 0;
        event->time_ns = 0;
        rcmgr_ring_publish(event);
    }
    CHECK_EQ(rcmgr_drain(&ring, &columns, 3), 3);
    CHECK_EQ(rcmgr_drain(&ring, &columns, 3), 2);
    CHECK_EQ(rcmgr_drain(&ring, &columns, 3), 0);
    CHECK_EQ(columns.events, 5);
    rcmgr_columns_free(&columns);
}

int main(void)
{
    test_each_event_has_the_columns_that_it_needs();
    test_many_peers_have_places_of_their_own();
    test_addresses_stay_on_demand();
    test_an_address_of_either_version_has_a_place();
    test_a_long_pause_is_the_longest_that_fits();
    test_a_failed_allocation_loses_one_frame();
    test_a_drain_empties_the_ring();
    return 0;
}
