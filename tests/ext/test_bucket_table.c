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

int main(void)
{
    test_against_a_model(spread);
    test_against_a_model(the_same);
    test_against_a_model(at_the_end);
    test_what_may_go();
    test_denials_stay_at_their_maximum();
    return 0;
}
