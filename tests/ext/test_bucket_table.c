#include "bucket_table.h"

#include "check.h"

enum { KEYS = 500 };

typedef struct {
    uint32_t tag;
    bool in;
    int64_t full_ns;
} item;

static void fit(rcmgr_shard *shard)
{
    uint32_t wanted = rcmgr_shard_wanted_slots(shard);
    if (wanted != shard->count) {
        rcmgr_bucket *slots = calloc(wanted, sizeof(rcmgr_bucket));
        CHECK(slots != NULL);
        free(rcmgr_shard_move(shard, slots, wanted));
    }
}

static rcmgr_bucket *find(const rcmgr_shard *shard, const item *it, uint32_t *at)
{
    *at = rcmgr_shard_home(shard, it->tag);
    for (; rcmgr_shard_match(shard, it->tag, at); *at = rcmgr_shard_after(shard, *at))
        if (shard->slots[*at].key == it)
            return &shard->slots[*at];
    return NULL;
}

static void check_whole(const rcmgr_shard *shard, const item *items)
{
    uint32_t in = 0, at;
    for (int i = 0; i < KEYS; i++) {
        const rcmgr_bucket *bucket = find(shard, &items[i], &at);
        CHECK((bucket != NULL) == items[i].in);
        CHECK(bucket == NULL || bucket->full_ns == items[i].full_ns);
        in += items[i].in;
    }
    CHECK_EQ(shard->used, in);
    CHECK(shard->used < shard->count);
}

/* Any order of puts and removes, with tags that collide, crowd one end, or spread. */
static void test_against_a_model(uint32_t (*tag_of)(int))
{
    static item items[KEYS];
    rcmgr_shard shard = {0};
    uint32_t at, state = 1;
    for (int i = 0; i < KEYS; i++) {
        item fresh = {tag_of(i), false, 0};
        items[i] = fresh;
    }
    fit(&shard);
    for (int step = 0; step < 20000; step++) {
        state = state * 1664525u + 1013904223u;
        item *it = &items[(state >> 16) % KEYS];
        if (it->in) {
            CHECK(find(&shard, it, &at) != NULL);
            CHECK(rcmgr_shard_remove(&shard, at) == it);
        } else {
            fit(&shard);
            CHECK(find(&shard, it, &at) == NULL);
            rcmgr_shard_put(&shard, at, it->tag, it);
            it->full_ns = shard.slots[at].full_ns = step;
        }
        it->in = !it->in;
        if (step % 97 == 0)
            check_whole(&shard, items);
    }
    check_whole(&shard, items);
    free(shard.slots);
}

static uint32_t spread(int i) { return (uint32_t)i * 2654435761u; }
static uint32_t the_same(int i) { (void)i; return 77; }
static uint32_t at_the_end(int i) { return UINT32_MAX - (uint32_t)i; }

static void test_what_may_go(void)
{
    static item items[6];
    rcmgr_shard shard = {0};
    uint32_t at;
    fit(&shard);
    for (int i = 0; i < 6; i++) {
        items[i].tag = spread(i);
        fit(&shard);
        CHECK(find(&shard, &items[i], &at) == NULL);
        rcmgr_shard_put(&shard, at, items[i].tag, &items[i]);
        shard.slots[at].full_ns = 100 + i;
    }
    CHECK_EQ(rcmgr_shard_find_full(&shard, 100, 100), -1); /* full from 101 on */
    int64_t found = rcmgr_shard_find_full(&shard, 101, 100);
    CHECK(found >= 0 && shard.slots[found].key == &items[0]);
    found = rcmgr_shard_find_fullest(&shard, 6);
    CHECK(found >= 0 && shard.slots[found].key == &items[0]);
    rcmgr_shard_remove(&shard, (uint32_t)found);
    found = rcmgr_shard_find_fullest(&shard, 100);
    CHECK(found >= 0 && shard.slots[found].key == &items[1]);
    for (int i = 1; i < 6; i++) {
        CHECK(find(&shard, &items[i], &at) != NULL);
        rcmgr_shard_remove(&shard, at);
    }
    CHECK_EQ(rcmgr_shard_find_fullest(&shard, 100), -1);
    free(shard.slots);
}

static void test_denials_stay_at_their_maximum(void)
{
    rcmgr_bucket bucket = {0};
    for (int i = 0; i < 70000; i++)
        rcmgr_bucket_count_denial(&bucket);
    CHECK_EQ(bucket.denials, 65535);
}

static void test_a_bucket_keeps_its_time(void)
{
    rcmgr_bucket bucket = {0};
    rcmgr_gcra_time full = {-5, 65535};
    rcmgr_bucket_set(&bucket, full);
    CHECK_EQ(bucket.full_ns, -5);
    CHECK_EQ(rcmgr_bucket_time(&bucket).full_ns, -5);
    CHECK_EQ(rcmgr_bucket_time(&bucket).ticks, 65535);
    rcmgr_bucket_count_denial(&bucket);
    CHECK_EQ(bucket.denials, 1);
}

