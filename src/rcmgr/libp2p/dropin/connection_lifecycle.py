"""Our lifecycle manager behind the names of `libp2p.rcmgr.connection_lifecycle` 0.8.1."""

from __future__ import annotations

import copy
from typing import Any

from rcmgr.admission.admission import Intake
from rcmgr.admission.host_lifecycle import HostLifecycle as OurHostLifecycle
from rcmgr.admission.lifecycle import ConnectionLifecycleManager as OurLifecycle
from rcmgr.counting.denials import DenialLog
from rcmgr.gates.addresses import Allowlist
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker

__all__ = ["ConnectionLifecycleManager", "HostLifecycle"]


class ConnectionLifecycleManager(OurLifecycle):
    """Applies limits to a tracker's connections: `rcmgr.ConnectionLifecycleManager`, which asks and
    takes in one step, with py-libp2p's methods.

    limits: `ConnectionLimits`, heeded as they are at the moment; those made before `install()`, and
        `rcmgr.ConnectionLimits`, are copied.
    """

    tracker: ConnectionTracker

    def __init__(self, tracker: ConnectionTracker, limits: Any) -> None:
        if not isinstance(tracker, ConnectionTracker):
            raise TypeError(f"tracker must be a ConnectionTracker, not {tracker!r}")
        super().__init__(tracker, limits)

    @property
    def limits(self) -> Any:
        return self._given

    @limits.setter
    def limits(self, limits: Any) -> None:
        self._given = ConnectionLimits.of(limits)
        self._given.observe(self._heed)
        self._heed()

    def _heed(self) -> None:
        self._limits = self._given.frozen()

    def get_connection_stats(self) -> dict[str, Any]:
        """`ConnectionTracker.get_stats`."""
        return self.tracker.get_stats()

    def get_limits_summary(self) -> dict[str, int | None]:
        """All limits by name."""
        return self._given.get_limits_summary()

    def __eq__(self, other: object) -> bool:
        """The very same tracker, and equal limits."""
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


class HostLifecycle(ConnectionLifecycleManager, OurHostLifecycle):
    """That of a `ResourceManager`, whose connections have scopes as well."""

    def __init__(
        self,
        tracker: ConnectionTracker,
        *,
        intake: Intake,
        denials: DenialLog,
        allowlist: Allowlist,
    ) -> None:
        OurHostLifecycle.__init__(
            self, tracker, intake=intake, denials=denials, allowlist=allowlist)

    __hash__ = ConnectionLifecycleManager.__hash__

