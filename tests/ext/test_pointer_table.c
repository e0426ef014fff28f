#include "pointer_table.h"

#include <string.h>

#include "check.h"

typedef struct {
    int64_t key;
    uint64_t hash;
    bool in;
} item;

static void fit(rcmgr_table *table)
{
    size_t wanted = rcmgr_table_wanted_slots(table);
    if (table->slots == NULL || wanted != table->count) {
        rcmgr_slot *slots = calloc(wanted, sizeof(rcmgr_slot));
        CHECK(slots != NULL);
        free(rcmgr_table_move(table, slots, wanted));
    }
}

/* The item with this key and its slot, or NULL and the slot where it belongs. */
static item *find(const rcmgr_table *table, int64_t key, uint64_t hash, size_t *at)
{
    *at = rcmgr_table_home(table, hash);
    for (; rcmgr_table_match(table, hash, at); *at = rcmgr_table_after(table, *at)) {
        item *found = rcmgr_table_item(table, *at);
        if (found->key == key)
            return found;
    }
    return NULL;
}

static void add(rcmgr_table *table, item *it)
{
    size_t at;
    fit(table);
    CHECK(find(table, it->key, it->hash, &at) == NULL);
    rcmgr_table_put(table, at, it->hash, it);
    it->in = true;
}

static void drop(rcmgr_table *table, item *it)
{
    size_t at;
    CHECK(find(table, it->key, it->hash, &at) == it);
    rcmgr_table_remove(table, at);
    it->in = false;
}

/* A search finds every item that is in the table. One slot is free, and `used` is right. */
static void check_whole(const rcmgr_table *table, item *items, size_t count)
{
    size_t in = 0, taken = 0, at;
    for (size_t i = 0; i < count; i++) {
        CHECK(find(table, items[i].key, items[i].hash, &at) == (items[i].in ? &items[i] : NULL));
        in += items[i].in;
    }
    for (size_t i = 0; i < table->count; i++)
        taken += rcmgr_table_item(table, i) != NULL;
    CHECK_EQ(table->used, in);
    CHECK_EQ(taken, in);
    CHECK(taken < table->count);
}

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* The hashes of the items: spread, mixed from small ints, in few slots, or all the same. LAST: all
 * in the last slots, so that searches wrap around. */
enum { SPREAD, SMALL_INTS, FEW, ONE, LAST, WAYS };

static uint64_t make_hash(int way, size_t i)
{
    switch (way) {
    case SPREAD: return next_random();
    case SMALL_INTS: return rcmgr_table_mix((int64_t)i);
    case FEW: return rcmgr_table_mix((int64_t)(i % 5));
    case ONE: return 0;
    default: return UINT64_MAX - i % 3;
    }
}

#define COUNT 60

/* Any order of additions and removals, checked whole after each step. */
static void random_life(int way, uint64_t seed)
{
    item items[COUNT];
    rcmgr_table table;
    memset(&table, 0, sizeof(table));
    random_state = seed;
    for (size_t i = 0; i < COUNT; i++)
        items[i] = (item){(int64_t)i, make_hash(way, i), false};
    fit(&table);
    CHECK_EQ(table.count, RCMGR_TABLE_MIN_SLOTS);
    for (int step = 0; step < 1500; step++) {
        /* now more of the one, now of the other, so that it grows and shrinks */
        bool growing = step / 150 % 2 == 0;
        item *it = &items[next_random() % COUNT];
        uint64_t changes = table.changes;
        if (it->in == growing && next_random() % 4 != 0)
            continue;
        if (it->in)
            drop(&table, it);
        else
            add(&table, it);
        CHECK(table.changes > changes);
        check_whole(&table, items, COUNT);
    }
    for (size_t i = 0; i < COUNT; i++)
        if (items[i].in)
            drop(&table, &items[i]);
    check_whole(&table, items, COUNT);
    free(table.slots);
}

/* Load stays at four fifths and below; a table that was large becomes small again. */
static void size_follows_use(void)
{
    enum { MANY = 20000 };
    item *items = calloc(MANY, sizeof(item));
    rcmgr_table table;
    memset(&table, 0, sizeof(table));
    for (size_t i = 0; i < MANY; i++) {
        items[i] = (item){(int64_t)i, rcmgr_table_mix((int64_t)i), false};
        add(&table, &items[i]);
        CHECK(5 * table.used <= 4 * table.count);
    }
    CHECK_EQ(table.count, 32768);
    check_whole(&table, items, MANY);
    for (size_t i = 0; i < MANY; i++) {
        fit(&table);
        drop(&table, &items[i]);
        CHECK(table.count <= RCMGR_TABLE_MIN_SLOTS || 20 * table.used >= table.count / 4);
    }
    fit(&table);
    while (table.count > RCMGR_TABLE_MIN_SLOTS)
        fit(&table);
    check_whole(&table, items, MANY);
    free(table.slots);
    free(items);
}

/* The table does not shrink right after it grew: that would move all items again and again. */
static void no_thrashing(void)
{
    item items[64];
    rcmgr_table table;
    memset(&table, 0, sizeof(table));
    for (size_t i = 0; i < 64; i++)
        items[i] = (item){(int64_t)i, rcmgr_table_mix((int64_t)i), false};
    for (size_t i = 0; i < 25; i++)
        add(&table, &items[i]);
    rcmgr_slot *slots = table.slots;
    for (int i = 0; i < 100; i++) {
        drop(&table, &items[24]);
        add(&table, &items[24]);
        CHECK(table.slots == slots);
    }
    free(table.slots);
}

