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
from rcmgr.counting.denials cimport DenialLog, code_of
from rcmgr.counting.event_ring cimport EventRing
from rcmgr.counting.groups cimport hash_of
from rcmgr.counting.leases cimport FleetGate
from rcmgr.counting.memory_stats cimport is_fine as memory_is_fine
from rcmgr.peers cimport key_of as peer_key

from rcmgr.counting.scope import ConnScope

__all__ = ["Admission"]

cdef object CONN_SCOPE = ConnScope

cdef inline bint is_refusal(object answer) noexcept:
    """`not answer` in a few instructions, for answers of compiled modules."""
    return (
        answer is not True and type(answer) is not ConnectionRecord
        and type(answer) is not CONN_SCOPE
    )


@cython.final
@cython.binding(False)
cdef class Admission:
    """Admission(tracker, denials, *, ledger=None, allowlist=None, bans=None, \
    reuses_ids=False)\n--\n
    The limits on the connections of one node, and the order in which they decide.

    tracker: counts connections by state. denials: where refusals are noted.
    ledger: counts them by scope; None: there are no scopes.
    allowlist: an Allowlist, whose peers and addresses are exempt. None: only the tracker's bypassed
        peers are.
    bans: the Bans of the node. None: no bans.
    reuses_ids: a report of an established connection whose id is in use is about another
        connection, and the one that had the id is gone. Otherwise it is a ValueError.
    """

    def __cinit__(
        self, tracker, DenialLog denials not None, *, ledger=None, allowlist=None, bans=None,
        bint reuses_ids=False,
    ):
        self.tracker = tracker
        self.denials = denials
        self.ledger = ledger
        self.allowlist = allowlist
        self.exempt_peers = trackers.exempt_peers(tracker)
        self.exempt_networks = {} if allowlist is None else allowlist.networks
        self.bans = bans
        self.banned = {} if bans is None else bans.entries
        self.reuses_ids = reuses_ids
        self.room = Room(denials)
        trackers.watch(tracker, self.room)

    # -- the decision --------------------------------------------------------------------------

    cdef object take(
        self, int steps, ConnectionRecord known, object connection_id, object peer, bint inbound,
        object address,
    ):
        """Ask `steps`, in the one order: a handle, or a refusal that took nothing.

        known: this connection's record, if an earlier call made one. It is pending, or a report has
        established it.
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
        with cython.critical_section(self):  # another thread may set them meanwhile
            state_limits, limits = self.limits, self.memory_limits
            gate, rates, fleet = self.addresses, self.peer_rates, self.fleet
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
                        peer, address if known is None else None, inbound=inbound)
                    if is_refusal(answer):
                        return answer
                if steps & MEMORY and limits is not None:
                    answer = self.ask_memory(limits, known, peer if steps & PEER else None)
                    if is_refusal(answer):
                        return answer
                if (
                    steps & ADDRESS and gate is not None and address is not None
                    and (scope is None or not scopes.has_network_share(scope))
                ):
                    answer = gate.try_enter(address, inbound, exempt=False)
                    if not answer:
                        return answer
                    taken = answer
                if (
                    steps & PEER and rates is not None and inbound and peer is not None
                    and not rates.try_consume(peer)
                ):
                    return self.refusal_by_peer_rate()
                if fleet is not None and inbound:
                    answer = self.ask_fleet(<FleetGate>fleet, steps, known, peer)
                    if answer is not None:
                        return answer
                if makes_room and pending and not reserved:
                    answer = self.room.refusal_of_handshake(address)
                    if answer is not None:
                        return answer
            if steps & SCOPES and self.ledger is not None:
                if scope is not None:
                    answer = scopes.try_set_peer(scope, peer, exempt, taken)
                    if makes_room and is_refusal(answer) and self.room.after_refusal(
                            self.tracker, self.ledger, answer, pending, address):
                        answer = scopes.try_set_peer(scope, peer, exempt, taken)
                    if is_refusal(answer):
                        return answer
                    taken = None  # the known connection holds it
                else:
                    # QUIC connections, which have no descriptor, are new when they are established
                    fd = pending or not steps & STATES
                    of_peer = None if pending else peer
                    answer = scopes.try_open_connection(
                        self.ledger, inbound, fd, exempt, reserved, of_peer, taken)
                    if makes_room and is_refusal(answer) and self.room.after_refusal(
                            self.tracker, self.ledger, answer, pending, address):
                        answer = scopes.try_open_connection(
                            self.ledger, inbound, fd, exempt, reserved, of_peer, taken)
                    if is_refusal(answer):
                        return answer
                    handle = taken = answer
                    if reserved:
                        exempt = scopes.is_exempt(answer)
            if steps & STATES:
                if makes_room:
                    self.room.before(self.tracker, state_limits, pending, peer, address)
                answer = trackers.admit(
                    self.tracker, known,
                    trackers.UNNAMED if connection_id is None else connection_id, peer,
                    trackers.state_of(not pending, inbound), state_limits, taken, exempt, reserved,
                    steps & REPORTED, &repeated)
                if is_refusal(answer):
                    return answer
                handle = answer
                if inbound and not repeated and concerns(
                        self.room, <ConnectionRecord>answer, address):
                    self.room.entered(<ConnectionRecord>answer, address)
            done = not repeated  # by another thread: then the connection holds what it had
            return handle
        finally:
            if not done and taken is not None:
                taken.close()

    cdef object admit(
        self, int steps, ConnectionRecord known, object connection_id, object peer, bint inbound,
        object address,
    ):
        """`take`, and what follows from a refusal: it is noted, and ends the known connection."""
        cdef EventRing ring
        cdef uint64_t number = 0
        with cython.critical_section(self.denials):
            ring = self.denials.ring
        if ring is not None:
            number = scopes.number_of(conn_scope_of(known))  # a refusal may end it
        answer = self.take(steps, known, connection_id, peer, inbound, address)
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
        return self.admit(steps, known, None, peer, inbound, address)

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
        if excess is None:
            return True
        with cython.critical_section(self):
            self.refused_for_memory += 1
        return excess

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
            fleet = self.fleet
        if fleet is None or (<FleetGate>fleet).peer_streams is None:
            return None
        peer = peer_key(peer)
        if (<FleetGate>fleet).peer_streams.admits(
                peer, scopes.inbound_streams_of(self.ledger, peer)):
            return None
        return (<FleetGate>fleet).refusals["peer_streams"]

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

    cdef inline uint64_t expected(self, object peer) except? 0:
        """Ask the processor for the memory of a peer. Returns the hash of the peer's key, or 0.

        With many peers, a decision is mostly a wait for memory. The places in the two tables do not
        depend on each other, so both arrive in the time of one.
        """
        cdef uint64_t hashed
        key = peer_key(peer)
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
        cdef uint64_t hashed = self.expected(peer)
        cdef TaskConnections here = of_this_task()
        if here is not None:
            known = here.take_established(self.tracker, peer, inbound, True)
            if known is not None:
                return self.admit(TAKE_OVER, known, None, peer, inbound, address)
            known = here.latest_pending(self.tracker, inbound)
        if hashed != 0:
            trackers.expect_peer(self.tracker, hashed, True)
            scopes.expect_peer(self.ledger, hashed, True)
        record = self.admit(ESTABLISH, known, None, peer, inbound, address)
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
        return self.admit(BEGIN, None, connection_id, peer, inbound, address)

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
        record = self.admit(REPORT, known, connection_id, peer, inbound, address)
        if self.ledger is not None and not is_refusal(record):
            if dialled_quic:
                scopes.give_descriptor(conn_scope_of(record))
            if here is None:
                here = created_for_this_task()
            here.established = record
        return record

    cdef object limits_now(self):
        with cython.critical_section(self):
            limits = self.limits
        return limits

    def has_place_for_handshake(self, address):
        """Whether a handshake from here finds a place now, perhaps that of another handshake.

        Other limits may refuse it nevertheless.
        """
        cdef int64_t[4] counted
        cdef object most = self.limits_now().max_pending_inbound
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
        """Whether the process may use more memory: True, or a MemoryExcess, which is noted."""
        with cython.critical_section(self):
            limits = self.memory_limits
        if limits is None:
            return True
        answer = self.ask_memory(limits, None, None)
        if is_refusal(answer):
            if self.denials.ring is not None:
                self.denials.ring.note(
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


cdef inline bint is_pending_in(ConnectionRecord record, bint inbound) noexcept:
    return trackers.is_pending(record) and trackers.is_inbound(record) == inbound


cdef inline object conn_scope_of(ConnectionRecord record):
    """The ConnScope that a connection holds; None: it holds none."""
    held = None if record is None else trackers.held_of(record)
    return held if type(held) is CONN_SCOPE else None
