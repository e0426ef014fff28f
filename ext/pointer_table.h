/* A hash table of pointers: open addressing, linear probing, deletion by moving back.
 *
 * It stores halves of hashes, and pointers. The caller knows the keys, always compares them, and owns
 * the memory:
 *
 *     size_t at = rcmgr_table_home(&table, hash);
 *     for (; rcmgr_table_match(&table, hash, &at); at = rcmgr_table_after(&table, at))
 *         if (is_the_one(rcmgr_table_item(&table, at))) ...found at `at`
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
#include <string.h>

#include "prefetch.h"

/* A slot has 12 bytes, so that a table takes a quarter less memory. Half of a hash decides where an item
 * belongs, in a table of any size. An aligned pointer would waste the other four bytes. */
typedef struct {
    uint32_t hash; /* the upper half of the mixed hash */
    unsigned char item[sizeof(void *)]; /* see rcmgr_table_item */
} rcmgr_slot;

typedef struct {
    rcmgr_slot *slots;
    size_t count; /* slots: 2**n or 3 * 2**n. At least one is free. */
    size_t used;
    uint64_t changes; /* how often an item was added or removed */
} rcmgr_table;

enum { RCMGR_TABLE_MIN_SLOTS = 8 };

static inline uint64_t rcmgr_table_mix(int64_t hash)
{
    return (uint64_t)hash * UINT64_C(0x9E3779B97F4A7C15); /* 2**64 / golden ratio */
}

/* The item in a slot; NULL: it is free. */
static inline void *rcmgr_table_item(const rcmgr_table *t, size_t at)
{
    void *item;
    memcpy(&item, t->slots[at].item, sizeof(item));
    return item;
}

static inline void rcmgr_table_set_item(rcmgr_table *t, size_t at, void *item)
{
    memcpy(t->slots[at].item, &item, sizeof(item));
}

/* The first slot of a hash: its highest bits choose. */
static inline size_t rcmgr_table_home(const rcmgr_table *t, uint64_t hash)
{
    return (size_t)(((hash >> 32) * t->count) >> 32);
}

static inline size_t rcmgr_table_home_of(const rcmgr_table *t, const rcmgr_slot *slot)
{
    return rcmgr_table_home(t, (uint64_t)slot->hash << 32);
}

static inline size_t rcmgr_table_after(const rcmgr_table *t, size_t at)
{
    return at + 1 == t->count ? 0 : at + 1;
}

/* How many steps lead from one slot to another. */
static inline size_t rcmgr_table_steps(const rcmgr_table *t, size_t from, size_t to)
{
    return to >= from ? to - from : to + t->count - from;
}

/* Search from slot `*at`. True: it is now a slot with this hash. False: the free slot that ends it. */
static inline bool rcmgr_table_match(const rcmgr_table *t, uint64_t hash, size_t *at)
{
    while (rcmgr_table_item(t, *at) != NULL) {
        if (t->slots[*at].hash == (uint32_t)(hash >> 32))
            return true;
        *at = rcmgr_table_after(t, *at);
    }
    return false;
}

/* A search for `hash` follows soon: ask for the slot where it begins, and, when the slot has had time
 * to arrive, for the item. A caller need not hold the table's lock, because a GIL is one. Without a GIL
 * another thread could move the table meanwhile, so then they do nothing. */
#if defined(Py_GIL_DISABLED)

static inline void rcmgr_table_expect(const rcmgr_table *t, uint64_t hash) { (void)t, (void)hash; }
static inline void rcmgr_table_expect_item(const rcmgr_table *t, uint64_t hash) { (void)t, (void)hash; }

#else

static inline void rcmgr_table_expect(const rcmgr_table *t, uint64_t hash)
{
    rcmgr_prefetch(&t->slots[rcmgr_table_home(t, hash)]);
}

static inline void rcmgr_table_expect_item(const rcmgr_table *t, uint64_t hash)
{
    size_t at = rcmgr_table_home(t, hash);
    if (rcmgr_table_match(t, hash, &at))
        rcmgr_prefetch_object(rcmgr_table_item(t, at));
}

#endif

