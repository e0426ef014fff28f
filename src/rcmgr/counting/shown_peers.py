"""The peers of a snapshot."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, NoReturn, Protocol

from rcmgr.counting.pacing import paced

__all__ = ["ShownPeers"]

_Row = dict[str, Any]
_Place = tuple[int, int]


class _Rows(Protocol):
    def __len__(self) -> int: ...
    def places(self) -> Iterator[tuple[str, _Place]]: ...
    def row(self, number: int, at: int) -> _Row: ...


class ShownPeers(dict[str, _Row]):
    """The text of a peer -> what it held at one moment. It cannot change.

    It makes a row when a caller asks for it: 100,000 rows at once would stop the other threads of a
    node. It is a dict because `json.dumps` takes no other mapping. The first look-up takes 10 to
    20 us for each peer, the next ones 3 us.
    """

    __slots__ = ("_place_of", "_rows")

    def __init__(self, rows: _Rows) -> None:
        # json looks at the items of a dict only if its own table is not empty
        dict.__setitem__(self, "", {})
        self._rows = rows
        self._place_of: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (text for text, _ in self._rows.places())

    def __getitem__(self, text: str) -> _Row:
        if not self._place_of:
            self._place_of = dict(paced(self._rows.places()))
        return self._rows.row(*self._place_of[text])

    def __contains__(self, text: object) -> bool:
        return self.get(text) is not None

    def get(self, text: Any, default: Any = None) -> Any:
        try:
            return self[text]
        except KeyError:
            return default

    def __eq__(self, other: object) -> bool:
        return self.copy() == (other.copy() if isinstance(other, ShownPeers) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self))

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return KeysView(self)

    def items(self) -> ItemsView[str, _Row]:  # type: ignore[override]
        return _Items(self)

    def values(self) -> ValuesView[_Row]:  # type: ignore[override]
        return _Values(self)

    def copy(self) -> dict[str, _Row]:
        return dict(self.items())

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __reduce__(self) -> tuple[type[dict[str, _Row]], tuple[dict[str, _Row]]]:
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        return repr(self.copy())

    def _unchanged(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a snapshot cannot change: change a copy, dict(peers)")

    __setitem__ = __delitem__ = __ior__ = _unchanged
    clear = pop = popitem = setdefault = update = _unchanged


class _Items(ItemsView[str, _Row]):
    __slots__ = ()
    _mapping: ShownPeers

    def __iter__(self) -> Iterator[tuple[str, _Row]]:
        rows = self._mapping._rows
        return ((text, rows.row(*place)) for text, place in rows.places())


class _Values(ValuesView[_Row]):
    __slots__ = ()
    _mapping: ShownPeers

    def __iter__(self) -> Iterator[_Row]:
        return (row for _, row in self._mapping.items())
