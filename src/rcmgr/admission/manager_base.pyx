"""The calls that a swarm makes for each connection and stream, in as few steps as possible."""

cimport cython
from cpython.contextvars cimport PyContextVar_Set, get_value
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from contextvars import ContextVar
from enum import Enum
from weakref import ref

from rcmgr.admission.admission cimport ACQUIRE, BEGIN, Admission, may_exempt
from rcmgr.admission.task_connections cimport created_for_this_task
from rcmgr.counting cimport connection_tracker as trackers, scope as scopes
from rcmgr.counting._shared_words cimport rcmgr_read_word, rcmgr_write_word
from rcmgr.counting.connection_tracker cimport ConnectionRecord
from rcmgr.counting.denials cimport DenialLog
from rcmgr.peers cimport bounded_name, exact_peer, key_of as peer_key, peer_from_any

from rcmgr.counting.scope import ConnScope, StreamScope
from rcmgr.errors import ResourceScopeClosed

__all__ = ["ConnectionScope", "ManagerBase", "accepted", "dialling", "is_inbound"]

cdef object CONN_SCOPE = ConnScope
cdef object STREAM_SCOPE = StreamScope

accepted = ContextVar("rcmgr_accepted", default=None)
"""The scope of `ManagerBase.accept_connection`, for the task that will handle that connection."""
cdef object ACCEPTED = accepted

dialling = ContextVar("rcmgr_dialling", default=None)
"""A list with the scope of a `DialSlot`, until a dial of this task or of its children takes it."""
cdef object DIALLING = dialling

cdef dict DIRECTIONS = {"inbound": True, "outbound": False, "unknown": False}
# The members of py-libp2p's Direction, once seen, because hashing one runs Python code. They are
# shared words: 0, or the address of the first member, which LEARNT keeps alive.
cdef dict LEARNT = {}
cdef uint64_t known_inbound = 0
cdef uint64_t known_outbound = 0


cdef inline uint64_t address_of(object it) noexcept:
    return <uint64_t><size_t><PyObject *>it


cdef bint inbound_of(object direction) except -1:
    if direction is "inbound" or address_of(direction) == rcmgr_read_word(&known_inbound):
        return True
    if direction is "outbound" or address_of(direction) == rcmgr_read_word(&known_outbound):
        return False
    return learn(direction)


cdef bint learn(object direction) except -1:
    """Read any other direction. The first member of an enum is known the next time."""
    name = str(getattr(direction, "name", direction)).lower()
    found = DIRECTIONS.get(name)
    if found is None:
        raise ValueError(
            f"direction must be 'inbound', 'outbound' or a Direction, not {direction!r}"
        )
    if isinstance(direction, Enum):
        if name == "inbound":
            rcmgr_write_word(&known_inbound, address_of(LEARNT.setdefault(name, direction)))
        elif name == "outbound":
            rcmgr_write_word(&known_outbound, address_of(LEARNT.setdefault(name, direction)))
    return found


def is_inbound(direction):
    """Whether "inbound", "outbound" or a py-libp2p `Direction` is inbound; UNKNOWN is not.

    ValueError: it is no direction.
    """
    return inbound_of(direction)


cdef class ManagerBase


@cython.final
@cython.no_gc
cdef class Home:
    """The fields that all pending scopes of a manager share, or all established ones."""

    cdef object tracker
    cdef object manager  # weak: observers of the manager may lead to the owner of a scope
    cdef bint only_pending  # the scopes hold pending places


