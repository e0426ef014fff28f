"""The C of the eviction policy, and the memory of connections and their groups."""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from rcmgr.counting._pointer_table cimport (
    rcmgr_table, rcmgr_table_after, rcmgr_table_home, rcmgr_table_item, rcmgr_table_match,
    rcmgr_table_put, rcmgr_table_remove, table_fit,
)


cdef extern from "siphash.h" nogil:
    ctypedef struct rcmgr_sip_key:
        uint64_t k0
        uint64_t k1

    uint64_t rcmgr_siphash(const rcmgr_sip_key *, const void *data, size_t size) noexcept


cdef extern from "turns.h" nogil:
    const int RCMGR_MOST_TURNS

    ctypedef struct rcmgr_turns:
        int64_t *cells
        uint32_t mask
        int64_t turn_ns

    int64_t rcmgr_turns_debt(const rcmgr_turns *, uint64_t hash, int64_t now) noexcept


cdef extern from "netgroups.h" nogil:
    ctypedef struct rcmgr_seat:
        rcmgr_seat *older
        rcmgr_netgroup *group
        void *owner
        uint32_t number
        uint32_t generation
        int level

    ctypedef struct rcmgr_netgroup:
        uint64_t hash
        rcmgr_netgroup *after
        uint32_t size

    ctypedef struct rcmgr_group_sizes:
        pass


cdef extern from "eviction.h" nogil:
    const int RCMGR_ON_PROBATION
    const int RCMGR_UNPROVEN
    const int RCMGR_PROVEN
    const int RCMGR_BY_WORK
    const int RCMGR_BY_LATENCY
    const int RCMGR_RULES
    const uint32_t RCMGR_UNKNOWN_LATENCY

    ctypedef struct rcmgr_member:
        rcmgr_seat seat
        rcmgr_member *next
        int64_t born_ns
        uint32_t latency_us
        uint32_t streams_seen
        bint proven
        bint best[2]

    ctypedef struct rcmgr_member_list:
        rcmgr_member *first
        uint32_t count

    ctypedef struct rcmgr_eviction:
        uint32_t places
        uint32_t most_on_probation
        int64_t grace_ns
        int64_t stale_ns
        int64_t half_life_ns
        int64_t interval_ns
        int64_t burst_ns
        rcmgr_turns turns
        rcmgr_member_list levels[3]
        uint32_t count

    bint rcmgr_is_junior(const rcmgr_eviction *, const rcmgr_member *) noexcept
    void rcmgr_eviction_begin(rcmgr_eviction *, uint32_t places, int64_t now) noexcept
    void rcmgr_eviction_set_places(rcmgr_eviction *, uint32_t places, int64_t now) noexcept
    void rcmgr_eviction_enter(
        rcmgr_eviction *, rcmgr_member *, rcmgr_netgroup *, int64_t now) noexcept
    void rcmgr_eviction_leave(rcmgr_eviction *, rcmgr_member *) noexcept
    void rcmgr_eviction_work(
        rcmgr_eviction *, rcmgr_member *, double units, int64_t now) noexcept
    void rcmgr_eviction_latency(rcmgr_eviction *, rcmgr_member *, uint32_t us) noexcept
    void rcmgr_eviction_promote(rcmgr_eviction *, rcmgr_member *) noexcept
    rcmgr_member *rcmgr_eviction_choose(
        const rcmgr_eviction *, uint64_t hash, const rcmgr_netgroup *, int64_t now,
        int *rule) noexcept
    void rcmgr_eviction_in_vain(rcmgr_eviction *, uint64_t hash, int64_t now) noexcept
    int64_t rcmgr_eviction_handshake(rcmgr_eviction *, uint64_t hash, int64_t now) noexcept
    void rcmgr_eviction_spend(rcmgr_eviction *, uint64_t hash, int64_t now) noexcept


cdef extern from "pending_shares.h" nogil:
    const int RCMGR_LAST_STAGE

    ctypedef struct rcmgr_address_count:
        uint64_t hash
        uint32_t count

    ctypedef struct rcmgr_handshake:
        rcmgr_seat seat
        rcmgr_address_count *address

    ctypedef struct rcmgr_pending_shares:
        int64_t grace_ns
        int64_t patience_ns

    void rcmgr_pending_enter(
        rcmgr_pending_shares *, rcmgr_handshake *, rcmgr_netgroup *, rcmgr_address_count *,
        int64_t now) noexcept
    void rcmgr_pending_leave(rcmgr_pending_shares *, rcmgr_handshake *) noexcept
    bint rcmgr_pending_advance(
        rcmgr_pending_shares *, rcmgr_handshake *, int64_t now) noexcept
    rcmgr_handshake *rcmgr_pending_next(const rcmgr_pending_shares *) noexcept
    rcmgr_handshake *rcmgr_pending_choose(
        const rcmgr_pending_shares *, const rcmgr_netgroup *, int64_t now) noexcept


# -- seats: items that begin with a rcmgr_seat, which never move --------------------------------

cdef enum:
    SEATS_PER_CHUNK = 1024
    LAST_GENERATION = 0x7FFFFFFF

