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

static void check_two_sizes(uint32_t small, uint32_t large)
{
    rcmgr_group_resize(&sizes, &groups[0], small);
    rcmgr_group_resize(&sizes, &groups[1], large);
    CHECK(rcmgr_largest_group(&sizes) == &groups[1]);
    CHECK(rcmgr_next_group(&sizes, &groups[1]) == &groups[0]);
    CHECK(rcmgr_next_group(&sizes, &groups[0]) == NULL);
    CHECK(rcmgr_smallest_group(&sizes) == &groups[0]);
    rcmgr_group_resize(&sizes, &groups[1], 0);
    CHECK(rcmgr_largest_group(&sizes) == &groups[0]);
    rcmgr_group_resize(&sizes, &groups[0], 0);
    CHECK(rcmgr_largest_group(&sizes) == NULL && rcmgr_smallest_group(&sizes) == NULL);
}

static void test_sizes_at_the_ends_of_words(void)
{
    begin();
    for (uint32_t word = 0; word < RCMGR_GROUP_SIZES; word += 64) {
        for (uint32_t large = word + 64; large <= RCMGR_GROUP_SIZES; large += 64) {
            check_two_sizes(word + 1, large - 1);
            check_two_sizes(word + 62, large - 1);
            if (word + 63 < large - 1)
                check_two_sizes(word + 63, large - 1);
            if (large < RCMGR_GROUP_SIZES)
                check_two_sizes(word + 63, large);
        }
    }
    check_two_sizes(RCMGR_GROUP_SIZES - 2, RCMGR_GROUP_SIZES);
    CHECK_EQ(rcmgr_size_bucket(RCMGR_GROUP_SIZES), RCMGR_GROUP_SIZES - 1);
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

static void check_list(const rcmgr_seat_list *list, const rcmgr_netgroup *group, int level)
{
    const rcmgr_seat *older = NULL;
    for (const rcmgr_seat *seat = list->oldest; seat != NULL; older = seat, seat = seat->younger) {
        CHECK(seat->older == older);
        CHECK(seat->group == group);
        CHECK_EQ(seat->level, level);
    }
    CHECK(list->youngest == older);
}

static uint32_t length(const rcmgr_seat_list *list)
{
    uint32_t count = 0;
    for (const rcmgr_seat *seat = list->oldest; seat != NULL; seat = seat->younger)
        count++;
    return count;
}

static void check_all(void)
{
    int used_groups = 0;
    for (int i = 0; i < GROUPS; i++) {
        uint32_t size = 0;
        for (int level = 0; level < RCMGR_GROUP_LEVELS; level++) {
            check_list(&groups[i].levels[level], &groups[i], level);
            size += length(&groups[i].levels[level]);
        }
        CHECK_EQ(groups[i].size, size);
        used_groups += size > 0;
    }
    int seen = 0;
    const rcmgr_netgroup *before = NULL, *group = rcmgr_largest_group(&sizes);
    for (; group != NULL; before = group, group = rcmgr_next_group(&sizes, group), seen++) {
        CHECK(seen < used_groups);
        if (before != NULL)
            CHECK(before->size >= group->size);
        bool same = before != NULL && before->size == group->size;
        CHECK(group->before == (same ? before : NULL));
    }
    CHECK_EQ(seen, used_groups);
    CHECK(used_groups == 0 || rcmgr_smallest_group(&sizes)->size == before->size);
}

static void test_any_order_of_operations(void)
{
    begin();
    bool in[SEATS] = {false};
    uint64_t random = 1;
    for (int turn = 0; turn < 20000; turn++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        rcmgr_seat *seat = &seats[(random >> 33) % SEATS];
        int level = (int)((random >> 40) % RCMGR_GROUP_LEVELS);
        bool was_in = in[seat - seats];
        if (!was_in)
            rcmgr_seat_enter(&sizes, seat, &groups[(random >> 45) % GROUPS], level);
        else if (random >> 63)
            rcmgr_seat_set_level(seat, level);
        else
            rcmgr_seat_leave(&sizes, seat);
        in[seat - seats] = !was_in || random >> 63;
        if (was_in && in[seat - seats] && random >> 62 == 3) {
            rcmgr_seat_list *list = &seat->group->levels[level];
            rcmgr_list_remove(list, seat);
            rcmgr_list_prepend(list, seat);
        }
        check_all();
    }
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
    test_sizes_at_the_ends_of_words();
    test_lists_keep_their_order();
    test_any_order_of_operations();
    return 0;
}
