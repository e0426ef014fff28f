"""The ledger: who holds what, in scopes that nest, each under a limit.

A connection or a stream is a leaf. One call charges a leaf and every group above it (its chain), or
charges nothing. A group (system, transient, a peer, a protocol, ...) exists while a leaf, a view or
a span points at it. So nothing sweeps, and an idle peer goes with its last handle.

The names and the order of a chain are those of go-libp2p's resource manager. docs/scopes.md says
where the rules differ, and why.

One lock guards everything: the ledger's critical section, which is free on builds with a GIL. Keys
are exact `bytes`, `str` or `int`: no lookup runs Python code between check and take. The garbage
collector does not know groups and handles: making one cannot run a finalizer under the lock.
"""

cimport cython
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import logging
import sys
from enum import IntEnum

from rcmgr.errors import ResourceScopeClosed

from rcmgr.counting._pointer_table cimport (
    RCMGR_TABLE_END, RCMGR_TABLE_NO_ROOM, rcmgr_table, rcmgr_table_expect, rcmgr_table_expect_item,
    rcmgr_table_walk,
)
from rcmgr.counting._prefetch cimport rcmgr_prefetch_object
from rcmgr.counting._scope cimport (
    RCMGR_CONNS, RCMGR_CONNS_INBOUND, RCMGR_CONNS_OUTBOUND, RCMGR_FD, RCMGR_MEMORY,
    RCMGR_PRIORITY_ALWAYS, RCMGR_RESOURCES, RCMGR_STREAMS, RCMGR_STREAMS_INBOUND,
    RCMGR_STREAMS_OUTBOUND, RCMGR_UNLIMITED, rcmgr_add, rcmgr_all_held, rcmgr_amounts,
    rcmgr_chain_admits, rcmgr_charge, rcmgr_give_back, rcmgr_held, rcmgr_hold_nothing,
    rcmgr_is_nothing, rcmgr_limit, rcmgr_pin, rcmgr_pins_of, rcmgr_refusal, rcmgr_scope,
    rcmgr_scope_refuses, rcmgr_unpin,
)
from rcmgr.counting.denials cimport DenialLog
from rcmgr.counting._event_ring cimport (
    RCMGR_EV_CHARGE, RCMGR_EV_CLOSE, RCMGR_EV_CLOSE_STREAM, RCMGR_EV_CONN_MEMORY, RCMGR_EV_EXEMPT,
    RCMGR_EV_FD, RCMGR_EV_FORGET, RCMGR_EV_FORGET_ALL, RCMGR_EV_GIVE_CONN_MEMORY,
    RCMGR_EV_GIVE_MEMORY, RCMGR_EV_GIVE_STREAM, RCMGR_EV_GIVE_STREAM_MEMORY, RCMGR_EV_INBOUND,
    RCMGR_EV_KNOWN, RCMGR_EV_MEMORY, RCMGR_EV_NO_FD, RCMGR_EV_PROTOCOL, RCMGR_EV_SERVICE,
    RCMGR_EV_SET_PEER, RCMGR_EV_STREAM, RCMGR_EV_STREAM_MEMORY, RCMGR_EV_TAKE_STREAM,
)
from rcmgr.counting.event_ring cimport EventRing
from rcmgr.counting.groups cimport (
    ALLOWLISTED_SYSTEM, ALLOWLISTED_TRANSIENT, BY_LIMITER, BY_SET_LIMIT, CONN, DIRECTIONS,
    FIXED_KINDS, INBOUND, KIND_NAMES, KINDS, LIMIT_NAMES, NO_DIRECTION, NO_KIND, OUTBOUND, PEER,
    PROTOCOL, PROTOCOL_PEER, RESOURCE_FIELDS, SERVICE, SERVICE_PEER, STREAM, SYSTEM, TRANSIENT,
    Group, GroupLimit, GroupTable, NamedGroup, Refusal, code_of, code_of_kind, find as find_group,
    found_or_added, group_kind, groups_in, hash_of, kind_of, leaf_name, name_of, new_group,
    new_refusal, read_limit, remove as remove_group, text_of,
)
from rcmgr.counting.reading cimport (
    MOST_ROWS, DistributionReader, FullestReader, KeysReader, LargestReader, Reader, Reading,
    SnapshotReader, StatsReader, UnderReader, new_distributions, new_fullest, new_keys, new_largest,
    new_snapshot, new_stats, new_under,
    refused_by_direction, refused_by_kind, stat_of,
)
from rcmgr.peers cimport LONGEST_NAME, bounded_name, exact_peer, peer_text

from rcmgr.counting.pacing import in_order

__all__ = [
    "ConnScope",
    "Ledger",
    "Priority",
    "Scope",
    "ScopeView",
    "Span",
    "StreamScope",
]


class Priority(IntEnum):
    """How much of a memory limit a reservation may fill: (1 + priority) / 256. Any int of 0 to 255.

    LOW: 40 %. MEDIUM: 60 %. HIGH: 80 %. ALWAYS: the whole limit.
    """

    LOW = 101
    MEDIUM = 152
    HIGH = 203
    ALWAYS = RCMGR_PRIORITY_ALWAYS


cdef enum:
    LONGEST_CHAIN = 7  # a stream with a service
    DEEPEST_SPAN = 64
    POWERS = 64
    HALF_OF_ANSWERS = 1024

cdef rcmgr_limit NO_LIMIT
for _index in range(RCMGR_RESOURCES):
    NO_LIMIT.of[_index] = RCMGR_UNLIMITED

cdef object NOT_ASKED = object()
cdef object LOG = logging.getLogger("rcmgr.counting.scope")


cdef bint is_true(str name, object value) except -1:
    # the text "outbound" would be true, and so inbound
    if value is True:
        return True
    if value is False:
        return False
    raise TypeError(f"{name} must be True or False, not {value!r}")


cdef str exact_name(str what, object name):
    if isinstance(name, str):
        if type(name) is not str:
            name = str.__str__(name)
        return name if len(<str>name) <= LONGEST_NAME else bounded_name(name)
    raise TypeError(f"a {what} must be a str, not {name!r}")


cdef int64_t checked_size(object size) except -1:
    # OverflowError from 2**63; a size of 0 is fine
    cdef int64_t value = PyNumber_Index(size)
    if value < 0:
        raise ValueError(f"can't reserve negative memory. rsvp={value}")
    return value


cdef int checked_priority(object priority) except -1:
    cdef int value = PyNumber_Index(priority)
    if not 0 <= value <= 255:
        raise ValueError(f"priority must be 0 to 255, not {priority}")
    return value


cdef object granted(object answer):
    """The answer; a refusal raises its error."""
    if type(answer) is Refusal:
        raise (<Refusal>answer).to_error()
    return answer


cdef class Binder
cdef class Ledger
cdef class Walk

# bits of `Scope.holds`
cdef enum:
    IS_OPEN = 1         # not so in a bare __new__
    HAS_DESCRIPTOR = 2  # a connection that uses a file descriptor


@cython.final
@cython.no_gc
cdef class Extras:
    """Things that few scopes have: an own limit, memory, spans, a place."""

    cdef GroupLimit own     # by `set_limit`
    cdef str opened_at
    cdef int64_t memory     # with that of its spans
    cdef int64_t in_spans   # how much memory its spans hold
    cdef uint32_t spans     # begun so far


@cython.no_gc
@cython.binding(False)  # 10 ns less per call; the clinic format keeps signatures
cdef class Scope:
    """Scope()\n--\n
    The base of all handles: a handle holds resources until `close`, and reserves memory.

    A `Ledger` or another scope makes it; the class itself makes nothing. A context manager: leaving
    it closes it. A handle that is garbage-collected unclosed closes itself, and counts as leaked if
    it held anything. Every method is O(1), does all or nothing, and is thread safe.
    """

    # The lock of the ledger guards everything that changes after `start`. The ledger itself, the
    # kind, the direction, the number and what encloses it are constant.
    #
    # There is one for each connection and each stream. So it has 48 bytes with its head, and what a
    # connection or stream itself holds is in `extras`, `kind`, `direction` and `holds`.
    cdef Ledger ledger
    cdef Extras extras      # None: it has no memory either
    cdef uint64_t number    # connections, streams and spans count from 1
    cdef uint32_t epoch     # the ledger's epoch when this was made; `Ledger.clear` begins a new one
    cdef unsigned char holds      # bits: IS_OPEN, HAS_DESCRIPTOR
    cdef unsigned char kind
    cdef unsigned char direction  # NO_DIRECTION: no connection, no stream
    cdef unsigned char is_exempt  # a connection or stream charged to the allowlisted scopes

    # leaves, views and spans differ in these methods

    # everything else

    def _leak(self):
        """Count it as leaked: its owner is garbage and had not closed it."""
        if self.ledger is not None:
            count_leak(self)

    @property
    def name(self):
        """As in errors, logs and metrics: "conn-7", "peer:12D3K...", "stream-1.span-2"."""
        cdef Group viewed = viewed_by(self)
        cdef Scope owner = enclosing(self)
        if owner is not None:
            return f"{owner.name}.span-{self.number}"
        if self.ledger is None:
            return "scope"
        return leaf_name(self.kind, self.number) if viewed is None else text_of(viewed)

    @property
    def closed(self):
        """Whether it was closed, or its enclosing scope was, or `Ledger.clear` forgot it."""
        cdef bint live
        if self.ledger is None:
            return True
        with cython.critical_section(self.ledger):
            live = is_live(self)
        return not live

    def stat(self):
        """The amounts it holds now (a view: those of its group); zeros once closed."""
        cdef rcmgr_amounts held
        memset(&held, 0, sizeof(held))
        if self.ledger is not None:
            with cython.critical_section(self.ledger):
                if is_live(self):
                    viewed = viewed_by(self)
                    held = held_by(self) if viewed is None else rcmgr_all_held(&viewed.state)
        return stat_of(&held)

    def try_reserve_memory(self, size, priority=255):
        """Take `size` bytes, here and in every scope above: True, or a `Refusal`.

        priority: 0 to 255. Each scope admits it only up to (1 + priority) / 256 of its limit.
        ValueError: negative size, or such a priority. OverflowError: from 2**63.
        ResourceScopeClosed: closed.
        """
        return take_memory(self, checked_size(size), checked_priority(priority))

    def reserve_memory(self, size, priority=255):
        """As `try_reserve_memory`, but raises ScopeLimitExceeded when refused."""
        granted(take_memory(self, checked_size(size), checked_priority(priority)))

    def release_memory(self, size):
        """Give `size` bytes back. Ignored once closed: closing has given back everything.

        A scope gives back only what it took itself, not what its spans took. The excess increments
        `Ledger.over_released` and is ignored. In a ledger with `debug` it raises ValueError.
        ValueError: negative.
        """
        cdef int64_t excess = 0, wanted = size
        if wanted < 0:
            raise ValueError(f"can't release negative memory: {size}")
        if self.ledger is None:
            return
        with cython.critical_section(self.ledger):
            if is_live(self):
                excess = give_memory(self, wanted)
                self.ledger.over_released += min(excess, INT64_MAX - self.ledger.over_released)
        if excess > 0:
            self.ledger.say_over_released(self.name, f"{excess} bytes")

    def begin_span(self):
        """A part of this scope that gives back what it took when it is closed.

        Closing a connection, a stream or a span closes its spans. A span of a view is a part of the
        view's group, and outlives the view. Spans nest at most 64 deep (ValueError).
        ResourceScopeClosed: closed.
        """
        cdef Span span
        cdef bint closed
        cdef int depth = 0
        cdef Scope scope = enclosing(self)
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        while scope is not None:
            depth += 1
            scope = enclosing(scope)
        if depth >= DEEPEST_SPAN:
            raise ValueError(f"spans nest at most {DEEPEST_SPAN} deep")
        span = Span.__new__(Span)
        start(span, self.ledger, self.kind)
        span.owner = new_span_owner(self)
        with cython.critical_section(self.ledger):
            closed = not is_live(self)
            if not closed:
                made_extras(self)
                self.extras.spans += 1
                span.number = self.extras.spans
                span.epoch = self.epoch
                span.holds = IS_OPEN
                made_extras(span.owner)  # for the memory in spans
                if span.owner is not self:
                    self.ledger.open_twin(<ScopeView>span.owner, <ScopeView>self)
        if closed:
            raise ResourceScopeClosed(self.name)
        return span

    @property
    def limit(self):
        """The limits that apply to it, by name; None: no limit.

        Those of a view are the limits of its group. A span has those of its owner, until
        `set_limit`.
        """
        cdef rcmgr_limit limit = NO_LIMIT
        cdef Group viewed
        cdef Scope scope = self
        if self.ledger is not None:
            with cython.critical_section(self.ledger):
                while enclosing(scope) is not None and not has_limit(scope):
                    scope = enclosing(scope)
                viewed = viewed_by(scope)
                limit = limit_now(scope)[0] if viewed is None else viewed.state.limit[0]
        return {
            RESOURCE_FIELDS[i]: None if limit.of[i] == RCMGR_UNLIMITED else limit.of[i]
            for i in range(<int>RCMGR_RESOURCES)
        }

    def set_limit(self, limit):
        """Set the limits (a `Limit`) of this connection, stream or span. None: the default again.

        It may hold more than the limits, and keeps it. They end with it. Only memory can be taken
        later, so they limit its memory. A span also stays within the limits of its owner.
        ResourceScopeClosed: closed.
        """
        cdef GroupLimit own = None
        cdef bint closed
        if limit is not None:
            own = read_limit(limit)
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        with cython.critical_section(self.ledger):
            closed = not is_live(self)
            if not closed and (own is not None or self.extras is not None):
                _old = made_extras(self).own  # freed outside of the lock
                self.extras.own = own
        if closed:
            raise ResourceScopeClosed(self.name)

    def close(self):
        """Give back all that it holds, with its spans' memory. Does nothing a second time."""
        if self.ledger is None:
            return
        with cython.critical_section(self.ledger):
            end(self)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.close()

    def __repr__(self):
        if self.closed:
            return f"{type(self).__name__}({self.name!r}, closed)"
        return f"{type(self).__name__}({self.name!r}, {self.stat()})"


