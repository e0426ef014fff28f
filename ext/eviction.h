/* The connection that is worth least when a node is full and a newcomer knocks.
 *
 * The places of a node are two rooms. The last tenth is for connections on probation. Every newcomer
 * enters there. When too many are on probation, the best of them is confirmed and moves to the main
 * room. The best did useful work. If several did, it is of the group that came least often lately.
 * If several are equal, it is the oldest. So a flood of newcomers displaces newcomers, and the main
 * room keeps the connections that came before the flood.
 *
 * In the main room a connection is proven if it did useful work within `stale_ns`. Otherwise it is
 * unproven. It is junior if it is among the younger half of all connections. A newcomer's group has
 * `own` connections and `debt` turns (see turns.h). The newcomer may replace:
 *
 *   1. a connection of a crowd: a group with more than 2 * (own + 1) connections, the largest first.
 *      The youngest unproven one of the group goes. It must be junior unless the group has more than
 *      `crowd` connections. If such a large group has no unproven one, its youngest proven one goes.
 *   2. the youngest unproven connection of the same group, with the same exception for juniors.
 *   3. the youngest unproven junior whose group has no fewer turns.
 *   4. a connection on probation whose group has no fewer turns. It must be past its grace. If its
 *      group has a whole turn more, a third of the grace is enough. The one with the most turns goes,
 *      and the youngest if several have them.
 *
 * Rules 1 to 3 spare every connection during its grace. They spare the `most_best` connections with
 * the most useful work, and as many with the lowest latency. One group has at most a quarter of
 * these places. They spare the last connection of one group in sixteen, which the keyed hash picks.
 * Newcomers of other groups need not wait for the grace of a group with RCMGR_OFTEN turns.
 *
 * A budget limits how many places newcomers take in a second. Half of it is kept for groups with less
 * than one turn. A group with RCMGR_OFTEN turns may replace its own connections only. All such groups
 * together have a quarter of the budget. So an attacker there displaces no other group, and an
 * honest newcomer of that group may still enter. After a handshake of such a group was in vain, these
 * groups may begin only as many handshakes for the time of a turn.
 *
 * Bounds: a choice looks at RCMGR_GROUPS_SEEN groups and at RCMGR_SEATS_SEEN connections in each of
 * their two lists. It looks at RCMGR_UNPROVEN_SEEN unproven ones and at all that are on probation.
 * Everything else is O(1), or O(most_best) when a connection may become one of the best.
 *
 * The protections follow the idea of Bitcoin Core's inbound eviction: an attacker cannot have these
 * features for all its connections at once. Probation is the idea of the segmented LRU cache
 * (Karedla, Love and Wherry, 1994). No Python, no allocation, no system call. Not thread safe. */
#ifndef RCMGR_EVICTION_H
#define RCMGR_EVICTION_H

#include <math.h>

#include "netgroups.h"
#include "turns.h"

enum {
    RCMGR_GROUPS_SEEN = 16,
    RCMGR_SEATS_SEEN = 24, /* in one list */
    RCMGR_UNPROVEN_SEEN = 64,
    RCMGR_MOST_ON_PROBATION = 64,
    RCMGR_MOST_BEST = 32,
    RCMGR_OFTEN = 6,        /* turns */
    RCMGR_PROBATION_OF = 10, /* one place in so many */
    RCMGR_BEST_OF = 8,
    RCMGR_CROWD_OF = 32,
    RCMGR_LEAST_CROWD = 6,
    RCMGR_LUCKY_OF = 16,
    RCMGR_REFRESHES = 10,   /* how often in `stale_ns` a working connection is moved in its list */
    RCMGR_EPOCH_HALVES = 512,
};

/* levels of a seat */
enum { RCMGR_ON_PROBATION, RCMGR_UNPROVEN, RCMGR_PROVEN, RCMGR_MEMBER_LEVELS };

/* the kinds of best connections */
enum { RCMGR_BY_WORK, RCMGR_BY_LATENCY, RCMGR_KINDS };

