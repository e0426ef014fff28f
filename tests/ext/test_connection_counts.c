#include "connection_counts.h"

#include <string.h>

#include "check.h"

static rcmgr_connection_limits no_limits(void)
{
    rcmgr_connection_limits limits;
    for (int i = 0; i < RCMGR_LIMITS; i++)
        limits.at[i] = RCMGR_NO_LIMIT;
    return limits;
}

static void nothing_limited_nothing_refused(void)
{
    rcmgr_connection_counts c = {0};
    rcmgr_connection_limits limits = no_limits();
    for (int state = 0; state < RCMGR_STATES; state++)
        CHECK_EQ(rcmgr_refusing_limit(&c, &limits, state, INT64_MAX - 1, false), RCMGR_ADMITTED);
}

static void each_limit_refuses_at_its_value(void)
{
    for (int state = 0; state < RCMGR_STATES; state++) {
        rcmgr_connection_counts c = {0};
        rcmgr_connection_limits limits = no_limits();
        limits.at[state] = 2;
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(rcmgr_refusing_limit(&c, &limits, state, 0, false), RCMGR_ADMITTED);
            rcmgr_enter(&c, state, false);
        }
        CHECK_EQ(rcmgr_refusing_limit(&c, &limits, state, 0, false), state);
        CHECK_EQ(rcmgr_counted(&c, state, 0), 2);
        for (int other = 0; other < RCMGR_STATES; other++)
            if (other != state)
                CHECK_EQ(rcmgr_refusing_limit(&c, &limits, other, 0, false), RCMGR_ADMITTED);
        rcmgr_leave(&c, state, false);
        CHECK_EQ(rcmgr_refusing_limit(&c, &limits, state, 0, false), RCMGR_ADMITTED);
    }
}

static void zero_admits_nothing(void)
{
    rcmgr_connection_counts c = {0};
    for (int limit = 0; limit < RCMGR_LIMITS; limit++) {
        rcmgr_connection_limits limits = no_limits();
        limits.at[limit] = 0;
        int state = limit < RCMGR_STATES ? limit : RCMGR_ESTABLISHED_INBOUND;
        CHECK_EQ(rcmgr_refusing_limit(&c, &limits, state, 0, false), limit);
    }
}

/* direction, peer, total, then everything */
static void the_first_full_limit_answers(void)
{
    rcmgr_connection_counts c = {0};
    rcmgr_connection_limits limits;
    for (int i = 0; i < RCMGR_LIMITS; i++)
        limits.at[i] = 1;
    rcmgr_enter(&c, RCMGR_ESTABLISHED_INBOUND, false);
    int order[] = {RCMGR_ESTABLISHED_INBOUND, RCMGR_PER_PEER, RCMGR_ESTABLISHED_TOTAL,
                   RCMGR_CONNECTIONS};
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(rcmgr_refusing_limit(&c, &limits, RCMGR_ESTABLISHED_INBOUND, 1, false), order[i]);
        limits.at[order[i]] = RCMGR_NO_LIMIT;
    }
    CHECK_EQ(rcmgr_refusing_limit(&c, &limits, RCMGR_ESTABLISHED_INBOUND, 1, false),
             RCMGR_ADMITTED);
}

static void pending_connections_know_no_peer_and_no_established_total(void)
{
    rcmgr_connection_counts c = {0};
    rcmgr_connection_limits limits = no_limits();
    limits.at[RCMGR_PER_PEER] = limits.at[RCMGR_ESTABLISHED_TOTAL] = 0;
    CHECK_EQ(rcmgr_refusing_limit(&c, &limits, RCMGR_PENDING_INBOUND, 5, false), RCMGR_ADMITTED);
    CHECK_EQ(rcmgr_refusing_limit(&c, &limits, RCMGR_PENDING_OUTBOUND, 5, false), RCMGR_ADMITTED);
}

