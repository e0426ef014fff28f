from libc.stdint cimport int64_t, uint64_t

from rcmgr.admission.room cimport Room
from rcmgr.counting.connection_tracker cimport ConnectionRecord
from rcmgr.counting.denials cimport DenialLog
from rcmgr.counting.event_ring cimport EventRing
from rcmgr.counting.leases cimport FleetGate

# The steps of a call. Another call for the same connection asks the steps that a call leaves out.
cdef enum:
    MEMORY = 1
    ADDRESS = 2
    PEER = 4     # its rate, and memory for a peer without a connection
    SCOPES = 8
    STATES = 16
    # not steps, but facts about the connection
    PENDING = 32   # before the handshake; a peer is the one that is dialled
    REPORTED = 64  # the swarm knows the connection by its id

# While the allowlist has peers, so many handshakes in each direction may pass full limits. Only the
# handshake shows whether a peer is one of them.
cdef enum:
    RESERVED_HANDSHAKES = 16

cdef enum:
    BEGIN = MEMORY | ADDRESS | SCOPES | STATES | PENDING
    ESTABLISH = MEMORY | ADDRESS | PEER | SCOPES | STATES
    # A swarm reports each connection and opens a scope for it, which asks memory and the peer.
    REPORT = ADDRESS | SCOPES | STATES | REPORTED
    TAKE_OVER = MEMORY | PEER
    ACQUIRE = MEMORY | ADDRESS | PEER | SCOPES  # counted, in no state


cdef class Admission:
    cdef readonly object tracker
    cdef readonly object ledger
    cdef readonly DenialLog denials
    cdef readonly Room room
    """Makes room for newcomers when a limit is reached."""
    cdef readonly DenialLog would_deny
    """Would-be refusals by limits that only report."""
    cdef readonly int64_t refused_for_memory
    """How often a step was refused because the process uses too much memory."""
    cdef readonly int64_t refused_by_peer_rate
    """How often a peer connected faster than `peer_rates` allows."""
    # The lock of the object guards what is set later, and the counts. Everything else is constant.
    cdef object _limits, _enforced_limits
    cdef object _only_reporting  # codes of limits that refuse nothing; None: all limits refuse
    cdef public object memory_limits
    """A MemoryConnectionLimits; None: no limit."""
    cdef public object addresses
    """An AddressGate; None: no limit depends on the address."""
    cdef public object peer_rates
    """The BucketTable of how often a peer may connect; None: no limit."""
    cdef public object peer_rate_refusal
    """The RateRefusal of a peer that connects too often."""
    cdef public FleetGate fleet
    """The limits of the fleet; None: no fleet."""
    cdef object allowlist, bans
    cdef dict exempt_peers, exempt_networks, banned
    cdef bint reuses_ids

    cdef uint64_t expected(self, object key) except? 0
    cdef object establish(self, object peer, bint inbound, object address)
    cdef object admit(
        self, int steps, ConnectionRecord known, object connection_id, object peer, object key,
        bint inbound, object address)
    cdef object take(
        self, int steps, ConnectionRecord known, object connection_id, object peer, object key,
        bint inbound, object address)
    cdef int note(
        self, EventRing ring, int steps, uint64_t number, object peer, bint inbound,
        object address, object answer) except -1
    cdef object ask_memory(self, object limits, ConnectionRecord known, object peer)
    cdef object ask_fleet(
        self, FleetGate fleet, int steps, ConnectionRecord known, object peer)
    cpdef object refusal_of_stream(self, object peer)
    cdef bint may_be_allowed(self, bint allowed_here, bint inbound) except -1
    cdef bint is_exempt(self, object peer, object address) except -1
    cpdef bint is_exempt_peer(self, object peer) except -1
    cdef object enforced_limits_now(self)
    cdef int set_limits(self, object limits, object only_reporting) except -1
    cdef object refusal_by_peer_rate(self)
    cdef int count_for_memory(self) except -1
    cdef int count_by_peer_rate(self) except -1
    cdef int note_passed(
        self, object refusal, object handle, object connection_id, object peer, bint inbound,
        object address) except -1


cdef inline bint may_exempt(Admission admission) noexcept:
    """Whether anything is exempt at all. Usually nothing is, and this costs next to nothing."""
    return bool(admission.exempt_peers) or bool(admission.exempt_networks)