cdef Home new_home(object tracker, object manager, bint only_pending):
    cdef Home home = Home.__new__(Home)
    home.tracker, home.manager, home.only_pending = tracker, manager, only_pending
    return home


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.binding(False)
cdef class ConnectionScope:
    """ConnectionScope(tracker, record, *, only_pending)\n--\n
    Holds a connection's place until `close`, which gives it back exactly once.

    A scope opened before the handshake holds a pending place. Once the connection is established,
    closing this scope does nothing. A scope that is garbage-collected unclosed closes itself, and
    counts as leaked if it held anything. Thread safe.
    """

    # Both are constant: the record alone knows whether the place is given back. There is a scope
    # for each connection: with its head it has 32 bytes. So its methods are functions below, and
    # need no table of methods. It has no room for weak references.
    cdef Home _home
    cdef ConnectionRecord _record  # None: the constructor failed

    def __init__(self, tracker, ConnectionRecord record not None, *, bint only_pending):
        self._home = new_home(tracker, None, only_pending)
        self._record = record

    @property
    def record(self):
        """The ConnectionRecord; None: the constructor failed."""
        return self._record

    @property
    def connection_id(self):
        """Its id in the tracker; None: it counts in no state."""
        return None if self._record is None else trackers.id_of(self._record)

    @property
    def peer_id(self):
        """The peer; None before the handshake."""
        return None if self._record is None else trackers.peer_of(self._record)

    @property
    def resource_manager(self):
        """The manager that returned it; None: it is gone, or no manager did."""
        manager = None if self._home is None else self._home.manager
        return None if manager is None else manager()

    @property
    def closed(self):
        """Whether this scope holds nothing (any more)."""
        return not holds_place(self)

    def close(self):
        """Give the place back. Does nothing if it was given back before, or is established.

        If the handshake of an inbound connection was not done, its address has failed a handshake.
        """
        if end(self) and self._home.only_pending:
            note_failed_handshake(self.resource_manager, trackers.endpoint_of(self._record))

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.close()

    def __dealloc__(self):
        if not holds_place(self):
            return
        held = trackers.held_of(self._record)
        if end(self) and type(held) is CONN_SCOPE:
            held._leak()

    def __repr__(self):
        return f"ConnectionScope({self._record!r}{', closed' if self.closed else ''})"


cdef inline ConnectionScope new_scope(Home home, ConnectionRecord record):
    cdef ConnectionScope scope = ConnectionScope.__new__(ConnectionScope)
    scope._home, scope._record = home, record
    return scope


cdef inline bint holds_place(ConnectionScope scope) noexcept:
    """A connection that has left a state never comes back to it."""
    return scope._record is not None and (
        trackers.is_pending(scope._record)
        or (not scope._home.only_pending and trackers.is_established(scope._record))
    )


cdef bint is_of(ConnectionScope scope, object tracker) except -1:
    """Whether it holds a place of this tracker."""
    return holds_place(scope) and scope._home.tracker is tracker


cdef bint end(ConnectionScope scope) except -1:
    """Whether it held anything."""
    return holds_place(scope) and trackers.remove(
        scope._home.tracker, scope._record, scope._home.only_pending)


cdef int note_failed_handshake(ManagerBase manager, object address) except -1:
    penalties = None if manager is None else manager.denials.penalties
    if penalties is not None and address is not None:
        penalties.handshake_failed(address)
    return 0


cdef tuple acquired_key(object peer, object endpoint_ip, bint inbound):
    """A key of exact types, so that a look-up runs no Python code. TypeError: not a peer."""
    return (
        None if peer is None else exact_peer(peer),
        None if endpoint_ip is None else bounded_name(str(endpoint_ip)),
        inbound,
    )


cdef object with_known_type(object peer):
    """The text of a peer that is no ID, bytes, text or number. Any other peer as it is."""
    key = peer_key(peer)
    if type(key) is bytes or isinstance(key, (str, int)):
        return peer
    return peer_from_any(str(peer))


cdef inline bint is_open(ManagerBase manager) noexcept:
    return rcmgr_read_word(&manager._is_open) != 0


