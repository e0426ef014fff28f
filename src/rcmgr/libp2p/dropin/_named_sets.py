"""Live views that stand in for sets, with the operators and the named methods of `set`."""

from __future__ import annotations

from collections.abc import Iterable, MutableSet, Set
from typing import Any

__all__ = ["MutableNamedSet", "NamedSet"]

_READING = frozenset({
    "copy", "difference", "intersection", "issubset", "issuperset", "symmetric_difference", "union",
})


class NamedSet(Set[Any]):
    """A read-only view. The results of its methods are plain sets."""

    __slots__ = ()

    @classmethod
    def _from_iterable(cls, entries: Iterable[Any]) -> Any:
        return set(entries)

    def __getattr__(self, name: str) -> Any:
        if name in _READING:
            return getattr(set(self), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return repr(set(self))


class MutableNamedSet(NamedSet, MutableSet[Any]):
    """A view that can be changed."""

    __slots__ = ()

    def update(self, *others: Iterable[Any]) -> None:
        for entry in set().union(*others):
            self.add(entry)

    def difference_update(self, *others: Iterable[Any]) -> None:
        for entry in set().union(*others):
            self.discard(entry)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        self &= set(self).intersection(*others)

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        self ^= set(other)
