"""What time it is, for limiters whose callers may say so."""

from __future__ import annotations

import time
from math import isfinite

__all__ = ["SteadyClock"]


class SteadyClock:
    """Seconds on the scale of `time.time()`, but by the monotonic clock from its making on.

    So it does not follow when the system's clock is set. A time that a caller gives counts as it
    is, and if it is ahead, this clock goes on from there: what one call was given does not make
    time stand still for those that are given none. Thread safe.
    """

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def time(self, given: float | None = None) -> float:
        """`given`, or now. ValueError: not finite."""
        if given is None:
            return time.monotonic() + self._ahead
        if not isfinite(given):
            raise ValueError(f"current_time must be seconds as of time.time(), not {given!r}")
        ahead = given - time.monotonic()
        if ahead > self._ahead:
            self._ahead = ahead
        return given
