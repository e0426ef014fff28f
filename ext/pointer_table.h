/* A hash table of pointers: open addressing, linear probing, deletion by moving back.
 *
 * It stores hashes and pointers. The caller knows the keys and compares them, and owns the memory:
 *
 *     size_t at = rcmgr_table_home(&table, hash);
 *     for (; rcmgr_table_match(&table, hash, &at); at = rcmgr_table_after(&table, at))
 *         if (is_the_one(table.slots[at].item)) ...found at `at`
 *     ...not there: it belongs at `at`
 *
 * Use a keyed hash if strangers choose the keys. The table mixes hashes, so they need not be well
 * spread (Python's hash of an int is the int).
 *
 * No Python, no allocation, no system call. Not thread safe: the caller holds a lock. */
#ifndef RCMGR_POINTER_TABLE_H
#define RCMGR_POINTER_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t hash; /* mixed */
    void *item;    /* NULL: free */
} rcmgr_slot;

typedef struct {
    rcmgr_slot *slots;
    size_t mask;     /* slots - 1, a power of two less one; one slot at least is free */
    size_t used;
    uint64_t changes; /* how often an item was added or removed */
    unsigned shift;  /* the highest bits of a hash are its first slot */
} rcmgr_table;

enum { RCMGR_TABLE_MIN_SLOTS = 8 };

static inline uint64_t rcmgr_table_mix(int64_t hash)
{
    return (uint64_t)hash * UINT64_C(0x9E3779B97F4A7C15); /* 2**64 / golden ratio */
}

static inline size_t rcmgr_table_home(const rcmgr_table *t, uint64_t hash)
{
    return (size_t)(hash >> t->shift);
}

static inline size_t rcmgr_table_after(const rcmgr_table *t, size_t at)
{
    return (at + 1) & t->mask;
}

/* Search from slot `*at`. True: it is now a slot with this hash. False: the free slot that ends it. */
static inline bool rcmgr_table_match(const rcmgr_table *t, uint64_t hash, size_t *at)
{
    while (t->slots[*at].item != NULL) {
        if (t->slots[*at].hash == hash)
            return true;
        *at = rcmgr_table_after(t, *at);
    }
    return false;
}

/* `at` is the free slot where a search for `hash` ended. */
static inline void rcmgr_table_put(rcmgr_table *t, size_t at, uint64_t hash, void *item)
{
    t->slots[at].hash = hash;
    t->slots[at].item = item;
    t->used++;
    t->changes++;
}

/* Close the gap: later items move back, but never before their first slot. */
static inline void rcmgr_table_remove(rcmgr_table *t, size_t at)
{
    size_t gap = at;
    for (;;) {
        at = rcmgr_table_after(t, at);
        if (t->slots[at].item == NULL)
            break;
        size_t home = rcmgr_table_home(t, t->slots[at].hash);
        if (((at - home) & t->mask) >= ((at - gap) & t->mask)) {
            t->slots[gap] = t->slots[at];
            gap = at;
        }
    }
    t->slots[gap].item = NULL;
    t->used--;
    t->changes++;
}

/* How many slots the table should have. Twice as many if the next item would fill more than three
 * quarters. A quarter if the items fill less than a sixteenth. Otherwise as many as now. */
static inline size_t rcmgr_table_wanted_slots(const rcmgr_table *t)
{
    size_t slots = t->slots == NULL ? 0 : t->mask + 1;
    if (t->used >= slots - slots / 4)
        return slots == 0 ? RCMGR_TABLE_MIN_SLOTS : 2 * slots;
    if (slots > RCMGR_TABLE_MIN_SLOTS && t->used < slots / 16)
        return slots / 4 > RCMGR_TABLE_MIN_SLOTS ? slots / 4 : RCMGR_TABLE_MIN_SLOTS;
    return slots;
}

/* Move all items to `count` zeroed slots, a power of two. Returns the old slots. */
static inline rcmgr_slot *rcmgr_table_move(rcmgr_table *t, rcmgr_slot *slots, size_t count)
{
    rcmgr_slot *old = t->slots;
    size_t old_count = old == NULL ? 0 : t->mask + 1;
    t->slots = slots;
    t->mask = count - 1;
    for (t->shift = 64; count > 1; count /= 2)
        t->shift--;
    for (size_t i = 0; i < old_count; i++) {
        if (old[i].item == NULL)
            continue;
        size_t at = rcmgr_table_home(t, old[i].hash);
        while (t->slots[at].item != NULL)
            at = rcmgr_table_after(t, at);
        t->slots[at] = old[i];
    }
    t->changes++;
    return old;
}

#endif