# -- scopes of each kind ------------------------------------------------------------------------

# Functions, not methods: a pointer to a table of methods would take 8 bytes in each scope.

cdef int groups_of(Scope scope, PyObject **groups) noexcept:
    """Fill in the groups to charge, borrowed and in order; returns how many. Locked."""
    if type(scope) is ConnScope:
        return groups_of_connection(<ConnScope>scope, groups)
    if type(scope) is StreamScope:
        return groups_of_stream(<StreamScope>scope, groups)
    if type(scope) is ScopeView:
        return groups_of_view(<ScopeView>scope, groups)
    return 0


cdef inline int groups_of_connection(ConnScope scope, PyObject **groups) noexcept:
    if scope.peer_group is not None:
        groups[0] = <PyObject *>scope.peer_group
    else:
        groups[0] = scope.ledger.transient_of(scope.is_exempt)
    groups[1] = scope.ledger.system_of(scope.is_exempt)
    return 2


cdef int groups_of_stream(StreamScope scope, PyObject **groups) noexcept:
    cdef int count = 2
    groups[0] = <PyObject *>scope.peer_group
    if scope.protocol_group is None:
        groups[1] = scope.ledger.transient_of(scope.is_exempt)
    else:
        groups[1] = <PyObject *>scope.protocol_share
        if scope.service_group is not None:
            groups[count] = <PyObject *>scope.service_share
            count += 1
        groups[count] = <PyObject *>scope.protocol_group
        count += 1
        if scope.service_group is not None:
            groups[count] = <PyObject *>scope.service_group
            count += 1
    groups[count] = scope.ledger.system_of(scope.is_exempt)
    return count + 1


cdef int groups_of_view(ScopeView scope, PyObject **groups) noexcept:
    cdef int kind = group_kind(scope.group), count = 1
    cdef NamedGroup whole = whole_of(scope.group)
    groups[0] = <PyObject *>scope.group
    if whole is not None:
        groups[count] = <PyObject *>whole
        count += 1
    if kind == SYSTEM or kind == ALLOWLISTED_SYSTEM:
        return count
    groups[count] = scope.ledger.system_of(kind == ALLOWLISTED_TRANSIENT)
    return count + 1


cdef void unpin_groups(Scope scope) noexcept:
    """Unpin the groups. Locked."""
    cdef StreamScope stream
    cdef Group peer
    if type(scope) is ConnScope:
        peer = (<ConnScope>scope).peer_group
        if peer is not None:
            peer.exempt_connections -= scope.is_exempt
            scope.ledger.unpin(peer)
    elif type(scope) is StreamScope:
        stream = <StreamScope>scope
        scope.ledger.unpin(stream.peer_group)
        if stream.service_group is not None:
            scope.ledger.unpin(stream.service_share)
            scope.ledger.unpin(stream.service_group)
        if stream.protocol_group is not None:
            scope.ledger.unpin(stream.protocol_share)
            scope.ledger.unpin(stream.protocol_group)
    elif type(scope) is ScopeView:
        scope.ledger.unpin((<ScopeView>scope).group)
    elif type(enclosing(scope)) is ScopeView:
        end(enclosing(scope))


cdef inline Scope enclosing(Scope scope):
    """The scope that contains a span; None: this is no span."""
    return (<Span>scope).owner if type(scope) is Span else None


cdef inline Group viewed_by(Scope scope):
    """The group that a view shows; None: this is no view."""
    return (<ScopeView>scope).group if type(scope) is ScopeView else None


cdef Scope new_span_owner(Scope scope):
    """The scope that contains a new span.

    The view that a caller has may be closed before the span. So it is another one, not open yet.
    """
    cdef ScopeView twin
    if type(scope) is not ScopeView:
        return scope
    twin = ScopeView.__new__(ScopeView)
    start(twin, scope.ledger, scope.kind)
    return twin


# -- all scopes ---------------------------------------------------------------------------------

cdef inline int64_t memory_of(Scope scope) noexcept:
    """How much memory it holds itself. Locked."""
    return 0 if scope.extras is None else scope.extras.memory


cdef int start(Scope self, Ledger ledger, int kind) except -1:
    self.kind = kind
    self.ledger = ledger
    note_place(self)
    return 0


cdef inline void begin(
    Scope self, Ledger ledger, int kind, int direction, uint64_t number, bint has_descriptor,
) noexcept:
    """Open a connection or a stream, which is charged. Locked."""
    self.kind = kind
    self.direction = direction
    self.number = number
    self.epoch = ledger.epoch
    self.holds = IS_OPEN | (HAS_DESCRIPTOR if has_descriptor else 0)
    self.ledger = ledger


cdef inline int note_place(Scope self) except -1:
    if self.ledger.trace_allocations:
        made_extras(self).opened_at = caller()
    return 0


cdef Extras made_extras(Scope self):
    if self.extras is None:
        self.extras = Extras.__new__(Extras)
    return self.extras


cdef const rcmgr_limit *limit_now(Scope self) noexcept:
    """Its own limit, or that of all connections or streams; without one NO_LIMIT. Locked."""
    if self.extras is not None and self.extras.own is not None:
        return &self.extras.own.value
    return &NO_LIMIT if self.direction == NO_DIRECTION else &self.ledger.defaults[self.kind]


cdef bint has_limit(Scope self) noexcept:
    return self.extras is not None and self.extras.own is not None


cdef rcmgr_amounts held_by(Scope self) noexcept:
    """The amounts that it holds itself. Locked."""
    cdef rcmgr_amounts held
    memset(&held, 0, sizeof(held))
    held.of[RCMGR_MEMORY] = memory_of(self)
    if self.direction != NO_DIRECTION and self.holds & IS_OPEN:
        held.of[(RCMGR_CONNS_INBOUND if self.kind == CONN else RCMGR_STREAMS_INBOUND)
                + (self.direction == OUTBOUND)] = 1
        held.of[RCMGR_FD] = (self.holds & HAS_DESCRIPTOR) != 0
    return held


cdef int chain_of(Scope self, rcmgr_scope *own, rcmgr_scope **chain) noexcept:
    """Fill in the scopes to charge with memory; returns how many. Locked.

    The first one is `own`, with the memory and the limit of this one.
    """
    cdef PyObject *groups[LONGEST_CHAIN]
    cdef int i, count = groups_of(self, groups)
    own.limit = limit_now(self)
    rcmgr_hold_nothing(own)
    own.memory = memory_of(self)
    chain[0] = own
    for i in range(count):
        chain[i + 1] = &(<Group>groups[i]).state
    return count + 1


cdef bint is_live(Scope self) noexcept:
    cdef Scope owner
    if not self.holds & IS_OPEN or self.epoch != self.ledger.epoch:
        return False
    owner = enclosing(self)
    return owner is None or is_live(owner)


cdef Refusal describe(Scope self, const rcmgr_refusal *why, int priority):
    """A refusal by a scope of the chain. Locked."""
    cdef PyObject *groups[LONGEST_CHAIN]
    cdef Group viewed = viewed_by(self), blamed = viewed
    cdef Refusal refusal
    if why.place > 0:
        groups_of(self, groups)
        blamed = <Group>groups[why.place - 1]
    refusal = new_refusal(why, priority, blamed, self.kind, self.number, viewed)
    if blamed is None and has_limit(self):
        refusal.origin = BY_SET_LIMIT
    return refusal


cdef Refusal memory_refused(
    Scope self, rcmgr_scope **chain, int count, const rcmgr_amounts *ask, int priority,
    rcmgr_refusal *why, bint *taken,
):
    """As `Ledger.refuse`, for the chain of this base."""
    cdef PyObject *groups[LONGEST_CHAIN]
    cdef Refusal refusal = describe(self, why, priority)
    taken[0] = False
    if self.ledger.only_reports(refusal):
        groups[0] = NULL
        groups_of(self, groups + 1)
        taken[0] = self.ledger.charge_beyond(
            chain, groups, self.kind, count, ask, priority, why)
        if not taken[0]:
            refusal = describe(self, why, priority)
    return refusal


cdef object take_memory(Scope self, int64_t size, int priority):
    """True, or a Refusal."""
    cdef rcmgr_scope *chain[LONGEST_CHAIN]
    cdef rcmgr_scope own
    cdef rcmgr_amounts ask
    cdef rcmgr_refusal why
    cdef Refusal refusal = None, found  # by the limit that refuses, or would refuse
    cdef Scope base = self, scope, blamed = None
    cdef bint closed, taken = True
    cdef int count
    cdef object peer = None
    memset(&ask, 0, sizeof(ask))
    ask.of[RCMGR_MEMORY] = size
    if self.ledger is None:
        raise ResourceScopeClosed("scope")
    with cython.critical_section(self.ledger):
        closed = not is_live(self)
        if not closed:
            made_extras(base)  # for the memory
            while (scope := enclosing(base)) is not None:
                base = scope
                made_extras(base)
            scope = self
            while taken and scope is not base:
                if has_limit(scope) and refuses_memory(scope, &ask, priority, &why):
                    found = refusal_of_span(&why, priority)
                    taken = self.ledger.only_reports(found)
                    if refusal is None or not taken:
                        refusal, blamed = found, scope
                scope = enclosing(scope)
            if taken:
                count = chain_of(base, &own, chain)
                if not rcmgr_charge(chain, count, &ask, priority, &why):
                    found = memory_refused(base, chain, count, &ask, priority, &why, &taken)
                    if refusal is None or not taken:
                        refusal, blamed = found, base
            if taken:
                base.extras.memory = own.memory
                self.ledger.move_memory(base, size)
                scope = self
                while scope is not base:
                    scope.extras.memory += size
                    scope = enclosing(scope)
                    scope.extras.in_spans += size
                self.ledger.raise_memory()
            else:
                self.ledger.count_refusal(refusal, blamed.kind, blamed.direction)
            if self.ledger.ring is not None and scope is base:
                self.ledger.note_memory(base, size, priority, None if taken else refusal)
            if refusal is not None:
                peer = peer_of_groups(base)
    if closed:
        raise ResourceScopeClosed(self.name)
    if refusal is None:
        return True
    if base is not self:
        refusal.spans = (self.name, None if blamed is base else blamed.name)
    if not taken:
        return refusal
    self.ledger.report(refusal, peer, base.direction, None)
    return True


