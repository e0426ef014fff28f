"""The connection or handshake that makes room for a newcomer. Data and choice only.

Nothing here knows sockets or py-libp2p. The caller reports connections and handshakes as they come
and go, asks `choose` when it is full, and ends what it gets. The rules are in ext/eviction.h and
ext/pending_shares.h.
"""

from os import urandom

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rcmgr.admission._eviction cimport (
    RCMGR_BY_LATENCY, RCMGR_BY_WORK, RCMGR_ON_PROBATION, RCMGR_PROVEN, RCMGR_RULES,
    RCMGR_UNKNOWN_LATENCY, pool_at, pool_find, pool_free, pool_give_back, pool_grow, pool_size,
    pool_take, rcmgr_address_count, rcmgr_eviction_begin, rcmgr_eviction_choose,
    rcmgr_eviction_enter, rcmgr_eviction_handshake, rcmgr_eviction_in_vain, rcmgr_eviction_latency,
    rcmgr_eviction_leave, rcmgr_eviction_promote, rcmgr_eviction_set_places, rcmgr_eviction_spend,
    rcmgr_eviction_work, rcmgr_handshake, rcmgr_is_junior, rcmgr_member, rcmgr_netgroup,
    rcmgr_pending_advance, rcmgr_pending_choose, rcmgr_pending_enter, rcmgr_pending_leave,
    rcmgr_pending_next, rcmgr_seat, rcmgr_sip_key, rcmgr_siphash, rcmgr_turns_debt, table_drop,
    table_find, table_free, table_get, ticket_of,
)
from rcmgr.counting._clock cimport rcmgr_now_coarse_ns


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1


__all__ = ["EvictionPolicy", "PendingShares"]

cdef enum:
    MOST_PLACES = 1 << 30
    LEAST_CELLS = 1024
    MOST_CELLS = 1 << 20
    NANOSECONDS = 1_000_000_000
    MOST_SECONDS = 31_557_600  # a year
    MOST_UNITS = 1 << 30

cdef int64_t MOST_NOW = <int64_t>1 << 61
cdef double DEFAULT_STALE_S = 600.0
cdef double DEFAULT_HALF_LIFE_S = 300.0

cdef tuple LEVELS = ("probation", "unproven", "proven")
# in the order of the rules of eviction.h
cdef tuple OUTCOMES = (
    "crowd", "own_group", "unproven", "probation", "comes_too_often", "too_many_evictions",
    "all_worth_more",
)
assert len(OUTCOMES) == RCMGR_RULES


cdef int64_t number_of(object value, str name, int64_t least, int64_t most) except? -1:
    """An int as it is, at most `most`. TypeError: another type. ValueError: below `least`."""
    cdef int overflow = 0
    cdef int64_t number
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow > 0:
        return most
    if overflow < 0 or number < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return min(number, most)


cdef int64_t nanoseconds_of(object value, str name) except? -1:
    """Seconds, above 0 and at most a year, as nanoseconds, 1 or more."""
    cdef double number
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    try:
        number = value
    except OverflowError:
        number = 0.0
    if not 0.0 < number <= MOST_SECONDS:
        raise ValueError(f"{name} must be above 0 and at most a year in seconds, not {value}")
    return max(1, <int64_t>(number * NANOSECONDS))


cdef int64_t read_clock(object clock) except? -1:
    """ValueError: the clock is outside of 0 to 2**61 ns."""
    if clock is None:
        return rcmgr_now_coarse_ns()
    return time_of(clock())


cdef int64_t time_of(object now_ns) except? -1:
    cdef int overflow = 0
    cdef int64_t now
    if not isinstance(now_ns, int) or isinstance(now_ns, bool):
        raise TypeError(f"a time must be an int of nanoseconds, not {now_ns!r}")
    now = PyLong_AsLongLongAndOverflow(now_ns, &overflow)
    if overflow or not 0 <= now <= MOST_NOW:
        raise ValueError(f"a time must be from 0 to 2**61 nanoseconds, not {now_ns}")
    return now


