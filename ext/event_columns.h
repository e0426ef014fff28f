/* Events as columns of numbers, which compress far better than events one after the other.
 *
 * Each column has a fixed width, and only the events that need it: see rcmgr_event_needs. All numbers
 * are little-endian. docs/record.md describes the columns for readers.
 *
 *     KIND, FLAGS   1 byte each, for every event
 *     TIME          4 bytes, for every event: microseconds since the event before
 *     NUMBER        4 bytes: how far the number of a connection (or stream) is from that of the
 *                   newest one; for a new one, how far it is from the one before
 *     PEER          4 bytes: the place of the peer in the table of peers
 *     ADDRESS       4 bytes: the place of the address in the table of addresses
 *     NAME, OTHER, CODE   2 bytes: the place of a name in the table of names
 *     VALUE         8 bytes
 *     DETAIL        1 byte
 *     NEW_PEERS     8 bytes: the peers that PEER names for the first time, by keyed hash
 *     NEW_ADDRESSES 1 + 4 or 16 bytes: the same for ADDRESS
 *     SECRETS       8 bytes: the peers of NEW_PEERS by the hash of this process; never written
 *
 * No Python, no system call. Memory grows by malloc. A failure to grow loses events, and says so. */
#ifndef RCMGR_EVENT_COLUMNS_H
#define RCMGR_EVENT_COLUMNS_H

#include "event_ring.h"
#include "ip_hash.h"
#include "ip_text.h"
#include "siphash.h"

#include <stdlib.h>

enum {
    RCMGR_EV_BEGIN = 1,    /* a handshake begins */
    RCMGR_EV_ESTABLISH,    /* its peer is known, says the transport */
    RCMGR_EV_REPORT,       /* its peer is known, says the swarm */
    RCMGR_EV_TAKE_OVER,    /* the transport asks about the connection that the swarm reported */
    RCMGR_EV_ACQUIRE,      /* a connection that is only counted */
    RCMGR_EV_CHARGE,       /* a connection that the ledger alone counts */
    RCMGR_EV_SET_PEER,     /* its peer is known */
    RCMGR_EV_NO_FD,        /* it needs no file descriptor */
    RCMGR_EV_CLOSE,        /* the end of a connection */
    RCMGR_EV_STREAM,       /* a stream opens */
    RCMGR_EV_PROTOCOL,     /* its protocol is known */
    RCMGR_EV_SERVICE,      /* its service is known */
    RCMGR_EV_CLOSE_STREAM,
    RCMGR_EV_TAKE_STREAM,  /* a stream that is only counted */
    RCMGR_EV_GIVE_STREAM,
    RCMGR_EV_FORGET,       /* a host has stopped: all streams of this kind of a peer end */
    RCMGR_EV_FORGET_ALL,   /* everything that is held ends */
    RCMGR_EV_CONN_MEMORY,  /* a connection reserves memory; detail: the priority */
    RCMGR_EV_STREAM_MEMORY,
    RCMGR_EV_MEMORY,       /* another scope does; other: its kind, name, peer: which one */
    RCMGR_EV_GIVE_CONN_MEMORY,
    RCMGR_EV_GIVE_STREAM_MEMORY,
    RCMGR_EV_GIVE_MEMORY,
    RCMGR_EV_PROCESS,      /* the process uses too much memory; the code says it */
    RCMGR_EV_RATE,         /* a request of a protocol (name) and an operation (other) */
    RCMGR_EV_OFFENCE,      /* an offence that is no denial; detail: which */
    RCMGR_EV_BAN,          /* value: nanoseconds, -1: until an unban; detail: the bits of a network */
    RCMGR_EV_UNBAN,
    RCMGR_EV_EVICT,        /* a connection makes room for another, and ends */
    RCMGR_EV_SETTINGS,     /* other limits or lists apply; value: which of the frame's settings */
    RCMGR_EV_KINDS,
};

enum {
    RCMGR_EV_INBOUND = 1,
    RCMGR_EV_EXEMPT = 2,
    RCMGR_EV_REFUSED = 4,      /* has a CODE */
    RCMGR_EV_HAS_PEER = 8,     /* has a PEER */
    RCMGR_EV_HAS_ADDRESS = 16, /* has an ADDRESS */
    RCMGR_EV_KNOWN = 32,       /* is about a connection or stream of an earlier event */
    RCMGR_EV_FD = 64,          /* uses a file descriptor; a ban: by the penalty box */
    RCMGR_EV_BY_BOX = 64,
};