/* the rule that found the connection to end, or the reason why no rule did */
enum {
    RCMGR_RULE_CROWD,
    RCMGR_RULE_OWN_GROUP,
    RCMGR_RULE_UNPROVEN,
    RCMGR_RULE_PROBATION,
    RCMGR_NO_OFTEN,
    RCMGR_NO_RATE,
    RCMGR_NO_WORSE,
    RCMGR_RULES,
};

#define RCMGR_UNKNOWN_LATENCY UINT32_MAX

typedef struct rcmgr_member rcmgr_member;

struct rcmgr_member {
    rcmgr_seat seat; /* first: a seat is its member */
    rcmgr_member *elder, *junior; /* by age, of all */
    rcmgr_member *before, *next;  /* neighbours in its level, over all groups */
    uint64_t order; /* goes up with every connection that enters */
    int64_t born_ns;
    int64_t worked_ns; /* when it came to its place in the list of the proven */
    double work;       /* see rcmgr_work_weight */
    uint32_t latency_us;
    uint32_t streams_seen; /* for the owner: how many streams it has reported */
    uint16_t epoch; /* the epoch that `work` belongs to */
    bool proven;
    bool best[RCMGR_KINDS];
};

typedef struct {
    rcmgr_member *first, *last;
    uint32_t count;
} rcmgr_member_list;

typedef struct {
    rcmgr_member *at[RCMGR_MOST_BEST];
    uint32_t count;
    double floor; /* none in it is worse than this, if it is full */
} rcmgr_best;

typedef struct {
    /* settings */
    uint32_t places, most_on_probation, most_best, crowd;
    int64_t grace_ns, stale_ns, half_life_ns;
    int64_t interval_ns; /* between two evictions in the long run */
    int64_t burst_ns;    /* intervals that may be spent at once */
    /* state */
    rcmgr_group_sizes sizes;
    rcmgr_turns turns;
    rcmgr_member_list levels[RCMGR_MEMBER_LEVELS];
    rcmgr_best best[RCMGR_KINDS];
    rcmgr_member *eldest, *youngest, *last_senior;
    uint32_t count, seniors;
    uint64_t orders;
    int64_t spent_until_ns, often_until_ns, begun_until_ns;
    int64_t in_vain_until_ns;
    int64_t landmark_ns; /* work done at this time weighs 1 */
    uint16_t epoch;
} rcmgr_eviction;

/* -- lists ----------------------------------------------------------------------------------- */

static inline void rcmgr_members_append(rcmgr_member_list *list, rcmgr_member *m)
{
    m->before = list->last;
    m->next = NULL;
    if (list->last != NULL)
        list->last->next = m;
    else
        list->first = m;
    list->last = m;
    list->count++;
}

static inline void rcmgr_members_prepend(rcmgr_member_list *list, rcmgr_member *m)
{
    m->next = list->first;
    m->before = NULL;
    if (list->first != NULL)
        list->first->before = m;
    else
        list->last = m;
    list->first = m;
    list->count++;
}

static inline void rcmgr_members_remove(rcmgr_member_list *list, rcmgr_member *m)
{
    if (m->before != NULL)
        m->before->next = m->next;
    else
        list->first = m->next;
    if (m->next != NULL)
        m->next->before = m->before;
    else
        list->last = m->before;
    list->count--;
}

static inline void rcmgr_member_set_level(rcmgr_eviction *e, rcmgr_member *m, int level)
{
    rcmgr_members_remove(&e->levels[m->seat.level], m);
    rcmgr_seat_set_level(&m->seat, level);
    rcmgr_members_append(&e->levels[level], m);
}

/* -- age: the older half are seniors --------------------------------------------------------- */

static inline bool rcmgr_is_junior(const rcmgr_eviction *e, const rcmgr_member *m)
{
    return e->last_senior == NULL || m->order > e->last_senior->order;
}