static void a_counted_pending_connection_does_not_add_one(void)
{
    rcmgr_connection_counts c = {0};
    rcmgr_connection_limits limits = no_limits();
    limits.at[RCMGR_CONNECTIONS] = 1;
    rcmgr_enter(&c, RCMGR_PENDING_INBOUND, false);
    CHECK_EQ(rcmgr_refusing_limit(&c, &limits, RCMGR_ESTABLISHED_INBOUND, 0, true),
             RCMGR_ADMITTED);
    CHECK_EQ(rcmgr_refusing_limit(&c, &limits, RCMGR_ESTABLISHED_INBOUND, 0, false),
             RCMGR_CONNECTIONS);
}

static void exempt_ones_are_present_and_not_counted(void)
{
    rcmgr_connection_counts c = {0};
    for (int state = 0; state < RCMGR_STATES; state++) {
        rcmgr_enter(&c, state, true);
        CHECK_EQ(c.present[state], 1);
        CHECK_EQ(c.counted[state], 0);
    }
    for (int i = 0; i < RCMGR_PEAKS; i++)
        CHECK_EQ(c.peak[i], 0);
    for (int state = 0; state < RCMGR_STATES; state++)
        CHECK_EQ(c.entered[state], 1);
    for (int state = 0; state < RCMGR_STATES; state++)
        rcmgr_leave(&c, state, true);
    rcmgr_connection_counts empty = {0};
    CHECK(memcmp(c.present, empty.present, sizeof(c.present)) == 0);
    CHECK(memcmp(c.counted, empty.counted, sizeof(c.counted)) == 0);
}

static void totals_and_peaks(void)
{
    rcmgr_connection_counts c = {0};
    rcmgr_enter(&c, RCMGR_PENDING_INBOUND, false);
    rcmgr_enter(&c, RCMGR_PENDING_OUTBOUND, false);
    rcmgr_enter(&c, RCMGR_ESTABLISHED_INBOUND, false);
    rcmgr_enter(&c, RCMGR_ESTABLISHED_OUTBOUND, false);
    rcmgr_enter(&c, RCMGR_ESTABLISHED_OUTBOUND, false);
    CHECK_EQ(rcmgr_counted_pending(&c), 2);
    CHECK_EQ(rcmgr_counted_established(&c), 3);
    CHECK_EQ(rcmgr_counted(&c, RCMGR_CONNECTIONS, 0), 5);
    CHECK_EQ(rcmgr_counted(&c, RCMGR_ESTABLISHED_TOTAL, 0), 3);
    CHECK_EQ(rcmgr_counted(&c, RCMGR_PER_PEER, 7), 7);
    rcmgr_leave(&c, RCMGR_ESTABLISHED_OUTBOUND, false);
    rcmgr_leave(&c, RCMGR_PENDING_OUTBOUND, false);
    rcmgr_enter(&c, RCMGR_PENDING_INBOUND, false);
    CHECK_EQ(c.peak[RCMGR_PENDING_INBOUND], 2);
    CHECK_EQ(c.peak[RCMGR_PENDING_OUTBOUND], 1);
    CHECK_EQ(c.peak[RCMGR_PEAK_PENDING_TOTAL], 2);
    CHECK_EQ(c.peak[RCMGR_ESTABLISHED_INBOUND], 1);
    CHECK_EQ(c.peak[RCMGR_ESTABLISHED_OUTBOUND], 2);
    CHECK_EQ(c.peak[RCMGR_ESTABLISHED_TOTAL], 3);
    CHECK_EQ(c.peak[RCMGR_CONNECTIONS], 5);
    int entered[] = {2, 1, 1, 2};
    for (int state = 0; state < RCMGR_STATES; state++)
        CHECK_EQ(c.entered[state], entered[state]);
}

