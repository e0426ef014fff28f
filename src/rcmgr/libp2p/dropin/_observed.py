"""py-libp2p's limits may be changed at any time by whoever holds them; ours are read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

__all__ = ["Observed"]


class Observed:
    """Tells of every change of its attributes. A copy is observed by nobody."""

    _observers: tuple[WeakMethod[Any], ...] = ()

    def observe(self, changed: Callable[[], None]) -> None:
        """Call `changed()`, a method, after every change, as long as its owner lives."""
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
