"""A `manager.graceful_degradation` that never lowers a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from libp2p.rcmgr.graceful_degradation import GracefulDegradation

from rcmgr.admission.host_watch import HostWatch

if TYPE_CHECKING:
    from rcmgr.manager import ResourceManager

__all__ = ["NoDegradation"]


class NoDegradation(HostWatch, GracefulDegradation):
    """Always reports level 0: a limit stays as it was set, however often it refuses."""

    max_degradation_levels = 0
    degradation_factor = 0.0
    degradation_level = 0

    def __init__(self, manager: ResourceManager) -> None:
        super().__init__(manager._host_stopped, manager._admission.room)
        self._manager = ref(manager)  # weak: the manager holds this object

    @property
    def rm(self) -> Any:  # type: ignore[override]
        """The manager."""
        return self._manager()

    @property
    def original_limits(self) -> Any:  # type: ignore[override]
        """The current limits."""
        return self.rm.limits

    def handle_resource_exhaustion(self, resource_type: str) -> bool:
        """False: nothing was changed."""
        return False

    def reset(self) -> None:
        """Do nothing."""

    async def run_periodic_recovery(self, interval: float = 30.0) -> None:
        """Wait for the host's end, and do nothing else."""
        await super().run_periodic_recovery()
