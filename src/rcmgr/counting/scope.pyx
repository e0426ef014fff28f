"""The ledger: who holds what, in scopes that nest, each under a limit.

A connection or stream is a leaf. It is charged, in one call, to itself and to every scope above it
(its chain), or to none of them. The groups above (system, transient, a peer, a protocol, ...) are
nodes: they exist as long as something points at them, a leaf, a view or a span. That is all the
bookkeeping there is: nothing sweeps, and an idle peer is gone with the last handle on it.

Names, chains and their order are those of go-libp2p's resource manager. Where it differs on
purpose, docs/scopes.md says why.

Everything is guarded by one lock, the ledger's critical section (free on builds with a GIL). Keys
are exact `bytes`, `str` or `int`, so that no lookup runs Python code between check and take; nodes
and handles are unknown to the garbage collector, so that making one cannot run a finalizer there.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError, PyDict_SetDefault
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import logging
import sys
from collections import namedtuple
from enum import IntEnum

from rcmgr.errors import (
    MemoryReservationExceeded,
    ResourceScopeClosed,
    ScopeLimitExceeded,
    StreamLimitExceeded,
)

from rcmgr.peers cimport key_of as peer_key
from rcmgr.peers cimport peer_text
from rcmgr.counting._scope cimport (
    RCMGR_AMOUNTS,
    RCMGR_CONNS,
    RCMGR_CONNS_INBOUND,
    RCMGR_CONNS_OUTBOUND,
    RCMGR_FD,
    RCMGR_MEMORY,
    RCMGR_PRIORITY_ALWAYS,
    RCMGR_RESOURCES,
    RCMGR_STREAMS,
    RCMGR_STREAMS_INBOUND,
    RCMGR_STREAMS_OUTBOUND,
    RCMGR_UNLIMITED,
    rcmgr_amounts,
    rcmgr_charge,
    rcmgr_give_back,
    rcmgr_is_nothing,
    rcmgr_limit,
    rcmgr_refusal,
    rcmgr_scope,
)

__all__ = [
    "ConnScope",
    "Ledger",
    "Priority",
    "Refusal",
    "Scope",
    "ScopeStat",
    "ScopeView",
    "Span",
    "StreamScope",
]


class Priority(IntEnum):
    """How much of a memory limit a reservation may fill: (1 + priority) / 256. Any int of 0 to 255.
    """

    LOW = 101  # 40 %
    MEDIUM = 152  # 60 %
    HIGH = 203  # 80 %
    ALWAYS = RCMGR_PRIORITY_ALWAYS


ScopeStat = namedtuple(
    "ScopeStat",
    [
        "memory", "streams_inbound", "streams_outbound", "conns_inbound", "conns_outbound", "fd",
    ],
    module="rcmgr.counting.scope",
)
ScopeStat.__doc__ = "What a scope holds: bytes, and numbers of streams, connections, descriptors."

cdef enum Kind:
    SYSTEM
    TRANSIENT
    ALLOWLISTED_SYSTEM
    ALLOWLISTED_TRANSIENT
    FIXED_KINDS  # the ones above exist once, always
    SERVICE = FIXED_KINDS
    PROTOCOL
    PEER
    SERVICE_PEER
    PROTOCOL_PEER
    CONN
    STREAM
    KINDS

cdef enum:
    LONGEST_CHAIN = 7  # a stream with a service
    DEEPEST_SPAN = 64
    NO_KIND = -1

cdef enum Direction:
    NO_DIRECTION
    INBOUND
    OUTBOUND
    DIRECTIONS

cdef tuple DIRECTION_NAMES = ("", "inbound", "outbound")

cdef tuple KIND_NAMES = (
    "system", "transient", "allowlistedSystem", "allowlistedTransient", "service", "protocol",
    "peer", "service-peer", "protocol-peer", "conn", "stream",
)
# attributes of a limits object, by Kind: the default, and the mapping of particular ones
cdef tuple LIMIT_NAMES = (
    ("system", None), ("transient", None), ("allowlisted_system", None),
    ("allowlisted_transient", None), ("service_default", "service"),
    ("protocol_default", "protocol"), ("peer_default", "peer"),
    ("service_peer_default", "service_peer"), ("protocol_peer_default", "protocol_peer"),
    ("conn", None), ("stream", None),
)
# by the resources of scope.h: a limit's field, and what an error calls it
cdef tuple RESOURCE_FIELDS = (
    "memory", "streams_inbound", "streams_outbound", "conns_inbound", "conns_outbound", "fd",
    "streams", "conns",
)
cdef tuple RESOURCE_TEXTS = (
    "memory", "inbound stream", "outbound stream", "inbound connection", "outbound connection",
    "file descriptor", "stream", "connection",
)

cdef rcmgr_limit NO_LIMIT
for _index in range(RCMGR_RESOURCES):
    NO_LIMIT.of[_index] = RCMGR_UNLIMITED

cdef object LOG = logging.getLogger("rcmgr.counting.scope")


cdef bint is_true(str name, object value) except -1:
    # a direction given as text would be true whatever it says
    if value is True:
        return True
    if value is False:
        return False
    raise TypeError(f"{name} must be True or False, not {value!r}")


cdef object exact_peer(object peer):
    peer = peer_key(peer)
    if type(peer) is bytes or type(peer) is str or type(peer) is int:
        return peer
    raise TypeError(f"a peer must be an ID, bytes, a str or an int, not {peer!r}")


cdef str exact_name(str what, object name):
    if type(name) is str:
        return name
    if isinstance(name, str):
        return str.__str__(name)
    raise TypeError(f"a {what} must be a str, not {name!r}")


cdef int64_t checked_size(object size) except -1:
    # OverflowError from 2**63; a size of 0 is fine
    cdef int64_t value = size
    if value < 0:
        raise ValueError(f"can't reserve negative memory. rsvp={value}")
    return value


cdef int checked_priority(object priority) except -1:
    cdef int value = priority
    if not 0 <= value <= 255:
        raise ValueError(f"priority must be 0 to 255, not {priority}")
    return value


cdef int read_limit(object source, rcmgr_limit *into) except -1:
    cdef int i
    cdef int64_t value
    for i in range(RCMGR_RESOURCES):
        field = getattr(source, RESOURCE_FIELDS[i])
        value = RCMGR_UNLIMITED if field is None else field
        if value < 0:
            raise ValueError(f"{RESOURCE_FIELDS[i]} must be 0 or more, not {value}")
        into.of[i] = value
    return 0


cdef object shown_limit(int64_t value):
    return None if value == RCMGR_UNLIMITED else value


cdef object stat_of(const rcmgr_amounts *held):
    return ScopeStat(held.of[0], held.of[1], held.of[2], held.of[3], held.of[4], held.of[5])


cdef class Ledger


@cython.final
@cython.no_gc
cdef class _Limit:
    cdef rcmgr_limit value


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class _Node:
    """A group of leaves: the system, a peer, a protocol, ...

    In its table while `pins` > 0; of those that exist once, nobody counts them.
    """

    cdef rcmgr_scope state
    cdef _Limit limit  # keeps state.limit alive; None: that is one of the ledger's defaults
    cdef object name   # of a service or protocol, else None
    cdef object peer   # else None
    cdef dict members  # of a service or protocol that has had any: its nodes by peer
    cdef _Node group   # of such a member, which pins it
    cdef uint64_t pins
    cdef uint64_t loose[2][2]  # streams without a handle: [allowlisted][outbound]
    cdef uint32_t trusted      # of a peer: its connections that are allowlisted
    cdef int kind

    cdef str text(self):
        cdef str text = KIND_NAMES[self.kind]
        if self.kind == PEER:
            return f"peer:{peer_text(self.peer)}"
        if self.name is not None:
            text = f"{text.partition('-')[0]}:{self.name}"
            if self.peer is not None:
                text = f"{text}.peer:{peer_text(self.peer)}"
        return text


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Refusal:
    """Why something was not given. False, unlike what would have been given.

    Made on hot paths: nothing is formatted before somebody asks. Holds no resource and keeps no
    leaf alive. Immutable.
    """

    cdef _Node blamed       # None: the leaf
    cdef _Node view_node    # of these three at most one is set: who asked
    cdef str span_name
    cdef int leaf_kind      # else NO_KIND
    cdef uint64_t leaf_number
    cdef bint hand_over
    cdef int what
    cdef readonly int priority
    """Of a memory reservation, 0 to 255."""
    cdef readonly int64_t current
    """How much the scope that refused was holding."""
    cdef readonly int64_t attempted
    """How much more was asked for."""
    cdef readonly int64_t limit
    """Its limit (for memory: before the priority's share of it is taken)."""

    def __bool__(self):
        return False

    cdef str leaf(self):
        if self.leaf_kind == NO_KIND:
            return None
        return f"{KIND_NAMES[self.leaf_kind]}-{self.leaf_number}"

    @property
    def scope(self):
        """Name of the scope that refused."""
        return self.leaf() if self.blamed is None else self.blamed.text()

    @property
    def asked_by(self):
        """Name of the scope that asked; None in a hand-over, and where nothing with a name did."""
        if self.hand_over:
            return None
        if self.span_name is not None:
            return self.span_name
        return self.leaf() if self.view_node is None else self.view_node.text()

    @property
    def resource(self):
        """What there was too little of: "memory", "inbound stream", "file descriptor", ..."""
        return RESOURCE_TEXTS[self.what]

    def to_error(self, connection_id=None, peer_id=None):
        """The ScopeLimitExceeded that says so, of whom if that is given."""
        scope, asked_by = self.scope, self.asked_by
        error = ScopeLimitExceeded
        if self.what == RCMGR_MEMORY:
            error = MemoryReservationExceeded
        elif self.what in (RCMGR_STREAMS, RCMGR_STREAMS_INBOUND, RCMGR_STREAMS_OUTBOUND):
            error = StreamLimitExceeded
        return error(
            scope, self.resource, self.current, self.attempted, self.limit, self.priority,
            None if asked_by == scope else asked_by, peer_id,
        )

    def __repr__(self):
        return f"Refusal({str(self.to_error())!r})"


@cython.no_gc
@cython.binding(False)  # 10 ns less per call; the clinic format keeps signatures
cdef class Scope:
    """What all handles have in common: they hold something until `close`, and take memory.

    Made by a `Ledger` or by another scope, never by itself. A context manager: leaving closes it.
    Garbage-collected unclosed it closes itself, and counts as leaked if it held anything. Every
    method is O(1), does all or nothing, and is thread safe.
    """

    cdef Ledger ledger
    cdef rcmgr_scope state
    cdef int64_t in_spans   # how much of its memory its spans hold
    cdef str opened_at
    cdef uint64_t number    # connections, streams and spans count from 1
    cdef uint32_t spans     # begun so far
    cdef uint32_t epoch     # of the ledger when this was made; another one: forgotten
    # single bytes: a connection takes 144 bytes, and one more word would make it 160
    cdef unsigned char is_open     # false in a bare __new__
    cdef unsigned char kind
    cdef unsigned char is_inbound  # of connections and streams, as the next one
    cdef unsigned char is_allowlisted

    cdef int start(self, Ledger ledger, int kind, const rcmgr_limit *limit) except -1:
        self.state.limit = limit
        self.kind = kind
        if ledger.trace_allocations:
            self.opened_at = caller()
        self.ledger = ledger
        return 0

    # what differs between leaves, views and spans

    cdef int chain(self, rcmgr_scope **chain) noexcept:
        """Fill in the scopes to charge, in order, this one first; returns how many. Locked."""
        return 0

    cdef void unpin(self) noexcept:
        """Let go of the nodes. Locked."""

    cdef Scope enclosing(self):
        """Of a span: what it is a span of."""
        return None

    cdef _Node node_asking(self):
        return None

    cdef int direction(self) noexcept:
        return NO_DIRECTION

    # everything else

    cdef bint live(self) noexcept:
        cdef Scope scope = self
        while scope is not None:
            if not scope.is_open or scope.epoch != scope.ledger.epoch:
                return False
            scope = scope.enclosing()
        return True

    cdef Refusal refused(self, rcmgr_refusal *why, int priority, bint hand_over, _Node blamed):
        """Count and describe it. Locked."""
        cdef Refusal refusal = self.ledger.refused(
            why, priority, self.kind if blamed is None else blamed.kind, blamed, self.direction()
        )
        refusal.hand_over = hand_over
        refusal.view_node = self.node_asking()
        if refusal.view_node is None:
            refusal.leaf_kind = self.kind
            refusal.leaf_number = self.number
        return refusal

    cdef object take_memory(self, int64_t size, int priority):
        """None, or why not."""
        cdef rcmgr_scope *chain[LONGEST_CHAIN]
        cdef rcmgr_amounts ask
        cdef rcmgr_refusal why
        cdef Refusal refusal = None
        cdef Scope base = self, scope
        cdef bint closed
        cdef int count
        memset(&ask, 0, sizeof(ask))
        ask.of[RCMGR_MEMORY] = size
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        with cython.critical_section(self.ledger):
            closed = not self.live()
            if not closed:
                while (scope := base.enclosing()) is not None:
                    base = scope
                count = base.chain(chain)
                if rcmgr_charge(chain, count, &ask, priority, &why):
                    scope = self
                    while scope is not base:
                        # a base's own share is in its chain
                        scope.state.held.of[RCMGR_MEMORY] += size
                        scope = scope.enclosing()
                        scope.in_spans += size
                    self.ledger.raise_peaks(True)
                else:
                    refusal = base.refused(&why, priority, False, base.node_at(chain[why.place]))
        if closed:
            raise ResourceScopeClosed(self.name)
        if refusal is not None and base is not self:
            refusal.span_name = self.name
        return refusal

    cdef _Node node_at(self, rcmgr_scope *state):
        """The node with this state; None: it is this scope's own."""
        return None

    cdef int64_t give_memory(self, int64_t size) noexcept:
        """Returns how much was not there to give back. Locked, live."""
        cdef rcmgr_scope *chain[LONGEST_CHAIN]
        cdef rcmgr_amounts what
        cdef Scope base = self, scope
        cdef int64_t own = self.state.held.of[RCMGR_MEMORY] - self.in_spans
        cdef int64_t given = min(size, own)
        memset(&what, 0, sizeof(what))
        what.of[RCMGR_MEMORY] = given
        while (scope := base.enclosing()) is not None:
            base.state.held.of[RCMGR_MEMORY] -= given
            scope.in_spans -= given
            base = scope
        rcmgr_give_back(chain, base.chain(chain), &what)
        return size - given

    cdef bint end(self) noexcept:
        """Give everything back; false if that was done before. Locked."""
        cdef rcmgr_scope *chain[LONGEST_CHAIN]
        cdef rcmgr_amounts held
        if not self.is_open:
            return False
        if self.live():
            # what its spans hold is given back with it: they are closed by this
            self.in_spans = 0
            if self.enclosing() is not None:
                self.give_memory(self.state.held.of[RCMGR_MEMORY])
            else:
                held = self.state.held
                rcmgr_give_back(chain, self.chain(chain), &held)
            self.unpin()
        self.is_open = False
        memset(&self.state.held, 0, sizeof(self.state.held))
        return True

    cdef int abandon(self) except -1:
        cdef bint leaked
        if self.ledger is None:
            return 0
        with cython.critical_section(self.ledger):
            leaked = self.live() and not rcmgr_is_nothing(&self.state.held)
            self.end()
        if leaked:
            self.count_leak()
        return 0

    cdef int count_leak(self) except -1:
        with cython.critical_section(self.ledger):
            self.ledger.leaked += 1
            if self.opened_at is not None:
                places = self.ledger.places
                places[self.opened_at] = places.get(self.opened_at, 0) + 1
        return 0

    def _leak(self):
        """It was closed because what should have closed it is garbage: count it as leaked."""
        if self.ledger is not None:
            self.count_leak()

    @property
    def name(self):
        """As in errors, logs and metrics: "conn-7", "peer:12D3K...", "stream-1.span-2"."""
        cdef _Node node = self.node_asking()
        cdef Scope enclosing = self.enclosing()
        if enclosing is not None:
            return f"{enclosing.name}.span-{self.number}"
        if self.ledger is None:
            return "scope"
        if node is not None:
            return node.text()
        return f"{KIND_NAMES[self.kind]}-{self.number}"

    @property
    def closed(self):
        """Whether it was closed, or what it is a span of, or forgotten by `Ledger.clear`."""
        cdef bint live
        if self.ledger is None:
            return True
        with cython.critical_section(self.ledger):
            live = self.live()
        return not live

    def stat(self):
        """What it holds now (a view: what its scope holds); zeros once closed."""
        cdef rcmgr_amounts held
        memset(&held, 0, sizeof(held))
        if self.ledger is not None:
            with cython.critical_section(self.ledger):
                if self.live():
                    held = self.counted()[0]
        return stat_of(&held)

    cdef rcmgr_amounts *counted(self) noexcept:
        return &self.state.held

    def try_reserve_memory(self, size, priority=RCMGR_PRIORITY_ALWAYS):
        """Take `size` bytes, here and in every scope above: True, or a `Refusal`.

        priority: 0 to 255. Each scope admits it only up to (1 + priority) / 256 of its limit.
        ValueError: negative size, or such a priority. OverflowError: from 2**63.
        ResourceScopeClosed: closed.
        """
        refusal = self.take_memory(checked_size(size), checked_priority(priority))
        return True if refusal is None else refusal

    def reserve_memory(self, size, priority=RCMGR_PRIORITY_ALWAYS):
        """As `try_reserve_memory`, but raises ScopeLimitExceeded when refused."""
        refusal = self.take_memory(checked_size(size), checked_priority(priority))
        if refusal is not None:
            raise refusal.to_error()

    def release_memory(self, size):
        """Give `size` bytes back. Ignored once closed: closing has given back everything.

        Only what this scope itself took (not its spans) can be given back: what is more is ignored
        and counted in `Ledger.over_released`, and raises ValueError if the ledger has `debug`.
        ValueError: negative.
        """
        cdef int64_t excess = 0, wanted = size
        if wanted < 0:
            raise ValueError(f"can't release negative memory: {size}")
        if self.ledger is None:
            return
        with cython.critical_section(self.ledger):
            if self.live():
                excess = self.give_memory(wanted)
                self.ledger.over_released += excess
        if excess > 0:
            self.ledger.say_over_released(self.name, f"{excess} bytes")

    def begin_span(self):
        """A part of this scope that gives back what it took when it is closed.

        Spans nest at most 64 deep (ValueError). ResourceScopeClosed: closed.
        """
        cdef Span span
        cdef bint closed
        cdef int depth = 0
        cdef Scope scope = self.enclosing()
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        while scope is not None:
            depth += 1
            scope = scope.enclosing()
        if depth >= DEEPEST_SPAN:
            raise ValueError(f"spans nest at most {DEEPEST_SPAN} deep")
        span = Span.__new__(Span)
        span.start(self.ledger, self.kind, &NO_LIMIT)
        span.owner = self
        with cython.critical_section(self.ledger):
            closed = not self.live()
            if not closed:
                self.spans += 1
                span.number = self.spans
                span.epoch = self.epoch
                span.is_open = True
        if closed:
            raise ResourceScopeClosed(self.name)
        return span

    def close(self):
        """Give back all that it holds, its spans' memory included. Does nothing a second time."""
        if self.ledger is None:
            return
        with cython.critical_section(self.ledger):
            self.end()

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.close()

    def __repr__(self):
        if self.closed:
            return f"{type(self).__name__}({self.name!r}, closed)"
        return f"{type(self).__name__}({self.name!r}, {self.stat()})"


cdef int with_nodes(rcmgr_scope **chain, rcmgr_scope *own, PyObject **nodes, int count) noexcept:
    cdef int i
    chain[0] = own
    for i in range(count):
        chain[i + 1] = &(<_Node>nodes[i]).state
    return count + 1


cdef _Node find_node(rcmgr_scope *state, PyObject **nodes, int count):
    cdef int i
    for i in range(count):
        if &(<_Node>nodes[i]).state == state:
            return <_Node>nodes[i]
    return None


cdef str caller():
    """The nearest code that is not rcmgr's own."""
    frame = sys._getframe(0)
    while frame.f_globals.get("__name__", "").partition(".")[0] == "rcmgr" and frame.f_back:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class Span(Scope):
    """A part of another scope's memory. Closed when that scope is."""

    cdef Scope owner

    cdef Scope enclosing(self):
        return self.owner

    def __dealloc__(self):
        self.abandon()


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class ScopeView(Scope):
    """A handle on a group: the system, a peer, a protocol, a service, ...

    The group exists while there is a view. What is reserved through a view belongs to the view, is
    charged to the group and to the system, and is given back when the view is closed.
    """

    cdef _Node node

    cdef int nodes(self, PyObject **nodes) noexcept:
        """The chain above the view itself, borrowed."""
        cdef int kind = self.node.kind, count = 1
        nodes[0] = <PyObject *>self.node
        if self.node.group is not None:
            nodes[count] = <PyObject *>self.node.group
            count += 1
        if kind == SYSTEM or kind == ALLOWLISTED_SYSTEM:
            return count
        nodes[count] = self.ledger.system_of(kind == ALLOWLISTED_TRANSIENT)
        return count + 1

    cdef int chain(self, rcmgr_scope **chain) noexcept:
        cdef PyObject *nodes[LONGEST_CHAIN]
        return with_nodes(chain, &self.state, nodes, self.nodes(nodes))

    cdef _Node node_at(self, rcmgr_scope *state):
        cdef PyObject *nodes[LONGEST_CHAIN]
        found = find_node(state, nodes, self.nodes(nodes))
        return self.node if found is None else found

    cdef void unpin(self) noexcept:
        self.ledger.unpin(self.node)

    cdef _Node node_asking(self):
        return self.node

    cdef rcmgr_amounts *counted(self) noexcept:
        return &self.node.state.held

    @property
    def held_memory(self):
        """Bytes reserved through this view and its spans; 0 once closed."""
        cdef int64_t held = 0
        if self.ledger is not None:
            with cython.critical_section(self.ledger):
                if self.live():
                    held = self.state.held.of[RCMGR_MEMORY]
        return held

    @property
    def limit(self):
        """The group's limits, by name; None: no limit."""
        cdef rcmgr_limit limit = NO_LIMIT
        cdef int i
        if self.ledger is not None:
            with cython.critical_section(self.ledger):
                limit = self.node.state.limit[0]
        return {RESOURCE_FIELDS[i]: shown_limit(limit.of[i]) for i in range(RCMGR_RESOURCES)}

    def set_limit(self, limit):
        """Give the group a limit of its own (a `Limit`) from now on; None: the default again.

        It is remembered after the group is gone, until it is set to None. More may be held than it
        allows; nothing is taken away. TypeError: None for a group that exists once (the system).
        """
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        self.ledger.override(self, limit)

    def __dealloc__(self):
        self.abandon()


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class ConnScope(Scope):
    """A connection, transient until its peer is known."""

    cdef _Node peer_node
    cdef object network_share  # of a connection counted for its address: closed with this scope

    @property
    def inbound(self):
        """Whether the other side opened it."""
        return self.is_inbound == 1

    @property
    def allowlisted(self):
        """Whether it is charged to the allowlisted scopes instead of the normal ones."""
        return self.is_allowlisted == 1

    cdef int direction(self) noexcept:
        return INBOUND if self.is_inbound else OUTBOUND

    cdef int nodes(self, PyObject **nodes) noexcept:
        """The chain above the connection itself, borrowed."""
        if self.peer_node is not None:
            nodes[0] = <PyObject *>self.peer_node
        else:
            nodes[0] = self.ledger.transient_of(self.is_allowlisted)
        nodes[1] = self.ledger.system_of(self.is_allowlisted)
        return 2

    cdef int chain(self, rcmgr_scope **chain) noexcept:
        cdef PyObject *nodes[LONGEST_CHAIN]
        return with_nodes(chain, &self.state, nodes, self.nodes(nodes))

    cdef _Node node_at(self, rcmgr_scope *state):
        cdef PyObject *nodes[LONGEST_CHAIN]
        return find_node(state, nodes, self.nodes(nodes))

    cdef void unpin(self) noexcept:
        if self.peer_node is not None:
            self.peer_node.trusted -= self.is_allowlisted
            self.ledger.unpin(self.peer_node)

    @property
    def peer(self):
        """Key of the peer (its bytes); None while it is not known."""
        return None if self.peer_node is None else self.peer_node.peer

    def try_set_peer(self, peer, allowlisted=None):
        """Move from transient to the peer: True, or a `Refusal`, and nothing has changed.

        allowlisted: whether it is charged to the allowlisted system from now on, in the same step
        (who it is may allow what the address did not, or the reverse); None: as before.
        RuntimeError: it has a peer. ResourceScopeClosed: closed.
        """
        refusal = self.take_peer(peer, allowlisted, None)
        return True if refusal is None else refusal

    def set_peer(self, peer, allowlisted=None):
        """As `try_set_peer`, but raises ScopeLimitExceeded when refused."""
        refusal = self.take_peer(peer, allowlisted, None)
        if refusal is not None:
            raise refusal.to_error()

    def close(self):
        """Give back all that it holds, its network share too. Does nothing a second time."""
        share = None
        if self.ledger is None:
            return
        with cython.critical_section(self.ledger):
            self.end()
            share, self.network_share = self.network_share, None
        if share is not None:
            share.close()

    cdef object take_peer(self, object peer, object allowlisted, object network_share):
        cdef rcmgr_scope *old[2]
        cdef rcmgr_scope *new[2]
        cdef rcmgr_refusal why
        cdef Refusal refusal = None
        cdef _Node node, system
        cdef bint allowed = self.is_allowlisted
        cdef bint closed, attached = False
        cdef int count
        if allowlisted is not None:
            allowed = is_true("allowlisted", allowlisted)
        peer = exact_peer(peer)
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        with cython.critical_section(self.ledger):
            closed = not self.live()
            attached = self.peer_node is not None
            if not closed and not attached:
                node = self.ledger.pinned(self.ledger.peer_nodes, PEER, None, peer)
                # making the node may have let another thread in, on builds with a GIL never
                closed = not self.live()
                attached = self.peer_node is not None
                if closed or attached:
                    self.ledger.unpin(node)
                else:
                    new[0] = &node.state
                    old[0] = &(<_Node>self.ledger.transient_of(self.is_allowlisted)).state
                    system = <_Node>self.ledger.system_of(allowed)
                    count = 1
                    if allowed != self.is_allowlisted:
                        new[1] = &system.state
                        old[1] = &(<_Node>self.ledger.system_of(self.is_allowlisted)).state
                        count = 2
                    if self.ledger.hand_over(&self.state.held, old, count, new, count, &why):
                        self.peer_node = node
                        if network_share is not None:
                            self.network_share = network_share
                        self.is_allowlisted = allowed
                        node.trusted += allowed
                    else:
                        refusal = self.refused(
                            &why, RCMGR_PRIORITY_ALWAYS, True, node if why.place == 0 else system
                        )
                        self.ledger.unpin(node)
        if closed:
            raise ResourceScopeClosed(self.name)
        if attached:
            raise RuntimeError("connection scope already attached to a peer")
        return refusal

    def __dealloc__(self):
        self.abandon()
        if self.network_share is not None:
            self.network_share.close()


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class StreamScope(Scope):
    """A stream of a peer, transient until its protocol is negotiated."""

    cdef _Node peer_node
    cdef _Node protocol_node
    cdef _Node protocol_peer_node
    cdef _Node service_node
    cdef _Node service_peer_node

    @property
    def inbound(self):
        """Whether the other side opened it."""
        return self.is_inbound == 1

    @property
    def allowlisted(self):
        """Whether it is charged to the allowlisted scopes instead of the normal ones."""
        return self.is_allowlisted == 1

    cdef int direction(self) noexcept:
        return INBOUND if self.is_inbound else OUTBOUND

    cdef int nodes(self, PyObject **nodes) noexcept:
        """The chain above the stream itself, borrowed."""
        cdef int count = 0
        nodes[0] = <PyObject *>self.peer_node
        if self.protocol_node is None:
            nodes[1] = self.ledger.transient_of(self.is_allowlisted)
            count = 2
        else:
            nodes[1] = <PyObject *>self.protocol_peer_node
            count = 2
            if self.service_node is not None:
                nodes[count] = <PyObject *>self.service_peer_node
                count += 1
            nodes[count] = <PyObject *>self.protocol_node
            count += 1
            if self.service_node is not None:
                nodes[count] = <PyObject *>self.service_node
                count += 1
        nodes[count] = self.ledger.system_of(self.is_allowlisted)
        return count + 1

    cdef int chain(self, rcmgr_scope **chain) noexcept:
        cdef PyObject *nodes[LONGEST_CHAIN]
        return with_nodes(chain, &self.state, nodes, self.nodes(nodes))

    cdef _Node node_at(self, rcmgr_scope *state):
        cdef PyObject *nodes[LONGEST_CHAIN]
        return find_node(state, nodes, self.nodes(nodes))

    cdef void unpin(self) noexcept:
        self.ledger.unpin(self.peer_node)
        if self.service_node is not None:
            self.ledger.unpin(self.service_peer_node)
            self.ledger.unpin(self.service_node)
        if self.protocol_node is not None:
            self.ledger.unpin(self.protocol_peer_node)
            self.ledger.unpin(self.protocol_node)

    @property
    def peer(self):
        """Key of the peer (its bytes)."""
        return None if self.peer_node is None else self.peer_node.peer

    @property
    def protocol(self):
        """None while it is not negotiated."""
        return None if self.protocol_node is None else self.protocol_node.name

    @property
    def service(self):
        """None unless one was set."""
        return None if self.service_node is None else self.service_node.name

    def try_set_protocol(self, protocol):
        """Move from transient to the protocol: True, or a `Refusal`, and nothing has changed.

        RuntimeError: it has a protocol. ResourceScopeClosed: closed.
        """
        refusal = self.take_group(PROTOCOL, protocol)
        return True if refusal is None else refusal

    def set_protocol(self, protocol):
        """As `try_set_protocol`, but raises ScopeLimitExceeded when refused."""
        refusal = self.take_group(PROTOCOL, protocol)
        if refusal is not None:
            raise refusal.to_error()

    def try_set_service(self, service):
        """Charge the service too: True, or a `Refusal`, and nothing has changed.

        RuntimeError: it has a service, or no protocol yet. ResourceScopeClosed: closed.
        """
        refusal = self.take_group(SERVICE, service)
        return True if refusal is None else refusal

    def set_service(self, service):
        """As `try_set_service`, but raises ScopeLimitExceeded when refused."""
        refusal = self.take_group(SERVICE, service)
        if refusal is not None:
            raise refusal.to_error()

    cdef str misplaced(self, int kind):
        if kind == PROTOCOL:
            if self.protocol_node is not None:
                return "stream scope already attached to a protocol"
        elif self.service_node is not None:
            return "stream scope already attached to a service"
        elif self.protocol_node is None:
            return "stream scope not attached to a protocol"
        return None

    cdef object take_group(self, int kind, object name):
        cdef rcmgr_scope *old[1]
        cdef rcmgr_scope *new[2]
        cdef rcmgr_refusal why
        cdef Refusal refusal = None
        cdef _Node group, member
        cdef bint closed
        cdef str misplaced = None
        cdef dict table
        cdef int member_kind = PROTOCOL_PEER if kind == PROTOCOL else SERVICE_PEER
        name = exact_name("protocol" if kind == PROTOCOL else "service", name)
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        with cython.critical_section(self.ledger):
            closed = not self.live()
            misplaced = self.misplaced(kind)
            if not closed and misplaced is None:
                if kind == PROTOCOL:
                    table = self.ledger.protocol_nodes
                else:
                    table = self.ledger.service_nodes
                group = self.ledger.pinned(table, kind, name, None)
                member = self.ledger.pinned_member(group, member_kind, self.peer_node.peer)
                # a dict made for the members may have run the garbage collector, and others
                closed = not self.live()
                misplaced = self.misplaced(kind)
                if closed or misplaced is not None:
                    self.ledger.unpin(member)
                    self.ledger.unpin(group)
                else:
                    new[0] = &group.state
                    new[1] = &member.state
                    old[0] = &(<_Node>self.ledger.transient_of(self.is_allowlisted)).state
                    if not self.ledger.hand_over(
                        &self.state.held, old, 1 if kind == PROTOCOL else 0, new, 2, &why
                    ):
                        refusal = self.refused(
                            &why, RCMGR_PRIORITY_ALWAYS, True,
                            group if why.place == 0 else member,
                        )
                        self.ledger.unpin(member)
                        self.ledger.unpin(group)
                    elif kind == PROTOCOL:
                        self.protocol_node, self.protocol_peer_node = group, member
                    else:
                        self.service_node, self.service_peer_node = group, member
        if closed:
            raise ResourceScopeClosed(self.name)
        if misplaced is not None:
            raise RuntimeError(misplaced)
        return refusal

    def __dealloc__(self):
        self.abandon()


ctypedef struct Row:
    rcmgr_amounts held
    rcmgr_limit limit
    PyObject *node


@cython.final
cdef class _Rows:
    """All groups as they were at one moment."""

    cdef Row *at
    cdef size_t count

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            Py_DECREF(<object>self.at[i].node)
        PyMem_Free(self.at)


cdef int64_t used_of(Row *row, int resource) noexcept:
    cdef int64_t *held = row.held.of
    if resource == RCMGR_STREAMS:
        return held[RCMGR_STREAMS_INBOUND] + held[RCMGR_STREAMS_OUTBOUND]
    if resource == RCMGR_CONNS:
        return held[RCMGR_CONNS_INBOUND] + held[RCMGR_CONNS_OUTBOUND]
    return held[resource]


cdef dict row_shown(Row *row):
    cdef int i
    cdef int64_t used
    cdef dict shown = dict(stat_of(&row.held)._asdict())
    cdef dict limits = {}, percent = {}
    for i in range(RCMGR_RESOURCES):
        if row.limit.of[i] == RCMGR_UNLIMITED:
            continue
        used = used_of(row, i)
        limits[RESOURCE_FIELDS[i]] = row.limit.of[i]
        if row.limit.of[i] > 0:
            percent[RESOURCE_FIELDS[i]] = round(100.0 * used / row.limit.of[i], 2)
        else:
            percent[RESOURCE_FIELDS[i]] = 100.0 if used else 0.0
    shown["limits"] = limits
    shown["percent"] = percent
    return shown


@cython.final
@cython.binding(False)
cdef class Ledger:
    """All scopes of a node.

    limits: an object with the attributes of `rcmgr.limits.scopes.ConcreteLimits`; None: no limit at all.
    trace_allocations: remember where each handle was made, for `leaked_at` (about 1 us each).
    debug: giving back more than was taken raises ValueError; default: in Python's development mode.

    Peers are `ID`s, bytes, str or int; protocols and services are str (TypeError otherwise). Every
    method but `snapshot`, `peers`, `protocols`, `services`, `set_limits` and `clear` is O(1),
    whatever the number of peers. Thread safe.
    """

    cdef _Node system_node, transient_node, allowlisted_system_node, allowlisted_transient_node
    cdef dict peer_nodes, protocol_nodes, service_nodes
    cdef rcmgr_limit defaults[KINDS]
    cdef list named      # by Kind: limits of particular services, protocols, peers
    cdef dict overrides  # (kind, name, peer) -> _Limit: what `set_limit` said
    cdef int64_t refusals[KINDS][RCMGR_RESOURCES][DIRECTIONS]
    cdef int64_t peaks[RCMGR_RESOURCES]
    cdef int64_t transient_peaks[RCMGR_RESOURCES]
    cdef uint32_t epoch
    cdef dict places
    cdef bint warned
    cdef readonly bint debug
    cdef readonly bint trace_allocations
    cdef readonly uint64_t connections_opened
    """Numbers given to connections so far, refused ones included."""
    cdef readonly uint64_t streams_opened
    """Numbers given to streams so far, refused ones included."""
    cdef readonly int64_t leaked
    """Handles garbage-collected while they held something: a defect of the caller."""
    cdef readonly int64_t over_released
    """How much was given back that had not been taken: a defect of the caller, and ignored."""
    cdef int64_t forgotten_streams  # without a handle, by `clear`

    def __cinit__(self, limits=None, *, trace_allocations=False, debug=None):
        cdef int kind
        for kind in range(<int>KINDS):
            self.defaults[kind] = NO_LIMIT
        self.debug = sys.flags.dev_mode if debug is None else debug
        self.trace_allocations = trace_allocations
        self.peer_nodes, self.protocol_nodes, self.service_nodes = {}, {}, {}
        self.named = [{} for _ in range(<int>KINDS)]
        self.overrides, self.places = {}, {}
        self.system_node = self.new_node(SYSTEM, None, None)
        self.transient_node = self.new_node(TRANSIENT, None, None)
        self.allowlisted_system_node = self.new_node(ALLOWLISTED_SYSTEM, None, None)
        self.allowlisted_transient_node = self.new_node(ALLOWLISTED_TRANSIENT, None, None)
        if limits is not None:
            self.set_limits(limits)

    # -- nodes, all locked -----------------------------------------------------------------------

    cdef PyObject *system_of(self, bint allowlisted) noexcept:
        """Borrowed: a ledger keeps its four fixed nodes."""
        if allowlisted:
            return <PyObject *>self.allowlisted_system_node
        return <PyObject *>self.system_node

    cdef PyObject *transient_of(self, bint allowlisted) noexcept:
        if allowlisted:
            return <PyObject *>self.allowlisted_transient_node
        return <PyObject *>self.transient_node

    cdef _Node new_node(self, int kind, object name, object peer):
        cdef _Node node = _Node.__new__(_Node)
        node.kind = kind
        node.name = name
        node.peer = peer
        self.bind(node)
        return node

    cdef int bind(self, _Node node) except -1:
        """Give it the limit that applies to it."""
        cdef _Limit limit = None
        cdef dict named
        if self.overrides:
            # the tuple may run other code, which may set other limits: ask for those after it
            limit = self.overrides.get((node.kind, node.name, node.peer))
        named = <dict>self.named[node.kind]
        if limit is None and named:
            limit = named.get(node.peer if node.kind == PEER else node.name)
        node.limit = limit
        node.state.limit = &self.defaults[node.kind] if limit is None else &limit.value
        return 0

    cdef _Node pinned(self, dict table, int kind, object name, object peer):
        """The node, made if there is none; `unpin` it. May run other code if it is made."""
        cdef object key = name if peer is None else peer
        cdef PyObject *found = PyDict_GetItemWithError(table, key)
        cdef _Node node
        if found != NULL:
            node = <_Node>found
        else:
            # whoever made it first in the meantime wins
            node = <_Node>PyDict_SetDefault(table, key, self.new_node(kind, name, peer))
        node.pins += 1
        return node

    cdef _Node pinned_member(self, _Node group, int kind, object peer):
        """As `pinned`, of a protocol or service that is pinned."""
        cdef _Node node
        if group.members is None:
            members = {}
            if group.members is None:
                group.members = members
        node = <_Node>group.members.get(peer)
        if node is None:
            fresh = self.new_node(kind, group.name, peer)
            node = <_Node>PyDict_SetDefault(group.members, peer, fresh)
            if node.group is None:
                node.group = group
                group.pins += 1
        node.pins += 1
        return node

    cdef void unpin(self, _Node node) noexcept:
        cdef _Node group = node.group
        if node.kind < FIXED_KINDS:
            return
        node.pins -= 1
        if node.pins > 0:
            return
        if node.kind == PEER:
            del self.peer_nodes[node.peer]
        elif node.kind == PROTOCOL:
            del self.protocol_nodes[node.name]
        elif group is not None:
            del group.members[node.peer]
            node.group = None
            self.unpin(group)
        # services stay: they are few, and named by this program

    cdef bint hand_over(
        self, const rcmgr_amounts *held, rcmgr_scope **old, int old_count, rcmgr_scope **new,
        int new_count, rcmgr_refusal *why,
    ) noexcept:
        if not rcmgr_charge(new, new_count, held, RCMGR_PRIORITY_ALWAYS, why):
            return False
        rcmgr_give_back(old, old_count, held)
        self.raise_peaks()
        return True

    cdef void raise_peaks(self, bint transient=False) noexcept:
        raise_to(self.peaks, self.system_node.state.held.of)
        if transient:
            raise_to(self.transient_peaks, self.transient_node.state.held.of)

    cdef Refusal refused(
        self, rcmgr_refusal *why, int priority, int kind, _Node blamed, int direction
    ):
        cdef Refusal refusal = Refusal.__new__(Refusal)
        refusal.blamed = blamed
        refusal.leaf_kind = NO_KIND
        refusal.what = why.resource
        refusal.priority = priority
        refusal.current = why.held
        refusal.attempted = why.asked
        refusal.limit = why.limit
        self.refusals[kind][why.resource][direction] += 1
        return refusal

    cdef int say_over_released(self, str name, str excess) except -1:
        cdef bint first
        message = f"{name} gave back {excess} more than it held"
        if self.debug:
            raise ValueError(message)
        with cython.critical_section(self):
            first = not self.warned
            self.warned = True
        if first:
            LOG.warning("%s; from now on only counted, in Ledger.over_released", message)
        return 0

    # -- leaves ----------------------------------------------------------------------------------

    cdef object take_connection(
        self, bint inbound, bint fd, bint allowlisted, object peer, object network_share,
    ):
        cdef rcmgr_scope *chain[LONGEST_CHAIN]
        cdef rcmgr_amounts ask
        cdef rcmgr_refusal why
        cdef object result
        cdef ConnScope scope = ConnScope.__new__(ConnScope)
        scope.is_inbound = inbound
        scope.is_allowlisted = allowlisted
        scope.start(self, CONN, &self.defaults[<int>CONN])
        if peer is not None:
            peer = exact_peer(peer)
        memset(&ask, 0, sizeof(ask))
        ask.of[RCMGR_CONNS_INBOUND if scope.is_inbound else RCMGR_CONNS_OUTBOUND] = 1
        ask.of[RCMGR_FD] = fd
        with cython.critical_section(self):
            if peer is not None:
                scope.peer_node = self.pinned(self.peer_nodes, PEER, None, peer)
            self.connections_opened += 1
            scope.number = self.connections_opened
            scope.epoch = self.epoch
            if rcmgr_charge(chain, scope.chain(chain), &ask, RCMGR_PRIORITY_ALWAYS, &why):
                scope.is_open = True
                scope.network_share = network_share
                if scope.peer_node is not None:
                    scope.peer_node.trusted += allowlisted
                self.raise_peaks(True)
                result = scope
            else:
                result = scope.refused(
                    &why, RCMGR_PRIORITY_ALWAYS, False, scope.node_at(chain[why.place])
                )
                if scope.peer_node is not None:
                    self.unpin(scope.peer_node)
        return result

    def try_open_connection(self, inbound=True, bint fd=True, bint allowlisted=False, peer=None):
        """Charge a connection to transient and system: a `ConnScope`, or a `Refusal`.

        fd: it uses a file descriptor (TCP does, QUIC and relayed ones do not).
        allowlisted: charge the allowlisted pair of scopes instead.
        peer: whose it is, if that is known by now: charge the peer instead of transient.
        """
        return self.take_connection(is_true("inbound", inbound), fd, allowlisted, peer, None)

    def open_connection(self, inbound=True, bint fd=True, bint allowlisted=False, peer=None):
        """As `try_open_connection`, but raises ScopeLimitExceeded when refused."""
        result = self.take_connection(is_true("inbound", inbound), fd, allowlisted, peer, None)
        if type(result) is Refusal:
            raise (<Refusal>result).to_error()
        return result

    cdef object take_stream(self, object peer, object inbound, bint allowlisted):
        cdef rcmgr_scope *chain[LONGEST_CHAIN]
        cdef rcmgr_amounts ask
        cdef rcmgr_refusal why
        cdef object result
        cdef StreamScope scope = StreamScope.__new__(StreamScope)
        peer = exact_peer(peer)
        scope.is_inbound = is_true("inbound", inbound)
        scope.is_allowlisted = allowlisted
        scope.start(self, STREAM, &self.defaults[<int>STREAM])
        memset(&ask, 0, sizeof(ask))
        ask.of[RCMGR_STREAMS_INBOUND if scope.is_inbound else RCMGR_STREAMS_OUTBOUND] = 1
        with cython.critical_section(self):
            scope.peer_node = self.pinned(self.peer_nodes, PEER, None, peer)
            self.streams_opened += 1
            scope.number = self.streams_opened
            scope.epoch = self.epoch
            if rcmgr_charge(chain, scope.chain(chain), &ask, RCMGR_PRIORITY_ALWAYS, &why):
                scope.is_open = True
                self.raise_peaks(True)
                result = scope
            else:
                result = scope.refused(
                    &why, RCMGR_PRIORITY_ALWAYS, False, scope.node_at(chain[why.place])
                )
                self.unpin(scope.peer_node)
        return result

    def try_open_stream(self, peer, inbound=True, *, bint allowlisted=False):
        """Charge a stream to its peer, transient and system: a `StreamScope`, or a `Refusal`."""
        return self.take_stream(peer, inbound, allowlisted)

    def open_stream(self, peer, inbound=True, *, bint allowlisted=False):
        """As `try_open_stream`, but raises ScopeLimitExceeded when refused."""
        result = self.take_stream(peer, inbound, allowlisted)
        if type(result) is Refusal:
            raise (<Refusal>result).to_error()
        return result

    def acquire_stream(self, peer, inbound, bint allowlisted=False):
        """A stream that nobody holds a handle of: True, or a `Refusal`.

        Charged to the peer and the (allowlisted) system. For callers that only count, as
        libp2p.rcmgr's API; give it back with `release_stream`.
        """
        return self.take_loose(peer, is_true("inbound", inbound), allowlisted)

    cdef object take_loose(self, object peer, bint inbound, bint allowlisted):
        cdef rcmgr_scope *chain[2]
        cdef rcmgr_amounts ask
        cdef rcmgr_refusal why
        cdef _Node node, system
        cdef object result = True
        peer = exact_peer(peer)
        memset(&ask, 0, sizeof(ask))
        ask.of[RCMGR_STREAMS_INBOUND if inbound else RCMGR_STREAMS_OUTBOUND] = 1
        with cython.critical_section(self):
            node = self.pinned(self.peer_nodes, PEER, None, peer)
            system = <_Node>self.system_of(allowlisted)
            self.streams_opened += 1
            chain[0], chain[1] = &node.state, &system.state
            if rcmgr_charge(chain, 2, &ask, RCMGR_PRIORITY_ALWAYS, &why):
                node.loose[allowlisted][not inbound] += 1
                self.raise_peaks()
            else:
                if why.place == 0:
                    system = node
                result = self.refused(
                    &why, RCMGR_PRIORITY_ALWAYS, system.kind, system,
                    INBOUND if inbound else OUTBOUND,
                )
                self.unpin(node)
        return result

    def release_stream(self, peer, inbound):
        """Give back a stream of `acquire_stream`; False if there is none of this peer.

        Those charged to the normal system go first. That there is none counts in `over_released`,
        and raises ValueError if the ledger has `debug`; but as many as `clear` forgot may still be
        given back: whoever has them cannot know.
        """
        return self.give_loose(peer, is_true("inbound", inbound))

    cdef bint give_loose(self, object peer, bint inbound) except -1:
        cdef rcmgr_scope *chain[2]
        cdef rcmgr_amounts what
        cdef PyObject *found
        cdef _Node node
        cdef bint given = False, allowlisted
        peer = exact_peer(peer)
        memset(&what, 0, sizeof(what))
        what.of[RCMGR_STREAMS_INBOUND if inbound else RCMGR_STREAMS_OUTBOUND] = 1
        with cython.critical_section(self):
            found = PyDict_GetItemWithError(self.peer_nodes, peer)
            if found != NULL:
                node = <_Node>found
                allowlisted = node.loose[False][not inbound] == 0
                if node.loose[allowlisted][not inbound] > 0:
                    node.loose[allowlisted][not inbound] -= 1
                    chain[0] = &node.state
                    chain[1] = &(<_Node>self.system_of(allowlisted)).state
                    rcmgr_give_back(chain, 2, &what)
                    self.unpin(node)
                    given = True
            if not given and self.forgotten_streams > 0:
                self.forgotten_streams -= 1
                return False
            self.over_released += not given
        if not given:
            self.say_over_released(f"peer:{peer_text(peer)}", "1 stream")
        return given

    # -- views -----------------------------------------------------------------------------------

    cdef ScopeView view(self, int kind, object name, object peer):
        cdef ScopeView view = ScopeView.__new__(ScopeView)
        cdef _Node group
        view.start(self, kind, &NO_LIMIT)
        with cython.critical_section(self):
            if kind == PEER:
                view.node = self.pinned(self.peer_nodes, PEER, None, peer)
            elif kind == PROTOCOL or kind == PROTOCOL_PEER:
                view.node = self.pinned(self.protocol_nodes, PROTOCOL, name, None)
            elif kind == SERVICE or kind == SERVICE_PEER:
                view.node = self.pinned(self.service_nodes, SERVICE, name, None)
            elif kind == SYSTEM or kind == ALLOWLISTED_SYSTEM:
                view.node = <_Node>self.system_of(kind == ALLOWLISTED_SYSTEM)
            else:
                view.node = <_Node>self.transient_of(kind == ALLOWLISTED_TRANSIENT)
            if kind == PROTOCOL_PEER or kind == SERVICE_PEER:
                group = view.node
                view.node = self.pinned_member(group, kind, peer)
                self.unpin(group)  # the member pins it
            view.epoch = self.epoch
            view.is_open = True
        return view

    def system(self):
        """A view of everything that is not allowlisted."""
        return self.view(SYSTEM, None, None)

    def transient(self):
        """A view of connections without a peer and streams without a protocol."""
        return self.view(TRANSIENT, None, None)

    def allowlisted_system(self):
        return self.view(ALLOWLISTED_SYSTEM, None, None)

    def allowlisted_transient(self):
        return self.view(ALLOWLISTED_TRANSIENT, None, None)

    def peer(self, peer):
        return self.view(PEER, None, exact_peer(peer))

    def protocol(self, protocol):
        return self.view(PROTOCOL, exact_name("protocol", protocol), None)

    def service(self, service):
        return self.view(SERVICE, exact_name("service", service), None)

    def protocol_peer(self, protocol, peer):
        """A view of one peer's share of a protocol. Memory is charged to both and the system."""
        return self.view(PROTOCOL_PEER, exact_name("protocol", protocol), exact_peer(peer))

    def service_peer(self, service, peer):
        """A view of one peer's share of a service. Memory is charged to both and the system."""
        return self.view(SERVICE_PEER, exact_name("service", service), exact_peer(peer))

    # -- limits ----------------------------------------------------------------------------------

    def set_limits(self, limits):
        """Use other limits from now on; O(scopes).

        All or nothing: TypeError, ValueError or AttributeError leave everything as it was. More
        may be held than they allow; nothing is taken away. What `ScopeView.set_limit` said of a
        peer, protocol or service stays; of the system and its like it does not.
        """
        cdef rcmgr_limit defaults[KINDS]
        cdef list named = []
        cdef int kind
        cdef _Limit limit
        cdef _Node node
        for kind in range(<int>KINDS):
            default, particular = LIMIT_NAMES[kind]
            read_limit(getattr(limits, default), &defaults[kind])
            table = {}
            if particular is not None:
                for key, value in getattr(limits, particular).items():
                    limit = _Limit.__new__(_Limit)
                    read_limit(value, &limit.value)
                    exact = exact_peer(key) if kind == PEER else exact_name(particular, key)
                    table[exact] = limit
            named.append(table)
        with cython.critical_section(self):
            for kind in range(<int>KINDS):
                self.defaults[kind] = defaults[kind]
            _old = self.named  # freed after the nodes that use it are bound anew
            self.named = named
            everything = list(self.peer_nodes.values())
            for table in (self.protocol_nodes, self.service_nodes):
                for node in table.values():
                    everything.append(node)
                    if node.members is not None:
                        everything += node.members.values()
            for node in everything:
                self.bind(node)

    cdef int override(self, ScopeView view, object limit) except -1:
        cdef _Limit box = None
        cdef _Node node = view.node
        cdef tuple key = (node.kind, node.name, node.peer)
        cdef bint closed
        if limit is not None:
            box = _Limit.__new__(_Limit)
            read_limit(limit, &box.value)
        elif node.kind < FIXED_KINDS:
            raise TypeError(f"{node.text()} has no default limit to go back to")
        with cython.critical_section(self):
            closed = not view.live()
            if not closed:
                if node.kind < FIXED_KINDS:
                    self.defaults[node.kind] = box.value
                elif box is not None:
                    self.overrides[key] = box
                else:
                    self.overrides.pop(key, None)
                self.bind(node)
        if closed:
            raise ResourceScopeClosed(view.name)
        return 0

    # -- what there is ---------------------------------------------------------------------------

    def has_allowlisted_connection(self, peer):
        """Whether a connection of this peer is charged to the allowlisted scopes. O(1)."""
        return self.is_trusted(peer)

    cdef bint is_trusted(self, object peer) except -1:
        cdef PyObject *found
        cdef bint trusted = False
        peer = exact_peer(peer)
        with cython.critical_section(self):
            found = PyDict_GetItemWithError(self.peer_nodes, peer)
            if found != NULL:
                trusted = (<_Node>found).trusted > 0
        return trusted

    def peers(self):
        """Keys of the peers that hold something or are viewed, in order."""
        with cython.critical_section(self):
            keys = list(self.peer_nodes)
        return sorted(keys, key=lambda key: (type(key).__name__, key))

    def protocols(self):
        """The protocols in use or viewed, in order."""
        with cython.critical_section(self):
            keys = list(self.protocol_nodes)
        return sorted(keys)

    def services(self):
        """The services that were used or viewed since the start, in order."""
        with cython.critical_section(self):
            keys = list(self.service_nodes)
        return sorted(keys)

    @property
    def refused(self):
        """How often each kind of scope refused what: {"system": {"inbound stream": 3}}."""
        shown = {}
        for (kind, what, _), times in self.refusals_now().items():
            of_kind = shown.setdefault(KIND_NAMES[kind], {})
            of_kind[RESOURCE_TEXTS[what]] = of_kind.get(RESOURCE_TEXTS[what], 0) + times
        return shown

    @property
    def blocked(self):
        """The same by direction: {(direction, kind of scope, resource): times}.

        direction: "inbound", "outbound", or "" for memory of what has none. resource: a field of a
        limit.
        """
        return {
            (DIRECTION_NAMES[way], KIND_NAMES[kind], RESOURCE_FIELDS[what]): times
            for (kind, what, way), times in self.refusals_now().items()
        }

    cdef dict refusals_now(self):
        cdef int64_t refusals[KINDS][RCMGR_RESOURCES][DIRECTIONS]
        cdef int kind, what, way
        with cython.critical_section(self):
            refusals = self.refusals
        return {
            (kind, what, way): refusals[kind][what][way]
            for kind in range(<int>KINDS)
            for what in range(<int>RCMGR_RESOURCES)
            for way in range(<int>DIRECTIONS)
            if refusals[kind][what][way]
        }

    @property
    def peak(self):
        """The most that the system scope ever held, by the names of a limit's fields."""
        return self.peaks_shown(self.peaks)

    @property
    def transient_peak(self):
        """The most that the transient scope ever held."""
        return self.peaks_shown(self.transient_peaks)

    cdef dict peaks_shown(self, const int64_t *peaks):
        cdef int64_t seen[RCMGR_RESOURCES]
        cdef int i
        with cython.critical_section(self):
            memcpy(seen, peaks, sizeof(seen))
        return {RESOURCE_FIELDS[i]: seen[i] for i in range(RCMGR_RESOURCES)}

    @property
    def leaked_at(self):
        """Where leaked handles were made, and how many; only with `trace_allocations`."""
        with cython.critical_section(self):
            places = dict(self.places)
        return places

    def snapshot(self, bint peers=True):
        """All groups at one moment: what they hold, their limits, and percentages of them.

        Ready for JSON. Peers are named by their text; peers=False leaves them out, and their shares
        of protocols and services. O(groups), the lock is held for about 20 ns each, and 40 us a
        peer are spent beyond it; limits and percentages are given where there is a limit.
        """
        cdef _Rows rows = self.rows()
        cdef size_t i
        cdef _Node node
        cdef dict shown = {}, protocols = {}, services = {}, by_peer = {}
        for i in range(rows.count):
            node = <_Node>rows.at[i].node
            if not peers and node.peer is not None:
                continue
            row = row_shown(&rows.at[i])
            if node.kind == PEER:
                by_peer[peer_text(node.peer)] = row
            elif node.kind == PROTOCOL or node.kind == SERVICE:
                row["peers"] = {}
                (protocols if node.kind == PROTOCOL else services)[node.name] = row
            elif node.kind == PROTOCOL_PEER or node.kind == SERVICE_PEER:
                table = protocols if node.kind == PROTOCOL_PEER else services
                table[node.name]["peers"][peer_text(node.peer)] = row
            else:
                shown[LIMIT_NAMES[node.kind][0]] = row
        shown["services"] = services
        shown["protocols"] = protocols
        shown["peers"] = by_peer
        return shown

    def peer_stats(self):
        """What each peer holds, in no order and without its name. O(peers), 0.3 us each."""
        cdef _Rows rows = self.rows()
        cdef size_t i
        return [
            stat_of(&rows.at[i].held)
            for i in range(rows.count) if (<_Node>rows.at[i].node).kind == PEER
        ]

    def fullest(self, size_t most=20, bint peers=True):
        """The limits nearest to being reached: (scope, field of the limit, used, limit), in order.

        Of all groups at one moment; limits under which nothing is held are left out. peers: also
        those of single peers, of which a busy node has many that are full. O(groups).
        """
        cdef _Rows rows = self.rows()
        cdef size_t i, place
        cdef int what
        cdef double share
        cdef int64_t used, limit
        cdef list found = []  # (share, row, resource), the fullest first, never more than `most`
        for i in range(rows.count if most > 0 else 0):
            if not peers and (<_Node>rows.at[i].node).peer is not None:
                continue
            for what in range(<int>RCMGR_RESOURCES):
                used = used_of(&rows.at[i], what)
                limit = rows.at[i].limit.of[what]
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
                (<_Node>rows.at[i].node).text(), RESOURCE_FIELDS[what],
                used_of(&rows.at[i], what), rows.at[i].limit.of[what],
            ))
        return shown

    cdef _Rows rows(self):
        cdef _Rows rows = _Rows.__new__(_Rows)
        cdef size_t room
        cdef bint complete = False
        while not complete:
            PyMem_Free(rows.at)
            with cython.critical_section(self):
                room = self.group_count()
            room += room // 8 + 16
            rows.at = <Row *>PyMem_Malloc(room * sizeof(Row))
            if rows.at == NULL:
                raise MemoryError
            with cython.critical_section(self):
                # nothing in here allocates: no finalizer runs, no other thread gets in
                complete = self.group_count() <= room
                if complete:
                    rows.count = self.fill(rows.at)
        return rows

    cdef size_t group_count(self) noexcept:
        cdef size_t count = FIXED_KINDS + len(self.peer_nodes)
        cdef _Node node
        for table in (self.protocol_nodes, self.service_nodes):
            for node in (<dict>table).values():
                count += 1
                if node.members is not None:
                    count += len(node.members)
        return count

    cdef size_t fill(self, Row *rows) noexcept:
        cdef size_t count = 0
        cdef _Node node, member
        count = put_row(rows, count, self.system_node)
        count = put_row(rows, count, self.transient_node)
        count = put_row(rows, count, self.allowlisted_system_node)
        count = put_row(rows, count, self.allowlisted_transient_node)
        for node in self.peer_nodes.values():
            count = put_row(rows, count, node)
        for node in self.protocol_nodes.values():
            count = put_row(rows, count, node)
            if node.members is not None:
                for member in node.members.values():
                    count = put_row(rows, count, member)
        for node in self.service_nodes.values():
            count = put_row(rows, count, node)
            if node.members is not None:
                for member in node.members.values():
                    count = put_row(rows, count, member)
        return count

    def clear(self, ScopeView keep=None):
        """Forget everything that is held. All handles are closed by this; limits stay. O(scopes).

        keep: a view of the system, which stays open with the memory that was reserved through it
        (not that of its spans). ValueError: a view of something else, or of another ledger.
        Numbers of connections and streams go on; peaks and counts of refusals stay.
        """
        cdef _Node node, member
        cdef tuple tables = ({}, {}, {}), fixed
        cdef dict protocols, services, _peers
        cdef int64_t kept = 0
        cdef int row
        if keep is not None and keep.node is not self.system_node:
            raise ValueError(f"keep must be a view of this ledger's system, not {keep!r}")
        fixed = (
            self.system_node, self.transient_node, self.allowlisted_system_node,
            self.allowlisted_transient_node,
        )
        with cython.critical_section(self):
            # nothing in here allocates: no finalizer runs, no other thread gets in
            if keep is not None and keep.live():
                kept = keep.state.held.of[RCMGR_MEMORY] - keep.in_spans
                keep.epoch += 1
            for node in fixed:
                memset(&node.state.held, 0, sizeof(node.state.held))
            _peers, self.peer_nodes = self.peer_nodes, <dict>tables[0]
            protocols, self.protocol_nodes = self.protocol_nodes, <dict>tables[1]
            services, self.service_nodes = self.service_nodes, <dict>tables[2]
            self.epoch += 1
            if keep is not None and keep.live():
                keep.in_spans = 0
                keep.state.held.of[RCMGR_MEMORY] = kept
                keep.node.state.held.of[RCMGR_MEMORY] = kept
        with cython.critical_section(self):
            for node in _peers.values():
                for row in range(2):
                    self.forgotten_streams += <int64_t>node.loose[row][0] + node.loose[row][1]
        for table in (protocols, services):
            for node in (<dict>table).values():
                if node.members is not None:
                    for member in node.members.values():
                        member.group = None  # a cycle, and nobody else would break it
                    node.members = None

    def _noop(self):
        """Nothing: the cost of a call, for benchmarks."""

    def __repr__(self):
        return (
            f"Ledger({self.system().stat()}, {len(self.peer_nodes)} peers, "
            f"{len(self.protocol_nodes)} protocols, {len(self.service_nodes)} services)"
        )


