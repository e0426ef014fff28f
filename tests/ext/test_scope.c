#include "scope.h"

#include <string.h>

#include "check.h"

static rcmgr_limit limit_of(int64_t value)
{
    rcmgr_limit limit;
    for (int i = 0; i < RCMGR_RESOURCES; i++)
        limit.of[i] = value;
    return limit;
}

static rcmgr_amounts one(int what, int64_t amount)
{
    rcmgr_amounts amounts = {{0}};
    amounts.of[what] = amount;
    return amounts;
}

static void ceilings_are_those_of_wide_arithmetic(void)
{
    static const int64_t limits[] = {0, 1, 2, 255, 256, 257, 1000, 4095, INT64_C(1) << 40,
                                     INT64_MAX - 1, INT64_MAX - 255, INT64_MAX - 256};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        for (int priority = 0; priority < 256; priority++) {
            __int128 wide = (__int128)limits[i] * (priority + 1) / 256;
            CHECK_EQ(rcmgr_memory_ceiling(limits[i], priority), (int64_t)wide);
        }
    }
    CHECK_EQ(rcmgr_memory_ceiling(RCMGR_UNLIMITED, 0), RCMGR_UNLIMITED);
    CHECK_EQ(rcmgr_memory_ceiling(256, 101), 102);
    CHECK_EQ(rcmgr_memory_ceiling(256, 152), 153);
    CHECK_EQ(rcmgr_memory_ceiling(256, 203), 204);
}

static void each_resource_is_refused_above_its_limit_only(void)
{
    for (int what = 0; what < RCMGR_AMOUNTS; what++) {
        rcmgr_limit limit = limit_of(RCMGR_UNLIMITED);
        limit.of[what] = 3;
        rcmgr_scope scope = {.limit = &limit};
        rcmgr_scope *chain[] = {&scope};
        rcmgr_refusal why;
        rcmgr_amounts ask = one(what, 1), many = one(what, 4), none = {{0}};
        CHECK(rcmgr_is_nothing(&none));
        CHECK(!rcmgr_is_nothing(&ask));
        CHECK(!rcmgr_charge(chain, 1, &many, RCMGR_PRIORITY_ALWAYS, &why));
        for (int i = 0; i < 3; i++)
            CHECK(rcmgr_charge(chain, 1, &ask, RCMGR_PRIORITY_ALWAYS, &why));
        CHECK(!rcmgr_charge(chain, 1, &ask, RCMGR_PRIORITY_ALWAYS, &why));
        CHECK_EQ(why.resource, what);
        CHECK_EQ(why.held, 3);
        CHECK_EQ(why.asked, 1);
        CHECK_EQ(why.limit, 3);
        CHECK_EQ(why.place, 0);
        limit.of[what] = 1; /* lowered below what is held: nothing asked, nothing refused */
        CHECK(rcmgr_charge(chain, 1, &none, RCMGR_PRIORITY_ALWAYS, &why));
        for (int other = 0; other < RCMGR_AMOUNTS; other++) {
            rcmgr_amounts of_other = one(other, 1);
            if (other != what)
                CHECK(rcmgr_charge(chain, 1, &of_other, RCMGR_PRIORITY_ALWAYS, &why));
        }
    }
}

static void totals_count_both_directions(void)
{
    static const int pairs[2][3] = {
        {RCMGR_STREAMS_INBOUND, RCMGR_STREAMS_OUTBOUND, RCMGR_STREAMS},
        {RCMGR_CONNS_INBOUND, RCMGR_CONNS_OUTBOUND, RCMGR_CONNS},
    };
    for (int i = 0; i < 2; i++) {
        rcmgr_limit limit = limit_of(RCMGR_UNLIMITED);
        limit.of[pairs[i][2]] = 2;
        rcmgr_scope scope = {.limit = &limit};
        rcmgr_scope *chain[] = {&scope};
        rcmgr_refusal why;
        rcmgr_amounts in = one(pairs[i][0], 1), out = one(pairs[i][1], 1);
        CHECK(rcmgr_charge(chain, 1, &in, RCMGR_PRIORITY_ALWAYS, &why));
        CHECK(rcmgr_charge(chain, 1, &out, RCMGR_PRIORITY_ALWAYS, &why));
        CHECK(!rcmgr_charge(chain, 1, &out, RCMGR_PRIORITY_ALWAYS, &why));
        CHECK_EQ(why.resource, pairs[i][2]);
        CHECK_EQ(why.held, 2);
        limit.of[pairs[i][1]] = 1; /* both full: the direction is blamed */
        CHECK(!rcmgr_charge(chain, 1, &out, RCMGR_PRIORITY_ALWAYS, &why));
        CHECK_EQ(why.resource, pairs[i][1]);
    }
}