cdef object peer_of_groups(Scope self):
    """The peer that pays; None: no peer. Locked."""
    cdef PyObject *groups[LONGEST_CHAIN]
    cdef int i
    for i in range(groups_of(self, groups)):
        if (<Group>groups[i]).peer is not None:
            return (<Group>groups[i]).peer
    return None


cdef bint refuses_memory(
    Scope self, const rcmgr_amounts *ask, int priority, rcmgr_refusal *why,
) noexcept:
    """Whether its own limit refuses. Locked."""
    cdef rcmgr_scope own
    own.limit = limit_now(self)
    rcmgr_hold_nothing(&own)
    own.memory = memory_of(self)
    return rcmgr_scope_refuses(&own, ask, priority, why)


cdef int64_t give_memory(Scope self, int64_t size) noexcept:
    """Returns how much was not there to give back. Locked, live."""
    cdef rcmgr_scope *chain[LONGEST_CHAIN]
    cdef rcmgr_scope own
    cdef rcmgr_amounts what
    cdef Scope base = self, scope
    cdef int64_t in_spans = 0 if self.extras is None else self.extras.in_spans
    cdef int64_t given = min(size, memory_of(self) - in_spans)
    if given == 0:
        return size
    memset(&what, 0, sizeof(what))
    what.of[RCMGR_MEMORY] = given
    while (scope := enclosing(base)) is not None:
        base.extras.memory -= given
        scope.extras.in_spans -= given
        base = scope
    rcmgr_give_back(chain, chain_of(base, &own, chain), &what)
    base.extras.memory = own.memory
    self.ledger.move_memory(base, -given)
    if self.ledger.ring is not None:
        self.ledger.note_memory(base, -given, 0, None)
    return size - given


cdef bint end(Scope self) noexcept:
    """Give everything back; false if that was done before. Locked."""
    cdef rcmgr_scope *chain[LONGEST_CHAIN]
    cdef rcmgr_scope own
    cdef rcmgr_amounts held
    if not self.holds & IS_OPEN:
        return False
    if is_live(self):
        if self.ledger.ring is not None:
            self.ledger.note_end(self)
        if self.extras is not None:
            # this closes its spans, so what they hold is given back with it
            self.extras.in_spans = 0
        if enclosing(self) is not None:
            give_memory(self, memory_of(self))
        else:
            held = held_by(self)
            rcmgr_give_back(chain, chain_of(self, &own, chain), &held)
            if held.of[RCMGR_MEMORY] != 0:
                self.extras.memory = 0
                self.ledger.move_memory(self, -held.of[RCMGR_MEMORY])
        unpin_groups(self)
    if self.extras is not None:
        self.extras.own = None
        self.extras.memory = 0
    self.holds = 0
    return True


cdef int abandon(Scope self) except -1:
    cdef bint leaked
    cdef rcmgr_amounts held
    if self.ledger is None or not self.holds & IS_OPEN:
        return 0  # no other thread has it
    with cython.critical_section(self.ledger):
        held = held_by(self)
        leaked = is_live(self) and not rcmgr_is_nothing(&held)
        end(self)
    if leaked:
        count_leak(self)
    return 0


cdef int count_leak(Scope self) except -1:
    with cython.critical_section(self.ledger):
        self.ledger.leaked += 1
        if self.extras is not None and self.extras.opened_at is not None:
            places = self.ledger.places
            places[self.extras.opened_at] = places.get(self.extras.opened_at, 0) + 1
    return 0


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
    """Span()\n--\n
    A part of another scope's memory. Closing that scope closes it, unless it is a view."""

    cdef Scope owner  # the twin of a view ends with its span

    def __dealloc__(self):
        abandon(self)


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class ScopeView(Scope):
    """ScopeView()\n--\n
    A handle on a group: the system, a peer, a protocol, a service, ...

    The group exists while there is a view. Memory that is reserved through a view belongs to the
    view. It is charged to the group and to the system, and closing the view gives it back.
    """

    cdef Group group

    @property
    def held_memory(self):
        """Bytes reserved through this view, without its spans; 0 once closed."""
        cdef int64_t held = 0
        if self.ledger is not None:
            with cython.critical_section(self.ledger):
                if is_live(self):
                    held = memory_of(self)
        return held

    def set_limit(self, limit):
        """Set the limit (a `Limit`) of this group from now on. None: the default again.

        The limit stays when the group is gone, until it is set to None. The group may hold more
        than the limit, and keeps it. TypeError: None for a group that exists once (the system).
        """
        if self.ledger is None:
            raise ResourceScopeClosed("scope")
        self.ledger.override(self, limit)

    def __dealloc__(self):
        abandon(self)


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class ConnScope(Scope):
    """ConnScope()\n--\n
    A connection, transient until its peer is known."""

    cdef Group peer_group
    cdef object network_share  # counts this connection for its address; closed with this scope

    @property
    def inbound(self):
        """Whether the other side opened it."""
        return self.direction == INBOUND

    @property
    def allowlisted(self):
        """Whether it is charged to the allowlisted scopes instead of the normal ones."""
        return is_exempt(self)

    @property
    def peer(self):
        """Key of the peer (its bytes); None while it is not known."""
        cdef Group group
        if self.ledger is None:
            return None
        with cython.critical_section(self.ledger):
            group = self.peer_group
        return None if group is None else group.peer

    def try_set_peer(self, peer, allowlisted=None):
        """Move from transient to the peer: True, or a `Refusal`, and nothing has changed.

        allowlisted: whether the allowlisted system is charged from now on, in the same step. The
        peer may be allowed where its address was not, or the reverse. None: as before. A connection
        that leaves the allowlisted scopes needs room in transient too, because it was never there.
        RuntimeError: it has a peer. ResourceScopeClosed: closed.
        """
        answer = take_peer(self, peer, allowlisted, None, None)
        ring = self.ledger.ring_now()
        if ring is not None:
            note_connection(
                ring, RCMGR_EV_SET_PEER, RCMGR_EV_KNOWN, self.number, self.direction == INBOUND,
                is_exempt(self), peer, answer)
        return answer

    def set_peer(self, peer, allowlisted=None):
        """As `try_set_peer`, but raises ScopeLimitExceeded when refused."""
        granted(self.try_set_peer(peer, allowlisted))

    def _give_descriptor(self):
        """Give its file descriptor back: it turns out to use none."""
        give_descriptor(self)

    def close(self):
        """Give back all that it holds, its network share too. Does nothing a second time."""
        close_connection(self)

    def __dealloc__(self):
        abandon(self)
        if self.network_share is not None:
            self.network_share.close()


cdef int close_connection(object scope) except -1:
    cdef ConnScope self = <ConnScope?>scope
    share = None
    if self.ledger is None:
        return 0
    with cython.critical_section(self.ledger):
        end(self)
        share, self.network_share = self.network_share, None
    if share is not None:
        share.close()
    return 0


cdef object take_peer(
    ConnScope self, object peer, object allowlisted, object network_share, list passed,
):
    """True, or a Refusal."""
    cdef rcmgr_scope *old[2]
    cdef rcmgr_scope *new[3]
    cdef PyObject *groups[3]
    cdef rcmgr_refusal why
    cdef Refusal refusal = None
    cdef Group group, system, transient
    cdef rcmgr_amounts held
    cdef bint exempt, closed, taken = False, attached = False
    cdef int old_count, new_count
    if allowlisted is None:
        exempt = is_exempt(self)
    else:
        exempt = is_true("allowlisted", allowlisted)
    peer = exact_peer(peer)
    if self.ledger is None:
        raise ResourceScopeClosed("scope")
    cdef uint64_t hashed = hash_of(peer)
    cdef Group kept = None
    if self.ledger.limiter is not None:
        kept = self.ledger.kept(PEER, None, peer)
    with cython.critical_section(self.ledger):
        closed = not is_live(self)
        attached = self.peer_group is not None
        if not closed and not attached:
            group = self.ledger.pinned(self.ledger.peer_groups, PEER, None, peer, hashed)
            # making the group may have let another thread in, on builds with a GIL never
            closed = not is_live(self)
            attached = self.peer_group is not None
            if closed or attached:
                self.ledger.unpin(group)
            else:
                new[0] = &group.state
                old[0] = &(<Group>self.ledger.transient_of(self.is_exempt)).state
                system = <Group>self.ledger.system_of(exempt)
                transient = <Group>self.ledger.transient_of(exempt)
                groups[0], groups[1] = <PyObject *>group, <PyObject *>system
                groups[2] = <PyObject *>transient
                old_count = new_count = 1
                if exempt != self.is_exempt:
                    new[1], new[2] = &system.state, &transient.state
                    old[1] = &(<Group>self.ledger.system_of(self.is_exempt)).state
                    old_count, new_count = 2, 2 if exempt else 3
                held = held_by(self)
                taken = rcmgr_charge(new, new_count, &held, RCMGR_PRIORITY_ALWAYS, &why)
                if not taken:
                    refusal = self.ledger.refuse(
                        new, groups, new_count, &held, &why, self.direction, NO_KIND, 0,
                        &taken)
                if taken:
                    rcmgr_give_back(old, old_count, &held)
                    rcmgr_give_back(new + 2, new_count - 2, &held)
                    self.peer_group = group
                    if network_share is not None:
                        self.network_share = network_share
                    if exempt != self.is_exempt:
                        # the system or the allowlisted system got them just now
                        self.is_exempt = exempt
                        self.ledger.raise_memory()
                        self.ledger.raise_connections()
                    group.exempt_connections += exempt
                else:
                    self.ledger.unpin(group)
    if kept is not None:
        self.ledger.let_go(kept)
    if closed:
        raise ResourceScopeClosed(self.name)
    if attached:
        raise RuntimeError("connection scope already attached to a peer")
    if refusal is None:
        return True
    if not taken:
        return refusal
    self.ledger.report(refusal, peer, self.direction, passed)
    return True


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class StreamScope(Scope):
    """StreamScope()\n--\n
    A stream of a peer, transient until its protocol is negotiated."""

    cdef Group peer_group
    cdef NamedGroup protocol_group
    cdef NamedGroup protocol_share
    cdef NamedGroup service_group
    cdef NamedGroup service_share

    @property
    def inbound(self):
        """Whether the other side opened it."""
        return self.direction == INBOUND

    @property
    def allowlisted(self):
        """Whether it is charged to the allowlisted scopes instead of the normal ones."""
        return self.is_exempt == 1

    @property
    def peer(self):
        """Key of the peer (its bytes)."""
        return None if self.peer_group is None else self.peer_group.peer

    @property
    def protocol(self):
        """None while it is not negotiated."""
        cdef NamedGroup group
        if self.ledger is None:
            return None
        with cython.critical_section(self.ledger):
            group = self.protocol_group
        return None if group is None else group.name

    @property
    def service(self):
        """None unless one was set."""
        cdef NamedGroup group
        if self.ledger is None:
            return None
        with cython.critical_section(self.ledger):
            group = self.service_group
        return None if group is None else group.name

    def try_set_protocol(self, protocol):
        """Move from transient to the protocol: True, or a `Refusal`, and nothing has changed.

        RuntimeError: it has a protocol. ResourceScopeClosed: closed.
        """
        return take_group(self, PROTOCOL, protocol)

    def set_protocol(self, protocol):
        """As `try_set_protocol`, but raises ScopeLimitExceeded when refused."""
        granted(take_group(self, PROTOCOL, protocol))

    def try_set_service(self, service):
        """Charge the service too: True, or a `Refusal`, and nothing has changed.

        RuntimeError: it has a service, or no protocol yet. ResourceScopeClosed: closed.
        """
        return take_group(self, SERVICE, service)

    def set_service(self, service):
        """As `try_set_service`, but raises ScopeLimitExceeded when refused."""
        granted(take_group(self, SERVICE, service))

    def __dealloc__(self):
        abandon(self)


cdef str misplacement(StreamScope self, int kind):
    """Why a group of this kind cannot be set now; None: it can."""
    if kind == PROTOCOL:
        if self.protocol_group is not None:
            return "stream scope already attached to a protocol"
    elif self.service_group is not None:
        return "stream scope already attached to a service"
    elif self.protocol_group is None:
        return "stream scope not attached to a protocol"
    return None


