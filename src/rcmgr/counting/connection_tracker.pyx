"""The connections of a node by state and peer, and whether one more may enter.

Each connection has one record. The sets that the API shows are views of the records. Every
operation is O(1). One call checks the limits and takes the place (`admit_...`), so two threads
cannot both take the last one.
"""

from enum import Enum

cimport cython
from cpython.dict cimport PyDict_Contains, PyDict_Size
from cpython.long cimport PyLong_AsLongLong
from cpython.mem cimport PyMem_RawFree
from cpython.object cimport Py_EQ, PyObject, PyObject_RichCompareBool
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA, PyUnicode_1BYTE_KIND, PyUnicode_Check, PyUnicode_GET_LENGTH,
    PyUnicode_KIND, PyUnicode_New,
)
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from rcmgr.counting._clock cimport rcmgr_now_coarse_ns
from rcmgr.counting._connection_counts cimport (
    RCMGR_ADMITTED, RCMGR_CLOSED, RCMGR_CONNECTIONS, RCMGR_ESTABLISHED_INBOUND,
    RCMGR_ESTABLISHED_OUTBOUND, RCMGR_ESTABLISHED_TOTAL, RCMGR_FIRST_BIT, RCMGR_LIMITS,
    RCMGR_NO_LIMIT,
    RCMGR_PEAK_PENDING_TOTAL, RCMGR_PENDING_INBOUND, RCMGR_PENDING_OUTBOUND, RCMGR_PER_PEER,
    RCMGR_REPORTED_BIT, RCMGR_STATES, rcmgr_close_entry, rcmgr_connection_counts,
    rcmgr_connection_limits, rcmgr_counted, rcmgr_enter, rcmgr_enter_state, rcmgr_entry_has,
    rcmgr_entry_set, rcmgr_entry_state, rcmgr_leave, rcmgr_raise_peak, rcmgr_refusing_limit,
    rcmgr_since_ns,
)
from rcmgr.counting._hash cimport PyObject_Hash
from rcmgr.counting._prefetch cimport rcmgr_prefetch_object
from rcmgr.counting._shared_words cimport rcmgr_lock_shortly, rcmgr_unlock_shortly
from rcmgr.peers cimport kept_peer, key_of as peer_key
from rcmgr.counting.pacing cimport Pacer
from rcmgr.counting._pointer_table cimport (
    RCMGR_TABLE_END, RCMGR_TABLE_NO_ROOM, rcmgr_table, rcmgr_table_after, rcmgr_table_expect,
    rcmgr_table_expect_item, rcmgr_table_home, rcmgr_table_item, rcmgr_table_match,
    rcmgr_table_mix, rcmgr_table_put, rcmgr_table_remove, rcmgr_table_set_item, rcmgr_table_walk,
    table_fit,
)

from rcmgr.counting.tracker_views import BypassView, PeerView, StateView, TrackerSnapshot
from rcmgr.errors import ConnectionLimitExceeded, ConnectionLimitKind
from rcmgr.limits.checks import check_limit


__all__ = [
    "ConnectionKind",
    "ConnectionRecord",
    "ConnectionTracker",
    "Denial",
]


class ConnectionKind(str, Enum):
    """The counts that `ConnectionTracker.get_connection_count` returns.

    PENDING_INBOUND, PENDING_OUTBOUND, ESTABLISHED_INBOUND, ESTABLISHED_OUTBOUND: one state.
    ESTABLISHED_TOTAL, PENDING_TOTAL: both directions together.
    """

    PENDING_INBOUND = "pending_inbound"
    PENDING_OUTBOUND = "pending_outbound"
    ESTABLISHED_INBOUND = "established_inbound"
    ESTABLISHED_OUTBOUND = "established_outbound"
    ESTABLISHED_TOTAL = "established_total"
    PENDING_TOTAL = "pending_total"


# in the order of the constants in connection_counts.h
cdef tuple STATES = tuple(kind.value for kind in ConnectionKind)[:RCMGR_STATES]
cdef tuple LIMIT_KINDS = tuple(ConnectionLimitKind)
cdef tuple CODES = tuple([f"connection.{kind.value}" for kind in LIMIT_KINDS])
cdef tuple LIMIT_FIELDS = tuple(f"max_{kind.value}" for kind in ConnectionLimitKind)[:-1]
cdef tuple COUNTED_KINDS = tuple(kind.value for kind in ConnectionKind)
cdef dict KIND_INDEX = {kind: index for index, kind in enumerate(COUNTED_KINDS)}

assert len(LIMIT_KINDS) == RCMGR_LIMITS

cdef enum:
    CONFLICT = -2
    STEP_SLOTS = 256  # each hold of the lock reads so many slots of a table
    MOST_OF_STEP = 1024
    STEPS_OF_RECONCILE = 8

cdef struct Verdict:
    int outcome  # RCMGR_ADMITTED, CONFLICT, or the index of the limit that refuses
    int was      # after a CONFLICT: the state of the connection that has the id
    int64_t current
    int64_t limit
    # the first limit that only reports, and would have refused; RCMGR_ADMITTED: none
    int passed
    int64_t passed_current
    int64_t passed_limit

cdef object NOT_READ = object()
UNNAMED = object()
cdef object UNLIMITED = object()  # passed instead of limits: apply no limits

# The longest time until `reconcile` finds a connection that the swarm has lost.
cdef int64_t FULL_PASS_INTERVAL_NS = 30_000_000_000
cdef double MAX_AGE_SECONDS = 4e9  # over a hundred years, and still an int64_t of nanoseconds


@cython.final
cdef class Denial:
    """Denial()\n--\n
    Why a connection was not admitted. Nothing was taken. Falsy.

    Under a flood this is the common case, so it is small and formats nothing. `to_error` makes the
    exception.

    limit, current: connections. `current >= limit` was true when the limit was checked.
    """

    def __cinit__(self):
        self._kind = RCMGR_CONNECTIONS

    def __bool__(self):
        return False

    @property
    def kind(self):
        """The ConnectionLimitKind that refused."""
        return LIMIT_KINDS[self._kind]

    @property
    def code(self):
        """The code of its error, in a fraction of the time."""
        return code_of(self)

    def to_error(self, connection_id=None, peer_id=None):
        """The ConnectionLimitExceeded that tells a person."""
        return ConnectionLimitExceeded(
            limit=self.limit, current=self.current, kind=self.kind,
            connection_id=connection_id, peer_id=peer_id,
        )

    def __repr__(self):
        return f"Denial({self.kind.value}: {self.current} of {self.limit})"


cdef object code_of(Denial denial):
    return CODES[denial._kind]


cdef bint is_full_of_inbound(object refusal) noexcept:
    return type(refusal) is Denial and (<Denial>refusal)._kind in (
        RCMGR_PENDING_INBOUND, RCMGR_ESTABLISHED_INBOUND, RCMGR_ESTABLISHED_TOTAL)


cdef Denial new_denial(int kind, int64_t current, int64_t limit):
    cdef Denial denial = Denial.__new__(Denial)
    denial._kind = kind
    denial.current = current
    denial.limit = limit
    return denial


# -- names: see ConnectionRecord.name ---------------------------------------------------------

cdef enum:
    LONGEST_NUMBER = 18  # digits, so that twice the number fits in 63 bits

cdef inline bint begins_with_c(object connection_id) noexcept:
    """A swarm's ids are digits: with most ids, this is all that is read of the text."""
    return (
        PyUnicode_Check(connection_id) and PyUnicode_GET_LENGTH(connection_id) > 5
        and PyUnicode_KIND(connection_id) == PyUnicode_1BYTE_KIND
        and (<const unsigned char *>PyUnicode_1BYTE_DATA(connection_id))[0] == 99
    )


