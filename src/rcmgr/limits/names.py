"""Suggestions for misspelt names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar

__all__ = ["suggestion", "suggests_arguments"]

_T = TypeVar("_T")


def suggestion(name: str, known: Iterable[str]) -> str:
    """"did you mean 'conns'?", or "" if no known name is like this one. Case does not count."""
    import difflib  # only an error needs it

    folded = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), folded, 1, 0.6)
    return f"did you mean {folded[close[0]]!r}?" if close else ""


def suggests_arguments(cls: type[_T]) -> type[_T]:
    """A decorator of a class: its constructor suggests a name for an unknown argument."""
    create: Any = cls.__init__
    known = list(inspect.signature(create).parameters)[1:]

    @functools.wraps(create)
    def suggest_or_create(self: _T, /, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in known:
                hint = suggestion(name, known) or f"known are {', '.join(known)}"
                raise TypeError(f"{cls.__name__} has no argument {name!r}; {hint}")
        create(self, *args, **kwargs)

    cls.__init__ = suggest_or_create  # type: ignore[method-assign,assignment]
    return cls
