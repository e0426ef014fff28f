"""A ring of decisions, from the threads of a host to the thread that records them.

Noting a decision takes 20 to 60 ns, and never waits. If the ring is full, the event is dropped and
counted. The C is in ext/event_ring.h and ext/event_columns.h.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItemWithError
from cpython.long cimport PyLong_AsLong
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import secrets

from rcmgr.counting._clock cimport rcmgr_now_coarse_ns
from rcmgr.counting._event_ring cimport (
    RCMGR_COLUMNS, RCMGR_EV_BAN, RCMGR_EV_BY_BOX, RCMGR_EV_HAS_ADDRESS,
    RCMGR_EV_HAS_PEER, RCMGR_EV_INBOUND, RCMGR_EV_KINDS, RCMGR_EV_OFFENCE, RCMGR_EV_RATE,
    RCMGR_EV_REFUSED, RCMGR_EV_SETTINGS, RCMGR_EV_UNBAN, rcmgr_columns_clear,
    rcmgr_columns_forget, rcmgr_columns_free, rcmgr_drain, rcmgr_event, rcmgr_event_needs,
    rcmgr_event_note_address, rcmgr_ip_hash, rcmgr_ring_claim, rcmgr_ring_load,
    rcmgr_ring_publish, rcmgr_ring_start, rcmgr_siphash,
)
from rcmgr.counting._hash cimport PyObject_Hash
from rcmgr.peers cimport key_of as peer_key

__all__ = ["EventRing", "event_needs"]


def event_needs():
    """The bits RCMGR_NEEDS_... of event_columns.h, by kind of event."""
    return tuple([rcmgr_event_needs(kind) for kind in range(<int>RCMGR_EV_KINDS)])


cdef enum:
    MOST_NAMES = 4096       # strangers choose some names; others are the empty name
    MOST_IDENTITIES = 1 << 17
    MOST_AT_ONCE = 4096     # events that are drained without a look at signals and the GIL


@cython.final
@cython.binding(False)
cdef class EventRing:
    """EventRing(size=16384, *, clock=None, identities=False)\n--\n
    Keeps the latest decisions of a node until a thread drains them.

    size: events, a power of two.
    clock: returns monotonic nanoseconds. Default: the coarse clock that the limits use too.
    identities: keep peers and addresses as they are. By default there are only keyed hashes of
        them. The key is random, and it is nowhere else.

    Any thread may call `note_...`. Only one thread at a time may call the other methods.
    """

    def __cinit__(self, size=16384, *, clock=None, bint identities=False):
        cdef uint64_t count = size
        cdef bytes key = secrets.token_bytes(16)
        if count < 2 or count & (count - 1):
            raise ValueError(f"size must be a power of two, 2 or more, not {size}")
        memset(&self.columns, 0, sizeof(self.columns))
        memcpy(&self.columns.key, <char *>key, 16)
        self.columns.keeps_ips = identities
        self.keeps_identities = identities
        self.identities, self.former_identities = {}, {}
        self.places, self.names = {"": 0}, [""]
        self.clock = clock
        slots = <rcmgr_event *>PyMem_RawMalloc(count * sizeof(rcmgr_event))
        if slots == NULL:
            raise MemoryError
        memset(slots, 0, count * sizeof(rcmgr_event))
        rcmgr_ring_start(&self.ring, slots, count)

    def __dealloc__(self):
        PyMem_RawFree(self.ring.slots)
        rcmgr_columns_free(&self.columns)

    # -- noting --------------------------------------------------------------------------------

    cdef void note(
        self, int kind, int flags, uint64_t number, object peer, object address, object name,
        object other, object code, int64_t value, int detail,
    ) noexcept:
        cdef rcmgr_event *event
        cdef Py_ssize_t size = 0
        cdef const char *text = NULL
        cdef uint64_t hashed = 0
        cdef uint32_t place = 0, other_place = 0, code_place = 0
        cdef int64_t now
        # everything that may run other code comes first: a claimed slot has to be published
        now = rcmgr_now_coarse_ns() if self.clock is None else self.clock()
        if peer is not None:
            flags |= RCMGR_EV_HAS_PEER
            key = peer_key(peer)
            hashed = <uint64_t>PyObject_Hash(key)
            if self.keeps_identities:
                with cython.critical_section(self):
                    if len(self.identities) < MOST_IDENTITIES:
                        self.identities[hashed] = key
        if address is not None:
            if type(address) is not str:
                address = str(address)
            if not address.isascii():  # a lone surrogate has no UTF-8
                address = address.encode("ascii", "backslashreplace").decode()
            text = PyUnicode_AsUTF8AndSize(address, &size)
            flags |= RCMGR_EV_HAS_ADDRESS
        if name is not None:
            place = self.place_of(name)
        if other is not None:
            other_place = self.place_of(other)
        if code is not None:
            code_place = self.place_of(code)
            flags |= RCMGR_EV_REFUSED
        event = rcmgr_ring_claim(&self.ring)
        if event == NULL:
            return
        event.kind, event.flags, event.detail = kind, flags, detail
        event.time_ns, event.number, event.value = now, number, value
        event.peer, event.name, event.other, event.code = hashed, place, other_place, code_place
        if text != NULL:
            rcmgr_event_note_address(event, text, size)
        else:
            event.text_size = 0
        rcmgr_ring_publish(event)

    cdef uint32_t place_of(self, object name) except? 0:
        cdef PyObject *found = PyDict_GetItemWithError(self.places, name)
        cdef uint32_t place = 0
        if found != NULL:
            return <uint32_t>PyLong_AsLong(<object>found)
        with cython.critical_section(self):
            if name in self.places:
                place = self.places[name]
            elif len(self.names) < MOST_NAMES:
                place = <uint32_t>len(self.names)
                self.names.append(name)
                self.places[name] = place
        return place

    def note_rate(self, str protocol, str operation, peer, address, code):
        """Note a request. code: of the limit that refused it; None: it was granted."""
        self.note(
            RCMGR_EV_RATE, RCMGR_EV_INBOUND, 0, peer, address, protocol, operation, code, 0, 0)

    def note_offence(self, str name, peer, address):
        """Note an offence that is no denial. peer, address: None: unknown."""
        self.note(RCMGR_EV_OFFENCE, 0, 0, peer, address, None, None, name, 0, 0)

    def note_ban(self, peer, address, int bits, seconds, bint by_box):
        """Note a ban of a peer, or of a network: an address and its bits. seconds: None: until
        an unban.
        """
        cdef int64_t value = -1 if seconds is None else int(min(seconds, 4e9) * 1e9)
        self.note(
            RCMGR_EV_BAN, RCMGR_EV_BY_BOX if by_box else 0, 0, peer, address, None, None, None,
            value, bits)

    def note_unban(self, peer, address, int bits):
        self.note(RCMGR_EV_UNBAN, 0, 0, peer, address, None, None, None, 0, bits)

    def note_settings(self, int64_t number):
        """Note that the settings of this number, which the record has elsewhere, apply from now on.
        """
        self.note(RCMGR_EV_SETTINGS, 0, 0, None, None, None, None, None, number, 0)

    # -- the thread that drains ----------------------------------------------------------------

    @property
    def dropped(self):
        """Events that found no room, because the ring was full."""
        return rcmgr_ring_load(&self.ring.dropped)

    def drain(self):
        """Move events from the ring into columns; returns how many. Not all at once, if many."""
        cdef uint64_t count
        with nogil:
            count = rcmgr_drain(&self.ring, &self.columns, MOST_AT_ONCE)
        return count

    @property
    def events(self):
        """How many events the columns have."""
        return self.columns.events

    def take_columns(self):
        """The columns as bytes, in the order of event_columns.h, and empty them.

        MemoryError: memory was short, and their events are lost.
        """
        cdef int i
        cdef bint failed = self.columns.failed
        try:
            if failed:
                raise MemoryError
            return [
                PyBytes_FromStringAndSize(
                    <char *>self.columns.columns[i].bytes, self.columns.columns[i].size)
                for i in range(<int>RCMGR_COLUMNS)
            ]
        finally:
            rcmgr_columns_clear(&self.columns)

    @property
    def begin(self):
        """The time of the first event in the columns, in ns, and the newest connection and stream
        before it."""
        return (
            self.columns.begin_ns, self.columns.first_number[0], self.columns.first_number[1])

    def begin_file(self):
        """Forget which peers and addresses the file has."""
        rcmgr_columns_forget(&self.columns)

    def identities_of(self, bytes hashes):
        """The peers of the last column, if identities are kept. Forget those of earlier columns."""
        cdef const unsigned char *at = hashes
        cdef uint64_t hashed
        cdef list found = []
        cdef Py_ssize_t i
        latest = {}
        with cython.critical_section(self):
            # events that are in the ring now may be about the peers of this half
            latest, self.identities = self.identities, latest
        for i in range(len(hashes) // 8):
            memcpy(&hashed, at + 8 * i, 8)
            found.append(latest.get(hashed, self.former_identities.get(hashed, b"")))
        self.former_identities = latest
        return found

    def hash_of_ip(self, bytes ip):
        """The address that the record has in place of this one (4 or 16 bytes)."""
        cdef uint8_t made[16]
        if len(ip) not in (4, 16):
            raise ValueError(f"an IP address has 4 or 16 bytes, not {len(ip)}")
        if self.columns.keeps_ips:
            return ip
        memcpy(made, <char *>ip, len(ip))
        rcmgr_ip_hash(&self.columns.key, made, <int>len(ip))
        return made[:len(ip)]

    def hash_of_peer(self, peer):
        """The 8 bytes that the record has in place of this peer, or the peer if it keeps them."""
        key = peer_key(peer)
        cdef uint64_t hashed = <uint64_t>PyObject_Hash(key)
        cdef uint64_t made
        if self.keeps_identities:
            return key
        made = rcmgr_siphash(&self.columns.key, &hashed, sizeof(hashed))
        return made.to_bytes(8, "little")
