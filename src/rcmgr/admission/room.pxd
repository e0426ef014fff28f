from libc.stdint cimport int64_t, uint64_t

from rcmgr.admission.eviction cimport EvictionPolicy, PendingShares
from rcmgr.counting._shared_words cimport rcmgr_read_word
from rcmgr.counting.connection_tracker cimport ConnectionRecord, ConnectionWatcher, ticket_of
from rcmgr.counting.denials cimport DenialLog


cdef class Room(ConnectionWatcher):
    cdef uint64_t active  # a shared word
    # the lock of the object guards everything else that changes
    cdef readonly EvictionPolicy policy
    """Chooses among established inbound connections. None: no limit is nearly reached yet."""
    cdef readonly PendingShares handshakes
    """Chooses among pending inbound connections."""
    cdef readonly int64_t leaving
    """Evicted connections whose close has not ended."""
    cdef readonly int64_t evicted_established
    cdef readonly int64_t evicted_pending
    cdef readonly int64_t cut
    """Evicted connections whose close took too long, and was cut short."""
    cdef readonly int64_t refused_handshakes
    """Handshakes of networks that came too often to a full node."""
    cdef readonly int64_t would_make_room
    """Newcomers above a limit that only reports. The node would have made room for them."""
    cdef bint _only_reports
    cdef object _settings
    cdef tuple _hosts
    cdef object _protected  # a deque of records that a host protects. The policy lacks them.
    cdef DenialLog _denials
    cdef object _limits_source
    cdef int64_t _most_pending, _most_inbound, _most_total, _most_by_scope
    cdef int64_t _watch_inbound, _watch_total

    cdef int change_hosts(self, object added, object removed) except -1
    cdef EvictionPolicy policy_now(self)
    cdef object settings_now(self)
    cdef tuple hosts_now(self)
    cdef int before(
        self, object tracker, object limits, bint pending, object peer, object address) except -1
    cdef object refusal_of_handshake(self, object address)
    cdef int count_refused_handshake(self) except -1
    cdef int note_passed(self, object refusal) except -1
    cdef bint after_refusal(
        self, object tracker, object ledger, object refusal, bint pending, object address
    ) except -1
    cdef int entered(self, ConnectionRecord record, object address) except -1
    cdef int read_limits(self, object limits) except -1
    cdef bint end_handshake(self, object address) except -1
    cdef bint evict(self, object tracker, object address) except -1
    cdef int note_eviction(self, ConnectionRecord record, object why) except -1
    cdef int look_at_protected(self, EvictionPolicy policy) except -1
    cdef int protect(self, ConnectionRecord record) except -1
    cdef int wake(self, object tracker) except -1
    cdef int enter(
        self, EvictionPolicy policy, ConnectionRecord record, object since_ns) except -1
    cdef bytes group_of(self, object address)


cdef inline bint makes_place(Room room) noexcept:
    """Whether the settings allow evictions, and a host can end connections."""
    return rcmgr_read_word(&room.active) != 0


cdef inline bint concerns(Room room, ConnectionRecord record, object address) except -1:
    """Whether `entered` has anything to note. Usually it has not, and a call costs more."""
    return (
        address is not None or ticket_of(record) != 0 or room.policy_now() is not None)
