"""Live views of a tracker's connection ids and peers, and a snapshot of its counts."""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterable, Iterator, Mapping, Set, ValuesView
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["BypassView", "PeerView", "StateView", "TrackerSnapshot"]


class _Record(Protocol):
    @property
    def state(self) -> str: ...


class _Tracker(Protocol):
    """A ConnectionTracker, which makes these views and so is not imported here."""

    @property
    def _bypass(self) -> dict[Hashable, Hashable]: ...
    def get_connection(self, connection_id: Any) -> _Record | None: ...
    def get_connection_count(self, kind: str) -> int: ...
    def get_peer_connection_count(self, peer_id: Any) -> int: ...
    def is_bypassed(self, peer_id: Any) -> bool: ...
    def _ids_in(self, state: str) -> list[Hashable]: ...
    def _ids_of(self, peer_id: Hashable) -> set[Hashable]: ...
    def _peers_now(self) -> list[Hashable]: ...
    def _peer_count(self) -> int: ...


def _checked(tracker: Any) -> Any:
    if callable(getattr(tracker, "_ids_in", None)):
        return tracker
    raise TypeError(f"tracker must be a ConnectionTracker, not {tracker!r}")


class StateView(Set[Hashable]):
    """The connection ids in one state, live. `len` and `in` are O(1), iteration is O(all).

    state: the value of a ConnectionKind.
    """

    __slots__ = ("_state", "_tracker")

    def __init__(self, tracker: _Tracker, state: str) -> None:
        _checked(tracker).get_connection_count(state)  # ValueError: no such state
        self._tracker = tracker
        self._state = state

    @classmethod
    def _from_iterable(cls, ids: Iterable[Any]) -> set[Any]:
        return set(ids)

    def __len__(self) -> int:
        return self._tracker.get_connection_count(self._state)

    def __contains__(self, connection_id: object) -> bool:
        record = self._tracker.get_connection(connection_id)
        return record is not None and record.state == self._state

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._tracker._ids_in(self._state))

    def __repr__(self) -> str:
        return f"{self._state}({set(self)!r})"


class PeerView(Mapping[Hashable, set[Hashable]]):
    """Peer id -> the set of its established connection ids, live. The sets are copies.

    Iteration is over the peers of one moment. Connections may come and go meanwhile, in other
    threads too: `items` and `values` leave out peers that have no connection any more.
    """

    __slots__ = ("_tracker",)

    def __init__(self, tracker: _Tracker) -> None:
        self._tracker: _Tracker = _checked(tracker)

    def __len__(self) -> int:
        return self._tracker._peer_count()

    def __contains__(self, peer_id: object) -> bool:
        return self._tracker.get_peer_connection_count(peer_id) > 0

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._tracker._peers_now())

    def __getitem__(self, peer_id: Hashable) -> set[Hashable]:
        ids = self._tracker._ids_of(peer_id)
        if not ids:
            raise KeyError(peer_id)
        return ids

    def items(self) -> _PeerItems:
        return _PeerItems(self)

    def values(self) -> _PeerValues:
        return _PeerValues(self)

    def __repr__(self) -> str:
        return f"established_per_peer({dict(self.items())!r})"


class _PeerItems(ItemsView[Hashable, set[Hashable]]):
    __slots__ = ()
    _mapping: PeerView

    def __iter__(self) -> Iterator[tuple[Hashable, set[Hashable]]]:
        for peer in self._mapping:
            ids = self._mapping.get(peer)
            if ids is not None:
                yield peer, ids


class _PeerValues(ValuesView[set[Hashable]]):
    __slots__ = ()
    _mapping: PeerView

    def __iter__(self) -> Iterator[set[Hashable]]:
        for _, ids in self._mapping.items():
            yield ids


class BypassView(Set[Hashable]):
    """The bypassed peer ids, live, as they were given. `len` and `in` are O(1)."""

    __slots__ = ("_tracker",)

    def __init__(self, tracker: _Tracker) -> None:
        self._tracker: _Tracker = _checked(tracker)

    @classmethod
    def _from_iterable(cls, peers: Iterable[Any]) -> set[Any]:
        return set(peers)

    def __len__(self) -> int:
        return len(self._tracker._bypass)

    def __contains__(self, peer_id: object) -> bool:
        return self._tracker.is_bypassed(peer_id)

    def __iter__(self) -> Iterator[Hashable]:
        # a copy is one step, also where threads run at once
        return iter(self._tracker._bypass.copy().values())

    def __repr__(self) -> str:
        return f"bypass_peers({set(self)!r})"


@dataclass(frozen=True)
class TrackerSnapshot:
    """The tracker at one moment. Counts are connections. The peaks leave bypassed ones out.

    admitted: by state, how many connections ever entered it, with bypassed ones. denied: refusals
    by ConnectionLimitKind value; only kinds that have refused. oldest_pending_age: seconds; None:
    no connection is pending.
    """

    pending_inbound: int
    pending_outbound: int
    established_inbound: int
    established_outbound: int
    bypassed: int
    peers: int
    peak_pending_inbound: int
    peak_pending_outbound: int
    peak_pending_total: int
    peak_established_inbound: int
    peak_established_outbound: int
    peak_established_per_peer: int
    peak_established_total: int
    peak_connections: int
    total_created: int
    total_established: int
    total_closed: int
    total_denied: int
    admitted: dict[str, int]
    denied: dict[str, int]
    oldest_pending_age: float | None

    @property
    def pending_total(self) -> int:
        """Pending connections, both directions together."""
        return self.pending_inbound + self.pending_outbound

    @property
    def established_total(self) -> int:
        """Established connections, both directions together."""
        return self.established_inbound + self.established_outbound
