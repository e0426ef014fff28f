#include "pending_shares.h"

#include "check.h"

enum { GROUPS = 4, ADDRESSES = 4, HANDSHAKES = 64 };
enum { GRACE = 10, PATIENCE = 100 };

static rcmgr_pending_shares s;
static rcmgr_netgroup groups[GROUPS];
static rcmgr_address_count addresses[ADDRESSES];
static rcmgr_handshake handshakes[HANDSHAKES];
static int used;

static void begin(void)
{
    static const rcmgr_pending_shares nothing;
    static const rcmgr_netgroup no_group;
    s = nothing;
    s.grace_ns = GRACE;
    s.patience_ns = PATIENCE;
    for (int i = 0; i < GROUPS; i++)
        groups[i] = no_group;
    for (int i = 0; i < ADDRESSES; i++)
        addresses[i].count = 0;
    used = 0;
}

static rcmgr_handshake *enter(int group, int address, int64_t now)
{
    rcmgr_handshake *h = &handshakes[used++];
    rcmgr_pending_enter(&s, h, &groups[group], &addresses[address], now);
    return h;
}

static rcmgr_handshake *choose(int group, int64_t now)
{
    return rcmgr_pending_choose(&s, groups[group].size == 0 ? NULL : &groups[group], now);
}

static void test_a_larger_group_gives_way_at_once(void)
{
    begin();
    CHECK(choose(0, 0) == NULL);
    rcmgr_handshake *first = enter(0, 0, 0);
    CHECK(choose(1, 0) == NULL); /* no larger, and in its grace */
    CHECK(choose(1, GRACE) == first);
    rcmgr_handshake *second = enter(0, 0, 5);
    CHECK(choose(1, 5) == first);
    rcmgr_pending_advance(&s, first, 6);
    CHECK(choose(1, 7) == second); /* progress outlives silence */
    rcmgr_pending_advance(&s, second, 8);
    CHECK(choose(1, 9) == first);
}

static void test_the_own_group_waits_for_those_that_make_progress(void)
{
    begin();
    rcmgr_handshake *a = enter(0, 0, 0), *b = enter(0, 0, 1);
    CHECK(choose(0, GRACE - 1) == NULL);
    CHECK(choose(0, GRACE) == a);
    rcmgr_pending_advance(&s, a, GRACE);
    CHECK(choose(0, GRACE + 1) == b);
    rcmgr_pending_advance(&s, b, GRACE + 1);
    CHECK(choose(0, GRACE + PATIENCE - 1) == NULL);
    CHECK(choose(0, GRACE + PATIENCE) == a);
}

static void test_the_address_with_most_gives_way(void)
{
    begin();
    rcmgr_handshake *lonely = enter(0, 0, 0);
    rcmgr_handshake *of_many = enter(0, 1, 1);
    enter(0, 1, 2);
    CHECK(choose(1, 50) == of_many);
    rcmgr_pending_leave(&s, of_many);
    CHECK(choose(1, 50) == lonely); /* equal: the oldest */
    CHECK_EQ(addresses[1].count, 1);
}

static void test_an_equal_group_gives_way_after_the_wait(void)
{
    begin();
    enter(0, 0, 0);
    rcmgr_handshake *silent = enter(1, 1, 1);
    rcmgr_pending_advance(&s, &handshakes[0], 2);
    CHECK(choose(2, GRACE) == NULL);
    CHECK(choose(2, GRACE + 1) == silent);
    CHECK(choose(1, 1 + GRACE) == silent); /* its own */
    CHECK(choose(0, 1 + GRACE) == NULL); /* a smaller group is left alone, and its own is patient */
}

static void test_stages_end(void)
{
    begin();
    rcmgr_handshake *h = enter(0, 0, 0);
    for (int i = 0; i < RCMGR_LAST_STAGE; i++)
        CHECK(rcmgr_pending_advance(&s, h, i));
    CHECK(!rcmgr_pending_advance(&s, h, 9));
    CHECK_EQ(h->seat.level, RCMGR_LAST_STAGE);
    CHECK_EQ(h->since_ns, RCMGR_LAST_STAGE - 1);
}

static void test_next_to_serve(void)
{
    begin();
    CHECK(rcmgr_pending_next(&s) == NULL);
    rcmgr_handshake *a = enter(0, 0, 0), *b = enter(0, 0, 1);
    rcmgr_handshake *c = enter(1, 1, 2);
    CHECK(rcmgr_pending_next(&s) == c);
    rcmgr_pending_leave(&s, c);
    CHECK(rcmgr_pending_next(&s) == a);
    rcmgr_pending_advance(&s, b, 3);
    CHECK(rcmgr_pending_next(&s) == b);
    rcmgr_pending_leave(&s, b);
    rcmgr_pending_leave(&s, a);
    CHECK(rcmgr_pending_next(&s) == NULL);
    for (int stage = 0; stage <= RCMGR_LAST_STAGE; stage++)
        CHECK(s.stages[stage].first == NULL && s.stages[stage].last == NULL);
}

int main(void)
{
    test_a_larger_group_gives_way_at_once();
    test_the_own_group_waits_for_those_that_make_progress();
    test_the_address_with_most_gives_way();
    test_an_equal_group_gives_way_after_the_wait();
    test_stages_end();
    test_next_to_serve();
    return 0;
}
