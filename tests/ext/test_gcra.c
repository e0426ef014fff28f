#include "gcra.h"

#include "check.h"

static rcmgr_gcra bucket(int64_t capacity, int64_t cost, int64_t scale)
{
    rcmgr_gcra g = {capacity, cost, capacity * cost, scale};
    return g;
}

/* Take if it is allowed; whether it was. */
static bool take(const rcmgr_gcra *g, rcmgr_gcra_time *full, int64_t now, int64_t tokens)
{
    int64_t debt = rcmgr_gcra_debt(g, *full, now);
    if (!rcmgr_gcra_allows(g, debt, tokens))
        return false;
    *full = rcmgr_gcra_full_after(g, debt + tokens * g->cost, now);
    return true;
}

static void test_empties_and_fills(void)
{
    rcmgr_gcra g = bucket(5, 10, 1); /* a token every 10 ns */
    rcmgr_gcra_time full = {INT64_MIN, 0};
    for (int i = 0; i < 5; i++)
        CHECK(take(&g, &full, 100, 1));
    CHECK(!take(&g, &full, 100, 1));
    CHECK(!take(&g, &full, 109, 1));
    CHECK_EQ(rcmgr_gcra_wait_ns(&g, rcmgr_gcra_debt(&g, full, 103), 1), 7);
    CHECK(take(&g, &full, 110, 1));
    CHECK_EQ(rcmgr_gcra_available(&g, rcmgr_gcra_debt(&g, full, 139)), 2);
    CHECK_EQ(rcmgr_gcra_available(&g, rcmgr_gcra_debt(&g, full, 140)), 3);
    CHECK_EQ(rcmgr_gcra_available(&g, rcmgr_gcra_debt(&g, full, 160)), 5);
    CHECK_EQ(rcmgr_gcra_available(&g, rcmgr_gcra_debt(&g, full, 1000)), 5);
    CHECK_EQ(rcmgr_gcra_wait_ns(&g, 0, 6), -1);
    CHECK(take(&g, &full, 1000, 0));
}

/* 142 and six sevenths ns per token: what is below a nanosecond is neither lost nor gained. */
static void test_fractions_add_up(void)
{
    rcmgr_gcra g = bucket(1000, 1000, 7);
    rcmgr_gcra_time full = {INT64_MIN, 0};
    int64_t granted = 0;
    CHECK(take(&g, &full, 0, 1000));
    for (int64_t now = 0; now <= 7000000; now++)
        granted += take(&g, &full, now, 1);
    CHECK_EQ(granted, 49000);
}

/* A caller that waits so long gets its tokens, and not a nanosecond earlier. */
static void test_waits_are_rounded_up(void)
{
    rcmgr_gcra g = bucket(20, 10, 7);
    static const int64_t waits[] = {0, 2, 3, 5, 6, 8, 9, 10, 12};
    for (int tokens = 1; tokens <= 8; tokens++) {
        CHECK_EQ(rcmgr_gcra_wait_ns(&g, g.depth, tokens), waits[tokens]);
        int64_t left = g.depth - waits[tokens] * g.scale;
        CHECK(rcmgr_gcra_allows(&g, left, tokens));
        CHECK(!rcmgr_gcra_allows(&g, left + g.scale, tokens));
    }
    CHECK_EQ(rcmgr_gcra_wait_ns(&g, g.depth - 9, 1), 1);
    CHECK_EQ(rcmgr_gcra_wait_ns(&g, g.depth - 10, 1), 0);
}

static void test_widest(void)
{
    rcmgr_gcra g = bucket(1, RCMGR_GCRA_MAX_DEPTH, 1);
    rcmgr_gcra_time full = {INT64_MIN, 0};
    CHECK(take(&g, &full, RCMGR_GCRA_MAX_NOW, 1));
    CHECK(!take(&g, &full, RCMGR_GCRA_MAX_NOW, 1));
    CHECK_EQ(rcmgr_gcra_debt(&g, full, RCMGR_GCRA_MAX_NOW), RCMGR_GCRA_MAX_DEPTH);
    full.full_ns = INT64_MIN;
    CHECK(take(&g, &full, -RCMGR_GCRA_MAX_NOW, 1));
    CHECK_EQ(rcmgr_gcra_wait_ns(&g, rcmgr_gcra_debt(&g, full, 0), 1), 0);
    g = bucket(RCMGR_GCRA_MAX_DEPTH, 1, RCMGR_GCRA_MAX_SCALE);
    full.full_ns = INT64_MIN;
    CHECK(take(&g, &full, 0, RCMGR_GCRA_MAX_DEPTH));
    CHECK(!take(&g, &full, 0, 1));
    CHECK(!take(&g, &full, 0, INT64_MAX));
    CHECK(take(&g, &full, 1, INT64_C(1) << 32));
    CHECK(!take(&g, &full, 1, 1));
}

static void test_no_limit(void)
{
    rcmgr_gcra g = {7, 0, 0, 1};
    CHECK(rcmgr_gcra_allows(&g, 0, INT64_MAX));
    CHECK_EQ(rcmgr_gcra_available(&g, 0), 7);
    CHECK_EQ(rcmgr_gcra_wait_ns(&g, 0, INT64_MAX), 0);
}

static void test_moved_to_another_rate(void)
{
    rcmgr_gcra slow = bucket(5, 10, 1), fast = bucket(8, 4, 2), none = {7, 0, 0, 1};
    CHECK_EQ(rcmgr_gcra_moved(&slow, 25, &fast), 22); /* two tokens and a half are there */
    CHECK_EQ(rcmgr_gcra_moved(&fast, 22, &slow), 25);
    CHECK_EQ(rcmgr_gcra_moved(&fast, 10, &slow), 0); /* five and a half */
    CHECK_EQ(rcmgr_gcra_moved(&slow, 0, &slow), 0);
    CHECK_EQ(rcmgr_gcra_moved(&slow, 50, &slow), 50);
    CHECK_EQ(rcmgr_gcra_moved(&slow, 25, &none), 0);
    CHECK_EQ(rcmgr_gcra_moved(&none, 0, &fast), 4);
    rcmgr_gcra widest = bucket(1, RCMGR_GCRA_MAX_DEPTH, 1);
    rcmgr_gcra finest = bucket(RCMGR_GCRA_MAX_DEPTH, 1, 1);
    CHECK_EQ(rcmgr_gcra_moved(&widest, RCMGR_GCRA_MAX_DEPTH, &finest), RCMGR_GCRA_MAX_DEPTH);
    CHECK_EQ(rcmgr_gcra_moved(&finest, RCMGR_GCRA_MAX_DEPTH - 1, &widest), 0);
    CHECK(rcmgr_gcra_moved(&widest, 1, &widest) >= 0);
}

int main(void)
{
    test_empties_and_fills();
    test_fractions_add_up();
    test_waits_are_rounded_up();
    test_widest();
    test_no_limit();
    test_moved_to_another_rate();
    return 0;
}
