"""The cost of scopes: rcmgr's ledger, a ledger of Python dictionaries, and libp2p.rcmgr 0.8.1.

    python -m benchmarks.counting.scope [--processes N] [--check]

All implementations by turns in one process, and the fastest of many rounds. Each operation is for
another connected peer, in random order. Each line is the median of several fresh processes. The
number in a name counts the connected peers. --check: exit status 1 if a target of thresholds.toml
is missed.
"""

from __future__ import annotations

import gc
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
from libp2p.peer.id import ID

from benchmarks.timing import fastest, noop, peer_ids
from benchmarks.verdict import Figures, benchmark_main, fresh_process
from rcmgr import ConcreteLimits, Ledger, Limit

MODULE = "benchmarks.counting.scope"
ROUNDS, SAMPLE = 9, 2_000
PEERS = (10, 1_000, 100_000)
MANY = Limit(*[2**40] * 8)  # limits that nothing reaches
LIMITS = ConcreteLimits(**dict.fromkeys(ConcreteLimits.scopes(), MANY))
PROTOCOL = "/ipfs/kad/1.0.0"

Run = Callable[[list[Any]], None]


def ledger_runs(peers: list[ID]) -> tuple[dict[str, Run], Any]:
    ledger = Ledger(LIMITS)
    kept = []
    for peer in peers:
        kept.append(ledger.open_connection())
        kept[-1].set_peer(peer)
    full = Ledger(ConcreteLimits(system=Limit(conns=0)))

    def connection(sample: list[Any]) -> None:
        for peer in sample:
            scope: Any = ledger.try_open_connection(True)
            scope.try_set_peer(peer)
            scope.close()

    def stream(sample: list[Any]) -> None:
        for peer in sample:
            scope: Any = ledger.try_open_stream(peer, True)
            scope.try_set_protocol(PROTOCOL)
            scope.close()

    def refusal(sample: list[Any]) -> None:
        for _ in sample:
            full.try_open_connection(True)

    def counted_stream(sample: list[Any]) -> None:
        for peer in sample:
            ledger.acquire_stream(peer, True)
            ledger.release_stream(peer, True)

    def counted_connection(sample: list[Any]) -> None:
        for _ in sample:
            scope: Any = ledger.try_open_connection(True)
            scope.close()

    def call(sample: list[Any]) -> None:
        for _ in sample:
            noop()

    return {
        "connection": connection, "stream": stream, "refusal": refusal,
        "count a stream": counted_stream, "count a connection": counted_connection, "call": call,
    }, kept


class PlainLedger:
    """The simplest code that keeps the same counts: dictionaries, and all or nothing."""

    def __init__(self) -> None:
        self.held: dict[Any, int] = defaultdict(int)

    def charge(self, chain: tuple[Any, ...], limit: int = 2**40) -> bool:
        held = self.held
        for name in chain:
            if held[name] + 1 > limit:
                return False
        for name in chain:
            held[name] += 1
        return True

    def give_back(self, chain: tuple[Any, ...]) -> None:
        held = self.held
        for name in chain:
            held[name] -= 1
            if held[name] == 0:
                del held[name]


def plain_runs(peers: list[ID]) -> tuple[dict[str, Run], Any]:
    ledger = PlainLedger()
    for peer in peers:
        ledger.charge(("system", peer._bytes))

    def connection(sample: list[Any]) -> None:
        for peer in sample:
            key = peer._bytes
            ledger.charge(("conn", "transient", "system"))
            ledger.charge((key,))
            ledger.give_back(("transient",))
            ledger.give_back(("conn", key, "system"))

    def stream(sample: list[Any]) -> None:
        for peer in sample:
            key = peer._bytes
            ledger.charge(("stream", key, "transient", "system"))
            ledger.charge((PROTOCOL, (PROTOCOL, key)))
            ledger.give_back(("transient",))
            ledger.give_back(("stream", key, (PROTOCOL, key), PROTOCOL, "system"))

    def refusal(sample: list[Any]) -> None:
        for _ in sample:
            ledger.charge(("conn", "transient", "system"), 0)

    return {"connection": connection, "stream": stream, "refusal": refusal}, None


def libp2p_runs(peers: list[ID]) -> tuple[dict[str, Run], Any]:
    from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
    from libp2p.rcmgr.metrics import Direction

    manager = ResourceManager(
        ResourceLimits(max_connections=10**9, max_streams=10**9), enable_rate_limiting=False,
        enable_memory_limits=False,
    )
    texts = {peer: str(peer) for peer in peers}

    def stream(sample: list[Any]) -> None:
        for peer in sample:
            text = texts[peer]
            manager.acquire_stream(text, Direction.INBOUND)
            manager.release_stream(text, Direction.INBOUND)

    def connection(sample: list[Any]) -> None:
        for peer in sample:
            scope: Any = manager.open_connection(peer)
            scope.close()

    return {"count a stream": stream, "count a connection": connection}, manager


def bytes_per_peer(count: int = 100_000) -> float:
    """Resident bytes of scopes and keys in a fresh process, without the ID around a key."""
    return float(fresh_process(MODULE, "--bytes", str(count)))


def grown_by(count: int) -> float:
    keys = [peer._bytes for peer in peer_ids(count)]
    ledger = Ledger(LIMITS)
    kept: list[Any] = [None] * len(keys)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for i, key in enumerate(keys):
        kept[i] = ledger.open_connection()
        kept[i].set_peer(key)
    return (psutil.Process().memory_info().rss - before) / len(keys) + sys.getsizeof(keys[0])


def measure() -> Figures:
    figures: Figures = {}
    least: dict[str, float] = {}
    for count in PEERS:
        peers = peer_ids(count)
        sample = random.Random(2).choices(peers, k=SAMPLE)
        makers = {"ledger": ledger_runs, "plain": plain_runs, "libp2p": libp2p_runs}
        made = {name: make(peers) for name, make in makers.items()}
        times = fastest(
            {f"{name}/{what}": partial(run, sample) for name, (runs, _) in made.items()
             for what, run in runs.items()},
            rounds=ROUNDS,
            operations=len(sample),
        )
        call = times.pop("ledger/call")
        for what in [each for each in made["ledger"][0] if each != "call"]:
            ours = times[f"ledger/{what}"]
            name = f"{what}, {count:,}"
            figures[f"{name}: ns"] = ours
            figures[f"{name}: calls"] = ours / call
            for other in ("plain", "libp2p"):
                if (theirs := times.get(f"{other}/{what}")) is not None:
                    figures[f"{name}: {other} ns"] = theirs
                    figures[f"{name}: times faster than {other}"] = theirs / ours
            figures[f"{name}: times slower than with {PEERS[0]}"] = ours / least.setdefault(
                what, ours)
    figures["connected peer in the ledger, 100,000: bytes"] = bytes_per_peer()
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bytes"]:
        print(grown_by(int(sys.argv[2])))
        sys.exit(0)
    sys.exit(benchmark_main("counting.scope", __doc__, measure))
