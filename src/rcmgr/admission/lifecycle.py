"""The calls in which a swarm reports its connections: pending, established, closed."""

from __future__ import annotations

import sys
from collections.abc import Collection, Hashable
from typing import TYPE_CHECKING, Any

from rcmgr.admission.admission import Admission
from rcmgr.admission.hosts import Hosts
from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.counting.denials import DenialLog
from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.limits.states import ConnectionLimits

if TYPE_CHECKING:
    from typing_extensions import Self

    from rcmgr.errors import ResourceLimitExceeded

__all__ = ["ConnectionLifecycleManager"]


class ConnectionLifecycleManager:
    """Applies `limits` to the connections of `tracker` as a swarm reports their lives.

    The `handle_...` coroutines never suspend. Each one decides, and takes everything, within the
    call, so a cancellation cannot come in the middle. A denial raises ConnectionLimitExceeded
    (py-libp2p's ResourceLimitExceeded) and takes nothing. A denied establishment also ends the
    pending state.

    limits, memory_limits: may be replaced at any time, and then hold for new connections. The
        memory is checked before pending connections (MemoryUsageLimitExceeded); None: no limit.
    denials: the log of the denials; default: a new one.

    The limits here do not depend on addresses, errors or reasons. The calls accept these because
    py-libp2p gives them. The lifecycle manager of a `ResourceManager` applies all its limits.

    Every call is O(1) and thread safe.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        limits: ConnectionLimits,
        memory_limits: MemoryConnectionLimits | None = None,
        *,
        denials: DenialLog | None = None,
    ) -> None:
        self._admission = Admission(tracker, DenialLog() if denials is None else denials)
        self._hosts = Hosts(tracker)
        self.limits = limits
        self.memory_limits = memory_limits

    @classmethod
    def of_admission(cls, admission: Admission, limits: Any) -> Self:
        """The one of a `ResourceManager`, which shares its decision."""
        manager = cls.__new__(cls)
        manager._admission = admission
        manager._hosts = Hosts(admission.tracker)
        manager.limits = limits
        return manager

    @property
    def tracker(self) -> ConnectionTracker:
        return self._admission.tracker

    @property
    def denials(self) -> DenialLog:
        return self._admission.denials

    @property
    def limits(self) -> ConnectionLimits:
        return self._admission.limits

    @limits.setter
    def limits(self, limits: ConnectionLimits) -> None:
        if not isinstance(limits, ConnectionLimits):
            raise TypeError(f"limits must be a ConnectionLimits, not {limits!r}")
        self._admission.limits = limits

    @property
    def memory_limits(self) -> MemoryConnectionLimits | None:
        return self._admission.memory_limits

    @memory_limits.setter
    def memory_limits(self, limits: MemoryConnectionLimits | None) -> None:
        self._admission.memory_limits = limits

    @property
    def refused_for_memory(self) -> int:
        """How often the process used more memory than `memory_limits` allows."""
        return self._admission.refused_for_memory

    async def handle_pending_inbound_connection(
        self,
        connection_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
        peer_id: Hashable | None = None,
    ) -> None:
        """A connection was accepted and its handshake begins; `peer_id` is seldom known so early.

        A second report changes nothing. ConnectionLimitExceeded: refused. ValueError: the id is
        established, or pending outbound.
        """
        self._pending(connection_id, peer_id, True, remote_addr)

    async def handle_pending_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable | None = None,
        addresses: Collection[Any] = (),
        endpoint: Any = None,
    ) -> None:
        """A dial begins; `peer_id` is the peer it should reach, if known.

        A second report changes nothing. ConnectionLimitExceeded: refused. ValueError: the id is
        established, or pending inbound.
        """
        self._pending(connection_id, peer_id, False, None)

    async def handle_established_inbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
    ) -> None:
        """The handshake of an inbound connection is done. It need not have been pending.

        A second report changes nothing. ConnectionLimitExceeded: refused. ValueError: the id is
        pending outbound, or established for another peer or direction. In a `ResourceManager` an
        established connection with the same id has ended, because a swarm uses ids again.
        """
        self._established(connection_id, peer_id, True, remote_addr)

    async def handle_established_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        endpoint: Any = None,
    ) -> None:
        """A dial succeeded; see `handle_established_inbound_connection`.

        py-libp2p gives the remote address as `local_addr`.
        """
        self._established(connection_id, peer_id, False, local_addr)

    async def handle_connection_closed(
        self,
        connection_id: Hashable,
        peer_id: Hashable | None = None,
        reason: str = "unknown",
    ) -> None:
        """A connection ended, in any state. An unknown one is ignored."""
        self.tracker.remove_connection(connection_id, peer_id)

    async def handle_dial_failure(
        self,
        connection_id: Hashable,
        peer_id: Hashable | None = None,
        error: BaseException | None = None,
    ) -> None:
        """An outbound connection failed before it was established; an established one is kept."""
        self._end_pending(connection_id)

    async def handle_listen_failure(
        self,
        connection_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
        error: BaseException | None = None,
    ) -> None:
        """An inbound connection failed before it was established; an established one is kept."""
        self._end_pending(connection_id)

    def notify_connection_closed(
        self,
        connection_id: Hashable,
        peer_id: Hashable | None = None,
        reason: str = "unknown",
    ) -> None:
        """`handle_connection_closed` for synchronous callers, as py-libp2p's swarm is."""
        self.tracker.remove_connection(connection_id, peer_id)

    def reconcile_live_connections(
        self, live_connection_ids: Collection[Hashable], min_age_seconds: float = 30.0
    ) -> int:
        """Forget established connections that the swarm does not have; returns how many.

        py-libp2p's swarm calls this whenever it adds a connection. live_connection_ids: all ids it
        has (a set). min_age_seconds: younger connections are left alone. O(1) unless something may
        be stale; see `ConnectionTracker.reconcile`.

        Several swarms may share this object. The `self` of the calling method tells which one
        calls. Only its own connections are looked at: O(connections of this swarm).
        """
        if not self._hosts.must_know_caller(live_connection_ids):
            return self.tracker.reconcile(live_connection_ids, min_age_seconds)
        swarm = sys._getframe(1).f_locals.get("self")
        return self._hosts.reconcile(swarm, live_connection_ids, min_age_seconds)

    def _pending(
        self, connection_id: Hashable, peer_id: Hashable | None, inbound: bool, address: Any
    ) -> None:
        answer = self._admission.report_pending(connection_id, peer_id, inbound, address)
        if not answer:
            raise _error(answer, connection_id, peer_id, address)

    def _established(
        self, connection_id: Hashable, peer_id: Hashable, inbound: bool, address: Any
    ) -> None:
        answer = self._admission.report_established(connection_id, peer_id, inbound, address)
        if not answer:
            raise _error(answer, connection_id, peer_id, address)
        if self._hosts.are_several:
            self._hosts.note_report(connection_id)

    def _end_pending(self, connection_id: Hashable) -> None:
        record = self.tracker.get_connection(connection_id)
        if record is not None:
            self.tracker.remove(record, only_pending=True)


def _error(
    refusal: Any, connection_id: Hashable, peer_id: Hashable | None, address: Any
) -> ResourceLimitExceeded:
    error: ResourceLimitExceeded = refusal.to_error(connection_id, peer_id)
    return error.explained(None if address is None else str(address))
