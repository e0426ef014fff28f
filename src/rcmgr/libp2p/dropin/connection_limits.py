"""Our `ConnectionLimits` behind the names of `libp2p.rcmgr.connection_limits` 0.8.1."""

from __future__ import annotations

from typing import Any

from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits

from rcmgr.libp2p.dropin._observed import Observed
from rcmgr.limits.checks import check_limit
from rcmgr.limits.states import ConnectionLimits as OurLimits

__all__ = ["ConnectionLimits"]


class ConnectionLimits(Observed, StockLimits):
    """Limits by connection state. An attribute or a `with_...` method changes them at any time.

    A change holds at once in every manager that has these limits. A limit is a number of
    connections, or None: no limit. TypeError, ValueError: it is neither; nothing has changed.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NAMES:
            check_limit(name, value)
        super().__setattr__(name, value)

    @classmethod
    def of(cls, limits: Any) -> ConnectionLimits:
        """An object of this class as it is, or a copy of other limits by state."""
        if isinstance(limits, cls):
            return limits
        try:
            return cls(**{name: getattr(limits, name) for name in _NAMES})
        except AttributeError as error:
            raise TypeError(f"limits must be ConnectionLimits, not {limits!r}") from error

    def frozen(self) -> OurLimits:
        """The current values, as an immutable `rcmgr.ConnectionLimits`."""
        return OurLimits(**self.to_dict())

    def to_dict(self) -> dict[str, int | None]:
        """All limits by name."""
        return self.get_limits_summary()


_NAMES = frozenset(OurLimits().to_dict())
