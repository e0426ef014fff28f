/* How often each group has come lately: a sketch of fixed size.
 *
 * A group's debt grows by `turn_ns` each time it comes. It shrinks by one nanosecond a nanosecond.
 * So debt / turn_ns is the number of turns that are not forgotten yet. The debt stops growing at
 * RCMGR_MOST_TURNS turns.
 *
 * A group has two cells, and other groups may share them. Its debt is the smaller of the two (a
 * count-min sketch with conservative update). The debt is never too small. It is too large only if
 * other groups share both cells. The hash must be keyed, so that no attacker can choose such groups.
 *
 * Times are nanoseconds and never negative. No allocation, no system call. Not thread safe. */
#ifndef RCMGR_TURNS_H
#define RCMGR_TURNS_H

#include <stdint.h>

enum { RCMGR_MOST_TURNS = 16 };

typedef struct {
    int64_t *cells; /* when each is without debt; all zero at first */
    uint32_t mask;  /* cells - 1; a power of two less one */
    int64_t turn_ns;
} rcmgr_turns;

static inline int64_t *rcmgr_turns_cell(const rcmgr_turns *t, uint64_t hash, int which)
{
    return &t->cells[(uint32_t)(which ? hash >> 32 : hash) & t->mask];
}

static inline int64_t rcmgr_turns_debt(const rcmgr_turns *t, uint64_t hash, int64_t now)
{
    int64_t first = *rcmgr_turns_cell(t, hash, 0), second = *rcmgr_turns_cell(t, hash, 1);
    int64_t full = first < second ? first : second;
    return full > now ? full - now : 0;
}

static inline void rcmgr_turns_take(rcmgr_turns *t, uint64_t hash, int64_t now)
{
    int64_t debt = rcmgr_turns_debt(t, hash, now) + t->turn_ns;
    if (debt > RCMGR_MOST_TURNS * t->turn_ns)
        debt = RCMGR_MOST_TURNS * t->turn_ns;
    for (int which = 0; which < 2; which++) {
        int64_t *cell = rcmgr_turns_cell(t, hash, which);
        if (*cell < now + debt)
            *cell = now + debt;
    }
}

#endif