cdef object take_group(StreamScope self, int kind, object name):
    """True, or a Refusal."""
    cdef rcmgr_scope *transient
    cdef rcmgr_scope *new[2]
    cdef PyObject *groups[2]
    cdef rcmgr_refusal why
    cdef Refusal refusal = None
    cdef NamedGroup group, share
    cdef rcmgr_amounts held
    cdef bint closed, taken = False
    cdef str misplaced = None
    cdef GroupTable table
    cdef int share_kind = PROTOCOL_PEER if kind == PROTOCOL else SERVICE_PEER
    name = exact_name("protocol" if kind == PROTOCOL else "service", name)
    if self.ledger is None:
        raise ResourceScopeClosed("scope")
    cdef Group kept = None
    if self.ledger.limiter is not None:
        kept = self.ledger.kept(share_kind, name, self.peer_group.peer)
    with cython.critical_section(self.ledger):
        closed = not is_live(self)
        misplaced = misplacement(self, kind)
        if not closed and misplaced is None:
            if kind == PROTOCOL:
                table = self.ledger.protocol_groups
            else:
                table = self.ledger.service_groups
            group = <NamedGroup>self.ledger.pinned(table, kind, name, None, hash_of(name))
            share = self.ledger.pinned_share(
                group, share_kind, self.peer_group.peer, hash_of(self.peer_group.peer))
            # making the dict of shares may have run the garbage collector, and other code
            closed = not is_live(self)
            misplaced = misplacement(self, kind)
            if closed or misplaced is not None:
                self.ledger.unpin(share)
                self.ledger.unpin(group)
            else:
                new[0] = &group.state
                new[1] = &share.state
                transient = &(<Group>self.ledger.transient_of(self.is_exempt)).state
                groups[0], groups[1] = <PyObject *>group, <PyObject *>share
                held = held_by(self)
                taken = rcmgr_charge(new, 2, &held, RCMGR_PRIORITY_ALWAYS, &why)
                if not taken:
                    refusal = self.ledger.refuse(
                        new, groups, 2, &held, &why, self.direction, NO_KIND, 0,
                        &taken)
                if not taken:
                    self.ledger.unpin(share)
                    self.ledger.unpin(group)
                elif kind == PROTOCOL:
                    rcmgr_give_back(&transient, 1, &held)
                    self.protocol_group, self.protocol_share = group, share
                else:
                    self.service_group, self.service_share = group, share
                if self.ledger.ring is not None:
                    self.ledger.ring.note(
                        RCMGR_EV_PROTOCOL if kind == PROTOCOL else RCMGR_EV_SERVICE,
                        RCMGR_EV_KNOWN, self.number, None, None, name, None,
                        None if taken else refused_by(refusal), 0, 0)
    if kept is not None:
        self.ledger.let_go(kept)
    if closed:
        raise ResourceScopeClosed(self.name)
    if misplaced is not None:
        raise RuntimeError(misplaced)
    if refusal is None:
        return True
    if not taken:
        return refusal
    self.ledger.report(refusal, self.peer_group.peer, self.direction, None)
    return True


