"""`ConnectionLimits` of libp2p.rcmgr, whose later changes hold."""

from __future__ import annotations

from typing import Any

from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits

from rcmgr.libp2p.dropin._observed import Observed
from rcmgr.limits.checks import check_limit
from rcmgr.limits.states import ConnectionLimits as OurLimits

__all__ = ["ConnectionLimits"]


class ConnectionLimits(Observed, StockLimits):
    """Limits by connection state that may be changed at any time, by setting them or `with_...`.

    Changes hold for what is asked from then on, wherever they were given. Each limit is a number of
    connections, or None: no limit. TypeError, ValueError: it is neither; nothing has changed.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NAMES:
            check_limit(name, value)
        super().__setattr__(name, value)

    @classmethod
    def of(cls, limits: Any) -> ConnectionLimits:
        """The very limits if they are such; a copy of py-libp2p's own, or of ours."""
        if isinstance(limits, cls):
            return limits
        try:
            return cls(**{name: getattr(limits, name) for name in _NAMES})
        except AttributeError as error:
            raise TypeError(f"limits must be ConnectionLimits, not {limits!r}") from error

    def frozen(self) -> OurLimits:
        """As they are now, the way that counters take them."""
        return OurLimits(**self.to_dict())

    def to_dict(self) -> dict[str, int | None]:
        """All limits by name."""
        return self.get_limits_summary()


_NAMES = frozenset(OurLimits().to_dict())
