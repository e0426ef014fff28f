#include "netgroups.h"

#include "check.h"

enum { GROUPS = 6, SEATS = 64 };

static rcmgr_group_sizes sizes;
static rcmgr_netgroup groups[GROUPS];
static rcmgr_seat seats[SEATS];
static int used;

static void begin(void)
{
    static const rcmgr_group_sizes no_sizes;
    static const rcmgr_netgroup no_group;
    sizes = no_sizes;
    for (int i = 0; i < GROUPS; i++)
        groups[i] = no_group;
    used = 0;
}

static rcmgr_seat *enter(int group, int level)
{
    rcmgr_seat *seat = &seats[used++];
    rcmgr_seat_enter(&sizes, seat, &groups[group], level);
    return seat;
}

static void test_largest_and_smallest(void)
{
    begin();
    CHECK(rcmgr_largest_group(&sizes) == NULL);
    CHECK(rcmgr_smallest_group(&sizes) == NULL);
    rcmgr_seat *first = enter(0, 0);
    CHECK(rcmgr_largest_group(&sizes) == &groups[0]);
    CHECK(rcmgr_next_group(&sizes, &groups[0]) == NULL);
    enter(1, 0);
    CHECK(rcmgr_largest_group(&sizes) == &groups[1]); /* the latest of one size is first */
    CHECK(rcmgr_next_group(&sizes, &groups[1]) == &groups[0]);
    enter(0, 1);
    enter(2, 0);
    CHECK(rcmgr_largest_group(&sizes) == &groups[0]);
    CHECK(rcmgr_next_group(&sizes, &groups[0]) == &groups[2]);
    CHECK(rcmgr_next_group(&sizes, &groups[2]) == &groups[1]);
    CHECK(rcmgr_next_group(&sizes, &groups[1]) == NULL);
    CHECK(rcmgr_smallest_group(&sizes) == &groups[2]);
    rcmgr_seat_leave(&sizes, first);
    CHECK_EQ(groups[0].size, 1);
    CHECK(rcmgr_largest_group(&sizes) == &groups[0]);
    CHECK(rcmgr_next_group(&sizes, &groups[0]) == &groups[2]);
}

static void test_sizes_far_apart_and_above_the_last_bucket(void)
{
    begin();
    static const uint32_t of[GROUPS] = {1, 63, 64, 200, 4095, 1000000};
    for (int i = 0; i < GROUPS; i++)
        rcmgr_group_resize(&sizes, &groups[i], of[i]);
    CHECK(rcmgr_largest_group(&sizes) == &groups[5]);
    CHECK(rcmgr_next_group(&sizes, &groups[5]) == &groups[4]); /* the same bucket */
    for (int i = 4; i > 0; i--)
        CHECK(rcmgr_next_group(&sizes, &groups[i]) == &groups[i - 1]);
    CHECK(rcmgr_smallest_group(&sizes) == &groups[0]);
    for (int i = 0; i < GROUPS; i++)
        rcmgr_group_resize(&sizes, &groups[i], 0);
    CHECK(rcmgr_largest_group(&sizes) == NULL);
    CHECK(sizes.in_use == 0);
}

static void test_lists_keep_their_order(void)
{
    begin();
    rcmgr_seat *a = enter(0, 0), *b = enter(0, 0), *c = enter(0, 0);
    const rcmgr_seat_list *zero = &groups[0].levels[0], *two = &groups[0].levels[2];
    CHECK(zero->oldest == a && a->younger == b && b->younger == c && zero->youngest == c);
    rcmgr_seat_set_level(b, 2);
    CHECK(zero->oldest == a && a->younger == c && c->older == a && c->younger == NULL);
    CHECK(two->oldest == b && two->youngest == b && b->older == NULL && b->younger == NULL);
    rcmgr_seat_set_level(a, 2);
    CHECK(two->oldest == b && two->youngest == a && zero->oldest == c);
    rcmgr_list_remove(&groups[0].levels[2], a);
    rcmgr_list_prepend(&groups[0].levels[2], a);
    CHECK(two->oldest == a && a->younger == b && two->youngest == b);
    rcmgr_seat_leave(&sizes, a);
    rcmgr_seat_leave(&sizes, b);
    rcmgr_seat_leave(&sizes, c);
    CHECK(zero->oldest == NULL && zero->youngest == NULL && two->oldest == NULL);
    CHECK_EQ(groups[0].size, 0);
    CHECK(rcmgr_largest_group(&sizes) == NULL);
}

static void test_bits(void)
{
    for (int i = 0; i < 64; i++) {
        CHECK_EQ(rcmgr_highest_bit(UINT64_C(1) << i), i);
        CHECK_EQ(rcmgr_lowest_bit(UINT64_MAX << i), i);
        CHECK_EQ(rcmgr_highest_bit(UINT64_MAX >> i), 63 - i);
    }
}

int main(void)
{
    test_bits();
    test_largest_and_smallest();
    test_sizes_far_apart_and_above_the_last_bucket();
    test_lists_keep_their_order();
    return 0;
}
