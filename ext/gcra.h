/* A token bucket as one stored time: the generic cell rate algorithm (ITU-T I.371).
 *
 * The bucket is described by when it will be full again. Time is counted in ticks, `scale` to the
 * nanosecond, since an interval of whole nanoseconds is too coarse for a million tokens a second: a
 * token costs `cost` ticks, the bucket is `depth` = capacity * cost ticks deep, and what is missing
 * from it now is its debt. Integers only: nothing drifts, whatever the steps of the clock.
 *
 * No Python, no allocation, no system call. Not thread safe: the caller holds a lock. */
#ifndef RCMGR_GCRA_H
#define RCMGR_GCRA_H

#include <stdbool.h>
#include <stdint.h>

#define RCMGR_GCRA_MAX_SCALE (INT64_C(1) << 32)
#define RCMGR_GCRA_MAX_DEPTH (INT64_C(1) << 61)
#define RCMGR_GCRA_MAX_NOW (INT64_C(1) << 61) /* either way, so that sums fit */

typedef struct {
    int64_t capacity; /* tokens, 1 or more */
    int64_t cost;     /* ticks per token; 0: no limit */
    int64_t depth;    /* capacity * cost, at most RCMGR_GCRA_MAX_DEPTH */
    int64_t scale;    /* ticks per nanosecond, from 1 to RCMGR_GCRA_MAX_SCALE */
} rcmgr_gcra;

/* When a bucket is full again: full_ns and `ticks` more, fewer than a nanosecond has. */
typedef struct {
    int64_t full_ns;
    uint32_t ticks;
} rcmgr_gcra_time;

/* Ticks that are missing now. `now` must not be before a time this bucket was charged at. */
static inline int64_t rcmgr_gcra_debt(const rcmgr_gcra *g, rcmgr_gcra_time full, int64_t now)
{
    if (full.full_ns < now)
        return 0;
    return (full.full_ns - now) * g->scale + full.ticks;
}

static inline rcmgr_gcra_time rcmgr_gcra_full_after(const rcmgr_gcra *g, int64_t debt, int64_t now)
{
    rcmgr_gcra_time full = {
        now + debt / g->scale,
        (uint32_t)(debt % g->scale),
    };
    return full;
}

/* Whole tokens that may be taken. */
static inline int64_t rcmgr_gcra_available(const rcmgr_gcra *g, int64_t debt)
{
    return g->cost == 0 ? g->capacity : (g->depth - debt) / g->cost;
}

/* Whether `tokens` (0 or more) may be taken. */
static inline bool rcmgr_gcra_allows(const rcmgr_gcra *g, int64_t debt, int64_t tokens)
{
    if (g->cost == 0)
        return true;
    return tokens <= g->capacity && tokens * g->cost <= g->depth - debt;
}

/* Nanoseconds until `tokens` may be taken, rounded up; -1: never. */
static inline int64_t rcmgr_gcra_wait_ns(const rcmgr_gcra *g, int64_t debt, int64_t tokens)
{
    if (rcmgr_gcra_allows(g, debt, tokens))
        return 0;
    if (tokens > g->capacity)
        return -1;
    int64_t ticks = tokens * g->cost - (g->depth - debt);
    return (ticks + g->scale - 1) / g->scale;
}

/* The debt of a bucket `to` that holds what `from` does with `debt`, as far as there is room. */
static inline int64_t rcmgr_gcra_moved(const rcmgr_gcra *from, int64_t debt, const rcmgr_gcra *to)
{
    int64_t tokens = rcmgr_gcra_available(from, debt);
    if (tokens >= to->capacity)
        return 0;
    int64_t missing = (to->capacity - tokens) * to->cost;
    if (from->cost == 0)
        return missing;
    /* part of one more token; the product need not fit in 64 bits */
    double part = (double)(from->depth - debt - tokens * from->cost) / (double)from->cost;
    return missing - (int64_t)(part * (double)to->cost);
}

#endif
