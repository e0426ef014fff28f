"""Token buckets: one by itself, and a table of them by key.

Both are the generic cell rate algorithm on integers (ext/gcra.h): a bucket is one stored time, that
at which it will be full again. So a bucket that is full is no different from one never seen, and
the table forgets it with nothing lost.
"""

from math import inf
from operator import index

cimport cython
from cpython.bytes cimport PyBytes_CheckExact
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.object cimport Py_EQ, PyObject_Hash, PyObject_RichCompareBool
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint16_t, uint32_t, uint64_t

from rcmgr.counting._clock cimport rcmgr_now_coarse_ns, rcmgr_now_ns
from rcmgr.counting._gcra cimport (
    RCMGR_BUCKET_MAX_SCALE, RCMGR_BUCKET_MIN_SLOTS, RCMGR_GCRA_MAX_DEPTH, RCMGR_GCRA_MAX_NOW,
    RCMGR_GCRA_MAX_SCALE, rcmgr_bucket, rcmgr_bucket_count_denial, rcmgr_bucket_set,
    rcmgr_bucket_time, rcmgr_gcra, rcmgr_gcra_allows, rcmgr_gcra_available, rcmgr_gcra_debt,
    rcmgr_gcra_full_after, rcmgr_gcra_moved, rcmgr_gcra_time, rcmgr_gcra_wait_ns, rcmgr_shard,
    rcmgr_shard_after, rcmgr_shard_find_full, rcmgr_shard_find_fullest, rcmgr_shard_home,
    rcmgr_shard_match, rcmgr_shard_move, rcmgr_shard_put, rcmgr_shard_remove,
    rcmgr_shard_wanted_slots,
)

from rcmgr.limits.checks import bucket_ticks, check_count, check_table


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1
    bint PyLong_CheckExact(object)


__all__ = ["BucketTable", "TokenBucket"]

cdef enum:
    # a table is split so that growing one shard stays far below a millisecond
    MAX_SHARDS = 256
    KEYS_PER_SHARD = 4096
    SWEEP = 4             # slots looked at for a full bucket with every new key
    EVICTION_SAMPLE = 16  # buckets of which the fullest is evicted
    SEARCH = 64           # slots looked at for a full bucket before a new key is denied

# outcomes of BucketTable.try_consume_both
cdef enum:
    GRANTED
    DENIED_BY_KEY
    DENIED_BY_OVERALL


cdef rcmgr_gcra gcra_of(object capacity, object refill_rate, int64_t max_scale) except *:
    """The integers of a bucket; TypeError and ValueError as `bucket_ticks`."""
    cdef rcmgr_gcra g
    g.scale, g.cost = bucket_ticks(capacity, refill_rate, max_scale, RCMGR_GCRA_MAX_DEPTH)
    g.capacity = capacity
    g.depth = g.capacity * g.cost
    return g


cdef inline int64_t amount_of(object tokens) except -1:
    """A number of tokens; what does not fit is more than any capacity."""
    cdef int overflow = 0
    cdef int64_t amount
    if not PyLong_CheckExact(tokens):
        tokens = index(tokens)
    amount = PyLong_AsLongLongAndOverflow(tokens, &overflow)
    if overflow > 0:
        return INT64_MAX
    if overflow < 0 or amount < 0:
        raise ValueError(f"tokens must be 0 or more, not {tokens}")
    return amount


cdef inline int64_t time_of(object now_ns) except? -1:
    cdef int64_t now = now_ns
    if now > RCMGR_GCRA_MAX_NOW or now < -RCMGR_GCRA_MAX_NOW:
        raise ValueError(f"now_ns must be within 2**61 ns of 0 (73 years), not {now_ns}")
    return now


cdef inline object seconds(int64_t wait_ns):
    return inf if wait_ns < 0 else wait_ns / 1e9


