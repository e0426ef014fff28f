"""Rates of a program's own resources, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcmgr.counting.token_bucket import BucketTable, TokenBucket
from rcmgr.limits.rates import Rate, RateLimits

__all__ = ["RateLimiter", "bucket_of", "table_of"]


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
        self._default = table_of(limits.default, limits, clock)
        self._tables = {
            name: table_of(rate, limits, clock) for name, rate in limits.overrides.items()
        }
        self._overall = bucket_of(limits.overall, clock)

    def check_rate_limit(self, resource: str, tokens: int | None = None) -> bool:
        """Use `resource` if its rate allows it; False: denied, and nothing is taken.

        tokens: what it takes; None: its cost in `limits.costs`, else 1. ValueError: negative.
        """
        if tokens is None:
            tokens = self.limits.costs.get(resource, 1)
        table = self._tables.get(resource, self._default)
        if table is None:
            return self._overall is None or self._overall.try_consume(tokens)
        if self._overall is None:
            return table.try_consume(resource, tokens)
        return table.try_consume_both(resource, self._overall, tokens) is None

    def get_rate_limit_status(self, resource: str) -> dict[str, Any]:
        """Where `resource` stands.

        "limit": refill_rate and burst; None: unlimited. "available": tokens now; None: unlimited.
        "retry_after_s": seconds until it would be granted again, 0 if it would be now.
        "allowed", "denied": requests so far, of all resources that share the default rate, or of
        this one if it has a rate of its own.
        """
        rate = self.limits.overrides.get(resource, self.limits.default)
        table = self._tables.get(resource, self._default)
        tokens = self.limits.costs.get(resource, 1)
        waits = [0.0]
        available = None
        if table is not None:
            waits.append(table.time_until(resource, tokens))
            available = table.get_available_tokens(resource)
        if self._overall is not None:
            waits.append(self._overall.time_until(tokens))
        return {
            "limit": None if rate is None else rate.to_dict(),
            "available": available,
            "retry_after_s": max(waits),
            "allowed": 0 if table is None else table.allowed,
            "denied": 0 if table is None else table.denied,
        }


def table_of(
    rate: Rate | None, limits: Any, clock: Callable[[], int] | None = None
) -> BucketTable | None:
    """The buckets of a rate, bounded as `limits` say; None: no limit."""
    if rate is None:
        return None
    return BucketTable(
        rate.burst,
        rate.refill_rate,
        max_peers=limits.max_peers,
        on_full=limits.on_full,
        clock=clock,
    )


def bucket_of(rate: Rate | None, clock: Callable[[], int] | None = None) -> TokenBucket | None:
    return None if rate is None else TokenBucket(rate.burst, rate.refill_rate, clock=clock)
