"""Who is limited by itself, and how many of them are remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any, TypeVar

from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimitScope

from rcmgr.peers import peer_from_any, peer_key

__all__ = ["entity_key", "make_room", "most_entities"]

_SAMPLE = 16

Entity = TypeVar("Entity")


def entity_key(
    scope: RateLimitScope, peer_id: Any, connection_id: Any, protocol: Any, endpoint: Any
) -> Hashable:
    """With whom a request is limited; None: with all that do not say, or in the global scope.

    A peer is one peer as `ID`, bytes and text.
    """
    if scope == RateLimitScope.PER_PEER:
        return peer_key(peer_from_any(peer_id)) if peer_id else None
    named = {
        RateLimitScope.PER_CONNECTION: connection_id,
        RateLimitScope.PER_PROTOCOL: protocol,
        RateLimitScope.PER_ENDPOINT: endpoint,
    }.get(scope)
    return str(named) if named else None


def most_entities(config: RateLimitConfig) -> int:
    """How many are remembered. An endpoint is that of a connection."""
    return {
        RateLimitScope.PER_PEER: config.max_peers,
        RateLimitScope.PER_CONNECTION: config.max_connections,
        RateLimitScope.PER_PROTOCOL: config.max_protocols,
        RateLimitScope.PER_ENDPOINT: config.max_connections,
    }.get(config.scope, 1)


def make_room(
    entities: OrderedDict[Hashable, Entity], most: int, left: Callable[[Entity], float]
) -> None:
    """Forget one if there are `most`: of 16, taken by turns, that with the most left of its limit.

    So others that come, however many, do not make new again who has used up its limit. O(1).
    """
    if len(entities) < most:
        return
    sample = list(islice(entities, _SAMPLE))
    for key in sample:
        entities.move_to_end(key)
    del entities[max(sample, key=lambda key: left(entities[key]))]
