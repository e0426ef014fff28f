"""The handle on a connection that a swarm holds and closes."""

from __future__ import annotations

from collections.abc import Hashable
from types import TracebackType

from rcmgr.connection_tracker import ConnectionRecord, ConnectionTracker

__all__ = ["ConnectionScope"]


class ConnectionScope:
    """Holds a connection's slot until `close`, which gives it back exactly once.

    A scope opened before the handshake holds the pending slot: once the connection is established,
    closing this scope does nothing. A scope that is garbage-collected unclosed closes itself.
    Thread safe.
    """

    __slots__ = ("__weakref__", "_only_pending", "_record", "_tracker")

    def __init__(
        self, tracker: ConnectionTracker, record: ConnectionRecord, *, only_pending: bool
    ) -> None:
        self._tracker = tracker
        self._record = record
        self._only_pending = only_pending

    @property
    def connection_id(self) -> Hashable:
        return self._record.connection_id

    @property
    def peer_id(self) -> Hashable | None:
        """The peer; None before the handshake."""
        return self._record.peer_id

    @property
    def closed(self) -> bool:
        """Whether this scope holds nothing (any more)."""
        record = self._record
        return not (record.is_pending or (record.is_established and not self._only_pending))

    def close(self) -> None:
        """Give the slot back; nothing happens if it was given back or handed over before."""
        self._tracker.remove(self._record, only_pending=self._only_pending)

    def __enter__(self) -> ConnectionScope:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_only_pending"):  # else the constructor failed
            self.close()

    def __repr__(self) -> str:
        return f"ConnectionScope({self._record!r}{', closed' if self.closed else ''})"