static inline void rcmgr_fit_seniors(rcmgr_eviction *e)
{
    while (e->seniors < e->count / 2) {
        e->last_senior = e->last_senior == NULL ? e->eldest : e->last_senior->junior;
        e->seniors++;
    }
    while (e->seniors > e->count / 2) {
        e->last_senior = e->last_senior->elder;
        e->seniors--;
    }
}

static inline void rcmgr_age_enter(rcmgr_eviction *e, rcmgr_member *m)
{
    m->order = e->orders++;
    m->elder = e->youngest;
    m->junior = NULL;
    if (e->youngest != NULL)
        e->youngest->junior = m;
    else
        e->eldest = m;
    e->youngest = m;
    e->count++;
    rcmgr_fit_seniors(e);
}

static inline void rcmgr_age_leave(rcmgr_eviction *e, rcmgr_member *m)
{
    if (!rcmgr_is_junior(e, m)) {
        e->seniors--;
        if (e->last_senior == m)
            e->last_senior = m->elder;
    }
    if (m->elder != NULL)
        m->elder->junior = m->junior;
    else
        e->eldest = m->junior;
    if (m->junior != NULL)
        m->junior->elder = m->elder;
    else
        e->youngest = m->elder;
    e->count--;
    rcmgr_fit_seniors(e);
}

/* -- useful work, which is forgotten by half in each half-life ------------------------------- */

/* The weight of one unit of work now. Later work weighs more, so that no score has to be lowered. */
static inline double rcmgr_work_weight(rcmgr_eviction *e, int64_t now)
{
    int64_t since = now > e->landmark_ns ? now - e->landmark_ns : 0;
    int64_t halves = since / e->half_life_ns;
    if (halves >= RCMGR_EPOCH_HALVES) { /* earlier work weighs nothing by now */
        e->landmark_ns = now;
        e->epoch++;
        e->best[RCMGR_BY_WORK].floor = -INFINITY;
        return 1.0;
    }
    double rest = (double)(since % e->half_life_ns) / (double)e->half_life_ns;
    return ldexp(1.0 + rest, (int)halves);
}

static inline double rcmgr_work_of(const rcmgr_eviction *e, const rcmgr_member *m)
{
    return m->epoch == e->epoch ? m->work : 0.0;
}

/* -- the best of each kind ------------------------------------------------------------------- */

/* How good a connection is: the greater, the better. */
static inline double rcmgr_value(const rcmgr_eviction *e, int kind, const rcmgr_member *m)
{
    return kind == RCMGR_BY_LATENCY ? -(double)m->latency_us : rcmgr_work_of(e, m);
}

static inline void rcmgr_best_drop(rcmgr_best *best, int kind, uint32_t at)
{
    best->at[at]->best[kind] = false;
    best->at[at] = best->at[--best->count];
    best->floor = -INFINITY;
}

/* The worst one of a group, or of all if `group` is NULL. If several are equal, the first one.
 * `count`: how many the group has. */
static inline uint32_t rcmgr_best_worst(const rcmgr_eviction *e, int kind,
                                        const rcmgr_netgroup *group, uint32_t *count)
{
    const rcmgr_best *best = &e->best[kind];
    uint32_t worst = 0;
    double least = 0.0;
    *count = 0;
    for (uint32_t i = 0; i < best->count; i++) {
        if (group != NULL && best->at[i]->seat.group != group)
            continue;
        double value = rcmgr_value(e, kind, best->at[i]);
        if (++*count == 1 || value < least) {
            worst = i;
            least = value;
        }
    }
    return worst;
}

static inline uint32_t rcmgr_best_quota(const rcmgr_eviction *e)
{
    return e->most_best < 4 ? 1 : e->most_best / 4;
}

/* A member has become better, and may replace a worse one. If its group has its full share, it
 * replaces one of that group. */
