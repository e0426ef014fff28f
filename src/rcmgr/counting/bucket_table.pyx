"""Token buckets by key: which keys a table keeps, which it evicts.

A full bucket is no different from one that was never used. So the table forgets it, and loses
nothing.
"""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.object cimport Py_EQ, PyObject_RichCompareBool
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MIN, int64_t, uint16_t, uint32_t, uint64_t

from rcmgr.counting._clock cimport rcmgr_now_coarse_ns
from rcmgr.counting._gcra cimport (
    RCMGR_BUCKET_MAX_SCALE, RCMGR_BUCKET_MIN_SLOTS, rcmgr_bucket, rcmgr_bucket_count_denial,
    rcmgr_bucket_set, rcmgr_bucket_time, rcmgr_gcra, rcmgr_gcra_allows, rcmgr_gcra_available,
    rcmgr_gcra_debt, rcmgr_gcra_full_after, rcmgr_gcra_wait_ns, rcmgr_shard, rcmgr_shard_after,
    rcmgr_shard_find_full, rcmgr_shard_find_fullest, rcmgr_shard_home, rcmgr_shard_match,
    rcmgr_shard_move, rcmgr_shard_put, rcmgr_shard_remove, rcmgr_shard_wanted_slots,
)
from rcmgr.counting._hash cimport PyObject_Hash
from rcmgr.counting.pacing cimport Pacer
from rcmgr.counting.token_bucket cimport TokenBucket, amount_of, gcra_of, seconds, time_of
from rcmgr.peers cimport key_of

from rcmgr.limits.checks import check_table

__all__ = ["BucketTable"]

cdef enum:
    # a table is split so that growing one shard takes far less than a millisecond
    MAX_SHARDS = 256
    KEYS_PER_SHARD = 4096
    SWEEP = 4             # slots of its shard that each new key searches for a full bucket
    EVICTION_SAMPLE = 16  # an eviction takes the fullest of so many buckets
    SEARCH = 64           # slots searched for a full bucket before a new key is denied
    SPARSE = 4            # a shard with one key in so many slots is made smaller

cdef int64_t PASS_NS = 60_000_000_000  # in this time, calls search the whole table for full buckets

# keys of forgotten buckets: those of one sweep, and an evicted one
cdef struct Gone:
    int count
    void *keys[SEARCH + 1]

# outcomes of BucketTable.try_consume_both
cdef enum:
    GRANTED
    REFUSED_BY_KEY
    REFUSED_BY_OVERALL


