"""What a swarm asks for each connection and stream, in as few steps as it takes.

For one connection py-libp2p's swarm asks up to three times: `open_connection(None, ...)` before the
handshake, `open_connection(peer, ...)` after it, and the lifecycle handler of its `add_conn`. No
call carries anything that names the connection to the others, but the swarm makes them one after
the other in one task. So what the next call needs is kept in a context variable, in an object that
is written to as long as the task lives: another value of the variable would cost 0.1 us each time.
A task that is started meanwhile inherits the value, but does not use it: it sees only its own.

TCP, WebSocket: pending, open(peer), lifecycle. QUIC: (outbound: pending), lifecycle, open(peer).
"""

cimport cython
from cpython.contextvars cimport PyContextVar_Set, get_value
from cpython.unicode cimport PyUnicode_DecodeASCII
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from contextvars import ContextVar
from enum import Enum
from weakref import ref

from rcmgr.counting cimport connection_tracker as trackers, scope as scopes
from rcmgr.admission._context cimport rcmgr_current_context, rcmgr_refers_to
from rcmgr.peers cimport key_of as peer_key
from rcmgr.counting.connection_tracker cimport ConnectionRecord
from rcmgr.counting.denials cimport DenialLog
from rcmgr.counting.memory_stats cimport is_fine as memory_is_fine
from rcmgr.peers cimport peer_from_any

from rcmgr.errors import ResourceScopeClosed
from rcmgr.counting.scope import ConnScope

__all__ = [
    "Admission",
    "ConnectionScope",
    "Intake",
    "accepted",
    "is_inbound",
]

cdef object CONN_SCOPE = ConnScope

cdef object TASK = ContextVar("rcmgr_task", default=None)
cdef enum:
    ROOM = 16

accepted = ContextVar("rcmgr_accepted", default=None)
"""What `Admission.accept_connection` returned, for the tasks that are started while it is here."""
cdef object ACCEPTED = accepted

cdef tuple NOT_EXEMPT = (False, None)
cdef dict DIRECTIONS = {"inbound": True, "outbound": False, "unknown": False}
# members of an enum, once seen: hashing one runs Python code
cdef object known_inbound = None
cdef object known_outbound = None


cdef bint inbound_of(object direction) except -1:
    if direction is "inbound" or direction is known_inbound:
        return True
    if direction is "outbound" or direction is known_outbound:
        return False
    return learn(direction)


cdef bint learn(object direction) except -1:
    """Any other direction; the members of an enum are known the next time."""
    global known_inbound, known_outbound
    name = str(getattr(direction, "name", direction)).lower()
    found = DIRECTIONS.get(name)
    if found is None:
        raise ValueError(
            f"direction must be 'inbound', 'outbound' or a Direction, not {direction!r}"
        )
    if isinstance(direction, Enum):
        if name == "inbound":
            known_inbound = direction
        elif name == "outbound":
            known_outbound = direction
    return found


