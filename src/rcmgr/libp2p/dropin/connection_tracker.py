"""Our connection tracker behind the names of `libp2p.rcmgr.connection_tracker` 0.8.1."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from itertools import chain
from typing import Any

from libp2p.rcmgr.connection_tracker import ConnectionInfo

from rcmgr.counting.connection_tracker import ConnectionTracker as OurTracker
from rcmgr.counting.tracker_views import BypassView, StateView
from rcmgr.libp2p.dropin._named_sets import MutableNamedSet, NamedSet
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits

__all__ = ["ConnectionTracker"]


class _Ids(NamedSet, StateView):
    __slots__ = ()


class _Peers(MutableNamedSet, BypassView):
    __slots__ = ()
    _tracker: OurTracker

    def add(self, peer: Hashable) -> None:
        self._tracker.add_bypass_peer(peer)

    def discard(self, peer: Hashable) -> None:
        self._tracker.remove_bypass_peer(peer)


class ConnectionTracker(OurTracker):
    """Connections by state and by peer: `rcmgr.ConnectionTracker` with py-libp2p's methods.

    The sets are live views. Only `bypass_peers` may be written. An id is in one set at a time. If
    it comes again, in another state or for another peer, it names a new connection, and the old
    connection has ended. An unknown id ends nothing.

    limits: an attribute for readers; the tracker never applies it. Default no limit.
    bypass: the bypassed peers, if an allowlist keeps them. Then `clear` leaves them alone, and an
        id in use is a ValueError.

    O(1), except for `get_all_connections`, copies and comparisons. Thread safe.
    """

    def __new__(
        cls, limits: Any = None, *, bypass: dict[Hashable, Hashable] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> ConnectionTracker:
        return super().__new__(cls, bypass=bypass, reuse_ids=bypass is None, clock=clock)

    def __init__(
        self, limits: Any = None, *, bypass: dict[Hashable, Hashable] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.limits = ConnectionLimits() if limits is None else limits
        self._clears_bypass = bypass is None
        self._epoch_ns = time.time_ns() - self.now_ns

    @property
    def pending_inbound(self) -> NamedSet:
        return _Ids(self, "pending_inbound")

    @property
    def pending_outbound(self) -> NamedSet:
        return _Ids(self, "pending_outbound")

    @property
    def established_inbound(self) -> NamedSet:
        return _Ids(self, "established_inbound")

    @property
    def established_outbound(self) -> NamedSet:
        return _Ids(self, "established_outbound")

    @property
    def bypass_peers(self) -> MutableNamedSet:
        return _Peers(self)

    def get_connection_info(self, connection_id: Hashable) -> ConnectionInfo | None:
        """The current state of a connection. None: unknown.

        Its times are seconds as of `time.time()`. Both are the start of its current state.
        """
        record = self.get_connection(connection_id)
        if record is None:
            return None
        state, _, direction = record.state.partition("_")
        if not direction:  # it has just ended
            return None
        since = (self._epoch_ns + record.since_ns) / 1e9
        return ConnectionInfo(
            record.connection_id,  # type: ignore[arg-type]
            record.peer_id,  # type: ignore[arg-type]
            direction,
            state,
            since,
            since if state == "established" else None,
        )

    def get_all_connections(self) -> list[ConnectionInfo]:
        """All connections, as `get_connection_info` returns them. O(connections)."""
        # pending ones first, to find a connection that is established in the meantime
        ids = dict.fromkeys(chain(
            self.pending_inbound, self.pending_outbound,
            self.established_inbound, self.established_outbound,
        ))
        return [info for each in ids if (info := self.get_connection_info(each)) is not None]

    def get_stats(self) -> dict[str, Any]:
        """Counts now, totals and peaks. Only the peaks leave out bypassed connections."""
        now = self.snapshot()
        return {
            "total_connections_created": now.total_created,
            "total_connections_established": now.total_established,
            "total_connections_closed": now.total_closed,
            "peak_pending_inbound": now.peak_pending_inbound,
            "peak_pending_outbound": now.peak_pending_outbound,
            "peak_established_inbound": now.peak_established_inbound,
            "peak_established_outbound": now.peak_established_outbound,
            "current_pending_inbound": now.pending_inbound,
            "current_pending_outbound": now.pending_outbound,
            "current_established_inbound": now.established_inbound,
            "current_established_outbound": now.established_outbound,
            "current_established_total": now.established_total,
            "current_peers_with_connections": now.peers,
            "bypass_peers_count": len(self.bypass_peers),
        }

    def clear(self) -> None:
        """Forget all connections, which count as closed, and all bypasses."""
        super().clear()
        if self._clears_bypass:
            self.bypass_peers.clear()

    def __eq__(self, other: object) -> bool:
        """Whether the other one has the same limits, connections and bypasses."""
        return isinstance(other, ConnectionTracker) and self._compared() == other._compared()

    def __hash__(self) -> int:
        # equal trackers need equal hashes, and a hash must not change with the use
        return hash(ConnectionTracker)

    def _compared(self) -> tuple[Any, ...]:
        return (
            self.limits, self.pending_inbound, self.pending_outbound, self.established_inbound,
            self.established_outbound, self.established_per_peer, self.bypass_peers,
        )

    def __copy__(self) -> ConnectionTracker:
        """A separate tracker with the same connections. Its times, totals and peaks begin now."""
        copied = ConnectionTracker(self.limits)
        copied.bypass_peers.update(self.bypass_peers)
        for each in self.get_all_connections():
            if each.is_pending:
                add = copied.add_pending_inbound if each.is_inbound else copied.add_pending_outbound
                add(each.connection_id, each.peer_id)
            elif each.is_inbound:
                copied.move_to_established_inbound(each.connection_id, each.peer_id)
            else:
                copied.move_to_established_outbound(each.connection_id, each.peer_id)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> ConnectionTracker:
        return self.__copy__()