cdef uint64_t number_of(object connection_id) noexcept:
    """N of "conn-N"; 0: it is another id. It begins with a "c"."""
    cdef Py_ssize_t at, length = PyUnicode_GET_LENGTH(connection_id)
    cdef const unsigned char *text = <const unsigned char *>PyUnicode_1BYTE_DATA(connection_id)
    cdef uint64_t number = 0
    if length > 5 + LONGEST_NUMBER or memcmp(text, b"conn-", 5) != 0 or text[5] == 48:
        return 0
    for at in range(5, length):
        if not 48 <= text[at] <= 57:
            return 0
        number = 10 * number + text[at] - 48
    return number


cdef str text_of(uint64_t number):
    """f"conn-{number}" in a quarter of the time."""
    cdef char[32] text
    cdef int at = 32
    while True:
        at -= 1
        text[at] = 48 + number % 10
        number //= 10
        if number == 0:
            break
    at -= 5
    memcpy(text + at, b"conn-", 5)
    made = PyUnicode_New(32 - at, 127)
    memcpy(PyUnicode_1BYTE_DATA(made), text + at, 32 - at)
    return made


cdef inline uint64_t numbered(uint64_t number) noexcept:
    return 2 * number + 1


cdef inline bint is_numbered(uint64_t name) noexcept:
    return name & 1


cdef inline uint64_t name_of(object connection_id) noexcept:
    """Borrowed: the caller keeps the id."""
    cdef uint64_t number = number_of(connection_id) if begins_with_c(connection_id) else 0
    return numbered(number) if number else <uint64_t><size_t><PyObject *>connection_id


cdef inline object id_named(uint64_t name):
    if is_numbered(name):
        return text_of(name >> 1)
    return None if name == 0 else <object><PyObject *><size_t>name


cdef inline void own_name(uint64_t name) noexcept:
    if not is_numbered(name) and name != 0:
        Py_INCREF(<object><PyObject *><size_t>name)


cdef inline void drop_name(uint64_t name) noexcept:
    if not is_numbered(name) and name != 0:
        Py_DECREF(<object><PyObject *><size_t>name)


cdef inline uint64_t hash_of(object key) except? 0:
    return rcmgr_table_mix(PyObject_Hash(key))


cdef inline uint64_t hash_of_name(uint64_t name) except? 0:
    if is_numbered(name):
        return rcmgr_table_mix(<int64_t>name)
    return hash_of(<object><PyObject *><size_t>name)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class ConnectionRecord:
    """ConnectionRecord()\n--\n
    One connection, as the tracker holds it. Read only, and readable after its end."""

    def __cinit__(self):
        self.name = 0
        rcmgr_close_entry(&self.entry)

    def __dealloc__(self):
        drop_name(self.name)

    @property
    def connection_id(self):
        """The id, as the caller gave it."""
        return id_of(self)

    @property
    def peer_id(self):
        """The peer id, as the caller gave it; None: not known yet."""
        return peer_of(self)

    @property
    def address(self):
        """The remote address of an inbound connection, as the caller gave it; None: unknown."""
        return endpoint_of(self)

    @property
    def held(self):
        """An object that is closed when the connection ends; None: there is no such object."""
        return held_of(self)

    @property
    def since_ns(self):
        """The time when it entered its state, on the clock of `ConnectionTracker.now_ns`.

        In steps of 64 ns. The end of the connection does not change it.
        """
        return rcmgr_since_ns(&self.entry)

    @property
    def state(self):
        """The ConnectionKind value, or "closed"."""
        cdef int state = rcmgr_entry_state(&self.entry)
        return "closed" if state == RCMGR_CLOSED else STATES[state]

    @property
    def is_inbound(self):
        """Whether it is inbound. False after its end."""
        return is_inbound(self)

    @property
    def is_pending(self):
        """Whether its handshake is under way."""
        return is_pending(self)

    @property
    def is_established(self):
        """Whether its handshake is done, and it has not ended."""
        return is_established(self)

    @property
    def is_bypassed(self):
        """Whether its peer was bypassed when it was admitted. Then no limit counts it."""
        return is_exempt(self)

    @property
    def is_reported(self):
        """Whether the swarm knows it by `connection_id`. Then `reconcile` applies to it."""
        return is_reported(self)

    def __repr__(self):
        return f"ConnectionRecord({id_of(self)!r}, {self.state}, peer={peer_of(self)!r})"


cdef object known_type = None
cdef closer close_known = NULL


cdef void close_by(object kind, closer function) noexcept:
    global known_type, close_known
    known_type, close_known = kind, function


cdef class ConnectionWatcher:
    cdef int ended(self, ConnectionRecord record) except -1:
        raise NotImplementedError


cdef int close_held(ConnectionTracker tracker, ConnectionRecord record) except -1:
    """Close what the connection held. The caller has ended the connection, and left the lock."""
    cdef bint has_ticket, is_watched
    rcmgr_lock_shortly(<PyObject *>record)
    has_ticket = record.ticket != 0
    held, record.held = record.held, None
    rcmgr_unlock_shortly(<PyObject *>record)
    if has_ticket and tracker._watcher is not None:
        tracker._watcher.ended(record)
    with cython.critical_section(tracker):
        is_watched = tracker._step_watchers is not None
    if is_watched:
        tracker._tell_step("closed", record)
    if held is None:
        return 0
    if type(held) is known_type:
        close_known(held)
    else:
        held.close()
    return 0


cdef inline ConnectionRecord new_record(uint64_t name, object peer_id):
    cdef ConnectionRecord record = ConnectionRecord.__new__(ConnectionRecord)
    own_name(name)
    record.name = name
    record.peer = peer_id
    return record


cdef inline bint slot_of(
        rcmgr_table *table, uint64_t hashed, ConnectionRecord record, size_t *at) noexcept:
    """Find the slot of this record. False: the table does not have it."""
    at[0] = rcmgr_table_home(table, hashed)
    while rcmgr_table_match(table, hashed, at):
        if rcmgr_table_item(table, at[0]) is <void *>record:
            return True
        at[0] = rcmgr_table_after(table, at[0])
    return False


