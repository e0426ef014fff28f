/* A ring of events: many threads write, one thread reads, and no writer ever waits.
 *
 * A slot has a turn. A writer may fill the slot at place `n` when its turn is n, and makes it n + 1.
 * The reader takes it at n + 1, and makes it n + size, which is the turn of its next writer. If the
 * reader is late, the ring is full: then an event is dropped and counted. (The design is Vyukov's
 * bounded queue.)
 *
 * Slots have one size. Memory is allocated once, by the owner of the ring. No Python, no system call. */
#ifndef RCMGR_EVENT_RING_H
#define RCMGR_EVENT_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { RCMGR_EVENT_TEXT = 48 }; /* an IPv6 address has 45 characters at most */

typedef struct {
    uint64_t turn;
    int64_t time_ns;
    uint64_t number; /* which connection or stream */
    uint64_t peer;   /* a hash that only this process knows */
    int64_t value;   /* bytes, or nanoseconds */
    uint32_t name;   /* a protocol or service */
    uint32_t other;  /* an operation */
    uint16_t code;   /* the limit that refused */
    uint8_t kind;
    uint8_t flags;
    uint8_t detail;
    uint8_t text_size;
    char text[RCMGR_EVENT_TEXT]; /* an IP address, not terminated */
} rcmgr_event;

typedef struct {
    rcmgr_event *slots;
    uint64_t mask;
    uint64_t head; /* only the reader uses it */
    uint64_t tail;
    uint64_t dropped;
} rcmgr_event_ring;

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>

static inline uint64_t rcmgr_ring_load(uint64_t *word)
{
    return (uint64_t)_InterlockedOr64((volatile int64_t *)word, 0);
}

static inline void rcmgr_ring_store(uint64_t *word, uint64_t value)
{
    _InterlockedExchange64((volatile int64_t *)word, (int64_t)value);
}

static inline void rcmgr_ring_add(uint64_t *word)
{
    _InterlockedExchangeAdd64((volatile int64_t *)word, 1);
}

static inline bool rcmgr_ring_swap(uint64_t *word, uint64_t *expected, uint64_t value)
{
    uint64_t found = (uint64_t)_InterlockedCompareExchange64(
        (volatile int64_t *)word, (int64_t)value, (int64_t)*expected);
    bool swapped = found == *expected;
    *expected = found;
    return swapped;
}

#else

static inline uint64_t rcmgr_ring_load(uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void rcmgr_ring_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void rcmgr_ring_add(uint64_t *word) { __atomic_fetch_add(word, 1, __ATOMIC_RELAXED); }

static inline bool rcmgr_ring_swap(uint64_t *word, uint64_t *expected, uint64_t value)
{
    return __atomic_compare_exchange_n(word, expected, value, true, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED);
}

#endif

/* slots: `size` of them, a power of two. */
static inline void rcmgr_ring_start(rcmgr_event_ring *ring, rcmgr_event *slots, uint64_t size)
{
    memset(ring, 0, sizeof(*ring));
    ring->slots = slots;
    ring->mask = size - 1;
    for (uint64_t at = 0; at < size; at++)
        slots[at].turn = at;
}

/* A slot to fill and publish. NULL: the ring is full, and the event is counted as dropped. */
static inline rcmgr_event *rcmgr_ring_claim(rcmgr_event_ring *ring)
{
    uint64_t at = rcmgr_ring_load(&ring->tail);
    for (;;) {
        rcmgr_event *slot = &ring->slots[at & ring->mask];
        uint64_t turn = rcmgr_ring_load(&slot->turn);
        if (turn == at) {
            if (rcmgr_ring_swap(&ring->tail, &at, at + 1))
                return slot;
        } else if ((int64_t)(turn - at) < 0) {
            rcmgr_ring_add(&ring->dropped);
            return NULL;
        } else {
            at = rcmgr_ring_load(&ring->tail);
        }
    }
}

static inline void rcmgr_ring_publish(rcmgr_event *slot) { rcmgr_ring_store(&slot->turn, slot->turn + 1); }

/* The oldest event. NULL: the ring is empty, or its writer has not published it yet. */
static inline const rcmgr_event *rcmgr_ring_oldest(rcmgr_event_ring *ring)
{
    rcmgr_event *slot = &ring->slots[ring->head & ring->mask];
    return rcmgr_ring_load(&slot->turn) == ring->head + 1 ? slot : NULL;
}

/* Give the slot of the oldest event to a writer. */
static inline void rcmgr_ring_drop_oldest(rcmgr_event_ring *ring)
{
    rcmgr_event *slot = &ring->slots[ring->head & ring->mask];
    rcmgr_ring_store(&slot->turn, ring->head + ring->mask + 1);
    ring->head++;
}

/* Note an address: the IP of "1.2.3.4", "1.2.3.4:80", "[::1]:80", "::1" or a multiaddr. A relayed
 * address has no IP, because a relay does not pay for its guests. */
static inline void rcmgr_event_note_address(rcmgr_event *event, const char *text, size_t size)
{
    size_t begin = 0, end;
    event->text_size = 0;
    if (size > 0 && text[0] == '/') {
        if (size < 6 || (memcmp(text, "/ip4/", 5) != 0 && memcmp(text, "/ip6/", 5) != 0))
            return;
        for (size_t at = 5; at + 12 <= size; at++)
            if (text[at] == '/' && memcmp(text + at, "/p2p-circuit", 12) == 0)
                return;
        begin = 5;
        for (end = begin; end < size && text[end] != '/'; end++)
            ;
    } else if (size > 0 && text[0] == '[') {
        begin = 1;
        for (end = begin; end < size && text[end] != ']'; end++)
            ;
    } else {
        size_t colons = 0, colon = size;
        for (size_t at = 0; at < size; at++) {
            if (text[at] == ':') {
                colons++;
                colon = at;
            }
        }
        end = colons == 1 ? colon : size;
    }
    for (size_t at = begin; at < end; at++)
        if (text[at] == '%')
            end = at; /* a zone */
    if (end - begin > RCMGR_EVENT_TEXT)
        return;
    event->text_size = (uint8_t)(end - begin);
    memcpy(event->text, text + begin, end - begin);
}

#endif
