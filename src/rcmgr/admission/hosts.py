"""Which host a connection belongs to, while several hosts share a manager."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable
from typing import Any
from weakref import ref

from rcmgr.counting.connection_tracker import ConnectionRecord, ConnectionTracker

__all__ = ["Hosts"]


class _Host:
    """A swarm, and the connections that it has reported."""

    def __init__(self, swarm: ref[Any] | None, connection_ids: Iterable[Hashable]) -> None:
        self._swarm = swarm
        self.connection_ids = set(connection_ids)  # with some that have ended

    @property
    def swarm(self) -> Any:
        return None if self._swarm is None else self._swarm()


class Hosts:
    """The hosts that report connections to one tracker, and the connections of each.

    Py-libp2p's swarm reconciles its connections, and then reports a new one in the same step. So
    the report belongs to the swarm that has just reconciled. As long as there is one swarm, every
    connection is its own, and nothing is kept here. Thread safe.

    An unknown caller owns the connections that no known swarm has. If it has ids, but the tracker
    knows none of them, they are another host's: then nothing is forgotten.
    """

    def __init__(self, tracker: ConnectionTracker) -> None:
        self._tracker = tracker
        self._only: ref[Any] | None = None  # the swarm, while there is one
        self._hosts: list[_Host] = []  # once there are several; the first one is no known swarm
        self._lock = threading.RLock()
        self._latest = threading.local()  # the host that has reconciled last in this thread

    @property
    def are_several(self) -> bool:
        return bool(self._hosts)

    def must_know_caller(self, live_ids: Collection[Hashable]) -> bool:
        """Whether `reconcile` must decide and not the tracker. It needs the calling swarm."""
        if self._hosts or self._only is None:
            return True
        return next(iter(live_ids), None) not in self._tracker

    def reconcile(
        self, swarm: Any, live_ids: Collection[Hashable], min_age_seconds: float
    ) -> int:
        """Forget the connections of this swarm that are not among its live ones.

        swarm: the caller; None: unknown. Returns how many. O(connections of this host) if there are
        several, otherwise as `ConnectionTracker.reconcile`.
        """
        with self._lock:
            if swarm is not None:
                self._learn(swarm)
            if self.are_several:
                self._drop_gone()
                return self._reconcile_one(self._of(swarm), live_ids, min_age_seconds)
        if swarm is None and live_ids and not any(each in self._tracker for each in live_ids):
            return 0
        return self._tracker.reconcile(live_ids, min_age_seconds)

    def note_report(self, connection_id: Hashable) -> None:
        """Give a reported connection to its host."""
        with self._lock:
            if not self.are_several:
                return
            for host in self._hosts:
                host.connection_ids.discard(connection_id)  # an ended one had the same id
            owner: _Host = getattr(self._latest, "host", self._hosts[0])
            self._latest.host = self._hosts[0]
            owner.connection_ids.add(connection_id)

    def end(self, nursery: Any) -> list[ConnectionRecord]:
        """Forget the connections of the swarm with this nursery, and return them."""
        with self._lock:
            only = None if self._only is None else self._only()
            if only is not None and not self.are_several:
                if getattr(only, "background_nursery", None) is not nursery:
                    return []
                self._only = None
                return self._forget(self._reported_ids())
            for host in self._hosts[1:]:
                if getattr(host.swarm, "background_nursery", None) is nursery:
                    self._hosts.remove(host)
                    return self._forget(host.connection_ids)
        return []

    def _learn(self, swarm: Any) -> None:
        try:
            found = ref(swarm)
        except TypeError:
            return
        only = None if self._only is None else self._only()
        if self.are_several:
            if self._of(swarm) is self._hosts[0]:
                self._hosts.append(_Host(found, ()))
        elif only is None:
            self._only = found
        elif only is not swarm:
            self._hosts = [
                _Host(None, ()), _Host(self._only, self._reported_ids()), _Host(found, ())]

    def _drop_gone(self) -> None:
        """Give the connections of swarms that are no more to unknown callers."""
        for host in [each for each in self._hosts[1:] if each.swarm is None]:
            self._hosts.remove(host)
            self._hosts[0].connection_ids |= host.connection_ids

    def _of(self, swarm: Any) -> _Host:
        found = (host for host in self._hosts[1:] if swarm is not None and host.swarm is swarm)
        return next(found, self._hosts[0])

    def _reported_ids(self) -> list[Hashable]:
        tracker = self._tracker
        return [
            each for ids in (tracker.established_inbound, tracker.established_outbound)
            for each in ids if self._is_reported(tracker.get_connection(each))
        ]

    @staticmethod
    def _is_reported(record: ConnectionRecord | None) -> bool:
        return record is not None and record.is_reported

    def _reconcile_one(
        self, host: _Host, live_ids: Collection[Hashable], min_age_seconds: float
    ) -> int:
        if not min_age_seconds >= 0:
            raise ValueError(f"min_age_seconds must be 0 or more, not {min_age_seconds}")
        self._latest.host = host
        if host is self._hosts[0] and live_ids and host.connection_ids.isdisjoint(live_ids):
            return 0
        oldest = self._tracker.now_ns - min_age_seconds * 1e9
        stale = host.connection_ids.difference(live_ids)
        young = set()
        for each in stale:
            record = self._tracker.get_connection(each)
            if record is not None and record.is_reported and record.since_ns > oldest:
                young.add(each)
        host.connection_ids -= stale - young
        return len(self._forget(stale - young))

    def _forget(self, connection_ids: Iterable[Hashable]) -> list[ConnectionRecord]:
        records = [self._tracker.get_connection(each) for each in connection_ids]
        return [
            record for record in records
            if record is not None and record.is_reported and self._tracker.remove(record)
        ]
