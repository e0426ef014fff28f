"""Two threads against one, on a free-threaded build of Python: how much more work they do.

    python3.13t -m benchmarks.threads [--processes N] [--check]

Each thread works on other peers. "one each": on a separate object: a tracker, a ledger, a table
of buckets, or a manager. "shared": both threads use one object. "times the work of one" is the work
of two threads in the time that one thread needs for half the work. "lost counts" is what a shared
object still counts after all work on the same peers.

Three floors are CPython alone. "a lock": its lock, taken and given back. "a call": a method of an
object, which only reads it, looked up for each call. "a reference": a tuple made around an object.
CPython counts the references to an object in the object. Our works look up their methods once for
each thread. It needs a build without the GIL, and no libp2p. --check: exit status 1 if a target of
thresholds.toml is missed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import rcmgr
from benchmarks.verdict import Figures, benchmark_main

PEERS, PASSES, ROUNDS = 200, 100, 9
MANY = 10**9

Work = Callable[[list[bytes]], None]
Made = tuple[Work, Callable[[], int]]
"""Work on some peers, and a function that returns what the object counts."""


def peers_of(thread: int) -> list[bytes]:
    return [
        b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big")
        for number in range(thread * PEERS, (thread + 1) * PEERS)]


def loop() -> Made:
    """The most that two threads of this Python can do on this machine."""

    def work(peers: list[bytes]) -> None:
        number = 0
        for _ in range(PASSES * len(peers)):
            number ^= 1

    return work, lambda: 0


def lock() -> Made:
    shared = threading.Lock()

    def work(peers: list[bytes]) -> None:
        acquire, release = shared.acquire, shared.release
        for _ in range(PASSES * len(peers)):
            acquire()
            release()

    return work, lambda: int(shared.locked())


def call() -> Made:
    shared = threading.Lock()

    def work(peers: list[bytes]) -> None:
        for _ in range(PASSES * len(peers)):
            shared.locked()

    return work, lambda: 0


def reference() -> Made:
    shared = object()

    def work(peers: list[bytes]) -> None:
        for _ in range(PASSES * len(peers)):
            (shared,)  # noqa: B018

    return work, lambda: 0


def tracker() -> Made:
    shared = rcmgr.ConnectionTracker()

    def work(peers: list[bytes]) -> None:
        pend, establish = shared.admit_pending_inbound, shared.admit_established_inbound
        remove, limits = shared.remove_connection, rcmgr.ConnectionLimits(*[MANY] * 6)
        names = [(threading.get_ident(), peer) for peer in peers]
        for _ in range(PASSES):
            for name, peer in zip(names, peers, strict=True):
                pend(name, limits)
                establish(name, peer, limits)
                remove(name)

    return work, lambda: len(shared.established_inbound) + len(shared.pending_inbound)


def ledger() -> Made:
    many = rcmgr.Limit(*[2**40] * 8)
    shared = rcmgr.Ledger(
        rcmgr.ConcreteLimits(**dict.fromkeys(rcmgr.ConcreteLimits.scopes(), many)))

    def work(peers: list[bytes]) -> None:
        try_open_connection = shared.try_open_connection
        for _ in range(PASSES):
            for peer in peers:
                scope: Any = try_open_connection(True)
                scope.try_set_peer(peer)
                scope.close()

    return work, lambda: shared.snapshot()["system"]["conns_inbound"]


def buckets() -> Made:
    shared = rcmgr.BucketTable(MANY, 1.0, max_peers=10 * PEERS)

    def work(peers: list[bytes]) -> None:
        try_consume = shared.try_consume
        for _ in range(PASSES):
            for peer in peers:
                try_consume(peer)

    return work, lambda: 0


def manager() -> Made:
    shared = rcmgr.ResourceManager(rcmgr.ResourceLimits(MANY, 10**6, MANY))

    def work(peers: list[bytes]) -> None:
        open_connection = shared.open_connection
        for _ in range(PASSES):
            for peer in peers:
                scope: Any = open_connection(peer, None, "inbound")
                scope.close()

    return work, lambda: (
        shared.ledger.snapshot()["system"]["conns_inbound"]
        + len(shared.connection_tracker.established_inbound))


WORKS: dict[str, Callable[[], Made]] = {
    "a loop": loop, "a lock": lock, "a call": call, "a reference": reference, "tracker": tracker,
    "ledger": ledger, "bucket table": buckets, "manager": manager}


def seconds(parts: list[tuple[Work, list[bytes]]]) -> float:
    """The time until one thread for each part has done its work."""
    start = threading.Barrier(len(parts))
    begun: list[float] = []
    ended: list[float] = []

    def run(work: Work, peers: list[bytes]) -> None:
        start.wait()
        begun.append(time.perf_counter())
        work(peers)
        ended.append(time.perf_counter())

    threads = [threading.Thread(target=run, args=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(ended) - min(begun)


def measure() -> Figures:
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        raise SystemExit("this Python has a GIL: run a free-threaded build, as python3.13t")
    first, second = peers_of(0), peers_of(1)
    found: Figures = {}
    for name, make in WORKS.items():
        (work, count), (other, _) = make(), make()
        one = apart = shared = float("inf")
        for _ in range(ROUNDS):
            one = min(one, seconds([(work, first)]))
            apart = min(apart, seconds([(work, first), (other, second)]))
            shared = min(shared, seconds([(work, first), (work, second)]))
        seconds([(work, first), (work, first)])
        found |= {
            f"{name}: ns with one thread": 1e9 * one / (PASSES * PEERS),
            f"{name}, one each: times the work of one": 2 * one / apart,
            f"{name}, shared: times the work of one": 2 * one / shared,
            f"{name}: lost counts": count(),
        }
    return found


if __name__ == "__main__":
    sys.exit(benchmark_main("threads", __doc__, measure, processes=3))
