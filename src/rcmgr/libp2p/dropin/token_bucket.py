"""Our token bucket behind the constructor and the names of `libp2p.rcmgr.TokenBucket` 0.8.1."""

from __future__ import annotations

import threading
from collections import deque
from math import isfinite, isnan
from typing import Any

from libp2p.rcmgr.token_bucket import TokenBucketConfig, TokenBucketStats

from rcmgr.counting.token_bucket import TokenBucket as CompiledBucket
from rcmgr.libp2p.dropin._clock import SteadyClock

__all__ = ["LONGEST_FILL_S", "TokenBucket", "check_tokens"]

LONGEST_FILL_S = 49 * 365 * 86400
"""The longest time from empty to full that our buckets can count."""

_FASTEST = 2e12  # units per second: the highest rate that our buckets can count
_MORE_THAN_ANY_CAPACITY = 1e18


class TokenBucket:
    """`rcmgr.TokenBucket` with py-libp2p's configuration, methods and times.

    It counts thousandths of a token, or whole tokens if the capacity is above 100 million. The rest
    is as in py-libp2p. Tokens arrive at most every `min_interval_seconds`. The capacity is the
    burst, so that `allow_burst` and `burst_multiplier` have no effect. A new rate or capacity in
    `config` takes effect at the next refill. Monitoring keeps the last `max_history_size` requests.

    clock: for buckets that share one; default its own.
    ValueError: a rate or capacity that cannot be counted. O(1), 0.2 to 0.5 us, with or without
    monitoring. Thread safe.
    """

    def __init__(self, config: TokenBucketConfig, *, clock: SteadyClock | None = None) -> None:
        self.config = config
        self._clock = clock or SteadyClock()
        self._lock = threading.Lock()
        self._units_per_token = 1000 if config.capacity <= 1e8 else 1
        self._bucket_ns = 0
        self._requests: deque[tuple[float, bool]] | None = None
        self._refills: deque[tuple[float, float]] | None = None
        if config.enable_monitoring:
            self._requests = deque(maxlen=config.max_history_size)
            self._refills = deque(maxlen=config.max_history_size)
        self.reset()

    def try_consume(self, tokens: float = 1.0, current_time: float | None = None) -> bool:
        """Take `tokens` if they are available. False: they are not, and nothing is taken.

        current_time: seconds as of `time.time()`; default now, by a steady clock.
        ValueError: negative tokens.
        """
        units = self._units_per_token if tokens == 1.0 else self._units(tokens)
        now = self._clock.time(current_time)
        if now >= self._next_refill:
            self._refill(now)
        granted = self._bucket.try_consume(units, self._bucket_ns)
        if self._requests is not None:
            self._requests.append((now, granted))
        return granted

    def consume(self, tokens: float = 1.0, current_time: float | None = None) -> None:
        """Take `tokens`. ValueError: they are negative or not available."""
        if not self.try_consume(tokens, current_time):
            raise ValueError(f"Not enough tokens available: {tokens} > {self._available()}")

    def get_stats(self, current_time: float | None = None) -> TokenBucketStats:
        """The tokens now, and counts since the last reset."""
        now = self._clock.time(current_time)
        if now >= self._next_refill:
            self._refill(now)
        tokens = self._available()
        refilled = self._refilled
        allowed, denied = self._bucket.allowed, self._bucket.denied
        return TokenBucketStats(
            current_tokens=tokens,
            last_refill_time=refilled,
            total_requests=allowed + denied,
            allowed_requests=allowed,
            denied_requests=denied,
            refill_rate=self.config.refill_rate,
            capacity=self.config.capacity,
            effective_rate=allowed / (allowed + denied) if allowed else 0.0,
            burst_used=self.config.capacity - tokens,
            burst_available=tokens,
            time_since_last_refill=now - refilled,
            next_refill_time=refilled + self.config.min_interval_seconds,
        )

    def get_history(self, time_window: float | None = None) -> dict[str, Any]:
        """Requests and refills that are kept, of the last `time_window` seconds. O(kept).

        Default: `time_window_seconds` of the configuration.
        """
        if self._requests is None or self._refills is None:
            return {"enabled": False}
        if time_window is None:
            time_window = self.config.time_window_seconds
        since = self._clock.time() - time_window
        requests = [each for each in self._requests.copy() if each[0] > since]
        refills = [each for each in self._refills.copy() if each[0] > since]
        allowed = sum(granted for _, granted in requests)
        return {
            "enabled": True,
            "time_window": time_window,
            "total_requests": len(requests),
            "allowed_requests": allowed,
            "denied_requests": len(requests) - allowed,
            "allow_rate": allowed / len(requests) if requests else 0.0,
            "recent_requests": requests,
            "recent_refills": refills,
        }

    def reset(self) -> None:
        """Start again: `initial_tokens`, no counts, no history."""
        with self._lock:
            configured = (self.config.capacity, self.config.refill_rate)
            capacity, rate = self._size(*configured)
            bucket = CompiledBucket(
                capacity, rate, min(self._units(self.config.initial_tokens), capacity))
            bucket.get_available_tokens(self._bucket_ns)  # this starts its time
            self._bucket = bucket
            self._configured = configured
            self._set_refilled(self._clock.time())
            for history in (self._requests, self._refills):
                if history is not None:
                    history.clear()

    def left(self, now: float) -> float:
        """How full the bucket is at `now`, a time of its clock: 0 to 1."""
        capacity, rate = self._configured
        return min(1.0, (self._available() + max(0.0, now - self._refilled) * rate) / capacity)

    def __str__(self) -> str:
        stats = self.get_stats()
        return (
            f"TokenBucket(tokens={stats.current_tokens:.2f}/{stats.capacity:.2f}, "
            f"rate={stats.refill_rate:.2f}/s, "
            f"allowed={stats.allowed_requests}/{stats.total_requests})"
        )

    def _refill(self, now: float) -> None:
        with self._lock:
            if now < self._next_refill:
                return  # another thread has done it
            configured = (self.config.capacity, self.config.refill_rate)
            if self._configured != configured:
                self._bucket.set_rate(*self._size(*configured), self._bucket_ns)
                self._configured = configured
            elapsed = now - self._refilled
            self._bucket_ns += round(min(elapsed, self._longest_s) * 1e9)
            self._set_refilled(now)
            if self._refills is not None:
                self._refills.append((now, elapsed * self.config.refill_rate))

    def _set_refilled(self, now: float) -> None:
        self._refilled = now
        self._next_refill = now + self.config.min_interval_seconds

    def _size(self, capacity: float, rate: float) -> tuple[int, float]:
        """Capacity and rate in the compiled bucket's units."""
        if isnan(rate) or not isfinite(capacity):
            raise ValueError(f"capacity {capacity} at refill_rate {rate} cannot be counted")
        units = self._units(capacity)
        per_second = min(max(rate * self._units_per_token, units / LONGEST_FILL_S), _FASTEST)
        self._longest_s = units / per_second + 1.0  # the bucket is full by then
        return units, per_second

    def _available(self) -> float:
        return self._bucket.get_available_tokens(self._bucket_ns) / self._units_per_token

    def _units(self, tokens: float) -> int:
        check_tokens(tokens)
        units = round(min(tokens, _MORE_THAN_ANY_CAPACITY) * self._units_per_token)
        return units or (1 if tokens else 0)


def check_tokens(tokens: float) -> None:
    """ValueError: negative, or not a number."""
    if not tokens >= 0:
        raise ValueError(f"tokens must be 0 or more, not {tokens!r}")
