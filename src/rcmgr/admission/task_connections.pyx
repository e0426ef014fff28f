"""Which calls of a swarm are about the same connection.

For one connection py-libp2p's swarm makes up to three calls: `open_connection(None, ...)` before
the handshake, `open_connection(peer, ...)` after it, and a report to the lifecycle manager. No call
names the connection to the next one. But one task makes them, one after the other. So a context
variable keeps the connections that the task is opening.

TCP, WebSocket: pending, open(peer), report. QUIC: (outbound: pending), report, open(peer).

A task that is started meanwhile inherits the variable, but sees only its own connections. The
variable is set once for each task, and its value is changed in place: setting it takes 0.1 us.
"""

cimport cython
from cpython.contextvars cimport PyContextVar_Set, get_value
from cpython.weakref cimport PyWeakref_NewRef

from contextvars import ContextVar

from rcmgr.admission._context cimport rcmgr_current_context, rcmgr_refers_to
from rcmgr.counting cimport connection_tracker as trackers
from rcmgr.counting.connection_tracker cimport ConnectionRecord
from rcmgr.peers cimport key_of as peer_key

__all__ = ["TaskConnections"]

cdef object VARIABLE = ContextVar("rcmgr_task_connections", default=None)
cdef enum:
    LEAST_ROOM = 16


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class TaskConnections:
    """TaskConnections()\n--\n
    The connections that one task is opening, of all managers."""

    def __len__(self):
        """__len__($self, /)\n--\n\nHow many handshakes are kept, with some that have ended."""
        return len(self.earlier) + (self.latest is not None)

    cdef int add_pending(self, ConnectionRecord record) except -1:
        self.established = None
        self.drop_ended()
        if self.latest is not None:
            if len(self.earlier) >= self.room:
                # later ones that are under way kept the ended ones below them
                self.earlier = [each for each in self.earlier if trackers.is_pending(each)]
                self.room = max(LEAST_ROOM, 2 * len(self.earlier))
            self.earlier.append(self.latest)
        self.latest = record
        return 0

    cdef int drop_ended(self) except -1:
        while self.latest is not None and not trackers.is_pending(self.latest):
            self.latest = self.earlier.pop() if self.earlier else None
        return 0

    cdef ConnectionRecord latest_pending(self, object tracker, bint inbound):
        """The latest connection of this tracker whose handshake is under way.

        None: there is no such connection, or it has the other direction.
        """
        cdef ConnectionRecord record
        self.drop_ended()
        record = self.latest
        if record is None:
            return None
        if not trackers.holds(tracker, record):
            record = self.earlier_pending(tracker)
        return record if record is not None and trackers.is_inbound(record) == inbound else None

    cdef ConnectionRecord earlier_pending(self, object tracker):
        cdef ConnectionRecord record
        for record in reversed(self.earlier):
            if trackers.is_pending(record) and trackers.holds(tracker, record):
                return record
        return None

    cdef ConnectionRecord take_established(
        self, object tracker, object peer, bint inbound, bint reported
    ):
        """The connection established just before, if it has this peer and direction.

        It is returned once. reported: whether a report has established it, or a scope.
        """
        cdef ConnectionRecord record
        if self.established is None:
            return None
        record, self.established = self.established, None
        if (
            trackers.is_reported(record) != reported
            or trackers.is_inbound(record) != inbound
            or peer_key(trackers.peer_of(record)) != peer_key(peer)
            or not trackers.holds(tracker, record)
        ):
            return None
        return record


cdef TaskConnections of_this_task():
    cdef TaskConnections here = get_value(VARIABLE)
    if here is not None and rcmgr_refers_to(here.context, rcmgr_current_context()):
        return here
    return None


cdef TaskConnections created_for_this_task():
    cdef TaskConnections here = of_this_task()
    if here is None:
        if rcmgr_current_context() is NULL:
            PyContextVar_Set(VARIABLE, None)  # makes a context
        here = TaskConnections.__new__(TaskConnections)
        here.context = PyWeakref_NewRef(<object>rcmgr_current_context(), None)
        here.earlier, here.room = [], LEAST_ROOM
        PyContextVar_Set(VARIABLE, here)
    return here
