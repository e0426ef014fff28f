"""The one decision: may this connection exist?

`Admission.take` asks everything that may refuse a connection, in one order, and takes all of it or
nothing. Every other function only says which steps its call needs, and translates the answer.

An answer is the handle that was asked for, or a falsy refusal with
`to_error(connection_id, peer_id)`. A handle gives back everything when it ends.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from rcmgr.admission.room cimport concerns, makes_place
from rcmgr.admission.task_connections cimport (
    TaskConnections, created_for_this_task, of_this_task,
)
from rcmgr.counting cimport connection_tracker as trackers, scope as scopes
from rcmgr.counting._connection_counts cimport RCMGR_PENDING_INBOUND
from rcmgr.counting.connection_tracker cimport ConnectionRecord
from rcmgr.counting._event_ring cimport (
    RCMGR_EV_ACQUIRE, RCMGR_EV_BEGIN, RCMGR_EV_ESTABLISH, RCMGR_EV_EXEMPT, RCMGR_EV_INBOUND,
    RCMGR_EV_KNOWN, RCMGR_EV_PROCESS, RCMGR_EV_REPORT, RCMGR_EV_TAKE_OVER,
)
from rcmgr.counting.denials cimport DenialLog, code_of, ring_of
from rcmgr.counting.event_ring cimport EventRing
from rcmgr.counting.groups cimport hash_of
from rcmgr.counting.leases cimport FleetGate
from rcmgr.counting.memory_stats cimport is_fine as memory_is_fine
from rcmgr.peers cimport key_of as peer_key

from dataclasses import replace

from rcmgr.counting.scope import ConnScope

__all__ = ["Admission"]

cdef object CONN_SCOPE = ConnScope
cdef str BANNED = "connection.banned"
cdef str EVICTED = "connection.evicted"

trackers.close_by(CONN_SCOPE, scopes.close_connection)

cdef inline bint is_refusal(object answer) noexcept:
    """`not answer` in a few instructions, for answers of compiled modules."""
    return (
        answer is not True and type(answer) is not ConnectionRecord
        and type(answer) is not CONN_SCOPE
    )


@cython.final
@cython.binding(False)
cdef class Admission:
    """Admission(tracker, denials, *, would_deny=None, ledger=None, allowlist=None, bans=None, \
    reuses_ids=False)\n--\n
    The limits on the connections of one node, and the order in which they decide.

    tracker: counts connections by state. denials: where refusals are noted.
    would_deny: where the refusals of limits that only report are noted; default: a new log.
    ledger: counts them by scope; None: there are no scopes.
    allowlist: an Allowlist, whose peers and addresses are exempt. None: only the tracker's bypassed
        peers are.
    bans: the Bans of the node. None: no bans.
    reuses_ids: a report of an established connection whose id is in use is about another
        connection, and the one that had the id is gone. Otherwise it is a ValueError.
    """

    def __cinit__(
        self, tracker, DenialLog denials not None, *, DenialLog would_deny=None, ledger=None,
        allowlist=None, bans=None, bint reuses_ids=False,
    ):
        self.tracker = tracker
        self.denials = denials
        self.would_deny = DenialLog(1, enforced=False) if would_deny is None else would_deny
        self.ledger = ledger
        self.allowlist = allowlist
        self.exempt_peers = trackers.exempt_peers(tracker)
        self.exempt_networks = {} if allowlist is None else allowlist.networks
        self.bans = bans
        self.banned = {} if bans is None else bans.entries
        self.reuses_ids = reuses_ids
        self.room = Room(denials)
        trackers.watch(tracker, self.room)

    # -- limits --------------------------------------------------------------------------------

    @property
    def limits(self):
        """A ConnectionLimits, for the states. May be set."""
        with cython.critical_section(self):
            limits = self._limits
        return limits

    @limits.setter
    def limits(self, limits):
        self.set_limits(limits, self.only_reporting)

    @property
    def enforced_limits(self):
        """`limits` without those that only report."""
        return self.enforced_limits_now()

    @property
    def only_reporting(self):
        """Codes of the limits that refuse nothing, and only report. May be set.

        They admit and count everything, so that use may exceed them.
        """
        with cython.critical_section(self):
            codes = self._only_reporting
        return frozenset() if codes is None else codes

    @only_reporting.setter
    def only_reporting(self, codes):
        trackers.only_report(self.tracker, codes)
        if self.ledger is not None:
            self.ledger._only_report(codes, self.would_deny)
        self.room.only_reports = EVICTED in codes
        self.set_limits(self.limits, codes)

    def only_reports(self, code):
        """Whether the limit of this code refuses nothing."""
        return code in self.only_reporting

    cdef int set_limits(self, object limits, object only_reporting) except -1:
        enforced = limits
        if only_reporting and limits is not None:
            lifted = {
                field: None for field in limits.to_dict()
                if f"connection.{field.removeprefix('max_')}" in only_reporting}
            enforced = replace(limits, **lifted) if lifted else limits
        with cython.critical_section(self):
            # freed outside of the lock
            _limits, self._limits = self._limits, limits
            _enforced, self._enforced_limits = self._enforced_limits, enforced
            _codes, self._only_reporting = self._only_reporting, only_reporting or None
        return 0

    # -- the decision --------------------------------------------------------------------------

    cdef object take(
        self, int steps, ConnectionRecord known, object connection_id, object peer, object key,
        bint inbound, object address,
    ):
        """Ask `steps`, in the one order: a handle, or a refusal that took nothing.

        known: this connection's record, if an earlier call made one. It is pending, or a report has
        established it. key: the key of the peer; None: no peer.
        The handle is the ConnectionRecord; without STATES the ConnScope, if there is no record.
        """
        cdef bint pending = (steps & PENDING) != 0, repeated = False, done = False
        cdef bint fd, makes_room
        cdef bint exempt   # from limits on scopes and states
        cdef bint allowed  # exempt from the limits that come first
        cdef bint reserved = False  # exempt from these if they are full: it may be an allowed peer
        cdef object handle = known
        cdef object scope = conn_scope_of(known)
        cdef object taken = None  # to give back if a later step refuses or raises
        cdef list passed = None  # the refusals of limits that only report
        with cython.critical_section(self):  # another thread may set them meanwhile
            state_limits, enforced = self._limits, self._enforced_limits
            limits, reporting = self.memory_limits, self._only_reporting
            gate, rates, fleet = self.addresses, self.peer_rates, self.fleet
        if reporting is not None:
            passed = []
        if known is not None and trackers.is_established(known):
            exempt = trackers.is_exempt(known)
        else:
            exempt = may_exempt(self) and self.is_exempt(peer, address)
        allowed = exempt
        if pending and peer is None and may_exempt(self) and self.allowlist is not None:
            # an address may be allowed for some peers only
            exempt = allowed and self.allowlist.allows_all_at(address)
            reserved = not exempt and self.may_be_allowed(allowed, inbound)
        makes_room = inbound and not exempt and makes_place(self.room)
        try:
            if not allowed:
                if self.banned:
                    # a known connection was asked about its address when it began
                    answer = self.bans.refusal(
                        peer, address if known is None else None, inbound=inbound,
                        counted=reporting is None or BANNED not in reporting)
                    if is_refusal(answer) and not passes(reporting, answer, passed):
                        return answer
                if steps & MEMORY and limits is not None:
                    answer = self.ask_memory(limits, known, peer if steps & PEER else None)
                    if is_refusal(answer) and not passes(reporting, answer, passed):
                        self.count_for_memory()
                        return answer
                if (
                    steps & ADDRESS and gate is not None and address is not None
                    and (scope is None or not scopes.has_network_share(scope))
                ):
                    answer = gate.try_enter(address, inbound, exempt=False, passed=passed)
                    if not answer:
                        return answer
                    taken = answer
                if (
                    steps & PEER and rates is not None and inbound and peer is not None
                    and not rates.try_consume(key)
                ):
                    answer = self.refusal_by_peer_rate()
                    if not passes(reporting, answer, passed):
                        self.count_by_peer_rate()
                        return answer
                if fleet is not None and inbound:
                    answer = self.ask_fleet(<FleetGate>fleet, steps, known, peer)
                    if answer is not None and not passes(reporting, answer, passed):
                        return answer
                if makes_room and pending and not reserved:
                    answer = self.room.refusal_of_handshake(address)
                    if answer is not None and not passes(reporting, answer, passed):
                        self.room.count_refused_handshake()
                        return answer
            if steps & SCOPES and self.ledger is not None:
                if scope is not None:
                    answer = scopes.try_set_peer(scope, key, exempt, taken, passed)
                    if makes_room and is_refusal(answer) and self.room.after_refusal(
                            self.tracker, self.ledger, answer, pending, address):
                        answer = scopes.try_set_peer(scope, key, exempt, taken, passed)
                    if is_refusal(answer):
                        return answer
                    taken = None  # the known connection holds it
                else:
                    # QUIC connections, which have no descriptor, are new when they are established
                    fd = pending or not steps & STATES
                    of_peer = None if pending else key
                    answer = scopes.try_open_connection(
                        self.ledger, inbound, fd, exempt, reserved, of_peer, taken, passed)
                    if makes_room and is_refusal(answer) and self.room.after_refusal(
                            self.tracker, self.ledger, answer, pending, address):
                        answer = scopes.try_open_connection(
                            self.ledger, inbound, fd, exempt, reserved, of_peer, taken, passed)
                    if is_refusal(answer):
                        return answer
                    handle = taken = answer
                    if reserved:
                        exempt = scopes.is_exempt(answer)
            if steps & STATES:
                if makes_room:
                    self.room.before(self.tracker, enforced, pending, peer, address)
                answer = trackers.admit(
                    self.tracker, known,
                    trackers.UNNAMED if connection_id is None else connection_id, peer, key,
                    trackers.state_of(not pending, inbound), state_limits, taken, exempt, reserved,
                    steps & REPORTED, &repeated, passed)
                if is_refusal(answer):
                    return answer
                handle = answer
                if inbound and not repeated and concerns(
                        self.room, <ConnectionRecord>answer, address):
                    self.room.entered(<ConnectionRecord>answer, address)
            done = not repeated  # by another thread: then the connection holds what it had
            if passed:
                self.note_passed(passed[0], handle, connection_id, peer, inbound, address)
            return handle
        finally:
            if not done and taken is not None:
                taken.close()

    cdef object admit(
        self, int steps, ConnectionRecord known, object connection_id, object peer, object key,
        bint inbound, object address,
    ):
        """`take`, and what follows from a refusal: it is noted, and ends the known connection."""
        cdef EventRing ring = ring_of(self.denials)
        cdef uint64_t number = 0
        if ring is not None:
            number = scopes.number_of(conn_scope_of(known))  # a refusal may end it
        answer = self.take(steps, known, connection_id, peer, key, inbound, address)
        if ring is not None:
            self.note(ring, steps, number, peer, inbound, address, answer)
        if is_refusal(answer):
            if known is not None:
                trackers.remove(self.tracker, known, steps & STATES)
            if connection_id is None and known is not None:
                connection_id = trackers.id_of(known)
            self.denials.add(answer, connection_id, peer, inbound, address)
        return answer

    cdef int note(
        self, EventRing ring, int steps, uint64_t number, object peer, bint inbound,
        object address, object answer,
    ) except -1:
        """Note a decision for the record. number: of a known connection, or 0."""
        cdef int kind, flags = RCMGR_EV_INBOUND * inbound
        cdef object scope, code = None
        if steps & PENDING:
            kind = RCMGR_EV_BEGIN
        elif not steps & SCOPES:
            kind = RCMGR_EV_TAKE_OVER
        elif not steps & STATES:
            kind = RCMGR_EV_ACQUIRE
        else:
            kind = RCMGR_EV_REPORT if steps & REPORTED else RCMGR_EV_ESTABLISH
        if number:
            flags |= RCMGR_EV_KNOWN
        if is_refusal(answer):
            # the rate of a full node has the code of other rates, but a replay cannot ask it
            code = code_of(answer) or "unknown"
            if getattr(answer, "limited_by", None) == "eviction":
                code = "eviction.rate"
        else:
            scope = conn_scope_of(answer) if type(answer) is ConnectionRecord else answer
            if scopes.is_exempt(scope):
                flags |= RCMGR_EV_EXEMPT
            number = scopes.number_of(scope)
        ring.note(kind, flags, number, peer, address, None, None, code, 0, 0)
        return 0

    def ask(
        self, int steps, ConnectionRecord known, object peer, bint inbound, object address=None,
    ):
        """`admit`, for a replay: the ConnectionRecord or the ConnScope, or a refusal."""
        return self.admit(steps, known, None, peer, key_of_known(peer), inbound, address)

    cdef int note_passed(
        self, object refusal, object handle, object connection_id, object peer, bint inbound,
        object address,
    ) except -1:
        """Note that a limit which only reports would have refused this connection."""
        if connection_id is None and type(handle) is ConnectionRecord:
            connection_id = trackers.id_of(<ConnectionRecord>handle)
        self.would_deny.add(refusal, connection_id, peer, inbound, address)
        if inbound and not is_exempt_handle(handle):
            self.room.note_passed(refusal)
        return 0

    cdef int count_for_memory(self) except -1:
        with cython.critical_section(self):
            self.refused_for_memory += 1
        return 0

    cdef int count_by_peer_rate(self) except -1:
        with cython.critical_section(self):
            self.refused_by_peer_rate += 1
        return 0

    cdef object ask_memory(self, object limits, ConnectionRecord known, object peer):
        """True, or a MemoryExcess. peer: None, or a peer that is refused earlier if it is new."""
        cdef bint new_peer = peer is not None
        cdef Py_ssize_t connections
        if memory_is_fine(limits, new_peer):
            return True
        if new_peer:
            connections = self.tracker.get_peer_connection_count(peer)
            if known is not None and trackers.is_established(known):
                connections -= 1
            new_peer = connections <= 0
        excess = limits.excess(new_peer=new_peer)
        return True if excess is None else excess

    cdef object ask_fleet(
        self, FleetGate fleet, int steps, ConnectionRecord known, object peer,
    ):
        """The refusal by a limit of the fleet; None: it admits the connection.

        The rate of the whole fleet is asked once for each connection, when it is new.
        """
        cdef int64_t held
        if steps & PEER and peer is not None:
            peer = peer_key(peer)
            if fleet.peer_connections is not None:
                held = trackers.connections_of(self.tracker, peer)
                if known is not None and trackers.is_established(known):
                    held -= 1
                if not fleet.peer_connections.admits(peer, held):
                    return fleet.refusals["peer_connections"]
            if fleet.peer_rate is not None and not fleet.peer_rate.take(peer, 1):
                return fleet.refusals["peer_rate"]
        if known is None and fleet.rate is not None and not fleet.rate.take("", 1):
            return fleet.refusals["rate"]
        return None

    cpdef object refusal_of_stream(self, object peer):
        """The refusal of an inbound stream by a limit of the fleet. None: it is admitted."""
        with cython.critical_section(self):
            fleet, reporting = self.fleet, self._only_reporting
        if fleet is None or (<FleetGate>fleet).peer_streams is None:
            return None
        peer = peer_key(peer)
        if (<FleetGate>fleet).peer_streams.admits(
                peer, scopes.inbound_streams_of(self.ledger, peer)):
            return None
        answer = (<FleetGate>fleet).refusals["peer_streams"]
        if not passes(reporting, answer, None):
            return answer
        self.would_deny.add(answer, None, peer, True)
        return None

    cdef object refusal_by_peer_rate(self):
        with cython.critical_section(self):
            refusal = self.peer_rate_refusal
        return refusal

    cdef bint may_be_allowed(self, bint allowed_here, bint inbound) except -1:
        """Whether an unknown peer may be an allowed one, and a place is left for such a handshake.

        allowed_here: the allowlist has a peer at this address.
        """
        return (allowed_here or bool(self.exempt_peers)) and (
            trackers.exempt_pending(self.tracker, inbound) < RESERVED_HANDSHAKES)

    cdef bint is_exempt(self, object peer, object address) except -1:
        """Whether a connection is exempt from limits. peer: None before the handshake."""
        if self.exempt_peers and peer is not None and peer_key(peer) in self.exempt_peers:
            return True
        if address is None or not self.exempt_networks:
            return False
        return self.allowlist.allows_at(peer, address)

    # -- what calls ask ------------------------------------------------------------------------

    cdef inline uint64_t expected(self, object key) except? 0:
        """Ask the processor for the memory of a peer. Returns the hash of its key, or 0.

        With many peers, a decision is mostly a wait for memory. The places in the two tables do not
        depend on each other, so both arrive in the time of one.
        """
        cdef uint64_t hashed
        if type(key) is not bytes or self.ledger is None:
            return 0
        hashed = hash_of(key)
        trackers.expect_peer(self.tracker, hashed, False)
        scopes.expect_peer(self.ledger, hashed, False)
        return hashed

    cdef object establish(self, object peer, bint inbound, object address):
        """A connection whose handshake is done: its ConnectionRecord, or a refusal.

        If this task has a pending connection in this direction, or has just reported one, it is
        that connection. Otherwise it is new. ResourceScopeClosed: another thread has closed the
        pending one.
        """
        cdef ConnectionRecord known = None
        cdef object key = peer_key(peer)
        cdef uint64_t hashed = self.expected(key)
        cdef TaskConnections here = of_this_task()
        if here is not None:
            known = here.take_established(self.tracker, peer, inbound, True)
            if known is not None:
                return self.admit(TAKE_OVER, known, None, peer, key, inbound, address)
            known = here.latest_pending(self.tracker, inbound)
        if hashed != 0:
            trackers.expect_peer(self.tracker, hashed, True)
            scopes.expect_peer(self.ledger, hashed, True)
        record = self.admit(ESTABLISH, known, None, peer, key, inbound, address)
        if not is_refusal(record):
            if here is None:
                here = created_for_this_task()
            here.established = record
        return record

    def report_pending(self, connection_id, peer, bint inbound, address=None):
        """A swarm reports that a handshake begins: the ConnectionRecord, or a refusal.

        peer: None, or the peer that is dialled. A second report changes nothing. ValueError:
        another connection has the id.
        """
        cdef ConnectionRecord known = trackers.find(self.tracker, connection_id)
        if known is not None and is_pending_in(known, inbound):
            return known
        return self.admit(
            BEGIN, None, connection_id, peer, key_of_known(peer), inbound, address)

    def report_established(self, connection_id, peer, bint inbound, address=None):
        """A swarm reports that a handshake is done: the ConnectionRecord, or a refusal.

        It may be the connection that `establish` has just admitted in this task, or the pending
        one with this id or of this task. Otherwise it is new. A second report changes nothing.
        ResourceScopeClosed: as `establish`. ValueError: another connection has the id.
        """
        cdef ConnectionRecord established, known = trackers.find(self.tracker, connection_id)
        cdef bint dialled_quic = False
        # without scopes, no other call is about the same connection
        cdef TaskConnections here = None if self.ledger is None else of_this_task()
        if known is not None and not is_pending_in(known, inbound):
            if trackers.is_established(known) and peer is not None:
                if (
                    trackers.is_inbound(known) == inbound
                    and peer_key(trackers.peer_of(known)) == peer_key(peer)
                ):
                    return known
                if self.reuses_ids:
                    trackers.remove(self.tracker, known, False)
            known = None
        if here is not None:
            established = here.take_established(self.tracker, peer, inbound, False)
            if established is not None and self.tracker.rename(established, connection_id):
                return established
            if known is None:
                known = here.latest_pending(self.tracker, inbound)
                if known is not None:
                    self.tracker.rename(known, connection_id)
                    # the other transports open a scope before the report
                    dialled_quic = not inbound
        record = self.admit(
            REPORT, known, connection_id, peer, key_of_known(peer), inbound, address)
        if self.ledger is not None and not is_refusal(record):
            if dialled_quic:
                scopes.give_descriptor(conn_scope_of(record))
            if here is None:
                here = created_for_this_task()
            here.established = record
        return record

    cdef object enforced_limits_now(self):
        with cython.critical_section(self):
            limits = self._enforced_limits
        return limits

    def has_place_for_handshake(self, address):
        """Whether a handshake from here finds a place now, perhaps that of another handshake.

        Other limits may refuse it nevertheless.
        """
        cdef int64_t[4] counted
        cdef object most = self.enforced_limits_now().max_pending_inbound
        trackers.read_counted(self.tracker, counted)
        if (most is None or counted[<int>RCMGR_PENDING_INBOUND] < most) and (
            self.ledger is None or scopes.refusal_of_handshake(self.ledger, True, False) is None
        ):
            return True
        if self.may_be_allowed(self.is_exempt(None, address), True):
            return True
        return self.room.handshakes.choose(self.room.group_of(address)) is not None

    def scope_refusing_handshake(self, bint inbound):
        """The Refusal of the system or transient scope for one more handshake. None: both admit it.

        It takes and counts nothing.
        """
        answer = scopes.refusal_of_handshake(self.ledger, inbound, True)
        if answer is None:
            answer = scopes.refusal_of_handshake(self.ledger, inbound, False)
        return answer

    def ask_process_memory(self):
        """Whether the process may use more memory: True, or a MemoryExcess. Its log has it."""
        with cython.critical_section(self):
            limits, reporting = self.memory_limits, self._only_reporting
        if limits is None:
            return True
        answer = self.ask_memory(limits, None, None)
        if not is_refusal(answer):
            return True
        if passes(reporting, answer, None):
            self.would_deny.add(answer)
            return True
        self.count_for_memory()
        ring = ring_of(self.denials)
        if ring is not None:
            ring.note(
                RCMGR_EV_PROCESS, 0, 0, None, None, None, None, code_of(answer), 0, 0)
        self.denials.add(answer)
        return answer

    cpdef bint is_exempt_peer(self, object peer) except -1:
        """Whether streams and requests of a peer are exempt from limits.

        The peer is on the allowlist, or has a connection from an address from which the allowlist
        exempts it.
        """
        if self.exempt_peers and peer_key(peer) in self.exempt_peers:
            return True
        if not self.exempt_networks:
            return False
        return scopes.has_exempt_connection(self.ledger, peer)


cdef bint passes(object reporting, object refusal, list passed) except -1:
    """Whether a refusal is by a limit that only reports. Then `passed` gets it."""
    if reporting is None or code_of(refusal) not in reporting:
        return False
    if passed is not None:
        passed.append(refusal)
    return True


cdef inline object key_of_known(object peer):
    return None if peer is None else peer_key(peer)


cdef bint is_exempt_handle(object handle) except -1:
    if type(handle) is ConnectionRecord:
        return trackers.is_exempt(<ConnectionRecord>handle)
    return scopes.is_exempt(handle)


cdef inline bint is_pending_in(ConnectionRecord record, bint inbound) noexcept:
    return trackers.is_pending(record) and trackers.is_inbound(record) == inbound


cdef inline object conn_scope_of(ConnectionRecord record):
    """The ConnScope that a connection holds; None: it holds none."""
    held = None if record is None else trackers.held_of(record)
    return held if type(held) is CONN_SCOPE else None
