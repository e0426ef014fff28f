/* The amounts that scopes hold, and whether a chain of scopes may hold more.
 *
 * A request is charged to every scope of a chain, or to none. All are checked first, in order, so
 * nothing is ever rolled back. The first scope that refuses is blamed. The rules are those of
 * go-libp2p's resource manager. They check memory, then streams, then connections, then file
 * descriptors, and of streams and connections the direction before the total. A scope refuses if
 * `held + asked > limit`. It checks only the resources asked for: a scope that holds more than a
 * lowered limit refuses only more of that resource.
 *
 * Amounts never wrap. Requests and bytes of memory have 64 bits: a scope without a limit refuses
 * memory above INT64_MAX. A scope counts everything else in 32 bits, and admits at most
 * RCMGR_MOST_COUNT of each kind. Each later scope of a chain holds at least the amounts of an earlier
 * one. So nothing falls below zero if a leaf gives back only its own.
 *
 * No Python, no allocation, no system call. Not thread safe: the caller holds a lock. */
#ifndef RCMGR_SCOPE_H
#define RCMGR_SCOPE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared_words.h"

enum {
    RCMGR_MEMORY, /* bytes */
    RCMGR_STREAMS_INBOUND,
    RCMGR_STREAMS_OUTBOUND,
    RCMGR_CONNS_INBOUND,
    RCMGR_CONNS_OUTBOUND,
    RCMGR_FD, /* file descriptors */
    RCMGR_AMOUNTS,
    /* these have limits, but are the sums of two amounts */
    RCMGR_STREAMS = RCMGR_AMOUNTS,
    RCMGR_CONNS,
    RCMGR_RESOURCES,
};

enum { RCMGR_PRIORITY_ALWAYS = 255 };

#define RCMGR_UNLIMITED INT64_MAX
#define RCMGR_MOST_COUNT ((INT64_C(1) << 26) - 1) /* the pins of four counts fit in 28 bits */

/* A request, or amounts for a report. */
typedef struct {
    int64_t of[RCMGR_AMOUNTS];
} rcmgr_amounts;

typedef struct {
    int64_t of[RCMGR_RESOURCES]; /* 0 or more; RCMGR_UNLIMITED: no limit */
} rcmgr_limit;

/* A scope and the amounts that it holds. There is one for each peer, and a decision about one of
 * 100,000 peers waits for its memory. So it has 40 bytes. With rcmgr_amounts it would have 56, and a
 * peer's object would not fit in a line and a half. */
typedef struct {
    const rcmgr_limit *limit;
    int64_t memory;
    uint32_t count[RCMGR_AMOUNTS - 1]; /* RCMGR_STREAMS_INBOUND and the next ones */
    /* for the owner of the scope, which would lose four bytes otherwise */
    uint32_t kind_and_pins; /* the kind has the lowest four bits, and never changes */
} rcmgr_scope;

typedef struct {
    int resource; /* the resource that ran out */
    int place;    /* which scope of the chain refused */
    int64_t held, asked, limit;
} rcmgr_refusal;

/* Any thread may read the kind. The owner's lock guards the pins. */
static inline int rcmgr_kind_of(const rcmgr_scope *scope)
{
    return (int)(rcmgr_read_word32(&scope->kind_and_pins) & 15);
}

static inline void rcmgr_set_kind(rcmgr_scope *scope, int kind)
{
    rcmgr_write_word32(&scope->kind_and_pins, (uint32_t)kind);
}

static inline uint32_t rcmgr_pins_of(const rcmgr_scope *scope)
{
    return scope->kind_and_pins >> 4;
}

static inline void rcmgr_pin(rcmgr_scope *scope)
{
    rcmgr_write_word32(&scope->kind_and_pins, scope->kind_and_pins + 16);
}

static inline void rcmgr_unpin(rcmgr_scope *scope)
{
    rcmgr_write_word32(&scope->kind_and_pins, scope->kind_and_pins - 16);
}

/* a + b for amounts of 0 or more; INT64_MAX if it is more than that */
static inline int64_t rcmgr_sum(int64_t a, int64_t b)
{
    return a > INT64_MAX - b ? INT64_MAX : a + b;
}

/* The part of a memory limit that a priority of 0..255 may fill: limit * (1 + priority) / 256,
 * rounded down, without overflow. */
static inline int64_t rcmgr_memory_ceiling(int64_t limit, int priority)
{
    int64_t part = priority + 1;
    if (limit == RCMGR_UNLIMITED)
        return limit;
    return limit / 256 * part + limit % 256 * part / 256;
}

/* Whether `held` and `asked` together exceed the limit. It cannot overflow. */
static inline bool rcmgr_exceeds(int64_t held, int64_t asked, int64_t limit)
{
    return asked > 0 && (held > limit || asked > limit - held);
}

static inline int64_t rcmgr_held(const rcmgr_scope *scope, int what)
{
    return what == RCMGR_MEMORY ? scope->memory : (int64_t)scope->count[what - 1];
}

