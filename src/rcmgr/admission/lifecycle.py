"""pending -> established -> closed, with the limits applied at each step."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Set
from typing import Any, NoReturn

from rcmgr.counting.connection_tracker import ConnectionTracker, Denial
from rcmgr.counting.denials import DenialLog
from rcmgr.gates.memory import MemoryConnectionLimits, MemoryExcess
from rcmgr.limits.states import ConnectionLimits

__all__ = ["ConnectionLifecycleManager"]


class ConnectionLifecycleManager:
    """Applies `limits` to the connections of `tracker` as a swarm reports their lives.

    The `handle_...` coroutines never suspend: the decision is made, and everything taken, within
    the call, so that a cancellation cannot come halfway. A denial raises ConnectionLimitExceeded
    (py-libp2p's ResourceLimitExceeded) and takes nothing; a denied establishment also ends the
    pending state.

    limits, memory_limits: may be replaced at any time and then hold for new connections. The memory
        is asked before pending connections (MemoryUsageLimitExceeded); None: no limit.
    denials: where denials are noted; by default a log of its own.

    Addresses, errors and reasons are accepted for the callers' sake; no limit depends on them.
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
        self.tracker = tracker
        self.limits = limits
        self.memory_limits = memory_limits
        self.denials = DenialLog() if denials is None else denials
        self._refused_for_memory = 0
        self._lock = threading.Lock()

    @property
    def limits(self) -> ConnectionLimits:
        return self._limits

    @limits.setter
    def limits(self, limits: ConnectionLimits) -> None:
        if not isinstance(limits, ConnectionLimits):
            raise TypeError(f"limits must be a ConnectionLimits, not {limits!r}")
        self._limits = limits

    @property
    def refused_for_memory(self) -> int:
        """How often more memory was in use than `memory_limits` allows when something was asked."""
        return self._refused_for_memory

    def memory_excess(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None,
        inbound: bool | None = None, *, new_peer: bool = False,
    ) -> MemoryExcess | None:
        """None, or why `memory_limits` refuses to add anything now, noted as a denial (of whom and
        which way, as far as that is known).

        new_peer: ask about a peer that holds no connection yet.
        """
        limits = self.memory_limits
        excess = None if limits is None else limits.excess(new_peer=new_peer)
        if excess is not None:
            with self._lock:
                self._refused_for_memory += 1
            self.denials.add(excess, connection_id, peer_id, inbound)
        return excess

    async def handle_pending_inbound_connection(
        self,
        connection_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
        peer_id: Hashable | None = None,
    ) -> None:
        """A connection was accepted and its handshake begins; `peer_id` is seldom known so early.

        ConnectionLimitExceeded: refused. ValueError: the id is established, or pending outbound.
        """
        if self.memory_limits is not None:
            self._check_memory(connection_id, peer_id, True)
        denial = self.tracker.admit_pending_inbound(connection_id, self._limits, peer_id)
        if denial is not None:
            self._deny(denial, connection_id, peer_id, True)

    async def handle_pending_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable | None = None,
        addresses: Collection[Any] = (),
        endpoint: Any = None,
    ) -> None:
        """A dial begins; `peer_id` is the peer it should reach, if known.

        ConnectionLimitExceeded: refused. ValueError: the id is established, or pending inbound.
        """
        if self.memory_limits is not None:
            self._check_memory(connection_id, peer_id, False)
        denial = self.tracker.admit_pending_outbound(connection_id, self._limits, peer_id)
        if denial is not None:
            self._deny(denial, connection_id, peer_id, False)

    async def handle_established_inbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
    ) -> None:
        """The handshake of an inbound connection is done. It need not have been pending.

        A second report of the same connection changes nothing. ConnectionLimitExceeded: refused.
        ValueError: the id is pending outbound, or established for another peer or direction.
        """
        try:
            denial = self.tracker.admit_established_inbound(connection_id, peer_id, self._limits)
        except ValueError:
            if not self._is_known(connection_id, peer_id, self.tracker.established_inbound):
                raise
            return
        if denial is not None:
            self._deny(denial, connection_id, peer_id, True)

    async def handle_established_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        endpoint: Any = None,
    ) -> None:
        """A dial succeeded; see `handle_established_inbound_connection`."""
        try:
            denial = self.tracker.admit_established_outbound(connection_id, peer_id, self._limits)
        except ValueError:
            if not self._is_known(connection_id, peer_id, self.tracker.established_outbound):
                raise
            return
        if denial is not None:
            self._deny(denial, connection_id, peer_id, False)

    async def handle_connection_closed(
        self,
        connection_id: Hashable,
        peer_id: Hashable | None = None,
        reason: str = "unknown",
    ) -> None:
        """A connection ended, in whatever state. An unknown one is ignored."""
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
        """`handle_connection_closed` for synchronous callers; py-libp2p's swarm is one."""
        self.tracker.remove_connection(connection_id, peer_id)

    def reconcile_live_connections(
        self, live_connection_ids: Collection[Hashable], min_age_seconds: float = 30.0
    ) -> int:
        """Forget established connections that are not among the swarm's; how many there were.

        py-libp2p's swarm calls this whenever it adds a connection. live_connection_ids: all ids it
        has (a set). min_age_seconds: younger connections are left alone. O(1) unless something may
        be stale; see `ConnectionTracker.reconcile`.
        """
        return self.tracker.reconcile(live_connection_ids, min_age_seconds)

    def _check_memory(
        self, connection_id: Hashable, peer_id: Hashable | None, inbound: bool
    ) -> None:
        if peer_id is not None and self.tracker.is_bypassed(peer_id):
            return
        excess = self.memory_excess(connection_id, peer_id, inbound)
        if excess is not None:
            raise excess.to_error(connection_id, peer_id)

    def _is_known(
        self, connection_id: Hashable, peer_id: Hashable, established: Set[Hashable]
    ) -> bool:
        """Whether the connection is established in that direction, for that very peer."""
        of_peer = self.tracker.established_per_peer.get(peer_id, set())
        return connection_id in established and connection_id in of_peer

    def _end_pending(self, connection_id: Hashable) -> None:
        record = self.tracker.get_connection(connection_id)
        if record is not None:
            self.tracker.remove(record, only_pending=True)

    def _deny(
        self, denial: Denial, connection_id: Hashable, peer_id: Hashable | None, inbound: bool
    ) -> NoReturn:
        self.denials.add(denial, connection_id, peer_id, inbound)
        raise denial.to_error(connection_id, peer_id)
