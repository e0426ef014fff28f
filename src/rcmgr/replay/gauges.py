"""Numbers that rise and fall over time, and what is known about them afterwards."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

__all__ = ["Gauge", "least_burst", "limit_for", "quantile"]

_HOUR_NS = 3_600_000_000_000


class Gauge:
    """An amount over time, and how long it had each value. Values above 4096 are rounded to 1/64.
    """

    __slots__ = ("_hours", "_since", "_spent", "begin", "needed", "peak", "peak_at", "value")

    def __init__(self, begin: int) -> None:
        self.begin = self._since = self.peak_at = begin
        self.value = self.peak = 0
        self.needed = 0
        """The least limit that would have admitted everything."""
        self._spent: dict[int, int] = defaultdict(int)  # amount -> nanoseconds
        self._hours: dict[int, int] = defaultdict(int)  # hour since the begin -> amount times ns

    def add(self, change: int, now: int, priority: int = 255) -> None:
        """Add to the amount, which may become less. now: ns, and never before the last time.

        priority: memory with it may fill (1 + priority) / 256 of a limit.
        """
        self.settle(now)
        value = self.value = max(0, self.value + change)
        if value > self.peak:
            self.peak, self.peak_at = value, now
        if change > 0:
            self.needed = max(self.needed, limit_for(value, priority))

    def settle(self, now: int) -> None:
        """Count the amount up to this time."""
        since, value = self._since, self.value
        if now <= since:
            return
        rounded = value
        if value > 4096:
            shift = value.bit_length() - 7
            rounded = -(-value >> shift) << shift
        self._spent[rounded] += now - since
        if value:
            first, last = (since - self.begin) // _HOUR_NS, (now - self.begin) // _HOUR_NS
            # the whole hours between them are alike, and the busiest is asked for: one is enough
            for hour in sorted({first, min(first + 1, last), last}):
                begin = self.begin + hour * _HOUR_NS
                self._hours[hour] += value * (min(now, begin + _HOUR_NS) - max(since, begin))
        self._since = now

    def tail(self, percentile: float) -> int:
        """The amount that was not exceeded during this percentage of the time."""
        total = sum(self._spent.values())
        if not total:
            return self.peak
        left = total * percentile / 100
        for amount in sorted(self._spent):
            left -= self._spent[amount]
            if left <= 0:
                return min(amount, self.peak)
        return self.peak

    def busy_hour(self) -> tuple[int, float] | None:
        """The begin of the hour with the most, and its mean. None: there was never anything."""
        if not self._hours:
            return None
        hour = max(self._hours, key=self._hours.__getitem__)
        begin = self.begin + hour * _HOUR_NS
        return begin, self._hours[hour] / min(_HOUR_NS, max(1, self._since - begin))


def limit_for(amount: int, priority: int) -> int:
    """The least limit of which so much memory of this priority may be in use."""
    return -(-amount * 256 // (1 + priority))


def quantile(values: Iterable[int], percentile: float) -> int:
    """The value that this percentage of the values does not exceed; 0 without values."""
    ordered = sorted(values)
    if not ordered:
        return 0
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percentile / 100) - 1)]


def least_burst(times: Iterable[int], rate: float) -> int:
    """The smallest burst with which a bucket of this rate admits all these times (ns, in order).

    A bucket may be slower than its rate by one in a million; see `bucket_ticks`.
    """
    rate *= 1 - 1e-6
    level, before, most = 0.0, 0, 0.0
    for now in times:
        level = max(0.0, level - (now - before) / 1e9 * rate) + 1
        before = now
        most = max(most, level)
    return math.ceil(most)