@cython.final
@cython.binding(False)  # 5 ns less per call; the clinic format keeps signatures
cdef class TokenBucket:
    """A token bucket: `capacity` tokens at most, `refill_rate` new ones per second.

    capacity: tokens, from 1 to 2**61. refill_rate: tokens per second, above 0; inf: no limit, every
    request is granted. initial_tokens: what it starts with, 0 to capacity; None: full.
    clock: returns monotonic nanoseconds; default CLOCK_MONOTONIC, read in C.

    ValueError: a value out of its range, more than 50 years to fill, or a capacity and rate whose
    times cannot be held to one part in a million in 64 bits (both huge). TypeError: not a number.

    Within any time t at most capacity + refill_rate * t tokens are granted; the rate is kept to
    better than one part in a million. A clock that stands still or goes back neither gives tokens
    nor takes them away. Methods take `now_ns`, a time on the bucket's clock, instead of reading it.

    O(1), 20 to 40 ns. Thread safe; `wait` within one event loop.
    """

    cdef rcmgr_gcra _gcra
    cdef rcmgr_gcra_time _full
    cdef int64_t _latest  # the latest time it was asked at
    cdef bint _started    # whether it was asked: until then an earlier time may be its first
    cdef object _clock
    cdef object _queue
    cdef readonly int64_t allowed
    """Requests granted by `try_consume` and `wait`."""
    cdef readonly int64_t denied
    """Requests denied by `try_consume`; for `wait`, each time that it looked in vain."""

    def __cinit__(self, capacity, refill_rate, initial_tokens=None, *, clock=None):
        cdef int64_t missing = 0
        self._gcra = gcra_of(capacity, refill_rate, RCMGR_GCRA_MAX_SCALE)
        if initial_tokens is not None:
            check_count("initial_tokens", initial_tokens, 0, capacity)
            missing = capacity - initial_tokens
        self._clock = clock
        self._latest = self._read_clock()
        self._full = rcmgr_gcra_full_after(
            &self._gcra, missing * self._gcra.cost, self._latest)

    @property
    def capacity(self):
        """The most tokens it holds."""
        return self._gcra.capacity

    @property
    def refill_rate(self):
        """Tokens per second, as they are counted: up to half a millionth less than was asked."""
        if self._gcra.cost == 0:
            return inf
        return 1e9 * self._gcra.scale / self._gcra.cost

    def try_consume(self, tokens=1, now_ns=None):
        """Take `tokens` if they are there: True; else False, and nothing is taken.

        0 is always granted; more than the capacity never. ValueError: negative.
        """
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int64_t debt
        cdef bint granted
        with cython.critical_section(self):
            debt = self._debt(&now, now_ns is not None)
            granted = rcmgr_gcra_allows(&self._gcra, debt, amount)
            if granted:
                self._charge(debt, amount, now)
                self.allowed += 1
            else:
                self.denied += 1
        return granted

    def consume_up_to(self, n, now_ns=None):
        """Take as many tokens as there are, `n` at most; how many. ValueError: negative."""
        cdef int64_t amount = amount_of(n)
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int64_t debt
        with cython.critical_section(self):
            debt = self._debt(&now, now_ns is not None)
            if self._gcra.cost != 0:
                amount = min(amount, rcmgr_gcra_available(&self._gcra, debt))
            self._charge(debt, amount, now)
        return amount

    def get_available_tokens(self, now_ns=None):
        """Whole tokens that could be taken now."""
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int64_t available
        with cython.critical_section(self):
            available = rcmgr_gcra_available(
                &self._gcra, self._debt(&now, now_ns is not None))
        return available

    def time_until(self, tokens=1, now_ns=None):
        """Seconds until `tokens` would be granted if nobody else takes any; inf: never.

        ValueError: negative.
        """
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int64_t wait
        with cython.critical_section(self):
            wait = rcmgr_gcra_wait_ns(
                &self._gcra, self._debt(&now, now_ns is not None), amount)
        return seconds(wait)

    def set_rate(self, capacity, refill_rate, now_ns=None):
        """Another capacity and rate from now on; what is there stays, as far as there is room.

        ValueError, TypeError: as for the constructor; nothing has changed.
        """
        cdef rcmgr_gcra gcra = gcra_of(capacity, refill_rate, RCMGR_GCRA_MAX_SCALE)
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int64_t debt
        with cython.critical_section(self):
            debt = rcmgr_gcra_moved(&self._gcra, self._debt(&now, now_ns is not None), &gcra)
            self._gcra = gcra
            self._full = rcmgr_gcra_full_after(&gcra, debt, now)

    def reset(self, now_ns=None):
        """Make it full."""
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        with cython.critical_section(self):
            self._debt(&now, now_ns is not None)
            self._full = rcmgr_gcra_full_after(&self._gcra, 0, now)

    def refill(self, now_ns=None):
        """Does nothing: a bucket is one stored time, and is refilled by time passing."""

    @cython.binding(True)
    async def wait(self, tokens=1):
        """Take `tokens`, waiting for them; first come, first served among those who wait.

        Under trio or asyncio. A cancelled waiter gives its place back and takes nothing.
        `try_consume` does not queue and may take what a waiter is waiting for. ValueError:
        negative, or more than the capacity, which would wait forever.
        """
        import anyio

        self._wait_for(tokens)
        if self._queue is None:
            self._queue = anyio.Lock()
        async with self._queue:
            while not self.try_consume(tokens):
                await anyio.sleep(self._wait_for(tokens))

    def __repr__(self):
        return (f"TokenBucket(capacity={self.capacity}, refill_rate={self.refill_rate:g}, "
                f"available={self.get_available_tokens()})")

    def _noop(self):
        """Does nothing but read the clock: the baseline of the benchmarks."""
        self._read_clock()

    cdef object _wait_for(self, tokens):
        wait = self.time_until(tokens)
        if wait == inf:
            raise ValueError(
                f"{tokens} tokens will never be there: the capacity is {self.capacity}")
        return wait

    cdef inline int64_t _read_clock(self) except? -1:
        return rcmgr_now_ns() if self._clock is None else time_of(self._clock())

    cdef inline int64_t _debt(self, int64_t *now, bint explicit) noexcept:
        """What is missing at `now`, which is set to the latest time known if it is before that.

        The first time that a caller gives may be before the bucket was made.
        """
        if now[0] < self._latest:
            if explicit and not self._started:
                self._full.full_ns -= self._latest - now[0]
            else:
                now[0] = self._latest
        self._started = True
        self._latest = now[0]
        return rcmgr_gcra_debt(&self._gcra, self._full, now[0])

    cdef inline void _charge(self, int64_t debt, int64_t tokens, int64_t now) noexcept:
        if self._gcra.cost != 0:
            self._full = rcmgr_gcra_full_after(
                &self._gcra, debt + tokens * self._gcra.cost, now)


