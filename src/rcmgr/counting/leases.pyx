"""The part of a fleet's limits that this node may spend.

The engine (Valkey) knows the state of each key for all nodes. A node leases tokens from it in
portions, and spends them here. So a decision reads and writes only the node's own memory. Another
thread calls `collect`, asks the engine, and calls `settle` with the answers.

A key that the node does not know has a full bucket, as in `BucketTable`. The node grants it an
advance at once, and tells the engine afterwards. It forgets a key when the engine's bucket is full
again. docs/fleet.md has the bound on what the nodes grant together.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError, PyDict_SetItem
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from rcmgr.counting._clock cimport rcmgr_now_coarse_ns
from rcmgr.counting.token_bucket cimport amount_of
from rcmgr.peers cimport key_of

from rcmgr.counting.bucket_table import BucketTable
from rcmgr.limits.checks import bucket_ticks, check_choice, check_count

__all__ = ["FleetGate", "FleetTable", "LeaseTable", "PlaceTable"]

cdef enum:
    MOST_QUEUED = 1024  # keys that wait for the engine, in each of two queues
    SWEEP = 256         # keys that one `collect` looks at
    FREED = 4096        # leases that one `collect` frees

cdef int64_t IDLE_NS = 1_000_000_000  # then the tokens of a key go back
cdef int64_t RECHECK_NS = 250_000_000  # how often a full key asks whether places are free
cdef int64_t FULL_NS = 5_000_000_000   # how long a full key is known that holds nothing here
cdef int64_t REFRESH_NS = 600_000_000_000  # how often a key is told that does not change
cdef int64_t MOST_COST_NS = 1 << 61
cdef int64_t LONG_AGO = -(1 << 61)


@cython.no_gc
cdef class _Entry:
    """A key of a table, with the numbers of this node."""


@cython.binding(False)
cdef class FleetTable:
    """FleetTable()\n--\n
    The common part of `LeaseTable` and `PlaceTable`.

    A table begins without the engine, as if it were lost.
    """

    def __cinit__(self):
        self._is_lost = True
        self._hungry, self._queued, self._unswept = [], [], []

    cdef int begin(
        self, int64_t limit, object max_keys, object nodes, object on_loss, object clock,
        object wake,
    ) except -1:
        check_count("max_keys", max_keys, 1)
        check_choice("on_loss", on_loss, ("local", "refuse"))
        self._limit = limit
        self._refuses = on_loss == "refuse"
        self._clock, self._wake = clock, wake
        self.set_nodes(nodes)
        return 0

    @cython.final
    cdef bint queue(self, _Entry entry, list queue) except -1:
        """Whether it is the first one. Locked."""
        if len(queue) >= MOST_QUEUED:
            return False
        entry.is_queued = True
        queue.append(entry)
        return len(queue) == 1

    @cython.final
    cdef list dequeue(self, Py_ssize_t most):
        """At most so many entries that wait. Denied keys come first. Locked."""
        cdef list found = self._hungry[:most]
        cdef Py_ssize_t number = max(0, most - len(found))
        cdef _Entry entry
        found += self._queued[:number]
        del self._hungry[:most], self._queued[:number]
        for entry in found:
            entry.is_queued = False
        return found

    def set_nodes(self, nodes):
        """The number of nodes of the fleet, 1 or more."""
        check_count("nodes", nodes, 1)
        with cython.critical_section(self):
            self._nodes = nodes
            self._advance = min(self._limit, max(1, self._limit // self._nodes))

    def lose(self):
        """The engine is lost: `on_loss` decides from now on."""
        with cython.critical_section(self):
            self._is_lost = True

    def find_again(self):
        """The engine answers (again). Tokens leased before may still be spent."""
        with cython.critical_section(self):
            self._is_lost = False

    @property
    def is_lost(self):
        """Whether it decides without the engine."""
        cdef bint is_lost
        with cython.critical_section(self):
            is_lost = self._is_lost
        return is_lost

    @property
    def advance(self):
        """Tokens or places of a key before the engine knows it: the limit divided by the nodes."""
        cdef int64_t advance
        with cython.critical_section(self):
            advance = self._advance
        return advance

    @property
    def waiting(self):
        """Keys that wait for the engine."""
        cdef Py_ssize_t waiting
        with cython.critical_section(self):
            waiting = len(self._hungry) + len(self._queued)
        return waiting

    @cython.final
    cdef int64_t now(self) except? -1:
        return rcmgr_now_coarse_ns() if self._clock is None else self._clock()


@cython.final
@cython.no_gc
cdef class _Lease(_Entry):
    """The tokens of a key on this node."""


@cython.final
@cython.binding(False)
cdef class LeaseTable(FleetTable):
    """LeaseTable(capacity, refill_rate, *, max_keys=100000, nodes=1, on_loss='local', \
    clock=None, wake=None)\n--\n
    The tokens that this node has leased from a rate of the fleet, by key.

    capacity, refill_rate: each key has them in the whole fleet. They are finite.
    max_keys: keys that are kept. The half that was not used lately goes first.
    nodes: nodes of the fleet, until `set_nodes`.
    on_loss: without the engine, "local": each key has its share, the rate divided by the nodes.
        "refuse": no key gets any.
    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).
    wake: called when a key begins to wait for the engine; any thread.

    It begins without the engine; `find_again` ends that. A key is a peer (an `ID`, bytes or text).
    TypeError, ValueError: as `TokenBucket`. O(1), 10 to 40 ns. Thread safe.
    """

    def __cinit__(
        self, capacity, refill_rate, *, max_keys=100_000, nodes=1, on_loss="local", clock=None,
        wake=None,
    ):
        scale, cost = bucket_ticks(capacity, refill_rate)
        if cost == 0:
            raise ValueError(f"refill_rate must be finite, not {refill_rate}")
        self.begin(capacity, max_keys, nodes, on_loss, clock, wake)
        self._refill_rate = refill_rate
        self._cost_ns = min(MOST_COST_NS // self._limit, max(1, cost // scale))
        self._half = (max_keys + 1) // 2
        self._young, self._old, self._dying = {}, {}, {}
        self._seen_ns = self.now()

    # -- decisions -----------------------------------------------------------------------------

    def try_consume(self, key, tokens=1):
        """Take `tokens` of this key: True, or False if the node has too few. ValueError: negative.
        """
        return self.take(key_of(key), amount_of(tokens))

    cdef bint take(self, object key, int64_t amount) except -1:
        """key: a peer key."""
        cdef _Lease lease
        cdef PyObject *found
        cdef bint granted = False, wake = False, is_lost
        with cython.critical_section(self):
            is_lost = self._is_lost
            if not is_lost:
                lease = self._recent
                if lease is None or lease.key is not key:
                    found = PyDict_GetItemWithError(self._young, key)
                    lease = <_Lease>found if found is not NULL else self.known(key)
                    self._recent = lease
                lease.used_ns = self._seen_ns
                granted = lease.tokens >= amount or self.grants_advance(lease, amount, &wake)
                if granted:
                    lease.tokens -= amount
                    lease.spent += amount
                    self.allowed += 1
                    if lease.tokens <= lease.low and not lease.is_queued:
                        wake = self.queue(lease, self._queued)
                else:
                    self.denied += 1
                    wake = self.denies(lease, amount) or wake
        if is_lost:
            return self.take_share(key, amount)
        if wake and self._wake is not None:
            self._wake()
        return granted

    cdef _Lease known(self, object key):
        """The lease of a key that is not in the recent half. Locked."""
        cdef _Lease lease = self._old.pop(key, None)
        if lease is None:
            lease = _Lease.__new__(_Lease)
            lease.key = key
            lease.full_ns = LONG_AGO
        if len(self._young) >= self._half:
            if self._old:
                self._dying = self._old
            self._old, self._young = self._young, {}
        PyDict_SetItem(self._young, key, lease)
        return lease

    cdef bint grants_advance(self, _Lease lease, int64_t amount, bint *wake) except -1:
        """Grant tokens before the engine knows, if it has them. Whether they suffice. Locked."""
        cdef int64_t now, debt, advance
        if lease.is_asked or lease.owed > 0:
            return False
        now = self.now()
        debt = lease.full_ns - now if lease.full_ns > now else 0
        advance = min(self._advance, self._limit - (debt + self._cost_ns - 1) // self._cost_ns)
        if advance <= 0:
            return False
        lease.tokens += advance
        lease.owed += advance
        if not lease.is_queued:
            wake[0] = self.queue(lease, self._queued)
        return lease.tokens >= amount

    cdef bint denies(self, _Lease lease, int64_t amount) except -1:
        """Ask for more, unless the engine has no token yet. Whether to wake the thread. Locked."""
        lease.lacking = max(lease.lacking, min(amount, self._limit))
        if lease.is_queued or lease.is_asked:
            return False
        if self.now() < lease.full_ns - (self._limit - 1) * self._cost_ns:
            return False
        return self.queue(lease, self._hungry)

    cdef bint take_share(self, object key, int64_t amount) except -1:
        """Decide without the engine."""
        with cython.critical_section(self):
            local = None if self._refuses else self.local()
        granted = local is not None and local.try_consume(key, amount)
        with cython.critical_section(self):
            if granted:
                self.allowed += 1
            else:
                self.denied += 1
        return granted

    cdef object local(self):
        """The buckets of the node's share. They stay, so that a second loss is no fresh start.

        Locked.
        """
        if self._local_nodes != self._nodes:
            self._local = BucketTable(
                self._advance, self._refill_rate / self._nodes,
                max_peers=2 * self._half, clock=self._clock)
            self._local_nodes = self._nodes
        return self._local

    def get_available_tokens(self, key):
        """Tokens that the node would grant this key now."""
        cdef _Lease lease
        cdef int64_t free
        key = key_of(key)
        with cython.critical_section(self):
            if self._is_lost:
                local = None if self._refuses else self.local()
                free = 0
            else:
                local = None
                lease = self.find(key)
                free = self._advance if lease is None else lease.tokens
                if lease is not None and not lease.is_asked and lease.owed == 0:
                    debt = max(0, lease.full_ns - self.now())
                    free += max(0, min(
                        self._advance,
                        self._limit - (debt + self._cost_ns - 1) // self._cost_ns))
        return free if local is None else local.get_available_tokens(key)

    def time_until(self, key, tokens=1):
        """Seconds until this key probably gets `tokens`; inf: never. Other nodes may take them."""
        cdef _Lease lease
        cdef int64_t amount = amount_of(tokens), wait = 0
        key = key_of(key)
        if amount > self._limit:
            return float("inf")
        with cython.critical_section(self):
            local = self.local() if self._is_lost and not self._refuses else None
            lease = self.find(key)
            if lease is not None and lease.tokens < amount:
                wait = lease.full_ns - (self._limit - amount) * self._cost_ns - self.now()
        return max(0, wait) / 1e9 if local is None else local.time_until(key, amount)

    cdef object find(self, object key):
        """The lease of a key, or None. Locked."""
        lease = self._young.get(key)
        return self._old.get(key) if lease is None else lease

    # -- the engine ----------------------------------------------------------------------------

    def collect(self, most):
        """The news for the engine: at most `most` entries of (key, charge, want).

        charge: tokens that the node has granted in advance; negative: tokens that go back.
        want: tokens that it would like to lease. Denied keys come first. Call `settle` for each
        entry, or `abandon` if the engine did not answer.
        """
        cdef list found = []
        cdef _Lease lease
        with cython.critical_section(self):
            self._seen_ns = self.now()
            for lease in self.dequeue(most):
                found.append(self.news(lease))
            self.sweep(found, most)
            for _ in range(min(FREED, len(self._dying))):
                self._dying.popitem()
        return found

    cdef object news(self, _Lease lease):
        """Locked."""
        cdef int64_t want = max(lease.lacking, 2 * lease.spent) - lease.tokens
        cdef int64_t charge = lease.owed
        want = max(0, min(want, self._limit))
        lease.low = lease.spent
        lease.owed = lease.spent = lease.lacking = 0
        lease.is_asked = True
        return lease.key, charge, want

    cdef int sweep(self, list found, Py_ssize_t most) except -1:
        """Give back the tokens of idle keys, and forget keys that are full. Locked."""
        cdef _Lease lease
        cdef int64_t idle = self._seen_ns - IDLE_NS
        if not self._unswept:
            self._unswept = list(self._young)
            self._unswept.extend(self._old)
        for _ in range(min(SWEEP, len(self._unswept))):
            key = self._unswept[-1]
            lease = self.find(key)
            if lease is None or lease.is_queued or lease.is_asked or lease.used_ns > idle:
                pass
            elif lease.tokens > 0 or lease.owed > 0:
                if len(found) >= most:
                    break
                lease.is_asked = True
                found.append((key, lease.owed - lease.tokens, 0))
                lease.owed = lease.tokens = lease.spent = lease.lacking = lease.low = 0
            elif lease.full_ns <= self._seen_ns:
                self._young.pop(key, None)
                self._old.pop(key, None)
                self._recent = None
            self._unswept.pop()
        return 0

    def settle(self, key, granted, debt_ns):
        """The engine's answer: tokens, and nanoseconds until its bucket is full."""
        cdef _Lease lease
        cdef int64_t tokens = granted, debt = debt_ns
        with cython.critical_section(self):
            lease = self.find(key)
            if lease is not None:
                lease.is_asked = False
                lease.tokens += tokens
                lease.full_ns = self.now() + debt

    def abandon(self, key):
        """The engine did not answer. The charge may be lost, and is not told again."""
        cdef _Lease lease
        with cython.critical_section(self):
            lease = self.find(key)
            if lease is not None:
                lease.is_asked = False

    def portion(self, key):
        """Tokens of this key that the node has leased, or granted in advance, and not spent."""
        cdef _Lease lease
        cdef int64_t tokens = 0
        key = key_of(key)
        with cython.critical_section(self):
            lease = self.find(key)
            if lease is not None:
                tokens = lease.tokens
        return tokens

    def __len__(self):
        """__len__($self, /)\n--\n\nKeys that it keeps."""
        cdef Py_ssize_t number
        with cython.critical_section(self):
            number = len(self._young) + len(self._old)
        return number