static void every_amount_is_given_back(void)
{
    rcmgr_limit limit = limit_of(RCMGR_UNLIMITED);
    rcmgr_scope a = {.limit = &limit}, b = {.limit = &limit};
    rcmgr_scope *chain[] = {&a, &b};
    rcmgr_refusal why = {.place = -1};
    rcmgr_amounts all, one_more;
    for (int what = 0; what < RCMGR_AMOUNTS; what++)
        all.of[what] = what + 2;
    one_more = all;
    for (int what = 0; what < RCMGR_AMOUNTS; what++)
        one_more.of[what]++;
    CHECK(rcmgr_charge(chain, 2, &one_more, RCMGR_PRIORITY_ALWAYS, &why));
    rcmgr_give_back(chain, 2, &all);
    for (int what = 0; what < RCMGR_AMOUNTS; what++) {
        CHECK_EQ(rcmgr_held(&a, what), 1);
        CHECK_EQ(rcmgr_held(&b, what), 1);
        rcmgr_amounts last = one(what, 1);
        CHECK(!rcmgr_is_nothing(&last));
    }
    limit.of[RCMGR_FD] = 1;
    CHECK(!rcmgr_charge(chain, 2, &all, RCMGR_PRIORITY_ALWAYS, &why));
    CHECK_EQ(why.place, 0);
}

static void all_or_nothing_and_the_first_is_blamed(void)
{
    rcmgr_limit wide = limit_of(10), narrow = limit_of(1);
    rcmgr_scope a = {.limit = &wide}, b = {.limit = &narrow}, c = {.limit = &narrow};
    rcmgr_scope *chain[] = {&a, &b, &c};
    rcmgr_refusal why;
    rcmgr_amounts ask = one(RCMGR_CONNS_INBOUND, 1);
    ask.of[RCMGR_FD] = 1;
    CHECK(rcmgr_charge(chain, 3, &ask, RCMGR_PRIORITY_ALWAYS, &why));
    CHECK(!rcmgr_charge(chain, 3, &ask, RCMGR_PRIORITY_ALWAYS, &why));
    CHECK_EQ(why.place, 1);
    for (int i = 0; i < 3; i++) {
        rcmgr_amounts held = rcmgr_all_held(chain[i]);
        CHECK_EQ(memcmp(&held, &ask, sizeof ask), 0);
    }
    rcmgr_give_back(chain, 3, &ask);
    for (int i = 0; i < 3; i++) {
        rcmgr_amounts held = rcmgr_all_held(chain[i]);
        CHECK(rcmgr_is_nothing(&held));
    }
}

static void nothing_overflows(void)
{
    rcmgr_limit none = limit_of(RCMGR_UNLIMITED), almost = limit_of(INT64_MAX - 1);
    rcmgr_scope free_scope = {.limit = &none}, limited = {.limit = &almost};
    rcmgr_scope *first[] = {&free_scope}, *second[] = {&limited};
    rcmgr_refusal why;
    rcmgr_amounts most = one(RCMGR_MEMORY, INT64_MAX), ask = one(RCMGR_MEMORY, 1);
    CHECK(rcmgr_charge(first, 1, &most, 0, &why));
    CHECK(!rcmgr_charge(first, 1, &ask, 0, &why)); /* 64 bits are full, limit or not */
    CHECK(!rcmgr_charge(second, 1, &most, RCMGR_PRIORITY_ALWAYS, &why));
    CHECK(rcmgr_charge(second, 1, &ask, RCMGR_PRIORITY_ALWAYS, &why));
    rcmgr_scope both = {.limit = &none};
    rcmgr_scope *third[] = {&both};
    rcmgr_amounts in = one(RCMGR_STREAMS_INBOUND, INT64_MAX);
    in.of[RCMGR_STREAMS_OUTBOUND] = INT64_MAX; /* their sum would not fit */
    CHECK(!rcmgr_charge(third, 1, &in, 0, &why));
    CHECK_EQ(why.resource, RCMGR_STREAMS_INBOUND);
}