@cython.final
@cython.binding(False)
cdef class Ledger:
    """Ledger(limits=None, *, trace_allocations=False, debug=None, limiter=None)\n--\n
    All scopes of a node.

    limits: an object with the attributes of `rcmgr.limits.scopes.ConcreteLimits`; None: no limit at
        all.
    trace_allocations: remember where each handle was made, for `leaked_at` (about 1 us each).
    debug: giving back more than was taken raises ValueError; default: in Python's development mode.
    limiter: a `rcmgr.Limiter` or another callable, which gives new scopes their limits.

    A peer is an `ID`, its bytes, its text or an int: `ID(b)`, `b` and the base58 or CID text of `b`
    are one peer. Text that is no peer id is another peer. Protocols and services are str. TypeError
    for anything else. Every method is O(1), whether there are ten peers or a million, except
    `snapshot`, `peer_stats`, `fullest`, `peers`, `protocols`, `services`, `set_limits` and `clear`.
    Thread safe.
    """

    # The lock of the ledger guards its fields and groups. The first four are constant.
    cdef Group system_group, transient_group, allowlisted_system_group, allowlisted_transient_group
    cdef GroupTable peer_groups, protocol_groups, service_groups
    cdef rcmgr_limit defaults[KINDS]
    cdef list named      # by Kind: limits of particular services, protocols, peers
    cdef dict overrides  # (kind, name, peer) -> GroupLimit, by `set_limit`
    cdef bint limiter_failed
    # the limiter's last answers: a full young half replaces the old one
    cdef dict young_answers, old_answers
    cdef uint32_t only_reporting[KINDS]  # a bit for each resource whose limits refuse nothing
    cdef DenialLog would_deny  # their would-be refusals; None: no limit only reports
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
    cdef readonly object limiter
    """The `rcmgr.Limiter`, or another callable, that gives new scopes their limits; or None."""
    cdef readonly int64_t limiter_errors
    """How often the limiter raised, or returned no limit. The scope has the node's limits then."""
    cdef int64_t forgotten_streams  # without a handle, by `clear`
    # connections that hold up to 2**n bytes, and more than 2**(n - 1)
    cdef int64_t memory_of_connections[POWERS]
    cdef int64_t connection_bytes
    cdef EventRing ring  # None: nothing is recorded

    def __cinit__(self, limits=None, *, trace_allocations=False, debug=None, limiter=None):
        cdef int kind
        for kind in range(<int>KINDS):
            self.defaults[kind] = NO_LIMIT
        self.debug = sys.flags.dev_mode if debug is None else debug
        self.trace_allocations = trace_allocations
        self.peer_groups, self.protocol_groups = GroupTable(), GroupTable()
        self.service_groups = GroupTable()
        self.named = [{} for _ in range(<int>KINDS)]
        self.overrides, self.places = {}, {}
        self.system_group = self.bound_group(SYSTEM, None, None)
        self.transient_group = self.bound_group(TRANSIENT, None, None)
        self.allowlisted_system_group = self.bound_group(ALLOWLISTED_SYSTEM, None, None)
        self.allowlisted_transient_group = self.bound_group(ALLOWLISTED_TRANSIENT, None, None)
        if limiter is not None and not callable(limiter):
            raise TypeError(f"limiter must be a rcmgr.Limiter or another callable, not {limiter!r}")
        self.limiter = limiter
        self.young_answers, self.old_answers = {}, {}
        if limits is not None:
            self.set_limits(limits)
        elif limiter is not None:
            self.take_given(self.defaults)

    # -- groups, all locked ----------------------------------------------------------------------

    cdef PyObject *system_of(self, bint exempt) noexcept:
        """Borrowed: a ledger keeps its four fixed groups."""
        if exempt:
            return <PyObject *>self.allowlisted_system_group
        return <PyObject *>self.system_group

    cdef PyObject *transient_of(self, bint exempt) noexcept:
        if exempt:
            return <PyObject *>self.allowlisted_transient_group
        return <PyObject *>self.transient_group

    cdef inline Group bound_group(self, int kind, object name, object peer):
        cdef Group group = new_group(kind, name, peer)
        self.bind(group)
        return group

    cdef int bind(self, Group group, GroupLimit given=None) except -1:
        """Give it the limit that applies to it. given: by the limiter."""
        cdef GroupLimit limit = given
        cdef dict named
        if self.overrides:
            # making the tuple may run other code that sets other limits: read those after it
            limit = self.overrides.get((group_kind(group), name_of(group), group.peer), given)
        named = <dict>self.named[group_kind(group)]
        if limit is None and named:
            limit = named.get(group.peer if group_kind(group) == PEER else name_of(group))
        group.limit = limit
        group.state.limit = &self.defaults[group_kind(group)] if limit is None else &limit.value
        return 0

    cdef object remembered_limit(self, int kind, object name, object peer):
        """The limiter's answer about a scope: the last one if it is remembered. Not locked."""
        cdef dict young, old
        key = (kind, name, peer)
        with cython.critical_section(self):
            young, old = self.young_answers, self.old_answers
        given = young.get(key, NOT_ASKED)
        if given is not NOT_ASKED:
            return given
        given = old.get(key, NOT_ASKED)
        if given is NOT_ASKED:
            given = self.given_limit(kind, name, peer)
        if len(young) >= HALF_OF_ANSWERS:
            fresh = {}
            with cython.critical_section(self):
                if self.young_answers is young:
                    self.young_answers, self.old_answers = fresh, young
                    young = fresh
        young[key] = given
        return given

    cdef GroupLimit given_limit(self, int kind, object name, object peer):
        """The limiter's answer about a scope; None: the node's limits apply. Not locked."""
        cdef bint first
        default, particular = LIMIT_NAMES[kind]
        try:
            limit = self.limiter(particular or default, name, peer)
            if limit is None:
                return None
            given = read_limit(limit)
        except Exception:
            with cython.critical_section(self):
                self.limiter_errors += 1
                first = not self.limiter_failed
                self.limiter_failed = True
            if first:
                LOG.exception(
                    "the limiter failed, so the scope has the node's limits: %r. "
                    "Ledger.limiter_errors counts later failures", self.limiter)
            return None
        (<GroupLimit>given).origin = BY_LIMITER
        return given

    cdef int take_given(self, rcmgr_limit *defaults) except -1:
        """Put in what the limiter says about scopes without a name, connections and streams."""
        cdef int kind
        cdef GroupLimit given
        for kind in range(<int>KINDS):
            if LIMIT_NAMES[kind][1] is None:
                given = self.given_limit(kind, None, None)
                if given is not None:
                    defaults[kind] = given.value
        return 0

    cdef Group kept(self, int kind, object name, object peer):
        """A group with the limits of the limiter, for the caller to `let_go`. Not locked.

        So the group exists when a request locks the ledger and charges it: the limiter runs
        without the lock. Call it only if there is a limiter.
        """
        cdef Group group = None
        cdef NamedGroup whole = None
        cdef int whole_kind = PROTOCOL if kind == PROTOCOL_PEER else SERVICE
        while group is None:
            try:
                if kind == PROTOCOL_PEER or kind == SERVICE_PEER:
                    whole = <NamedGroup>self.kept(whole_kind, name, None)
                with cython.critical_section(self):
                    group = self.found(kind, name, peer)
                    if group is not None:
                        rcmgr_pin(&group.state)
                if group is None:
                    given = self.remembered_limit(kind, name, peer)
                    with cython.critical_section(self):
                        if whole is None:
                            group = self.pinned(
                                self.table_of(kind), kind, name, peer,
                                hash_of(name if peer is None else peer))
                        elif self.found(whole_kind, name, None) is whole:
                            group = self.pinned_share(whole, kind, peer, hash_of(peer))
                        # otherwise `clear` has forgotten it meanwhile
                        if group is not None and given is not None:
                            if rcmgr_pins_of(&group.state) == 1:
                                self.bind(group, <GroupLimit>given)
            finally:
                if whole is not None:
                    self.let_go(whole)
        return group

    cdef int let_go(self, Group group) except -1:
        with cython.critical_section(self):
            if self.found(group_kind(group), name_of(group), group.peer) is group:
                # no `clear` meanwhile
                self.unpin(group)
        return 0

    cdef GroupTable table_at(self, int place):
        """In the order of a walk."""
        if place == 1:
            return self.peer_groups
        return self.protocol_groups if place == 2 else self.service_groups

    cdef GroupTable table_of(self, int kind):
        if kind == PEER:
            return self.peer_groups
        if kind == PROTOCOL or kind == PROTOCOL_PEER:
            return self.protocol_groups
        return self.service_groups

    cdef Group found(self, int kind, object name, object peer):
        """The group of this key; None: it does not exist."""
        cdef object key = peer if kind == PEER else name
        cdef PyObject *found = find_group(self.table_of(kind), key, hash_of(key))
        if found != NULL and (kind == PROTOCOL_PEER or kind == SERVICE_PEER):
            if (<NamedGroup>found).shares is None:
                return None
            found = find_group((<NamedGroup>found).shares, peer, hash_of(peer))
        return None if found == NULL else <Group>found

    cdef Group pinned(
        self, GroupTable table, int kind, object name, object peer, uint64_t hashed,
    ):
        """The group of this key, for the caller to `unpin`. Making it may run other code."""
        cdef PyObject *found = find_group(table, name if peer is None else peer, hashed)
        cdef Group group
        if found != NULL:
            group = <Group>found
        else:
            # if other code made one in the meantime, take that one
            group = found_or_added(table, self.bound_group(kind, name, peer), hashed)
        rcmgr_pin(&group.state)
        return group

    cdef NamedGroup pinned_share(
        self, NamedGroup whole, int kind, object peer, uint64_t hashed,
    ):
        """As `pinned`, of a protocol or service that is pinned."""
        cdef PyObject *found
        cdef NamedGroup share
        if whole.shares is None:
            shares = GroupTable()
            if whole.shares is None:
                whole.shares = shares
        found = find_group(whole.shares, peer, hashed)
        if found != NULL:
            share = <NamedGroup>found
        else:
            share = <NamedGroup>found_or_added(
                whole.shares, self.bound_group(kind, whole.name, peer), hashed)
            if share.whole is None:
                share.whole = whole
                rcmgr_pin(&whole.state)
        rcmgr_pin(&share.state)
        return share

    cdef void unpin(self, Group group) noexcept:
        cdef NamedGroup whole
        cdef int kind = group_kind(group)
        if kind < FIXED_KINDS:
            return
        rcmgr_unpin(&group.state)
        if rcmgr_pins_of(&group.state) > 0:
            return
        if kind == PEER:
            remove_group(self.peer_groups, group)
        elif kind == PROTOCOL:
            remove_group(self.protocol_groups, group)
        elif (whole := whole_of(group)) is not None:
            remove_group(whole.shares, group)
            (<NamedGroup>group).whole = None
            self.unpin(whole)
        # services stay: they are few, and this program names them

    cdef void open_twin(self, ScopeView twin, ScopeView view) noexcept:
        twin.group = view.group
        twin.epoch = view.epoch
        twin.holds = IS_OPEN
        if group_kind(twin.group) >= FIXED_KINDS:
            rcmgr_pin(&twin.group.state)

    cdef void move_memory(self, Scope base, int64_t change) noexcept:
        """`base` has taken or given back memory: the sums over connections change."""
        cdef int64_t held = memory_of(base)
        if base.kind != CONN or change == 0:
            return
        self.connection_bytes += change
        if held > change:
            self.memory_of_connections[power_above(held - change)] -= 1
        if held > 0:
            self.memory_of_connections[power_above(held)] += 1

    # Each raises only the peaks of the resources that its caller has taken.

    cdef void raise_memory(self) noexcept:
        raise_peak(self.peaks, self.system_group, RCMGR_MEMORY)
        raise_peak(self.transient_peaks, self.transient_group, RCMGR_MEMORY)

    cdef void raise_streams(self) noexcept:
        raise_pair(self.peaks, self.system_group, RCMGR_STREAMS_INBOUND, RCMGR_STREAMS)
        raise_pair(self.transient_peaks, self.transient_group, RCMGR_STREAMS_INBOUND, RCMGR_STREAMS)

    cdef void raise_connections(self) noexcept:
        raise_pair(self.peaks, self.system_group, RCMGR_CONNS_INBOUND, RCMGR_CONNS)
        raise_pair(self.transient_peaks, self.transient_group, RCMGR_CONNS_INBOUND, RCMGR_CONNS)
        raise_peak(self.peaks, self.system_group, RCMGR_FD)
        raise_peak(self.transient_peaks, self.transient_group, RCMGR_FD)

    cdef Refusal refuse(
        self, rcmgr_scope **chain, PyObject **groups, int count, const rcmgr_amounts *ask,
        rcmgr_refusal *why, int direction, int leaf_kind, uint64_t leaf_number, bint *taken,
    ):
        """Say why `rcmgr_charge` has refused a chain. Locked.

        If the limit only reports, the chain is charged nevertheless, and `taken` is true. Otherwise
        the refusal is counted. groups: those of the chain; NULL: the new leaf.
        """
        cdef Refusal refusal = refusal_of(why, groups, leaf_kind, leaf_number)
        taken[0] = False
        if self.only_reports(refusal):
            taken[0] = self.charge_beyond(
                chain, groups, leaf_kind, count, ask, RCMGR_PRIORITY_ALWAYS, why)
            if taken[0]:
                return refusal
            refusal = refusal_of(why, groups, leaf_kind, leaf_number)
        self.count_refusal(refusal, leaf_kind, direction)
        return refusal

    cdef void count_refusal(self, Refusal refusal, int leaf_kind, int direction) noexcept:
        cdef int kind = leaf_kind if refusal.blamed is None else group_kind(refusal.blamed)
        self.refusals[kind][refusal.what][direction] += 1

    cdef bint only_reports(self, Refusal refusal) noexcept:
        """Whether this refusal is by a limit that refuses nothing. Locked."""
        return self.only_reporting[kind_of(refusal)] >> refusal.what & 1

    cdef void lift(self, int kind, const rcmgr_limit *limit, rcmgr_limit *enforced) noexcept:
        """Fill in a limit without the resources that it only reports. Locked."""
        cdef int what
        enforced[0] = limit[0]
        for what in range(<int>RCMGR_RESOURCES):
            if self.only_reporting[kind] >> what & 1:
                enforced.of[what] = RCMGR_UNLIMITED

    cdef bint charge_beyond(
        self, rcmgr_scope **chain, PyObject **groups, int leaf_kind, int count,
        const rcmgr_amounts *ask, int priority, rcmgr_refusal *why,
    ) noexcept:
        """As `rcmgr_charge`, without the limits that only report. Locked."""
        cdef rcmgr_limit limits[LONGEST_CHAIN]
        cdef rcmgr_scope copies[LONGEST_CHAIN]
        cdef rcmgr_scope *enforced[LONGEST_CHAIN]
        cdef int i, kind
        for i in range(count):
            kind = leaf_kind if groups[i] is NULL else group_kind(<Group>groups[i])
            self.lift(<int>max(0, kind), chain[i].limit, &limits[i])
            copies[i] = chain[i][0]
            copies[i].limit = &limits[i]
            enforced[i] = &copies[i]
        if not rcmgr_chain_admits(enforced, count, ask, priority, why):
            return False
        for i in range(count):
            rcmgr_add(chain[i], ask)
        return True

    cdef int report(self, Refusal refusal, object peer, int direction, list passed) except -1:
        """Tell what a limit would have refused. passed: a list for it; None: tell the log."""
        cdef DenialLog log
        if passed is not None:
            passed.append(refusal)
            return 0
        with cython.critical_section(self):
            log = self.would_deny
        if log is not None:
            log.add(
                refusal, None, peer, None if direction == NO_DIRECTION else direction == INBOUND)
        return 0

    def _only_report(self, codes, DenialLog log not None):
        """Let the limits of these codes refuse nothing, and tell this log what they would refuse.
        """
        cdef uint32_t reporting[KINDS]
        cdef int kind, what
        for kind in range(<int>KINDS):
            reporting[kind] = 0
            for what in range(<int>RCMGR_RESOURCES):
                if code_of_kind(kind, what) in codes:
                    reporting[kind] |= <uint32_t>1 << what
        with cython.critical_section(self):
            for kind in range(<int>KINDS):
                self.only_reporting[kind] = reporting[kind]
            _former, self.would_deny = self.would_deny, log  # freed outside of the lock

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

    # -- the record ------------------------------------------------------------------------------

    def _record_to(self, EventRing ring):
        """Note all later decisions in this ring. None: record nothing."""
        with cython.critical_section(self):
            _former, self.ring = self.ring, ring  # freed outside of the lock

    cdef EventRing ring_now(self):
        cdef EventRing ring
        with cython.critical_section(self):
            ring = self.ring
        return ring

    # these need a ring, and the lock

    cdef void note_memory(
        self, Scope base, int64_t size, int priority, Refusal refusal,
    ) noexcept:
        """Note memory that a scope takes (or gives back: less than 0), or may not take."""
        cdef Group group = viewed_by(base)
        cdef bint taken = size >= 0
        cdef int kind
        if group is not None:
            self.ring.note(
                RCMGR_EV_MEMORY if taken else RCMGR_EV_GIVE_MEMORY, 0, 0, group.peer, None,
                name_of(group), KIND_NAMES[group_kind(group)], refused_by(refusal),
                size if taken else -size, priority)
            return
        if base.kind == CONN:
            kind = RCMGR_EV_CONN_MEMORY if taken else RCMGR_EV_GIVE_CONN_MEMORY
        else:
            kind = RCMGR_EV_STREAM_MEMORY if taken else RCMGR_EV_GIVE_STREAM_MEMORY
        self.ring.note(
            kind, RCMGR_EV_KNOWN, base.number, None, None, None, None, refused_by(refusal),
            size if taken else -size, priority)

    cdef void note_end(self, Scope scope) noexcept:
        """Note the end of a connection, a stream, or of a view's memory."""
        cdef int kind = RCMGR_EV_CLOSE if scope.kind == CONN else RCMGR_EV_CLOSE_STREAM
        if enclosing(scope) is not None:
            return  # `give_memory` notes it
        if viewed_by(scope) is not None:
            if memory_of(scope) > 0:
                self.note_memory(scope, -memory_of(scope), 0, None)
            return
        self.ring.note(
            kind, RCMGR_EV_KNOWN, scope.number, None, None, None, None, None, 0, 0)

    cdef void note_stream(
        self, int kind, uint64_t number, object peer, bint inbound, bint exempt, Refusal refusal,
    ) noexcept:
        self.ring.note(
            kind, RCMGR_EV_INBOUND * inbound | RCMGR_EV_EXEMPT * exempt, number, peer, None, None,
            None, refused_by(refusal), 0, 0)

    # -- leaves ----------------------------------------------------------------------------------

    cdef object take_connection(
        self, bint inbound, bint fd, bint exempt, bint reserved, object peer,
        object network_share, list passed,
    ):
        """A ConnScope, or a Refusal.

        reserved: charge the allowlisted scopes if the normal ones refuse.
        passed: see `report`.
        """
        cdef rcmgr_scope *chain[3]
        cdef PyObject *groups[3]
        cdef rcmgr_scope leaf
        cdef rcmgr_amounts ask
        cdef rcmgr_refusal why, second
        cdef Group group, system
        cdef ConnScope scope = None
        cdef Refusal refusal = None
        cdef Group kept = None
        cdef int direction = INBOUND if inbound else OUTBOUND
        cdef uint64_t hashed = 0
        cdef bint taken
        if peer is not None:
            peer = exact_peer(peer)
            hashed = hash_of(peer)
            if self.limiter is not None:
                kept = self.kept(PEER, None, peer)
        memset(&ask, 0, sizeof(ask))
        ask.of[RCMGR_CONNS_INBOUND if inbound else RCMGR_CONNS_OUTBOUND] = 1
        ask.of[RCMGR_FD] = fd
        rcmgr_hold_nothing(&leaf)
        leaf.limit = &self.defaults[<int>CONN]
        chain[0] = &leaf
        with cython.critical_section(self):
            if peer is None:
                group = <Group>self.transient_of(exempt)
            else:
                group = self.pinned(self.peer_groups, PEER, None, peer, hashed)
            system = <Group>self.system_of(exempt)
            self.connections_opened += 1
            chain[1], chain[2] = &group.state, &system.state
            taken = rcmgr_charge(chain, 3, &ask, RCMGR_PRIORITY_ALWAYS, &why)
            if not taken and reserved:
                if peer is None:
                    group = <Group>self.transient_of(True)
                chain[1], chain[2] = &group.state, &(<Group>self.system_of(True)).state
                # the first refusal is the one to report
                exempt = taken = rcmgr_charge(chain, 3, &ask, RCMGR_PRIORITY_ALWAYS, &second)
                if not taken:
                    if peer is None:
                        group = <Group>self.transient_of(False)
                    chain[1], chain[2] = &group.state, &system.state
            if not taken:
                groups[0], groups[1], groups[2] = NULL, <PyObject *>group, <PyObject *>system
                refusal = self.refuse(
                    chain, groups, 3, &ask, &why, direction, CONN, self.connections_opened, &taken)
            if taken:
                try:
                    scope = ConnScope.__new__(ConnScope)
                finally:
                    if scope is None:
                        rcmgr_give_back(chain, 3, &ask)
                        self.unpin(group)
                begin(scope, self, CONN, direction, self.connections_opened, fd)
                scope.is_exempt = exempt
                scope.network_share = network_share
                if peer is not None:
                    scope.peer_group = group
                    group.exempt_connections += exempt
                self.raise_connections()
            else:
                self.unpin(group)
        if kept is not None:
            self.let_go(kept)
        if refusal is not None:
            if not taken:
                return refusal
            self.report(refusal, peer, direction, passed)
        note_place(scope)
        return scope

    def try_open_connection(self, inbound=True, bint fd=True, bint allowlisted=False, peer=None):
        """Charge a connection to transient and system: a `ConnScope`, or a `Refusal`.

        fd: it uses a file descriptor (TCP does, QUIC and relayed ones do not).
        allowlisted: charge the allowlisted pair of scopes instead.
        peer: its peer, if known by now: charge the peer instead of transient.
        """
        cdef bint is_inbound = is_true("inbound", inbound)
        answer = self.take_connection(is_inbound, fd, allowlisted, False, peer, None, None)
        ring = self.ring_now()
        if ring is not None:
            note_connection(
                ring, RCMGR_EV_CHARGE, RCMGR_EV_FD * fd, number_of(answer), is_inbound, allowlisted,
                peer, answer)
        return answer

    def open_connection(self, inbound=True, bint fd=True, bint allowlisted=False, peer=None):
        """As `try_open_connection`, but raises ScopeLimitExceeded when refused."""
        return granted(self.try_open_connection(inbound, fd, allowlisted, peer))

    cdef object take_stream(self, object peer, bint inbound, bint exempt):
        """A StreamScope, or a Refusal."""
        cdef rcmgr_scope *chain[4]
        cdef PyObject *groups[4]
        cdef rcmgr_scope leaf
        cdef rcmgr_amounts ask
        cdef rcmgr_refusal why
        cdef Group group, transient, system
        cdef StreamScope scope = None
        cdef Refusal refusal = None
        cdef Group kept = None
        cdef bint taken
        cdef int direction = INBOUND if inbound else OUTBOUND
        peer = exact_peer(peer)
        cdef uint64_t hashed = hash_of(peer)
        if self.limiter is not None:
            kept = self.kept(PEER, None, peer)
        memset(&ask, 0, sizeof(ask))
        ask.of[RCMGR_STREAMS_INBOUND if inbound else RCMGR_STREAMS_OUTBOUND] = 1
        rcmgr_hold_nothing(&leaf)
        leaf.limit = &self.defaults[<int>STREAM]
        chain[0] = &leaf
        with cython.critical_section(self):
            group = self.pinned(self.peer_groups, PEER, None, peer, hashed)
            transient, system = <Group>self.transient_of(exempt), <Group>self.system_of(exempt)
            self.streams_opened += 1
            chain[1], chain[2], chain[3] = &group.state, &transient.state, &system.state
            taken = rcmgr_charge(chain, 4, &ask, RCMGR_PRIORITY_ALWAYS, &why)
            if not taken:
                groups[0], groups[1] = NULL, <PyObject *>group
                groups[2], groups[3] = <PyObject *>transient, <PyObject *>system
                refusal = self.refuse(
                    chain, groups, 4, &ask, &why, direction, STREAM, self.streams_opened, &taken)
            if taken:
                try:
                    scope = StreamScope.__new__(StreamScope)
                finally:
                    if scope is None:
                        rcmgr_give_back(chain, 4, &ask)
                        self.unpin(group)
                begin(scope, self, STREAM, direction, self.streams_opened, False)
                scope.is_exempt = exempt
                scope.peer_group = group
                group.streams_begun += inbound
                self.raise_streams()
            else:
                self.unpin(group)
            if self.ring is not None:
                self.note_stream(
                    RCMGR_EV_STREAM, self.streams_opened, peer, inbound, exempt,
                    None if taken else refusal)
        if kept is not None:
            self.let_go(kept)
        if refusal is not None:
            if not taken:
                return refusal
            self.report(refusal, peer, direction, None)
        note_place(scope)
        return scope

    def try_open_stream(self, peer, inbound=True, *, bint allowlisted=False):
        """Charge a stream to its peer, transient and system: a `StreamScope`, or a `Refusal`."""
        return self.take_stream(peer, is_true("inbound", inbound), allowlisted)

    def open_stream(self, peer, inbound=True, *, bint allowlisted=False):
        """As `try_open_stream`, but raises ScopeLimitExceeded when refused."""
        return granted(self.try_open_stream(peer, inbound, allowlisted=allowlisted))

    def acquire_stream(self, peer, inbound, bint allowlisted=False):
        """Count a stream without a handle: True, or a `Refusal`.

        Charged to the peer and the (allowlisted) system. For callers that only count, as
        libp2p.rcmgr's API; `release_stream` gives it back.
        """
        return self.take_acquired(peer, is_true("inbound", inbound), allowlisted)

    cdef object take_acquired(self, object peer, bint inbound, bint exempt):
        cdef rcmgr_scope *chain[2]
        cdef PyObject *groups[2]
        cdef rcmgr_amounts ask
        cdef rcmgr_refusal why
        cdef Group group, system
        cdef Refusal refusal = None
        cdef int direction = INBOUND if inbound else OUTBOUND
        cdef bint taken
        peer = exact_peer(peer)
        cdef uint64_t hashed = hash_of(peer)
        cdef Group kept = None
        if self.limiter is not None:
            kept = self.kept(PEER, None, peer)
        memset(&ask, 0, sizeof(ask))
        ask.of[RCMGR_STREAMS_INBOUND if inbound else RCMGR_STREAMS_OUTBOUND] = 1
        with cython.critical_section(self):
            group = self.pinned(self.peer_groups, PEER, None, peer, hashed)
            system = <Group>self.system_of(exempt)
            self.streams_opened += 1
            chain[0], chain[1] = &group.state, &system.state
            taken = rcmgr_charge(chain, 2, &ask, RCMGR_PRIORITY_ALWAYS, &why)
            if not taken:
                groups[0], groups[1] = <PyObject *>group, <PyObject *>system
                refusal = self.refuse(chain, groups, 2, &ask, &why, direction, NO_KIND, 0, &taken)
            if taken:
                group.acquired[exempt][not inbound] += 1
                group.streams_begun += inbound
                self.raise_streams()
            else:
                self.unpin(group)
            if self.ring is not None:
                self.note_stream(
                    RCMGR_EV_TAKE_STREAM, 0, peer, inbound, exempt, None if taken else refusal)
        if kept is not None:
            self.let_go(kept)
        if refusal is None:
            return True
        if not taken:
            return refusal
        self.report(refusal, peer, direction, None)
        return True

    def release_stream(self, peer, inbound):
        """Give back a stream of `acquire_stream`; False if this peer has no such stream.

        Streams charged to the normal system go first. A release without a matching acquire
        increments `over_released`, and raises ValueError if the ledger has `debug`. As many streams
        as `clear` forgot may still be given back: their holders cannot know that they are gone.
        """
        return self.give_acquired(peer, is_true("inbound", inbound))

    cdef bint give_acquired(self, object peer, bint inbound) except -1:
        cdef rcmgr_scope *chain[2]
        cdef rcmgr_amounts what
        cdef PyObject *found
        cdef Group group
        cdef bint given = False, exempt
        peer = exact_peer(peer)
        cdef uint64_t hashed = hash_of(peer)
        memset(&what, 0, sizeof(what))
        what.of[RCMGR_STREAMS_INBOUND if inbound else RCMGR_STREAMS_OUTBOUND] = 1
        with cython.critical_section(self):
            found = find_group(self.peer_groups, peer, hashed)
            if found != NULL:
                group = <Group>found
                exempt = group.acquired[False][not inbound] == 0
                if group.acquired[exempt][not inbound] > 0:
                    group.acquired[exempt][not inbound] -= 1
                    chain[0] = &group.state
                    chain[1] = &(<Group>self.system_of(exempt)).state
                    rcmgr_give_back(chain, 2, &what)
                    self.unpin(group)
                    given = True
                    if self.ring is not None:
                        self.note_stream(
                            RCMGR_EV_GIVE_STREAM, 0, peer, inbound, exempt, None)
            if not given and self.forgotten_streams > 0:
                self.forgotten_streams -= 1
                return False
            self.over_released += not given
        if not given:
            self.say_over_released(f"peer:{peer_text(peer)}", "1 stream")
        return given

    def _forget_streams(self, peer):
        """Give back all streams of `acquire_stream` of a peer whose host has stopped."""
        cdef rcmgr_scope *chain[2]
        cdef rcmgr_amounts what
        cdef PyObject *found
        cdef Group group
        cdef int64_t taken
        cdef int exempt, outbound
        peer = exact_peer(peer)
        cdef uint64_t hashed = hash_of(peer)
        with cython.critical_section(self):
            found = find_group(self.peer_groups, peer, hashed)
            if found != NULL:
                group = <Group>found
                if self.ring is not None:
                    self.note_stream(RCMGR_EV_FORGET, 0, peer, False, False, None)
                for exempt in range(2):
                    chain[0] = &group.state
                    chain[1] = &(<Group>self.system_of(exempt)).state
                    for outbound in range(2):
                        taken = group.acquired[exempt][outbound]
                        group.acquired[exempt][outbound] = 0
                        memset(&what, 0, sizeof(what))
                        what.of[
                            RCMGR_STREAMS_OUTBOUND if outbound else RCMGR_STREAMS_INBOUND] = taken
                        rcmgr_give_back(chain, 2, &what)
                        self.forgotten_streams += taken
                        while taken > 0:
                            taken -= 1
                            self.unpin(group)

    # -- views -----------------------------------------------------------------------------------

    cdef ScopeView view(self, int kind, object name, object peer):
        cdef ScopeView view = ScopeView.__new__(ScopeView)
        cdef NamedGroup whole
        cdef Group kept = None
        if self.limiter is not None and kind >= FIXED_KINDS:
            kept = self.kept(kind, name, peer)
        start(view, self, kind)
        with cython.critical_section(self):
            if kind == PEER:
                view.group = self.pinned(
                    self.peer_groups, PEER, None, peer, hash_of(peer))
            elif kind == PROTOCOL or kind == PROTOCOL_PEER:
                view.group = self.pinned(
                    self.protocol_groups, PROTOCOL, name, None, hash_of(name))
            elif kind == SERVICE or kind == SERVICE_PEER:
                view.group = self.pinned(
                    self.service_groups, SERVICE, name, None, hash_of(name))
            elif kind == SYSTEM or kind == ALLOWLISTED_SYSTEM:
                view.group = <Group>self.system_of(kind == ALLOWLISTED_SYSTEM)
            else:
                view.group = <Group>self.transient_of(kind == ALLOWLISTED_TRANSIENT)
            if kind == PROTOCOL_PEER or kind == SERVICE_PEER:
                whole = <NamedGroup>view.group
                view.group = self.pinned_share(whole, kind, peer, hash_of(peer))
                self.unpin(whole)  # the share pins it
            view.epoch = self.epoch
            view.holds = IS_OPEN
        if kept is not None:
            self.let_go(kept)
        return view

    def system(self):
        """A view of everything that is not allowlisted."""
        return self.view(SYSTEM, None, None)

    def transient(self):
        """A view of connections without a peer and streams without a protocol."""
        return self.view(TRANSIENT, None, None)

    def allowlisted_system(self):
        """A view of the system scope of peers on the allowlist."""
        return self.view(ALLOWLISTED_SYSTEM, None, None)

    def allowlisted_transient(self):
        """A view of the transient scope of peers on the allowlist."""
        return self.view(ALLOWLISTED_TRANSIENT, None, None)

    def peer(self, peer):
        """A view of a peer. Memory is charged to it and the system. TypeError: not a peer id."""
        return self.view(PEER, None, exact_peer(peer))

    def protocol(self, protocol):
        """A view of a protocol. Memory is charged to it and the system. TypeError: not a name."""
        return self.view(PROTOCOL, exact_name("protocol", protocol), None)

    def service(self, service):
        """A view of a service. Memory is charged to it and the system. TypeError: not a name."""
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

        All or nothing: TypeError, ValueError or AttributeError leave everything as it was.
        ValueError also for two limits of one peer, under two names. Scopes may hold more than the
        new limits allow, and keep it. A limit set by `ScopeView.set_limit` stays if it is that of a
        peer, a protocol or a service. It ends if it is that of a scope that exists once.
        """
        cdef rcmgr_limit defaults[KINDS]
        cdef list named = read_limits(limits, defaults)
        cdef int kind
        if self.limiter is not None:
            young, old = {}, {}
            with cython.critical_section(self):
                # freed outside of the lock
                _young, self.young_answers = self.young_answers, young
                _older, self.old_answers = self.old_answers, old
            self.take_given(defaults)
        with cython.critical_section(self):
            for kind in range(<int>KINDS):
                self.defaults[kind] = defaults[kind]
            _old, self.named = self.named, named  # freed outside of the lock
        self.read(new_binder(self), ALL)

    cdef int override(self, ScopeView view, object limit) except -1:
        cdef GroupLimit own = None
        cdef Group group = view.group
        cdef tuple key = (group_kind(group), name_of(group), group.peer)
        cdef bint closed
        cdef GroupLimit given = None
        if limit is not None:
            own = read_limit(limit)
            own.origin = BY_SET_LIMIT
        elif group_kind(group) < FIXED_KINDS:
            raise TypeError(f"{text_of(group)} has no default limit to go back to")
        elif self.limiter is not None:
            given = self.given_limit(group_kind(group), name_of(group), group.peer)
        with cython.critical_section(self):
            closed = not is_live(view)
            if not closed:
                if group_kind(group) < FIXED_KINDS:
                    self.defaults[group_kind(group)] = own.value
                elif own is not None:
                    self.overrides[key] = own
                else:
                    self.overrides.pop(key, None)
                self.bind(group, given)
        if closed:
            raise ResourceScopeClosed(view.name)
        return 0

    # -- reading ---------------------------------------------------------------------------------

    def has_allowlisted_connection(self, peer):
        """Whether a connection of this peer is charged to the allowlisted scopes. O(1)."""
        return self.has_exempt_connection(peer)

    cdef bint has_exempt_connection(self, object peer) except -1:
        cdef PyObject *found
        cdef bint has_one = False
        peer = exact_peer(peer)
        cdef uint64_t hashed = hash_of(peer)
        with cython.critical_section(self):
            found = find_group(self.peer_groups, peer, hashed)
            if found != NULL:
                has_one = (<Group>found).exempt_connections > 0
        return has_one

    def inbound_streams_of(self, peer):
        """The streams that a peer has opened and not closed. O(1)."""
        return inbound_streams_of(self, peer)

    def peers(self):
        """Keys of the peers that hold something or are viewed, in order."""
        return in_order(self.keys(PEER), lambda key: (type(key).__name__, key))

    def protocols(self):
        """The protocols in use or viewed, in order."""
        return in_order(self.keys(PROTOCOL))

    def services(self):
        """The services that were used or viewed since the start, in order."""
        return in_order(self.keys(SERVICE))

    cdef list keys(self, int kind):
        cdef KeysReader reader = new_keys(kind)
        self.read(reader, PEERS if kind == PEER else WHOLES)
        return reader.keys

    @property
    def refused(self):
        """How often each kind of scope refused what: {"system": {"inbound stream": 3}}."""
        return refused_by_kind(self.refusals_now())

    @property
    def blocked(self):
        """The same by direction: {(direction, kind of scope, resource): times}.

        direction: "inbound", "outbound", or "" for memory of a scope without a direction. resource:
        a field of a limit.
        """
        return refused_by_direction(self.refusals_now())

    cdef dict refusals_now(self):
        cdef int64_t refusals[KINDS][RCMGR_RESOURCES][DIRECTIONS]
        cdef int kind, what, direction
        with cython.critical_section(self):
            refusals = self.refusals
        return {
            (kind, what, direction): refusals[kind][what][direction]
            for kind in range(<int>KINDS)
            for what in range(<int>RCMGR_RESOURCES)
            for direction in range(<int>DIRECTIONS)
            if refusals[kind][what][direction]
        }

    @property
    def connection_memory(self):
        """The memory of connections: its sum in bytes, and how many connections hold how much.

        The second value is a tuple: number n counts the connections that hold up to 2**n bytes, and
        more than 2**(n - 1). Connections without memory do not count.
        """
        cdef int64_t counts[POWERS]
        cdef int64_t total
        with cython.critical_section(self):
            counts = self.memory_of_connections
            total = self.connection_bytes
        return total, tuple([counts[n] for n in range(<int>POWERS)])

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
        """All groups: what they hold, their limits, and percentages of them. Ready for JSON.

        Peers are named by their base58 text. peers=False leaves them out, and their shares of
        protocols and services. A group shows limits and percentages only where it has limits. The
        peers are a `dict` that cannot change: it makes a peer's row when it is asked for it.

        Up to 250 groups are those of one moment. In a larger ledger, others may come and go during
        the call, which takes 2 us a peer. It holds the lock for 250 groups at a time, about 20 us,
        and lets other threads run each 0.3 ms.
        """
        cdef SnapshotReader reader = new_snapshot()
        self.read(reader, ALL if peers else WHOLES)
        return reader.shown

    def peer_stats(self):
        """The amounts each peer holds, without its name, in no order. O(peers), 0.3 us each."""
        cdef StatsReader reader = new_stats()
        self.read(reader, PEERS)
        return reader.stats

    def fullest(self, size_t most=20, bint peers=True):
        """The limits nearest to being reached: (scope, field of the limit, used, limit), in order.

        They are the limits of all groups, without unused ones. peers=False leaves out the limits of
        single peers: a busy node has many peers that are full. O(groups), as `snapshot`.
        """
        cdef FullestReader reader = new_fullest(most)
        self.read(reader, ALL if peers else WHOLES)
        return reader.fullest()

    def _fullest_under(self, limits, size_t most):
        """As `fullest`, if the ledger had these limits."""
        cdef rcmgr_limit defaults[KINDS]
        cdef list named = read_limits(limits, defaults)
        cdef UnderReader reader = new_under(defaults, named, most)
        self.read(reader, ALL)
        return reader.inner.fullest()

    def largest_peers(self, size_t most=20):
        """The peers that hold most connections, then streams, then memory: (peer, ScopeStat).

        O(peers), as `snapshot`, about 1 us each.
        """
        cdef LargestReader reader = new_largest(most)
        self.read(reader, PEERS)
        return reader.largest()

    def _peer_distributions(self, dict bounds):
        """Histograms over the peers: {field: (number of peers by bucket, sum)}.

        bounds: {field of `ScopeStat`: upper bounds of its buckets}. O(peers), 30 ns each.
        """
        cdef DistributionReader reader = new_distributions(bounds)
        self.read(reader, PEERS)
        return reader.distributions()

    def _steps(self, bint peers=True):
        """How many groups each hold of the lock reads, for tests. O(groups)."""
        cdef Walk walk = new_walk(self, Reader(), ALL if peers else WHOLES)
        cdef list counts = []
        while walk.step():
            counts.append(walk.visited)
        return counts

    cdef int read(self, Reader reader, int what) except -1:
        """Give a reader all groups, or the ones of a kind, without a long hold of the lock."""
        cdef Walk walk = new_walk(self, reader, what)
        while walk.step():
            reader.take(walk.reading)
            reader.pacer.step()
        return 0

    def clear(self, ScopeView keep=None):
        """Forget everything that is held. This closes all handles; limits stay. O(scopes).

        keep: a view of the system that stays open, with the memory reserved through it.
        ValueError: another view, or a view of another ledger. The numbers of connections and
        streams continue. Peaks and counts of refusals stay.
        """
        cdef Group group
        cdef NamedGroup whole, share
        cdef tuple tables = (GroupTable(), GroupTable(), GroupTable()), fixed
        cdef GroupTable protocols, services, peers
        cdef int64_t kept = 0
        cdef int exempt
        if keep is not None and keep.group is not self.system_group:
            raise ValueError(f"keep must be a view of this ledger's system, not {keep!r}")
        fixed = (
            self.system_group, self.transient_group, self.allowlisted_system_group,
            self.allowlisted_transient_group,
        )
        with cython.critical_section(self):
            # nothing in here allocates: no finalizer runs, no other thread gets in
            if self.ring is not None:
                self.ring.note(
                    RCMGR_EV_FORGET_ALL, 0, 0, None, None, None, None, None, 0, 0)
            if keep is not None and is_live(keep):
                kept = memory_of(keep)
                keep.epoch += 1
            for group in fixed:
                rcmgr_hold_nothing(&group.state)
            peers, self.peer_groups = self.peer_groups, <GroupTable>tables[0]
            protocols, self.protocol_groups = self.protocol_groups, <GroupTable>tables[1]
            services, self.service_groups = self.service_groups, <GroupTable>tables[2]
            self.epoch += 1
            memset(self.memory_of_connections, 0, sizeof(self.memory_of_connections))
            self.connection_bytes = 0
            if keep is not None and is_live(keep):
                keep.group.state.memory = kept
        with cython.critical_section(self):
            for group in groups_in(peers):
                for exempt in range(2):
                    self.forgotten_streams += (
                        <int64_t>group.acquired[exempt][False] + group.acquired[exempt][True])
        for table in (protocols, services):
            for whole in groups_in(<GroupTable>table):
                if whole.shares is not None:
                    for share in groups_in(whole.shares):
                        share.whole = None  # a cycle that the garbage collector cannot see
                    whole.shares = None

    def __repr__(self):
        cdef Py_ssize_t peers, protocols, services
        with cython.critical_section(self):
            peers, protocols = self.peer_groups.table.used, self.protocol_groups.table.used
            services = self.service_groups.table.used
        return (
            f"Ledger({self.system().stat()}, {peers} peers, {protocols} protocols, "
            f"{services} services)"
        )


cdef object try_open_connection(
    object ledger, bint inbound, bint fd, bint exempt, bint reserved, object peer,
    object network_share, list passed,
):
    return (<Ledger?>ledger).take_connection(
        inbound, fd, exempt, reserved, peer, network_share, passed)


cdef void expect_peer(object ledger, uint64_t hashed, bint slot_is_here) noexcept:
    cdef rcmgr_table *table = &(<Ledger>ledger).peer_groups.table
    if slot_is_here:
        rcmgr_table_expect_item(table, hashed)
    else:
        rcmgr_table_expect(table, hashed)


cdef inline object refused_by(Refusal refusal):
    """The code of a refusal; None: it was granted."""
    return None if refusal is None else code_of(refusal)


cdef uint64_t number_of(object scope) noexcept:
    return (<ConnScope>scope).number if type(scope) is ConnScope else 0


cdef bint is_exempt(object scope) except -1:
    cdef ConnScope self = <ConnScope?>scope
    cdef bint exempt
    if self.ledger is None:
        return self.is_exempt
    with cython.critical_section(self.ledger):
        exempt = self.is_exempt
    return exempt


cdef int give_descriptor(object scope) except -1:
    cdef ConnScope self = <ConnScope?>scope
    cdef rcmgr_scope *chain[LONGEST_CHAIN]
    cdef rcmgr_scope own
    cdef rcmgr_amounts what
    memset(&what, 0, sizeof(what))
    with cython.critical_section(self.ledger):
        if is_live(self) and self.holds & HAS_DESCRIPTOR:
            what.of[RCMGR_FD] = 1
            rcmgr_give_back(chain, chain_of(self, &own, chain), &what)
            self.holds = IS_OPEN
            if self.ledger.ring is not None:
                self.ledger.ring.note(
                    RCMGR_EV_NO_FD, RCMGR_EV_KNOWN, self.number, None, None, None, None, None, 0, 0)
    return 0


cdef int note_connection(
    EventRing ring, int kind, int flags, uint64_t number, bint inbound, bint exempt, object peer,
    object answer,
) except -1:
    """Note a connection that no `Admission` knows."""
    flags |= RCMGR_EV_INBOUND * inbound | RCMGR_EV_EXEMPT * exempt
    code = code_of(<Refusal>answer) if type(answer) is Refusal else None
    ring.note(kind, flags, number, peer, None, None, None, code, 0, 0)
    return 0


cdef object try_set_peer(
    object scope, object peer, bint exempt, object network_share, list passed,
):
    return take_peer(<ConnScope?>scope, peer, exempt, network_share, passed)


cdef bint has_network_share(object scope) except -1:
    cdef ConnScope self = <ConnScope?>scope
    cdef bint has_share
    with cython.critical_section(self.ledger):
        has_share = self.network_share is not None
    return has_share


cdef object open_stream(object ledger, object peer, bint inbound, bint exempt):
    return (<Ledger?>ledger).take_stream(peer, inbound, exempt)


cdef object acquire_stream(object ledger, object peer, bint inbound, bint exempt):
    return (<Ledger?>ledger).take_acquired(peer, inbound, exempt)


cdef bint release_stream(object ledger, object peer, bint inbound) except -1:
    return (<Ledger?>ledger).give_acquired(peer, inbound)


cdef bint has_exempt_connection(object ledger, object peer) except -1:
    return (<Ledger?>ledger).has_exempt_connection(peer)


cdef int64_t inbound_streams_of(object ledger, object peer) except -1:
    cdef Ledger self = <Ledger?>ledger
    cdef PyObject *found
    cdef int64_t streams = 0
    peer = exact_peer(peer)
    cdef uint64_t hashed = hash_of(peer)
    with cython.critical_section(self):
        found = find_group(self.peer_groups, peer, hashed)
        if found != NULL:
            streams = rcmgr_held(&(<Group>found).state, RCMGR_STREAMS_INBOUND)
    return streams


cdef int power_above(int64_t amount) noexcept:
    """The smallest n with amount <= 2**n."""
    cdef int n = 0
    while n < 62 and (<int64_t>1 << n) < amount:
        n += 1
    if (<int64_t>1 << n) < amount:
        n += 1
    return n


cdef uint32_t inbound_streams(object scope, int64_t *now_open) except? 0:
    cdef ConnScope self = <ConnScope?>scope
    cdef uint32_t begun = 0
    now_open[0] = 0
    if self.ledger is None:
        return 0
    with cython.critical_section(self.ledger):
        if self.peer_group is not None and is_live(self):
            begun = self.peer_group.streams_begun
            now_open[0] = rcmgr_held(&self.peer_group.state, RCMGR_STREAMS_INBOUND)
    return begun


cdef bint is_full_of_connections(Refusal refusal) noexcept:
    return (
        refusal.blamed is not None and group_kind(refusal.blamed) in (SYSTEM, TRANSIENT)
        and refusal.what in (RCMGR_CONNS_INBOUND, RCMGR_CONNS, RCMGR_FD)
    )


cdef Refusal refusal_of_handshake(object ledger, bint inbound, bint of_system):
    cdef Ledger self = <Ledger?>ledger
    cdef Group group = self.system_group if of_system else self.transient_group
    cdef rcmgr_amounts ask
    cdef rcmgr_refusal why
    cdef rcmgr_limit limit
    cdef rcmgr_scope enforced
    cdef Refusal refusal = None
    memset(&ask, 0, sizeof(ask))
    ask.of[RCMGR_CONNS_INBOUND if inbound else RCMGR_CONNS_OUTBOUND] = 1
    ask.of[RCMGR_FD] = 1
    with cython.critical_section(self):
        self.lift(group_kind(group), group.state.limit, &limit)
        enforced = group.state
        enforced.limit = &limit
        if rcmgr_scope_refuses(&enforced, &ask, RCMGR_PRIORITY_ALWAYS, &why):
            refusal = new_refusal(&why, RCMGR_PRIORITY_ALWAYS, group, NO_KIND, 0, None)
    return refusal


cdef bint is_of_system(Refusal refusal) noexcept:
    return group_kind(refusal.blamed) == SYSTEM


cdef int uncount(object ledger, Refusal refusal) except -1:
    cdef Ledger self = <Ledger?>ledger
    with cython.critical_section(self):
        self.refusals[group_kind(refusal.blamed)][refusal.what][<int>INBOUND] -= 1
    return 0


cdef list read_limits(object limits, rcmgr_limit *defaults):
    """Fill in the limits by kind of scope; returns those of particular names, by kind."""
    cdef int kind
    cdef list named = []
    for kind in range(<int>KINDS):
        default, particular = LIMIT_NAMES[kind]
        defaults[kind] = read_limit(getattr(limits, default)).value
        table = {}
        if particular is not None:
            for key, value in getattr(limits, particular).items():
                exact = exact_peer(key) if kind == PEER else exact_name(particular, key)
                if exact in table:
                    raise ValueError(f"{particular} {key!r} has two limits")
                table[exact] = read_limit(value)
        named.append(table)
    return named


cdef Refusal refusal_of(
    const rcmgr_refusal *why, PyObject **groups, int leaf_kind, uint64_t leaf_number,
):
    cdef PyObject *blamed = groups[why.place]
    return new_refusal(
        why, RCMGR_PRIORITY_ALWAYS, None if blamed is NULL else <Group>blamed, leaf_kind,
        leaf_number, None)


cdef Refusal refusal_of_span(const rcmgr_refusal *why, int priority):
    """By a span that has limits."""
    cdef Refusal refusal = new_refusal(why, priority, None, NO_KIND, 0, None)
    refusal.origin = BY_SET_LIMIT
    return refusal


cdef inline void raise_peak(int64_t *peaks, Group group, int what) noexcept:
    peaks[what] = max(peaks[what], rcmgr_held(&group.state, what))


cdef inline void raise_pair(int64_t *peaks, Group group, int inbound, int total) noexcept:
    """The peaks of both directions, and of their sum."""
    raise_peak(peaks, group, inbound)
    raise_peak(peaks, group, inbound + 1)
    peaks[total] = max(
        peaks[total], rcmgr_held(&group.state, inbound) + rcmgr_held(&group.state, inbound + 1))


cdef inline NamedGroup whole_of(Group group):
    """The service or protocol of a share; None: the group is no share."""
    return (<NamedGroup>group).whole if type(group) is NamedGroup else None


cdef inline GroupTable shares_of(PyObject *group):
    return (<NamedGroup>group).shares if type(<Group>group) is NamedGroup else None


@cython.final
cdef class Binder(Reader):
    """Gives groups the limits that apply to them now. The limiter's limits stay."""

    cdef Ledger ledger

    cdef bint wants(self, Group group) noexcept:
        # a default limit has changed in its place
        return (
            len(<dict>self.ledger.named[group_kind(group)]) > 0 or len(self.ledger.overrides) > 0
            or (group.limit is not None and group.limit.origin != BY_LIMITER)
        )

    cdef int take(self, Reading reading) except -1:
        cdef Group group
        cdef size_t i
        for i in range(reading.count):
            group = <Group>reading.rows[i].group
            with cython.critical_section(self.ledger):
                if group.limit is None or group.limit.origin != BY_LIMITER:
                    self.ledger.bind(group)
        return 0


