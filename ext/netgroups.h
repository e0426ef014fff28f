/* Connections by their network group, and the groups by their size.
 *
 * A seat is one connection. Each group has one list of seats for each level. The caller says what a
 * level means. A list is in the order in which its seats entered it. The caller owns all memory and
 * finds groups by their hash. The caller's record of a connection begins with its `rcmgr_seat`.
 *
 * Groups of one size are in the order in which they came to it, the latest first. Sizes above
 * RCMGR_GROUP_SIZES - 1 share the last bucket.
 *
 * Every operation is O(1). No Python, no allocation, no system call. Not thread safe. */
#ifndef RCMGR_NETGROUPS_H
#define RCMGR_NETGROUPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RCMGR_GROUP_LEVELS = 4,
    RCMGR_GROUP_SIZES = 4096,
    RCMGR_GROUP_WORDS = RCMGR_GROUP_SIZES / 64,
};

typedef struct rcmgr_seat rcmgr_seat;
typedef struct rcmgr_netgroup rcmgr_netgroup;

struct rcmgr_seat {
    rcmgr_seat *older, *younger; /* in the list of its group and level */
    rcmgr_netgroup *group;
    void *owner; /* the caller's; NULL: the seat is free */
    uint32_t number, generation;
    int level;
};

typedef struct {
    rcmgr_seat *oldest, *youngest;
} rcmgr_seat_list;

struct rcmgr_netgroup {
    uint64_t hash;
    rcmgr_netgroup *before, *after; /* neighbours with the same size */
    uint32_t size;
    rcmgr_seat_list levels[RCMGR_GROUP_LEVELS];
};

typedef struct {
    rcmgr_netgroup *of_size[RCMGR_GROUP_SIZES];
    uint64_t words[RCMGR_GROUP_WORDS]; /* a bit for each size that some group has */
    uint64_t in_use;                   /* a bit for each word that is not zero */
} rcmgr_group_sizes;

static inline unsigned rcmgr_size_bucket(uint32_t size)
{
    return size < RCMGR_GROUP_SIZES ? size : RCMGR_GROUP_SIZES - 1;
}

static inline int rcmgr_highest_bit(uint64_t word) /* the word is not zero */
{
#if defined(__GNUC__)
    return 63 - __builtin_clzll(word);
#else
    int bit = 0;
    while (word >>= 1)
        bit++;
    return bit;
#endif
}

static inline void rcmgr_sizes_link(rcmgr_group_sizes *sizes, rcmgr_netgroup *group)
{
    unsigned bucket = rcmgr_size_bucket(group->size);
    group->before = NULL;
    group->after = sizes->of_size[bucket];
    if (group->after != NULL)
        group->after->before = group;
    sizes->of_size[bucket] = group;
    sizes->words[bucket / 64] |= UINT64_C(1) << bucket % 64;
    sizes->in_use |= UINT64_C(1) << bucket / 64;
}

static inline void rcmgr_sizes_unlink(rcmgr_group_sizes *sizes, rcmgr_netgroup *group)
{
    unsigned bucket = rcmgr_size_bucket(group->size);
    if (group->after != NULL)
        group->after->before = group->before;
    if (group->before != NULL) {
        group->before->after = group->after;
        return;
    }
    sizes->of_size[bucket] = group->after;
    if (group->after != NULL)
        return;
    sizes->words[bucket / 64] &= ~(UINT64_C(1) << bucket % 64);
    if (sizes->words[bucket / 64] == 0)
        sizes->in_use &= ~(UINT64_C(1) << bucket / 64);
}

/* Give a group another size. With size 0 it is not in the sizes. */
static inline void rcmgr_group_resize(rcmgr_group_sizes *sizes, rcmgr_netgroup *group, uint32_t size)
{
    if (group->size != 0)
        rcmgr_sizes_unlink(sizes, group);
    group->size = size;
    if (size != 0)
        rcmgr_sizes_link(sizes, group);
}

