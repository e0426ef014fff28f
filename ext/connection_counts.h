/* How many connections are in which state, and whether one more may enter.
 *
 * The rules are those of rust-libp2p's connection-limits crate: the direction's limit first, then
 * the peer's, then the total. A limit refuses when `current >= limit`. No limit applies to an exempt
 * connection: it is present but not counted. The crate documents this, but its code counts them.
 *
 * No Python, no allocation, no system call. Not thread safe: the caller holds a lock. */
#ifndef RCMGR_CONNECTION_COUNTS_H
#define RCMGR_CONNECTION_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared_words.h"

enum {
    RCMGR_PENDING_INBOUND,
    RCMGR_PENDING_OUTBOUND,
    RCMGR_ESTABLISHED_INBOUND,
    RCMGR_ESTABLISHED_OUTBOUND,
    RCMGR_STATES,
    RCMGR_CLOSED = RCMGR_STATES,
};

/* The limits, in the order of ConnectionLimitKind. The first four are those of the states. */
enum {
    RCMGR_PER_PEER = RCMGR_STATES,
    RCMGR_ESTABLISHED_TOTAL,
    RCMGR_CONNECTIONS, /* pending and established together */
    RCMGR_LIMITS,
    RCMGR_ADMITTED = -1,
};

#define RCMGR_NO_LIMIT INT64_MAX

typedef struct {
    int64_t at[RCMGR_LIMITS]; /* RCMGR_NO_LIMIT: none */
} rcmgr_connection_limits;

/* Counted peaks; the same indices as a limit, plus one for everything pending. */
enum { RCMGR_PEAK_PENDING_TOTAL = RCMGR_LIMITS, RCMGR_PEAKS };

typedef struct {
    int64_t present[RCMGR_STATES]; /* with the exempt ones */
    int64_t counted[RCMGR_STATES]; /* without them: limits apply to these numbers */
    int64_t peak[RCMGR_PEAKS];     /* highest counted value */
    int64_t denied[RCMGR_LIMITS];
    int64_t entered[RCMGR_STATES]; /* how many have entered the state since the start */
    int64_t created, closed;       /* totals since the start */
} rcmgr_connection_counts;

/* One connection, in eight bytes: its flags, and when it entered its state. The flags take the place
 * of the lowest bits of the time.
 *
 * The lock's owner writes it. Other threads may read it without the lock: each function reads or
 * writes the whole word at once. */
typedef struct {
    uint64_t word;
} rcmgr_connection_entry;

enum {
    RCMGR_STATE_BITS = 7,
    RCMGR_EXEMPT_BIT = 8,
    RCMGR_REPORTED_BIT = 16, /* known to the swarm by its id, so reconciliation applies to it */
    RCMGR_FIRST_BIT = 32,    /* first among the connections of its peer */
    RCMGR_ENTRY_FLAGS = 63,
};

/* The link back of a connection in a list. The first connection of a peer's list needs no link: it
 * has the counts of the list instead. */
typedef struct {
    uint32_t present, counted;
} rcmgr_peer_counts;

typedef union {
    void *previous;
    rcmgr_peer_counts of_peer;
} rcmgr_connection_back;

static inline int rcmgr_entry_state(const rcmgr_connection_entry *entry)
{
    return (int)(rcmgr_read_word(&entry->word) & RCMGR_STATE_BITS);
}

/* `bit`: one of the RCMGR_..._BIT */
static inline bool rcmgr_entry_has(const rcmgr_connection_entry *entry, int bit)
{
    return (rcmgr_read_word(&entry->word) & (uint64_t)bit) != 0;
}

static inline int64_t rcmgr_since_ns(const rcmgr_connection_entry *entry)
{
    return (int64_t)(rcmgr_read_word(&entry->word) & ~(uint64_t)RCMGR_ENTRY_FLAGS);
}

static inline void rcmgr_entry_set(rcmgr_connection_entry *entry, int bit, bool on)
{
    uint64_t others = rcmgr_read_word(&entry->word) & ~(uint64_t)bit;
    rcmgr_write_word(&entry->word, others | (on ? (uint64_t)bit : 0));
}