@cython.final
@cython.no_gc
cdef class _Place(_Entry):
    """The places of a key on this node."""


@cython.final
@cython.binding(False)
cdef class PlaceTable(FleetTable):
    """PlaceTable(limit, *, max_keys=100000, nodes=1, on_loss='local', clock=None, wake=None)\n--\n
    How many more places a key may take on this node, under a limit for the whole fleet.

    limit: places of a key on all nodes. The other arguments are those of `LeaseTable`. A key that
    the engine does not know yet gets `limit` divided by the nodes, and at least one. O(1), 10 to 40
    ns. Thread safe.
    """

    def __cinit__(
        self, limit, *, max_keys=100_000, nodes=1, on_loss="local", clock=None, wake=None,
    ):
        check_count("limit", limit)
        self.begin(min(limit, MOST_COST_NS), max_keys, nodes, on_loss, clock, wake)
        self._most = max_keys
        self._places = {}

    def may_take(self, key, held):
        """Whether a key that holds so many places on this node may take one more."""
        return self.admits(key_of(key), held)

    cdef bint admits(self, object key, int64_t held) except -1:
        """key: a peer key."""
        cdef _Place place
        cdef PyObject *found
        cdef bint granted, wake = False
        with cython.critical_section(self):
            if self._is_lost:
                granted = not self._refuses and held < self._advance
            else:
                place = self._recent
                if place is None or place.key is not key:
                    found = PyDict_GetItemWithError(self._places, key)
                    place = <_Place>found if found is not NULL else self.new(key)
                    self._recent = place
                granted = place is not None and held < place.told + min(
                    self._advance, max(0, place.free))
                if place is not None and not place.is_queued and not place.is_asked:
                    if granted:
                        wake = self.queue(place, self._queued)
                    elif self.now() >= place.next_ns:
                        wake = self.queue(place, self._hungry)
            if not granted:
                self.denied += 1
        if wake and self._wake is not None:
            self._wake()
        return granted

    cdef _Place new(self, object key):
        """None: the table is full of keys that hold places. Locked."""
        cdef _Place place
        if len(self._places) >= self._most:
            return None
        place = _Place.__new__(_Place)
        place.key = key
        place.free = self._limit
        PyDict_SetItem(self._places, key, place)
        return place

    def collect(self, most, count):
        """The news for the engine: at most `most` entries of (key, places that it holds here).

        count: returns the places that a key holds on this node. Call `settle` or `abandon` for each
        entry.
        """
        cdef list found = [], places
        cdef _Place place
        cdef Py_ssize_t number
        cdef int64_t held, now = self.now()
        cdef bint tell
        with cython.critical_section(self):
            places = self.dequeue(most)
            if not self._unswept:
                self._unswept = list(self._places.values())
            number = len(places)
            places += self._unswept[-SWEEP:]
            del self._unswept[-SWEEP:]
        for place in places:
            number -= 1
            held = count(place.key)  # outside of the lock
            with cython.critical_section(self):
                tell = number >= 0 or (
                    not (place.is_queued or place.is_asked)
                    and (held != place.told or (held > 0 and now > place.told_ns + REFRESH_NS)))
                if tell and len(found) < most:
                    place.is_asked = True
                    place.free -= held - place.told  # until the engine answers
                    place.told = held
                    place.told_ns = now
                    found.append((place.key, held))
                elif not (tell or held or place.is_queued or place.is_asked) and (
                        now > place.next_ns + FULL_NS):
                    self._places.pop(place.key, None)
                    self._recent = None
        return found

    def settle(self, key, others):
        """The engine's answer: the places that this key holds on other nodes."""
        cdef _Place place
        cdef int64_t elsewhere = others
        with cython.critical_section(self):
            place = self._places.get(key)
            if place is not None:
                place.is_asked = False
                place.free = self._limit - elsewhere - place.told
                place.next_ns = 0 if place.free > 0 else self.now() + RECHECK_NS

    def abandon(self, key):
        """The engine did not answer. The key is told again."""
        cdef _Place place
        with cython.critical_section(self):
            place = self._places.get(key)
            if place is not None:
                place.is_asked = False
                place.told = 0

    def forget_told(self):
        """The engine has forgotten this node: every key that holds places is told again."""
        cdef _Place place
        with cython.critical_section(self):
            for place in self._places.values():
                place.told = 0

    def __len__(self):
        """__len__($self, /)\n--\n\nKeys that it keeps."""
        cdef Py_ssize_t number
        with cython.critical_section(self):
            number = len(self._places)
        return number


@cython.final
@cython.binding(False)
cdef class FleetGate:
    """FleetGate(*, rate=None, peer_rate=None, peer_connections=None, peer_streams=None, \
    refusals=None)\n--\n
    The tables that `Admission` asks for a connection and a stream. None: no limit of that kind.

    rate: a LeaseTable with the one key "". refusals: the refusal of each limit, by its name here.
    """

    def __cinit__(
        self, *, LeaseTable rate=None, LeaseTable peer_rate=None,
        PlaceTable peer_connections=None, PlaceTable peer_streams=None, refusals=None,
    ):
        self.rate = rate
        self.peer_rate = peer_rate
        self.peer_connections = peer_connections
        self.peer_streams = peer_streams
        self.refusals = {} if refusals is None else refusals