@cython.final
@cython.binding(False)
cdef class BucketTable:
    """Token buckets by key, all of the same capacity and rate, bounded in number.

    A key is a peer id: bytes, or a py-libp2p `ID` (its bytes are read); str is accepted too.
    TypeError: anything else. A key that is not known has a full bucket; a bucket that is full again
    is forgotten, so that what is kept is only who asked lately.

    capacity, refill_rate: as for `TokenBucket`; ValueError alike.
    max_peers: buckets kept at most, 1 or more. When there are so many and none is full, a new key
        gets its place by on_full:
        "evict_fullest": the fullest of 16 others of its shard is forgotten (and so full again);
        "deny_new": the new key is denied. (A full bucket counts as such when the search, 64 slots
        with every new key, has come to it.)
    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).

    Keys are hashed by Python's siphash, keyed per process, and compared in full: whoever makes up
    keys cannot make them collide (with PYTHONHASHSEED set, whoever knows it can).

    O(1), 40 to 300 ns; a table of a million keys never pauses for more than a fraction of a
    millisecond, since it grows one shard at a time. 24 bytes per slot, 30 to 39 per key, and the
    keys. Thread safe.
    """

    cdef rcmgr_gcra _gcra
    cdef rcmgr_shard *_shards
    cdef uint32_t _shard_mask
    cdef int64_t _latest
    cdef int64_t _used
    cdef int64_t _max_peers
    cdef bint _deny_new
    cdef uint32_t _next_shard
    cdef object _clock
    cdef readonly int64_t allowed
    """Requests granted."""
    cdef readonly int64_t denied
    """Requests denied, for whatever reason."""
    cdef readonly int64_t denied_new
    """Of these, keys denied because the table was full ("deny_new")."""
    cdef readonly int64_t evictions
    """Buckets forgotten although they were not full."""
    cdef readonly int64_t forgotten
    """Buckets forgotten because they were full again."""

    def __cinit__(self, capacity, refill_rate, *, max_peers=100_000, on_full="evict_fullest",
                  clock=None):
        cdef uint32_t shards = 1
        cdef uint32_t i
        self._gcra = gcra_of(capacity, refill_rate, RCMGR_BUCKET_MAX_SCALE)
        check_table("max_peers", max_peers, on_full)
        while shards < MAX_SHARDS and <int64_t>shards * KEYS_PER_SHARD < <int64_t>max_peers:
            shards *= 2
        self._max_peers = max_peers
        self._deny_new = on_full == "deny_new"
        self._clock = clock
        self._latest = INT64_MIN
        self._shard_mask = shards - 1
        self._shards = <rcmgr_shard *>PyMem_RawCalloc(shards, sizeof(rcmgr_shard))
        if self._shards is NULL:
            raise MemoryError
        for i in range(shards):
            self._resize(&self._shards[i], RCMGR_BUCKET_MIN_SLOTS)

    def __dealloc__(self):
        cdef uint32_t i, at
        if self._shards is NULL:
            return
        for i in range(<uint32_t>(self._shard_mask + 1)):
            for at in range(self._shards[i].count):
                if self._shards[i].slots[at].key is not NULL:
                    Py_DECREF(<object>self._shards[i].slots[at].key)
            PyMem_RawFree(self._shards[i].slots)
        PyMem_RawFree(self._shards)

    @property
    def capacity(self):
        return self._gcra.capacity

    @property
    def max_peers(self):
        return self._max_peers

    @property
    def on_full(self):
        return "deny_new" if self._deny_new else "evict_fullest"

    def __len__(self):
        """Buckets kept."""
        return self._used

    def try_consume(self, key, tokens=1, now_ns=None):
        """Take `tokens` of this key's bucket if they are there: True; else False.

        ValueError: negative tokens. TypeError: a key that is not an `ID`, bytes or str.
        """
        return self._consume(key, None, tokens, now_ns) == GRANTED

    def try_consume_both(self, key, TokenBucket overall not None, tokens=1, now_ns=None):
        """Take `tokens` of this key's bucket and of `overall`, or of neither.

        None: taken. "key" or "overall": which of them denied; the key is asked first.
        """
        cdef int outcome = self._consume(key, overall, tokens, now_ns)
        if outcome == GRANTED:
            return None
        return "key" if outcome == DENIED_BY_KEY else "overall"

    def get_available_tokens(self, key, now_ns=None):
        """Whole tokens that this key could take now."""
        key = key_of(key)
        cdef uint64_t hashed = hash_of(key)
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int64_t available
        with cython.critical_section(self):
            now = self._see(now)
            available = rcmgr_gcra_available(&self._gcra, self._debt_of(key, hashed, now))
        return available

    def time_until(self, key, tokens=1, now_ns=None):
        """Seconds until this key would be granted `tokens` if it takes no others; inf: never."""
        key = key_of(key)
        cdef uint64_t hashed = hash_of(key)
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int64_t wait
        with cython.critical_section(self):
            now = self._see(now)
            wait = rcmgr_gcra_wait_ns(&self._gcra, self._debt_of(key, hashed, now), amount)
        return seconds(wait)

    def get_denials(self, key):
        """How often this key was denied since its bucket was last full; 65,535: or more."""
        cdef rcmgr_bucket *bucket
        cdef uint32_t at
        cdef uint16_t denials
        key = key_of(key)
        cdef uint64_t hashed = hash_of(key)
        with cython.critical_section(self):
            bucket = self._find(key, hashed, &at)
            denials = 0 if bucket is NULL else bucket.denials
        return denials

    def most_denied(self, n=10):
        """The `n` keys denied most often of those kept: (key, denials), most first. O(all)."""
        cdef uint32_t at
        cdef uint32_t i
        cdef rcmgr_shard *shard
        cdef list found = []
        for i in range(<uint32_t>(self._shard_mask + 1)):
            with cython.critical_section(self):
                shard = &self._shards[i]
                for at in range(shard.count):
                    if shard.slots[at].key is not NULL and shard.slots[at].denials > 0:
                        found.append((<object>shard.slots[at].key, shard.slots[at].denials))
            if len(found) > 2 * n:
                found = sorted(found, key=denials_of, reverse=True)[:n]
        return sorted(found, key=denials_of, reverse=True)[:n]

    def forget(self, key):
        """Make this key's bucket full; False if it was not kept."""
        cdef uint32_t at
        cdef bint known
        cdef void *kept = NULL
        key = key_of(key)
        cdef uint64_t hashed = hash_of(key)
        with cython.critical_section(self):
            known = self._find(key, hashed, &at) is not NULL
            if known:
                kept = rcmgr_shard_remove(self._shard(hashed), at)
                self._used -= 1
        if known:
            Py_DECREF(<object>kept)
        return known

    def _longest_search(self):
        """Slots looked at for the key that is hardest to find, for tests. O(all)."""
        cdef uint32_t i, at, home
        cdef rcmgr_shard *shard
        cdef int64_t longest = 0
        with cython.critical_section(self):
            for i in range(<uint32_t>(self._shard_mask + 1)):
                shard = &self._shards[i]
                for at in range(shard.count):
                    if shard.slots[at].key is not NULL:
                        home = rcmgr_shard_home(shard, shard.slots[at].tag)
                        longest = max(longest, 1 + (
                            at - home if at >= home else at + shard.count - home))
        return longest

    def __repr__(self):
        return (f"BucketTable(capacity={self.capacity}, keys={len(self)} of {self.max_peers}, "
                f"denied={self.denied})")

    def _noop(self, key):
        """Does nothing but read the clock: the baseline of the benchmarks."""
        self._read_clock()

    cdef inline int64_t _read_clock(self) except? -1:
        return rcmgr_now_coarse_ns() if self._clock is None else time_of(self._clock())

    cdef inline int64_t _see(self, int64_t now) noexcept:
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

    cdef inline rcmgr_shard *_shard(self, uint64_t hashed) noexcept:
        return &self._shards[(hashed >> 32) & self._shard_mask]

    cdef inline rcmgr_bucket *_find(self, object key, uint64_t hashed, uint32_t *at) except? NULL:
        cdef rcmgr_shard *shard = self._shard(hashed)
        cdef void *held
        at[0] = rcmgr_shard_home(shard, <uint32_t>hashed)
        while rcmgr_shard_match(shard, <uint32_t>hashed, at):
            held = shard.slots[at[0]].key
            if held is <void *>key or PyObject_RichCompareBool(<object>held, key, Py_EQ):
                return &shard.slots[at[0]]
            at[0] = rcmgr_shard_after(shard, at[0])
        return NULL

    cdef inline int64_t _debt_of(self, object key, uint64_t hashed, int64_t now) except? -1:
        cdef uint32_t at
        cdef rcmgr_bucket *bucket = self._find(key, hashed, &at)
        if bucket is NULL:
            return 0
        return rcmgr_gcra_debt(&self._gcra, rcmgr_bucket_time(bucket), now)

    cdef inline int _consume(self, object key, TokenBucket overall, object tokens,
                             object now_ns) except -1:
        key = key_of(key)
        cdef uint64_t hashed = hash_of(key)
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._read_clock() if now_ns is None else time_of(now_ns)
        cdef int outcome
        cdef void *gone = NULL
        if overall is None:
            with cython.critical_section(self):
                outcome = self._take(
                    key, hashed, amount, now, now_ns is not None, None, &gone)
        else:
            with cython.critical_section(self, overall):
                outcome = self._take(
                    key, hashed, amount, now, now_ns is not None, overall, &gone)
        if gone is not NULL:
            Py_DECREF(<object>gone)
        return outcome

    cdef int _take(self, object key, uint64_t hashed, int64_t tokens, int64_t now, bint explicit,
                   TokenBucket overall, void **gone) except -1:
        """Ask, and take. `gone`: a key that was evicted, for the caller to release."""
        cdef uint32_t at
        cdef int64_t debt, overall_debt = 0, overall_now = now
        cdef rcmgr_bucket *bucket
        now = self._see(now)
        bucket = self._find(key, hashed, &at)
        debt = 0 if bucket is NULL else rcmgr_gcra_debt(
            &self._gcra, rcmgr_bucket_time(bucket), now)
        if not rcmgr_gcra_allows(&self._gcra, debt, tokens):
            if bucket is not NULL:
                rcmgr_bucket_count_denial(bucket)
            self.denied += 1
            return DENIED_BY_KEY
        if overall is not None:
            overall_debt = overall._debt(&overall_now, explicit)
            if not rcmgr_gcra_allows(&overall._gcra, overall_debt, tokens):
                if bucket is not NULL:
                    rcmgr_bucket_count_denial(bucket)
                self.denied += 1
                return DENIED_BY_OVERALL
        if self._gcra.cost != 0 and tokens > 0:
            if bucket is NULL:
                bucket = self._admit(key, hashed, now, gone)
                if bucket is NULL:
                    self.denied += 1
                    self.denied_new += 1
                    return DENIED_BY_KEY
            rcmgr_bucket_set(bucket, rcmgr_gcra_full_after(
                &self._gcra, debt + tokens * self._gcra.cost, now))
        if overall is not None:
            overall._charge(overall_debt, tokens, overall_now)
        self.allowed += 1
        return GRANTED

    cdef rcmgr_bucket *_admit(self, object key, uint64_t hashed, int64_t now,
                              void **gone) except? NULL:
        """A place for a new key, or NULL: the table is full and denies new keys."""
        cdef rcmgr_shard *shard = self._shard(hashed)
        cdef rcmgr_shard *place = shard
        cdef uint32_t at, wanted
        cdef int64_t victim = rcmgr_shard_find_full(shard, now, SWEEP)
        if victim < 0 and self._used >= self._max_peers:
            if self._deny_new:
                place = self._another_shard()
                victim = rcmgr_shard_find_full(place, now, SEARCH)
                if victim < 0:
                    return NULL
            else:
                while place.used == 0:
                    place = self._another_shard()
                victim = rcmgr_shard_find_fullest(place, EVICTION_SAMPLE)
        if victim >= 0:
            if place.slots[victim].full_ns < now:
                self.forgotten += 1
            else:
                self.evictions += 1
            gone[0] = rcmgr_shard_remove(place, <uint32_t>victim)
            self._used -= 1
        wanted = rcmgr_shard_wanted_slots(shard)
        if wanted != shard.count:
            self._resize(shard, wanted)
        self._find(key, hashed, &at)
        Py_INCREF(key)
        rcmgr_shard_put(shard, at, <uint32_t>hashed, <void *>key)
        self._used += 1
        return &shard.slots[at]

    cdef inline rcmgr_shard *_another_shard(self) noexcept:
        self._next_shard += 1
        return &self._shards[self._next_shard & self._shard_mask]

    cdef int _resize(self, rcmgr_shard *shard, uint32_t count) except -1:
        cdef rcmgr_bucket *slots = <rcmgr_bucket *>PyMem_RawCalloc(count, sizeof(rcmgr_bucket))
        if slots is NULL:
            raise MemoryError
        PyMem_RawFree(rcmgr_shard_move(shard, slots, count))
        return 0


cdef inline object key_of(object key):
    if PyBytes_CheckExact(key) or type(key) is str:
        return key
    cdef object inner = getattr(key, "_bytes", None)
    if PyBytes_CheckExact(inner):
        return inner
    raise TypeError(f"a key must be a peer id (an ID or its bytes) or str, not {key!r}")


cdef inline uint64_t hash_of(object key) except? 0:
    """The keyed hash of bytes or str, mixed so that any of its bits will do."""
    return <uint64_t>PyObject_Hash(key) * <uint64_t>0x9E3779B97F4A7C15


def denials_of(entry):
    return entry[1]
