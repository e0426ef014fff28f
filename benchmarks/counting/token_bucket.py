"""The cost of one rate decision: rcmgr's bucket table and its alternatives.

    pip install '.[bench]' && python -m benchmarks.counting.token_bucket [--processes N] [--check]

Nanoseconds per decision, the fastest of many rounds, with all implementations by turns. "times
rcmgr" compares with rcmgr and the same kind of key. Keys are 38 random bytes, in random order.
"denied" means that the bucket of every key is empty. From 100,000 keys on, implementations that
need microseconds are left out. Each line is the median of several fresh processes. --check: exit
status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

from libp2p.peer.id import ID
from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimiter, RateLimitScope
from libp2p.rcmgr.token_bucket import TokenBucket as StockTokenBucket
from libp2p.rcmgr.token_bucket import TokenBucketConfig

from benchmarks.timing import fastest, repeated
from benchmarks.verdict import Figures, benchmark_main
from rcmgr import BucketTable, TokenBucket
from rcmgr.libp2p.dropin.rate_limiter import RateLimiter as DropInRateLimiter
from rcmgr.libp2p.dropin.token_bucket import TokenBucket as DropInTokenBucket

SLOW_FROM = 100_000
SAMPLE = 20_000
CALLS = 1_000
KEYS, ROUNDS = (1, 1_000, 100_000, 1_000_000), 7
BURST, RATE = 10**9, 1.0         # allows every request, and never fills up again
NO_BURST, NO_RATE = 1, 1 / 3600  # allows one request

Ask = Callable[[Any], Any]


def rcmgr_table(burst: int, rate: float, keys: int) -> Ask:
    return BucketTable(burst, rate, max_peers=2 * keys + 10).try_consume


def libp2p_limiter(kind: type[Any], monitoring: bool) -> Callable[[int, float, int], Ask]:
    def make(burst: int, rate: float, keys: int) -> Ask:
        limiter = kind(
            RateLimitConfig(
                scope=RateLimitScope.PER_PEER,
                refill_rate=rate,
                capacity=burst,
                initial_tokens=burst,
                max_peers=2 * keys + 10,
                enable_monitoring=monitoring,
            )
        )
        allow = limiter.try_allow
        return lambda peer: allow(1.0, peer)

    return make


def token_bucket(burst: int, rate: float, keys: int) -> Ask:
    import token_bucket

    return token_bucket.Limiter(rate, burst, token_bucket.MemoryStorage()).consume


def floodgate(burst: int, rate: float, keys: int) -> Ask:
    import floodgate

    period = datetime.timedelta(seconds=3600)
    return floodgate.FixedMapping(min(burst, 2**31), period).trigger


def rust_py_rate_limit(burst: int, rate: float, keys: int) -> Ask:
    import rust_py_rate_limit

    return rust_py_rate_limit.RateLimiter(limit=min(burst, 2**31), window_seconds=3600).allow


def throttled_py(burst: int, rate: float, keys: int) -> Ask:
    import throttled

    limiter = throttled.Throttled(
        using=throttled.RateLimiterType.GCRA.value,
        quota=throttled.per_hour(max(1, round(rate * 3600)), burst=burst),
        store=throttled.MemoryStore(options={"MAX_SIZE": 2 * keys + 10}),
    )
    return limiter.limit


def limits(burst: int, rate: float, keys: int) -> Ask:
    import limits

    strategy = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    item = limits.RateLimitItemPerHour(burst)
    hit = strategy.hit
    return lambda key: hit(item, key)


def pyrate_limiter(burst: int, rate: float, keys: int) -> Ask:
    import pyrate_limiter

    seconds = pyrate_limiter.Duration.SECOND
    of_key = {}

    def ask(key: Any) -> bool:
        limiter = of_key.get(key)
        if limiter is None:
            limit = pyrate_limiter.Rate(burst, seconds * 3600)
            limiter = of_key[key] = pyrate_limiter.Limiter(limit)
        return limiter.try_acquire("x", blocking=False)

    return ask


def aiolimiter(burst: int, rate: float, keys: int) -> Ask:
    """It can take a token without waiting only after a separate check."""
    import aiolimiter

    of_key: dict[Any, Any] = {}

    def ask(key: Any) -> bool:
        limiter = of_key.get(key)
        if limiter is None:
            limiter = of_key[key] = aiolimiter.AsyncLimiter(burst, burst / rate)
        if not limiter.has_capacity():
            return False
        with contextlib.suppress(StopIteration):
            limiter.acquire().send(None)
        return True

    return ask


# name -> (factory, kind of key, whether a decision takes microseconds)
IMPLEMENTATIONS: dict[str, tuple[Callable[[int, float, int], Ask], str, bool]] = {
    "rcmgr": (rcmgr_table, "bytes", False),
    "rcmgr, ID": (rcmgr_table, "ID", False),
    "floodgate-rs": (floodgate, "bytes", False),
    "floodgate-rs, ID": (floodgate, "ID", False),
    "rust-py-rate-limit": (rust_py_rate_limit, "str", False),
    "token-bucket": (token_bucket, "bytes", False),
    "libp2p.rcmgr, installed": (libp2p_limiter(DropInRateLimiter, True), "ID", True),
    "libp2p.rcmgr, monitoring off": (libp2p_limiter(RateLimiter, False), "ID", True),
    "libp2p.rcmgr": (libp2p_limiter(RateLimiter, True), "ID", True),
    "aiolimiter": (aiolimiter, "bytes", True),
    "throttled-py": (throttled_py, "str", True),
    "limits": (limits, "str", True),
    "pyrate-limiter": (pyrate_limiter, "bytes", True),
}


def as_kind(raw: list[bytes], kind: str) -> list[Any]:
    if kind == "ID":
        return [ID(key) for key in raw]
    return [key.hex() for key in raw] if kind == "str" else raw


def decide(ask: Ask, keys: list[Any]) -> None:
    for key in keys:
        ask(key)


def decisions(count: int, denied: bool, names: list[str]) -> dict[str, float]:
    """Nanoseconds per decision by implementation."""
    draw = random.Random(count)
    raw = [draw.randbytes(38) for _ in range(count)]
    picked = [draw.randrange(count) for _ in range(min(SAMPLE, 20 * count))]
    burst, rate = (NO_BURST, NO_RATE) if denied else (BURST, RATE)
    runs: dict[str, Callable[[], None]] = {}
    all_keys = {kind: as_kind(raw, kind) for kind in {IMPLEMENTATIONS[name][1] for name in names}}
    for name in names:
        make, kind, _ = IMPLEMENTATIONS[name]
        ask = make(burst, rate, count)
        keys = all_keys[kind]
        decide(ask, keys)  # makes every bucket, and empties it if `denied`
        runs[name] = partial(decide, ask, [keys[i] for i in picked])
    return fastest(runs, rounds=ROUNDS, operations=len(picked))


def many_buckets(count: int, denied: bool) -> Figures:
    names = [
        name for name, (_, _, slow) in IMPLEMENTATIONS.items() if not slow or count < SLOW_FROM]
    best = decisions(count, denied, names)
    figures: Figures = {}
    for name, nanoseconds in best.items():
        what = f"{name}, {count:,} keys, {'denied' if denied else 'allowed'}"
        ours = best["rcmgr, ID" if IMPLEMENTATIONS[name][1] == "ID" else "rcmgr"]
        figures |= {f"{what}: ns": nanoseconds, f"{what}: times rcmgr": nanoseconds / ours}
    return figures


def one_bucket() -> Figures:
    """A single bucket against a call that only reads the same clock."""
    calls = {"clock": time.monotonic_ns, "try_consume": TokenBucket(BURST, RATE).try_consume}
    runs = {name: repeated(call, CALLS) for name, call in calls.items()}
    best = fastest(runs, rounds=200, operations=CALLS)
    return {
        "one TokenBucket: ns": best["try_consume"],
        "one TokenBucket: times time.monotonic_ns()": best["try_consume"] / best["clock"],
    }


def one_drop_in_bucket() -> Figures:
    """py-libp2p's `TokenBucket`, stock and after `rcmgr.install()`."""
    figures: Figures = {}
    for denied in (False, True):
        tokens = 0.0 if denied else 1e8
        for monitoring in (False, True):
            config = TokenBucketConfig(1e-6, 1e8, tokens, enable_monitoring=monitoring)
            best = fastest(
                {name: repeated(kind(config).try_consume, CALLS)
                 for name, kind in (("rcmgr", DropInTokenBucket), ("libp2p", StockTokenBucket))},
                rounds=15, operations=CALLS)
            what = (f"libp2p's TokenBucket, installed, {'denied' if denied else 'allowed'}, "
                    f"monitoring {'on' if monitoring else 'off'}")
            figures |= {
                f"{what}: ns": best["rcmgr"], f"{what}: libp2p ns": best["libp2p"],
                f"{what}: times faster": best["libp2p"] / best["rcmgr"]}
    return figures