static inline void rcmgr_best_consider(rcmgr_eviction *e, int kind, rcmgr_member *m)
{
    rcmgr_best *best = &e->best[kind];
    double value = rcmgr_value(e, kind, m);
    bool full = best->count >= e->most_best;
    if (m->best[kind] || (full && value <= best->floor))
        return;
    uint32_t count, of_group;
    uint32_t at = rcmgr_best_worst(e, kind, m->seat.group, &of_group);
    if (of_group < rcmgr_best_quota(e)) {
        at = full ? rcmgr_best_worst(e, kind, NULL, &count) : best->count++;
        best->floor = full ? rcmgr_value(e, kind, best->at[at]) : -INFINITY;
    } else {
        full = true; /* for this group */
    }
    if (full) {
        if (value <= rcmgr_value(e, kind, best->at[at]))
            return;
        best->at[at]->best[kind] = false;
    }
    best->at[at] = m;
    m->best[kind] = true;
}

static inline void rcmgr_best_leave(rcmgr_eviction *e, int kind, rcmgr_member *m)
{
    for (uint32_t i = 0; m->best[kind]; i++)
        if (e->best[kind].at[i] == m)
            rcmgr_best_drop(&e->best[kind], kind, i);
}

/* -- probation ------------------------------------------------------------------------------- */

static inline int64_t rcmgr_debt_of(const rcmgr_eviction *e, const rcmgr_member *m, int64_t now)
{
    return rcmgr_turns_debt(&e->turns, m->seat.group->hash, now);
}

static inline void rcmgr_fit_probation(rcmgr_eviction *e, int64_t now)
{
    rcmgr_member_list *list = &e->levels[RCMGR_ON_PROBATION];
    while (list->count > e->most_on_probation) {
        rcmgr_member *chosen = list->first;
        int64_t least = rcmgr_debt_of(e, chosen, now);
        for (rcmgr_member *m = chosen->next; m != NULL; m = m->next) {
            int64_t debt = rcmgr_debt_of(e, m, now);
            if (m->proven != chosen->proven ? m->proven : debt < least) {
                chosen = m;
                least = debt;
            }
        }
        chosen->worked_ns = now;
        rcmgr_member_set_level(e, chosen, chosen->proven ? RCMGR_PROVEN : RCMGR_UNPROVEN);
    }
}

/* A connection without useful work for long is unproven again. At most two change at a time. */
static inline void rcmgr_demote_stale(rcmgr_eviction *e, int64_t now)
{
    for (int i = 0; i < 2; i++) {
        rcmgr_member *m = e->levels[RCMGR_PROVEN].first;
        if (m == NULL || now - m->worked_ns < e->stale_ns)
            return;
        m->proven = false;
        rcmgr_member_set_level(e, m, RCMGR_UNPROVEN);
    }
}

/* -- the life of a connection ---------------------------------------------------------------- */

static inline void rcmgr_eviction_set_places(rcmgr_eviction *e, uint32_t places, int64_t now)
{
    e->places = places;
    e->most_on_probation = places < 4 ? 0 : places / RCMGR_PROBATION_OF;
    if (places >= 4 && e->most_on_probation == 0)
        e->most_on_probation = 1;
    if (e->most_on_probation > RCMGR_MOST_ON_PROBATION)
        e->most_on_probation = RCMGR_MOST_ON_PROBATION;
    e->most_best = places / RCMGR_BEST_OF;
    if (e->most_best == 0)
        e->most_best = 1;
    if (e->most_best > RCMGR_MOST_BEST)
        e->most_best = RCMGR_MOST_BEST;
    e->crowd = places / RCMGR_CROWD_OF;
    if (e->crowd < RCMGR_LEAST_CROWD)
        e->crowd = RCMGR_LEAST_CROWD;
    for (int kind = 0; kind < RCMGR_KINDS; kind++)
        while (e->best[kind].count > e->most_best) {
            uint32_t count;
            rcmgr_best_drop(&e->best[kind], kind, rcmgr_best_worst(e, kind, NULL, &count));
        }
    rcmgr_fit_probation(e, now);
}