def is_inbound(direction):
    """Whether "inbound", "outbound", or a py-libp2p `Direction` is inbound; UNKNOWN is not.

    ValueError: something else.
    """
    return inbound_of(direction)


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class _Task:
    """What the calls of one task tell each other, of all managers."""

    cdef object context  # weak: it leads to this
    cdef list pending  # whose handshakes began here, the latest last; ended ones too
    cdef Py_ssize_t room
    cdef ConnectionRecord established  # the latest, if one of scope and swarm does not know it yet

    def __len__(self):
        """How many handshakes it remembers."""
        return len(self.pending)

    cdef int begin(self, ConnectionRecord record) except -1:
        self.established = None
        self.drop_ended()
        if len(self.pending) >= self.room:
            # those that others have begun since keep the ended ones below them
            self.pending = [each for each in self.pending if trackers.is_pending(each)]
            self.room = max(ROOM, 2 * len(self.pending))
        self.pending.append(record)
        return 0

    cdef int drop_ended(self) except -1:
        while self.pending and not trackers.is_pending(<ConnectionRecord>self.pending[-1]):
            self.pending.pop()
        return 0

    cdef ConnectionRecord pending_of(self, object tracker, bint inbound):
        """The latest that is under way, if it has that direction."""
        cdef ConnectionRecord record
        self.drop_ended()
        for record in reversed(self.pending):
            if trackers.is_pending(record) and trackers.holds(tracker, record):
                return record if trackers.is_inbound(record) == inbound else None
        return None

    cdef ConnectionRecord established_of(
        self, object tracker, object peer, bint inbound, bint claimed
    ):
        """What was established just before, if it is of that peer and direction, once."""
        cdef ConnectionRecord record
        if self.established is None:
            return None
        record, self.established = self.established, None
        if (
            record.entry.claimed != claimed
            or trackers.is_inbound(record) != inbound
            or peer_key(record.peer) != peer_key(peer)
            or not trackers.holds(tracker, record)
        ):
            return None
        return record


cdef _Task task_here():
    """Of the context that runs now; None: it has none of its own."""
    cdef _Task task = get_value(TASK)
    if task is not None and rcmgr_refers_to(task.context, rcmgr_current_context()):
        return task
    return None


cdef _Task task_made_here():
    cdef _Task task = task_here()
    if task is None:
        if rcmgr_current_context() is NULL:
            PyContextVar_Set(TASK, None)
        task = _Task.__new__(_Task)
        task.context = PyWeakref_NewRef(<object>rcmgr_current_context(), None)
        task.pending, task.room = [], ROOM
        PyContextVar_Set(TASK, task)
    return task


@cython.final
cdef class _Held:
    """A connection's share of the scopes, and of the network it came from."""

    cdef object scope
    cdef object entered

    def close(self):
        self.scope.close()
        self.entered.close()


cdef object scope_of(object held):
    """The ConnScope in what a record holds; None: none."""
    if type(held) is _Held:
        return (<_Held>held).scope
    return held if type(held) is CONN_SCOPE else None


cdef object held_with(object scope, object entered):
    cdef _Held held
    if entered is None:
        return scope
    held = _Held.__new__(_Held)
    held.scope = scope
    held.entered = entered
    return held


cdef str conn_text(uint64_t number):
    """f"conn-{number}" in a third of the time."""
    cdef char[32] text
    cdef int at = 32
    while True:
        at -= 1
        text[at] = 48 + number % 10
        number //= 10
        if number == 0:
            break
    at -= 5
    memcpy(text + at, b"conn-", 5)
    return PyUnicode_DecodeASCII(text + at, 32 - at, NULL)