cdef Binder new_binder(Ledger ledger):
    cdef Binder binder = Binder.__new__(Binder)
    binder.ledger = ledger
    return binder


cdef enum:
    # the groups of a walk
    ALL     # every group
    WHOLES  # no single peers, and not their shares
    PEERS   # single peers, without their shares

    # Each hold of the lock reads so many slots. A full table has four groups in five slots.
    STEP_SLOTS = 256

    FIXED_GROUPS = 0
    LAST_TABLE = 3


@cython.final
cdef class Walk:
    """The groups of a ledger in steps. A group that stays for the whole walk is visited once.

    First come the groups that exist once, then peers, protocols and services. The shares of a
    protocol or service come next, in the same step if they are few.
    """

    cdef Ledger ledger
    cdef Reader reader
    cdef Reading reading  # the groups of this step that the reader wants
    cdef int what
    cdef int table        # the next one: FIXED_GROUPS, peers, protocols, services
    cdef uint64_t at      # how far it is visited
    cdef list wholes      # groups whose shares come before it
    cdef uint64_t share_at
    cdef size_t visited   # in this step
    # groups of this step that have too many shares for it, owned
    cdef PyObject *many[STEP_SLOTS]
    cdef size_t many_count

    cdef bint step(self) except -1:
        """Read some groups. False: the walk has ended."""
        cdef Group whole = self.wholes[-1] if self.wholes else None
        cdef GroupTable shares
        cdef bint fits = True
        cdef size_t i
        self.reading.clear()
        self.visited = self.many_count = 0
        if whole is None and self.table > LAST_TABLE:
            return False
        with cython.critical_section(self.ledger):
            # nothing in here allocates: no finalizer runs, no other thread gets in
            if whole is None:
                fits = self.visit_tables()
            else:
                shares = shares_of(<PyObject *>whole)
                if shares is None:  # `clear` has forgotten them
                    self.share_at = RCMGR_TABLE_END
                else:
                    fits = self.visit(shares, &self.share_at, STEP_SLOTS, NULL)
        if whole is not None and self.share_at == RCMGR_TABLE_END:
            self.wholes.pop()
            self.share_at = 0
        for i in range(self.many_count):
            self.wholes.append(<Group>self.many[i])
            Py_DECREF(<Group>self.many[i])
        if not fits and self.visited == 0:
            raise RuntimeError(f"more than {MOST_ROWS} groups have one hash")
        return True

    cdef bint visit_tables(self) noexcept:
        """False: a part has more groups than there is room for. Locked."""
        cdef GroupTable groups
        cdef size_t slots, budget = STEP_SLOTS
        while budget > 0 and self.table <= LAST_TABLE:
            if self.table == FIXED_GROUPS:
                if self.what != PEERS:
                    self.look_at(self.ledger.system_group)
                    self.look_at(self.ledger.transient_group)
                    self.look_at(self.ledger.allowlisted_system_group)
                    self.look_at(self.ledger.allowlisted_transient_group)
                self.table = 2 if self.what == WHOLES else 1
                continue
            groups = self.ledger.table_at(self.table)
            slots = min(budget, groups.table.count)
            budget -= slots
            if not self.visit(groups, &self.at, slots, &budget):
                return False
            if self.at == RCMGR_TABLE_END:
                self.at = 0
                self.table = <int>(
                    LAST_TABLE + 1 if self.what == PEERS else self.table + 1)
        return True

    cdef bint visit(
        self, GroupTable groups, uint64_t *at, size_t slots, size_t *for_shares,
    ) noexcept:
        """Look at the groups of so many slots, or of fewer. False: there is no room. Locked.

        for_shares: how many slots of shares may be visited too. NULL: these are shares.
        """
        cdef void *found[MOST_ROWS]
        cdef int64_t count = RCMGR_TABLE_NO_ROOM, i
        while count == RCMGR_TABLE_NO_ROOM:
            count = rcmgr_table_walk(
                &groups.table, at, slots, found, MOST_ROWS - self.visited)
            if count == RCMGR_TABLE_NO_ROOM and slots == 0:
                return False
            slots //= 2
        for i in range(count):
            rcmgr_prefetch_object(found[i])
        for i in range(count):
            self.look_at(<Group>found[i])
        if for_shares is not NULL and self.what == ALL:
            for i in range(count):
                self.visit_shares(<Group>found[i], for_shares)
        return True

    cdef void visit_shares(self, Group group, size_t *for_shares) noexcept:
        """Visit the shares of a group now, or note that they come later. Locked."""
        cdef uint64_t at = 0
        cdef size_t slots
        cdef GroupTable shares = shares_of(<PyObject *>group)
        if shares is None or shares.table.used == 0:
            return
        slots = shares.table.count
        if slots <= for_shares[0] and self.visit(shares, &at, slots, NULL):
            for_shares[0] -= slots
        else:
            Py_INCREF(group)
            self.many[self.many_count] = <PyObject *>group
            self.many_count += 1

    cdef void look_at(self, Group group) noexcept:
        self.visited += 1
        if self.reader.wants(group):
            self.reading.put(group)


cdef Walk new_walk(Ledger ledger, Reader reader, int what):
    cdef Walk walk = Walk.__new__(Walk)
    walk.ledger = ledger
    walk.reader = reader
    walk.reading = Reading()
    walk.what = what
    walk.wholes = []
    return walk
