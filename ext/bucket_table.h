/* Token buckets by key: one shard of a table. Open addressing, linear probing, deletion by moving
 * back. It has any number of slots: it grows by a third at a time and stays dense.
 *
 * The caller owns the keys (pointers) and the memory, compares keys, and holds the locks. See
 * pointer_table.h for the loop. The 32-bit tag of a key must come from a keyed hash: strangers
 * choose keys.
 *
 * A full bucket is no different from a new one, so the caller may remove it at any time. No Python,
 * no allocation, no system call. */
#ifndef RCMGR_BUCKET_TABLE_H
#define RCMGR_BUCKET_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gcra.h"

enum { RCMGR_BUCKET_MAX_SCALE = 1 << 16, RCMGR_BUCKET_MIN_SLOTS = 8 };

typedef struct {
    uint32_t tag;
    uint16_t ticks;   /* with full_ns: see rcmgr_gcra_time */
    uint16_t denials; /* since this key came into the table; stays at its maximum */
    void *key;        /* NULL: free */
    int64_t full_ns;
} rcmgr_bucket;

typedef struct {
    rcmgr_bucket *slots;
    uint32_t count;
    uint32_t used;
    uint32_t hand; /* the next search for a bucket to remove begins here */
} rcmgr_shard;

static inline uint32_t rcmgr_shard_home(const rcmgr_shard *s, uint32_t tag)
{
    return (uint32_t)(((uint64_t)tag * s->count) >> 32);
}

static inline uint32_t rcmgr_shard_after(const rcmgr_shard *s, uint32_t at)
{
    return at + 1 == s->count ? 0 : at + 1;
}

/* Search from slot `*at`. True: it is now a slot with this tag. False: the free slot that ends it. */
static inline bool rcmgr_shard_match(const rcmgr_shard *s, uint32_t tag, uint32_t *at)
{
    while (s->slots[*at].key != NULL) {
        if (s->slots[*at].tag == tag)
            return true;
        *at = rcmgr_shard_after(s, *at);
    }
    return false;
}

static inline rcmgr_gcra_time rcmgr_bucket_time(const rcmgr_bucket *b)
{
    rcmgr_gcra_time full = {b->full_ns, b->ticks};
    return full;
}

static inline void rcmgr_bucket_set(rcmgr_bucket *b, rcmgr_gcra_time full)
{
    b->full_ns = full.full_ns;
    b->ticks = (uint16_t)full.ticks;
}

static inline void rcmgr_bucket_count_denial(rcmgr_bucket *b)
{
    if (b->denials < UINT16_MAX)
        b->denials++;
}

/* How many slots the shard needs for one more bucket: as many as it has, or a third more. */
static inline uint32_t rcmgr_shard_wanted_slots(const rcmgr_shard *s)
{
    if ((uint64_t)(s->used + 1) * 5 <= (uint64_t)s->count * 4)
        return s->count;
    return s->count + s->count / 3 + RCMGR_BUCKET_MIN_SLOTS;
}

/* `at` is the free slot in which a search for `tag` ended. */
static inline void rcmgr_shard_put(rcmgr_shard *s, uint32_t at, uint32_t tag, void *key)
{
    rcmgr_bucket fresh = {tag, 0, 0, key, INT64_MIN};
    s->slots[at] = fresh;
    s->used++;
}

/* Remove the bucket at `at`, close the gap, and return its key. */
static inline void *rcmgr_shard_remove(rcmgr_shard *s, uint32_t at)
{
    void *key = s->slots[at].key;
    uint32_t gap = at;
    for (;;) {
        at = rcmgr_shard_after(s, at);
        if (s->slots[at].key == NULL)
            break;
        uint32_t home = rcmgr_shard_home(s, s->slots[at].tag);
        uint32_t from_home = at >= home ? at - home : at + s->count - home;
        uint32_t from_gap = at >= gap ? at - gap : at + s->count - gap;
        if (from_home >= from_gap) {
            s->slots[gap] = s->slots[at];
            gap = at;
        }
    }
    s->slots[gap].key = NULL;
    s->used--;
    return key;
}

/* Move all buckets to `count` zeroed slots, more than are used. Returns the old slots. */
static inline rcmgr_bucket *rcmgr_shard_move(rcmgr_shard *s, rcmgr_bucket *slots, uint32_t count)
{
    rcmgr_bucket *old = s->slots;
    uint32_t old_count = s->count;
    s->slots = slots;
    s->count = count;
    s->hand = 0;
    for (uint32_t i = 0; i < old_count; i++) {
        if (old[i].key == NULL)
            continue;
        uint32_t at = rcmgr_shard_home(s, old[i].tag);
        while (s->slots[at].key != NULL)
            at = rcmgr_shard_after(s, at);
        s->slots[at] = old[i];
    }
    return old;
}

/* Search the next `steps` slots for a full bucket: its slot, or -1. */
static inline int64_t rcmgr_shard_find_full(rcmgr_shard *s, int64_t now, uint32_t steps)
{
    for (; steps > 0; steps--) {
        if (s->hand >= s->count)
            s->hand = 0;
        const rcmgr_bucket *b = &s->slots[s->hand];
        if (b->key != NULL && b->full_ns < now)
            return s->hand; /* the next search begins with the bucket that moves back here */
        s->hand++;
    }
    return -1;
}

/* The fullest of the next `among` buckets: its slot, or -1 if the shard is empty. */
static inline int64_t rcmgr_shard_find_fullest(rcmgr_shard *s, uint32_t among)
{
    int64_t best = -1;
    for (uint32_t left = s->count; left > 0 && among > 0; left--) {
        if (s->hand >= s->count)
            s->hand = 0;
        const rcmgr_bucket *b = &s->slots[s->hand];
        if (b->key != NULL) {
            among--;
            if (best < 0 || b->full_ns < s->slots[best].full_ns
                || (b->full_ns == s->slots[best].full_ns && b->ticks < s->slots[best].ticks))
                best = s->hand;
        }
        s->hand++;
    }
    return best;
}

#endif
