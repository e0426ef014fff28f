"""pending -> established -> closed, with the limits applied at each step."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

from rcmgr.connection_limits import ConnectionLimits
from rcmgr.connection_tracker import ConnectionTracker, Denial
from rcmgr.denials import DenialLog
from rcmgr.handover import Handover

__all__ = ["ConnectionLifecycleManager"]


class ConnectionLifecycleManager:
    """Applies `limits` to the connections of `tracker` as a swarm reports their lives.

    The `handle_...` coroutines never suspend: the decision is made, and everything taken, within
    the call, so that a cancellation cannot come halfway. A denial raises ConnectionLimitExceeded
    (py-libp2p's ResourceLimitExceeded) and takes nothing; a denied establishment also ends the
    pending state.

    limits may be replaced at any time and then holds for new connections.
    denials: where denials are noted; by default a log of its own.
    handover: how it learns of connections that a manager's scopes hold already; by default none.

    Addresses and errors are accepted for the callers' sake; no limit depends on them. Every call is
    O(1) and thread safe.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        limits: ConnectionLimits,
        *,
        denials: DenialLog | None = None,
        handover: Handover | None = None,
    ) -> None:
        if not isinstance(limits, ConnectionLimits):
            raise TypeError(f"limits must be a ConnectionLimits, not {limits!r}")
        self.tracker = tracker
        self.limits = limits
        self.denials = DenialLog() if denials is None else denials
        self._handover = handover

    async def handle_pending_inbound_connection(
        self, connection_id: Hashable, local_addr: Any = None, remote_addr: Any = None
    ) -> None:
        """A connection was accepted and its handshake begins.

        ConnectionLimitExceeded: refused. ValueError: the id is established, or pending outbound.
        """
        denial = self.tracker.admit_pending_inbound(connection_id, self.limits)
        if denial is not None:
            self._deny(denial, connection_id, None)

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
        denial = self.tracker.admit_pending_outbound(connection_id, self.limits, peer_id)
        if denial is not None:
            self._deny(denial, connection_id, peer_id)

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
        self._establish(connection_id, peer_id, True)

    async def handle_established_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        endpoint: Any = None,
    ) -> None:
        """A dial succeeded; see `handle_established_inbound_connection`."""
        self._establish(connection_id, peer_id, False)

    async def handle_connection_closed(
        self, connection_id: Hashable, peer_id: Hashable | None = None
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
        self, connection_id: Hashable, peer_id: Hashable | None = None
    ) -> None:
        """`handle_connection_closed` for synchronous callers; py-libp2p's swarm is one."""
        self.tracker.remove_connection(connection_id, peer_id)

    def reconcile_live_connections(
        self, live_ids: Collection[Hashable], min_age_seconds: float = 30.0
    ) -> int:
        """Forget established connections that are not among the swarm's; how many there were.

        py-libp2p's swarm calls this whenever it adds a connection. live_ids: all ids it has (a
        set). min_age_seconds: younger connections are left alone. O(1) unless something may be
        stale; see `ConnectionTracker.reconcile`.
        """
        return self.tracker.reconcile(live_ids, min_age_seconds)

    def _establish(self, connection_id: Hashable, peer_id: Hashable, inbound: bool) -> None:
        tracker = self.tracker
        handover = self._handover
        pending = None
        if handover is not None and connection_id not in tracker:
            opened = handover.take_established(peer_id, inbound, claimed=False)
            if opened is not None:
                tracker.rename(opened, connection_id)
                return
            pending = handover.take_pending(inbound)
        admit = (
            tracker.admit_established_inbound if inbound else tracker.admit_established_outbound
        )
        try:
            denial = admit(
                connection_id if pending is None else pending.connection_id, peer_id, self.limits
            )
        except ValueError:
            if self._is_established(connection_id, peer_id, inbound):
                return
            raise
        if denial is not None:
            self._deny(denial, connection_id, peer_id)
        if pending is not None:
            tracker.rename(pending, connection_id)
        if handover is not None:
            record = tracker.get_connection(connection_id)
            if record is not None:
                handover.offer_established(record)

    def _is_established(self, connection_id: Hashable, peer_id: Hashable, inbound: bool) -> bool:
        tracker = self.tracker
        view = tracker.established_inbound if inbound else tracker.established_outbound
        return connection_id in view and connection_id in tracker.established_per_peer.get(
            peer_id, ()
        )

    def _end_pending(self, connection_id: Hashable) -> None:
        record = self.tracker.get_connection(connection_id)
        if record is not None:
            self.tracker.remove(record, only_pending=True)

    def _deny(self, denial: Denial, connection_id: Hashable, peer_id: Hashable | None) -> None:
        self.denials.add(denial.to_error, connection_id, peer_id)
        raise denial.to_error(connection_id, peer_id)