@cython.binding(False)
cdef class ManagerBase:
    """ManagerBase(admission, lifecycle, allowlist)\n--\n
    The base of `ResourceManager`: translates a swarm's calls for `Admission`, which decides."""

    cdef readonly object connection_tracker
    cdef readonly object connection_lifecycle
    cdef readonly object ledger
    cdef readonly object allowlist
    """The exempt peers, addresses and networks. May be edited at any time."""
    cdef readonly DenialLog denials
    """The latest denials."""
    cdef readonly Admission _admission
    cdef object __weakref__
    cdef Home _pending, _established  # shared by its scopes
    cdef public bint _takes_any_peer
    """Whether a peer that is no ID, bytes, text or number is known by its text, in connections."""
    cdef dict _acquired  # (peer, address, inbound) -> the ConnScopes acquired with these arguments
    cdef uint64_t _is_open  # false before the constructor and after `close`; a shared word

    def __init__(self, Admission admission not None, lifecycle, allowlist):
        self._admission = admission
        self.connection_tracker = admission.tracker
        self.connection_lifecycle = lifecycle
        self.ledger = admission.ledger
        self.allowlist = allowlist
        self.denials = admission.denials
        self._acquired = {}
        self._pending = new_home(admission.tracker, ref(self), True)
        self._established = new_home(admission.tracker, ref(self), False)
        rcmgr_write_word(&self._is_open, True)

    @property
    def closed(self):
        """Whether `close` was called."""
        return not is_open(self)

    def _close(self):
        rcmgr_write_word(&self._is_open, False)

    # -- connections -------------------------------------------------------------------------

    def open_connection(self, peer_id=None, endpoint_ip=None, direction="inbound"):
        """Ask for a connection: the scope that holds it, or None: denied.

        Without a peer id the call comes before the handshake, and the scope holds a pending
        connection. With a peer id it comes after the handshake. If this task has a pending
        connection in this direction, that one becomes established. If it has just reported one to
        the lifecycle manager, the scope takes that one over. Otherwise the connection is new. A
        limit never raises, and a closed manager denies (the swarm takes an exception for consent).

        direction: "inbound", "outbound" or a py-libp2p `Direction` (UNKNOWN counts as outbound);
        ValueError for anything else. endpoint_ip: the remote address, for limits on addresses.
        About 0.4 us; O(1).
        """
        cdef bint inbound
        if not is_open(self):
            return None
        inbound = inbound_of(direction)
        if peer_id is None:
            return self.begin(inbound, endpoint_ip)
        peer = peer_from_any(peer_id)
        if self._takes_any_peer:
            peer = with_known_type(peer)
        try:
            record = self._admission.establish(peer, inbound, endpoint_ip)
        except ResourceScopeClosed:  # another thread has closed the pending connection
            return None
        return new_scope(self._established, record) if type(record) is ConnectionRecord else None

    def accept_connection(self, endpoint_ip=None):
        """Ask for an inbound connection before anything is spent on it: its scope, or None.

        For code that accepts sockets. The task that handles the connection asks again with
        `open_connection(None, ..., "inbound")`, which returns this scope if it is `accepted` there.
        """
        return self.open_pending(True, endpoint_ip) if is_open(self) else None

    def reserve_dial(self, peer=None):
        """Take a place for a dial that begins later: the scope that holds it.

        peer: None: not known. ResourceLimitExceeded: denied. ResourceScopeClosed: the manager is
        closed. `dial_slot` waits for room, and gives the place to the next dial of the task.
        """
        if not is_open(self):
            raise ResourceScopeClosed
        key = None
        if peer is not None:
            peer = peer_from_any(peer)
            key = peer_key(peer)
        record = self._admission.admit(BEGIN, None, None, peer, key, False, None)
        if type(record) is not ConnectionRecord:
            raise record.to_error(None, peer)
        return new_scope(self._pending, record)

    cdef ConnectionScope take_reserved(self):
        cdef list reserved = get_value(DIALLING)
        cdef ConnectionScope scope
        try:
            scope = reserved.pop()
        except IndexError:  # another dial of this task has taken it
            return None
        if not is_of(scope, self.connection_tracker):
            scope.close()  # another manager reserved it, or this one has forgotten it
            return None
        return scope

    cdef object begin(self, bint inbound, object endpoint_ip):
        cdef ConnectionScope scope = None
        if inbound:
            scope = get_value(ACCEPTED)
            if scope is not None:
                PyContextVar_Set(ACCEPTED, None)
                if not is_of(scope, self.connection_tracker):
                    scope.close()  # the swarm had another manager when it accepted
                    scope = None
        elif get_value(DIALLING) is not None:
            scope = self.take_reserved()
        if scope is None:
            scope = self.open_pending(inbound, endpoint_ip)
        if scope is not None:
            created_for_this_task().add_pending(scope._record)
        return scope

    cdef ConnectionScope open_pending(self, bint inbound, object endpoint_ip):
        record = self._admission.admit(BEGIN, None, None, None, None, inbound, endpoint_ip)
        if type(record) is not ConnectionRecord:
            return None
        return new_scope(self._pending, record)

    def acquire_connection(self, peer_id="", endpoint_ip=None, direction="inbound"):
        """Count a connection, without a state. False: denied. `release_connection` gives it back.

        This is for callers that only count, as in libp2p.rcmgr's API. peer_id: "": not known.
        Arguments and errors as for `open_connection`. ResourceScopeClosed: the manager is closed.
        O(1), about 0.5 us.
        """
        cdef bint inbound
        if not is_open(self):
            raise ResourceScopeClosed
        inbound = inbound_of(direction)
        peer = peer_from_any(peer_id) or None
        key = acquired_key(peer, endpoint_ip, inbound)
        scope = self._admission.admit(
            ACQUIRE, None, None, peer, None if peer is None else peer_key(peer), inbound,
            endpoint_ip)
        if not scope:
            return False
        with cython.critical_section(self):
            (<list>self._acquired.setdefault(key, [])).append(scope)
        return True

    def release_connection(self, peer_id="", endpoint_ip=None, direction="inbound"):
        """Give back a connection that was acquired with the same arguments, if there is one."""
        key = acquired_key(peer_from_any(peer_id) or None, endpoint_ip, inbound_of(direction))
        cdef list same
        scope = None
        with cython.critical_section(self):
            same = self._acquired.get(key)
            if same is not None:
                scope = same.pop()
                if not same:
                    del self._acquired[key]
        if scope is not None:
            scope.close()

    # -- streams -----------------------------------------------------------------------------

    def open_stream(self, peer_id, direction):
        """Ask for a stream: its scope, or None: denied. It is transient until its protocol is set.

        Close the scope at the end of the stream. `rcmgr.libp2p` knows this end. A caller that only
        counts uses `acquire_stream`, which has the same arguments and errors. About 0.2 us.
        """
        answer = self.take_stream(peer_id, direction, True)
        return answer if type(answer) is STREAM_SCOPE else None

    def acquire_stream(self, peer_id, direction):
        """Take a stream of this peer. False: denied.

        direction: as for `open_connection`. ResourceScopeClosed: the manager is closed. TypeError:
        not a peer id. O(1), about 0.2 us.
        """
        return self.take_stream(peer_id, direction, False) is True

    cdef object take_stream(self, object peer_id, object direction, bint scoped):
        """scoped: a StreamScope, otherwise True; or a refusal, which is noted."""
        if not is_open(self):
            raise ResourceScopeClosed
        cdef bint inbound = inbound_of(direction)
        cdef bint exempt = may_exempt(self._admission) and self._admission.is_exempt_peer(peer_id)
        answer = None
        if inbound and not exempt:
            answer = self._admission.refusal_of_stream(peer_id)
        if answer is None:
            answer = (scopes.open_stream if scoped else scopes.acquire_stream)(
                self.ledger, peer_id, inbound, exempt)
        if answer is not True and type(answer) is not STREAM_SCOPE:
            self.denials.add(answer, None, peer_from_any(peer_id), inbound)
        return answer

    def release_stream(self, peer_id, direction):
        """Give a stream back. A stream that was not taken is ignored, and counted."""
        cdef bint inbound = inbound_of(direction)
        if not is_open(self):
            return
        scopes.release_stream(self.ledger, peer_id, inbound)
