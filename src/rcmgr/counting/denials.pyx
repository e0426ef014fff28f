"""A log of the latest denials. Adding one is so cheap that a flood of denials costs little."""

cimport cython
from cpython.unicode cimport PyUnicode_GET_LENGTH
from libc.stdint cimport int64_t

import logging
from collections import namedtuple

from rcmgr.counting cimport connection_tracker, groups
from rcmgr.counting._clock cimport rcmgr_now_coarse_ns
from rcmgr.counting.connection_tracker cimport Denial
from rcmgr.counting.groups cimport Refusal
from rcmgr.peers cimport bounded_name, kept_peer, key_of as peer_key

from rcmgr.errors import shortened
from rcmgr.limits.networks import Network, packed_ip

__all__ = ["DenialEntry", "DenialLog", "DenialSummary"]

DenialEntry = namedtuple(
    "DenialEntry", ["error", "seconds_ago", "inbound"], module="rcmgr.counting.denials")
DenialEntry.__doc__ = """A denial: the error that describes it, its age, and its direction.

inbound: None: it had no direction (memory).
"""

DenialSummary = namedtuple(
    "DenialSummary", ["error", "times", "seconds", "address", "times_at_address"],
    module="rcmgr.counting.denials")
DenialSummary.__doc__ = """What one limit refused since its last summary: `times` in `seconds`.

error: describes the latest of these denials.
address: where the most of them came from, `times_at_address` of them. None: no address is known.
"""

cdef enum:
    MOST_PEERS = 1024
    MOST_ADDRESSES = 1024
    # in one summary
    MOST_LIMITS = 256
    MOST_ADDRESSES_OF_LIMIT = 64
    LONGEST_ADDRESS = 160

cdef int64_t SUMMARY_INTERVAL_NS = 10_000_000_000
cdef object DEBUG = logging.DEBUG
cdef object WARNING = logging.WARNING
# py-libp2p's swarm reports them for an address that it does not know
cdef tuple UNKNOWN_ADDRESSES = ("0.0.0.0", "::")


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class _Entry:
    """A denial, not formatted yet. Immutable, and cheaper than a tuple."""

    cdef object error(self):
        error = self.refusal.to_error(self.connection_id, self.peer_id).explained(self.address)
        if not self.enforced:
            error.enforced = False
        return error


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class _Count:
    """The number of denials of a peer or an address."""

    cdef int64_t times


