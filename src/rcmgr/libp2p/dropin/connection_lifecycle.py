"""Our lifecycle manager behind the names of `libp2p.rcmgr.connection_lifecycle` 0.8.1."""

from __future__ import annotations

import copy
from typing import Any, cast

from rcmgr.admission.lifecycle import ConnectionLifecycleManager as OurLifecycle
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker

__all__ = ["ConnectionLifecycleManager"]


class ConnectionLifecycleManager(OurLifecycle):
    """`rcmgr.ConnectionLifecycleManager` with py-libp2p's methods: one step decides and takes.

    limits: `ConnectionLimits`, whose later changes apply too. Objects made before `install()`, and
        `rcmgr.ConnectionLimits`, are copied.
    """

    def __init__(self, tracker: ConnectionTracker, limits: Any) -> None:
        if not isinstance(tracker, ConnectionTracker):
            raise TypeError(f"tracker must be a ConnectionTracker, not {tracker!r}")
        super().__init__(tracker, limits)

    @property
    def tracker(self) -> ConnectionTracker:
        return cast(ConnectionTracker, self._admission.tracker)

    @property
    def limits(self) -> Any:
        return self._given

    @limits.setter
    def limits(self, limits: Any) -> None:
        self._given = ConnectionLimits.of(limits)
        self._given.observe(self._apply_limits)
        self._apply_limits()

    def _apply_limits(self) -> None:
        self._admission.limits = self._given.frozen()

    def get_connection_stats(self) -> dict[str, Any]:
        """`ConnectionTracker.get_stats`."""
        return self.tracker.get_stats()

    def get_limits_summary(self) -> dict[str, int | None]:
        """All limits by name."""
        return self._given.get_limits_summary()

    def __eq__(self, other: object) -> bool:
        """Whether the other one has the same tracker and equal limits."""
        return (
            isinstance(other, ConnectionLifecycleManager)
            and self.tracker is other.tracker
            and self.limits == other.limits
        )

    def __hash__(self) -> int:
        return hash(id(self.tracker))

    def __deepcopy__(self, memo: dict[int, Any]) -> ConnectionLifecycleManager:
        """With copies of the limits and of the tracker."""
        limits = copy.deepcopy(self._given, memo)
        tracker = copy.deepcopy(self.tracker, memo)
        tracker.limits = limits
        return ConnectionLifecycleManager(tracker, limits)

    def __repr__(self) -> str:
        return f"ConnectionLifecycleManager(tracker={self.tracker}, limits={self.limits})"