/* `e` is zeroed, except its settings and the memory of its turns. */
static inline void rcmgr_eviction_begin(rcmgr_eviction *e, uint32_t places, int64_t now)
{
    e->landmark_ns = now;
    for (int kind = 0; kind < RCMGR_KINDS; kind++)
        e->best[kind].floor = -INFINITY;
    rcmgr_eviction_set_places(e, places, now);
}

/* `m` is new: zeroed, except its seat's owner, number and generation. */
static inline void rcmgr_eviction_enter(rcmgr_eviction *e, rcmgr_member *m, rcmgr_netgroup *group,
                                        int64_t now)
{
    m->born_ns = now;
    m->worked_ns = now;
    m->latency_us = RCMGR_UNKNOWN_LATENCY;
    m->epoch = e->epoch;
    rcmgr_turns_take(&e->turns, group->hash, now);
    rcmgr_seat_enter(&e->sizes, &m->seat, group, RCMGR_ON_PROBATION);
    rcmgr_members_append(&e->levels[RCMGR_ON_PROBATION], m);
    rcmgr_age_enter(e, m);
    rcmgr_fit_probation(e, now);
    rcmgr_demote_stale(e, now);
}

static inline void rcmgr_eviction_leave(rcmgr_eviction *e, rcmgr_member *m)
{
    for (int kind = 0; kind < RCMGR_KINDS; kind++)
        rcmgr_best_leave(e, kind, m);
    rcmgr_members_remove(&e->levels[m->seat.level], m);
    rcmgr_age_leave(e, m);
    rcmgr_seat_leave(&e->sizes, &m->seat);
}

static inline void rcmgr_eviction_work(rcmgr_eviction *e, rcmgr_member *m, double units,
                                       int64_t now)
{
    double added = units * rcmgr_work_weight(e, now);
    m->work = rcmgr_work_of(e, m) + added;
    m->epoch = e->epoch;
    if (!m->proven || now - m->worked_ns >= e->stale_ns / RCMGR_REFRESHES) {
        m->worked_ns = now;
        if (m->seat.level == RCMGR_UNPROVEN) {
            rcmgr_member_set_level(e, m, RCMGR_PROVEN);
        } else if (m->seat.level == RCMGR_PROVEN) {
            rcmgr_members_remove(&e->levels[RCMGR_PROVEN], m);
            rcmgr_members_append(&e->levels[RCMGR_PROVEN], m);
        }
        m->proven = true;
    }
    rcmgr_best_consider(e, RCMGR_BY_WORK, m);
}

static inline void rcmgr_eviction_latency(rcmgr_eviction *e, rcmgr_member *m, uint32_t us)
{
    if (us >= m->latency_us)
        return;
    m->latency_us = us;
    rcmgr_best_consider(e, RCMGR_BY_LATENCY, m);
}

/* From now on it counts as the oldest of its lists, and so goes last. */
static inline void rcmgr_eviction_promote(rcmgr_eviction *e, rcmgr_member *m)
{
    int level = m->seat.level == RCMGR_ON_PROBATION
        ? (m->proven ? RCMGR_PROVEN : RCMGR_UNPROVEN) : m->seat.level;
    rcmgr_members_remove(&e->levels[m->seat.level], m);
    rcmgr_list_remove(&m->seat.group->levels[m->seat.level], &m->seat);
    m->seat.level = level;
    rcmgr_members_prepend(&e->levels[level], m);
    rcmgr_list_prepend(&m->seat.group->levels[level], &m->seat);
}

/* -- the choice ------------------------------------------------------------------------------ */

static inline bool rcmgr_is_often(const rcmgr_eviction *e, int64_t debt)
{
    return debt >= RCMGR_OFTEN * e->turns.turn_ns;
}

static inline bool rcmgr_comes_often(const rcmgr_eviction *e, uint64_t hash, int64_t now)
{
    return rcmgr_is_often(e, rcmgr_turns_debt(&e->turns, hash, now));
}

