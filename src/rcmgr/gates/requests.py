"""Rates of requests: by the name of a resource, or by peer and operation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

from rcmgr.counting.denials import DenialLog
from rcmgr.counting.token_bucket import BucketTable, TokenBucket
from rcmgr.errors import RateLimitExceeded
from rcmgr.limits.rates import Rate, RateLimits
from rcmgr.peers import peer_from_any, peer_key, peer_text

__all__ = ["ProtocolRateLimiter", "RateLimiter", "RateRefusal", "bucket_of", "table_of"]

_Clock = Callable[[], int]


def bucket_of(rate: Rate | None, clock: _Clock | None = None) -> TokenBucket | None:
    """A bucket of this rate; None: no limit."""
    return None if rate is None else TokenBucket(rate.burst, rate.refill_rate, clock=clock)


def table_of(rate: Rate, most: int, on_full: str, clock: _Clock | None = None) -> BucketTable:
    """Buckets of this rate by key, at most so many; see `BucketTable`."""
    return BucketTable(rate.burst, rate.refill_rate, max_peers=most, on_full=on_full, clock=clock)


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


class _Buckets:
    """The buckets of `RateLimits`: tables by name, each with a bucket per key, and one overall."""

    def __init__(self, limits: RateLimits, clock: _Clock | None) -> None:
        self.limits = limits
        self.default = self._table(limits.default, clock)
        self.tables = {name: self._table(rate, clock) for name, rate in limits.overrides.items()}
        self.overall = bucket_of(limits.overall, clock)

    def _table(self, rate: Rate | None, clock: _Clock | None) -> BucketTable | None:
        if rate is None:
            return None
        return table_of(rate, self.limits.max_peers, self.limits.on_full, clock)

    def table(self, name: str) -> BucketTable | None:
        """The buckets for this name; None: no limit but the overall one."""
        return self.tables.get(name, self.default)

    def take(self, name: str, key: Hashable, tokens: int) -> str | None:
        """Take tokens from both buckets; else from none: "key" or "overall" refused."""
        table, overall = self.tables.get(name, self.default), self.overall
        if table is None:
            return None if overall is None or overall.try_consume(tokens) else "overall"
        if overall is None:
            return None if table.try_consume(key, tokens) else "key"
        return table.try_consume_both(key, overall, tokens)

    def wait(self, name: str, key: Hashable) -> float:
        """Seconds until the key would be granted once more, 0 if it would be now; inf: never."""
        table, tokens = self.table(name), self.cost(name)
        return max(
            0.0 if table is None else table.time_until(key, tokens),
            0.0 if self.overall is None else self.overall.time_until(tokens),
        )

    def cost(self, name: str) -> int:
        return self.limits.costs.get(name, 1)

    def rate(self, name: str) -> Rate | None:
        return self.limits.overrides.get(name, self.limits.default)


class RateLimiter:
    """Says of a named resource whether it may be used once more.

    Every resource has a bucket of its own: at the rate of `limits.overrides`, else at the default
    rate; without either it is unlimited. `limits.overall`, if set, has to agree as well.

    clock: returns monotonic nanoseconds; default the system's coarse clock (steps of a few ms).
    O(1), under a microsecond; thread safe. At most `limits.max_peers` resources of the default rate
    are remembered (see `BucketTable`), so names may come from outside.
    """

    def __init__(self, limits: RateLimits, *, clock: Callable[[], int] | None = None) -> None:
        self.limits = limits
        self._buckets = _Buckets(limits, clock)

    def check_rate_limit(self, resource: str, tokens: int | None = None) -> bool:
        """Use `resource` if its rate allows it; False: denied, and nothing is taken.

        tokens: what it takes; None: its cost in `limits.costs`, else 1. ValueError: negative.
        """
        if tokens is None:
            tokens = self._buckets.cost(resource)
        return self._buckets.take(resource, resource, tokens) is None

    def get_rate_limit_status(self, resource: str) -> dict[str, Any]:
        """Where `resource` stands.

        "limit": refill_rate and burst; None: unlimited. "available": tokens now; None: unlimited.
        "retry_after_s": seconds until it would be granted again, 0 if it would be now.
        "allowed", "denied": requests so far, of all resources that share the default rate, or of
        this one if it has a rate of its own.
        """
        rate, table = self._buckets.rate(resource), self._buckets.table(resource)
        return {
            "limit": None if rate is None else rate.to_dict(),
            "available": None if table is None else table.get_available_tokens(resource),
            "retry_after_s": self._buckets.wait(resource, resource),
            "allowed": 0 if table is None else table.allowed,
            "denied": 0 if table is None else table.denied,
        }


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
        self._buckets = _Buckets(limits, clock)
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
        if self._is_exempted(peer):
            self._exempted += 1
            return True
        refused = self._buckets.take(operation, peer, self._buckets.cost(operation))
        if refused == "overall":
            self._denied_overall += 1
        if refused is not None and self._denials is not None:
            self._denials.add(self.refusal(operation), None, peer, True)
        return refused is None

    def retry_after(self, peer_id: Hashable, operation: str = "request") -> float:
        """Seconds until the peer would be allowed this, 0 if it would be now; inf: never."""
        peer = peer_from_any(peer_id)
        return 0.0 if self._is_exempted(peer) else self._buckets.wait(operation, peer)

    def refusal(self, operation: str = "request") -> RateRefusal:
        """What is noted of a denial; its error says how long to wait from when it is made."""
        return RateRefusal(
            self.protocol, operation, partial(self.retry_after, operation=operation),
            self._buckets.rate(operation) or self.limits.overall)

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
        tables = [table for _, table in self._tables()]
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
            for operation, table in self._tables()
            for peer, denials in table.most_denied(10)
        ]
        most_denied.sort(key=lambda entry: entry[2], reverse=True)
        return {"protocol": self.protocol, **self.counts(), "most_denied": most_denied[:10]}

    def _tables(self) -> list[tuple[str | None, BucketTable]]:
        """Every table with its operation; None: the default rate."""
        tables = [(None, self._buckets.default), *self._buckets.tables.items()]
        return [(operation, table) for operation, table in tables if table is not None]

    def _is_exempted(self, peer: Hashable) -> bool:
        if self._exempt and peer_key(peer) in self._exempt:
            return True
        return self._is_exempt is not None and self._is_exempt(peer)
