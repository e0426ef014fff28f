"""`rcmgr bench`: what the manager costs on this machine, compared with libp2p.rcmgr."""

from __future__ import annotations

import json
import logging
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rcmgr.cli.demo.command import finite
from rcmgr.cli.terminal import stdout_console
from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.connection_tracker import ConnectionTracker
from rcmgr.limits.parts import ResourceLimits
from rcmgr.manager import ResourceManager

__all__ = ["Measured", "bench", "measure"]

SIZES = (1_000, 100_000)
SAMPLE, MANY, LEAST_ROUNDS = 2_000, 10**9, 3
ID_PREFIX = bytes.fromhex("002408011220")
"""The start of a peer id of an Ed25519 key, which has 38 bytes."""

Run = Callable[[list[Any]], None]
"""Does an operation once for each of some peers."""


class Measured(NamedTuple):
    operation: str
    peers: int
    rcmgr_ns: float
    libp2p_ns: float | None


def tracker(kind: Any, limits: Any, peers: list[Any]) -> Run:
    """The states of a connection. libp2p's tracker applies no limits."""
    tracked = kind(limits) if limits is not None else kind()
    for number, peer in enumerate(peers):
        tracked.move_to_established_inbound(str(number), peer)

    def run(sample: list[Any]) -> None:
        pend, remove = tracked.add_pending_inbound, tracked.remove_connection
        establish = tracked.move_to_established_inbound
        for peer in sample:
            pend("new")
            establish("new", peer)
            remove("new", peer)

    return run


def connections(manager: Any, peers: list[Any]) -> Run:
    held = [manager.open_connection(peer, None, "inbound") for peer in peers]

    def run(sample: list[Any], held: Any = held) -> None:  # it keeps the others connected
        for peer in sample:
            manager.open_connection(peer, None, "inbound").close()

    return run


def streams(manager: Any, peers: list[Any]) -> Run:
    held = [manager.open_connection(peer, None, "inbound") for peer in peers]

    def run(sample: list[Any], held: Any = held) -> None:
        for peer in sample:
            manager.acquire_stream(peer, "inbound")
            manager.release_stream(peer, "inbound")

    return run


def denials(manager: Any, peers: list[Any]) -> Run:
    def run(sample: list[Any]) -> None:
        for peer in sample:
            manager.open_connection(peer, None, "inbound")

    return run


def decisions(allow: Callable[[Any], object], peers: list[Any]) -> Run:
    def run(sample: list[Any]) -> None:
        for peer in sample:
            allow(peer)

    run(peers)  # every peer has its bucket
    return run


Maker = Callable[[list[Any]], Run]
"""Makes the run of an operation, with so many peers connected."""


def operations() -> dict[str, Maker]:
    return {
        "a connection's states": lambda peers: tracker(ConnectionTracker, None, peers),
        "open and close a connection": lambda peers: connections(
            ResourceManager(ResourceLimits(MANY, 10**6, MANY), fleet=""), peers),
        "acquire and release a stream": lambda peers: streams(
            ResourceManager(ResourceLimits(MANY, 10**6, MANY), fleet=""), peers),
        "deny a connection": lambda peers: denials(
            ResourceManager(ResourceLimits(0, 10**6, 0), fleet=""), peers),
        "decide by rate": lambda peers: decisions(
            BucketTable(MANY, 1.0, max_peers=2 * len(peers)).try_consume, peers),
    }


