"""The peers, connections, protocols or endpoints that a limiter limits one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimitScope

from rcmgr.peers import bounded_name, peer_key

__all__ = ["Entities", "entity_key", "most_entities"]

_SAMPLE = 16

Entity = TypeVar("Entity")


def entity_key(
    scope: RateLimitScope, peer_id: Any, connection_id: Any, protocol: Any, endpoint: Any
) -> Hashable:
    """The entity that a request counts for. None: the one for all requests that name none.

    A peer is the same as `ID`, bytes and text.
    """
    if scope == RateLimitScope.PER_PEER:
        return peer_key(peer_id) if peer_id else None
    named = {
        RateLimitScope.PER_CONNECTION: connection_id,
        RateLimitScope.PER_PROTOCOL: protocol,
        RateLimitScope.PER_ENDPOINT: endpoint,
    }.get(scope)
    return bounded_name(str(named)) if named else None


def most_entities(config: RateLimitConfig) -> int:
    """How many entities a limiter remembers. An endpoint counts as a connection."""
    return {
        RateLimitScope.PER_PEER: config.max_peers,
        RateLimitScope.PER_CONNECTION: config.max_connections,
        RateLimitScope.PER_PROTOCOL: config.max_protocols,
        RateLimitScope.PER_ENDPOINT: config.max_connections,
    }.get(config.scope, 1)


class Entities(Generic[Entity]):
    """Remembers the state of at most `most` entities.

    A new entity replaces one of 16 chosen at random: the one with most of its limit left. So an
    entity that has used up its limit gets no fresh one, however many new entities arrive. O(1).
    Not thread safe: the limiter holds its lock.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_key: dict[Hashable, Entity] = {}
        self._keys: list[Hashable] = []

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Hashable) -> Entity | None:
        return self._by_key.get(key)

    def add(self, key: Hashable, entity: Entity, left: Callable[[Entity], float]) -> None:
        """left: the part of its limit that an entity has left, 0 to 1."""
        if len(self._keys) < self._most:
            self._keys.append(key)
        else:
            drawn = random.choices(range(self._most), k=_SAMPLE)
            place = max(drawn, key=lambda place: left(self._by_key[self._keys[place]]))
            del self._by_key[self._keys[place]]
            self._keys[place] = key
        self._by_key[key] = entity

    def clear(self) -> None:
        self._by_key.clear()
        self._keys.clear()