cdef object try_open_connection(
    object ledger, bint inbound, bint fd, bint allowlisted, object peer, object network_share,
):
    return (<Ledger?>ledger).take_connection(inbound, fd, allowlisted, peer, network_share)


cdef object try_set_peer(object scope, object peer, bint allowlisted, object network_share):
    refusal = (<ConnScope?>scope).take_peer(peer, allowlisted, network_share)
    return True if refusal is None else refusal


cdef bint has_network_share(object scope) except -1:
    return (<ConnScope?>scope).network_share is not None


cdef object acquire_stream(object ledger, object peer, bint inbound, bint allowlisted):
    return (<Ledger?>ledger).take_loose(peer, inbound, allowlisted)


cdef bint release_stream(object ledger, object peer, bint inbound) except -1:
    return (<Ledger?>ledger).give_loose(peer, inbound)


cdef bint has_allowlisted_connection(object ledger, object peer) except -1:
    return (<Ledger?>ledger).is_trusted(peer)


cdef void raise_to(int64_t *peaks, const int64_t *held) noexcept:
    cdef int64_t streams = held[RCMGR_STREAMS_INBOUND] + held[RCMGR_STREAMS_OUTBOUND]
    cdef int64_t conns = held[RCMGR_CONNS_INBOUND] + held[RCMGR_CONNS_OUTBOUND]
    cdef int i
    for i in range(<int>RCMGR_AMOUNTS):
        peaks[i] = max(peaks[i], held[i])
    peaks[RCMGR_STREAMS] = max(peaks[RCMGR_STREAMS], streams)
    peaks[RCMGR_CONNS] = max(peaks[RCMGR_CONNS], conns)


cdef size_t put_row(Row *rows, size_t count, _Node node) noexcept:
    Py_INCREF(node)
    rows[count].node = <PyObject *>node
    rows[count].held = node.state.held
    rows[count].limit = node.state.limit[0]
    return count + 1