@cython.binding(False)  # 5 ns less per call; the clinic format keeps signatures
cdef class ConnectionTracker:
    """ConnectionTracker(*, max_connections=None, clock=None, bypass=None, reuse_ids=False)\n--\n
    The states of a node's connections, their counts, and admission against limits.

    A connection id is any hashable; py-libp2p's swarm uses `str`. A peer id is a py-libp2p `ID`,
    its bytes or base58 text (the same peer), or another hashable. An id is in one state at a time.

    The `admit_...` methods take a `ConnectionLimits`. They make the transition and return None, or
    change nothing and return a `Denial`. A denied establishment also ends the pending state.
    `add_pending_...` and `move_to_established_...` do the same without limits. The order of the
    limits is rust-libp2p's: direction, peer, total. `max_connections` comes last.

    Connections of bypassed peers are in every view and count, but no limit counts or denies them.
    The end of a bypass does not count live connections again.

    clock: returns monotonic nanoseconds; default: the system's coarse clock (steps of a few ms).
    max_connections: limit on pending and established connections together; None: no limit.
    bypass: the bypassed peers by peer key (the bytes of an `ID`), if the caller keeps them.
    reuse_ids: accept an id that is in use. If the connection with this id cannot enter the reported
        state, it has ended, and the id is now a different connection's. A repeated report of an
        establishment changes nothing. Without `reuse_ids` both are a ValueError.

    Cost: O(1), 30 to 80 ns per operation with few connections. Thread safe, also on free-threaded
    builds, if the hash and comparison of connection ids run no Python code. This is true of str,
    bytes, int and tuples of them. Peer ids may be anything.
    """

    cdef rcmgr_table _connections  # connection id -> ConnectionRecord, owned
    cdef rcmgr_table _peers        # peer key -> ConnectionRecord, the first of the peer's chain
    cdef readonly dict _bypass     # peer key -> peer id as it was given
    # the list of pending connections, in order of time
    cdef PyObject *_oldest_pending
    cdef PyObject *_newest_pending
    cdef rcmgr_connection_counts _counts
    cdef int64_t _denied_outbound[RCMGR_LIMITS]  # the part of `_counts.denied`
    cdef rcmgr_connection_limits _limits  # those of _limits_source, and max_connections
    cdef object _limits_source
    cdef uint64_t _only_reporting  # a bit for each limit that refuses nothing
    cdef object _clock
    cdef bint _reuse_ids
    cdef uint64_t _numbers  # given to connections without an id
    cdef ConnectionWatcher _watcher
    cdef tuple _step_watchers  # functions to call with a state and a record; None: none
    # for `reconcile`
    cdef int64_t _reported          # connections that the swarm has reported by their id
    cdef int64_t _unseen            # reported since the last pass, or too young at that pass
    cdef int64_t _oldest_unseen_ns
    cdef int64_t _next_pass_ns
    cdef uint64_t _pass_at          # how far the pass is; RCMGR_TABLE_END: no pass is under way

    def __cinit__(
        self, *, max_connections=None, clock=None, dict bypass=None, bint reuse_ids=False
    ):
        cdef int i
        memset(&self._connections, 0, sizeof(rcmgr_table))
        memset(&self._peers, 0, sizeof(rcmgr_table))
        self._fit(&self._connections)
        self._fit(&self._peers)
        self._bypass = {} if bypass is None else bypass
        self._oldest_pending = self._newest_pending = NULL
        memset(&self._counts, 0, sizeof(self._counts))
        for i in range(RCMGR_LIMITS):
            self._limits.at[i] = RCMGR_NO_LIMIT
        self._limits_source = NOT_READ
        self._next_pass_ns = 0
        self._pass_at = RCMGR_TABLE_END
        self._oldest_unseen_ns = RCMGR_NO_LIMIT
        self._clock = clock
        self._reuse_ids = reuse_ids
        self.max_connections = max_connections

    def __dealloc__(self):
        cdef size_t at
        cdef PyObject *item
        if self._connections.slots is not NULL:
            for at in range(self._connections.count):
                item = <PyObject *>rcmgr_table_item(&self._connections, at)
                if item is not NULL:
                    rcmgr_close_entry(&(<ConnectionRecord>item).entry)
                    Py_DECREF(<ConnectionRecord>item)
        PyMem_RawFree(self._connections.slots)
        PyMem_RawFree(self._peers.slots)

    @property
    def max_connections(self):
        """Limit on pending and established connections together; None: no limit. May be set."""
        cdef int64_t limit
        with cython.critical_section(self):
            limit = self._limits.at[RCMGR_CONNECTIONS]
        return None if limit == RCMGR_NO_LIMIT else limit

    @max_connections.setter
    def max_connections(self, value):
        check_limit("max_connections", value)
        cdef int64_t limit = limit_of(value)
        with cython.critical_section(self):
            self._limits.at[RCMGR_CONNECTIONS] = limit

    # -- transitions -------------------------------------------------------------------------

    def add_pending_inbound(self, connection_id, peer_id=None):
        """Add an inbound connection before its handshake, without limits.

        False: it was pending inbound already, and nothing has changed.
        ValueError: it is established, or pending in the other direction.
        """
        return add(self, connection_id, peer_id, RCMGR_PENDING_INBOUND)

    def add_pending_outbound(self, connection_id, peer_id=None):
        """Add an outbound connection before its handshake. See `add_pending_inbound`."""
        return add(self, connection_id, peer_id, RCMGR_PENDING_OUTBOUND)

    def admit_pending_inbound(self, connection_id, limits, peer_id=None):
        """Add an inbound connection before its handshake, if `limits` allow: None or a Denial.

        A connection that is pending already is admitted at any limits. ValueError: as
        `add_pending_inbound`.
        """
        return denial_of(self, connection_id, peer_id, RCMGR_PENDING_INBOUND, limits, True)

    def admit_pending_outbound(self, connection_id, limits, peer_id=None):
        """Add an outbound connection before its handshake. See `admit_pending_inbound`."""
        return denial_of(self, connection_id, peer_id, RCMGR_PENDING_OUTBOUND, limits, True)

    def move_to_established_inbound(self, connection_id, peer_id):
        """Establish an inbound connection, pending or new, without limits.

        ValueError: it is established already, or pending in the other direction.
        """
        add(self, connection_id, peer_id, RCMGR_ESTABLISHED_INBOUND)

    def move_to_established_outbound(self, connection_id, peer_id):
        """Establish an outbound connection. See `move_to_established_inbound`."""
        add(self, connection_id, peer_id, RCMGR_ESTABLISHED_OUTBOUND)

    def admit_established_inbound(self, connection_id, peer_id, limits, *, bint owned=False):
        """Establish an inbound connection, if `limits` allow: None or a Denial.

        A denied connection is no longer pending. ValueError: as `move_to_established_inbound`.
        owned: the caller holds it and will remove it. `reconcile` leaves it alone until `rename`.
        """
        return denial_of(self, connection_id, peer_id, RCMGR_ESTABLISHED_INBOUND, limits, not owned)

    def admit_established_outbound(self, connection_id, peer_id, limits, *, bint owned=False):
        """Establish an outbound connection. See `admit_established_inbound`."""
        return denial_of(
            self, connection_id, peer_id, RCMGR_ESTABLISHED_OUTBOUND, limits, not owned)

    def admit(self, connection_id, peer_id, bint inbound, limits, held=None, bint exempt=False):
        """Add a connection that the caller will `remove`: its ConnectionRecord or a Denial.

        peer_id: None before the handshake. With a peer the connection is established, as `owned`.
        held: an object with a `close()`, which is called once, when the connection ends. None: a
            pending connection keeps the one that it had. After a denial, or a ValueError, the
            caller still has it.
        exempt: no limit applies, as for a bypassed peer.
        ValueError: the id is in use, and not by a pending connection in this direction.
        """
        cdef bint repeated
        cdef int state = state_of(peer_id is not None, inbound)
        answer = admit(
            self, None, connection_id, peer_id, None, state, limits, held, exempt, False, False,
            &repeated, None)
        if repeated:
            raise ValueError(f"connection {connection_id!r} is {STATES[state]} already")
        return answer

    def remove_connection(self, connection_id, peer_id=None):
        """End a connection in any state. False: its id is not known.

        peer_id: not used, because the record has the peer. Callers that know it may give it.
        """
        cdef size_t at
        cdef bint removed = False
        cdef uint64_t name = name_of(connection_id), hashed = hash_of_name(name)
        cdef ConnectionRecord record
        with cython.critical_section(self):
            record = self._find(hashed, name, &at)
            if record is not None:
                removed = self._remove(record, False, at)
        if removed:
            close_held(self, record)
        return removed

    def holds(self, ConnectionRecord record not None):
        """Whether this connection has not ended."""
        return holds(self, record)

    def remove(self, ConnectionRecord record not None, bint only_pending=False):
        """End this connection. It may have a new id. False: it has ended already.

        only_pending: leave it alone (False) if it is established.
        """
        return remove(self, record, only_pending)

    def rename(self, ConnectionRecord record not None, connection_id):
        """Give a connection the id by which the swarm knows it. `reconcile` then applies to it.

        False: the connection has ended. ValueError: another connection has this id.
        """
        cdef size_t at, old_at
        cdef bint present
        cdef uint64_t changes, former = 0
        cdef uint64_t name = name_of(connection_id), hashed = hash_of_name(name)
        cdef ConnectionRecord other
        own_name(name)
        try:
            with cython.critical_section(self):
                while True:
                    self._fit(&self._connections)
                    changes = self._changes()
                    present = self._slot_of(record, &old_at)
                    other = self._find(hashed, name, &at)
                    if changes == self._changes():
                        break
                if present and other is None:
                    rcmgr_table_put(&self._connections, at, hashed, <void *>record)
                    rcmgr_table_remove(&self._connections, old_at)
                    rcmgr_lock_shortly(<PyObject *>record)
                    former, record.name, name = record.name, name, 0
                    rcmgr_unlock_shortly(<PyObject *>record)
                    other = record
                if present and other is record and is_established(record):
                    self._mark_reported(record)
            if present and other is not record:
                raise ValueError(
                    f"connection id {connection_id!r} is in use: {id_of(record)!r} cannot have it")
            return present
        finally:
            # outside of the lock
            drop_name(former)
            drop_name(name)

    def _watch_steps(self, watcher):
        """Call `watcher(state, record)` after each step of a connection. The result ends this.

        state: that which it has entered, or "closed". The thread that counts the step calls it.
        """
        def stop():
            self._set_step_watchers(None, watcher)

        self._set_step_watchers(watcher, None)
        return stop

    cdef int _set_step_watchers(self, object added, object removed) except -1:
        with cython.critical_section(self):
            former = self._step_watchers or ()
        watchers = tuple([each for each in former if each is not removed])
        if added is not None:
            watchers += (added,)
        with cython.critical_section(self):
            _former, self._step_watchers = self._step_watchers, watchers or None
        return 0

    cdef int _tell_step(self, object state, ConnectionRecord record) except -1:
        with cython.critical_section(self):
            watchers = self._step_watchers
        if watchers is not None:
            for watcher in watchers:
                watcher(state, record)
        return 0

    def clear(self):
        """End every connection. They count as closed. Bypasses, peaks and totals stay."""
        for record in self._records():
            self.remove(<ConnectionRecord>record)

    # -- bypass ------------------------------------------------------------------------------

    def add_bypass_peer(self, peer_id):
        """Let no limit count or deny new connections of this peer."""
        key = peer_key(peer_id)
        with cython.critical_section(self):
            self._bypass[key] = peer_id

    def remove_bypass_peer(self, peer_id):
        """Limit new connections of this peer again. False: it was not bypassed."""
        key = peer_key(peer_id)
        with cython.critical_section(self):
            present = key in self._bypass
            if present:
                del self._bypass[key]
        return present

    def is_bypassed(self, peer_id):
        """Whether no limit counts new connections of this peer. TypeError: as for `bypass_peer`."""
        return peer_key(peer_id) in self._bypass

    @property
    def bypass_peers(self):
        """Live, set-like view of the bypassed peer ids."""
        return BypassView(self)

    # -- what there is -----------------------------------------------------------------------

    @property
    def pending_inbound(self):
        """Live, set-like view of connection ids. `len` and `in` are O(1), iteration is O(all)."""
        return StateView(self, "pending_inbound")

    @property
    def pending_outbound(self):
        """Live, set-like view of connection ids."""
        return StateView(self, "pending_outbound")

    @property
    def established_inbound(self):
        """Live, set-like view of connection ids."""
        return StateView(self, "established_inbound")

    @property
    def established_outbound(self):
        """Live, set-like view of connection ids."""
        return StateView(self, "established_outbound")

    @property
    def established_per_peer(self):
        """Live, mapping-like view: peer id -> set of its connection ids (a copy)."""
        return PeerView(self)

    def get_connection(self, connection_id):
        """The ConnectionRecord, or None."""
        return find(self, connection_id)

    def records(self):
        """The records of all connections of one moment. O(all), 2 ns each under the lock."""
        return self._records()

    def get_connection_count(self, kind):
        """The number of connections of a ConnectionKind or its value, with bypassed ones.

        ValueError: unknown kind.
        """
        index = KIND_INDEX.get(kind) if isinstance(kind, str) else None
        if index is None:
            raise ValueError(
                f"unknown connection kind {kind!r}: expected one of {', '.join(COUNTED_KINDS)}")
        cdef int i = index
        cdef int64_t count
        with cython.critical_section(self):
            if i < RCMGR_STATES:
                count = self._counts.present[i]
            elif i == RCMGR_STATES:
                count = (self._counts.present[RCMGR_ESTABLISHED_INBOUND]
                         + self._counts.present[RCMGR_ESTABLISHED_OUTBOUND])
            else:
                count = (self._counts.present[RCMGR_PENDING_INBOUND]
                         + self._counts.present[RCMGR_PENDING_OUTBOUND])
        return count

    def get_peer_connection_count(self, peer_id):
        """The number of established connections of a peer, with bypassed ones."""
        return connections_of(self, peer_key(peer_id))

    def __len__(self):
        cdef size_t used
        with cython.critical_section(self):
            used = self._connections.used
        return used

    def __contains__(self, connection_id):
        return find(self, connection_id) is not None

    @property
    def oldest_pending_age(self):
        """Seconds since the oldest pending connection began; None: no connection is pending."""
        cdef int64_t now = self._now()
        cdef int64_t since = -1
        with cython.critical_section(self):
            if self._oldest_pending is not NULL:
                since = rcmgr_since_ns(&(<ConnectionRecord>self._oldest_pending).entry)
        return None if since < 0 else max(0, now - since) / 1e9

    @property
    def now_ns(self):
        """Monotonic nanoseconds on the clock of this tracker."""
        return self._now()

    def denied_count(self, kind):
        """How often a ConnectionLimitKind (or its value) has refused."""
        cdef Py_ssize_t limit = LIMIT_KINDS.index(ConnectionLimitKind(kind))
        cdef int64_t times
        with cython.critical_section(self):
            times = self._counts.denied[limit]
        return times

    def denied_by_direction(self):
        """How often each limit refused: {("inbound" or "outbound", value of the kind): times}."""
        cdef int64_t both[RCMGR_LIMITS]
        cdef int64_t outbound[RCMGR_LIMITS]
        cdef int i
        with cython.critical_section(self):
            both = self._counts.denied
            outbound = self._denied_outbound
        times = {}
        for i in range(RCMGR_LIMITS):
            times["inbound", LIMIT_KINDS[i].value] = both[i] - outbound[i]
            times["outbound", LIMIT_KINDS[i].value] = outbound[i]
        return {key: count for key, count in times.items() if count}

    def snapshot(self):
        """All counts of one moment, as a TrackerSnapshot."""
        cdef rcmgr_connection_counts c
        cdef Py_ssize_t peers
        cdef int i
        with cython.critical_section(self):
            c = self._counts
            peers = self._peers.used
        denied = {kind.value: c.denied[i] for i, kind in enumerate(LIMIT_KINDS) if c.denied[i]}
        return TrackerSnapshot(
            **{STATES[i]: c.present[i] for i in range(RCMGR_STATES)},
            **{f"peak_{kind.value}": c.peak[i] for i, kind in enumerate(LIMIT_KINDS)},
            peak_pending_total=c.peak[RCMGR_PEAK_PENDING_TOTAL],
            bypassed=sum([c.present[i] for i in range(RCMGR_STATES)])
            - rcmgr_counted(&c, RCMGR_CONNECTIONS, 0),
            peers=peers,
            total_created=c.created,
            total_established=(
                c.entered[RCMGR_ESTABLISHED_INBOUND] + c.entered[RCMGR_ESTABLISHED_OUTBOUND]
            ),
            total_closed=c.closed,
            total_denied=sum(denied.values()),
            admitted={STATES[i]: c.entered[i] for i in range(RCMGR_STATES)},
            denied=denied,
            oldest_pending_age=self.oldest_pending_age,
        )

    # -- for the views -----------------------------------------------------------------------

    def _ids_in(self, str state):
        """The ids of all connections in this state. O(all)."""
        cdef int wanted = KIND_INDEX[state]
        cdef Pacer pacer = Pacer()
        cdef list ids = []
        for entry in self._records(False, pacer):
            if rcmgr_entry_state(&(<ConnectionRecord>entry).entry) == wanted:
                ids.append(id_of(<ConnectionRecord>entry))
            pacer.step()
        return ids

    def _ids_of(self, peer_id):
        """The ids of a peer's established connections."""
        cdef PyObject *link
        cdef size_t at
        cdef ConnectionRecord head
        key = peer_key(peer_id)
        cdef uint64_t hashed = hash_of(key)
        found = []
        with cython.critical_section(self):
            head = self._find_peer(hashed, peer_id, key, &at)
            link = <PyObject *>head if head is not None else NULL
            while link is not NULL:
                found.append(id_named((<ConnectionRecord>link).name))
                link = (<ConnectionRecord>link).next
        return set(found)

    def _peers_now(self):
        """The peers that have an established connection."""
        cdef Pacer pacer = Pacer()
        cdef list peers = []
        for head in self._records(True, pacer):
            peers.append(peer_of(<ConnectionRecord>head))
            pacer.step()
        return peers

    def _peer_count(self):
        cdef size_t used
        with cython.critical_section(self):
            used = self._peers.used
        return used

    def __repr__(self):
        return (
            f"ConnectionTracker(pending={self.get_connection_count('pending_total')}, "
            f"established={self.get_connection_count('established_total')})"
        )

    # -- reconciliation ----------------------------------------------------------------------

    def reconcile(self, live_ids, double min_age_seconds=30.0):
        """End established connections that the swarm no longer has. Returns their number.

        live_ids: the ids of all connections of the swarm (a set).
        min_age_seconds: younger connections stay, because the swarm may not have added them yet.

        O(1) unless a connection may be stale. A pass over all connections begins every 30 s. It
        also begins if the tracker has more connections than the swarm. New ones do not count as
        more: those since the last pass, and those that were too young then. One call looks at about
        1,600 connections, which takes 1 to 3 ms. The next calls continue the pass.

        ValueError: min_age_seconds is negative or not a number.
        """
        if not min_age_seconds >= 0:
            raise ValueError(f"min_age_seconds must be 0 or more, not {min_age_seconds}")
        cdef int64_t now = self._now()
        cdef int64_t min_age = <int64_t>(min(min_age_seconds, MAX_AGE_SECONDS) * 1e9)
        cdef int64_t surplus = len(live_ids)
        cdef uint64_t at
        cdef ConnectionRecord record
        cdef list removed = []
        with cython.critical_section(self):
            surplus = self._reported - surplus
            if self._pass_at == RCMGR_TABLE_END:
                if now < self._next_pass_ns and (
                    surplus <= 0
                    or (surplus <= self._unseen and self._oldest_unseen_ns > now - min_age)
                ):
                    return 0
                self._pass_at = 0
                self._unseen = 0
                self._oldest_unseen_ns = RCMGR_NO_LIMIT
                self._next_pass_ns = now + FULL_PASS_INTERVAL_NS
            at = self._pass_at
        for _ in range(<int>STEPS_OF_RECONCILE):
            if at == RCMGR_TABLE_END:
                break
            stale = [
                entry for entry in self._next_records(&self._connections, &at)
                if is_reported(<ConnectionRecord>entry)
                and id_of(<ConnectionRecord>entry) not in live_ids
            ]
            with cython.critical_section(self):
                for entry in stale:
                    record = <ConnectionRecord>entry
                    if not is_reported(record):
                        continue  # another thread has ended it
                    if rcmgr_since_ns(&record.entry) <= now - min_age:
                        if self._remove(record):
                            removed.append(record)
                    else:
                        self._unseen += 1
                        self._oldest_unseen_ns = min(
                            self._oldest_unseen_ns, rcmgr_since_ns(&record.entry))
        with cython.critical_section(self):
            self._pass_at = at
        for entry in removed:
            close_held(self, <ConnectionRecord>entry)
        return len(removed)

    # -- inside ------------------------------------------------------------------------------

    cdef int64_t _now(self) except? -1:
        if self._clock is None:
            return rcmgr_now_coarse_ns()
        # not a cast: that would take a clock of float seconds for one of nanoseconds
        return PyLong_AsLongLong(self._clock())

    cdef int _read_limits(self, object limits) except -1:
        """Keep the numbers of a frozen ConnectionLimits, so that the next call need not read them.
        """
        cdef rcmgr_connection_limits read
        cdef int i = 0
        for field in LIMIT_FIELDS:
            value = getattr(limits, field, NOT_READ)
            if value is NOT_READ:
                raise TypeError(f"limits must be a ConnectionLimits, not {limits!r}")
            check_limit(field, value)
            read.at[i] = limit_of(value)
            i += 1
        read.at[RCMGR_CONNECTIONS] = self._limits.at[RCMGR_CONNECTIONS]
        self._limits = read
        self._limits_source = limits
        return 0

    cdef int _end_former(
            self, uint64_t name, uint64_t hashed, object key, int state, object limits) except -1:
        """End the connection with this id if it cannot enter this state."""
        cdef ConnectionRecord record
        cdef int was
        cdef size_t at
        cdef bint removed = False
        with cython.critical_section(self):
            if limits is not self._limits_source and limits is not UNLIMITED:
                self._read_limits(limits)  # first: with wrong ones nothing changes
            record = self._find(hashed, name, &at)
            was = RCMGR_CLOSED if record is None else rcmgr_entry_state(&record.entry)
            if record is not None and was != state - RCMGR_ESTABLISHED_INBOUND and (
                was != state
                or (state >= RCMGR_ESTABLISHED_INBOUND
                    and not PyObject_RichCompareBool(peer_key(record.peer), key, Py_EQ))
            ):
                removed = self._remove(record)
        if removed:
            close_held(self, record)
        return 0

    # A look-up may run Python code (a comparison of unusual ids), and then other threads may run.
    # So no look-up happens between the last check and the end of a change.

    cdef ConnectionRecord _try_pend(
            self, ConnectionRecord record, uint64_t hashed, object key, int state, object limits,
            bint exempt, bint reserved, int64_t now, Verdict *verdict):
        """The record; or the one that has its id, which is a CONFLICT."""
        cdef ConnectionRecord other
        cdef size_t at
        cdef uint64_t changes
        exempt = exempt or (key is not None and self._is_exempt(key))
        while True:
            self._fit(&self._connections)
            changes = self._changes()
            other = self._find(hashed, record.name, &at)
            if changes == self._changes() and self._has_limits(limits, exempt):
                break
        if other is not None:
            verdict.outcome = CONFLICT
            verdict.was = rcmgr_entry_state(&other.entry)
            return other
        if reserved and not exempt:
            exempt = rcmgr_refusing_limit(
                &self._counts, &self._limits, state, 0, False) != RCMGR_ADMITTED
        self._ask(state, limits, exempt, 0, False, verdict)
        if verdict.outcome == RCMGR_ADMITTED:
            Py_INCREF(record)
            rcmgr_table_put(&self._connections, at, hashed, <void *>record)
            self._counts.created += 1
            self._enter(record, state, exempt, now)
            self._append_pending(record)
        return record

    cdef ConnectionRecord _try_establish(
            self, uint64_t name, uint64_t hashed, object peer_id, object key, uint64_t peer_hashed,
            int state, object limits, bint exempt, bint reported,
            int64_t now, Verdict *verdict):
        cdef ConnectionRecord record, head
        cdef size_t at, peer_at
        cdef uint64_t changes
        exempt = exempt or self._is_exempt(key)
        while True:
            self._fit(&self._connections)
            self._fit(&self._peers)
            changes = self._changes()
            record = self._find(hashed, name, &at)
            head = self._find_peer(peer_hashed, peer_id, key, &peer_at)
            if changes == self._changes() and self._has_limits(limits, exempt):
                break
        cdef bint pending = record is not None, was_exempt = False
        cdef int was = RCMGR_CLOSED
        if pending:
            was = rcmgr_entry_state(&record.entry)
            was_exempt = is_exempt(record)
        if pending and was != state - RCMGR_ESTABLISHED_INBOUND:
            verdict.outcome = CONFLICT
            verdict.was = was
            return record
        verdict.outcome = RCMGR_ADMITTED
        if was_exempt:
            # its peer turns out not to be exempt: the connection was never asked about
            self._ask(was, limits, exempt, 0, False, verdict)
        if verdict.outcome == RCMGR_ADMITTED:
            self._ask(state, limits, exempt, 0 if head is None else head.back.of_peer.counted,
                      pending and not was_exempt, verdict)
        if pending:
            self._unlink_pending(record)
            rcmgr_leave(&self._counts, was, was_exempt)
        if verdict.outcome != RCMGR_ADMITTED:
            if pending:
                rcmgr_table_remove(&self._connections, at)
                Py_DECREF(record)
                self._closed(record)
            return record
        former_peer = None
        if pending:
            former_peer = record.peer  # kept alive until the change is done
            self._connections.changes += 1  # as the tables do not change
        else:
            record = new_record(name, peer_id)
            Py_INCREF(record)
            rcmgr_table_put(&self._connections, at, hashed, <void *>record)
            self._counts.created += 1
        if head is None:
            head = record
            rcmgr_table_put(&self._peers, peer_at, peer_hashed, <void *>record)
        rcmgr_lock_shortly(<PyObject *>record)
        record.peer = peer_id
        rcmgr_unlock_shortly(<PyObject *>record)
        self._enter(record, state, exempt, now)
        self._link_peer(record, head)
        if reported:
            self._mark_reported(record)
        return record

    cdef bint _remove(
            self, ConnectionRecord record, bint only_pending=False, size_t at=0) except -1:
        """End a connection. False: the tracker does not have it. The caller holds a reference.

        at: the slot to look at first.
        """
        cdef ConnectionRecord head
        cdef size_t peer_at
        cdef uint64_t changes
        cdef bint established
        while True:
            changes = self._changes()
            established = rcmgr_entry_state(&record.entry) >= RCMGR_ESTABLISHED_INBOUND
            if not self._is_at(record, at) and not self._slot_of(record, &at):
                return False
            if established and only_pending:
                return False
            if established:
                head = self._head_of(record, &peer_at)
            if changes == self._changes():
                break
        if established and head is None:
            raise RuntimeError(f"the hash of peer {record.peer!r} has changed")
        rcmgr_table_remove(&self._connections, at)
        Py_DECREF(record)
        if established:
            self._unlink_peer(record, head, peer_at)
        else:
            self._unlink_pending(record)
        rcmgr_leave(&self._counts, rcmgr_entry_state(&record.entry), is_exempt(record))
        self._reported -= is_reported(record)
        self._closed(record)
        return True

    cdef ConnectionRecord _head_of(self, ConnectionRecord record, size_t *peer_at):
        """The first connection of its peer; None: not there. `peer_at` is the slot of a record that
        is the first itself."""
        cdef ConnectionRecord before
        if rcmgr_entry_has(&record.entry, RCMGR_FIRST_BIT):
            key = peer_key(record.peer)
            return record if slot_of(&self._peers, hash_of(key), record, peer_at) else None
        # the newest connection is the second of the list, and often the one that ends
        before = <ConnectionRecord>record.back.previous
        if rcmgr_entry_has(&before.entry, RCMGR_FIRST_BIT):
            return before
        key = peer_key(record.peer)
        return self._find_peer(hash_of(key), record.peer, key, peer_at)

    cdef inline void _closed(self, ConnectionRecord record) noexcept:
        rcmgr_close_entry(&record.entry)
        self._counts.closed += 1

    cdef inline uint64_t _changes(self) noexcept:
        return self._connections.changes + self._peers.changes

    # Both return None if there is no such record. Then `at` is the slot for a new one.

    cdef inline ConnectionRecord _find(self, uint64_t hashed, uint64_t name, size_t *at):
        """The record with this id, and its slot."""
        cdef rcmgr_table *table = &self._connections
        at[0] = rcmgr_table_home(table, hashed)
        if not rcmgr_table_match(table, hashed, at):
            return None
        return self._compare(hashed, name, at)

    cdef ConnectionRecord _compare(self, uint64_t hashed, uint64_t name, size_t *at):
        cdef rcmgr_table *table = &self._connections
        cdef uint64_t changes, other
        cdef bint same
        while rcmgr_table_match(table, hashed, at):
            other = (<ConnectionRecord>rcmgr_table_item(table, at[0])).name
            if other == name:
                return <ConnectionRecord>rcmgr_table_item(table, at[0])
            if is_numbered(other) or is_numbered(name):
                at[0] = rcmgr_table_after(table, at[0])
                continue
            held = <ConnectionRecord>rcmgr_table_item(table, at[0])
            changes = self._changes()
            same = PyObject_RichCompareBool(id_named(other), id_named(name), Py_EQ)
            if changes != self._changes():
                at[0] = rcmgr_table_home(table, hashed)
            elif same:
                return held
            else:
                at[0] = rcmgr_table_after(table, at[0])
        return None

    cdef inline ConnectionRecord _find_peer(
            self, uint64_t hashed, object peer, object key, size_t *at):
        """The first record of this peer, and its slot."""
        cdef rcmgr_table *table = &self._peers
        at[0] = rcmgr_table_home(table, hashed)
        if not rcmgr_table_match(table, hashed, at):
            return None
        rcmgr_prefetch_object(rcmgr_table_item(table, at[0]))
        return self._compare_peer(hashed, peer, key, at)

    cdef ConnectionRecord _compare_peer(
            self, uint64_t hashed, object peer, object key, size_t *at):
        cdef rcmgr_table *table = &self._peers
        cdef uint64_t changes
        cdef bint same
        while rcmgr_table_match(table, hashed, at):
            held = <ConnectionRecord>rcmgr_table_item(table, at[0])
            if (<ConnectionRecord>held).peer is peer:
                return <ConnectionRecord>held
            # changes of both tables: another connection may become the first of its peer
            changes = self._changes()
            same = PyObject_RichCompareBool(
                peer_key((<ConnectionRecord>held).peer), key, Py_EQ)
            if changes != self._changes():
                at[0] = rcmgr_table_home(table, hashed)
            elif same:
                return <ConnectionRecord>held
            else:
                at[0] = rcmgr_table_after(table, at[0])
        return None

    cdef inline bint _is_at(self, ConnectionRecord record, size_t at) noexcept:
        cdef rcmgr_table *table = &self._connections
        return at < table.count and rcmgr_table_item(table, at) is <void *>record

    cdef bint _slot_of(self, ConnectionRecord record, size_t *at) except -1:
        """Find the slot of this record. False: the tracker does not have it."""
        cdef uint64_t changes, hashed
        if record.name == 0:  # a bare __new__ made it
            return False
        while True:
            changes = self._connections.changes
            hashed = hash_of_name(record.name)
            if changes == self._connections.changes:
                return slot_of(&self._connections, hashed, record, at)

    cdef inline int _fit(self, rcmgr_table *table) except -1:
        """Make room for one more record, or shrink a table that is mostly empty."""
        if not table_fit(table):
            raise MemoryError
        return 0

    cdef inline bint _has_limits(self, object limits, bint exempt) except -1:
        """Whether it has the numbers of these limits. If not, it reads them, which runs any code.
        """
        if exempt or limits is UNLIMITED or limits is self._limits_source:
            return True
        self._read_limits(limits)
        return False

    cdef inline int _ask(self, int state, object limits, bint exempt, int64_t of_peer,
                         bint counted_already, Verdict *verdict) except -1:
        verdict.outcome = RCMGR_ADMITTED
        if exempt or limits is UNLIMITED:
            return 0
        cdef int refusing = rcmgr_refusing_limit(
            &self._counts, &self._limits, state, of_peer, counted_already)
        if refusing != RCMGR_ADMITTED and self._only_reporting >> refusing & 1:
            refusing = self._ask_the_others(state, refusing, of_peer, counted_already, verdict)
        if refusing != RCMGR_ADMITTED:
            verdict.outcome = refusing
            verdict.current = rcmgr_counted(&self._counts, refusing, of_peer)
            verdict.limit = self._limits.at[refusing]
            self._counts.denied[refusing] += 1
            self._denied_outbound[refusing] += state in (
                RCMGR_PENDING_OUTBOUND, RCMGR_ESTABLISHED_OUTBOUND)
        return 0

    cdef int _ask_the_others(self, int state, int passed, int64_t of_peer, bint counted_already,
                             Verdict *verdict) noexcept:
        """The limit that refuses, without those that only report. `passed`: one of these."""
        cdef rcmgr_connection_limits enforced = self._limits
        cdef int i
        if verdict.passed == RCMGR_ADMITTED:
            verdict.passed = passed
            verdict.passed_current = rcmgr_counted(&self._counts, passed, of_peer)
            verdict.passed_limit = self._limits.at[passed]
        for i in range(RCMGR_LIMITS):
            if self._only_reporting >> i & 1:
                enforced.at[i] = RCMGR_NO_LIMIT
        return rcmgr_refusing_limit(&self._counts, &enforced, state, of_peer, counted_already)

    cdef inline void _enter(self, ConnectionRecord record, int state, bint exempt,
                            int64_t now) noexcept:
        rcmgr_enter_state(&record.entry, state, exempt, now)
        rcmgr_enter(&self._counts, state, exempt)

    cdef inline bint _is_exempt(self, object key) except -1:
        return PyDict_Size(self._bypass) > 0 and PyDict_Contains(self._bypass, key)

    cdef inline void _mark_reported(self, ConnectionRecord record) noexcept:
        if is_reported(record):
            return
        rcmgr_entry_set(&record.entry, RCMGR_REPORTED_BIT, True)
        self._reported += 1
        self._unseen += 1
        self._oldest_unseen_ns = min(self._oldest_unseen_ns, rcmgr_since_ns(&record.entry))

    cdef inline void _append_pending(self, ConnectionRecord record) noexcept:
        record.back.previous = self._newest_pending
        record.next = NULL
        if self._newest_pending is NULL:
            self._oldest_pending = <PyObject *>record
        else:
            (<ConnectionRecord>self._newest_pending).next = <PyObject *>record
        self._newest_pending = <PyObject *>record

    cdef inline void _unlink_pending(self, ConnectionRecord record) noexcept:
        if record.back.previous is NULL:
            self._oldest_pending = record.next
        else:
            (<ConnectionRecord>record.back.previous).next = record.next
        if record.next is NULL:
            self._newest_pending = <PyObject *>record.back.previous
        else:
            (<ConnectionRecord>record.next).back.previous = record.back.previous
        record.back.previous = record.next = NULL

    cdef inline void _link_peer(self, ConnectionRecord record, ConnectionRecord head) noexcept:
        rcmgr_entry_set(&record.entry, RCMGR_FIRST_BIT, head is record)
        if head is record:
            head.back.of_peer.present = head.back.of_peer.counted = 0
        else:
            record.back.previous = <PyObject *>head
            record.next = head.next
            if head.next is not NULL:
                (<ConnectionRecord>head.next).back.previous = <PyObject *>record
            head.next = <PyObject *>record
        head.back.of_peer.present += 1
        if not is_exempt(record):
            head.back.of_peer.counted += 1
        rcmgr_raise_peak(&self._counts.peak[RCMGR_PER_PEER], head.back.of_peer.counted)

    cdef inline void _unlink_peer(self, ConnectionRecord record, ConnectionRecord head,
                                  size_t peer_at) noexcept:
        head.back.of_peer.present -= 1
        if not is_exempt(record):
            head.back.of_peer.counted -= 1
        if head is record and record.next is NULL:
            rcmgr_table_remove(&self._peers, peer_at)
        elif head is record:
            rcmgr_table_set_item(&self._peers, peer_at, record.next)
            rcmgr_entry_set(&(<ConnectionRecord>record.next).entry, RCMGR_FIRST_BIT, True)
            (<ConnectionRecord>record.next).back.of_peer = record.back.of_peer
        else:
            (<ConnectionRecord>record.back.previous).next = record.next
            if record.next is not NULL:
                (<ConnectionRecord>record.next).back.previous = record.back.previous
        record.back.previous = record.next = NULL

    cdef list _records(self, bint by_peer=False, Pacer pacer=None):
        """All records, or the first one of every peer. Others may come and go meanwhile.

        pacer: lets other threads run. None: the thread of the host calls.
        """
        cdef list records = []
        cdef uint64_t at = 0
        while at != RCMGR_TABLE_END:
            records += self._next_records(&self._peers if by_peer else &self._connections, &at)
            if pacer is not None:
                pacer.step()
        return records

    cdef list _next_records(self, rcmgr_table *table, uint64_t *at):
        """The records of the next slots of a table."""
        cdef void *found[MOST_OF_STEP]
        cdef int64_t count, i
        cdef size_t slots = STEP_SLOTS
        with cython.critical_section(self):
            count = rcmgr_table_walk(table, at, slots, found, MOST_OF_STEP)
            while count == RCMGR_TABLE_NO_ROOM and slots > 0:
                slots //= 2
                count = rcmgr_table_walk(table, at, slots, found, MOST_OF_STEP)
            for i in range(count):
                rcmgr_prefetch_object(found[i])
            for i in range(count):
                Py_INCREF(<ConnectionRecord>found[i])
        if count == RCMGR_TABLE_NO_ROOM:
            raise RuntimeError(f"more than {MOST_OF_STEP} ids have one hash")
        records = []
        for i in range(count):
            records.append(<ConnectionRecord>found[i])
            Py_DECREF(<ConnectionRecord>found[i])
        return records

    def _most_of_one_peer(self):
        """The most established connections that a peer has now, with bypassed ones. O(peers)."""
        cdef void *found[MOST_OF_STEP]
        cdef int64_t count, i, most = 0
        cdef uint64_t at = 0
        cdef Pacer pacer = Pacer()
        while at != RCMGR_TABLE_END:
            with cython.critical_section(self):
                count = rcmgr_table_walk(&self._peers, &at, STEP_SLOTS, found, MOST_OF_STEP)
                for i in range(count):
                    rcmgr_prefetch_object(found[i])
                for i in range(count):
                    most = max(most, (<ConnectionRecord>found[i]).back.of_peer.present)
            if count == RCMGR_TABLE_NO_ROOM:
                raise RuntimeError(f"more than {MOST_OF_STEP} peers have one hash")
            pacer.step()
        return most


