"""A log of the latest denials. Adding one is so cheap that a flood of denials costs little."""

cimport cython
from libc.stdint cimport int64_t

import time
from collections import namedtuple

from rcmgr.counting._clock cimport rcmgr_now_coarse_ns
from rcmgr.peers cimport bounded_name, kept_peer, key_of as peer_key

__all__ = ["DenialEntry", "DenialLog"]

DenialEntry = namedtuple(
    "DenialEntry", ["error", "seconds_ago", "inbound"], module="rcmgr.counting.denials")
DenialEntry.__doc__ = """A denial: the error that describes it, its age, and its direction.

inbound: None: it had no direction (memory).
"""

cdef enum:
    MOST_PEERS = 1024


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class _Entry:
    """A denial, not formatted yet. Immutable, and cheaper than a tuple."""

    cdef object refusal, connection_id, peer_id, inbound
    cdef int64_t when

    cdef object error(self):
        return self.refusal.to_error(self.connection_id, self.peer_id)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class _Count:
    """The number of denials of a peer."""

    cdef int64_t times


@cython.final
@cython.binding(False)
cdef class DenialLog:
    """The last `size` denials, and counts of all. Reading a denial builds its error.

    A refusal is any object with `to_error(connection_id, peer_id)`. `add` is O(1), takes 60 to
    100 ns (230 ns if every peer is new), and is thread safe. ValueError: size is below 1.

    The log counts the denials of at most 1,024 peers. If there are more, it forgets the half with
    the fewest denials. So a flood of made-up peers takes no memory and hides no persistent peer.
    """

    def __cinit__(self, Py_ssize_t size=256):
        if size < 1:
            raise ValueError(f"size must be 1 or more, not {size}")
        self._ring = [None] * size
        self._size = size
        self._by_peer = {}

    cpdef add(self, refusal, connection_id=None, peer_id=None, inbound=None, address=None):
        """Add a denial. peer_id, address: None: not known. inbound: None: it has no direction."""
        cdef _Entry entry = _Entry.__new__(_Entry)
        cdef object key = None
        if peer_id is not None:
            key = peer_key(peer_id)
            peer_id = kept_peer(peer_id, key)
        if type(connection_id) is str:
            connection_id = bounded_name(connection_id)
        entry.refusal = refusal
        entry.connection_id = connection_id
        entry.peer_id = peer_id
        entry.inbound = inbound
        entry.when = rcmgr_now_coarse_ns()
        with cython.critical_section(self):
            _old = self._ring[self._at]  # freed outside the lock
            self._ring[self._at] = entry
            self._at += 1
            if self._at == self._size:
                self._at = 0
            self.total += 1
            if inbound is True:
                self.inbound += 1
            elif inbound is False:
                self.outbound += 1
        if peer_id is not None:
            self.count(key)
        if inbound is True and self.penalties is not None:
            self.penalties.denied(refusal, peer_id, address)

    cdef int count(self, object peer) except -1:
        cdef _Count counted
        with cython.critical_section(self):
            found = self._by_peer.get(peer)
            if found is not None:
                counted = <_Count>found
                counted.times += 1
                return 0
            counted = _Count.__new__(_Count)
            counted.times = 1
            self._by_peer[peer] = counted
            if len(self._by_peer) > MOST_PEERS:
                self._by_peer = dict(
                    sorted(self._by_peer.items(), key=times_of, reverse=True)[:MOST_PEERS // 2])
        return 0

    def most_denied(self, count=10):
        """The peers with the most denials: (peer key, denials), most first."""
        most = sorted(self._by_peer.copy().items(), key=times_of, reverse=True)[:count]
        return [(peer, (<_Count>counted).times) for peer, counted in most]

    cdef list latest(self):
        """The entries, oldest first."""
        with cython.critical_section(self):
            ring = self._ring[self._at:] + self._ring[:self._at]
        return [entry for entry in ring if entry is not None]

    @property
    def last(self):
        """The error of the latest denial; None: no denial yet."""
        with cython.critical_section(self):
            entry = self._ring[self._at - 1]
        return None if entry is None else (<_Entry>entry).error()

    def entries(self):
        """The latest denials as `DenialEntry`s, oldest first."""
        cdef int64_t now = time.monotonic_ns()
        return [
            DenialEntry(
                (<_Entry>entry).error(), max(0, now - (<_Entry>entry).when) / 1e9,
                (<_Entry>entry).inbound,
            )
            for entry in self.latest()
        ]

    def __len__(self):
        return min(self.total, len(self._ring))

    def __iter__(self):
        """The latest denials as errors, oldest first."""
        return iter([(<_Entry>entry).error() for entry in self.latest()])


def times_of(pair):
    return (<_Count>pair[1]).times
