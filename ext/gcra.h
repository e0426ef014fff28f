/* A token bucket as one stored time: the generic cell rate algorithm (ITU-T I.371).
 *
 * The stored time says when the bucket will be full again. A nanosecond has `scale` ticks: whole
 * nanoseconds are too coarse for a million tokens a second. A token costs `cost` ticks. The bucket
 * is `depth` = capacity * cost ticks deep, and its debt is the ticks that it lacks now. All are
 * integers, so nothing drifts, in small steps of the clock or in large ones.
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

/* The ticks that it lacks now. `now` must not be before the time of an earlier charge. */
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

/* The whole tokens that it holds. */
static inline int64_t rcmgr_gcra_available(const rcmgr_gcra *g, int64_t debt)
{
    return g->cost == 0 ? g->capacity : (g->depth - debt) / g->cost;
}

/* Whether it holds `tokens` (0 or more). */
static inline bool rcmgr_gcra_allows(const rcmgr_gcra *g, int64_t debt, int64_t tokens)
{
    if (g->cost == 0)
        return true;
    return tokens <= g->capacity && tokens * g->cost <= g->depth - debt;
}

/* Nanoseconds until it holds `tokens`, rounded up; -1: never. */
static inline int64_t rcmgr_gcra_wait_ns(const rcmgr_gcra *g, int64_t debt, int64_t tokens)
{
    if (rcmgr_gcra_allows(g, debt, tokens))
        return 0;
    if (tokens > g->capacity)
        return -1;
    int64_t ticks = tokens * g->cost - (g->depth - debt);
    return (ticks + g->scale - 1) / g->scale;
}

/* The debt of a bucket `to` that gets the tokens of `from` with `debt`, as far as they fit. */
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