cdef inline bint add(
    ConnectionTracker tracker, object connection_id, object peer_id, int state,
) except -1:
    """Add a connection, without limits. False: it was in this state already."""
    cdef bint repeated
    admit(
        tracker, None, connection_id, peer_id, None, state, UNLIMITED, None, False, False, True,
        &repeated, None)
    return not repeated


cdef inline object denial_of(
    ConnectionTracker tracker, object connection_id, object peer_id, int state, object limits,
    bint reported,
):
    """Add a connection if `limits` allow: None or a Denial."""
    cdef bint repeated
    answer = admit(
        tracker, None, connection_id, peer_id, None, state, limits, None, False, False, reported,
        &repeated, None)
    return answer if type(answer) is Denial else None


cdef object admit(
    object tracker, ConnectionRecord known, object connection_id, object peer_id, object key,
    int state, object limits, object held, bint exempt, bint reserved, bint reported,
    bint *repeated, list passed,
):
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef bint established = state >= RCMGR_ESTABLISHED_INBOUND, is_watched
    cdef uint64_t name, hashed, peer_hashed = 0
    cdef int64_t now
    cdef ConnectionRecord record = None
    cdef Verdict verdict
    verdict.passed = RCMGR_ADMITTED
    repeated[0] = False
    if connection_id is not UNNAMED:
        name = name_of(connection_id)
    elif known is None:
        name = next_name(self)
    else:
        connection_id = kept_name(known, &name)
    hashed = hash_of_name(name)
    rcmgr_table_expect(&self._connections, hashed)
    now = self._now()
    if peer_id is not None:
        if key is None:
            key = peer_key(peer_id)
        peer_id = kept_peer(peer_id, key)
    if not established:
        record = new_record(name, peer_id)
        if held is not None:
            record.held = held
    elif peer_id is None:
        raise ValueError(f"peer_id of an established connection is missing: {id_named(name)!r}")
    else:
        peer_hashed = hash_of(key)
        rcmgr_table_expect(&self._peers, peer_hashed)
    if self._reuse_ids:
        self._end_former(name, hashed, key, state, limits)
    with cython.critical_section(self):
        if limits is not self._limits_source and limits is not UNLIMITED:
            self._read_limits(limits)
        is_watched = self._step_watchers is not None
        if not established:
            record = self._try_pend(
                record, hashed, key, state, limits, exempt, reserved, now, &verdict)
        else:
            record = self._try_establish(
                name, hashed, peer_id, key, peer_hashed, state, limits, exempt, reported, now,
                &verdict)
            if verdict.outcome == RCMGR_ADMITTED and held is not None:
                rcmgr_lock_shortly(<PyObject *>record)
                _former, record.held = record.held, held  # freed outside of the lock
                rcmgr_unlock_shortly(<PyObject *>record)
    if verdict.outcome == RCMGR_ADMITTED:
        if is_watched:
            self._tell_step(STATES[state], record)
        if passed is not None and verdict.passed != RCMGR_ADMITTED:
            passed.append(
                new_denial(verdict.passed, verdict.passed_current, verdict.passed_limit))
        return record
    if verdict.outcome >= 0:
        if established and record is not None:
            close_held(self, record)
        return new_denial(verdict.outcome, verdict.current, verdict.limit)
    if verdict.was == state and (self._reuse_ids or not established):
        repeated[0] = True
        return record
    raise ValueError(
        f"connection {id_named(name)!r} is {STATES[verdict.was]} and cannot become {STATES[state]}")


