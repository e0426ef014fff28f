"""The room that a full node makes for newcomers.

Hosts register here what can end their connections. Without a host, a full node refuses.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport (
    PyUnicode_1BYTE_DATA, PyUnicode_1BYTE_KIND, PyUnicode_GET_LENGTH, PyUnicode_KIND,
)
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

from collections import deque

from rcmgr.admission._ip_text cimport rcmgr_parse_ip
from rcmgr.admission.eviction cimport (
    OUTCOMES, EvictionPolicy, PendingShares, choose_for, handshake_delay, note_streams,
    on_probation,
)
from rcmgr.counting cimport connection_tracker as trackers, scope as scopes
from rcmgr.counting._clock cimport rcmgr_now_coarse_ns
from rcmgr.counting._connection_counts cimport (
    RCMGR_ESTABLISHED_INBOUND, RCMGR_ESTABLISHED_OUTBOUND, RCMGR_PENDING_INBOUND,
)
from rcmgr.counting._event_ring cimport RCMGR_EV_EVICT, RCMGR_EV_INBOUND, RCMGR_EV_KNOWN
from rcmgr.counting._shared_words cimport rcmgr_write_word
from rcmgr.counting.connection_tracker cimport ConnectionRecord
from rcmgr.counting.denials cimport DenialLog, ring_of
from rcmgr.counting.groups cimport Refusal
from rcmgr.counting.prefix_table cimport prefix_of

from rcmgr.counting.scope import ConnScope
from rcmgr.errors import ConnectionEvicted
from rcmgr.gates.addresses import endpoint_of
from rcmgr.gates.requests import RateRefusal
from rcmgr.limits.eviction import Eviction
from rcmgr.limits.networks import Network

__all__ = ["Room"]

cdef object CONN_SCOPE = ConnScope
# a bit of a record's ticket: the ticket is one of `Room.handshakes`
cdef uint64_t OF_HANDSHAKE = <uint64_t>1 << 63

cdef enum:
    MOST_CHOICES = 16      # connections that are looked at for one newcomer
    IDENTIFY_STREAMS = 2   # that any peer begins: identify, identify/push
    LEAST_LEAVING = 4
    LEAST_PER_SECOND = 16
    MOST_PLACES = 1 << 30
    LEAST_FREE_OF = 8      # one place in so many is for handshakes
    MOST_FREE = 64


class Evicted:
    """Why a connection ended: it made room for a newcomer. `DenialLog` takes it as a refusal."""

    is_offence = False

    def __init__(self, state: str) -> None:
        self._state = state

    def __bool__(self):
        return False

    @property
    def code(self):
        """The code of its error."""
        return "connection.evicted"

    def to_error(self, connection_id=None, peer_id=None):
        return ConnectionEvicted(self._state, connection_id, peer_id)


cdef object EVICTED_ESTABLISHED = Evicted("established_inbound")
cdef object EVICTED_PENDING = Evicted("pending_inbound")


@cython.final
@cython.binding(False)
cdef class Room(ConnectionWatcher):
    """Room(denials)\n--\n
    Ends inbound connections that are worth less than a newcomer, when a limit is reached.

    denials: where evictions are noted.

    A host is an object with these attributes:

    * `find(record)`: what `end` takes. None: the host does not know this connection, or protects
      it, or cannot end it now.
    * `end(found)`: begins to close the connection. When it is closed, the host calls `left`.
    * `most_inbound`, `most_total`: the host's own limits on established connections, or None.

    A handshake is an object with a method `end()`, which closes its socket and its scope. Its
    `latency_us` is a round trip that the other side cannot make shorter. 0: not measured.

    Until 7/8 of a limit are in use, a connection costs a comparison of numbers. Thread safe.
    """

    def __cinit__(self, DenialLog denials not None):
        self._denials = denials
        self._hosts = ()
        self._most_inbound = self._most_by_scope = INT64_MAX
        self.handshakes = PendingShares()
        self.settings = Eviction()

    # -- settings ------------------------------------------------------------------------------

    @property
    def settings(self):
        """The Eviction in use. May be set: what is known about connections is then forgotten."""
        return self.settings_now()

    @settings.setter
    def settings(self, settings):
        if not isinstance(settings, Eviction):
            raise TypeError(f"settings must be a rcmgr.Eviction, not {settings!r}")
        protected = deque()
        with cython.critical_section(self):
            # freed outside of the lock
            _former, self._settings = self._settings, settings
            _policy, self.policy = self.policy, None
            _protected, self._protected = self._protected, protected
        self.handshakes.set_times(settings.pending_grace_s, settings.pending_patience_s)
        self.change_hosts(None, None)

    @property
    def is_active(self):
        """Whether the settings allow evictions, and a host can end connections."""
        return makes_place(self)

    @property
    def only_reports(self):
        """Whether it ends nothing, and only counts. May be set."""
        cdef bint only_reports
        with cython.critical_section(self):
            only_reports = self._only_reports
        return only_reports

    @only_reports.setter
    def only_reports(self, bint only_reports):
        with cython.critical_section(self):
            self._only_reports = only_reports
        self.change_hosts(None, None)

    def add_host(self, host):
        """Let this host end connections. The result is a function that undoes this."""
        def leave():
            self.change_hosts(None, host)

        self.change_hosts(host, None)
        return leave

    cdef int change_hosts(self, object added, object removed) except -1:
        with cython.critical_section(self):
            # freed outside of the lock
            _former, _source = self._hosts, self._limits_source
            hosts = [each for each in <tuple>_former if each is not removed]
            if added is not None:
                hosts.append(added)
            self._hosts = tuple(hosts)
            self._limits_source = None  # the next connection reads the limits of the hosts too
            rcmgr_write_word(
                &self.active,
                self._settings.enabled and len(hosts) > 0 and not self._only_reports)
        return 0

    cdef EvictionPolicy policy_now(self):
        cdef EvictionPolicy policy
        with cython.critical_section(self):
            policy = self.policy
        return policy

    cdef object settings_now(self):
        with cython.critical_section(self):
            settings = self._settings
        return settings

    cdef tuple hosts_now(self):
        cdef tuple hosts
        with cython.critical_section(self):
            hosts = self._hosts
        return hosts

    cdef int read_limits(self, object limits) except -1:
        cdef tuple hosts = self.hosts_now()
        cdef int64_t inbound = least_of([limits.max_established_inbound], "most_inbound", hosts)
        cdef int64_t total = least_of([limits.max_established_total], "most_total", hosts)
        cdef int64_t pending = limit_of(limits.max_pending_inbound)
        cdef EvictionPolicy policy
        with cython.critical_section(self):
            self._most_pending = pending
            self._most_inbound = min(inbound, total)
            self._most_total = total
            self._watch_inbound = self._most_inbound - self._most_inbound // 8
            self._watch_total = total - total // 8
            _former = self._limits_source  # freed outside of the lock
            if self._hosts is hosts:
                self._limits_source = limits
            policy = self.policy
        if policy is not None:
            policy.places = self.places
        return 0

    @property
    def places(self):
        """How many inbound connections may be established, 1 to 2**30."""
        cdef int64_t most
        with cython.critical_section(self):
            most = min(self._most_inbound, self._most_by_scope)
        return max(1, min(most, MOST_PLACES))

    @property
    def most_leaving(self):
        """How many evicted connections may be closing at once."""
        return max(LEAST_LEAVING, int(self.places * self.settings_now().share_leaving))

    # -- what the decision asks ----------------------------------------------------------------

    cdef int before(
        self, object tracker, object limits, bint pending, object peer, object address
    ) except -1:
        """Make room for an inbound connection if all places of its new state are taken."""
        cdef int64_t[4] counted
        cdef int64_t inbound, total, most_pending, most_inbound, most_total
        cdef bint is_read, is_near
        with cython.critical_section(self):
            is_read = limits is self._limits_source
        if not is_read:
            self.read_limits(limits)
        trackers.read_counted(tracker, counted)
        inbound = counted[<int>RCMGR_ESTABLISHED_INBOUND]
        total = inbound + counted[<int>RCMGR_ESTABLISHED_OUTBOUND]
        with cython.critical_section(self):
            most_pending = self._most_pending
            most_inbound, most_total = self._most_inbound, self._most_total
            is_near = inbound >= self._watch_inbound or total >= self._watch_total
        if pending:
            if counted[<int>RCMGR_PENDING_INBOUND] >= most_pending:
                self.end_handshake(address)
            return 0
        if not is_near:
            return 0
        self.wake(tracker)
        if inbound < most_inbound and total < most_total:
            return 0
        of_peer = limits.max_established_per_peer
        if of_peer is None or tracker.get_peer_connection_count(peer) < of_peer:
            self.evict(tracker, address)
        return 0

    cdef object refusal_of_handshake(self, object address):
        """A RateRefusal: the node is full, and this network comes too often. None: it may begin."""
        cdef EvictionPolicy policy = self.policy_now()
        cdef bytes group = None if policy is None else self.group_of(address)
        cdef int64_t delay_ns = 0 if group is None else handshake_delay(policy, group)
        if delay_ns == 0:
            return None
        return _comes_too_often(self.settings_now(), address, delay_ns / 1e9)

    cdef int count_refused_handshake(self) except -1:
        with cython.critical_section(self):
            self.refused_handshakes += 1
        return 0

    cdef int note_passed(self, object refusal) except -1:
        """Note a newcomer that a limit would have refused, if that limit did not only report."""
        cdef bint is_full
        if type(refusal) is Refusal:
            is_full = scopes.is_full_of_connections(refusal)
        else:
            is_full = trackers.is_full_of_inbound(refusal)
        if is_full and self.settings_now().enabled and len(self.hosts_now()) > 0:
            with cython.critical_section(self):
                self.would_make_room += 1
        return 0

    cdef bint after_refusal(
        self, object tracker, object ledger, object refusal, bint pending, object address
    ) except -1:
        """Make room for an inbound connection that a scope refused. True: ask that scope again.

        A handshake ends an established connection only while few handshakes are under way. So
        sockets that fall silent cost the node one established connection in eight at most.
        """
        cdef int64_t[4] counted
        cdef int64_t free
        cdef bint made, is_new
        cdef EvictionPolicy policy
        if type(refusal) is not Refusal or not scopes.is_full_of_connections(refusal):
            return False
        trackers.read_counted(tracker, counted)
        free = min(MOST_FREE, max(1, (<Refusal>refusal).limit // LEAST_FREE_OF))
        if scopes.is_of_system(refusal):
            with cython.critical_section(self):
                is_new = self._most_by_scope != (<Refusal>refusal).limit
                self._most_by_scope = (<Refusal>refusal).limit
                policy = self.policy
            if is_new and policy is not None:
                policy.places = self.places
        if not pending or (
            scopes.is_of_system(refusal) and counted[<int>RCMGR_PENDING_INBOUND] < free
        ):
            self.wake(tracker)
            made = self.evict(tracker, address)
        else:
            made = self.end_handshake(address)
        if made:
            scopes.uncount(ledger, refusal)
        return made

    cdef int entered(self, ConnectionRecord record, object address) except -1:
        """Note an inbound connection that has entered a state."""
        cdef EvictionPolicy policy
        cdef uint64_t ticket
        trackers.note_endpoint(record, address)
        if trackers.is_established(record):
            handshake = None
            policy = self.policy_now()
            ticket = trackers.ticket_of(record)
            if ticket:
                if policy is not None and ticket & OF_HANDSHAKE:
                    handshake = self.handshakes.owner_of(ticket & ~OF_HANDSHAKE)
                self.ended(record)
            if policy is not None and not trackers.is_exempt(record):
                self.enter(policy, record, None)
                if handshake is not None and handshake.latency_us:
                    policy.note_latency(trackers.ticket_of(record), handshake.latency_us)
        return 0

    cdef int ended(self, ConnectionRecord record) except -1:
        cdef uint64_t ticket = trackers.take_ticket(record)
        cdef EvictionPolicy policy
        if ticket & OF_HANDSHAKE:
            self.handshakes.drop(ticket & ~OF_HANDSHAKE)
        else:
            policy = self.policy_now()
            if policy is not None:
                policy.drop(ticket)
        return 0

    # -- handshakes ----------------------------------------------------------------------------

    def enter_handshake(self, ConnectionRecord record not None, handshake, address):
        """Note a handshake from this address, until it is established or has ended."""
        ip = ip_of(address)
        if trackers.ticket_of(record) or not trackers.is_pending(record):
            return
        ticket = self.handshakes.add(handshake, ip, self.group_of(address))
        if not trackers.give_ticket(record, <uint64_t>ticket | OF_HANDSHAKE, False):
            self.handshakes.drop(ticket)  # it has ended meanwhile

    def group(self, address):
        """The network of an address, as bytes. None: the address has no IP."""
        return self.group_of(address)

    def advance(self, ConnectionRecord record not None):
        """Note that a handshake made progress."""
        cdef uint64_t ticket = trackers.ticket_of(record)
        if ticket & OF_HANDSHAKE:
            self.handshakes.advance(ticket & ~OF_HANDSHAKE)

    def make_place(self, address):
        """End a handshake for a newcomer from this address, if one is worth less."""
        return self.end_handshake(address)

    cdef bint end_handshake(self, object address) except -1:
        handshake = self.handshakes.choose(self.group_of(address))
        if handshake is None:
            return False
        self.note_eviction(None, EVICTED_PENDING)
        handshake.end()
        with cython.critical_section(self):
            self.evicted_pending += 1
        self._denials.add(EVICTED_PENDING, None, None, True)
        return True

    # -- established connections ---------------------------------------------------------------

    cdef int wake(self, object tracker) except -1:
        """Give the policy all established inbound connections."""
        cdef ConnectionRecord record
        cdef EvictionPolicy policy
        cdef list records
        cdef bint is_mine
        if self.policy_now() is not None:
            return 0
        settings = self.settings_now()
        places = self.places
        policy = EvictionPolicy(
            places, grace_s=settings.grace_s, turn_s=settings.turn_s,
            per_second=max(LEAST_PER_SECOND, int(places * settings.share_per_second)))
        records = trackers.established_inbound(tracker)
        with cython.critical_section(self):
            is_mine = self.policy is None and self._settings is settings
            if is_mine:
                for each in records:
                    # it was the ticket of an earlier policy
                    trackers.take_ticket(<ConnectionRecord>each)
                self.policy = policy
        if not is_mine:  # another thread was first, or has set other settings
            return 0
        for each in trackers.established_inbound(tracker):
            record = <ConnectionRecord>each
            if trackers.ticket_of(record) == 0:
                self.enter(policy, record, record.since_ns)
        return 0

    cdef int enter(
        self, EvictionPolicy policy, ConnectionRecord record, object since_ns
    ) except -1:
        cdef uint64_t ticket
        for each in on_probation(policy):
            note_new_work(policy, <ConnectionRecord>each)
        ticket = policy.add(
            record, self.group_of(trackers.endpoint_of(record)), since_ns=since_ns)
        if trackers.give_ticket(record, ticket, True):
            note_new_work(policy, record)
        else:  # it has ended, or another thread has entered it meanwhile
            policy.drop(ticket)
        return 0

    cdef bint evict(self, object tracker, object address) except -1:
        """End the connection that is worth least, if it is worth less than this newcomer."""
        cdef ConnectionRecord record
        cdef EvictionPolicy policy = self.policy_now()
        cdef bytes group
        cdef tuple hosts = self.hosts_now()
        cdef int64_t leaving
        with cython.critical_section(self):
            leaving = self.leaving
        # `most_leaving` is never below the first number, and costs more
        if policy is None or (leaving >= LEAST_LEAVING and leaving >= self.most_leaving):
            return False
        group = self.group_of(address)
        self.look_at_protected(policy)
        for each in on_probation(policy):
            note_new_work(policy, <ConnectionRecord>each)
        for _ in range(<int>MOST_CHOICES):
            chosen = choose_for(policy, group)
            if chosen is None:
                return False
            record = <ConnectionRecord>chosen
            if note_new_work(policy, record):
                continue
            for host in hosts:
                found = host.find(record)
                if found is not None:
                    break
            else:
                self.ended(record)
                self.protect(record)
                continue
            if not policy.evict(trackers.ticket_of(record), group):
                continue  # another thread did it
            with cython.critical_section(self):
                self.leaving += 1
                self.evicted_established += 1
            self._denials.add(
                EVICTED_ESTABLISHED, trackers.id_of(record), trackers.peer_of(record), True)
            trackers.take_ticket(record)
            self.note_eviction(record, EVICTED_ESTABLISHED)
            trackers.remove(tracker, record, False)
            host.end(found)
            return True
        return False

    cdef int note_eviction(self, ConnectionRecord record, object why) except -1:
        """Note it for the record of the node. record: None: a handshake."""
        ring = ring_of(self._denials)
        if ring is not None:
            ring.note(
                RCMGR_EV_EVICT,
                <int>(RCMGR_EV_INBOUND | (0 if record is None else RCMGR_EV_KNOWN)),
                0 if record is None else scopes.number_of(trackers.held_of(record)), None, None,
                None, None, why.code, 0, 0)
        return 0

    cdef int look_at_protected(self, EvictionPolicy policy) except -1:
        """Take back connections that hosts do not protect any more, as the oldest ones."""
        cdef ConnectionRecord record
        cdef tuple hosts = self.hosts_now()
        with cython.critical_section(self):
            protected = self._protected
        for _ in range(min(MOST_CHOICES, len(protected))):
            try:
                record = <ConnectionRecord>protected.popleft()
            except IndexError:  # another thread has taken the last one
                break
            if not trackers.is_established(record):
                continue
            if all([host.find(record) is None for host in hosts]):
                self.protect(record)
            else:
                self.enter(policy, record, record.since_ns)
                policy.promote(trackers.ticket_of(record))
        return 0

    cdef int protect(self, ConnectionRecord record) except -1:
        with cython.critical_section(self):
            self._protected.append(record)
        return 0

    def left(self, bint was_cut):
        """Note that the close of an evicted connection has ended."""
        with cython.critical_section(self):
            self.leaving -= 1
            self.cut += was_cut

    # -- what there is -------------------------------------------------------------------------

    def stats(self):
        """Counts as a dict, ready for JSON.

        "enabled": whether the settings and a host allow evictions. "evicted": by state. "leaving",
        "most_leaving": evicted connections that are closing, and their limit. "cut": how many of
        them did not go by themselves. "refused_handshakes": those of networks that came too often
        to a full node. "would_make_room": newcomers above limits that only report, if the node
        would have made room for them. "choices": see `EvictionPolicy.stats`.
        """
        cdef int64_t established, pending, leaving, cut, refused, would
        with cython.critical_section(self):
            policy = self.policy
            established, pending = self.evicted_established, self.evicted_pending
            leaving, cut, refused = self.leaving, self.cut, self.refused_handshakes
            would = self.would_make_room
        return {
            "enabled": self.is_active,
            "evicted": {"established_inbound": established, "pending_inbound": pending},
            "leaving": leaving,
            "most_leaving": self.most_leaving,
            "cut": cut,
            "refused_handshakes": refused,
            "would_make_room": would,
            "choices": (
                dict.fromkeys(OUTCOMES, 0) if policy is None else policy.stats()["choices"]),
        }

    cdef bytes group_of(self, object address):
        """The network of an address. None: the address has no IP."""
        cdef bytes ip = ip_of(address)
        if ip is None:
            return None
        settings = self.settings_now()
        if len(ip) == 4:
            return b"4" + prefix_of(ip, settings.ipv4_prefix)
        return b"6" + prefix_of(ip, settings.ipv6_prefix)


cdef bint note_new_work(EvictionPolicy policy, ConnectionRecord record) except -1:
    """Read how many streams the peer has begun, and has open. True: this proves the connection."""
    cdef int64_t now_open
    cdef uint32_t begun
    held = trackers.held_of(record)
    if type(held) is not CONN_SCOPE:
        return False
    begun = scopes.inbound_streams(held, &now_open)
    begun = begun - IDENTIFY_STREAMS if begun > IDENTIFY_STREAMS else 0
    if begun == 0 and now_open == 0:
        return False
    return note_streams(
        policy, trackers.ticket_of(record), begun, now_open > 0, rcmgr_now_coarse_ns())


def _comes_too_often(settings, address, delay_s):
    ip = ip_of(address)
    network = Network.of(ip, settings.ipv4_prefix if len(ip) == 4 else settings.ipv6_prefix)
    return RateRefusal(
        f"network {network}", "handshake", lambda peer: delay_s, None, "eviction", str(address))


cdef object ip_of(object address):
    cdef uint8_t[16] ip
    cdef int size
    if address is None:
        return None
    if type(address) is str and PyUnicode_KIND(address) == PyUnicode_1BYTE_KIND:
        # as `endpoint_of`, which a flood of refusals would wait for
        size = rcmgr_parse_ip(
            <const char *>PyUnicode_1BYTE_DATA(address), PyUnicode_GET_LENGTH(address), ip)
        if size:
            return PyBytes_FromStringAndSize(<const char *>ip, size)
    return endpoint_of(str(address)).ip


cdef int64_t limit_of(object limit) except -1:
    return INT64_MAX if limit is None or limit > INT64_MAX else limit


cdef int64_t least_of(list limits, str name, tuple hosts) except -1:
    """The lowest of these limits and those of the hosts, which are added up."""
    of_hosts = [getattr(host, name) for host in hosts]
    if None not in of_hosts:
        limits.append(sum(of_hosts))
    return min([limit_of(each) for each in limits])