static inline rcmgr_amounts rcmgr_all_held(const rcmgr_scope *scope)
{
    rcmgr_amounts all;
    for (int i = 0; i < RCMGR_AMOUNTS; i++)
        all.of[i] = rcmgr_held(scope, i);
    return all;
}

static inline void rcmgr_hold_nothing(rcmgr_scope *scope)
{
    scope->memory = 0;
    for (int i = 0; i < RCMGR_AMOUNTS - 1; i++)
        scope->count[i] = 0;
}

static inline int64_t rcmgr_most(int64_t limit)
{
    return limit < RCMGR_MOST_COUNT ? limit : RCMGR_MOST_COUNT;
}

/* Whether `scope` refuses. Then `why` has the resource and the numbers. */
static inline bool rcmgr_scope_refuses(const rcmgr_scope *scope, const rcmgr_amounts *ask,
                                       int priority, rcmgr_refusal *why)
{
    static const struct {
        int first, second, total;
    } pairs[2] = {
        {RCMGR_STREAMS_INBOUND, RCMGR_STREAMS_OUTBOUND, RCMGR_STREAMS},
        {RCMGR_CONNS_INBOUND, RCMGR_CONNS_OUTBOUND, RCMGR_CONNS},
    };
    const int64_t *asked = ask->of, *limit = scope->limit->of;
    int64_t ceiling = rcmgr_memory_ceiling(limit[RCMGR_MEMORY], priority);

#define RCMGR_REFUSE_IF_TOO_MUCH(what, held_of_it, asked_of_it, ceiling_of_it, limit_of_it) \
    if (rcmgr_exceeds(held_of_it, asked_of_it, ceiling_of_it)) {                             \
        why->resource = (what);                                                             \
        why->held = (held_of_it);                                                           \
        why->asked = (asked_of_it);                                                         \
        why->limit = (limit_of_it);                                                         \
        return true;                                                                        \
    }
#define RCMGR_REFUSE_IF_TOO_MANY(what) \
    RCMGR_REFUSE_IF_TOO_MUCH(what, rcmgr_held(scope, what), asked[what], rcmgr_most(limit[what]), \
                             rcmgr_most(limit[what]))

    RCMGR_REFUSE_IF_TOO_MUCH(RCMGR_MEMORY, scope->memory, asked[RCMGR_MEMORY], ceiling,
                             limit[RCMGR_MEMORY])
    for (int i = 0; i < 2; i++) {
        int a = pairs[i].first, b = pairs[i].second, total = pairs[i].total;
        int64_t asked_total = rcmgr_sum(asked[a], asked[b]);
        if (asked_total == 0)
            continue;
        RCMGR_REFUSE_IF_TOO_MANY(a)
        RCMGR_REFUSE_IF_TOO_MANY(b)
        int64_t held_total = rcmgr_held(scope, a) + rcmgr_held(scope, b);
        RCMGR_REFUSE_IF_TOO_MUCH(total, held_total, asked_total, limit[total], limit[total])
    }
    RCMGR_REFUSE_IF_TOO_MANY(RCMGR_FD)
#undef RCMGR_REFUSE_IF_TOO_MANY
#undef RCMGR_REFUSE_IF_TOO_MUCH
    return false;
}

static inline void rcmgr_add(rcmgr_scope *to, const rcmgr_amounts *what)
{
    to->memory += what->of[RCMGR_MEMORY];
    for (int i = 0; i < RCMGR_AMOUNTS - 1; i++)
        to->count[i] += (uint32_t)what->of[i + 1];
}

static inline void rcmgr_subtract(rcmgr_scope *from, const rcmgr_amounts *what)
{
    from->memory -= what->of[RCMGR_MEMORY];
    for (int i = 0; i < RCMGR_AMOUNTS - 1; i++)
        from->count[i] -= (uint32_t)what->of[i + 1];
}

static inline bool rcmgr_is_nothing(const rcmgr_amounts *what)
{
    int64_t any = 0;
    for (int i = 0; i < RCMGR_AMOUNTS; i++)
        any |= what->of[i];
    return any == 0;
}

/* True if all `count` scopes admit it. False: `why` describes the refusal. Changes nothing. */
static inline bool rcmgr_chain_admits(rcmgr_scope *const *chain, int count,
                                      const rcmgr_amounts *ask, int priority, rcmgr_refusal *why)
{
    for (int i = 0; i < count; i++) {
        if (rcmgr_scope_refuses(chain[i], ask, priority, why)) {
            why->place = i;
            return false;
        }
    }
    return true;
}

/* Charge the whole chain (true) or nothing (false). */
static inline bool rcmgr_charge(rcmgr_scope *const *chain, int count, const rcmgr_amounts *ask,
                                int priority, rcmgr_refusal *why)
{
    if (!rcmgr_chain_admits(chain, count, ask, priority, why))
        return false;
    for (int i = 0; i < count; i++)
        rcmgr_add(chain[i], ask);
    return true;
}

static inline void rcmgr_give_back(rcmgr_scope *const *chain, int count, const rcmgr_amounts *what)
{
    for (int i = 0; i < count; i++)
        rcmgr_subtract(chain[i], what);
}

#endif
