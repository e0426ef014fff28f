"""Named, reversible replacements of py-libp2p's functions, for what stock has no hook for."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any, Protocol

__all__ = ["Hook", "Libp2pMismatch", "SharedHooks", "UnverifiedLibp2pWarning", "check_version"]

VERIFIED = ("0.8.1",)


class Libp2pMismatch(RuntimeError):
    """What a hook stands in for is not there, or not as in the libp2p it was written for."""


class UnverifiedLibp2pWarning(UserWarning):
    """This libp2p is newer than what the hooks were tried with."""


_warned: set[str] = set()


@functools.cache
def version(package: str) -> str:
    """What `importlib.metadata` says, read once."""
    return metadata.version(package)


def check_version(what: str) -> None:
    """Warn, once for each `what`, if `what` was not tried with the libp2p that is installed."""
    found = version("libp2p")
    if found not in VERIFIED and what not in _warned:
        _warned.add(what)
        warnings.warn(
            f"{what} was verified with libp2p {', '.join(VERIFIED)}, not with {found}",
            UnverifiedLibp2pWarning,
            stacklevel=3,
        )


class Hook:
    """`owner.attribute` is `make(original)` until `undo`.

    owner: a module, a class, or an object, whose own attribute then hides its class's.
    Hooks on one attribute may be undone in any order: one that is not on top hands every call on to
    what was there before it, and goes with those above it.

    Libp2pMismatch: the owner has no such callable; nothing has changed.
    """

    def __init__(
        self, owner: Any, attribute: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        where = f"{getattr(owner, '__qualname__', None) or type(owner).__qualname__}.{attribute}"
        check_version(f"the hook on {where}")
        original = getattr(owner, attribute, None)
        if not callable(original):
            raise Libp2pMismatch(
                f"there is no {where} to hook: written for libp2p {', '.join(VERIFIED)}, "
                f"found {version('libp2p')}"
            )
        self.active = True
        self._owner = owner
        self._attribute = attribute
        self._original = original
        self._inherited = attribute not in vars(owner)
        replacement = make(original)

        @functools.wraps(original)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            return (replacement if self.active else original)(*args, **kwargs)

        hooked.hook = self  # type: ignore[attr-defined]
        self._hooked = hooked
        setattr(owner, attribute, hooked)

    def undo(self) -> None:
        """Put back what was there; nothing happens the second time."""
        self.active = False
        if vars(self._owner).get(self._attribute) is not self._hooked:
            return
        if self._inherited:
            delattr(self._owner, self._attribute)
        else:
            setattr(self._owner, self._attribute, self._original)
        below = getattr(self._original, "hook", None)
        if isinstance(below, Hook) and not below.active:
            below.undo()


class Undoable(Protocol):
    def undo(self) -> None: ...


class SharedHooks:
    """Hooks for the whole process: in place once, as long as somebody wants them. Thread safe.

    place: puts them in place, one after the other.
    """

    def __init__(self, place: Callable[[], Iterable[Undoable]]) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._hooks: list[Undoable] = []
        self._wanted: set[object] = set()

    def want(self) -> Callable[[], None]:
        """They are in place until the result is called (again changes nothing), at least.

        Libp2pMismatch: one of them cannot be; then none is.
        """
        ticket = object()
        with self._lock:
            if not self._wanted:
                try:
                    for hook in self._place():
                        self._hooks.append(hook)
                except BaseException:
                    self._take_away()
                    raise
            self._wanted.add(ticket)

        def leave() -> None:
            with self._lock:
                self._wanted.discard(ticket)
                if not self._wanted:
                    self._take_away()

        return leave

    def _take_away(self) -> None:
        while self._hooks:
            self._hooks.pop().undo()
