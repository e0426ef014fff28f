"""Live views with the operators and the named methods of a set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rcmgr.libp2p.dropin._named_sets import MutableNamedSet, NamedSet


class View(NamedSet):
    def __init__(self, entries: set[str]) -> None:
        self._entries = entries

    def __contains__(self, entry: Any) -> bool:
        return entry in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class MutableView(View, MutableNamedSet):
    def add(self, entry: Any) -> None:
        self._entries.add(entry)

    def discard(self, entry: Any) -> None:
        self._entries.discard(entry)


@pytest.mark.parametrize("kind", [View, MutableView])
def test_results_are_plain_sets_and_the_view_is_live(kind: type[View]) -> None:
    entries = {"a", "b"}
    view = kind(entries)
    other = ["b", "c"]
    results = [
        view.copy(), view.difference(other), view.intersection(other), view.union(other),
        view.symmetric_difference(other), view | {"c"}, view & {"b"}, view - {"b"},
    ]
    assert {type(each) for each in results} == {set}
    assert results == [
        {"a", "b"}, {"a"}, {"b"}, {"a", "b", "c"}, {"a", "c"}, {"a", "b", "c"}, {"b"}, {"a"}]
    assert view.issubset("abc")
    assert view.issuperset("a")
    assert view == {"a", "b"}
    entries.clear()
    assert repr(view) == "set()"
    assert results[0] == {"a", "b"}


def test_a_read_only_view_has_no_method_that_changes_it() -> None:
    for name in ("add", "update", "clear", "remove", "difference_update"):
        with pytest.raises(AttributeError, match=f"'View' object has no attribute '{name}'"):
            getattr(View(set()), name)


def test_a_mutable_view_changes_what_it_shows() -> None:
    entries = {"a", "b"}
    view = MutableView(entries)
    view.update("cd", "e")
    assert entries == set("abcde")
    view.difference_update("a", "b")
    assert entries == set("cde")
    view.intersection_update("cdx", "cy")
    assert entries == {"c"}
    view.symmetric_difference_update("cd")
    assert entries == {"d"}
    view.remove("d")
    view.clear()
    assert entries == set()