cdef uint64_t next_name(ConnectionTracker self) noexcept:
    cdef uint64_t number
    with cython.critical_section(self):
        self._numbers += 1
        number = self._numbers
        # the slot of the next connection has arrived when it comes
        rcmgr_table_expect(&self._connections, rcmgr_table_mix(<int64_t>numbered(number + 1)))
    return numbered(number)


# the short lock of a record: its fields may change or be dropped at the same moment

cdef inline object kept_name(ConnectionRecord record, uint64_t *name):
    """The object whose address is the name. While the caller has it, the name is good.

    None: the name is a number.
    """
    kept = None
    rcmgr_lock_shortly(<PyObject *>record)
    name[0] = record.name
    if not is_numbered(name[0]) and name[0] != 0:
        kept = <object><PyObject *><size_t>name[0]
    rcmgr_unlock_shortly(<PyObject *>record)
    return kept


cdef object id_of(ConnectionRecord record):
    cdef uint64_t name
    kept = kept_name(record, &name)
    return text_of(name >> 1) if is_numbered(name) else kept


cdef object peer_of(ConnectionRecord record):
    rcmgr_lock_shortly(<PyObject *>record)
    value = record.peer
    rcmgr_unlock_shortly(<PyObject *>record)
    return value


cdef object held_of(ConnectionRecord record):
    rcmgr_lock_shortly(<PyObject *>record)
    value = record.held
    rcmgr_unlock_shortly(<PyObject *>record)
    return value