cdef uint64_t ticket_from(object ticket) except? 0:
    """0, which is never a ticket, for an int that is no ticket. TypeError: no int."""
    cdef int overflow = 0
    cdef int64_t number
    if not isinstance(ticket, int):
        raise TypeError(f"a ticket must be an int, as `add` returned it, not {ticket!r}")
    number = PyLong_AsLongLongAndOverflow(ticket, &overflow)
    return 0 if overflow or number < 0 else <uint64_t>number


cdef int key_from(object key, rcmgr_sip_key *sip) except -1:
    cdef object secret = urandom(16) if key is None else key
    if not PyBytes_CheckExact(secret):
        raise TypeError(f"key must be 16 bytes or None, not {key!r}")
    if PyBytes_GET_SIZE(secret) != 16:
        raise ValueError("key must be 16 bytes long")
    memcpy(sip, PyBytes_AS_STRING(secret), 16)
    return 0


cdef uint64_t hash_with(const rcmgr_sip_key *key, object data, str name) except? 0:
    if data is None:
        data = b""
    if not PyBytes_CheckExact(data):
        raise TypeError(f"{name} must be bytes or None (unknown), not {data!r}")
    return rcmgr_siphash(key, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef int check_owner(object owner) except -1:
    if owner is None:
        raise TypeError("owner must not be None: `choose` returns None if it finds no connection")
    return 0


cdef class _Seats:
    """The common part of both types: seats with owners, groups by hash, a key and a clock."""

    def __dealloc__(self):
        cdef uint32_t number
        cdef rcmgr_seat *seat
        cdef PyObject *owner
        for number in range(pool_size(&self._pool)):
            seat = pool_at(&self._pool, number)
            owner = <PyObject *>seat.owner
            seat.owner = NULL
            Py_XDECREF(owner)
        pool_free(&self._pool)
        table_free(&self._groups)

    cdef rcmgr_netgroup *group_of(self, uint64_t hash) noexcept:
        cdef size_t at
        return <rcmgr_netgroup *>table_find(&self._groups, hash, &at)

    cdef rcmgr_netgroup *group_for(self, uint64_t hash) except NULL:
        """With room for a seat. MemoryError: nothing has changed."""
        cdef rcmgr_netgroup *group
        if not pool_grow(&self._pool):
            raise MemoryError
        group = <rcmgr_netgroup *>table_get(&self._groups, hash, sizeof(rcmgr_netgroup))
        if group is NULL:
            raise MemoryError
        return group

    cdef object give_back(self, rcmgr_seat *seat):
        """The owner, whose reference the caller drops outside of the lock."""
        cdef object owner = <object>seat.owner
        Py_DECREF(owner)  # `owner` is one, too
        if seat.group.size == 0:
            table_drop(&self._groups, seat.group.hash)
        pool_give_back(&self._pool, seat)
        return owner

    cdef object take_out(self, rcmgr_seat *seat):
        """Forget a seat that is in use: its owner. Locked."""
        raise NotImplementedError

    cdef bint drop(self, uint64_t ticket) except -1:
        cdef rcmgr_seat *seat
        cdef object _owner = None  # dropped outside of the lock
        cdef bint found
        with cython.critical_section(self):
            seat = pool_find(&self._pool, ticket)
            found = seat is not NULL
            if found:
                _owner = self.take_out(seat)
        return found

    def remove(self, ticket):
        """Forget what has ended, in any way. False: it is gone already."""
        return self.drop(ticket_from(ticket))

    def clear(self):
        """Forget all. Counts, and how often each group came, stay."""
        cdef rcmgr_seat *seat
        cdef uint32_t number
        cdef list owners = []  # dropped outside of the lock
        with cython.critical_section(self):
            for number in range(pool_size(&self._pool)):
                seat = pool_at(&self._pool, number)
                if seat.owner is not NULL:
                    owners.append(self.take_out(seat))

    def __contains__(self, ticket):
        """__contains__($self, key, /)\n--\n\nWhether the owner of a ticket is still here."""
        cdef uint64_t wanted = ticket_from(ticket)
        cdef bint found
        with cython.critical_section(self):
            found = pool_find(&self._pool, wanted) is not NULL
        return found

    def owner_of(self, ticket):
        """The owner that `add` got for this ticket. None: it is gone."""
        cdef uint64_t wanted = ticket_from(ticket)
        cdef rcmgr_seat *seat
        cdef object owner = None
        with cython.critical_section(self):
            seat = pool_find(&self._pool, wanted)
            if seat is not NULL:
                owner = <object>seat.owner
        return owner


@cython.final
@cython.binding(False)
cdef class EvictionPolicy(_Seats):
    """EvictionPolicy(places, *, grace_s=1.0, turn_s=20.0, per_second=None, key=None, \
    clock=None)\n--\n
    Chooses the inbound connection that makes room for a newcomer when a node is full.

    places: how many connections the node may have, 1 to 2**30. It may be set later, and it sizes
        the protections. A tenth of the places is for connections on probation: 1 to 64, and 0 if
        the node has fewer than 4 places. An eighth is spared for its work, and an eighth for its
        latency: 1 to 32 each. A group is a crowd if it has more than one in 32 of the places, and
        at least 7.
    grace_s: seconds for which a new connection is left alone.
    turn_s: seconds after which one connection of a group is forgotten. Turns count how often a
        group came lately (see ext/turns.h).
    per_second: how many connections may be evicted in a second, 1 or more. None: half of the
        places, and at least 16.
    key: 16 secret bytes for hashes over groups, for tests. None: random bytes.
    clock: returns monotonic nanoseconds. Default: the system's coarse clock (a few ms).

    Add only connections that may be evicted. Connections that the node dialled, and peers on the
    allowlist, stay outside. A group is the network of a connection: the first bits of its address,
    as bytes. None is the group of all connections without a known address. An owner is any object.
    The policy keeps it until the connection is removed.

    Cost: `note_work` takes about 10 ns in C. With 100,000 connections `add` and `remove` take less
    than 1 us, and `choose` less than 10 us. ext/eviction.h states the bounds. The table of groups
    moves when it grows, as a dict does. A connection takes about 150 bytes, and a group 120.
    Thread safe, with the GIL and on free-threaded builds. No Python code runs inside a lock.
    TypeError, ValueError: a value of another type or out of its range.
    """

    def __cinit__(
        self, places, *, grace_s=1.0, turn_s=20.0, per_second=None, key=None, clock=None,
    ):
        cdef uint32_t most = <uint32_t>number_of(places, "places", 1, MOST_PLACES)
        cdef uint32_t cells = LEAST_CELLS
        cdef int64_t now
        self._pool.item_size = sizeof(rcmgr_member)
        memset(&self._rules, 0, sizeof(self._rules))
        self._rules.grace_ns = nanoseconds_of(grace_s, "grace_s")
        self._rules.turns.turn_ns = nanoseconds_of(turn_s, "turn_s")
        self._rules.stale_ns = <int64_t>(DEFAULT_STALE_S * NANOSECONDS)
        self._rules.half_life_ns = <int64_t>(DEFAULT_HALF_LIFE_S * NANOSECONDS)
        self._per_second = (
            0 if per_second is None else number_of(per_second, "per_second", 1, MOST_PLACES))
        key_from(key, &self._key)
        self._clock = clock
        now = read_clock(clock)
        while cells < MOST_CELLS and cells < 4 * <uint64_t>most:
            cells *= 2
        self._rules.turns.cells = <int64_t *>PyMem_RawCalloc(cells, sizeof(int64_t))
        if self._rules.turns.cells is NULL:
            raise MemoryError
        self._rules.turns.mask = cells - 1
        rcmgr_eviction_begin(&self._rules, most, now)
        self._fit_rate()

    def __dealloc__(self):
        PyMem_RawFree(self._rules.turns.cells)

    cdef void _fit_rate(self) noexcept:
        cdef int64_t rate = self._per_second
        if rate == 0:
            rate = max(16, <int64_t>self._rules.places // 2)
        self._rules.interval_ns = max(1, NANOSECONDS // rate)
        self._rules.burst_ns = rate * self._rules.interval_ns

    @property
    def places(self):
        """How many connections the node may have; may be set."""
        return self._places_now()

    cdef uint32_t _places_now(self) noexcept:
        cdef uint32_t places
        with cython.critical_section(self):
            places = self._rules.places
        return places

    @places.setter
    def places(self, value):
        cdef uint32_t places = <uint32_t>number_of(value, "places", 1, MOST_PLACES)
        cdef int64_t now = read_clock(self._clock)
        with cython.critical_section(self):
            rcmgr_eviction_set_places(&self._rules, places, now)
            self._fit_rate()

    def add(self, owner, group, *, since_ns=None):
        """Note a connection, on probation: its ticket, an int.

        since_ns: when it was established, on the policy's clock; default now. Add those that are
        older first. O(connections on probation), 1 us at most.
        """
        cdef uint64_t hash = hash_with(&self._key, group, "group")
        cdef int64_t now = read_clock(self._clock) if since_ns is None else time_of(since_ns)
        return add(self, owner, hash, now)

    cdef object take_out(self, rcmgr_seat *seat):
        rcmgr_eviction_leave(&self._rules, <rcmgr_member *>seat)
        return self.give_back(seat)

    def evict(self, ticket, group):
        """Forget a connection that ends for a newcomer of this group. False: it is gone already.

        Only this call spends the budget of evictions. If two threads chose the same connection,
        one of them gets False.
        """
        cdef uint64_t wanted = ticket_from(ticket)
        cdef uint64_t hash = hash_with(&self._key, group, "group")
        cdef int64_t now = read_clock(self._clock)
        cdef rcmgr_seat *seat
        cdef object _owner = None  # dropped outside of the lock
        cdef bint found
        with cython.critical_section(self):
            seat = pool_find(&self._pool, wanted)
            found = seat is not NULL
            if found:
                _owner = self.take_out(seat)
                rcmgr_eviction_spend(&self._rules, hash, now)
                self._evicted += 1
        return found

    def note_work(self, ticket, units=1):
        """The connection did useful work: a stream of a protocol that the node serves, say.

        The connection is proven for ten minutes. units: more than 1 for work that counts more than
        a stream. Scores are halved every five minutes. False: the connection is gone.
        """
        cdef uint64_t wanted = ticket_from(ticket)
        cdef int64_t amount = number_of(units, "units", 1, MOST_UNITS)
        return note_work(self, wanted, <double>amount, read_clock(self._clock))

    def note_latency(self, ticket, microseconds):
        """A measured round trip; the lowest counts. False: the connection is gone."""
        cdef uint64_t wanted = ticket_from(ticket)
        cdef uint32_t latency = <uint32_t>number_of(
            microseconds, "microseconds", 0, RCMGR_UNKNOWN_LATENCY - 1)
        cdef rcmgr_seat *seat
        cdef bint found
        with cython.critical_section(self):
            seat = pool_find(&self._pool, wanted)
            found = seat is not NULL
            if found:
                rcmgr_eviction_latency(&self._rules, <rcmgr_member *>seat, latency)
        return found

    def promote(self, ticket):
        """Count a connection as the oldest in its lists, off probation, so that it goes last.

        For connections that are worth more than the policy knows. False: it is gone.
        """
        cdef uint64_t wanted = ticket_from(ticket)
        cdef rcmgr_seat *seat
        cdef bint found
        with cython.critical_section(self):
            seat = pool_find(&self._pool, wanted)
            found = seat is not NULL
            if found:
                rcmgr_eviction_promote(&self._rules, <rcmgr_member *>seat)
        return found

    def choose(self, group):
        """The owner of the connection that a newcomer of this group may replace, or None.

        Changes no connection. End that connection, and report it with `evict`.
        """
        return choose_for(self, group)

    def has_room_for(self, group):
        """Whether `choose` would find a connection; counts nothing."""
        cdef uint64_t hash = hash_with(&self._key, group, "group")
        return self._found(hash, read_clock(self._clock))

    cdef bint _found(self, uint64_t hash, int64_t now) noexcept:
        cdef int rule
        cdef bint found
        with cython.critical_section(self):
            found = rcmgr_eviction_choose(
                &self._rules, hash, self.group_of(hash), now, &rule) is not NULL
        return found

    def begin_handshake(self, group):
        """Seconds until a newcomer of this group may begin a handshake. 0.0: it begins one now.

        If `choose` finds nothing for a group that comes often, its handshake was in vain. For the
        time of a turn, all such groups may then begin a quarter of `per_second` handshakes.
        """
        return handshake_delay(self, group) / NANOSECONDS

    def turns_of(self, group):
        """How often a group came lately, in turns; 16.0 at most."""
        cdef uint64_t hash = hash_with(&self._key, group, "group")
        cdef int64_t now = read_clock(self._clock)
        cdef int64_t debt
        with cython.critical_section(self):
            debt = rcmgr_turns_debt(&self._rules.turns, hash, now)
        return debt / self._rules.turns.turn_ns

    def describe(self, ticket):
        """The policy's knowledge about a connection, as a dict. None: it is gone.

        "state": "probation", "unproven" or "proven". "group_size": connections of its group, itself
        included. "senior": whether it is among the older half of all. "best": of "work" and
        "latency", those for which it is spared. "age_s", "latency_us" (None: not measured).
        """
        cdef uint64_t wanted = ticket_from(ticket)
        cdef int64_t now = read_clock(self._clock)
        cdef rcmgr_member member
        cdef rcmgr_seat *seat
        cdef uint32_t size
        cdef bint junior
        with cython.critical_section(self):
            seat = pool_find(&self._pool, wanted)
            if seat is NULL:
                return None
            member = (<rcmgr_member *>seat)[0]
            size = seat.group.size
            junior = rcmgr_is_junior(&self._rules, <rcmgr_member *>seat)
        return {
            "state": LEVELS[member.seat.level],
            "group_size": size,
            "senior": not junior,
            "best": [
                name for name, kind in (("work", RCMGR_BY_WORK), ("latency", RCMGR_BY_LATENCY))
                if member.best[kind]
            ],
            "age_s": max(0, now - member.born_ns) / NANOSECONDS,
            "latency_us": (
                None if member.latency_us == RCMGR_UNKNOWN_LATENCY else member.latency_us),
        }

    def stats(self):
        """Counts as a dict, ready for JSON.

        "places", "connections", "groups", "on_probation", "proven", "evicted". "choices": the
        results of `choose`. "crowd", "own_group", "unproven", "probation" are the rules that found
        a connection. "comes_too_often" (the newcomer's group), "too_many_evictions" (in a second)
        and "all_worth_more" are the reasons for None.
        """
        cdef uint32_t connections, probation, proven
        cdef size_t groups
        cdef uint64_t evicted
        cdef uint64_t[7] choices
        with cython.critical_section(self):
            connections = self._rules.count
            probation = self._rules.levels[RCMGR_ON_PROBATION].count
            proven = self._rules.levels[RCMGR_PROVEN].count
            groups = self._groups.used
            evicted = self._evicted
            choices = self._choices
        return {
            "places": self._places_now(),
            "connections": connections,
            "groups": groups,
            "on_probation": probation,
            "proven": proven,
            "evicted": evicted,
            "choices": {OUTCOMES[rule]: choices[rule] for rule in range(<int>RCMGR_RULES)},
        }

    def __len__(self):
        cdef uint32_t count
        with cython.critical_section(self):
            count = self._rules.count
        return count

    def __repr__(self):
        return f"EvictionPolicy(places={self._places_now()}, connections={len(self)})"


cdef object add(EvictionPolicy self, object owner, uint64_t hash, int64_t now):
    cdef rcmgr_netgroup *group
    cdef rcmgr_seat *seat
    cdef uint64_t ticket
    check_owner(owner)
    with cython.critical_section(self):
        group = self.group_for(hash)
        Py_INCREF(owner)
        seat = pool_take(&self._pool, <void *>owner)
        rcmgr_eviction_enter(&self._rules, <rcmgr_member *>seat, group, now)
        ticket = ticket_of(seat)
    return ticket


cdef bint note_work(
    EvictionPolicy self, uint64_t ticket, double units, int64_t now
) noexcept:
    cdef rcmgr_seat *seat
    cdef bint found
    with cython.critical_section(self):
        seat = pool_find(&self._pool, ticket)
        found = seat is not NULL
        if found:
            rcmgr_eviction_work(&self._rules, <rcmgr_member *>seat, units, now)
    return found


cdef bint note_streams(
    EvictionPolicy self, uint64_t ticket, uint32_t begun, bint has_open, int64_t now
) noexcept:
    cdef rcmgr_seat *seat
    cdef uint32_t seen, units = 0
    cdef bint is_new = False
    with cython.critical_section(self):
        seat = pool_find(&self._pool, ticket)
        if seat is not NULL:
            seen = (<rcmgr_member *>seat).streams_seen
            if begun > seen:
                (<rcmgr_member *>seat).streams_seen = begun
                units = begun - seen
            elif (
                has_open and not (<rcmgr_member *>seat).proven
                # an earlier one may be that of identify
                and now - (<rcmgr_member *>seat).born_ns >= self._rules.grace_ns
            ):
                units = 1
            is_new = units > 0
            if is_new:
                rcmgr_eviction_work(&self._rules, <rcmgr_member *>seat, units, now)
    return is_new


cdef list on_probation(EvictionPolicy self):
    """The owners of the connections on probation, the oldest first."""
    cdef rcmgr_member *member
    cdef list owners = []
    with cython.critical_section(self):
        member = self._rules.levels[RCMGR_ON_PROBATION].first
        while member is not NULL:
            owners.append(<object>member.seat.owner)
            member = member.next
    return owners


cdef object choose_for(EvictionPolicy self, object group):
    return choose(
        self, hash_with(&self._key, group, "group"), read_clock(self._clock), True)


cdef int64_t handshake_delay(EvictionPolicy self, object group) except -1:
    cdef uint64_t hash = hash_with(&self._key, group, "group")
    cdef int64_t now = read_clock(self._clock)
    cdef int64_t delay
    with cython.critical_section(self):
        delay = rcmgr_eviction_handshake(&self._rules, hash, now)
    return delay


cdef object choose(EvictionPolicy self, uint64_t hash, int64_t now, bint counted):
    cdef rcmgr_member *member
    cdef object owner = None
    cdef int rule
    with cython.critical_section(self):
        member = rcmgr_eviction_choose(&self._rules, hash, self.group_of(hash), now, &rule)
        if member is not NULL:
            owner = <object>member.seat.owner
        if counted:
            self._choices[rule] += 1
            if member is NULL:
                rcmgr_eviction_in_vain(&self._rules, hash, now)
    return owner


@cython.final
@cython.binding(False)
cdef class PendingShares(_Seats):
    """PendingShares(*, grace_s=0.25, patience_s=2.0, key=None, clock=None)\n--\n
    Chooses the handshake that makes room for a newcomer when all pending places are taken.

    A handshake is silent until the first `advance`. Call `advance` for each step that cost the
    other side something: it sent bytes, it negotiated a protocol, it secured the connection. An
    address is the bytes of an IP address. A group is its network, as for `EvictionPolicy`. None:
    unknown. The same class also sorts sockets that wait for a place.

    grace_s: seconds for which a silent handshake is left alone. A newcomer whose group has at least
        two handshakes less does not wait for it.
    patience_s: the same for a handshake that made progress.
    key, clock: as for `EvictionPolicy`, and so are owners, errors and threads.

    O(1), below 1 us. A handshake takes about 130 bytes.
    """

    def __cinit__(self, *, grace_s=0.25, patience_s=2.0, key=None, clock=None):
        self._pool.item_size = sizeof(rcmgr_handshake)
        memset(&self._shares, 0, sizeof(self._shares))
        self._shares.grace_ns = nanoseconds_of(grace_s, "grace_s")
        self._shares.patience_ns = nanoseconds_of(patience_s, "patience_s")
        key_from(key, &self._key)
        self._clock = clock

    def __dealloc__(self):
        table_free(&self._addresses)

    def set_times(self, grace_s, patience_s):
        """Change both times, also for handshakes that are here."""
        cdef int64_t grace_ns = nanoseconds_of(grace_s, "grace_s")
        cdef int64_t patience_ns = nanoseconds_of(patience_s, "patience_s")
        with cython.critical_section(self):
            self._shares.grace_ns = grace_ns
            self._shares.patience_ns = patience_ns

    def add(self, owner, address, group):
        """Note a handshake that begins: its ticket, an int."""
        cdef uint64_t address_hash = hash_with(&self._key, address, "address")
        cdef uint64_t hash = hash_with(&self._key, group, "group")
        cdef int64_t now = read_clock(self._clock)
        cdef rcmgr_address_count *counted
        cdef rcmgr_netgroup *of_group
        cdef rcmgr_seat *seat
        cdef uint64_t ticket
        check_owner(owner)
        with cython.critical_section(self):
            of_group = self.group_for(hash)
            counted = <rcmgr_address_count *>table_get(
                &self._addresses, address_hash, sizeof(rcmgr_address_count))
            if counted is NULL:
                if of_group.size == 0:
                    table_drop(&self._groups, hash)
                raise MemoryError
            Py_INCREF(owner)
            seat = pool_take(&self._pool, <void *>owner)
            rcmgr_pending_enter(&self._shares, <rcmgr_handshake *>seat, of_group, counted, now)
            self._count += 1
            ticket = ticket_of(seat)
        return ticket

    def advance(self, ticket):
        """The handshake made progress; False: it is gone, or in its last stage already."""
        cdef uint64_t wanted = ticket_from(ticket)
        cdef int64_t now = read_clock(self._clock)
        cdef rcmgr_seat *seat
        cdef bint advanced
        with cython.critical_section(self):
            seat = pool_find(&self._pool, wanted)
            advanced = seat is not NULL and rcmgr_pending_advance(
                &self._shares, <rcmgr_handshake *>seat, now)
        return advanced

    def stage_of(self, ticket):
        """How many steps a handshake has made, 0 to 3; None: it is gone."""
        cdef uint64_t wanted = ticket_from(ticket)
        cdef rcmgr_seat *seat
        cdef int stage = -1
        with cython.critical_section(self):
            seat = pool_find(&self._pool, wanted)
            if seat is not NULL:
                stage = seat.level
        return None if stage < 0 else stage

    def choose(self, group):
        """The owner of the handshake to end for a newcomer of this group. None: no handshake.

        Changes nothing. End that handshake and report it with `remove`.
        """
        cdef uint64_t hash = hash_with(&self._key, group, "group")
        cdef int64_t now = read_clock(self._clock)
        cdef rcmgr_handshake *handshake
        cdef object owner = None
        with cython.critical_section(self):
            handshake = rcmgr_pending_choose(&self._shares, self.group_of(hash), now)
            if handshake is not NULL:
                owner = <object>handshake.seat.owner
        return owner

    def next(self):
        """The owner to serve next, if these handshakes wait for a place. None: no handshake waits.

        It is in the smallest group. Within the group it is in the highest stage, and the oldest.
        """
        cdef rcmgr_handshake *handshake
        cdef object owner = None
        with cython.critical_section(self):
            handshake = rcmgr_pending_next(&self._shares)
            if handshake is not NULL:
                owner = <object>handshake.seat.owner
        return owner

    cdef object take_out(self, rcmgr_seat *seat):
        cdef rcmgr_handshake *handshake = <rcmgr_handshake *>seat
        cdef rcmgr_address_count *counted = handshake.address
        rcmgr_pending_leave(&self._shares, handshake)
        self._count -= 1
        if counted.count == 0:
            table_drop(&self._addresses, counted.hash)
        return self.give_back(seat)

    def __len__(self):
        cdef uint32_t count
        with cython.critical_section(self):
            count = self._count
        return count

    def __repr__(self):
        cdef size_t groups
        with cython.critical_section(self):
            groups = self._groups.used
        return f"PendingShares(handshakes={len(self)}, groups={groups})"
