"""Token buckets of a rate."""

from __future__ import annotations

from rcmgr.gates.buckets import bucket_of, table_of
from rcmgr.limits.rates import Rate


def test_a_bucket_has_the_burst_and_the_rate() -> None:
    now = [10**9]
    bucket = bucket_of(Rate(2, 3), lambda: now[0])
    assert bucket is not None
    assert [bucket.try_consume() for _ in range(4)] == [True, True, True, False]
    now[0] += 500_000_000
    assert [bucket.try_consume() for _ in range(2)] == [True, False]


def test_no_rate_is_no_bucket() -> None:
    assert bucket_of(None) is None


def test_a_table_has_one_bucket_a_key() -> None:
    table = table_of(Rate(1, 1), 2, "deny_new", lambda: 10**9)
    assert [table.try_consume(key) for key in (b"a", b"b", b"a", b"c")] == [
        True, True, False, False]
    assert (table.max_peers, table.on_full, table.denied_new) == (2, "deny_new", 1)