static inline void rcmgr_enter_state(rcmgr_connection_entry *entry, int state, bool exempt,
                                     int64_t now_ns)
{
    uint64_t kept = rcmgr_read_word(&entry->word) & (RCMGR_REPORTED_BIT | RCMGR_FIRST_BIT);
    uint64_t since = (uint64_t)now_ns & ~(uint64_t)RCMGR_ENTRY_FLAGS;
    rcmgr_write_word(&entry->word, since | kept | (exempt ? RCMGR_EXEMPT_BIT : 0) | (uint64_t)state);
}

/* It has ended. The time and the exemption stay. */
static inline void rcmgr_close_entry(rcmgr_connection_entry *entry)
{
    uint64_t kept = rcmgr_read_word(&entry->word);
    kept &= ~(uint64_t)(RCMGR_STATE_BITS | RCMGR_REPORTED_BIT);
    rcmgr_write_word(&entry->word, kept | RCMGR_CLOSED);
}

static inline int64_t rcmgr_counted_pending(const rcmgr_connection_counts *c)
{
    return c->counted[RCMGR_PENDING_INBOUND] + c->counted[RCMGR_PENDING_OUTBOUND];
}

static inline int64_t rcmgr_counted_established(const rcmgr_connection_counts *c)
{
    return c->counted[RCMGR_ESTABLISHED_INBOUND] + c->counted[RCMGR_ESTABLISHED_OUTBOUND];
}

/* The number that a limit applies to. `of_peer`: the counted connections of the peer. */
static inline int64_t rcmgr_counted(const rcmgr_connection_counts *c, int limit, int64_t of_peer)
{
    switch (limit) {
    case RCMGR_PER_PEER: return of_peer;
    case RCMGR_ESTABLISHED_TOTAL: return rcmgr_counted_established(c);
    case RCMGR_CONNECTIONS: return rcmgr_counted_pending(c) + rcmgr_counted_established(c);
    default: return c->counted[limit];
    }
}

/* RCMGR_ADMITTED, or the first limit that refuses one more connection in `state`.
 * `counted_already`: it is pending and counted, so entering `state` does not add a connection. */
static inline int rcmgr_refusing_limit(const rcmgr_connection_counts *c,
                                       const rcmgr_connection_limits *limits, int state,
                                       int64_t of_peer, bool counted_already)
{
    if (c->counted[state] >= limits->at[state])
        return state;
    if (state >= RCMGR_ESTABLISHED_INBOUND) {
        if (of_peer >= limits->at[RCMGR_PER_PEER])
            return RCMGR_PER_PEER;
        if (rcmgr_counted_established(c) >= limits->at[RCMGR_ESTABLISHED_TOTAL])
            return RCMGR_ESTABLISHED_TOTAL;
    }
    if (!counted_already
        && rcmgr_counted(c, RCMGR_CONNECTIONS, 0) >= limits->at[RCMGR_CONNECTIONS])
        return RCMGR_CONNECTIONS;
    return RCMGR_ADMITTED;
}

static inline void rcmgr_raise_peak(int64_t *peak, int64_t value)
{
    if (value > *peak)
        *peak = value;
}

static inline void rcmgr_enter(rcmgr_connection_counts *c, int state, bool exempt)
{
    c->present[state]++;
    c->entered[state]++;
    if (exempt)
        return;
    c->counted[state]++;
    rcmgr_raise_peak(&c->peak[state], c->counted[state]);
    if (state >= RCMGR_ESTABLISHED_INBOUND)
        rcmgr_raise_peak(&c->peak[RCMGR_ESTABLISHED_TOTAL], rcmgr_counted_established(c));
    else
        rcmgr_raise_peak(&c->peak[RCMGR_PEAK_PENDING_TOTAL], rcmgr_counted_pending(c));
    rcmgr_raise_peak(&c->peak[RCMGR_CONNECTIONS], rcmgr_counted(c, RCMGR_CONNECTIONS, 0));
}

static inline void rcmgr_leave(rcmgr_connection_counts *c, int state, bool exempt)
{
    c->present[state]--;
    if (!exempt)
        c->counted[state]--;
}

#endif
