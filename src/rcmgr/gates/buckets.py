"""Token buckets of a `Rate`."""

from __future__ import annotations

from collections.abc import Callable

from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.token_bucket import TokenBucket
from rcmgr.limits.rates import Rate

__all__ = ["Clock", "bucket_of", "table_of"]

Clock = Callable[[], int]
"""Returns monotonic nanoseconds."""


def bucket_of(rate: Rate | None, clock: Clock | None = None) -> TokenBucket | None:
    """A bucket of this rate; None: no limit."""
    return None if rate is None else TokenBucket(rate.burst, rate.refill_rate, clock=clock)


def table_of(rate: Rate, most: int, on_full: str, clock: Clock | None = None) -> BucketTable:
    """At most `most` buckets of this rate, by key; see `BucketTable`."""
    return BucketTable(rate.burst, rate.refill_rate, max_peers=most, on_full=on_full, clock=clock)