cdef struct SeatPool:
    char **chunks
    uint32_t chunk_count
    size_t item_size
    rcmgr_seat *free  # linked by `older`


cdef inline rcmgr_seat *pool_at(SeatPool *pool, uint32_t number) noexcept:
    return <rcmgr_seat *>(
        pool.chunks[number // SEATS_PER_CHUNK]
        + <size_t>(number % SEATS_PER_CHUNK) * pool.item_size)


cdef inline uint32_t pool_size(SeatPool *pool) noexcept:
    """The number of seats, taken or free."""
    return pool.chunk_count * SEATS_PER_CHUNK


cdef inline bint pool_grow(SeatPool *pool) noexcept:
    """Have at least one free seat; False: there is no memory."""
    cdef char **chunks
    cdef char *chunk
    cdef rcmgr_seat *seat
    cdef uint32_t i
    if pool.free is not NULL:
        return True
    chunks = <char **>PyMem_RawRealloc(
        <void *>pool.chunks, (pool.chunk_count + 1) * sizeof(char *))
    if chunks is NULL:
        return False
    pool.chunks = chunks
    chunk = <char *>PyMem_RawCalloc(SEATS_PER_CHUNK, pool.item_size)
    if chunk is NULL:
        return False
    pool.chunks[pool.chunk_count] = chunk
    for i in range(SEATS_PER_CHUNK, 0, -1):
        seat = <rcmgr_seat *>(chunk + <size_t>(i - 1) * pool.item_size)
        seat.number = pool.chunk_count * SEATS_PER_CHUNK + i - 1
        seat.generation = 1
        seat.older = pool.free
        pool.free = seat
    pool.chunk_count += 1
    return True


cdef inline rcmgr_seat *pool_take(SeatPool *pool, void *owner) noexcept:
    """A zeroed item for this owner; `pool_grow` came before."""
    cdef rcmgr_seat *seat = pool.free
    cdef uint32_t number = seat.number, generation = seat.generation
    pool.free = seat.older
    memset(<void *>seat, 0, pool.item_size)
    seat.number = number
    seat.generation = generation
    seat.owner = owner
    return seat


cdef inline void pool_give_back(SeatPool *pool, rcmgr_seat *seat) noexcept:
    """Tickets for it are not valid any more."""
    seat.owner = NULL
    seat.generation = <uint32_t>(
        1 if seat.generation == LAST_GENERATION else seat.generation + 1)
    seat.older = pool.free
    pool.free = seat


cdef inline uint64_t ticket_of(rcmgr_seat *seat) noexcept:
    return <uint64_t>seat.generation << 32 | seat.number


cdef inline rcmgr_seat *pool_find(SeatPool *pool, uint64_t ticket) noexcept:
    """NULL: no ticket of a seat that is taken."""
    cdef uint32_t number = <uint32_t>ticket
    cdef rcmgr_seat *seat
    if number // SEATS_PER_CHUNK >= pool.chunk_count:
        return NULL
    seat = pool_at(pool, number)
    if seat.owner is NULL or seat.generation != <uint32_t>(ticket >> 32):
        return NULL
    return seat


cdef inline void pool_free(SeatPool *pool) noexcept:
    cdef uint32_t i
    for i in range(pool.chunk_count):
        PyMem_RawFree(pool.chunks[i])
    PyMem_RawFree(<void *>pool.chunks)
    memset(pool, 0, sizeof(SeatPool))


# -- tables by hash: groups and addresses, which begin with their hash ---------------------------

cdef inline void *table_find(const rcmgr_table *table, uint64_t hash, size_t *at) noexcept:
    """The item with this hash, or NULL and the slot where it belongs."""
    at[0] = 0
    if table.slots is NULL:
        return NULL
    at[0] = rcmgr_table_home(table, hash)
    while rcmgr_table_match(table, hash, at):
        if (<uint64_t *>rcmgr_table_item(table, at[0]))[0] == hash:
            return rcmgr_table_item(table, at[0])
        at[0] = rcmgr_table_after(table, at[0])
    return NULL


cdef inline void *table_get(rcmgr_table *table, uint64_t hash, size_t size) noexcept:
    """The item with this hash, or a new one of `size` zeroed bytes. NULL: no memory is left."""
    cdef size_t at
    cdef void *item
    if not table_fit(table):
        return NULL
    item = table_find(table, hash, &at)
    if item is NULL:
        item = PyMem_RawCalloc(1, size)
        if item is not NULL:
            (<uint64_t *>item)[0] = hash
            rcmgr_table_put(table, at, hash, item)
    return item


cdef inline void table_drop(rcmgr_table *table, uint64_t hash) noexcept:
    """Free the item with this hash, which must be in the table."""
    cdef size_t at
    cdef void *item = table_find(table, hash, &at)
    rcmgr_table_remove(table, at)
    PyMem_RawFree(item)


cdef inline void table_free(rcmgr_table *table) noexcept:
    cdef size_t at
    if table.slots is NULL:
        return
    for at in range(table.count):
        PyMem_RawFree(rcmgr_table_item(table, at))
    PyMem_RawFree(table.slots)
    memset(table, 0, sizeof(rcmgr_table))
