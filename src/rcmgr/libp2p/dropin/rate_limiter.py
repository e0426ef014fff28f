"""Our rate limiter behind the constructor and the names of `libp2p.rcmgr.RateLimiter` 0.8.1."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from math import ceil
from typing import Any

import multiaddr
from libp2p.peer.id import ID
from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimitStats, RateLimitStrategy
from libp2p.rcmgr.token_bucket import TokenBucketConfig

from rcmgr.libp2p.dropin._clock import SteadyClock
from rcmgr.libp2p.dropin._entities import Entities, entity_key, most_entities
from rcmgr.libp2p.dropin.token_bucket import TokenBucket, check_tokens

__all__ = ["RateLimiter"]


class RateLimiter:
    """py-libp2p's strategies and scopes, with our buckets.

    FIXED_WINDOW and SLIDING_WINDOW are the same, as in py-libp2p: at most `max_requests_per_window`
    in any `window_size_seconds`. A request of several tokens counts as that many. ADAPTIVE has one
    rate for all, which rises with every allowed request and falls with every denied one.

    It remembers the configured number of peers, connections, protocols or endpoints. A new one
    starts with `initial_tokens`. If there is no room, it replaces one with most of its limit left.

    O(1): 1 to 2 us, and about 25 us for a new entity that replaces another. Thread safe.
    """

    def __init__(self, config: RateLimitConfig) -> None:
        self.config = config
        self._clock = SteadyClock()
        self._lock = threading.Lock()
        self._entities: Entities[_Entity] = Entities(most_entities(config))
        self.reset()

    def try_allow(
        self,
        tokens: float = 1.0,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        protocol: str | None = None,
        endpoint: str | multiaddr.Multiaddr | None = None,
        current_time: float | None = None,
    ) -> bool:
        """Admit a request if its rate allows it. False: denied.

        current_time: seconds as of `time.time()`; default now, by a steady clock.
        ValueError: negative tokens.
        """
        check_tokens(tokens)
        key = entity_key(self.config.scope, peer_id, connection_id, protocol, endpoint)
        with self._lock:
            now = self._clock.time(current_time)
            entity = self._entities.get(key) or self._add(key, now)
            entity.last_request = now
            allowed = entity.limit.try_consume(tokens, now)
            self._total += 1
            self._allowed += allowed
            self._adapt(allowed, now)
        return allowed

    def allow(
        self,
        tokens: float = 1.0,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        protocol: str | None = None,
        endpoint: str | multiaddr.Multiaddr | None = None,
        current_time: float | None = None,
    ) -> None:
        """Admit a request. ValueError: denied, or negative tokens."""
        if not self.try_allow(tokens, peer_id, connection_id, protocol, endpoint, current_time):
            raise ValueError("Request denied by rate limiting")

    def get_stats(
        self,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        protocol: str | None = None,
        endpoint: str | multiaddr.Multiaddr | None = None,
        current_time: float | None = None,
    ) -> RateLimitStats:
        """Counts of all requests, and the state of this request's bucket."""
        key = entity_key(self.config.scope, peer_id, connection_id, protocol, endpoint)
        with self._lock:
            now = self._clock.time(current_time)
            entity = self._entities.get(key)
            bucket = None
            if entity is not None and isinstance(entity.limit, TokenBucket):
                bucket = entity.limit.get_stats(now)
            adaptive = self.config.strategy == RateLimitStrategy.ADAPTIVE
            return RateLimitStats(
                current_rate=bucket.effective_rate if bucket else 0.0,
                allowed_requests=self._allowed,
                denied_requests=self._total - self._allowed,
                total_requests=self._total,
                configured_rate=self.config.refill_rate,
                effective_rate=self._allowed / self._total if self._total else 0.0,
                burst_available=bucket.burst_available if bucket else 0.0,
                scope=self.config.scope,
                tracked_entities=len(self._entities),
                time_since_last_request=now - entity.last_request if entity else 0.0,
                next_available_time=bucket.next_refill_time if bucket and not adaptive else 0.0,
            )

    def get_entity_stats(
        self,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        protocol: str | None = None,
        endpoint: str | multiaddr.Multiaddr | None = None,
    ) -> dict[str, Any]:
        """The state of this request's bucket. {"exists": False}: it has no bucket."""
        key = entity_key(self.config.scope, peer_id, connection_id, protocol, endpoint)
        with self._lock:
            entity = self._entities.get(key)
            if entity is None or not isinstance(entity.limit, TokenBucket):
                return {"exists": False}
            return entity.limit.get_stats().to_dict()

    def reset(self) -> None:
        """Start again: no entities, no counts, the first rate."""
        config = self.config
        with self._lock:
            self._entities.clear()
            self._total = self._allowed = 0
            self._adapted = self._clock.time()
            self._bucket_config = TokenBucketConfig(
                config.base_rate if config.strategy == RateLimitStrategy.ADAPTIVE
                else config.refill_rate,
                config.capacity,
                config.initial_tokens,
                min_interval_seconds=config.min_interval_seconds,
                enable_monitoring=False,  # nothing could read the history
            )

    def __str__(self) -> str:
        return (
            f"RateLimiter(strategy={self.config.strategy.value}, scope={self.config.scope.value}, "
            f"rate={self.config.refill_rate:.2f}/s, capacity={self.config.capacity:.2f})"
        )

    def _add(self, key: Hashable, now: float) -> _Entity:
        bucket = self.config.strategy in (
            RateLimitStrategy.TOKEN_BUCKET, RateLimitStrategy.ADAPTIVE)
        entity = _Entity(
            TokenBucket(self._bucket_config, clock=self._clock) if bucket
            else _Window(self.config))
        self._entities.add(key, entity, lambda other: other.limit.left(now))
        return entity

    def _adapt(self, allowed: bool, now: float) -> None:
        config = self.config
        if (
            config.strategy != RateLimitStrategy.ADAPTIVE
            or now - self._adapted < config.min_interval_seconds
        ):
            return
        factor = 1 + config.adaptation_factor if allowed else 1 - config.adaptation_factor
        rate = self._bucket_config.refill_rate * factor
        # all buckets share this configuration, and apply it at their next request
        self._bucket_config.refill_rate = min(max(rate, config.min_rate), config.max_rate)
        self._adapted = now


@dataclass(eq=False, slots=True)
class _Entity:
    limit: TokenBucket | _Window
    last_request: float = 0.0


class _Window:
    """The requests of the last window, each with its time. O(1) amortised."""

    __slots__ = ("_config", "_requests", "_used")

    def __init__(self, config: RateLimitConfig) -> None:
        self._config = config
        self._requests: deque[tuple[float, int]] = deque()
        self._used = 0

    def try_consume(self, tokens: float, now: float) -> bool:
        self._expire(now)
        most = self._config.max_requests_per_window
        requests = ceil(min(max(tokens, 1.0), most + 1.0))
        if self._used + requests > most:
            return False
        self._requests.append((now, requests))
        self._used += requests
        return True

    def left(self, now: float) -> float:
        self._expire(now)
        return 1.0 - self._used / self._config.max_requests_per_window

    def _expire(self, now: float) -> None:
        since = now - self._config.window_size_seconds
        while self._requests and self._requests[0][0] <= since:
            self._used -= self._requests.popleft()[1]