/* one connection in ten thousand random ones never passes a limit, and all counts come back */
static void a_long_random_life(void)
{
    rcmgr_connection_counts c = {0};
    rcmgr_connection_limits limits = {{3, 2, 4, 5, 100, 7, 9}};
    int64_t held[RCMGR_STATES] = {0};
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < 10000; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        int state = (int)(random & 3);
        if (random & 16) {
            if (rcmgr_refusing_limit(&c, &limits, state, 0, false) == RCMGR_ADMITTED) {
                rcmgr_enter(&c, state, false);
                held[state]++;
            }
        } else if (held[state] > 0) {
            rcmgr_leave(&c, state, false);
            held[state]--;
        }
        for (int s = 0; s < RCMGR_STATES; s++)
            CHECK_EQ(c.counted[s], held[s]);
    }
    for (int s = 0; s < RCMGR_STATES; s++)
        CHECK_EQ(c.peak[s], limits.at[s]);
    CHECK_EQ(c.peak[RCMGR_ESTABLISHED_TOTAL], 7);
    CHECK_EQ(c.peak[RCMGR_CONNECTIONS], 9);
    for (int s = 0; s < RCMGR_STATES; s++)
        while (held[s]-- > 0)
            rcmgr_leave(&c, s, false);
    CHECK_EQ(rcmgr_counted(&c, RCMGR_CONNECTIONS, 0), 0);
}

static void the_entry_is_as_small_as_promised(void)
{
    CHECK_EQ(sizeof(rcmgr_connection_entry), 8);
    CHECK_EQ(sizeof(rcmgr_connection_back), 8);
    const int64_t times[] = {0, 64, -64, INT64_MAX - 63, INT64_MIN, INT64_C(1764050000000000000)};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        rcmgr_connection_entry entry = {0};
        rcmgr_enter_state(&entry, RCMGR_CLOSED, i % 2 == 1, times[i]);
        CHECK_EQ(rcmgr_since_ns(&entry), times[i]);
        CHECK_EQ(rcmgr_entry_state(&entry), RCMGR_CLOSED);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_EXEMPT_BIT), i % 2 == 1);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_REPORTED_BIT), 0);
        rcmgr_entry_set(&entry, RCMGR_REPORTED_BIT, true);
        rcmgr_entry_set(&entry, RCMGR_FIRST_BIT, true);
        rcmgr_enter_state(&entry, RCMGR_PENDING_INBOUND, false, times[i] / 128 * 64);
        CHECK_EQ(rcmgr_entry_state(&entry), RCMGR_PENDING_INBOUND);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_EXEMPT_BIT), 0);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_REPORTED_BIT), 1);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_FIRST_BIT), 1);
        CHECK_EQ(rcmgr_since_ns(&entry), times[i] / 128 * 64);
        rcmgr_entry_set(&entry, RCMGR_FIRST_BIT, false);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_FIRST_BIT), 0);
        rcmgr_entry_set(&entry, RCMGR_EXEMPT_BIT, true);
        rcmgr_close_entry(&entry);
        CHECK_EQ(rcmgr_entry_state(&entry), RCMGR_CLOSED);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_EXEMPT_BIT), 1);
        CHECK_EQ(rcmgr_entry_has(&entry, RCMGR_REPORTED_BIT), 0);
        CHECK_EQ(rcmgr_since_ns(&entry), times[i] / 128 * 64);
    }
    rcmgr_connection_entry rounded = {0};
    rcmgr_enter_state(&rounded, RCMGR_PENDING_INBOUND, false, 127);
    CHECK_EQ(rcmgr_since_ns(&rounded), 64);
}

int main(void)
{
    nothing_limited_nothing_refused();
    each_limit_refuses_at_its_value();
    zero_admits_nothing();
    the_first_full_limit_answers();
    pending_connections_know_no_peer_and_no_established_total();
    a_counted_pending_connection_does_not_add_one();
    exempt_ones_are_present_and_not_counted();
    totals_and_peaks();
    a_long_random_life();
    the_entry_is_as_small_as_promised();
    return 0;
}
