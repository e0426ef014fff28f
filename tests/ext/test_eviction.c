#include "eviction.h"

#include "check.h"

/* The Hypothesis model tests the rules. This tests the edges of the data structure. */

enum { GROUPS = 40, MEMBERS = 400, CELLS = 1024 };
static const int64_t SECOND = 1000000000;

static rcmgr_eviction e;
static rcmgr_member members[MEMBERS];
static rcmgr_netgroup groups[GROUPS];
static int64_t cells[CELLS];
static int used;

static void begin(uint32_t places)
{
    static const rcmgr_eviction nothing;
    static const rcmgr_member nobody;
    static const rcmgr_netgroup no_group;
    e = nothing;
    for (int i = 0; i < MEMBERS; i++)
        members[i] = nobody;
    for (int i = 0; i < GROUPS; i++) {
        groups[i] = no_group;
        /* no lucky group, and separate cells */
        groups[i].hash = (uint64_t)i | UINT64_C(0x100) | (uint64_t)(i + GROUPS) << 32;
    }
    for (int i = 0; i < CELLS; i++)
        cells[i] = 0;
    used = 0;
    e.grace_ns = SECOND;
    e.stale_ns = 600 * SECOND;
    e.half_life_ns = 300 * SECOND;
    e.interval_ns = 1;
    e.burst_ns = SECOND;
    e.turns.cells = cells;
    e.turns.mask = CELLS - 1;
    e.turns.turn_ns = 20 * SECOND;
    rcmgr_eviction_begin(&e, places, 0);
}

static rcmgr_member *enter(int group, int64_t now)
{
    rcmgr_member *m = &members[used++];
    rcmgr_eviction_enter(&e, m, &groups[group], now);
    return m;
}

static rcmgr_member *choose(int group, int64_t now, int *rule)
{
    const rcmgr_netgroup *known = groups[group].size == 0 ? NULL : &groups[group];
    return rcmgr_eviction_choose(&e, groups[group].hash, known, now, rule);
}

static void test_nobody_there(void)
{
    int rule;
    begin(1);
    CHECK(choose(0, SECOND, &rule) == NULL);
    CHECK_EQ(rule, RCMGR_NO_WORSE);
}

static void test_seniors_are_the_older_half(void)
{
    begin(100);
    for (int i = 0; i < 101; i++)
        enter(i % GROUPS, i);
    for (int i = 0; i < 101; i++)
        CHECK_EQ(rcmgr_is_junior(&e, &members[i]), i >= 50);
    for (int i = 0; i < 50; i++) /* all seniors leave, in an odd order */
        rcmgr_eviction_leave(&e, &members[(i * 37) % 50]);
    CHECK_EQ(e.count, 51);
    for (int i = 50; i < 101; i++)
        CHECK_EQ(rcmgr_is_junior(&e, &members[i]), i >= 75);
    for (int i = 100; i >= 50; i--)
        rcmgr_eviction_leave(&e, &members[i]);
    CHECK_EQ(e.count, 0);
    CHECK(e.last_senior == NULL && e.eldest == NULL && e.youngest == NULL);
    CHECK(rcmgr_largest_group(&e.sizes) == NULL);
}

static void test_probation_confirms_the_best(void)
{
    begin(20); /* two on probation */
    rcmgr_member *idle = enter(0, 0), *works = enter(1, 0);
    rcmgr_eviction_work(&e, works, 1, 0);
    enter(2, 0);
    CHECK_EQ(works->seat.level, RCMGR_PROVEN);
    CHECK_EQ(idle->seat.level, RCMGR_ON_PROBATION);
    rcmgr_member *again = enter(2, 0); /* its group has two turns now */
    enter(3, 0);
    CHECK_EQ(idle->seat.level, RCMGR_UNPROVEN);
    CHECK_EQ(again->seat.level, RCMGR_ON_PROBATION);
    rcmgr_eviction_set_places(&e, 3, 0); /* none on probation */
    CHECK_EQ(e.levels[RCMGR_ON_PROBATION].count, 0);
    CHECK_EQ(e.levels[RCMGR_UNPROVEN].count, 4);
}

static void test_the_best_are_bounded(void)
{
    begin(1000);
    for (int i = 0; i < 300; i++)
        rcmgr_eviction_latency(&e, enter(i % GROUPS, 0), (uint32_t)(1000 - i));
    CHECK_EQ(e.best[RCMGR_BY_LATENCY].count, RCMGR_MOST_BEST);
    for (int i = 0; i < 300; i++) /* those 32 are the lowest, none of a group more than 8 times */
        CHECK_EQ(members[i].best[RCMGR_BY_LATENCY], i >= 268);
    rcmgr_eviction_set_places(&e, 16, 0);
    CHECK_EQ(e.best[RCMGR_BY_LATENCY].count, 2);
    CHECK(members[299].best[RCMGR_BY_LATENCY] && members[298].best[RCMGR_BY_LATENCY]);
    rcmgr_eviction_leave(&e, &members[299]);
    CHECK_EQ(e.best[RCMGR_BY_LATENCY].count, 1);
    rcmgr_eviction_latency(&e, &members[7], 999); /* higher than before: nothing */
    CHECK_EQ(members[7].latency_us, 993);
    rcmgr_eviction_latency(&e, &members[7], 5);
    CHECK(members[7].best[RCMGR_BY_LATENCY]);
}

