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

static void test_a_group_has_a_quarter_of_the_best(void)
{
    begin(1000);
    for (int i = 0; i < 20; i++)
        rcmgr_eviction_latency(&e, enter(0, 0), (uint32_t)(1000 - i));
    CHECK_EQ(e.best[RCMGR_BY_LATENCY].count, RCMGR_MOST_BEST / 4);
    CHECK(members[19].best[RCMGR_BY_LATENCY] && !members[0].best[RCMGR_BY_LATENCY]);
}

static void test_work_of_a_new_epoch_is_the_best(void)
{
    begin(8); /* one of the best */
    for (int i = 0; i < 3; i++)
        enter(i, 0);
    rcmgr_eviction_work(&e, &members[0], 5, 0);
    rcmgr_eviction_work(&e, &members[1], 9, 0);
    CHECK(members[1].best[RCMGR_BY_WORK]);
    rcmgr_eviction_work(&e, &members[2], 1, 300 * SECOND * RCMGR_EPOCH_HALVES);
    CHECK(members[2].best[RCMGR_BY_WORK] && !members[1].best[RCMGR_BY_WORK]);
}

static void test_a_confirmed_one_becomes_stale_later(void)
{
    begin(4); /* one on probation */
    rcmgr_eviction_work(&e, enter(0, 0), 1, 0);
    enter(1, 100 * SECOND);
    CHECK_EQ(members[0].seat.level, RCMGR_PROVEN);
    enter(2, e.stale_ns);
    CHECK_EQ(members[0].seat.level, RCMGR_PROVEN);
    enter(2, e.stale_ns + 100 * SECOND);
    CHECK_EQ(members[0].seat.level, RCMGR_UNPROVEN);
}

static void test_places_on_probation(void)
{
    static const struct {
        uint32_t places, most;
    } cases[] = {{1, 0}, {3, 0}, {4, 1}, {19, 1}, {20, 2}, {639, 63}, {640, 64}, {1 << 20, 64}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin(cases[i].places);
        CHECK_EQ(e.most_on_probation, cases[i].most);
    }
}

static void test_two_at_a_time_are_unproven_again(void)
{
    begin(3); /* none on probation */
    for (int i = 0; i < 5; i++)
        rcmgr_eviction_work(&e, enter(i, 0), 1, 0);
    CHECK_EQ(e.levels[RCMGR_PROVEN].count, 5);
    enter(9, e.stale_ns - 1);
    CHECK_EQ(e.levels[RCMGR_PROVEN].count, 5);
    enter(9, e.stale_ns);
    CHECK_EQ(e.levels[RCMGR_PROVEN].count, 3);
    enter(9, e.stale_ns);
    CHECK_EQ(e.levels[RCMGR_PROVEN].count, 1);
    CHECK(!members[0].proven && members[4].proven);
}

static void test_work_makes_a_proven_one_the_last_of_them(void)
{
    begin(3);
    for (int i = 0; i < 2; i++)
        rcmgr_eviction_work(&e, enter(i, 0), 1, 0);
    int64_t now = e.stale_ns / RCMGR_REFRESHES;
    rcmgr_eviction_work(&e, &members[0], 1, now - 1);
    CHECK(e.levels[RCMGR_PROVEN].first == &members[0]);
    rcmgr_eviction_work(&e, &members[0], 1, now);
    CHECK(e.levels[RCMGR_PROVEN].first == &members[1]);
}

static void test_a_crowd_has_more_than_twice_as_many(void)
{
    int rule;
    int64_t later = 1000 * SECOND;
    begin(3);
    enter(0, 0);
    enter(0, 1);
    CHECK(choose(9, later, &rule) == &members[1]);
    CHECK_EQ(rule, RCMGR_RULE_UNPROVEN);
    enter(0, 2);
    CHECK(choose(9, later, &rule) == &members[2]);
    CHECK_EQ(rule, RCMGR_RULE_CROWD);
}

static void test_of_a_large_group_a_proven_one_goes(void)
{
    int rule;
    int64_t later = 300 * SECOND;
    begin(3);
    CHECK_EQ(e.crowd, RCMGR_LEAST_CROWD);
    for (int i = 0; i < RCMGR_LEAST_CROWD; i++)
        rcmgr_eviction_work(&e, enter(0, i), i < 2 ? 9 - i : 1, i);
    CHECK(choose(9, later, &rule) == NULL);
    rcmgr_eviction_work(&e, enter(0, 9), 1, 9);
    CHECK(choose(9, later, &rule) == &members[RCMGR_LEAST_CROWD]);
    CHECK_EQ(rule, RCMGR_RULE_CROWD);
}

