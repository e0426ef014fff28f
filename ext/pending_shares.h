/* The handshake that makes room for a newcomer when all pending places are taken.
 *
 * 1. If the largest group has at least two handshakes more than the newcomer's group, it gives up a
 *    place at once.
 * 2. Otherwise a handshake of the newcomer's own group makes room, or one of a group with more
 *    handshakes. It must have been silent for `grace_ns`, or in its stage for `patience_ns`.
 *
 * The handshake in the lowest stage goes. If several are in it, the oldest goes. Within a group it is
 * one of the address with the most handshakes, among the RCMGR_PENDING_SEEN oldest. Rule 1 prefers
 * handshakes that have been in their stage for `grace_ns`. Rule 2 is patient with handshakes in
 * progress, so that a flood of handshakes cannot keep all of them from completing.
 *
 * Stages are the levels of a seat. Stage 0 is silent. Every step that cost the other side something
 * adds one, up to RCMGR_LAST_STAGE.
 *
 * O(1), with the bounds named here. No Python, no allocation, no system call. Not thread safe. */
#ifndef RCMGR_PENDING_SHARES_H
#define RCMGR_PENDING_SHARES_H

#include "netgroups.h"

enum { RCMGR_PENDING_SEEN = 16, RCMGR_LAST_STAGE = RCMGR_GROUP_LEVELS - 1 };

typedef struct {
    uint64_t hash;
    uint32_t count;
} rcmgr_address_count;

typedef struct rcmgr_handshake rcmgr_handshake;

struct rcmgr_handshake {
    rcmgr_seat seat; /* first: a seat is its handshake */
    rcmgr_handshake *before, *next; /* neighbours in its stage, over all groups */
    rcmgr_address_count *address;
    int64_t since_ns; /* when it came to its stage */
};

typedef struct {
    int64_t grace_ns, patience_ns;
    rcmgr_group_sizes sizes;
    struct {
        rcmgr_handshake *first, *last;
    } stages[RCMGR_GROUP_LEVELS];
} rcmgr_pending_shares;

static inline void rcmgr_stage_append(rcmgr_pending_shares *s, rcmgr_handshake *h)
{
    int stage = h->seat.level;
    h->before = s->stages[stage].last;
    h->next = NULL;
    if (h->before != NULL)
        h->before->next = h;
    else
        s->stages[stage].first = h;
    s->stages[stage].last = h;
}

static inline void rcmgr_stage_remove(rcmgr_pending_shares *s, rcmgr_handshake *h)
{
    int stage = h->seat.level;
    if (h->before != NULL)
        h->before->next = h->next;
    else
        s->stages[stage].first = h->next;
    if (h->next != NULL)
        h->next->before = h->before;
    else
        s->stages[stage].last = h->before;
}

static inline void rcmgr_pending_enter(rcmgr_pending_shares *s, rcmgr_handshake *h,
                                       rcmgr_netgroup *group, rcmgr_address_count *address,
                                       int64_t now)
{
    h->since_ns = now;
    h->address = address;
    address->count++;
    rcmgr_seat_enter(&s->sizes, &h->seat, group, 0);
    rcmgr_stage_append(s, h);
}

/* The caller frees the group and the address if they are empty afterwards. */
static inline void rcmgr_pending_leave(rcmgr_pending_shares *s, rcmgr_handshake *h)
{
    rcmgr_stage_remove(s, h);
    rcmgr_seat_leave(&s->sizes, &h->seat);
    h->address->count--;
}

static inline bool rcmgr_pending_advance(rcmgr_pending_shares *s, rcmgr_handshake *h, int64_t now)
{
    if (h->seat.level == RCMGR_LAST_STAGE)
        return false;
    rcmgr_stage_remove(s, h);
    rcmgr_seat_set_level(&h->seat, h->seat.level + 1);
    rcmgr_stage_append(s, h);
    h->since_ns = now;
    return true;
}

static inline int64_t rcmgr_pending_wait(const rcmgr_pending_shares *s, int stage)
{
    return stage == 0 ? s->grace_ns : s->patience_ns;
}

/* The first of the address with the most handshakes, among the oldest in a list that have been there
 * for `wait_ns`. NULL: no handshake has. */
static inline rcmgr_handshake *rcmgr_pending_oldest(const rcmgr_seat_list *list, int64_t wait_ns,
                                                    int64_t now)
{
    rcmgr_handshake *chosen = NULL;
    rcmgr_seat *seat = list->oldest;
    for (int seen = 0; seat != NULL && seen < RCMGR_PENDING_SEEN; seen++, seat = seat->younger) {
        rcmgr_handshake *h = (rcmgr_handshake *)seat;
        if (now - h->since_ns < wait_ns)
            break; /* as all that came later */
        if (chosen == NULL || h->address->count > chosen->address->count)
            chosen = h;
    }
    return chosen;
}

static inline rcmgr_handshake *rcmgr_pending_of_larger(const rcmgr_pending_shares *s, uint32_t own,
                                                       int64_t now)
{
    for (int stage = 0; stage <= RCMGR_LAST_STAGE; stage++) {
        rcmgr_handshake *h = s->stages[stage].first;
        for (int seen = 0; h != NULL && seen < RCMGR_PENDING_SEEN; seen++, h = h->next) {
            if (now - h->since_ns < rcmgr_pending_wait(s, stage))
                break;
            if (h->seat.group->size > own)
                return h;
        }
    }
    return NULL;
}

/* The waiting handshake to serve next. NULL: no handshake waits. */
static inline rcmgr_handshake *rcmgr_pending_next(const rcmgr_pending_shares *s)
{
    const rcmgr_netgroup *group = rcmgr_smallest_group(&s->sizes);
    for (int stage = RCMGR_LAST_STAGE; group != NULL && stage >= 0; stage--)
        if (group->levels[stage].oldest != NULL)
            return (rcmgr_handshake *)group->levels[stage].oldest;
    return NULL;
}

/* The handshake to end for a newcomer, or NULL. Changes nothing.
 *
 * group: the newcomer's, or NULL if it has no handshake yet. */
static inline rcmgr_handshake *rcmgr_pending_choose(const rcmgr_pending_shares *s,
                                                    const rcmgr_netgroup *group, int64_t now)
{
    const rcmgr_netgroup *largest = rcmgr_largest_group(&s->sizes);
    uint32_t own = group == NULL ? 0 : group->size;
    rcmgr_handshake *h = NULL;
    if (largest != NULL && largest->size > own + UINT64_C(1)) {
        for (int stage = 0; h == NULL && stage <= RCMGR_LAST_STAGE; stage++)
            h = rcmgr_pending_oldest(&largest->levels[stage], s->grace_ns, now);
        for (int stage = 0; h == NULL && stage <= RCMGR_LAST_STAGE; stage++)
            h = rcmgr_pending_oldest(&largest->levels[stage], INT64_MIN, now);
        return h;
    }
    for (int stage = 0; group != NULL && h == NULL && stage <= RCMGR_LAST_STAGE; stage++)
        h = rcmgr_pending_oldest(&group->levels[stage], rcmgr_pending_wait(s, stage), now);
    return h != NULL ? h : rcmgr_pending_of_larger(s, own, now);
}

#endif
