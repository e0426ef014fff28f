"""Our rate limiter of protocols behind the names of `libp2p.rcmgr.ProtocolRateLimiter` 0.8.1."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from libp2p.peer.id import ID
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimitConfig, ProtocolRateLimitStats
from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimitStrategy

from rcmgr.libp2p.dropin._clock import SteadyClock
from rcmgr.libp2p.dropin._entities import Entities, entity_key, most_entities
from rcmgr.libp2p.dropin.rate_limiter import RateLimiter
from rcmgr.libp2p.dropin.token_bucket import check_tokens

__all__ = ["ProtocolRateLimiter"]


class ProtocolRateLimiter:
    """A `RateLimiter` that also limits the requests in progress.

    A request is in progress until `finish_request`, or for `request_timeout_seconds`. A request
    above `max_concurrent_requests` is denied and starts a back-off. During the back-off, every
    request is denied. It lasts `request_timeout_seconds * backoff_factor`, or until all requests in
    progress are finished. For the number of peers or connections that it remembers, see
    `RateLimiter`.

    current_time: seconds as of `time.time()`; default now, by a steady clock.
    O(1), a few microseconds. Thread safe.
    """

    def __init__(self, config: ProtocolRateLimitConfig) -> None:
        self.config = config
        self._clock = SteadyClock()
        self._lock = threading.Lock()
        rates = RateLimitConfig(
            strategy=RateLimitStrategy.TOKEN_BUCKET,
            scope=config.scope,
            refill_rate=config.refill_rate,
            capacity=config.capacity,
            initial_tokens=config.initial_tokens,
            min_interval_seconds=config.min_interval_seconds,
            max_peers=config.max_peers,
            max_connections=config.max_connections,
        )
        self._rates = RateLimiter(rates)
        self._entities: Entities[_Entity] = Entities(most_entities(rates))
        self._timeouts = 0
        self._backoffs = 0

    def try_allow_request(
        self,
        tokens: float = 1.0,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        current_time: float | None = None,
    ) -> bool:
        """Begin a request. False: denied. ValueError: negative tokens."""
        check_tokens(tokens)
        key = self._key(peer_id, connection_id)
        with self._lock:
            now = self._clock.time(current_time)
            entity = self._entities.get(key)
            if entity is not None:
                self._time_out(entity, now)
                if now < entity.backoff_until:
                    return False
                if len(entity.begun) >= self.config.max_concurrent_requests:
                    entity.backoff_until = now + (
                        self.config.request_timeout_seconds * self.config.backoff_factor)
                    self._backoffs += 1
                    return False
            if not self._rates.try_allow(
                tokens, peer_id, connection_id, self.config.protocol_name, None, now
            ):
                return False
            if entity is None:
                entity = _Entity()
                self._entities.add(key, entity, lambda other: self._left(other, now))
            entity.begun.append(now)
        return True

    def allow_request(
        self,
        tokens: float = 1.0,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        current_time: float | None = None,
    ) -> None:
        """Begin a request. ValueError: denied, or negative tokens."""
        if not self.try_allow_request(tokens, peer_id, connection_id, current_time):
            raise ValueError("Protocol request denied by rate limiting")

    def finish_request(
        self,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        current_time: float | None = None,
    ) -> None:
        """Finish the oldest request in progress. Without one, do nothing."""
        key = self._key(peer_id, connection_id)
        with self._lock:
            entity = self._entities.get(key)
            if entity is not None and entity.begun:
                entity.begun.popleft()
                if not entity.begun:
                    entity.backoff_until = 0.0

    def get_stats(
        self,
        peer_id: ID | None = None,
        connection_id: str | None = None,
        current_time: float | None = None,
    ) -> ProtocolRateLimitStats:
        """Counts of all requests, and the requests in progress of this entity."""
        key = self._key(peer_id, connection_id)
        with self._lock:
            now = self._clock.time(current_time)
            entity = self._entities.get(key) or _Entity()
            self._time_out(entity, now)
            rates = self._rates.get_stats(
                peer_id, connection_id, self.config.protocol_name, None, now)
            return ProtocolRateLimitStats(
                protocol_name=self.config.protocol_name,
                protocol_version=self.config.protocol_version,
                current_rate=rates.current_rate,
                allowed_requests=rates.allowed_requests,
                denied_requests=rates.denied_requests,
                total_requests=rates.total_requests,
                concurrent_requests=len(entity.begun),
                max_concurrent_requests=self.config.max_concurrent_requests,
                request_timeouts=self._timeouts,
                backoff_events=self._backoffs,
                scope=self.config.scope,
                tracked_entities=rates.tracked_entities,
                time_since_last_request=now - max(entity.begun) if entity.begun else 0.0,
                next_available_time=rates.next_available_time,
            )

    def get_entity_stats(
        self,
        peer_id: ID | None = None,
        connection_id: str | None = None,
    ) -> dict[str, Any]:
        """The state of this entity's bucket, and its requests in progress."""
        key = self._key(peer_id, connection_id)
        with self._lock:
            entity = self._entities.get(key) or _Entity()
            return {
                **self._rates.get_entity_stats(peer_id, connection_id),
                "protocol_name": self.config.protocol_name,
                "protocol_version": self.config.protocol_version,
                "concurrent_requests": len(entity.begun),
                "max_concurrent_requests": self.config.max_concurrent_requests,
                "request_start_times": list(entity.begun),
                "in_backoff": self._clock.time() < entity.backoff_until,
                "backoff_until": entity.backoff_until,
            }

    def reset(self) -> None:
        """Start again: no entities, no counts."""
        with self._lock:
            self._rates.reset()
            self._entities.clear()
            self._timeouts = self._backoffs = 0

    def __str__(self) -> str:
        return (
            f"ProtocolRateLimiter(protocol={self.config.protocol_name}, "
            f"version={self.config.protocol_version}, rate={self.config.refill_rate:.2f}/s, "
            f"capacity={self.config.capacity:.2f})"
        )

    def _key(self, peer_id: ID | None, connection_id: str | None) -> Hashable:
        return entity_key(self.config.scope, peer_id, connection_id, None, None)

    def _time_out(self, entity: _Entity, now: float) -> None:
        since = now - self.config.request_timeout_seconds
        while entity.begun and entity.begun[0] <= since:
            entity.begun.popleft()
            self._timeouts += 1

    def _left(self, entity: _Entity, now: float) -> float:
        self._time_out(entity, now)
        if now < entity.backoff_until:
            return 0.0
        return 1.0 - len(entity.begun) / self.config.max_concurrent_requests


@dataclass(eq=False, slots=True)
class _Entity:
    """The start times of the requests in progress, and the end of the back-off (0.0: none)."""

    begun: deque[float] = field(default_factory=deque)
    backoff_until: float = 0.0