/* `at` is the free slot where a search for `hash` ended. */
static inline void rcmgr_table_put(rcmgr_table *t, size_t at, uint64_t hash, void *item)
{
    t->slots[at].hash = (uint32_t)(hash >> 32);
    rcmgr_table_set_item(t, at, item);
    t->used++;
    t->changes++;
}

/* Close the gap: later items move back, but never before their first slot. */
static inline void rcmgr_table_remove(rcmgr_table *t, size_t at)
{
    size_t gap = at;
    for (;;) {
        at = rcmgr_table_after(t, at);
        if (rcmgr_table_item(t, at) == NULL)
            break;
        size_t home = rcmgr_table_home_of(t, &t->slots[at]);
        if (rcmgr_table_steps(t, home, at) >= rcmgr_table_steps(t, gap, at)) {
            t->slots[gap] = t->slots[at];
            gap = at;
        }
    }
    rcmgr_table_set_item(t, gap, NULL);
    t->used--;
    t->changes++;
}

enum { RCMGR_TABLE_NO_ROOM = -1 };
#define RCMGR_TABLE_END (UINT64_C(1) << 32)

/* Walk a table in steps. Between them, items may come and go, and the table may move. An item that
 * stays for the whole walk is found exactly once.
 *
 * `*from` is 0 before the first step, and RCMGR_TABLE_END after the last one. A step reads about
 * `slots` slots: the ones where as many hashes begin, and those up to the next free slot. It returns
 * how many items it found. With RCMGR_TABLE_NO_ROOM there are more than `room`, and nothing has
 * changed. */
static inline int64_t rcmgr_table_walk(const rcmgr_table *t, uint64_t *from, size_t slots,
                                       void **found, size_t room)
{
    /* in the order of hashes, as a table of any size has them */
    uint64_t first = *from, width = ((uint64_t)slots << 32) / t->count;
    uint64_t end = width == 0 ? first + 1 : first + width;
    if (end > RCMGR_TABLE_END)
        end = RCMGR_TABLE_END;
    size_t at = rcmgr_table_home(t, first << 32), count = 0;
    size_t least = rcmgr_table_home(t, (end - 1) << 32) - at;
    for (size_t steps = 0; steps < t->count; steps++, at = rcmgr_table_after(t, at)) {
        uint64_t hash = t->slots[at].hash;
        if (rcmgr_table_item(t, at) == NULL) {
            if (steps >= least)
                break;
        } else if (hash >= first && hash < end) {
            if (count == room)
                return RCMGR_TABLE_NO_ROOM;
            found[count++] = rcmgr_table_item(t, at);
        }
    }
    *from = end;
    return (int64_t)count;
}

/* How many slots the table should have. A half or a third more if the next item would fill more than
 * four fifths. A quarter if the items fill less than a sixteenth. Otherwise as many as now. So a large
 * table has 15 to 23 bytes for each item. */
static inline size_t rcmgr_table_wanted_slots(const rcmgr_table *t)
{
    size_t slots = t->slots == NULL ? 0 : t->count;
    if (5 * (t->used + 1) > 4 * slots) {
        if (slots == 0)
            return RCMGR_TABLE_MIN_SLOTS;
        return slots + ((slots & (slots - 1)) == 0 ? slots / 2 : slots / 3);
    }
    if (slots > RCMGR_TABLE_MIN_SLOTS && t->used < slots / 16)
        return slots / 4 > RCMGR_TABLE_MIN_SLOTS ? slots / 4 : RCMGR_TABLE_MIN_SLOTS;
    return slots;
}

/* Move all items to `count` zeroed slots: a number that rcmgr_table_wanted_slots gave. Returns the old
 * slots. */
static inline rcmgr_slot *rcmgr_table_move(rcmgr_table *t, rcmgr_slot *slots, size_t count)
{
    rcmgr_slot *old = t->slots;
    size_t old_count = old == NULL ? 0 : t->count;
    t->slots = slots;
    t->count = count;
    rcmgr_table from = {.slots = old, .count = old_count};
    for (size_t i = 0; i < old_count; i++) {
        if (rcmgr_table_item(&from, i) == NULL)
            continue;
        size_t at = rcmgr_table_home_of(t, &old[i]);
        while (rcmgr_table_item(t, at) != NULL)
            at = rcmgr_table_after(t, at);
        t->slots[at] = old[i];
    }
    t->changes++;
    return old;
}

#endif