@cython.final
@cython.binding(False)
cdef class Intake:
    """Counts connections in both the states and the scopes, and passes them on within a task.

    tracker: the states. ledger: the scopes. limits: a ConnectionLimits, for the states.
    """

    cdef object _tracker, _ledger
    cdef uint64_t _numbers
    cdef public object limits
    cdef public object memory_limits
    """A MemoryConnectionLimits, or None."""

    def __init__(self, tracker, ledger, limits):
        self._tracker = tracker
        self._ledger = ledger
        self.limits = limits

    cdef str new_id(self):
        cdef uint64_t number
        with cython.critical_section(self):
            self._numbers += 1
            number = self._numbers
        return conn_text(number)

    cpdef charge_pending(self, connection_id, bint inbound, bint exempt, entered):
        """Count a connection before its handshake: its ConnectionRecord, or a Refusal or Denial.

        connection_id: None makes one up. entered: closed at the end of the connection, and when
        it is refused.
        """
        scope = scopes.try_open_connection(self._ledger, inbound, True, exempt, None, None)
        if type(scope) is not CONN_SCOPE:
            if entered is not None:
                entered.close()
            return scope
        held = held_with(scope, entered)
        if connection_id is None:
            connection_id = self.new_id()
        record = None
        try:
            record = trackers.admit(
                self._tracker, connection_id, None, inbound, self.limits, held, exempt)
        finally:
            if type(record) is not ConnectionRecord:
                held.close()
        return record

    cpdef charge_peer(
        self, ConnectionRecord pending, connection_id, peer, bint inbound, bint exempt, entered
    ):
        """Count a connection whose peer is known: one that was pending, or (None) a new one.

        As `charge_pending`; None: another thread closed it. There is no way back for one that was
        pending: end it. connection_id: None makes one up, or takes that of the pending one.
        """
        cdef bint taken = False
        scope = None if pending is None else scope_of(pending.held)
        try:
            if scope is None:
                scope = scopes.try_open_connection(self._ledger, inbound, False, exempt, peer, None)
                taken = type(scope) is CONN_SCOPE
                refusal, held = scope, scope
            else:
                refusal = scopes.try_set_peer(scope, peer, exempt, None)
                taken = refusal is True
                held = None  # the record keeps what it has
        except ResourceScopeClosed:
            refusal = None
        finally:
            if not taken and entered is not None:
                entered.close()
        if not taken:
            return refusal
        if entered is not None:
            held = held_with(scope, entered)
        if connection_id is None:
            connection_id = self.new_id() if pending is None else pending.id
        record = None
        try:
            record = trackers.admit(
                self._tracker, connection_id, peer, inbound, self.limits, held, exempt)
        finally:
            if type(record) is not ConnectionRecord and held is not None:
                held.close()
        return record

    cpdef bint came_from(self, ConnectionRecord pending):
        """Whether a pending connection is counted for the address that it came from."""
        return pending is not None and type(pending.held) is _Held

    def take_pending(self, bint inbound):
        """The connection whose handshake this task has under way, if it has that direction."""
        cdef _Task task = task_here()
        return None if task is None else task.pending_of(self._tracker, inbound)

    def offer_established(self, ConnectionRecord record):
        """`record` was established for the swarm, which asks for its scope next."""
        task_made_here().established = record

    def take_established(self, peer_id, bint inbound):
        """What this task established for a scope just before, if of that peer and direction."""
        cdef _Task task = task_here()
        if task is None:
            return None
        return task.established_of(self._tracker, peer_id, inbound, False)


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class ConnectionScope:
    """Holds a connection's slot until `close`, which gives it back exactly once.

    A scope opened before the handshake holds the pending slot: once the connection is established,
    closing this scope does nothing. A scope that is garbage-collected unclosed closes itself, and
    counts as leaked if it held anything. Thread safe.
    """

    cdef object __weakref__
    cdef object _tracker
    cdef ConnectionRecord _record
    cdef object _manager  # weak: the manager may lead, by way of observers, to who holds the scope
    cdef bint _only_pending

    def __init__(self, tracker, ConnectionRecord record not None, *, bint only_pending):
        self._tracker = tracker
        self._record = record
        self._only_pending = only_pending

    @property
    def connection_id(self):
        return None if self._record is None else self._record.id

    @property
    def peer_id(self):
        """The peer; None before the handshake."""
        return None if self._record is None else self._record.peer

    @property
    def resource_manager(self):
        """Who gave it; None: gone, or it was nobody."""
        return None if self._manager is None else self._manager()

    @property
    def closed(self):
        """Whether this scope holds nothing (any more)."""
        return self._record is None or not (
            trackers.is_pending(self._record)
            or (trackers.is_established(self._record) and not self._only_pending)
        )

    def close(self):
        """Give the slot back; nothing happens if it was given back or handed over before."""
        self.end()

    cdef bint end(self) except -1:
        """Whether it held anything."""
        tracker, self._tracker = self._tracker, None
        if tracker is None:  # closed before, or the constructor failed
            return False
        return trackers.remove(tracker, self._record, self._only_pending)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.end()

    def __del__(self):
        if self._tracker is None:
            return
        scope = scope_of(self._record.held)
        if self.end() and scope is not None:
            scope._leak()

    def __repr__(self):
        return f"ConnectionScope({self._record!r}{', closed' if self.closed else ''})"


