"""Named, reversible replacements of py-libp2p's functions, where it offers no hook."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib import metadata
from typing import Any

from rcmgr.extras import require

__all__ = [
    "Hook",
    "Libp2pMismatch",
    "SharedHooks",
    "Undo",
    "UnverifiedLibp2pWarning",
    "check_version",
    "hook_new",
    "place_all",
]

VERIFIED = ("0.8.1",)
Undo = Callable[[], None]


class Libp2pMismatch(RuntimeError):
    """py-libp2p lacks what a hook replaces, or differs from the release it was written for."""


class UnverifiedLibp2pWarning(UserWarning):
    """Our tests did not cover the installed release of libp2p."""


_warned: set[str] = set()


@functools.cache
def version(package: str) -> str:
    """The installed version of a package. Read once."""
    return metadata.version(package)


def check_version(what: str) -> None:
    """Warn, once for each `what`, if it was not tested with the installed libp2p.

    ImportError: libp2p is not installed; it says how to install it.
    """
    require("libp2p", what, "libp2p")
    found = version("libp2p")
    if found not in VERIFIED and what not in _warned:
        _warned.add(what)
        warnings.warn(
            f"{what} was verified with libp2p {', '.join(VERIFIED)}, not with {found}",
            UnverifiedLibp2pWarning,
            stacklevel=3,
        )


class Hook:
    """`owner.attribute(...)` calls `call(original, ...)` with the same arguments, until `undo`.

    owner: a module, a class, or an object. An object then hides its class's attribute with its own.
    A program may undo several hooks on one attribute in any order. A hook below others only passes
    calls through after `undo`, and goes away together with those above it.

    Libp2pMismatch: the owner has no such callable; nothing has changed.
    """

    def __init__(self, owner: Any, attribute: str, call: Callable[..., Any]) -> None:
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

        @functools.wraps(original)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            return call(original, *args, **kwargs) if self.active else original(*args, **kwargs)

        hooked.hook = self  # type: ignore[attr-defined]
        self._hooked = hooked
        setattr(owner, attribute, hooked)

    def undo(self) -> None:
        """Put the original back. A second call does nothing."""
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


def hook_new(kind: type, call: Callable[[Any], None]) -> Hook:
    """Call `call(instance)` for every new instance of a class, after its `__init__`."""

    def init(original: Callable[..., None], instance: Any, *args: Any, **kwargs: Any) -> None:
        original(instance, *args, **kwargs)
        call(instance)

    return Hook(kind, "__init__", init)


def place_all(placing: Iterable[Undo]) -> Undo:
    """Place hooks together; the result removes them, the last one first.

    placing: each step places one hook and gives the function that removes it. If a step fails,
        this removes the hooks before it.
    """
    with ExitStack() as placed:
        for undo in placing:
            placed.callback(undo)
        return placed.pop_all().close


class SharedHooks:
    """Places hooks for the first of several users, and removes them after the last. Thread safe.

    placing: the steps for `place_all`.
    """

    def __init__(self, placing: Callable[[], Iterable[Undo]]) -> None:
        self._placing = placing
        self._lock = threading.Lock()
        self._users: set[object] = set()
        self._undo: Undo | None = None

    def use(self) -> Undo:
        """Add a user; the result removes it, and does nothing the second time.

        Libp2pMismatch: a hook cannot be placed; then none is in place.
        """
        user = object()
        with self._lock:
            if self._undo is None:
                self._undo = place_all(self._placing())
            self._users.add(user)

        def leave() -> None:
            with self._lock:
                self._users.discard(user)
                if not self._users:
                    self._remove()

        return leave

    def _remove(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()
