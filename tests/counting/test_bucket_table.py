"""A table of buckets decides as single buckets do, and stays small under made-up keys."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import in_threads, rounds

from rcmgr import BucketTable, TokenBucket

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 10 * SECOND

    def __call__(self) -> int:
        return self.now


class PeerId:
    """As py-libp2p's ID: hashes in Python, holds its bytes."""

    def __init__(self, raw: bytes) -> None:
        self._bytes = raw


@settings(max_examples=200)
@given(
    capacity=st.integers(1, 20),
    rate=st.sampled_from([0.1, 1.0, 3.0, 1000.0]),
    moves=st.lists(
        st.tuples(
            st.integers(0, 20),
            st.integers(0, 5),
            st.sampled_from([0, 0, 0, 1, 10**6, SECOND // 3, 5 * SECOND, -SECOND]),
        ),
        max_size=150,
    ),
)
def test_every_key_has_a_bucket_of_its_own(
    capacity: int, rate: float, moves: list[tuple[int, int, int]]
) -> None:
    """Forgetting full buckets changes no decision: single buckets, never forgotten, agree."""
    clock = Clock()
    table = BucketTable(capacity, rate, clock=clock)
    table.get_available_tokens("nobody")  # a new bucket reads the clock, a new table does not
    buckets = {
        b"peer %d" % which: TokenBucket(capacity, rate, clock=clock) for which in range(21)
    }
    for which, tokens, step in moves:
        clock.now += step
        key = b"peer %d" % which
        single = buckets[key]
        # the table has one clock for all its keys
        for bucket in buckets.values():
            bucket.get_available_tokens()
        assert table.get_available_tokens(key) == single.get_available_tokens()
        assert table.time_until(key, tokens) == pytest.approx(single.time_until(tokens), abs=1e-6)
        assert table.try_consume(key, tokens) == single.try_consume(tokens)
    assert len(table) <= len(buckets)


def test_keys() -> None:
    table = BucketTable(2, 1.0, clock=Clock())
    raw = b"\x00\x25" + bytes(36)
    assert table.try_consume(raw)
    assert table.try_consume(PeerId(raw))
    assert not table.try_consume(bytes(bytearray(raw)))
    assert table.try_consume("name")
    assert len(table) == 2
    peer, text = b"\x12\x20" + bytes(32), "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"
    assert table.try_consume(peer)
    assert table.try_consume(text)
    assert not table.try_consume(peer)
    assert table.get_denials(text) == 1
    bad: list[Hashable] = [None, 1, (raw,), object(), 1.5]
    for key in bad:
        with pytest.raises(TypeError, match="key must be a peer id"):
            table.try_consume(key)
    with pytest.raises(TypeError):
        table.try_consume([])  # type: ignore[arg-type]
    assert table.forget(raw)
    assert not table.forget(raw)
    assert table.get_available_tokens(raw) == 2


def test_a_full_bucket_is_forgotten_and_a_live_one_is_not() -> None:
    clock = Clock()
    table = BucketTable(10, 1.0, clock=clock)
    for i in range(5_000):
        table.try_consume(b"short %d" % i)
    for i in range(50):
        assert table.try_consume(b"live %d" % i, 10)
    clock.now += 2 * SECOND
    for i in range(100_000):
        table.try_consume(b"more %d" % i, 1)
        if i % 5_000 == 0:
            clock.now += 2 * SECOND
        if i == 10_000:
            # 3 steps and the one before: 8 s
            assert {table.get_available_tokens(b"live %d" % i) for i in range(50)} == {8}
    assert table.forgotten > 90_000
    assert table.evictions == 0
    assert len(table) < 15_000


@pytest.mark.parametrize("max_peers", [1, 5, 100, 20_000])
def test_never_more_than_max_peers(max_peers: int) -> None:
    table = BucketTable(10, 0.001, max_peers=max_peers, clock=Clock())
    abuser = b"the abuser"
    assert table.try_consume(abuser, 10)
    assert not table.try_consume(abuser)
    for i in range(3 * max_peers + 10):
        assert table.try_consume(b"made up %d" % i)
        assert len(table) <= max_peers
    assert table.evictions >= 2 * max_peers
    if max_peers > 1:
        # the table forgets the emptiest bucket last
        assert not table.try_consume(abuser)


def test_the_fullest_goes_first() -> None:
    table = BucketTable(10, 0.001, max_peers=10, clock=Clock())
    for used in range(1, 11):
        table.try_consume(b"%d" % used, used)
    table.try_consume(b"new", 5)
    assert table.get_available_tokens(b"1") == 10
    assert [table.get_available_tokens(b"%d" % used) for used in range(2, 11)] == list(
        range(8, -1, -1)
    )


def test_deny_new() -> None:
    clock = Clock()
    table = BucketTable(10, 1.0, max_peers=50, on_full="deny_new", clock=clock)
    for i in range(50):
        assert table.try_consume(b"known %d" % i, 5)
    assert not table.try_consume(b"new")
    assert (table.denied, table.denied_new, table.evictions, len(table)) == (1, 1, 0, 50)
    assert table.try_consume(b"known 7")
    clock.now += 7 * SECOND
    assert table.try_consume(b"new")
    assert (table.evictions, len(table)) == (0, 1)


def test_idle_buckets_go_without_new_keys() -> None:
    clock = Clock()
    table = BucketTable(10, 1.0, clock=clock)
    for i in range(20_000):
        assert table.try_consume(b"idle %d" % i)
    assert table.try_consume(b"busy", 10)
    assert len(table) == 20_001
    clock.now += 2 * SECOND
    assert (len(table), table.forgotten) == (1, 20_000)
    assert table.get_available_tokens(b"busy") == 2


def test_calls_search_the_whole_table_once_a_minute() -> None:
    clock = Clock()
    table = BucketTable(10, 1.0, clock=clock)
    for i in range(20_000):
        assert table.try_consume(b"idle %d" % i)
    for _ in range(250):
        clock.now += SECOND // 2
        for _ in range(8):
            table.try_consume(b"busy", 10)
    assert table.forgotten == 20_000
    # an hour without a call does not cost the next calls more than one search
    clock.now += 3600 * SECOND
    for _ in range(1_000):
        table.try_consume(b"busy", 10)
    assert len(table) == 1


@pytest.mark.thread_unsafe(reason="tracemalloc counts the memory of all threads")
def test_a_table_gives_its_memory_back_without_new_keys() -> None:
    clock = Clock()
    tracemalloc.start()
    try:
        table = BucketTable(10, 1.0, clock=clock)
        empty = tracemalloc.get_traced_memory()[0]
        for i in range(20_000):
            assert table.try_consume(b"a key of a peer that never comes back %d" % i)
        full = tracemalloc.get_traced_memory()[0]
        clock.now += 2 * SECOND
        assert len(table) == 0
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert full - empty > 1_500_000
    assert left - empty < 50_000
    assert table.try_consume(b"again")


def test_denials_are_counted_by_key() -> None:
    table = BucketTable(1, 0.001, clock=Clock())
    for i in range(30):
        for _ in range(i + 1):
            table.try_consume(b"peer %d" % i)
    assert table.get_denials(b"peer 29") == 29
    assert table.get_denials(b"nobody") == 0
    assert table.most_denied(3) == [(b"peer 29", 29), (b"peer 28", 28), (b"peer 27", 27)]
    assert (table.allowed, table.denied) == (30, sum(range(30)))
    for _ in range(70_000):
        table.try_consume(b"peer 0")
    assert table.get_denials(b"peer 0") == 65_535


def test_both_or_neither() -> None:
    clock = Clock()
    table = BucketTable(3, 1.0, clock=clock)
    overall = TokenBucket(4, 1.0, clock=clock)
    assert [table.try_consume_both(b"a", overall) for _ in range(4)] == [None, None, None, "key"]
    assert overall.get_available_tokens() == 1
    assert table.try_consume_both(b"b", overall) is None
    assert table.try_consume_both(b"b", overall) == "overall"
    assert table.get_available_tokens(b"b") == 2
    assert table.try_consume_both(b"c", overall) == "overall"
    assert table.get_available_tokens(b"c") == 3


def test_the_callers_time_holds_for_both() -> None:
    clock = Clock()
    table, overall = BucketTable(9, 1.0, clock=clock), TokenBucket(1, 1.0, clock=clock)
    assert table.try_consume_both(b"a", overall, now_ns=clock.now) is None
    assert table.try_consume_both(b"a", overall, now_ns=clock.now) == "overall"
    assert table.try_consume_both(b"a", overall, now_ns=clock.now + SECOND) is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_peers": 0}, ValueError, "max_peers must be 1 or more, not 0"),
        ({"max_peers": 1.5}, TypeError, "max_peers must be an int"),
        ({"on_full": "panic"}, ValueError, "on_full must be one of evict_fullest, deny_new"),
        ({"capacity": 0}, ValueError, "capacity must be from 1"),
    ],
)
def test_bad_values(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BucketTable(**{"capacity": 1, "refill_rate": 1.0, **arguments})  # type: ignore[arg-type]


def test_keys_made_to_collide_do_not() -> None:
    """Keys that collide in a weak hash spread well: one sum, one prefix, small differences."""
    draw = random.Random(1)
    numbers = range(2**14)
    same_sum = [bytes([i % 256, 255 - i % 256, i // 256, 255 - i // 256]) for i in numbers]
    fresh = [draw.randbytes(4) for _ in numbers]

    def longest_search(keys: list[bytes]) -> int:
        table = BucketTable(5, 0.001, clock=Clock())
        for key in keys:
            table.try_consume(key)
        return table._longest_search()

    assert {sum(key) for key in same_sum} == {510}
    # if they collided, it would be thousands
    assert longest_search(same_sum) < 200
    assert longest_search([b"Qm" + bytes(30) + i.to_bytes(2, "big") for i in numbers]) < 200
    assert longest_search(fresh) < 200


@pytest.mark.parametrize("flood", [
    200_000, pytest.param(10_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_flood_of_made_up_peers_changes_nothing_for_a_known_one(flood: int) -> None:
    clock = Clock()
    table = BucketTable(20, 10.0, max_peers=5_000, clock=clock)
    single = TokenBucket(20, 10.0, clock=clock)
    draw = random.Random(2)
    for _ in range(400):
        for _ in range(flood // 400):
            table.try_consume(draw.randbytes(38))
        clock.now += SECOND // 20
        single.get_available_tokens()
        # the honest peer asks at its rate: the table may forget it, but never denies it
        if single.try_consume(1):
            assert table.try_consume(b"honest")
        assert len(table) <= 5_000
    assert table.denied == 0


def test_threads_are_granted_exactly_what_is_there() -> None:
    each = rounds(1_000)
    table = BucketTable(each, 0.001, clock=Clock())
    keys = [b"%d" % i for i in range(100)]

    def consume(which: int) -> int:
        order = keys * (each * 2 // 5)
        random.Random(which).shuffle(order)
        return sum(table.try_consume(key) for key in order)

    assert sum(in_threads(consume, 4)) == table.allowed == 100 * each
    assert {table.get_available_tokens(key) for key in keys} == {0}


def test_keys_are_given_back() -> None:
    table = BucketTable(2, 0.001, max_peers=10, clock=Clock())
    key = bytes(range(40))  # not a constant, which free-threaded builds keep forever
    before = sys.getrefcount(key)
    table.try_consume(key)
    assert sys.getrefcount(key) == before + 1
    table.forget(key)
    assert sys.getrefcount(key) == before
    table.try_consume(key)
    for i in range(200):
        table.try_consume(b"%d" % i, 2)  # these buckets are emptier, so the key's is evicted
    assert sys.getrefcount(key) == before
    table.try_consume(key)
    del table
    assert sys.getrefcount(key) == before