static void size_by_use(void)
{
    static rcmgr_slot slots[1];
    CHECK_EQ(sizeof(slots), 4 + sizeof(void *));
    static const size_t cases[][3] = { /* slots, used, wanted */
        {8, 0, 8}, {8, 5, 8}, {8, 6, 12}, {12, 8, 12}, {12, 9, 16}, {16, 0, 8}, {32, 1, 8},
        {32, 2, 32}, {48, 2, 12}, {64, 3, 16}, {64, 4, 64}, {64, 50, 64}, {64, 51, 96},
        {96, 76, 128}, {128, 7, 32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rcmgr_table table = {.slots = slots, .count = cases[i][0], .used = cases[i][1]};
        CHECK_EQ(rcmgr_table_wanted_slots(&table), cases[i][2]);
    }
    rcmgr_table none = {0};
    CHECK_EQ(rcmgr_table_wanted_slots(&none), RCMGR_TABLE_MIN_SLOTS);
}

/* An iteration in progress notices each of these by the number of changes. */
static void every_change_counts(void)
{
    static rcmgr_slot first[8], second[16];
    rcmgr_table table = {0};
    int item;
    rcmgr_table_move(&table, first, 8);
    CHECK_EQ(table.changes, 1);
    rcmgr_table_put(&table, 3, 0, &item);
    CHECK_EQ(table.changes, 2);
    rcmgr_table_remove(&table, 3);
    CHECK_EQ(table.changes, 3);
    CHECK(rcmgr_table_move(&table, second, 16) == first);
    CHECK_EQ(table.changes, 4);
}

/* The hashes of Python's small ints do not end up side by side in a few slots. */
static void mixing_spreads_small_ints(void)
{
    unsigned char taken[1024] = {0};
    int different = 0;
    for (int64_t i = 0; i < 512; i++) {
        size_t home = (size_t)(rcmgr_table_mix(i) >> 54);
        different += !taken[home];
        taken[home] = 1;
    }
    CHECK(different > 400);
}

enum { WALKED = 3000 };

/* Walk in steps of `slots`. Before each step, some of the second half come and go, and so the table
 * moves. The first half stays, and must be found once. */
static void check_walk(size_t slots, bool changes)
{
    static item items[WALKED];
    static int seen[WALKED];
    void *found[WALKED];
    rcmgr_table table;
    memset(&table, 0, sizeof table);
    memset(seen, 0, sizeof seen);
    for (int64_t i = 0; i < WALKED; i++) {
        items[i] = (item){i, rcmgr_table_mix(i * 7919 + 1), false};
        if (i < WALKED / 2 || !changes)
            add(&table, &items[i]);
    }
    uint64_t at = 0;
    size_t steps = 0, most = 0;
    while (at != RCMGR_TABLE_END) {
        uint64_t before = at;
        int64_t count = rcmgr_table_walk(&table, &at, slots, found, WALKED);
        CHECK(count >= 0 && at > before && at <= RCMGR_TABLE_END);
        most = (size_t)count > most ? (size_t)count : most;
        for (int64_t i = 0; i < count; i++)
            seen[(item *)found[i] - items]++;
        for (size_t i = 0; changes && i < WALKED / 2; i++) {
            item *it = &items[WALKED / 2 + i];
            bool wanted = steps % 2 == 0 || i % 3 == steps % 3;
            if (wanted && !it->in)
                add(&table, it);
            else if (!wanted && it->in)
                drop(&table, it);
        }
        steps++;
    }
    for (size_t i = 0; i < WALKED; i++)
        CHECK(i < WALKED / 2 || !changes ? seen[i] == 1 : seen[i] <= 1);
    CHECK(steps >= WALKED / (slots + 1));
    CHECK(most <= slots + 1); /* an item for each slot where a hash of the step may begin */
    free(table.slots);
}

static void test_a_walk_without_room(void)
{
    static item items[8];
    void *found[8];
    rcmgr_table table;
    memset(&table, 0, sizeof table);
    for (int64_t i = 0; i < 8; i++) {
        items[i] = (item){i, UINT64_C(5) << 32, false}; /* one hash */
        add(&table, &items[i]);
    }
    uint64_t at = 0;
    CHECK_EQ(rcmgr_table_walk(&table, &at, table.count, found, 7), RCMGR_TABLE_NO_ROOM);
    CHECK_EQ(at, 0);
    CHECK_EQ(rcmgr_table_walk(&table, &at, 0, found, 7), 0); /* the first hash of all */
    CHECK_EQ(at, 1);
    at = 5;
    CHECK_EQ(rcmgr_table_walk(&table, &at, 0, found, 7), RCMGR_TABLE_NO_ROOM);
    CHECK_EQ(rcmgr_table_walk(&table, &at, 0, found, 8), 8);
    CHECK_EQ(at, 6);
    CHECK_EQ(rcmgr_table_walk(&table, &at, table.count, found, 0), 0);
    CHECK(at == RCMGR_TABLE_END);
    free(table.slots);
}

int main(void)
{
    for (int way = 0; way < WAYS; way++)
        for (uint64_t seed = 1; seed <= 8; seed++)
            random_life(way, seed * UINT64_C(88172645463325252));
    size_follows_use();
    no_thrashing();
    size_by_use();
    every_change_counts();
    mixing_spreads_small_ints();
    for (size_t slots = 1; slots < 5000; slots = 3 * slots + 1) {
        check_walk(slots, false);
        check_walk(slots, true);
    }
    test_a_walk_without_room();
    return 0;
}
