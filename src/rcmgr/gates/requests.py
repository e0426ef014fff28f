"""Rates of a protocol's requests, by peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

from rcmgr.counting.denials import DenialLog
from rcmgr.errors import RateLimitExceeded
from rcmgr.gates.rate_limiter import bucket_of, table_of
from rcmgr.limits.rates import Rate, RateLimits
from rcmgr.peers import peer_from_any, peer_key, peer_text

__all__ = ["ProtocolRateLimiter", "RateRefusal"]


class RateRefusal(NamedTuple):
    """Why a rate refused something: it came too often. Falsy."""

    protocol: str
    operation: str
    retry_after_s: Callable[[Any], float]
    """Called with the peer: seconds until it may come again; inf: never."""
    rate: Rate | None

    def __bool__(self) -> Literal[False]:
        return False

    def to_error(
        self, connection_id: Hashable | None = None, peer_id: Hashable | None = None
    ) -> RateLimitExceeded:
        rate = self.rate
        return RateLimitExceeded(
            self.protocol, self.operation, peer_id, self.retry_after_s(peer_id),
            refill_rate=None if rate is None else rate.refill_rate,
            burst=None if rate is None else rate.burst,
        )


class ProtocolRateLimiter:
    """Says of a peer whether it may ask once more for something of a protocol.

    Every peer has a bucket for each operation in `limits.overrides`, and one for all its other
    operations, at the default rate; without a rate they are unlimited. `limits.overall`, if set, is
    one bucket for all peers and operations: both have to agree, and a denial takes from neither.

    exempt_peers: peers that are never denied and take nothing.
    is_exempt: asked besides, about peers that are not among them; default nobody.
    denials: where each denial is noted, too; of a limiter of a manager, the manager's.
    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).

    Peers are `ID`s, their bytes or base58 text. O(1), under a microsecond; thread safe; memory is
    bounded by `limits.max_peers` (see `BucketTable`), however many peers somebody makes up.
    """

    def __init__(
        self,
        protocol: str,
        limits: RateLimits,
        *,
        exempt_peers: Iterable[Hashable] = (),
        is_exempt: Callable[[Hashable], bool] | None = None,
        denials: DenialLog | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.protocol = protocol
        self.limits = limits
        self._default = table_of(limits.default, limits, clock)
        self._tables = {
            operation: table_of(rate, limits, clock)
            for operation, rate in limits.overrides.items()
        }
        self._overall = bucket_of(limits.overall, clock)
        self._exempt = {peer_key(peer_from_any(peer)) for peer in exempt_peers}
        self._is_exempt = is_exempt
        self._denials = denials
        self._exempted = 0
        self._denied_overall = 0

    def add_exempt_peer(self, peer_id: Hashable) -> None:
        self._exempt.add(peer_key(peer_from_any(peer_id)))

    def remove_exempt_peer(self, peer_id: Hashable) -> None:
        """Its requests count again; nothing happens if it was not exempt."""
        self._exempt.discard(peer_key(peer_from_any(peer_id)))

    def check_peer_rate_limit(self, peer_id: Hashable, operation: str = "request") -> bool:
        """Let the peer do this once if its rate and the overall one allow it; False: denied."""
        peer = peer_from_any(peer_id)
        if self._is_free(peer):
            self._exempted += 1
            return True
        allowed = self._take(peer, operation)
        if not allowed and self._denials is not None:
            self._denials.add(self.refusal(operation), None, peer, True)
        return allowed

    def _take(self, peer: Hashable, operation: str) -> bool:
        tokens = self.limits.costs.get(operation, 1)
        table = self._tables.get(operation, self._default)
        if self._overall is None:
            return table is None or table.try_consume(peer, tokens)
        if table is None:
            denied_by = None if self._overall.try_consume(tokens) else "overall"
        else:
            denied_by = table.try_consume_both(peer, self._overall, tokens)
        if denied_by == "overall":
            self._denied_overall += 1
        return denied_by is None

    def retry_after(self, peer_id: Hashable, operation: str = "request") -> float:
        """Seconds until the peer would be allowed this, 0 if it would be now; inf: never."""
        peer = peer_from_any(peer_id)
        if self._is_free(peer):
            return 0.0
        tokens = self.limits.costs.get(operation, 1)
        table = self._tables.get(operation, self._default)
        return max(
            0.0 if table is None else table.time_until(peer, tokens),
            0.0 if self._overall is None else self._overall.time_until(tokens),
        )

    def refusal(self, operation: str = "request") -> RateRefusal:
        """What is noted of a denial; its error says how long to wait from when it is made."""
        limits = self.limits
        return RateRefusal(
            self.protocol, operation, partial(self.retry_after, operation=operation),
            limits.overrides.get(operation, limits.default) or limits.overall)

    @asynccontextmanager
    async def request(self, peer_id: Hashable, operation: str = "request") -> AsyncIterator[None]:
        """`async with limiter.request(peer_id, "op"):` around the work of one request.

        RateLimitExceeded: denied; the work is not done.
        """
        if not self.check_peer_rate_limit(peer_id, operation):
            raise self.refusal(operation).to_error(peer_id=peer_id)
        yield

    def counts(self) -> dict[str, int]:
        """The totals of `get_protocol_stats`. O(1)."""
        tables = [table for table in (self._default, *self._tables.values()) if table is not None]
        return {
            "allowed": sum(table.allowed for table in tables),
            "denied": sum(table.denied for table in tables),
            "denied_overall": self._denied_overall,
            "exempted": self._exempted,
            "tracked_peers": sum(len(table) for table in tables),
            "evictions": sum(table.evictions for table in tables),
            "denied_new": sum(table.denied_new for table in tables),
        }

    def get_protocol_stats(self) -> dict[str, Any]:
        """Totals and who was denied most; ready for JSON.

        "most_denied": the ten peers with the most denials since their bucket was last full, as
        (peer id as base58 text, operation or None for the default rate, denials). O(tracked peers).
        """
        most_denied = [
            (peer_text(peer), operation, denials)
            for operation, table in [(None, self._default), *self._tables.items()]
            if table is not None
            for peer, denials in table.most_denied(10)
        ]
        most_denied.sort(key=lambda entry: entry[2], reverse=True)
        return {"protocol": self.protocol, **self.counts(), "most_denied": most_denied[:10]}

    def _is_free(self, peer: Hashable) -> bool:
        if self._exempt and peer_key(peer) in self._exempt:
            return True
        return self._is_exempt is not None and self._is_exempt(peer)