enum {
    RCMGR_COL_KIND, RCMGR_COL_FLAGS, RCMGR_COL_TIME, RCMGR_COL_NUMBER, RCMGR_COL_PEER,
    RCMGR_COL_ADDRESS, RCMGR_COL_NAME, RCMGR_COL_OTHER, RCMGR_COL_CODE, RCMGR_COL_VALUE,
    RCMGR_COL_DETAIL, RCMGR_COL_NEW_PEERS, RCMGR_COL_NEW_ADDRESSES, RCMGR_COL_SECRETS,
    RCMGR_COLUMNS,
};

enum { RCMGR_NEEDS_CONN = 1, RCMGR_NEEDS_STREAM = 2, RCMGR_NEEDS_NAME = 4, RCMGR_NEEDS_OTHER = 8,
       RCMGR_NEEDS_VALUE = 16, RCMGR_NEEDS_DETAIL = 32 };

/* The columns of a kind, besides those that its flags name. */
static inline int rcmgr_event_needs(int kind)
{
    static const unsigned char needs[RCMGR_EV_KINDS] = {
        [RCMGR_EV_BEGIN] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_ESTABLISH] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_REPORT] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_TAKE_OVER] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_ACQUIRE] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_CHARGE] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_SET_PEER] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_NO_FD] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_CLOSE] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_EVICT] = RCMGR_NEEDS_CONN,
        [RCMGR_EV_STREAM] = RCMGR_NEEDS_STREAM,
        [RCMGR_EV_PROTOCOL] = RCMGR_NEEDS_STREAM | RCMGR_NEEDS_NAME,
        [RCMGR_EV_SERVICE] = RCMGR_NEEDS_STREAM | RCMGR_NEEDS_NAME,
        [RCMGR_EV_CLOSE_STREAM] = RCMGR_NEEDS_STREAM,
        [RCMGR_EV_CONN_MEMORY] = RCMGR_NEEDS_CONN | RCMGR_NEEDS_VALUE | RCMGR_NEEDS_DETAIL,
        [RCMGR_EV_STREAM_MEMORY] = RCMGR_NEEDS_STREAM | RCMGR_NEEDS_VALUE | RCMGR_NEEDS_DETAIL,
        [RCMGR_EV_MEMORY] =
            RCMGR_NEEDS_NAME | RCMGR_NEEDS_OTHER | RCMGR_NEEDS_VALUE | RCMGR_NEEDS_DETAIL,
        [RCMGR_EV_GIVE_CONN_MEMORY] = RCMGR_NEEDS_CONN | RCMGR_NEEDS_VALUE,
        [RCMGR_EV_GIVE_STREAM_MEMORY] = RCMGR_NEEDS_STREAM | RCMGR_NEEDS_VALUE,
        [RCMGR_EV_GIVE_MEMORY] = RCMGR_NEEDS_NAME | RCMGR_NEEDS_OTHER | RCMGR_NEEDS_VALUE,
        [RCMGR_EV_RATE] = RCMGR_NEEDS_NAME | RCMGR_NEEDS_OTHER,
        [RCMGR_EV_OFFENCE] = RCMGR_NEEDS_DETAIL,
        [RCMGR_EV_BAN] = RCMGR_NEEDS_VALUE | RCMGR_NEEDS_DETAIL,
        [RCMGR_EV_UNBAN] = RCMGR_NEEDS_DETAIL,
        [RCMGR_EV_SETTINGS] = RCMGR_NEEDS_VALUE,
    };
    return needs[kind];
}

typedef struct {
    unsigned char *bytes;
    size_t size, room;
} rcmgr_column;

/* Places by key, in order of arrival. A key is 17 bytes; those of peers use 8. */
typedef struct {
    unsigned char (*keys)[17];
    uint32_t *places; /* 0: free, otherwise the place + 1 */
    size_t room, used;
} rcmgr_places;

