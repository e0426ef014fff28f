/* A hash table of pointers: open addressing, linear probing, deletion by moving back.
 *
 * It stores the hash and a pointer; what a key is, and whether two are equal, is the caller's
 * business, and so is memory:
 *
 *     size_t at = rcmgr_table_home(&table, hash);
 *     for (; rcmgr_table_match(&table, hash, &at); at = rcmgr_table_after(&table, at))
 *         if (is_the_one(table.slots[at].item)) ...found at `at`
 *     ...not there; `at` is where it belongs
 *
 * Hashes should be keyed if strangers choose the keys. They are mixed here, so that they need not
 * be well spread (Python's hash of an int is the int).
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
    size_t mask;     /* slots - 1, a power of two less one; slots are never all taken */
    size_t used;
    uint64_t changes; /* goes up whenever an item is added or removed */
    unsigned shift;  /* a hash's first slot is its highest bits */
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

/* Go on from slot `*at` to one with this hash (true) or to the free one that ends the search. */
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

/* Close the gap: what follows moves back, unless it would leave its first slot behind. */
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

/* How many slots the table should have: other than now when the next item would take more than
 * three quarters of them, or when less than a sixteenth is taken. */
static inline size_t rcmgr_table_wanted_slots(const rcmgr_table *t)
{
    size_t slots = t->slots == NULL ? 0 : t->mask + 1;
    if (t->used >= slots - slots / 4)
        return slots == 0 ? RCMGR_TABLE_MIN_SLOTS : 2 * slots;
    if (slots > RCMGR_TABLE_MIN_SLOTS && t->used < slots / 16)
        return slots / 4 > RCMGR_TABLE_MIN_SLOTS ? slots / 4 : RCMGR_TABLE_MIN_SLOTS;
    return slots;
}

/* Move everything to `count` zeroed slots (a power of two, enough); returns the old ones. */
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