cdef tuple acquired_key(object peer, object endpoint_ip, bint inbound):
    """Of exact types, so that looking it up runs no Python code. TypeError: not a peer."""
    return (
        None if peer is None else scopes.exact_peer(peer),
        None if endpoint_ip is None else str(endpoint_ip),
        inbound,
    )


cdef ConnectionScope new_scope(Admission manager, ConnectionRecord record, bint only_pending):
    cdef ConnectionScope scope = ConnectionScope.__new__(ConnectionScope)
    scope._tracker = manager.connection_tracker
    scope._manager = manager._weak
    scope._record = record
    scope._only_pending = only_pending
    return scope


@cython.binding(False)
cdef class Admission:
    """Asks everything that has a say about a connection or stream, in order, all or nothing.

    The base of `ResourceManager`, which says what it may ask beside the tracker and the ledger:
    `_may_begin(inbound, endpoint_ip)` before a handshake, None or (exempt, what to close at the
    end); `_enter(inbound, endpoint_ip)` counts what was not counted for its address before: what to
    close at the end, or None; `_refuse_rate(peer)` notes that a peer connects too often.
    """

    cdef readonly object connection_tracker
    cdef readonly object connection_lifecycle
    cdef readonly object ledger
    cdef readonly object allowlist
    """Who is never limited; may be edited at any time."""
    cdef readonly DenialLog denials
    """The latest denials."""
    cdef dict _allowed, _networks  # the peers of the allowlist, and its networks
    cdef object __weakref__
    cdef object _weak  # to itself
    cdef Intake _intake
    cdef public bint _asks_addresses
    cdef public object _peer_rates
    """How often a peer may connect: something with `try_consume(peer)`, or None."""
    cdef public bint _takes_any_peer
    """Whether a peer that is no ID, bytes, text or number is known by its text, in connections."""
    cdef dict _acquired  # (peer, address, inbound) -> list of what was acquired so
    cdef bint _is_open  # not before it is made, nor after `close`

    def __init__(
        self, tracker, lifecycle, ledger, allowlist, DenialLog denials not None,
        Intake intake not None,
    ):
        self.connection_tracker = tracker
        self.connection_lifecycle = lifecycle
        self.ledger = ledger
        self.allowlist = allowlist
        self._allowed, self._networks = allowlist.allowed_peers, allowlist.networks
        self.denials = denials
        self._intake = intake
        self._acquired = {}
        self._weak = ref(self)
        self._is_open = True

    @property
    def closed(self):
        """Whether `close` was called."""
        return not self._is_open

    def _close(self):
        self._is_open = False

    # -- connections -------------------------------------------------------------------------

    def open_connection(self, peer_id=None, endpoint_ip=None, direction="inbound"):
        """Ask for a connection; the scope that holds it, or None: denied.

        Without a peer id: before the handshake, and the scope holds a pending connection. With one:
        after the handshake. Then the connection that this task has pending in that direction
        becomes established, or one that the lifecycle handler admitted just before is taken over;
        without either the connection is new. Never raises for a limit, and denies when the manager
        is closed (the swarm takes an exception for consent).

        direction: "inbound", "outbound" or a py-libp2p `Direction` (UNKNOWN counts as outbound);
        ValueError for anything else. endpoint_ip: the remote address, for limits on addresses.
        About 0.4 us; O(1).
        """
        cdef bint inbound
        if not self._is_open:
            return None
        inbound = inbound_of(direction)
        if peer_id is None:
            return self.begin(inbound, endpoint_ip)
        if not self._takes_any_peer:
            return self.establish(peer_from_any(peer_id), inbound, endpoint_ip)
        try:
            return self.establish(peer_from_any(peer_id), inbound, endpoint_ip)
        except TypeError:
            known = peer_key(peer_id)
            if type(known) is bytes or isinstance(known, (str, int)):
                raise
            return self.establish(peer_from_any(str(peer_id)), inbound, endpoint_ip)

    def accept_connection(self, endpoint_ip=None):
        """Ask for a connection from outside before anything is spent on it: its scope, or None.

        For whoever accepts sockets. The task that handles the connection asks again with
        `open_connection(None, ..., "inbound")`, and gets this scope if it is `accepted` there.
        """
        return self.charge(True, endpoint_ip) if self._is_open else None

    cdef object begin(self, bint inbound, object endpoint_ip):
        cdef ConnectionScope scope
        if inbound:
            scope = get_value(ACCEPTED)
            if scope is not None:
                PyContextVar_Set(ACCEPTED, None)
                if scope._tracker is not self.connection_tracker:
                    scope.close()  # of the manager that the swarm had when it accepted
                elif trackers.is_pending(scope._record):
                    task_made_here().begin(scope._record)
                    return scope
        scope = self.charge(inbound, endpoint_ip)
        if scope is not None:
            task_made_here().begin(scope._record)
        return scope

    cdef ConnectionScope charge(self, bint inbound, object endpoint_ip):
        answer = self.may_begin(inbound, endpoint_ip)
        if answer is None:
            return None
        exempt, entered = answer
        record = self._intake.charge_pending(None, inbound, exempt, entered)
        if type(record) is not ConnectionRecord:
            self.denials.add(record, None, None, inbound)
            return None
        return new_scope(self, record, True)

    cdef tuple may_begin(self, bint inbound, object endpoint_ip):
        """Ask what depends on the address alone, or on nothing: as `_may_begin`."""
        limits = self._intake.memory_limits
        if self._asks_addresses or self._networks or not (
            limits is None or memory_is_fine(limits, False)
        ):
            return self._may_begin(inbound, endpoint_ip)
        return NOT_EXEMPT

    cdef bint may_connect(self, object peer, bint inbound, bint known) except -1:
        """Ask what depends on the peer alone; `known`: this connection is counted already."""
        limits = self._intake.memory_limits
        if limits is not None and not memory_is_fine(limits, True):
            new_peer = self.connection_tracker.get_peer_connection_count(peer) <= known
            if self.connection_lifecycle.memory_excess(
                None, peer, inbound, new_peer=new_peer
            ) is not None:
                return False
        if not inbound or self._peer_rates is None or self._peer_rates.try_consume(peer):
            return True
        self._refuse_rate(peer)
        return False

    cdef object establish(self, object peer, bint inbound, object endpoint_ip):
        cdef bint exempt
        cdef ConnectionRecord known = None, pending = None
        cdef _Task task = task_here()
        tracker = self.connection_tracker
        if task is not None:
            known = task.established_of(tracker, peer, inbound, True)
        if known is not None:
            exempt = known.entry.exempt
        else:
            exempt = self.is_exempt(peer, endpoint_ip)
        if not exempt and not self.may_connect(peer, inbound, known is not None):
            if known is not None:
                trackers.remove(tracker, known, False)
            return None
        if known is not None:
            return new_scope(self, known, False)
        if task is not None:
            pending = task.pending_of(tracker, inbound)
        entered = None
        if (
            self._asks_addresses and not exempt and endpoint_ip is not None
            and not self._intake.came_from(pending)
        ):
            entered = self._enter(inbound, endpoint_ip)
            if entered is None:
                if pending is not None:
                    trackers.remove(tracker, pending, False)
                return None
        record = self._intake.charge_peer(pending, None, peer, inbound, exempt, entered)
        if type(record) is ConnectionRecord:
            if task is None:
                task = task_made_here()
            task.established = record
            return new_scope(self, record, False)
        if pending is not None:
            trackers.remove(tracker, pending, False)
        if record is not None:
            connection_id = None if pending is None else pending.id
            self.denials.add(record, connection_id, peer, inbound)
        return None

    cdef bint is_exempt(self, object peer, object endpoint_ip) except -1:
        if not self._allowed and (endpoint_ip is None or not self._networks):
            return False
        return self.allowlist.allows_at(peer, endpoint_ip)

    def is_exempt_peer(self, peer_id):
        """Whether streams and requests of this peer are not limited.

        A peer on the allowlist, or one that has a connection from an address that is on it for
        this peer.
        """
        return self.is_trusted(peer_from_any(peer_id))

    cdef bint is_trusted(self, object peer) except -1:
        if self._allowed and peer_key(peer) in self._allowed:
            return True
        if not self._networks:
            return False
        return scopes.has_exempt_connection(self.ledger, peer)

    def acquire_connection(self, peer_id="", endpoint_ip=None, direction="inbound"):
        """Count a connection, in no state; False: denied. Give it back with `release_connection`.

        For callers that only count, as libp2p.rcmgr's API. peer_id: "": not known. Arguments and
        errors as for `open_connection`. ResourceScopeClosed: the manager is closed. O(1), about
        0.5 us.
        """
        cdef bint inbound, exempt
        if not self._is_open:
            raise ResourceScopeClosed
        inbound = inbound_of(direction)
        peer = peer_from_any(peer_id) or None
        key = acquired_key(peer, endpoint_ip, inbound)
        taken = entered = None
        exempt = peer is not None and self.is_exempt(peer, endpoint_ip)
        if peer is None:
            answer = self.may_begin(inbound, endpoint_ip)
            if answer is None:
                return False
            exempt, entered = answer
        elif self._asks_addresses and not exempt and endpoint_ip is not None:
            entered = self._enter(inbound, endpoint_ip)
            if entered is None:
                return False
        try:
            if peer is None or exempt or self.may_connect(peer, inbound, False):
                taken = scopes.try_open_connection(self.ledger, inbound, True, exempt, peer, None)
        finally:
            if type(taken) is not CONN_SCOPE and entered is not None:
                entered.close()
        if type(taken) is CONN_SCOPE:
            with cython.critical_section(self):
                (<list>self._acquired.setdefault(key, [])).append(held_with(taken, entered))
            return True
        if taken is not None:
            self.denials.add(taken, None, peer, inbound)
        return False

    def release_connection(self, peer_id="", endpoint_ip=None, direction="inbound"):
        """Give back a connection that was acquired with the same arguments; else nothing."""
        key = acquired_key(peer_from_any(peer_id) or None, endpoint_ip, inbound_of(direction))
        cdef list those
        held = None
        with cython.critical_section(self):
            those = self._acquired.get(key)
            if those is not None:
                held = those.pop()
                if not those:
                    del self._acquired[key]
        if held is not None:
            held.close()

    # -- streams -----------------------------------------------------------------------------

    def acquire_stream(self, peer_id, direction):
        """Take a stream of this peer; False: denied.

        direction: as for `open_connection`. ResourceScopeClosed: the manager is closed. TypeError:
        no peer id. O(1), about 0.2 us.
        """
        if not self._is_open:
            raise ResourceScopeClosed
        cdef bint inbound = inbound_of(direction)
        peer = peer_from_any(peer_id)
        taken = scopes.acquire_stream(self.ledger, peer, inbound, self.is_trusted(peer))
        if taken is True:
            return True
        self.denials.add(taken, None, peer, inbound)
        return False

    def release_stream(self, peer_id, direction):
        """Give a stream back; more than were taken is ignored, and counted."""
        cdef bint inbound = inbound_of(direction)
        if not self._is_open:
            return
        scopes.release_stream(self.ledger, peer_from_any(peer_id), inbound)

    def _noop(self):
        """Does nothing: the baseline of the benchmarks."""
