"""The views of a whole ledger: snapshots, the fullest limits, counts of refusals.

The ledger copies its groups into a `Reading` under its lock. Everything else needs no lock.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t
from libc.string cimport memset

from collections import namedtuple

from rcmgr.counting._scope cimport (
    RCMGR_CONNS, RCMGR_CONNS_INBOUND, RCMGR_CONNS_OUTBOUND, RCMGR_RESOURCES, RCMGR_STREAMS,
    RCMGR_STREAMS_INBOUND, RCMGR_STREAMS_OUTBOUND, RCMGR_UNLIMITED, rcmgr_all_held, rcmgr_amounts,
)
from rcmgr.counting.groups cimport (
    DIRECTION_NAMES, KIND_NAMES, LIMIT_NAMES, PEER, PROTOCOL, PROTOCOL_PEER, RESOURCE_FIELDS,
    RESOURCE_TEXTS, SERVICE, SERVICE_PEER, Group, name_of, text_of,
)
from rcmgr.peers cimport peer_text

__all__ = ["ScopeStat"]

cdef enum:
    MOST_BOUNDS = 64

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


cdef int64_t used_of(Row *row, int resource) noexcept:
    cdef int64_t *held = row.held.of
    if resource == RCMGR_STREAMS:
        return held[RCMGR_STREAMS_INBOUND] + held[RCMGR_STREAMS_OUTBOUND]
    if resource == RCMGR_CONNS:
        return held[RCMGR_CONNS_INBOUND] + held[RCMGR_CONNS_OUTBOUND]
    return held[resource]


cdef dict row_shown(Row *row):
    cdef int i
    cdef int64_t used, limit
    cdef dict shown = stat_of(&row.held)._asdict()
    cdef dict limits = {}, percent = {}
    for i in range(RCMGR_RESOURCES):
        limit = row.limit.of[i]
        if limit == RCMGR_UNLIMITED:
            continue
        used = used_of(row, i)
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
    """All groups of a ledger as they were at one moment."""

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            Py_DECREF(<object>self.rows[i].group)
        PyMem_Free(self.rows)

    cdef int make_room(self, size_t rows) except -1:
        """Room for so many rows, before there are any."""
        PyMem_Free(self.rows)
        self.rows = <Row *>PyMem_Malloc(rows * sizeof(Row))
        if self.rows == NULL:
            raise MemoryError
        return 0

    cdef void put(self, Group group) noexcept:
        """Copy a group. Allocates nothing; there must be room."""
        cdef Row *row = &self.rows[self.count]
        Py_INCREF(group)
        row.group = <PyObject *>group
        row.held = rcmgr_all_held(&group.state)
        row.limit = group.state.limit[0]
        self.count += 1

    cdef dict snapshot(self, bint peers):
        cdef size_t i
        cdef Group group
        cdef dict shown = {}, tables = {PROTOCOL: {}, SERVICE: {}}, by_peer = {}
        for i in range(self.count):
            group = <Group>self.rows[i].group
            if not peers and group.peer is not None:
                continue
            row = row_shown(&self.rows[i])
            if group.state.kind == PEER:
                by_peer[peer_text(group.peer)] = row
            elif group.state.kind == PROTOCOL or group.state.kind == SERVICE:
                row["peers"] = {}
                tables[group.state.kind][name_of(group)] = row
            elif group.state.kind == PROTOCOL_PEER or group.state.kind == SERVICE_PEER:
                table = tables[PROTOCOL if group.state.kind == PROTOCOL_PEER else SERVICE]
                table[name_of(group)]["peers"][peer_text(group.peer)] = row
            else:
                shown[LIMIT_NAMES[group.state.kind][0]] = row
        shown["services"], shown["protocols"] = tables[SERVICE], tables[PROTOCOL]
        shown["peers"] = by_peer
        return shown

    cdef list peer_stats(self):
        cdef size_t i
        return [
            stat_of(&self.rows[i].held)
            for i in range(self.count) if (<Group>self.rows[i].group).state.kind == PEER
        ]

    cdef tuple peer_distribution(self, int what, tuple bounds):
        """How many peers hold how much of a resource: a list by bucket, and the sum.

        Zeros do not count. bounds: the upper bounds of the buckets, in order, at most 64.
        """
        cdef int64_t upper[MOST_BOUNDS]
        cdef int64_t counts[MOST_BOUNDS + 1]
        cdef int64_t held, total = 0
        cdef Py_ssize_t at, last = len(bounds)
        cdef size_t i
        if last > MOST_BOUNDS:
            raise ValueError(f"a histogram has at most {MOST_BOUNDS} bounds, not {last}")
        for at in range(last):
            upper[at] = bounds[at]
        memset(counts, 0, sizeof(counts))
        for i in range(self.count):
            held = self.rows[i].held.of[what]
            if held == 0 or (<Group>self.rows[i].group).state.kind != PEER:
                continue
            at = 0
            while at < last and held > upper[at]:
                at += 1
            counts[at] += 1
            total += held
        return [counts[at] for at in range(last + 1)], total

    cdef list fullest(self, size_t most, bint peers):
        cdef size_t i, place
        cdef int what
        cdef double share
        cdef int64_t used, limit
        cdef list found = []  # (share, row, resource), the fullest first, never more than `most`
        for i in range(self.count if most > 0 else 0):
            if not peers and (<Group>self.rows[i].group).peer is not None:
                continue
            for what in range(<int>RCMGR_RESOURCES):
                used = used_of(&self.rows[i], what)
                limit = self.rows[i].limit.of[what]
                if used == 0 or limit == RCMGR_UNLIMITED:
                    continue
                share = <double>used / <double>limit if limit > 0 else 1.0
                if len(found) == <Py_ssize_t>most and share <= <double>found[-1][0]:
                    continue
                place = len(found)
                while place > 0 and <double>found[place - 1][0] < share:
                    place -= 1
                found.insert(place, (share, i, what))
                del found[most:]
        shown = []
        for _, row, resource in found:
            i, what = row, resource
            shown.append((
                text_of(<Group>self.rows[i].group), RESOURCE_FIELDS[what],
                used_of(&self.rows[i], what), self.rows[i].limit.of[what],
            ))
        return shown