typedef struct {
    rcmgr_column columns[RCMGR_COLUMNS];
    rcmgr_places peers, addresses;
    rcmgr_sip_key key;  /* hides peers and addresses */
    bool keeps_ips;     /* write addresses as they are */
    bool failed;        /* out of memory: the columns do not fit together any more */
    int64_t begin_ns;   /* the time of the first event */
    int64_t last_ns;
    uint64_t first_number[2]; /* `newest` before the first event */
    uint64_t newest[2];       /* connection and stream */
    uint64_t events;
} rcmgr_event_columns;

static inline void rcmgr_put(rcmgr_event_columns *into, int which, uint64_t value, int width)
{
    rcmgr_column *column = &into->columns[which];
    if (column->size + 16 > column->room) {
        size_t room = column->room ? 2 * column->room : 4096;
        unsigned char *bytes = (unsigned char *)realloc(column->bytes, room);
        if (bytes == NULL) {
            into->failed = true;
            return;
        }
        column->bytes = bytes;
        column->room = room;
    }
    for (int i = 0; i < width; i++)
        column->bytes[column->size++] = (unsigned char)(value >> 8 * i);
}

static inline bool rcmgr_places_grow(rcmgr_places *table, const rcmgr_sip_key *key)
{
    size_t room = table->room ? 2 * table->room : 1024;
    unsigned char(*keys)[17] = malloc(room * sizeof(*keys));
    uint32_t *places = (uint32_t *)calloc(room, sizeof(*places));
    if (keys == NULL || places == NULL) {
        free(keys);
        free(places);
        return false;
    }
    for (size_t old = 0; old < table->room; old++) {
        if (table->places[old] == 0)
            continue;
        size_t at = rcmgr_siphash(key, table->keys[old], 17) & (room - 1);
        while (places[at] != 0)
            at = (at + 1) & (room - 1);
        memcpy(keys[at], table->keys[old], 17);
        places[at] = table->places[old];
    }
    free(table->keys);
    free(table->places);
    table->keys = keys;
    table->places = places;
    table->room = room;
    return true;
}

/* The place of a key, and whether it is new. */
static inline uint32_t rcmgr_place_of(rcmgr_event_columns *into, rcmgr_places *table,
                                      const unsigned char key[17], bool *is_new)
{
    *is_new = false;
    if (2 * table->used >= table->room && !rcmgr_places_grow(table, &into->key)) {
        into->failed = true;
        return 0;
    }
    size_t at = rcmgr_siphash(&into->key, key, 17) & (table->room - 1);
    while (table->places[at] != 0) {
        if (memcmp(table->keys[at], key, 17) == 0)
            return table->places[at] - 1;
        at = (at + 1) & (table->room - 1);
    }
    memcpy(table->keys[at], key, 17);
    table->places[at] = (uint32_t)++table->used;
    *is_new = true;
    return table->places[at] - 1;
}

static inline void rcmgr_put_peer(rcmgr_event_columns *into, uint64_t peer)
{
    unsigned char key[17] = {0};
    bool is_new;
    memcpy(key, &peer, sizeof(peer));
    rcmgr_put(into, RCMGR_COL_PEER, rcmgr_place_of(into, &into->peers, key, &is_new), 4);
    if (is_new) {
        rcmgr_put(into, RCMGR_COL_NEW_PEERS, rcmgr_siphash(&into->key, &peer, sizeof(peer)), 8);
        rcmgr_put(into, RCMGR_COL_SECRETS, peer, 8);
    }
}

static inline void rcmgr_put_address(rcmgr_event_columns *into, const uint8_t *ip, int size)
{
    unsigned char key[17] = {0};
    uint8_t shown[16];
    bool is_new;
    memcpy(key, ip, (size_t)size);
    key[16] = (unsigned char)size;
    rcmgr_put(into, RCMGR_COL_ADDRESS, rcmgr_place_of(into, &into->addresses, key, &is_new), 4);
    if (!is_new)
        return;
    memcpy(shown, ip, (size_t)size);
    if (!into->keeps_ips)
        rcmgr_ip_hash(&into->key, shown, size);
    rcmgr_put(into, RCMGR_COL_NEW_ADDRESSES, (uint64_t)size, 1);
    for (int i = 0; i < size; i++)
        rcmgr_put(into, RCMGR_COL_NEW_ADDRESSES, shown[i], 1);
}

