"""The time, for limiters whose callers may give it."""

from __future__ import annotations

import time
from math import isfinite

__all__ = ["SteadyClock"]


class SteadyClock:
    """Seconds on the scale of `time.time()`, read from the monotonic clock. Thread safe.

    A change of the system's clock does not affect it. A time that a caller gives counts as it is.
    A time ahead of this clock moves the clock forward, so that calls without a time see it too.
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