@cython.final
@cython.binding(False)
cdef class BucketTable:
    """BucketTable(capacity, refill_rate, *, max_peers=100000, on_full='evict_fullest', \
    clock=None)\n--\n
    Token buckets by key, all of the same capacity and rate, bounded in number.

    A key is a peer: its bytes, a py-libp2p `ID`, or text. The base58 or CID text of a peer id is
    the same key as its bytes. TypeError: anything else. A new key has a full bucket. The table
    forgets a bucket that is full again: it keeps only the keys that asked lately. Calls search the
    whole table for such buckets once a minute, 64 slots at a time. `len` forgets all of them.

    capacity, refill_rate: as for `TokenBucket`; ValueError alike.
    max_peers: buckets kept at most, 1 or more.
    on_full: decides about a new key when there are so many buckets, and no bucket is full.
        "evict_fullest": the table forgets the fullest of 16 others (so that one is full again).
        "deny_new": it denies the new key. Each new key searches only 64 slots for a full bucket.
    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).

    Keys are hashed by Python's siphash, keyed per process, and compared in full. So an attacker
    cannot choose keys that collide, unless it knows a fixed PYTHONHASHSEED.

    O(1), 40 to 300 ns. A table of a million keys pauses for a fraction of a millisecond at most:
    it grows one shard at a time. 24 bytes per slot, 30 to 39 per key, and the keys. Thread safe.
    """

    # The lock of the object guards everything that changes. The rate, the number of shards and of
    # peers, `_deny_new` and the clock are constant.
    cdef rcmgr_gcra _gcra
    cdef rcmgr_shard *_shards
    cdef uint32_t _shard_count  # a power of two
    cdef int64_t _latest
    cdef int64_t _used
    cdef int64_t _max_peers
    cdef bint _deny_new
    cdef uint32_t _next_shard
    cdef uint32_t _swept_shard   # the search for full buckets is here,
    cdef uint32_t _unswept       # and so many slots of this shard are left
    cdef int64_t _slots          # all shards together
    cdef int64_t _slots_of_pass  # when the search was at the first shard
    cdef int64_t _next_sweep_ns
    cdef int64_t _all_swept_ns   # no bucket that is kept was full then
    cdef object _clock
    cdef readonly int64_t allowed
    """Requests granted."""
    cdef readonly int64_t denied
    """Requests denied."""
    cdef readonly int64_t denied_new
    """Requests of new keys denied because the table was full ("deny_new")."""
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
        self._latest = self._next_sweep_ns = self._all_swept_ns = INT64_MIN
        self._shard_count = shards
        self._shards = <rcmgr_shard *>PyMem_RawCalloc(shards, sizeof(rcmgr_shard))
        if self._shards is NULL:
            raise MemoryError
        for i in range(shards):
            self._resize(&self._shards[i], RCMGR_BUCKET_MIN_SLOTS)

    def __dealloc__(self):
        cdef uint32_t i, at
        if self._shards is NULL:
            return
        for i in range(self._shard_count):
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
        """__len__($self, /)\n--\n\nBuckets kept. The full ones are forgotten first. O(slots)."""
        cdef int64_t used
        self._forget_full()
        with cython.critical_section(self):
            used = self._used
        return used

    def try_consume(self, key, tokens=1, now_ns=None):
        """Take `tokens` of this key's bucket: True, or False if it holds fewer.

        ValueError: negative tokens. TypeError: a key that is not an `ID`, bytes or str.
        """
        return self._consume(key, None, tokens, now_ns) == GRANTED

    def try_consume_both(self, key, TokenBucket overall not None, tokens=1, now_ns=None):
        """Take `tokens` of this key's bucket and of `overall`, or of neither.

        None: taken. "key" or "overall": the one that denied. The key's bucket is asked first.
        """
        cdef int outcome = self._consume(key, overall, tokens, now_ns)
        if outcome == GRANTED:
            return None
        return "key" if outcome == REFUSED_BY_KEY else "overall"

    def get_available_tokens(self, key, now_ns=None):
        """Whole tokens that this key could take now."""
        key = exact_key(key)
        cdef uint64_t hashed = hash_of(key)
        cdef int64_t now = self._now(now_ns)
        cdef int64_t available
        with cython.critical_section(self):
            now = self._see(now)
            available = rcmgr_gcra_available(&self._gcra, self._debt_of(key, hashed, now))
        return available

    def time_until(self, key, tokens=1, now_ns=None):
        """Seconds until this key gets `tokens` if it takes no others; inf: never."""
        key = exact_key(key)
        cdef uint64_t hashed = hash_of(key)
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._now(now_ns)
        cdef int64_t wait
        with cython.critical_section(self):
            now = self._see(now)
            wait = rcmgr_gcra_wait_ns(&self._gcra, self._debt_of(key, hashed, now), amount)
        return seconds(wait)

    def get_denials(self, key):
        """How often this key was denied since its bucket was last full, 65,535 at most."""
        cdef rcmgr_bucket *bucket
        cdef uint32_t at
        cdef uint16_t denials
        key = exact_key(key)
        cdef uint64_t hashed = hash_of(key)
        with cython.critical_section(self):
            bucket = self._find(key, hashed, &at)
            denials = 0 if bucket is NULL else bucket.denials
        return denials

    def most_denied(self, n=10):
        """The `n` kept keys denied most often: (key, denials), most first. O(all)."""
        cdef uint32_t at, i
        cdef rcmgr_shard *shard
        cdef list found = []
        cdef Pacer pacer = Pacer()
        self._forget_full()
        for i in range(self._shard_count):
            with cython.critical_section(self):
                shard = &self._shards[i]
                for at in range(shard.count):
                    if shard.slots[at].key is not NULL and shard.slots[at].denials > 0:
                        found.append((<object>shard.slots[at].key, shard.slots[at].denials))
            if len(found) > 2 * n:
                found = sorted(found, key=denials_of, reverse=True)[:n]
            pacer.step()
        return sorted(found, key=denials_of, reverse=True)[:n]

    def forget(self, key):
        """Make this key's bucket full; False if the table does not keep it."""
        cdef uint32_t at
        cdef bint known
        cdef void *kept = NULL
        key = exact_key(key)
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
        """How many slots the slowest search for a key reads, for tests. O(all)."""
        cdef uint32_t i, at, home
        cdef rcmgr_shard *shard
        cdef int64_t longest = 0
        with cython.critical_section(self):
            for i in range(self._shard_count):
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

    cdef inline int64_t _now(self, object now_ns) except? -1:
        if now_ns is not None:
            return time_of(now_ns)
        return rcmgr_now_coarse_ns() if self._clock is None else time_of(self._clock())

    cdef inline int64_t _see(self, int64_t now) noexcept:
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

    cdef inline rcmgr_shard *_shard(self, uint64_t hashed) noexcept:
        return &self._shards[(hashed >> 32) & (self._shard_count - 1)]

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
        key = exact_key(key)
        cdef uint64_t hashed = hash_of(key)
        cdef int64_t amount = amount_of(tokens)
        cdef int64_t now = self._now(now_ns)
        cdef int outcome
        cdef Gone gone
        gone.count = 0
        if overall is None:
            with cython.critical_section(self):
                outcome = self._take(
                    key, hashed, amount, now, now_ns is not None, None, &gone)
        else:
            with cython.critical_section(self, overall):
                outcome = self._take(
                    key, hashed, amount, now, now_ns is not None, overall, &gone)
        if gone.count > 0:
            release(&gone)
        return outcome

    cdef int _take(self, object key, uint64_t hashed, int64_t tokens, int64_t now, bint explicit,
                   TokenBucket overall, Gone *gone) except -1:
        """Check and take. `gone`: keys for the caller to release."""
        cdef uint32_t at
        cdef int64_t debt, overall_debt = 0, overall_now = now, sweeps
        cdef rcmgr_bucket *bucket
        now = self._see(now)
        if now >= self._next_sweep_ns:
            # a sweep ends after SEARCH slots or SEARCH full buckets
            sweeps = 2 * max(self._slots, self._slots_of_pass) // SEARCH + 1
            self._next_sweep_ns = max(self._next_sweep_ns + PASS_NS // sweeps, now - PASS_NS)
            self._sweep(now, gone)
        bucket = self._find(key, hashed, &at)
        debt = 0 if bucket is NULL else rcmgr_gcra_debt(
            &self._gcra, rcmgr_bucket_time(bucket), now)
        if not rcmgr_gcra_allows(&self._gcra, debt, tokens):
            if bucket is not NULL:
                rcmgr_bucket_count_denial(bucket)
            self.denied += 1
            return REFUSED_BY_KEY
        if overall is not None:
            overall_debt = overall.debt(&overall_now, explicit)
            if not rcmgr_gcra_allows(&overall._gcra, overall_debt, tokens):
                if bucket is not NULL:
                    rcmgr_bucket_count_denial(bucket)
                self.denied += 1
                return REFUSED_BY_OVERALL
        if self._gcra.cost != 0 and tokens > 0:
            if bucket is NULL:
                bucket = self._admit(key, hashed, now, gone)
                if bucket is NULL:
                    self.denied += 1
                    self.denied_new += 1
                    return REFUSED_BY_KEY
            rcmgr_bucket_set(bucket, rcmgr_gcra_full_after(
                &self._gcra, debt + tokens * self._gcra.cost, now))
        if overall is not None:
            overall.charge(overall_debt, tokens, overall_now)
        self.allowed += 1
        return GRANTED

    cdef rcmgr_bucket *_admit(self, object key, uint64_t hashed, int64_t now,
                              Gone *gone) except? NULL:
        """A place for a new key. NULL: the table is full and denies new keys."""
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
            self._remove(place, <uint32_t>victim, gone)
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
        return &self._shards[self._next_shard & (self._shard_count - 1)]

    cdef inline void _remove(self, rcmgr_shard *shard, uint32_t at, Gone *gone) noexcept:
        gone.keys[gone.count] = rcmgr_shard_remove(shard, at)
        gone.count += 1
        self._used -= 1

    cdef bint _sweep(self, int64_t now, Gone *gone) noexcept:
        """Forget the full buckets in the next slots. True: this was the end of a shard. Locked."""
        cdef rcmgr_shard *shard = &self._shards[self._swept_shard]
        cdef uint32_t steps, begin
        cdef int64_t victim
        self._unswept = min(self._unswept, shard.count)
        steps = min(self._unswept, <uint32_t>SEARCH)
        self._unswept -= steps
        while steps > 0:
            begin = shard.hand if shard.hand < shard.count else 0
            victim = rcmgr_shard_find_full(shard, now, steps)
            if victim < 0:
                break
            steps -= (shard.hand + shard.count - begin) % shard.count
            if gone.count == SEARCH:
                self._unswept += steps
                break
            self._remove(shard, <uint32_t>victim, gone)
            self.forgotten += 1
        if self._unswept > 0:
            return False
        if shard.count // SPARSE > shard.used + RCMGR_BUCKET_MIN_SLOTS:
            self._try_resize(shard, 2 * shard.used + RCMGR_BUCKET_MIN_SLOTS)
        self._swept_shard = (self._swept_shard + 1) & (self._shard_count - 1)
        self._unswept = self._shards[self._swept_shard].count
        if self._swept_shard == 0:
            self._slots_of_pass = self._slots
        return True

    cdef int _forget_full(self) except -1:
        cdef Gone gone
        cdef uint32_t shards = 0
        cdef int64_t now = self._now(None)
        cdef bint is_swept
        cdef Pacer pacer = Pacer()
        with cython.critical_section(self):
            is_swept = now <= self._all_swept_ns
            self._all_swept_ns = max(now, self._all_swept_ns)
        if is_swept:
            return 0
        while shards <= self._shard_count:  # one more, as the first may be half done
            gone.count = 0
            with cython.critical_section(self):
                shards += self._sweep(self._see(now), &gone)
            release(&gone)
            pacer.step()
        return 0

    cdef int _resize(self, rcmgr_shard *shard, uint32_t count) except -1:
        if not self._try_resize(shard, count):
            raise MemoryError
        return 0

    cdef bint _try_resize(self, rcmgr_shard *shard, uint32_t count) noexcept:
        cdef rcmgr_bucket *slots = <rcmgr_bucket *>PyMem_RawCalloc(count, sizeof(rcmgr_bucket))
        if slots is NULL:
            return False
        self._slots += <int64_t>count - shard.count
        PyMem_RawFree(rcmgr_shard_move(shard, slots, count))
        return True


cdef void release(Gone *gone) noexcept:
    """Outside the lock."""
    for at in range(gone.count):
        Py_DECREF(<object>gone.keys[at])


cdef inline object exact_key(object key):
    cdef object peer = key_of(key)
    if PyBytes_CheckExact(peer) or type(peer) is str:
        return peer
    raise TypeError(f"a key must be a peer id (an ID or its bytes) or str, not {key!r}")


cdef inline uint64_t hash_of(object key) except? 0:
    """The keyed hash of bytes or str, mixed so that each of its bits is random."""
    return <uint64_t>PyObject_Hash(key) * <uint64_t>0x9E3779B97F4A7C15


def denials_of(entry):
    return entry[1]