/* How long newcomers of other groups leave a connection of a group with this debt alone. */
static inline int64_t rcmgr_grace_of(const rcmgr_eviction *e, int64_t debt)
{
    return rcmgr_is_often(e, debt) ? 0 : e->grace_ns;
}

static inline bool rcmgr_is_spared(const rcmgr_member *m, int64_t grace, int64_t now)
{
    if (m->best[RCMGR_BY_WORK] || m->best[RCMGR_BY_LATENCY] || now - m->born_ns < grace)
        return true;
    return m->seat.group->size == 1 && (m->seat.group->hash >> 8) % RCMGR_LUCKY_OF == 0;
}

static inline rcmgr_member *rcmgr_youngest_of_group(const rcmgr_eviction *e,
                                                    const rcmgr_netgroup *group, int level,
                                                    bool only_junior, int64_t grace,
                                                    int64_t now)
{
    rcmgr_seat *seat = group->levels[level].youngest;
    for (int seen = 0; seat != NULL && seen < RCMGR_SEATS_SEEN; seen++, seat = seat->older) {
        rcmgr_member *m = (rcmgr_member *)seat;
        if (!rcmgr_is_spared(m, grace, now) && (!only_junior || rcmgr_is_junior(e, m)))
            return m;
    }
    return NULL;
}

static inline rcmgr_member *rcmgr_of_crowd(const rcmgr_eviction *e, uint32_t own, int64_t now)
{
    const rcmgr_netgroup *group = rcmgr_largest_group(&e->sizes);
    for (int seen = 0; group != NULL && seen < RCMGR_GROUPS_SEEN; seen++) {
        if (group->size <= 2 * ((uint64_t)own + 1))
            return NULL;
        bool large = group->size > e->crowd;
        int64_t grace = rcmgr_grace_of(e, rcmgr_turns_debt(&e->turns, group->hash, now));
        rcmgr_member *m = rcmgr_youngest_of_group(e, group, RCMGR_UNPROVEN, !large, grace, now);
        if (m == NULL && large)
            m = rcmgr_youngest_of_group(e, group, RCMGR_PROVEN, false, grace, now);
        if (m != NULL)
            return m;
        group = rcmgr_next_group(&e->sizes, group);
    }
    return NULL;
}

static inline rcmgr_member *rcmgr_of_own_group(const rcmgr_eviction *e,
                                               const rcmgr_netgroup *group, int64_t now)
{
    if (group == NULL)
        return NULL;
    return rcmgr_youngest_of_group(
        e, group, RCMGR_UNPROVEN, group->size <= e->crowd, e->grace_ns, now);
}

static inline rcmgr_member *rcmgr_of_unproven(const rcmgr_eviction *e, int64_t debt, int64_t now)
{
    rcmgr_member *m = e->levels[RCMGR_UNPROVEN].last;
    for (int seen = 0; m != NULL && seen < RCMGR_UNPROVEN_SEEN; seen++, m = m->before) {
        int64_t its = rcmgr_debt_of(e, m, now);
        if (its >= debt && rcmgr_is_junior(e, m)
            && !rcmgr_is_spared(m, rcmgr_grace_of(e, its), now))
            return m;
    }
    return NULL;
}

/* `only`: look at this group's; NULL: at all. */
static inline rcmgr_member *rcmgr_of_probation(const rcmgr_eviction *e,
                                               const rcmgr_netgroup *only, int64_t debt,
                                               int64_t now)
{
    rcmgr_member *chosen = NULL;
    int64_t most = 0;
    for (rcmgr_member *m = e->levels[RCMGR_ON_PROBATION].first; m != NULL; m = m->next) {
        if (only != NULL && m->seat.group != only)
            continue;
        int64_t age = now - m->born_ns, its = rcmgr_debt_of(e, m, now);
        int64_t grace = only != NULL ? e->grace_ns : rcmgr_grace_of(e, its);
        bool worse = age >= grace ? its >= debt
            : age >= grace / 3 && its >= debt + e->turns.turn_ns;
        if (worse && (chosen == NULL || its >= most)) {
            chosen = m;
            most = its;
        }
    }
    return chosen;
}

