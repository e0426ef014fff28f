"""What one rate decision costs: rcmgr's bucket table and what people would use instead.

    pip install '.[bench]' && python benchmarks/rates.py [--keys 1,1000] [--all]

One process; the implementations by turns, each a warm round and a timed one; minima, nanoseconds
per decision, and how many times rcmgr's (with the same kind of key) that is. Keys are 38 random
bytes, asked for in random order. "denied": every key's bucket is empty. Those that need
microseconds are left out from 100,000 keys on, unless --all is given (minutes).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import gc
import math
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from libp2p.peer.id import ID
from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimiter, RateLimitScope
from libp2p.rcmgr.token_bucket import TokenBucket as StockTokenBucket
from libp2p.rcmgr.token_bucket import TokenBucketConfig

from rcmgr import BucketTable, TokenBucket
from rcmgr.libp2p.dropin.rate_limiter import RateLimiter as DropInRateLimiter
from rcmgr.libp2p.dropin.token_bucket import TokenBucket as DropInTokenBucket

SLOW_FROM = 100_000
SAMPLE = 20_000
BURST, RATE = 10**9, 1.0         # always allowed, and never full again
NO_BURST, NO_RATE = 1, 1 / 3600  # allowed once

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
    """It has no way to take without waiting but to ask first, as here."""
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


# name -> (what makes the question, how it wants its keys, whether it needs microseconds)
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


def measure(count: int, denied: bool, names: list[str], rounds: int) -> dict[str, float]:
    """Nanoseconds per decision by implementation."""
    draw = random.Random(count)
    raw = [draw.randbytes(38) for _ in range(count)]
    picked = [draw.randrange(count) for _ in range(min(SAMPLE, 20 * count))]
    burst, rate = (NO_BURST, NO_RATE) if denied else (BURST, RATE)
    subjects: dict[str, tuple[Ask, list[Any]]] = {}
    all_keys = {kind: as_kind(raw, kind) for kind in {IMPLEMENTATIONS[name][1] for name in names}}
    for name in names:
        make, kind, _ = IMPLEMENTATIONS[name]
        ask = make(burst, rate, count)
        keys = all_keys[kind]
        decide(ask, keys)  # every key is known from now on, and its bucket empty if that is asked
        subjects[name] = (ask, [keys[i] for i in picked])
    best = dict.fromkeys(names, float("inf"))
    order = list(names)
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name in order:
            ask, keys = subjects[name]
            decide(ask, keys)
            start = time.perf_counter_ns()
            decide(ask, keys)
            best[name] = min(best[name], (time.perf_counter_ns() - start) / len(keys))
        order.reverse()
    gc.enable()
    return best


def report(count: int, denied: bool, best: dict[str, float]) -> None:
    print(f"\n{count:,} keys, {'denied' if denied else 'allowed'}")
    for name, nanoseconds in best.items():
        ours = best["rcmgr, ID" if IMPLEMENTATIONS[name][1] == "ID" else "rcmgr"]
        print(f"  {name:30} {nanoseconds:10,.0f} ns {nanoseconds / ours:8.1f}")


def one_bucket() -> None:
    """A single bucket against a method that only reads the same clock."""
    bucket = TokenBucket(BURST, RATE)
    best = {"no-op": float("inf"), "try_consume": float("inf")}
    methods = {"no-op": bucket._noop, "try_consume": bucket.try_consume}
    for _ in range(200):
        for name, method in methods.items():
            start = time.perf_counter_ns()
            for _ in range(1_000):
                method()
            best[name] = min(best[name], (time.perf_counter_ns() - start) / 1_000)
    ratio = best["try_consume"] / best["no-op"]
    print("TokenBucket.try_consume() against a no-op that reads the same clock: "
          f"{best['try_consume']:.1f} ns, {ratio:.2f} times (at most 2)")


def one_drop_in_bucket(rounds: int = 15, calls: int = 2_000) -> None:
    """py-libp2p's `TokenBucket` as it is, and as it is with `rcmgr.install()`."""
    for denied in (False, True):
        tokens = 0.0 if denied else 1e8
        best = {
            (name, monitoring): (
                kind(TokenBucketConfig(1e-6, 1e8, tokens, enable_monitoring=monitoring)), math.inf)
            for name, kind in (("installed", DropInTokenBucket), ("libp2p", StockTokenBucket))
            for monitoring in (False, True)
        }
        for _ in range(rounds):
            for which, (bucket, least) in best.items():
                ask = bucket.try_consume
                start = time.perf_counter_ns()
                for _ in range(calls):
                    ask()
                best[which] = bucket, min(least, (time.perf_counter_ns() - start) / calls)
        print(f"libp2p.rcmgr's TokenBucket, {'denied' if denied else 'allowed'}: " + ", ".join(
            f"{name}{'' if monitoring else ', monitoring off'} {least:,.0f} ns"
            for (name, monitoring), (_, least) in best.items()))


def memory_and_pauses(count: int = 1_000_000) -> None:
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
        start = time.thread_time_ns()  # the other processes' turns are not pauses of ours
        table.try_consume(key, BURST)
        longest = max(longest, time.thread_time_ns() - start)
    gc.enable()
    print(f"{count:,} keys: {used / count:.1f} bytes each beside the keys (at most 40), "
          f"longest pause {longest / 1e6:.2f} ms (at most 0.5)")


async def main() -> None:
    """A coroutine, as aiolimiter reads the running event loop's clock."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", default="1,1000,100000,1000000")
    parser.add_argument("--all", action="store_true", help="the slow ones at every size")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    one_bucket()
    one_drop_in_bucket()
    memory_and_pauses()
    for count in [int(number) for number in options.keys.split(",")]:
        names = [
            name
            for name, (_, _, slow) in IMPLEMENTATIONS.items()
            if options.all or not slow or count < SLOW_FROM
        ]
        for denied in (False, True):
            report(count, denied, measure(count, denied, names, options.rounds))


if __name__ == "__main__":
    asyncio.run(main())