cdef object endpoint_of(ConnectionRecord record):
    rcmgr_lock_shortly(<PyObject *>record)
    value = record.endpoint
    rcmgr_unlock_shortly(<PyObject *>record)
    return value


cdef uint64_t ticket_of(ConnectionRecord record) noexcept:
    cdef uint64_t ticket
    rcmgr_lock_shortly(<PyObject *>record)
    ticket = record.ticket
    rcmgr_unlock_shortly(<PyObject *>record)
    return ticket


cdef uint64_t take_ticket(ConnectionRecord record) noexcept:
    cdef uint64_t ticket
    rcmgr_lock_shortly(<PyObject *>record)
    ticket = record.ticket
    record.ticket = 0
    rcmgr_unlock_shortly(<PyObject *>record)
    return ticket


cdef bint give_ticket(ConnectionRecord record, uint64_t ticket, bint established) noexcept:
    cdef bint fits
    rcmgr_lock_shortly(<PyObject *>record)
    # `close_held` looks for a ticket after the end, under this lock: none is given later
    fits = record.ticket == 0 and (is_established(record) if established else is_pending(record))
    if fits:
        record.ticket = ticket
    rcmgr_unlock_shortly(<PyObject *>record)
    return fits


cdef void note_endpoint(ConnectionRecord record, object address) noexcept:
    rcmgr_lock_shortly(<PyObject *>record)
    if record.endpoint is None:
        record.endpoint = address
    rcmgr_unlock_shortly(<PyObject *>record)


