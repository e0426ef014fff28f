from collections.abc import Callable
from typing import Any, TypeVar, final

__all__ = ["Pacer", "in_order"]

_T = TypeVar("_T")

@final
class Pacer:
    @property
    def pauses(self) -> int: ...
    def step(self) -> int: ...

def in_order(items: list[_T], key: Callable[[_T], Any] | None = None) -> list[_T]: ...
