"""Which calls of py-libp2p's swarm are about the same connection.

For one connection the swarm asks up to three times: `open_connection(None, ...)` before the
handshake, `open_connection(peer, ...)` after it, and the lifecycle handler of its `add_conn`. No
call carries anything that names the connection to the others, but the swarm makes them one after
the other in one task. So what the next call needs is kept in a context variable: each task sees
only its own.

TCP, WebSocket: pending, open(peer), lifecycle. QUIC: (outbound: pending), lifecycle, open(peer).
"""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import ContextVar
from typing import Any

from rcmgr.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.connection_limits import ConnectionLimits
from rcmgr.connection_tracker import ConnectionRecord, ConnectionTracker
from rcmgr.denials import DenialLog
from rcmgr.peers import peer_key

__all__ = ["Handover", "HostLifecycle"]

# The record on top; the stack below it; how many may be put on top before ended ones are dropped.
_Stack = tuple[ConnectionRecord, Any, int] | None
_ROOM = 16

# Pending connections that this task opened, the latest first, of all managers.
_pending: ContextVar[_Stack] = ContextVar("rcmgr_pending", default=None)
# The connection this task established last, if one of scope and swarm does not know it yet.
_established: ContextVar[ConnectionRecord | None] = ContextVar("rcmgr_established", default=None)


class Handover:
    """Passes a tracker's connections from one call of a task to the next."""

    def __init__(self, tracker: ConnectionTracker) -> None:
        self._tracker = tracker

    def offer_pending(self, record: ConnectionRecord) -> None:
        """The handshake of `record` begins in this task."""
        stack = _still_pending(_pending.get())
        room = _ROOM if stack is None else stack[2] - 1
        if room < 0:
            stack, room = _without_ended(stack)
        _pending.set((record, stack, room))
        _established.set(None)

    def take_pending(self, inbound: bool) -> ConnectionRecord | None:
        """The connection whose handshake this task has under way, if it has that direction."""
        stack = _still_pending(_pending.get())
        _pending.set(stack)
        while stack is not None:
            record, stack, _ = stack
            if record.is_pending and self._tracker.holds(record):
                return record if record.is_inbound == inbound else None
        return None

    def offer_established(self, record: ConnectionRecord) -> None:
        """`record` was established for a scope, or for the swarm: the other one asks next."""
        _established.set(record)

    def take_established(
        self, peer_id: Hashable, inbound: bool, *, claimed: bool
    ) -> ConnectionRecord | None:
        """What this task established just before, if it is of that peer and direction.

        claimed: one that the swarm knows already (and has no scope yet); else one that only has a
        scope yet.
        """
        record = _established.get()
        if record is None:
            return None
        _established.set(None)
        if (
            record.is_claimed != claimed
            or record.is_inbound != inbound
            or peer_key(record.peer_id) != peer_key(peer_id)
            or not self._tracker.holds(record)
        ):
            return None
        return record


def _still_pending(stack: _Stack) -> _Stack:
    while stack is not None and not stack[0].is_pending:
        stack = stack[1]
    return stack


def _without_ended(stack: _Stack) -> tuple[_Stack, int]:
    """Also those further down; as much room as is left in it, so that the cost is O(1) amortised.

    Without this, a task whose handshakes overlap for ever would remember all of them.
    """
    pending = []
    while stack is not None:
        record, stack, _ = stack
        if record.is_pending:
            pending.append(record)
    room = max(_ROOM, len(pending))
    for record in reversed(pending):
        stack = (record, stack, room)
    return stack, room


class HostLifecycle(ConnectionLifecycleManager):
    """The lifecycle of a host whose connections may have scopes, or get them right afterwards."""

    def __init__(
        self,
        tracker: ConnectionTracker,
        limits: ConnectionLimits,
        *,
        denials: DenialLog,
        handover: Handover,
    ) -> None:
        super().__init__(tracker, limits, denials=denials)
        self._handover = handover

    async def handle_established_inbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        remote_addr: Any = None,
    ) -> None:
        new = connection_id not in self.tracker
        if new and self._take_over(connection_id, peer_id, inbound=True):
            return
        await super().handle_established_inbound_connection(connection_id, peer_id)
        if new:
            self._offer(connection_id)

    async def handle_established_outbound_connection(
        self,
        connection_id: Hashable,
        peer_id: Hashable,
        local_addr: Any = None,
        endpoint: Any = None,
    ) -> None:
        new = connection_id not in self.tracker
        if new and self._take_over(connection_id, peer_id, inbound=False):
            return
        await super().handle_established_outbound_connection(connection_id, peer_id)
        if new:
            self._offer(connection_id)

    def _take_over(self, connection_id: Hashable, peer_id: Hashable, *, inbound: bool) -> bool:
        """True: a scope has established it. Else a pending one, if any, gets the id."""
        established = self._handover.take_established(peer_id, inbound, claimed=False)
        if established is not None:
            return self.tracker.rename(established, connection_id)
        pending = self._handover.take_pending(inbound)
        if pending is not None:
            self.tracker.rename(pending, connection_id)
        return False

    def _offer(self, connection_id: Hashable) -> None:
        record = self.tracker.get_connection(connection_id)
        if record is not None:
            self._handover.offer_established(record)
