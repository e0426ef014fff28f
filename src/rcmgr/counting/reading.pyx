"""The views of a whole ledger: snapshots, the fullest limits, counts of refusals.

The ledger copies some groups at a time into a `Reading` under its lock. Everything else needs no
lock.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from collections import namedtuple
from heapq import nlargest

from rcmgr.counting._nap cimport rcmgr_nap
from rcmgr.counting._scope cimport (
    RCMGR_CONNS, RCMGR_CONNS_INBOUND, RCMGR_CONNS_OUTBOUND, RCMGR_RESOURCES, RCMGR_STREAMS,
    RCMGR_STREAMS_INBOUND, RCMGR_STREAMS_OUTBOUND, RCMGR_UNLIMITED, rcmgr_all_held, rcmgr_amounts,
    rcmgr_held, rcmgr_is_nothing, rcmgr_limit,
)
from rcmgr.counting.groups cimport (
    DIRECTION_NAMES, KIND_NAMES, KINDS, LIMIT_NAMES, PEER, PROTOCOL, PROTOCOL_PEER, RESOURCE_FIELDS,
    RESOURCE_TEXTS, SERVICE, SERVICE_PEER, Group, GroupLimit, group_kind, name_of, text_of,
)
from rcmgr.peers cimport peer_text

from rcmgr.counting.pacing import paced
from rcmgr.counting.shown_peers import ShownPeers

__all__ = ["ScopeStat"]

ScopeStat = namedtuple(
    "ScopeStat",
    [
        "memory", "streams_inbound", "streams_outbound", "conns_inbound", "conns_outbound", "fd",
    ],
    module="rcmgr.counting.reading",
)
ScopeStat.__doc__ = "What a scope holds: bytes, and numbers of streams, connections, descriptors."


cdef object stat_of(const rcmgr_amounts *held):
    return ScopeStat(held.of[0], held.of[1], held.of[2], held.of[3], held.of[4], held.of[5])


cdef inline double share_of(int64_t used, int64_t limit) noexcept:
    return <double>used / <double>limit if limit > 0 else 1.0


cdef inline int64_t used_of(const int64_t *held, int resource) noexcept:
    if resource == RCMGR_STREAMS:
        return held[RCMGR_STREAMS_INBOUND] + held[RCMGR_STREAMS_OUTBOUND]
    if resource == RCMGR_CONNS:
        return held[RCMGR_CONNS_INBOUND] + held[RCMGR_CONNS_OUTBOUND]
    return held[resource]


cdef dict row_shown(const rcmgr_amounts *held, const rcmgr_limit *limits_of):
    cdef int i
    cdef int64_t used, limit
    cdef dict shown = stat_of(held)._asdict()
    cdef dict limits = {}, percent = {}
    for i in range(RCMGR_RESOURCES):
        limit = limits_of.of[i]
        if limit == RCMGR_UNLIMITED:
            continue
        used = used_of(held.of, i)
        limits[RESOURCE_FIELDS[i]] = limit
        if limit > 0:
            percent[RESOURCE_FIELDS[i]] = round(100.0 * used / limit, 2)
        else:
            percent[RESOURCE_FIELDS[i]] = 100.0 if used else 0.0
    shown["limits"] = limits
    shown["percent"] = percent
    return shown


cdef dict refused_by_kind(dict refusals):
    """refusals: {(kind, resource, direction): times}."""
    cdef dict shown = {}
    for (kind, what, _), times in refusals.items():
        of_kind = shown.setdefault(KIND_NAMES[kind], {})
        of_kind[RESOURCE_TEXTS[what]] = of_kind.get(RESOURCE_TEXTS[what], 0) + times
    return shown


cdef dict refused_by_direction(dict refusals):
    return {
        (DIRECTION_NAMES[direction], KIND_NAMES[kind], RESOURCE_FIELDS[what]): times
        for (kind, what, direction), times in refusals.items()
    }


@cython.final
cdef class Reading:
    """Some groups of a ledger as they were at one moment."""

    def __cinit__(self):
        self.rows = <Row *>PyMem_Malloc(MOST_ROWS * sizeof(Row))
        if self.rows == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.clear()
        PyMem_Free(self.rows)

    cdef void put(self, Group group) noexcept:
        cdef Row *row = &self.rows[self.count]
        Py_INCREF(group)
        row.group = <PyObject *>group
        row.held = rcmgr_all_held(&group.state)
        row.limit = group.state.limit[0]
        self.count += 1

    cdef void clear(self) noexcept:
        cdef size_t i
        for i in range(self.count):
            Py_DECREF(<object>self.rows[i].group)
        self.count = 0


cdef class Reader:
    def __cinit__(self):
        self.pacer = Pacer()

    cdef bint wants(self, Group group) noexcept:
        return True

    cdef int take(self, Reading reading) except -1:
        return 0


@cython.final
cdef class PeerRows:
    """The amounts that many peers held. A Python object for each would take long to be freed.

    A row has a fixed part, the size of the key, and the bytes of the key.
    """

    def __cinit__(self):
        self.blocks = [bytearray()]

    def __del__(self):
        """Free the blocks in pieces. All at once would stop the other threads for milliseconds.

        It does not use a Pacer: an exception of a signal's handler would be lost here.
        """
        while self.blocks:
            if len(self.blocks) % FREED_AT_ONCE == 0:
                with nogil:
                    rcmgr_nap()
            self.blocks.pop()

    def __len__(self):
        return self.count

    cdef int add(self, const Row *row, object peer) except -1:
        cdef KeptRow kept
        cdef bytes key
        cdef bytearray block = self.blocks[-1]
        cdef Py_ssize_t end
        kept.is_text = type(peer) is not bytes
        key = str(peer).encode("utf-8", "surrogatepass") if kept.is_text else peer
        kept.held, kept.limit, kept.size = row.held, row.limit, len(key)
        end = len(block)
        if end >= BLOCK_BYTES:
            block, end = bytearray(), 0
            self.blocks.append(block)
        PyByteArray_Resize(block, end + <Py_ssize_t>sizeof(kept) + kept.size)
        memcpy(PyByteArray_AS_STRING(block) + end, &kept, sizeof(kept))
        memcpy(PyByteArray_AS_STRING(block) + end + sizeof(kept), <char *>key, kept.size)
        self.count += 1
        return 0

    cdef Py_ssize_t read(self, bytearray block, Py_ssize_t at, KeptRow *kept) except -1:
        """Copy the row there, and return the place of its key."""
        if not 0 <= at <= len(block) - <Py_ssize_t>sizeof(KeptRow):
            raise IndexError(f"no row begins at byte {at}")
        memcpy(kept, PyByteArray_AS_STRING(block) + at, sizeof(KeptRow))
        return at + <Py_ssize_t>sizeof(KeptRow)

    def places(self):
        """The text of each peer, and the place of its row."""
        cdef KeptRow kept
        cdef Py_ssize_t number, at, key_at, end
        cdef bytearray block
        for number in range(len(self.blocks)):
            block, at = self.blocks[number], 0
            while at < len(block):
                key_at = self.read(block, at, &kept)
                end = key_at + kept.size
                key = bytes(block[key_at:end])
                yield (
                    key.decode("utf-8", "surrogatepass") if kept.is_text else peer_text(key),
                    (number, at),
                )
                at = end

    def row(self, Py_ssize_t number, Py_ssize_t at):
        """The row at this place, as a dict."""
        cdef KeptRow kept
        self.read(self.blocks[number], at, &kept)
        return row_shown(&kept.held, &kept.limit)


@cython.final
cdef class SnapshotReader(Reader):
    """All groups in a dict, ready for JSON."""

    cdef int take(self, Reading reading) except -1:
        cdef size_t i
        cdef Group group
        cdef int kind
        cdef Row *row
        cdef dict named
        for i in range(reading.count):
            self.pacer.step()
            row = &reading.rows[i]
            group = <Group>row.group
            kind = group_kind(group)
            named = self.shown[
                "services" if kind == SERVICE or kind == SERVICE_PEER else "protocols"]
            if kind == PEER:
                rows_in(self.shown).add(row, group.peer)
            elif kind == PROTOCOL_PEER or kind == SERVICE_PEER:
                rows_in(named[name_of(group)]).add(row, group.peer)
            elif kind == PROTOCOL or kind == SERVICE:
                named[name_of(group)] = {**row_shown(&row.held, &row.limit), "peers": {}}
            else:
                self.shown[LIMIT_NAMES[kind][0]] = row_shown(&row.held, &row.limit)
        return 0


cdef PeerRows rows_in(dict shown):
    """The rows of the peers in a part of a snapshot."""
    peers = shown["peers"]
    if type(peers) is dict:  # empty
        peers = shown["peers"] = ShownPeers(PeerRows())
    return peers._rows


cdef SnapshotReader new_snapshot():
    cdef SnapshotReader made = SnapshotReader.__new__(SnapshotReader)
    made.shown = {"services": {}, "protocols": {}, "peers": {}}
    return made


@cython.final
cdef class StatsReader(Reader):
    """The amounts that each peer holds."""

    cdef int take(self, Reading reading) except -1:
        cdef size_t i
        for i in range(reading.count):
            self.stats.append(stat_of(&reading.rows[i].held))
            self.pacer.step()
        return 0


cdef StatsReader new_stats():
    cdef StatsReader made = StatsReader.__new__(StatsReader)
    made.stats = []
    return made


@cython.final
cdef class KeysReader(Reader):
    """The peers, or the names, of the groups of one kind."""

    cdef bint wants(self, Group group) noexcept:
        return group_kind(group) == self.kind

    cdef int take(self, Reading reading) except -1:
        cdef size_t i
        cdef Group group
        for i in range(reading.count):
            group = <Group>reading.rows[i].group
            self.keys.append(group.peer if self.kind == PEER else name_of(group))
        return 0


cdef KeysReader new_keys(int kind):
    cdef KeysReader made = KeysReader.__new__(KeysReader)
    made.kind = kind
    made.keys = []
    return made


@cython.final
cdef class DistributionReader(Reader):
    """How many groups hold how much of some resources. Zeros do not count."""

    cdef bint wants(self, Group group) noexcept:
        cdef Py_ssize_t field, at
        cdef int64_t held
        for field in range(self.count):
            held = rcmgr_held(&group.state, self.resources[field])
            if held == 0:
                continue
            at = 0
            while at < self.last[field] and held > self.upper[field][at]:
                at += 1
            self.counts[field][at] += 1
            self.totals[field] += held
        return False  # a copy would take longer

    cdef dict distributions(self):
        return {
            name: ([self.counts[field][at] for at in range(self.last[field] + 1)],
                   self.totals[field])
            for field, name in enumerate(self.fields)
        }


cdef DistributionReader new_distributions(dict bounds):
    """bounds: by field, the upper bounds of the buckets, in order, at most 64."""
    cdef DistributionReader made = DistributionReader.__new__(DistributionReader)
    cdef Py_ssize_t field, at
    made.fields = tuple(bounds)
    made.count = len(bounds)
    if len(bounds) > MOST_FIELDS:
        raise ValueError(f"there are at most {MOST_FIELDS} fields, not {len(bounds)}")
    for field, (name, upper) in enumerate(bounds.items()):
        if len(upper) > MOST_BOUNDS:
            raise ValueError(f"a histogram has at most {MOST_BOUNDS} bounds, not {len(upper)}")
        made.resources[field] = <int>RESOURCE_FIELDS.index(name)
        made.last[field] = len(upper)
        for at in range(made.last[field]):
            made.upper[field][at] = upper[at]
    return made


@cython.final
cdef class FullestReader(Reader):
    """The limits nearest to being reached, without unused ones."""

    cdef bint wants(self, Group group) noexcept:
        cdef rcmgr_amounts held = rcmgr_all_held(&group.state)
        cdef const rcmgr_limit *limit = group.state.limit
        cdef int what
        for what in range(<int>RCMGR_RESOURCES):
            if limit.of[what] != RCMGR_UNLIMITED and used_of(held.of, what) > 0 and (
                    share_of(used_of(held.of, what), limit.of[what]) > self.least):
                return True
        return False

    cdef int take(self, Reading reading) except -1:
        cdef size_t i
        cdef Py_ssize_t place
        cdef int what
        cdef double share
        cdef int64_t used, limit
        for i in range(reading.count if self.most > 0 else 0):
            for what in range(<int>RCMGR_RESOURCES):
                used = used_of(reading.rows[i].held.of, what)
                limit = reading.rows[i].limit.of[what]
                if used == 0 or limit == RCMGR_UNLIMITED:
                    continue
                share = share_of(used, limit)
                if share <= self.least:
                    continue
                place = len(self.found)
                while place > 0 and <double>self.found[place - 1][0] < share:
                    place -= 1
                self.found.insert(
                    place, (share, <Group>reading.rows[i].group, what, used, limit))
                if <size_t>len(self.found) >= self.most:
                    del self.found[self.most:]
                    self.least = self.found[-1][0]
        return 0

    cdef list fullest(self):
        return [
            (text_of(<Group>group), RESOURCE_FIELDS[what], used, limit)
            for _, group, what, used, limit in paced(self.found)
        ]


cdef FullestReader new_fullest(size_t most):
    cdef FullestReader made = FullestReader.__new__(FullestReader)
    made.most = most
    made.least = -1.0
    made.found = []
    return made


@cython.final
cdef class UnderReader(Reader):
    """As FullestReader, under other limits than those of the ledger."""

    cdef bint wants(self, Group group) noexcept:
        cdef rcmgr_amounts held = rcmgr_all_held(&group.state)
        return not rcmgr_is_nothing(&held)

    cdef int take(self, Reading reading) except -1:
        cdef size_t i
        cdef int kind
        cdef Group group
        for i in range(reading.count):
            group = <Group>reading.rows[i].group
            kind = group_kind(group)
            found = (<dict>self.named[kind]).get(group.peer if kind == PEER else name_of(group))
            reading.rows[i].limit = (
                self.defaults[kind] if found is None else (<GroupLimit>found).value)
            self.pacer.step()
        return self.inner.take(reading)


cdef UnderReader new_under(const rcmgr_limit *defaults, list named, size_t most):
    cdef UnderReader made = UnderReader.__new__(UnderReader)
    cdef int kind
    for kind in range(<int>KINDS):
        made.defaults[kind] = defaults[kind]
    made.named = named
    made.inner = new_fullest(most)
    return made


@cython.final
cdef class LargestReader(Reader):
    """The groups that hold most connections, then streams, then memory."""

    cdef int take(self, Reading reading) except -1:
        cdef size_t i
        cdef rcmgr_amounts *held
        for i in range(reading.count):
            held = &reading.rows[i].held
            self.seen += 1  # so that no two are compared by their peers
            self.found.append((
                used_of(held.of, RCMGR_CONNS), used_of(held.of, RCMGR_STREAMS), held.of[0],
                self.seen, (<Group>reading.rows[i].group).peer, stat_of(held)))
            self.pacer.step()
        if <size_t>len(self.found) > 4 * self.most + 1024:
            self.found = nlargest(self.most, self.found)
        return 0

    cdef list largest(self):
        return [(each[4], each[5]) for each in nlargest(self.most, self.found)]


cdef LargestReader new_largest(size_t most):
    cdef LargestReader made = LargestReader.__new__(LargestReader)
    made.most = most
    made.found = []
    return made