/* A count has 32 bits. So a scope without a limit counts up to a number, and exactly. */
static void counts_stop_before_they_wrap(void)
{
    rcmgr_limit none = limit_of(RCMGR_UNLIMITED);
    for (int what = RCMGR_STREAMS_INBOUND; what < RCMGR_AMOUNTS; what++) {
        rcmgr_scope scope = {.limit = &none};
        rcmgr_scope *chain[] = {&scope};
        rcmgr_refusal why;
        rcmgr_amounts most = one(what, RCMGR_MOST_COUNT), ask = one(what, 1);
        rcmgr_amounts too_many = one(what, (INT64_C(1) << 32) + 1);
        CHECK(!rcmgr_charge(chain, 1, &too_many, 0, &why));
        CHECK(rcmgr_charge(chain, 1, &most, 0, &why));
        CHECK_EQ(rcmgr_held(&scope, what), RCMGR_MOST_COUNT);
        CHECK(!rcmgr_charge(chain, 1, &ask, 0, &why));
        CHECK_EQ(why.resource, what);
        CHECK_EQ(why.limit, RCMGR_MOST_COUNT);
        rcmgr_give_back(chain, 1, &ask);
        CHECK(rcmgr_charge(chain, 1, &ask, 0, &why));
        rcmgr_hold_nothing(&scope);
        CHECK_EQ(rcmgr_held(&scope, what), 0);
    }
    CHECK(4 * RCMGR_MOST_COUNT < (1 << 28) - 1);
}

/* The declaration promises its size. */
static void a_scope_is_small(void) { CHECK(sizeof(rcmgr_scope) <= 40); }

static void memory_comes_first_and_priority_is_for_memory_only(void)
{
    rcmgr_limit limit = limit_of(256);
    rcmgr_scope scope = {.limit = &limit};
    rcmgr_scope *chain[] = {&scope};
    rcmgr_refusal why;
    rcmgr_amounts ask = one(RCMGR_MEMORY, 103);
    ask.of[RCMGR_CONNS_INBOUND] = 257;
    CHECK(!rcmgr_charge(chain, 1, &ask, 101, &why));
    CHECK_EQ(why.resource, RCMGR_MEMORY);
    CHECK_EQ(why.limit, 256);
    ask.of[RCMGR_MEMORY] = 102;
    CHECK(!rcmgr_charge(chain, 1, &ask, 101, &why));
    CHECK_EQ(why.resource, RCMGR_CONNS_INBOUND);
    ask.of[RCMGR_STREAMS_OUTBOUND] = 257; /* then streams, connections, descriptors */
    ask.of[RCMGR_FD] = 257;
    CHECK(!rcmgr_charge(chain, 1, &ask, 101, &why));
    CHECK_EQ(why.resource, RCMGR_STREAMS_OUTBOUND);
    ask.of[RCMGR_STREAMS_OUTBOUND] = 256;
    ask.of[RCMGR_CONNS_INBOUND] = 256;
    CHECK(!rcmgr_charge(chain, 1, &ask, 101, &why));
    CHECK_EQ(why.resource, RCMGR_FD);
    ask.of[RCMGR_FD] = 256;
    CHECK(rcmgr_charge(chain, 1, &ask, 101, &why));
}

int main(void)
{
    ceilings_are_those_of_wide_arithmetic();
    each_resource_is_refused_above_its_limit_only();
    totals_count_both_directions();
    every_amount_is_given_back();
    all_or_nothing_and_the_first_is_blamed();
    nothing_overflows();
    counts_stop_before_they_wrap();
    a_scope_is_small();
    memory_comes_first_and_priority_is_for_memory_only();
    return 0;
}