cdef void expect_peer(object tracker, uint64_t hashed, bint slot_is_here) noexcept:
    cdef rcmgr_table *table = &(<ConnectionTracker>tracker)._peers
    if slot_is_here:
        rcmgr_table_expect_item(table, hashed)
    else:
        rcmgr_table_expect(table, hashed)


cdef int only_report(object tracker, object codes) except -1:
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef uint64_t mask = 0
    cdef int i
    for i in range(RCMGR_LIMITS):
        if CODES[i] in codes:
            mask |= <uint64_t>1 << i
    with cython.critical_section(self):
        self._only_reporting = mask
    return 0


cdef dict exempt_peers(object tracker):
    return (<ConnectionTracker?>tracker)._bypass


cdef int64_t exempt_pending(object tracker, bint inbound) except -1:
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef int state = state_of(False, inbound)
    cdef int64_t count
    with cython.critical_section(self):
        count = self._counts.present[state] - self._counts.counted[state]
    return count


cdef ConnectionRecord find(object tracker, object connection_id):
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef size_t at
    cdef uint64_t name = name_of(connection_id), hashed = hash_of_name(name)
    cdef ConnectionRecord record
    with cython.critical_section(self):
        record = self._find(hashed, name, &at)
    return record


cdef bint holds(object tracker, ConnectionRecord record) except -1:
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef size_t at
    cdef bint present
    with cython.critical_section(self):
        present = self._slot_of(record, &at)
    return present


