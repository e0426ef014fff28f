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

static void test_only_the_oldest_are_looked_at(void)
{
    begin();
    rcmgr_handshake *first = enter(0, 0, 0);
    for (int i = 1; i < RCMGR_PENDING_SEEN; i++)
        enter(0, 0, 0);
    rcmgr_handshake *unseen = enter(0, 1, 0);
    addresses[1].count = 100;
    CHECK(choose(1, GRACE) == first);
    rcmgr_pending_leave(&s, first);
    CHECK(choose(1, GRACE) == unseen);
}

static void test_only_the_oldest_of_a_stage_are_looked_at(void)
{
    begin();
    rcmgr_handshake *first = enter(0, 0, 0);
    for (int i = 1; i < RCMGR_PENDING_SEEN; i++)
        enter(0, 0, 0);
    rcmgr_handshake *of_larger = enter(1, 1, 0);
    for (int i = 0; i < RCMGR_PENDING_SEEN; i++)
        enter(1, 1, 0);
    CHECK(rcmgr_pending_of_larger(&s, RCMGR_PENDING_SEEN, GRACE) == NULL);
    rcmgr_pending_leave(&s, first);
    CHECK(rcmgr_pending_of_larger(&s, RCMGR_PENDING_SEEN, GRACE) == of_larger);
}

static void test_the_lowest_stage_gives_way(void)
{
    begin();
    rcmgr_handshake *of_stage[RCMGR_GROUP_LEVELS];
    for (int i = 0; i <= RCMGR_LAST_STAGE; i++) {
        of_stage[i] = enter(0, 0, 0);
        for (int steps = 0; steps < i; steps++)
            rcmgr_pending_advance(&s, of_stage[i], 0);
    }
    enter(0, 1, 2 * PATIENCE); /* young, and silent */
    for (int i = 0; i <= RCMGR_LAST_STAGE; i++) { /* old handshakes go before the young one */
        CHECK(choose(1, 2 * PATIENCE) == of_stage[i]);
        CHECK(choose(0, 2 * PATIENCE) == of_stage[i]);
        rcmgr_pending_leave(&s, of_stage[i]);
    }
}

static void test_the_last_stage_gives_way_too(void)
{
    begin();
    for (int i = 0; i < 2; i++) {
        rcmgr_handshake *h = enter(0, 0, 0);
        while (rcmgr_pending_advance(&s, h, 0))
            continue;
    }
    CHECK(choose(1, 1) == &handshakes[0]); /* larger: at once */
    CHECK(rcmgr_pending_of_larger(&s, 1, PATIENCE - 1) == NULL);
    CHECK(rcmgr_pending_of_larger(&s, 1, PATIENCE) == &handshakes[0]);
    CHECK(choose(0, PATIENCE - 1) == NULL);
    CHECK(choose(0, PATIENCE) == &handshakes[0]);
}

static void check_stages(int expected)
{
    int seen = 0;
    for (int stage = 0; stage <= RCMGR_LAST_STAGE; stage++) {
        const rcmgr_handshake *before = NULL;
        for (const rcmgr_handshake *h = s.stages[stage].first; h != NULL; h = h->next) {
            CHECK(h->before == before);
            CHECK_EQ(h->seat.level, stage);
            CHECK(before == NULL || before->since_ns <= h->since_ns);
            CHECK(seen++ < HANDSHAKES);
            before = h;
        }
        CHECK(s.stages[stage].last == before);
    }
    CHECK_EQ(seen, expected);
}

static void test_stages_in_any_order_of_operations(void)
{
    begin();
    bool in[HANDSHAKES] = {false};
    int inside = 0;
    uint64_t random = 1;
    for (int now = 0; now < 20000; now++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        int at = (int)((random >> 33) % HANDSHAKES);
        rcmgr_handshake *h = &handshakes[at];
        if (!in[at]) {
            rcmgr_pending_enter(&s, h, &groups[(random >> 45) % GROUPS],
                                &addresses[(random >> 50) % ADDRESSES], now);
            inside++;
        } else if (random >> 63) {
            rcmgr_pending_advance(&s, h, now);
            continue;
        } else {
            rcmgr_pending_leave(&s, h);
            inside--;
        }
        in[at] = !in[at];
        check_stages(inside);
    }
}

int main(void)
{
    test_a_larger_group_gives_way_at_once();
    test_the_own_group_waits_for_those_that_make_progress();
    test_the_address_with_most_gives_way();
    test_an_equal_group_gives_way_after_the_wait();
    test_stages_end();
    test_next_to_serve();
    test_only_the_oldest_are_looked_at();
    test_only_the_oldest_of_a_stage_are_looked_at();
    test_the_lowest_stage_gives_way();
    test_the_last_stage_gives_way_too();
    test_stages_in_any_order_of_operations();
    return 0;
}