static inline void rcmgr_put_number(rcmgr_event_columns *into, int family, const rcmgr_event *event)
{
    uint64_t difference = into->newest[family] - event->number;
    if (!(event->flags & RCMGR_EV_KNOWN)) {
        difference = event->number - into->newest[family];
        into->newest[family] = event->number;
    }
    rcmgr_put(into, RCMGR_COL_NUMBER, difference, 4);
}

static inline void rcmgr_put_event(rcmgr_event_columns *into, const rcmgr_event *event)
{
    int needs = rcmgr_event_needs(event->kind), flags = event->flags, size = 0;
    uint8_t ip[16];
    int64_t passed;
    if (into->events == 0) {
        into->begin_ns = into->last_ns = event->time_ns;
        memcpy(into->first_number, into->newest, sizeof(into->newest));
    }
    /* another thread may have taken its time earlier, and its slot later */
    passed = event->time_ns > into->last_ns ? (event->time_ns - into->last_ns) / 1000 : 0;
    if (passed > UINT32_MAX)
        passed = UINT32_MAX;
    into->last_ns += passed * 1000;
    if (flags & RCMGR_EV_HAS_ADDRESS) {
        size = rcmgr_parse_ip(event->text, event->text_size, ip);
        if (size == 0)
            flags &= ~RCMGR_EV_HAS_ADDRESS;
    }
    into->events++;
    rcmgr_put(into, RCMGR_COL_KIND, event->kind, 1);
    rcmgr_put(into, RCMGR_COL_FLAGS, (uint64_t)flags, 1);
    rcmgr_put(into, RCMGR_COL_TIME, (uint64_t)passed, 4);
    /* a connection or stream that is refused at once has no number */
    if ((needs & (RCMGR_NEEDS_CONN | RCMGR_NEEDS_STREAM))
        && ((flags & RCMGR_EV_KNOWN) || !(flags & RCMGR_EV_REFUSED)))
        rcmgr_put_number(into, (needs & RCMGR_NEEDS_STREAM) != 0, event);
    if (flags & RCMGR_EV_HAS_PEER)
        rcmgr_put_peer(into, event->peer);
    if (size > 0)
        rcmgr_put_address(into, ip, size);
    if (needs & RCMGR_NEEDS_NAME)
        rcmgr_put(into, RCMGR_COL_NAME, event->name, 2);
    if (needs & RCMGR_NEEDS_OTHER)
        rcmgr_put(into, RCMGR_COL_OTHER, event->other, 2);
    if (flags & RCMGR_EV_REFUSED)
        rcmgr_put(into, RCMGR_COL_CODE, event->code, 2);
    if (needs & RCMGR_NEEDS_VALUE)
        rcmgr_put(into, RCMGR_COL_VALUE, (uint64_t)event->value, 8);
    if (needs & RCMGR_NEEDS_DETAIL)
        rcmgr_put(into, RCMGR_COL_DETAIL, event->detail, 1);
}

/* Move up to `most` events from the ring into the columns; returns how many. */
static inline uint64_t rcmgr_drain(rcmgr_event_ring *ring, rcmgr_event_columns *into, uint64_t most)
{
    const rcmgr_event *event;
    uint64_t count = 0;
    while (count < most && (event = rcmgr_ring_oldest(ring)) != NULL) {
        rcmgr_put_event(into, event);
        rcmgr_ring_drop_oldest(ring);
        count++;
    }
    return count;
}

/* Begin a new frame. The tables of peers and addresses stay. */
static inline void rcmgr_columns_clear(rcmgr_event_columns *into)
{
    for (int i = 0; i < RCMGR_COLUMNS; i++)
        into->columns[i].size = 0;
    into->events = 0;
    into->failed = false;
}

static inline void rcmgr_places_free(rcmgr_places *table)
{
    free(table->keys);
    free(table->places);
    memset(table, 0, sizeof(*table));
}

/* Begin a new file: its tables of peers and addresses are empty. */
static inline void rcmgr_columns_forget(rcmgr_event_columns *into)
{
    rcmgr_places_free(&into->peers);
    rcmgr_places_free(&into->addresses);
}

static inline void rcmgr_columns_free(rcmgr_event_columns *into)
{
    for (int i = 0; i < RCMGR_COLUMNS; i++)
        free(into->columns[i].bytes);
    rcmgr_columns_forget(into);
    memset(into->columns, 0, sizeof(into->columns));
}

#endif