/* The first group of the largest size below bucket `below`. NULL: all sizes there are empty. */
static inline rcmgr_netgroup *rcmgr_largest_below(const rcmgr_group_sizes *sizes, unsigned below)
{
    if (below == 0)
        return NULL;
    unsigned word = (below - 1) / 64;
    uint64_t bits = sizes->words[word] & (UINT64_MAX >> (63 - (below - 1) % 64));
    if (bits == 0) {
        uint64_t words = word == 0 ? 0 : sizes->in_use & ((UINT64_C(1) << word) - 1);
        if (words == 0)
            return NULL;
        word = (unsigned)rcmgr_highest_bit(words);
        bits = sizes->words[word];
    }
    return sizes->of_size[64 * word + (unsigned)rcmgr_highest_bit(bits)];
}

static inline rcmgr_netgroup *rcmgr_largest_group(const rcmgr_group_sizes *sizes)
{
    return rcmgr_largest_below(sizes, RCMGR_GROUP_SIZES);
}

/* The next one after `group` by falling size. NULL: `group` is the last. */
static inline rcmgr_netgroup *rcmgr_next_group(const rcmgr_group_sizes *sizes,
                                               const rcmgr_netgroup *group)
{
    if (group->after != NULL)
        return group->after;
    return rcmgr_largest_below(sizes, rcmgr_size_bucket(group->size));
}

static inline int rcmgr_lowest_bit(uint64_t word) /* the word is not zero */
{
    return rcmgr_highest_bit(word & (~word + 1));
}

/* The first group of the smallest size. NULL: the sizes are empty. */
static inline rcmgr_netgroup *rcmgr_smallest_group(const rcmgr_group_sizes *sizes)
{
    if (sizes->in_use == 0)
        return NULL;
    int word = rcmgr_lowest_bit(sizes->in_use);
    return sizes->of_size[64 * word + rcmgr_lowest_bit(sizes->words[word])];
}

static inline void rcmgr_list_append(rcmgr_seat_list *list, rcmgr_seat *seat)
{
    seat->older = list->youngest;
    seat->younger = NULL;
    if (list->youngest != NULL)
        list->youngest->younger = seat;
    else
        list->oldest = seat;
    list->youngest = seat;
}

static inline void rcmgr_list_prepend(rcmgr_seat_list *list, rcmgr_seat *seat)
{
    seat->younger = list->oldest;
    seat->older = NULL;
    if (list->oldest != NULL)
        list->oldest->older = seat;
    else
        list->youngest = seat;
    list->oldest = seat;
}

static inline void rcmgr_list_remove(rcmgr_seat_list *list, rcmgr_seat *seat)
{
    if (seat->older != NULL)
        seat->older->younger = seat->younger;
    else
        list->oldest = seat->younger;
    if (seat->younger != NULL)
        seat->younger->older = seat->older;
    else
        list->youngest = seat->older;
}

/* A seat goes to another list of its group, as the youngest in it. */
static inline void rcmgr_seat_set_level(rcmgr_seat *seat, int level)
{
    rcmgr_list_remove(&seat->group->levels[seat->level], seat);
    seat->level = level;
    rcmgr_list_append(&seat->group->levels[level], seat);
}

static inline void rcmgr_seat_enter(rcmgr_group_sizes *sizes, rcmgr_seat *seat,
                                    rcmgr_netgroup *group, int level)
{
    seat->group = group;
    seat->level = level;
    rcmgr_list_append(&group->levels[level], seat);
    rcmgr_group_resize(sizes, group, group->size + 1);
}

/* The group may be empty afterwards: its memory is the caller's to free. */
static inline void rcmgr_seat_leave(rcmgr_group_sizes *sizes, rcmgr_seat *seat)
{
    rcmgr_list_remove(&seat->group->levels[seat->level], seat);
    rcmgr_group_resize(sizes, seat->group, seat->group->size - 1);
}

#endif