cdef bint remove(object tracker, ConnectionRecord record, bint only_pending) except -1:
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef bint removed
    if only_pending and not is_pending(record):
        return False  # it never becomes pending again
    with cython.critical_section(self):
        removed = self._remove(record, only_pending)
    if removed:
        close_held(self, record)
    return removed


cdef int watch(object tracker, ConnectionWatcher watcher) except -1:
    (<ConnectionTracker?>tracker)._watcher = watcher
    return 0


cdef int64_t connections_of(object tracker, object key) except -1:
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef int64_t count
    cdef size_t at
    cdef ConnectionRecord head
    cdef uint64_t hashed = hash_of(key)
    with cython.critical_section(self):
        head = self._find_peer(hashed, key, key, &at)
        count = 0 if head is None else head.back.of_peer.present
    return count


cdef int read_counted(object tracker, int64_t *counted) except -1:
    cdef ConnectionTracker self = <ConnectionTracker?>tracker
    cdef int i
    with cython.critical_section(self):
        for i in range(RCMGR_STATES):
            counted[i] = self._counts.counted[i]
    return 0


cdef list established_inbound(object tracker):
    """The records of these connections that limits count, in order of age."""
    cdef list found = [
        record for record in (<ConnectionTracker?>tracker)._records()
        if rcmgr_entry_state(&(<ConnectionRecord>record).entry) == RCMGR_ESTABLISHED_INBOUND
        and not is_exempt(<ConnectionRecord>record)
    ]
    found.sort(key=since_ns_of)
    return found


def since_ns_of(ConnectionRecord record not None):
    return rcmgr_since_ns(&record.entry)


cdef int64_t limit_of(object value) except -1:
    """A limit as the counters take it. Above 2**63 it is no limit."""
    return RCMGR_NO_LIMIT if value is None or value > RCMGR_NO_LIMIT else value
