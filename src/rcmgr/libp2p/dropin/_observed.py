"""Objects of limits that report every change: py-libp2p's may change at any time, ours never do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

__all__ = ["Observed"]


class Observed:
    """Calls its observers after every change of an attribute. A copy has no observers."""

    _observers: tuple[WeakMethod[Any], ...] = ()

    def observe(self, changed: Callable[[], None]) -> None:
        """Call the method `changed` after every change, as long as its object lives."""
        alive = [each for each in self._observers if each() is not None]
        vars(self)["_observers"] = (*alive, WeakMethod(changed))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        for observer in self._observers:
            changed = observer()
            if changed is not None:
                changed()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_observers"}