def memory_and_pauses(count: int = 1_000_000) -> Figures:
    draw = random.Random(3)
    keys = [draw.randbytes(38) for _ in range(count)]
    table = BucketTable(BURST, 1.0 * BURST / 3600, max_peers=2 * count)
    tracemalloc.start()
    for key in keys:
        table.try_consume(key, BURST)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    table = BucketTable(BURST, 1.0 * BURST / 3600, max_peers=2 * count)
    longest = 0
    gc.disable()
    for key in keys:
        start = time.thread_time_ns()  # without the time of other processes
        table.try_consume(key, BURST)
        longest = max(longest, time.thread_time_ns() - start)
    gc.enable()
    return {
        f"bucket, {count:,} keys: bytes": used / count,
        f"bucket, {count:,} keys: longest pause, ms": longest / 1e6,
    }


async def all_figures() -> Figures:
    """A coroutine, because aiolimiter reads the clock of the running event loop."""
    figures = one_bucket() | one_drop_in_bucket() | memory_and_pauses()
    for count in KEYS:
        for denied in (False, True):
            figures |= many_buckets(count, denied)
    return figures


def measure() -> Figures:
    return asyncio.run(all_figures())


if __name__ == "__main__":
    sys.exit(benchmark_main("counting.token_bucket", __doc__, measure, processes=3))