/* Whether a budget has room for one more. `until`: when it is full again. `most`: its size. */
static inline bool rcmgr_may_spend(int64_t until, int64_t interval, int64_t most, int64_t now)
{
    return (until > now ? until - now : 0) + interval <= most;
}

static inline int64_t rcmgr_spent(int64_t until, int64_t interval, int64_t now)
{
    return (until > now ? until : now) + interval;
}

/* The connection that a newcomer may replace, or NULL. Changes nothing.
 *
 * hash: identifies the newcomer's group. group: that group, or NULL if it has no connection.
 * rule: set to the rule that found the connection, or to the reason for NULL. */
static inline rcmgr_member *rcmgr_eviction_choose(const rcmgr_eviction *e, uint64_t hash,
                                                  const rcmgr_netgroup *group, int64_t now,
                                                  int *rule)
{
    int64_t debt = rcmgr_turns_debt(&e->turns, hash, now);
    bool often = rcmgr_is_often(e, debt);
    int64_t most = debt < e->turns.turn_ns ? e->burst_ns : e->burst_ns / 2;
    *rule = RCMGR_NO_RATE;
    if (!rcmgr_may_spend(e->spent_until_ns, e->interval_ns, most, now)
        || (often && !rcmgr_may_spend(e->often_until_ns, 4 * e->interval_ns, e->burst_ns, now)))
        return NULL;
    *rule = RCMGR_NO_OFTEN;
    if (often && group == NULL)
        return NULL;
    rcmgr_member *m = NULL;
    if (!often) {
        *rule = RCMGR_RULE_CROWD;
        m = rcmgr_of_crowd(e, group == NULL ? 0 : group->size, now);
    }
    if (m == NULL) {
        *rule = RCMGR_RULE_OWN_GROUP;
        m = rcmgr_of_own_group(e, group, now);
    }
    if (m == NULL && !often) {
        *rule = RCMGR_RULE_UNPROVEN;
        m = rcmgr_of_unproven(e, debt, now);
    }
    if (m == NULL) {
        *rule = RCMGR_RULE_PROBATION;
        m = rcmgr_of_probation(e, often ? group : NULL, debt, now);
    }
    if (m == NULL)
        *rule = often ? RCMGR_NO_OFTEN : RCMGR_NO_WORSE;
    return m;
}

/* A newcomer of this group has no place, though its handshake is done. */
static inline void rcmgr_eviction_in_vain(rcmgr_eviction *e, uint64_t hash, int64_t now)
{
    if (rcmgr_comes_often(e, hash, now))
        e->in_vain_until_ns = now + e->turns.turn_ns;
}

/* Nanoseconds until a newcomer of this group may begin a handshake. 0: it begins one now. */
static inline int64_t rcmgr_eviction_handshake(rcmgr_eviction *e, uint64_t hash, int64_t now)
{
    int64_t interval = 4 * e->interval_ns;
    int64_t most = e->burst_ns > interval ? e->burst_ns : interval;
    if (now >= e->in_vain_until_ns || !rcmgr_comes_often(e, hash, now))
        return 0;
    int64_t until = rcmgr_spent(e->begun_until_ns, interval, now);
    if (until - now > most)
        return until - now - most;
    e->begun_until_ns = until;
    return 0;
}

/* A newcomer of this group has taken a place. */
static inline void rcmgr_eviction_spend(rcmgr_eviction *e, uint64_t hash, int64_t now)
{
    e->spent_until_ns = rcmgr_spent(e->spent_until_ns, e->interval_ns, now);
    if (rcmgr_comes_often(e, hash, now))
        e->often_until_ns = rcmgr_spent(e->often_until_ns, 4 * e->interval_ns, now);
}

#endif