static void test_growth(void)
{
    static const struct {
        uint32_t count, used, wanted;
    } cases[] = {{0, 0, 8}, {8, 5, 8}, {8, 6, 18}, {10, 7, 10}, {10, 8, 21},
                 {1500000000, 1200000000, 2000000008}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        rcmgr_shard shard = {NULL, cases[i].count, cases[i].used, 0};
        CHECK_EQ(rcmgr_shard_wanted_slots(&shard), cases[i].wanted);
    }
}

static void test_tags_spread_over_all_slots(void)
{
    rcmgr_shard shard = {NULL, 10, 0, 0};
    CHECK_EQ(rcmgr_shard_home(&shard, 0), 0);
    CHECK_EQ(rcmgr_shard_home(&shard, UINT32_MAX / 2 + 1), 5);
    CHECK_EQ(rcmgr_shard_home(&shard, UINT32_MAX), 9);
}

enum { SLOTS = 8 };
static rcmgr_bucket slots[SLOTS];
static int keys[SLOTS];

/* A shard of 8 slots. Each bucket has a time when it is full. A slot with 0 is free. */
static rcmgr_shard shard_of(const int64_t *full, uint32_t hand)
{
    rcmgr_shard shard = {slots, SLOTS, 0, hand};
    for (int i = 0; i < SLOTS; i++) {
        rcmgr_bucket free_slot = {0};
        slots[i] = free_slot;
        if (full[i] == 0)
            continue;
        rcmgr_shard_put(&shard, (uint32_t)i, 0, &keys[i]);
        CHECK_EQ(slots[i].ticks, 0);
        CHECK_EQ(slots[i].denials, 0);
        CHECK_EQ(slots[i].full_ns, INT64_MIN);
        slots[i].full_ns = full[i];
    }
    return shard;
}

static void test_a_search_takes_so_many_steps(void)
{
    static const int64_t full[SLOTS] = {0, 50, 0, 10, 0, 0, 0, 60};
    rcmgr_shard shard = shard_of(full, 0);
    CHECK_EQ(rcmgr_shard_find_full(&shard, 11, 3), -1);
    CHECK_EQ(shard.hand, 3);
    CHECK_EQ(rcmgr_shard_find_full(&shard, 11, 1), 3);
    CHECK_EQ(rcmgr_shard_find_full(&shard, 11, 1), 3); /* the one that moves there is next */
    shard.hand = 4;
    CHECK_EQ(rcmgr_shard_find_full(&shard, 51, 5), -1);
    CHECK_EQ(shard.hand, 1);
    CHECK_EQ(rcmgr_shard_find_full(&shard, 51, 1), 1);
}

static void test_the_fullest_of_so_many(void)
{
    static const int64_t full[SLOTS] = {0, 50, 0, 10, 0, 10, 0, 5};
    rcmgr_shard shard = shard_of(full, 0);
    CHECK_EQ(rcmgr_shard_find_fullest(&shard, 1), 1);
    CHECK_EQ(shard.hand, 2);
    CHECK_EQ(rcmgr_shard_find_fullest(&shard, 2), 3); /* equal: the first */
    CHECK_EQ(shard.hand, 6);
    shard.hand = 0;
    CHECK_EQ(rcmgr_shard_find_fullest(&shard, 3), 3);
    shard.hand = 0;
    slots[3].ticks = 1;
    CHECK_EQ(rcmgr_shard_find_fullest(&shard, 3), 5); /* by a part of a nanosecond */
    slots[1].full_ns = 10;
    shard.hand = 0;
    CHECK_EQ(rcmgr_shard_find_fullest(&shard, 2), 1);
    static const int64_t lonely[SLOTS] = {0, 0, 0, 7, 0, 0, 0, 0};
    shard = shard_of(lonely, 4);
    CHECK_EQ(rcmgr_shard_find_fullest(&shard, 1), 3); /* the last slot that it looks at */
}

static void test_a_move_begins_the_search_anew(void)
{
    static const int64_t full[SLOTS] = {0, 50, 0, 0, 0, 0, 0, 0};
    static rcmgr_bucket more[2 * SLOTS];
    rcmgr_shard shard = shard_of(full, 5);
    CHECK(rcmgr_shard_move(&shard, more, 2 * SLOTS) == slots);
    CHECK_EQ(shard.hand, 0);
    CHECK_EQ(shard.used, 1);
    CHECK_EQ(shard.slots[0].full_ns, 50); /* the tag is 0 */
}

int main(void)
{
    test_against_a_model(spread);
    test_against_a_model(the_same);
    test_against_a_model(at_the_end);
    test_what_may_go();
    test_denials_stay_at_their_maximum();
    test_a_bucket_keeps_its_time();
    test_growth();
    test_tags_spread_over_all_slots();
    test_a_search_takes_so_many_steps();
    test_the_fullest_of_so_many();
    test_a_move_begins_the_search_anew();
    return 0;
}