static void test_a_senior_of_a_small_group_stays(void)
{
    int rule;
    int64_t later = 1000 * SECOND;
    for (int size = RCMGR_LEAST_CROWD; size <= RCMGR_LEAST_CROWD + 1; size++) {
        begin(3);
        for (int i = 0; i < size; i++)
            enter(0, 0);
        for (int i = 0; i < size; i++)
            enter(1 + i, 1);
        rcmgr_member *m = choose(0, later, &rule);
        if (size == RCMGR_LEAST_CROWD) {
            CHECK_EQ(rule, RCMGR_RULE_UNPROVEN);
        } else {
            CHECK(m == &members[size - 1]);
            CHECK_EQ(rule, RCMGR_RULE_OWN_GROUP);
        }
    }
}

static void test_a_connection_is_spared_during_its_grace(void)
{
    int rule;
    begin(3);
    enter(0, 0);
    rcmgr_turns_take(&e.turns, groups[1].hash, 0); /* the newcomer's group has as many turns */
    CHECK(choose(1, SECOND - 1, &rule) == NULL);
    CHECK(choose(1, SECOND, &rule) == &members[0]);
    CHECK_EQ(rule, RCMGR_RULE_UNPROVEN);
}

static void test_the_grace_on_probation(void)
{
    int rule;
    begin(20);
    rcmgr_member *m = enter(0, 0);
    rcmgr_turns_take(&e.turns, groups[0].hash, 0);
    rcmgr_turns_take(&e.turns, groups[1].hash, 0); /* its group has one turn more */
    CHECK(choose(1, SECOND / 3 - 1, &rule) == NULL);
    CHECK(choose(1, SECOND / 3, &rule) == m);
    CHECK_EQ(rule, RCMGR_RULE_PROBATION);
    rcmgr_turns_take(&e.turns, groups[1].hash, 0);
    CHECK(choose(1, SECOND - 1, &rule) == NULL);
    CHECK(choose(1, SECOND, &rule) == m);
}

static void test_the_youngest_of_equals_on_probation_goes(void)
{
    int rule;
    begin(20);
    enter(0, 0);
    enter(1, 0);
    CHECK(choose(9, 30 * SECOND, &rule) == &members[1]);
    CHECK_EQ(rule, RCMGR_RULE_PROBATION);
}

static void test_the_last_one_of_a_lucky_group_stays(void)
{
    int rule;
    begin(3);
    groups[0].hash = UINT64_C(1) << 40;
    enter(0, 0);
    CHECK(choose(9, 30 * SECOND, &rule) == NULL);
    enter(0, 0);
    CHECK(choose(9, 60 * SECOND, &rule) == &members[1]);
}

static void test_groups_that_come_often_have_a_quarter(void)
{
    int rule;
    begin(20);
    e.interval_ns = SECOND / 8;
    e.burst_ns = SECOND;
    int64_t now = 2 * SECOND;
    enter(0, 0);
    for (int i = 0; i < 2 * RCMGR_OFTEN; i++)
        rcmgr_turns_take(&e.turns, groups[0].hash, 0);
    for (int i = 0; i < 2; i++) {
        CHECK(choose(0, now, &rule) == &members[0]);
        rcmgr_eviction_spend(&e, groups[0].hash, now);
    }
    CHECK(choose(0, now + SECOND / 2 - 1, &rule) == NULL);
    CHECK_EQ(rule, RCMGR_NO_RATE);
    CHECK(choose(0, now + SECOND / 2, &rule) == &members[0]);
}

static void test_a_small_budget_begins_one_handshake(void)
{
    begin(20);
    e.interval_ns = e.burst_ns = SECOND;
    uint64_t often = groups[0].hash;
    for (int i = 0; i <= RCMGR_OFTEN; i++)
        rcmgr_turns_take(&e.turns, often, 0);
    rcmgr_eviction_in_vain(&e, often, 0);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, 0), 0);
    CHECK_EQ(rcmgr_eviction_handshake(&e, often, 0), 4 * SECOND);
}

int main(void)
{
    test_a_group_has_a_quarter_of_the_best();
    test_work_of_a_new_epoch_is_the_best();
    test_a_confirmed_one_becomes_stale_later();
    test_places_on_probation();
    test_two_at_a_time_are_unproven_again();
    test_work_makes_a_proven_one_the_last_of_them();
    test_a_crowd_has_more_than_twice_as_many();
    test_of_a_large_group_a_proven_one_goes();
    test_a_senior_of_a_small_group_stays();
    test_a_connection_is_spared_during_its_grace();
    test_the_grace_on_probation();
    test_the_youngest_of_equals_on_probation_goes();
    test_the_last_one_of_a_lucky_group_stays();
    test_groups_that_come_often_have_a_quarter();
    test_a_small_budget_begins_one_handshake();
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