static void test_work_is_forgotten(void)
{
    begin(1000);
    rcmgr_member *early = enter(0, 0), *late = enter(1, 0);
    rcmgr_eviction_work(&e, early, 3, 0);
    rcmgr_eviction_work(&e, late, 1, 600 * SECOND); /* two half-lives: worth four */
    CHECK(rcmgr_work_of(&e, late) > rcmgr_work_of(&e, early));
    int64_t much_later = 300 * SECOND * RCMGR_EPOCH_HALVES;
    rcmgr_eviction_work(&e, late, 1, much_later);
    CHECK(rcmgr_work_of(&e, early) == 0.0);
    CHECK(rcmgr_work_of(&e, late) == 1.0);
    CHECK_EQ(e.epoch, 1);
}

static void test_a_choice_is_bounded(void)
{
    int rule;
    begin(10000); /* a crowd has more than 312 */
    for (int i = 0; i < MEMBERS; i++)
        enter(i % 4, i); /* four groups of 100; six turns and more each */
    int64_t later = 1000 * SECOND;
    CHECK(choose(9, later, &rule) != NULL);
    CHECK_EQ(rule, RCMGR_RULE_CROWD);
    for (int i = 200; i < MEMBERS; i++) /* no unproven junior is left */
        if (members[i].seat.level == RCMGR_UNPROVEN)
            rcmgr_eviction_work(&e, &members[i], 1, later);
    rcmgr_member *m = choose(9, later, &rule);
    CHECK(m != NULL && m->seat.level == RCMGR_ON_PROBATION);
    CHECK_EQ(rule, RCMGR_RULE_PROBATION);
}

static void test_budget(void)
{
    int rule;
    begin(100);
    enter(0, 0);
    e.interval_ns = SECOND / 4;
    e.burst_ns = SECOND;
    int64_t now = 30 * SECOND;
    for (int i = 0; i < 4; i++) {
        CHECK(choose(1, now, &rule) == &members[0]);
        rcmgr_eviction_spend(&e, groups[1].hash, now);
        if (i == 1) { /* half of it is left to those that came not lately */
            rcmgr_turns_take(&e.turns, groups[2].hash, now);
            CHECK(choose(2, now, &rule) == NULL);
            CHECK_EQ(rule, RCMGR_NO_RATE);
        }
    }
    CHECK(choose(1, now, &rule) == NULL);
    CHECK_EQ(rule, RCMGR_NO_RATE);
    CHECK(choose(1, now + SECOND / 4, &rule) == &members[0]);
}

static void test_handshakes_of_a_group_that_comes_often(void)
{
    begin(100); /* 50 evictions a second */
    e.interval_ns = SECOND / 8;
    e.burst_ns = SECOND;
    uint64_t often = groups[0].hash, seldom = groups[1].hash;
    for (int i = 0; i <= RCMGR_OFTEN; i++) {
        CHECK_EQ(rcmgr_eviction_handshake(&e, often, 0), 0);
        rcmgr_turns_take(&e.turns, often, 0);
    }
    rcmgr_eviction_in_vain(&e, seldom, 0);
    for (int i = 0; i < 5; i++) /* none was in vain */
        CHECK_EQ(rcmgr_eviction_handshake(&e, often, 0), 0);
    rcmgr_eviction_in_vain(&e, often, 0);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, 0), 0);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, 0), 0);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, 0), SECOND / 2);
    CHECK_EQ(rcmgr_eviction_handshake(&e, seldom, 0), 0);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, SECOND / 2 - 1), 1);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, SECOND / 2), 0);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, SECOND / 2), SECOND / 2);
    rcmgr_turns_take(&e.turns, often, e.turns.turn_ns); /* still often after the time of a turn */
    CHECK(rcmgr_comes_often(&e, often, e.turns.turn_ns));
    for (int i = 0; i < 5; i++)
        CHECK_EQ(rcmgr_eviction_handshake(&e, often, e.turns.turn_ns), 0);
}

int main(void)
{
    test_nobody_there();
    test_seniors_are_the_older_half();
    test_probation_confirms_the_best();
    test_the_best_are_bounded();
    test_work_is_forgotten();
    test_a_choice_is_bounded();
    test_budget();
    test_handshakes_of_a_group_that_comes_often();
    return 0;
}