def libp2p_operations() -> dict[str, Maker]:
    from libp2p.rcmgr.connection_limits import ConnectionLimits as StockStates
    from libp2p.rcmgr.connection_tracker import ConnectionTracker as StockTracker
    from libp2p.rcmgr.manager import ResourceLimits as StockLimits
    from libp2p.rcmgr.manager import ResourceManager as StockManager
    from libp2p.rcmgr.rate_limiter import RateLimitConfig, RateLimiter, RateLimitScope

    def manager(most: int) -> Any:
        return StockManager(
            StockLimits(most, 10**6, MANY), enable_rate_limiting=False, enable_memory_limits=False,
            enable_circuit_breaker=False, enable_graceful_degradation=False)

    def limiter(peers: list[Any]) -> Callable[[Any], object]:
        allow = RateLimiter(RateLimitConfig(
            scope=RateLimitScope.PER_PEER, refill_rate=1.0, capacity=MANY, initial_tokens=MANY,
            max_peers=2 * len(peers), enable_monitoring=False)).try_allow
        return lambda peer: allow(1.0, peer)

    return {
        "a connection's states": lambda peers: tracker(
            StockTracker, StockStates(*[MANY] * 6), peers),
        "open and close a connection": lambda peers: connections(manager(MANY), peers),
        "acquire and release a stream": lambda peers: streams(manager(MANY), peers),
        "deny a connection": lambda peers: denials(manager(0), peers),
        "decide by rate": lambda peers: decisions(limiter(peers), peers),
    }


def peer_ids(count: int, with_libp2p: bool) -> list[Any]:
    draw = random.Random(count)
    ids: list[Any] = [ID_PREFIX + draw.randbytes(32) for _ in range(count)]
    if with_libp2p:
        from libp2p.peer.id import ID

        ids = [ID(each) for each in ids]
    return ids


def measure(with_libp2p: bool, seconds: float) -> Iterator[Measured]:
    """Each operation at each size, in about so many seconds altogether."""
    made, theirs = operations(), libp2p_operations() if with_libp2p else {}
    share = seconds / (len(made) * len(SIZES))
    for size in SIZES:
        peers = peer_ids(size, with_libp2p)
        sample = random.Random(1).choices(peers, k=SAMPLE)
        for name, make in made.items():
            end = time.monotonic() + share
            runs = [maker(peers) for maker in (make, theirs.get(name)) if maker is not None]
            best = [float("inf")] * len(runs)
            rounds = 0
            while rounds < LEAST_ROUNDS or time.monotonic() < end:
                for number, run in enumerate(runs):
                    start = time.perf_counter_ns()
                    run(sample)
                    took = (time.perf_counter_ns() - start) / SAMPLE
                    best[number] = min(best[number], took)
                rounds += 1
            yield Measured(name, size, best[0], best[1] if with_libp2p else None)


def has_libp2p() -> bool:
    with suppress(ImportError):
        import libp2p.rcmgr  # noqa: F401

        return True
    return False


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True,
    callback=finite, help="The time that all takes. Filling libp2p's tables may take longer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(seconds: float, as_json: bool) -> None:
    """Measure what the manager costs on this machine.

    Does the same work with libp2p.rcmgr by turns, where libp2p is installed. Prints the fastest of
    many rounds. So many peers are connected, and 2,000 of them are chosen at random.
    """
    with_libp2p = has_libp2p()
    if not with_libp2p:
        click.echo(
            "libp2p is not installed, so only rcmgr is measured. "
            "To compare: pip install 'rcmgr[libp2p]'", err=True)
    logging.disable(logging.ERROR)  # the denials of this command have no place in a log
    found = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(SIZES) * len(operations()))
        for each in measure(with_libp2p, seconds):
            found.append(each)
            progress.update(task, advance=1, description=each.operation)
    if as_json:
        click.echo(json.dumps([each._asdict() for each in found], indent=2))
        return
    console = stdout_console()
    console.print(table_of(found))
    console.print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} processors")


def table_of(found: list[Measured]) -> Table:
    table = Table(title="Nanoseconds for each, the fastest of many rounds")
    table.add_column("operation", no_wrap=True)
    for column in ("peers", "rcmgr", "libp2p", "times faster"):
        table.add_column(column, justify="right")
    for each in found:
        theirs = each.libp2p_ns
        table.add_row(
            each.operation, f"{each.peers:,}", f"{each.rcmgr_ns:,.0f}",
            "-" if theirs is None else f"{theirs:,.0f}",
            "-" if theirs is None else f"{theirs / each.rcmgr_ns:,.1f}")
    return table