@cython.final
cdef class _Counts:
    """Counts by key, for at most `size` keys. A further key drops the half with the fewest.

    The owner locks.
    """

    cdef int count(self, object key) except -1:
        cdef _Count counted
        found = self._counts.get(key)
        if found is not None:
            counted = <_Count>found
            counted.times += 1
            return 0
        counted = _Count.__new__(_Count)
        counted.times = 1
        self._counts[key] = counted
        if len(self._counts) > self._size:
            self._counts = dict(
                sorted(self._counts.items(), key=times_of, reverse=True)[:self._size // 2])
        return 0

    cdef list most(self, count):
        """(key, times) of the keys with the largest counts, largest first."""
        most = sorted(self._counts.copy().items(), key=times_of, reverse=True)[:count]
        return [(key, (<_Count>counted).times) for key, counted in most]


cdef _Counts new_counts(Py_ssize_t size):
    cdef _Counts counts = _Counts.__new__(_Counts)
    counts._counts = {}
    counts._size = size
    return counts


@cython.final
cdef class _OfLimit:
    """The denials by one limit: all of them, and those since its last summary."""

    cdef object note(self, _Entry entry, object source):
        """Count a denial for the summary. Returns the summary if it is due."""
        self.times += 1
        self.latest = entry
        if source is not None:
            self.addresses.count(source)
        return self.taken(entry.when) if entry.when >= self.next_summary else None

    cdef object taken(self, int64_t now):
        """The summary. Begin the next one."""
        most = self.addresses.most(1)
        address, times_at_address = most[0] if most else (None, 0)
        times, since, entry = self.times, self.since, self.latest
        self.times = 0
        self.since = now
        self.next_summary = now + SUMMARY_INTERVAL_NS
        self.addresses = new_counts(MOST_ADDRESSES_OF_LIMIT)
        return entry, times, max(0, now - since) / 1e9, address, times_at_address


cdef object source_of(str address):
    """The key by which an address is counted: a text, or the /64 network of an IPv6 address.

    None: the address is not known. A relayed address counts as it is, because the relay is not to
    blame.
    """
    if address.startswith("/"):
        parts = address.split("/", 3)
        if len(parts) < 3 or parts[1] not in ("ip4", "ip6") or "/p2p-circuit" in address:
            return address
        address = parts[2]
    elif address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]  # without the port
    if address in UNKNOWN_ADDRESSES:
        return None
    if ":" not in address:
        return address
    ip = packed_ip(address)
    if ip is None or len(ip) == 4 or not any(ip[:8]):
        return address
    return ip[:8]


cdef object code_of(object refusal):
    """The code of its error; None: it has no code."""
    if type(refusal) is Refusal:
        return groups.code_of(<Refusal>refusal)
    if type(refusal) is Denial:
        return connection_tracker.code_of(<Denial>refusal)
    return getattr(refusal, "code", None)


cdef object source_text(object source):
    return source if source is None or type(source) is str else str(
        Network.of(source.ljust(16, b"\0"), 64))


cdef void report_unraisable(error) noexcept:
    raise error


@cython.final
cdef class _Reporting:
    """The logger and the functions of `DenialLog.report_to`. Immutable."""

    cdef int tell(self, tuple summary) except -1:
        entry, times, seconds, source, times_at_source = summary
        try:
            if self.logger.isEnabledFor(WARNING):
                self.summarize(DenialSummary(
                    (<_Entry>entry).error(), times, seconds, source_text(source), times_at_source))
        except Exception as error:
            report_unraisable(error)
        return 0

    cdef int tell_each(self, _Entry entry) except -1:
        try:
            if self.logger.isEnabledFor(DEBUG):
                self.each(entry.error())
        except Exception as error:
            report_unraisable(error)
        return 0


@cython.final
@cython.binding(False)
cdef class DenialLog:
    """DenialLog(size=256, *, clock=None, enforced=True)\n--\n
    The last `size` denials, and counts of all. Reading a denial builds its error.

    A refusal is any object with `to_error(connection_id, peer_id)`, and with a `code`, the short
    name of its limit. `add` is O(1), takes 60 to 100 ns (230 ns if every peer is new), and is
    thread safe. ValueError: size is below 1.

    The log counts the denials of at most 1,024 peers and 1,024 addresses. If there are more, it
    forgets the half with the fewest denials. So a flood of made-up peers takes no memory and hides
    no persistent peer. All addresses of one IPv6 /64 network count together.

    total: denials since the start. inbound, outbound: those that have a direction.
    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).
    enforced: False: a dry run admitted these requests.
    """

    def __cinit__(self, Py_ssize_t size=256, *, clock=None, bint enforced=True):
        if size < 1:
            raise ValueError(f"size must be 1 or more, not {size}")
        self._ring = [None] * size
        self._size = size
        self._by_peer = new_counts(MOST_PEERS)
        self._by_address = new_counts(MOST_ADDRESSES)
        self._by_code = {}
        self._clock = clock
        self.enforced = enforced

    cdef int64_t now(self) except? -1:
        return rcmgr_now_coarse_ns() if self._clock is None else self._clock()

    def report_to(self, logger, summarize, each):
        """Tell these functions of later denials, as far as this logger logs.

        summarize: called with a DenialSummary while WARNING is on, at the first denial by a limit,
            and then at most once in 10 s. It is called in the thread of a denial, so a limit that
            no longer refuses has no summary until `flush`. Denials count as one limit if their
            refusals have one `code`.
        each: called with the error of each denial while DEBUG is on.
        An exception of these functions goes to `sys.unraisablehook`, and the denial stays.
        """
        cdef _Reporting reporting = _Reporting.__new__(_Reporting)
        reporting.summarize = summarize
        reporting.each = each
        # reading this dictionary costs a tenth of `isEnabledFor`, which fills it
        levels = getattr(logger, "_cache", None)
        reporting.levels = levels if type(levels) is dict else {}
        reporting.logger = logger
        with cython.critical_section(self):
            _former, self._reporting = self._reporting, reporting  # freed outside of the lock

    cpdef add(self, refusal, connection_id=None, peer_id=None, inbound=None, address=None):
        """Add a denial. peer_id, address: None: not known. inbound: None: it has no direction.

        address: an IP address or a multiaddr.
        """
        cdef _Entry entry = _Entry.__new__(_Entry)
        cdef object key = None
        cdef str text
        if peer_id is not None:
            key = peer_key(peer_id)
            peer_id = kept_peer(peer_id, key)
        if type(connection_id) is str:
            connection_id = bounded_name(connection_id)
        entry.refusal = refusal
        entry.connection_id = connection_id
        entry.peer_id = peer_id
        entry.inbound = inbound
        entry.when = self.now()
        entry.enforced = self.enforced
        code = code_of(refusal)
        source = None
        if address is not None:
            text = address if type(address) is str else str(address)
            if PyUnicode_GET_LENGTH(text) > LONGEST_ADDRESS:
                text = shortened(text)
            source = source_of(text)
            if source is not None:
                entry.address = text
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
            if key is not None:
                self._by_peer.count(key)
            if source is not None:
                self._by_address.count(source)
            if self._latest is None or self._latest.code is not code:  # in a flood it is the same
                self._latest = self.of_limit(code, entry.when)
            self._latest.total += 1
            penalties, reporting = self.penalties, self._reporting
            summary = None if reporting is None else self._latest.note(entry, source)
        if inbound is True and penalties is not None:
            penalties.denied(refusal, peer_id, address)
        if summary is not None:
            (<_Reporting>reporting).tell(summary)
        if reporting is not None and (<_Reporting>reporting).levels.get(DEBUG) is not False:
            (<_Reporting>reporting).tell_each(entry)

    cdef _OfLimit of_limit(self, object code, int64_t now):
        """The counts of the limit with this code. The caller holds the lock."""
        cdef _OfLimit limit
        found = self._by_code.get(code)
        if found is not None:
            return <_OfLimit>found
        if len(self._by_code) >= MOST_LIMITS:
            self._by_code = dict(
                sorted(self._by_code.items(), key=total_of, reverse=True)[:MOST_LIMITS // 2])
        limit = _OfLimit.__new__(_OfLimit)
        limit.code = code
        limit.since = now
        limit.addresses = new_counts(MOST_ADDRESSES_OF_LIMIT)
        self._by_code[code] = limit
        return limit

    def flush(self):
        """Summarize now what no summary has told yet."""
        cdef int64_t now = self.now()
        with cython.critical_section(self):
            summaries = [
                (<_OfLimit>each).taken(now)
                for each in self._by_code.values() if (<_OfLimit>each).times
            ]
            reporting = self._reporting
        for summary in summaries:
            (<_Reporting>reporting).tell(summary)

    def most_denied(self, count=10):
        """The peers with the most denials: (peer key, denials), most first."""
        with cython.critical_section(self):
            most = self._by_peer.most(count)
        return most

    def most_denied_addresses(self, count=10):
        """The addresses with the most denials: (text, denials), most first.

        The text is an IPv4 address, an IPv6 network ("2001:db8::/64"), or an address without an IP.
        """
        with cython.critical_section(self):
            most = self._by_address.most(count)
        return [(source_text(source), times) for source, times in most]

    def of_connection(self, connection_id):
        """The latest denials of the connection with this id, as errors, oldest first. O(size)."""
        return [
            (<_Entry>entry).error() for entry in self.latest()
            if (<_Entry>entry).connection_id is not None
            and (<_Entry>entry).connection_id == connection_id
        ]

    def by_code(self):
        """The denials by each limit, by the code of its error, most first."""
        with cython.critical_section(self):
            most = sorted(self._by_code.items(), key=total_of, reverse=True)
            counts = {code: (<_OfLimit>limit).total for code, limit in most if code is not None}
        return counts

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
        """The latest denials, each a `DenialEntry`, oldest first."""
        return self.latest_entries(self._size)

    def latest_entries(self, Py_ssize_t count):
        """The latest `count` denials, or fewer, each a `DenialEntry`, oldest first."""
        cdef int64_t now = self.now()
        if count <= 0:
            return []
        return [
            DenialEntry(
                (<_Entry>entry).error(), max(0, now - (<_Entry>entry).when) / 1e9,
                (<_Entry>entry).inbound,
            )
            for entry in self.latest()[-count:]
        ]

    def __len__(self):
        cdef int64_t total
        with cython.critical_section(self):
            total = self.total
        return min(total, len(self._ring))

    def __iter__(self):
        """__iter__($self, /)\n--\n\nThe latest denials as errors, oldest first."""
        return iter([(<_Entry>entry).error() for entry in self.latest()])


def times_of(pair):
    return (<_Count>pair[1]).times


def total_of(pair):
    return (<_OfLimit>pair[1]).total
