"""What it costs to say no, to tell of it, and to have nobody to tell.

    python benchmarks/events.py [--processes N] [--check]

denials: through the manager, its log of denials and its metrics on, against libp2p.rcmgr 0.8.1 in
the same process, by turns; nanoseconds, minima of many rounds. A limit on states is asked last, and
what was taken before is given back.
events: a connection's life with events that nobody observes, against the same without them: three
events admitted by a handler, all that a swarm asks of the manager of an observed host for one TCP
connection, and the processor's time of two real hosts for dialling and hanging up.
a flood: what ten seconds of ten thousand denials, all of made-up peers, leave behind.

Fresh processes; the median of their figures and ratios. --check: exit status 1 if a target is
missed.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import logging
import random
import statistics
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import manager as benchmark
from libp2p.peer.id import ID

import rcmgr
from rcmgr.events import handler as lifecycle_handler

SAMPLE, ROUNDS = 300, 15
DIALS = 150
PER_SECOND, SECONDS = 10_000, 10
MOST_NS, LEAST_TIMES, MOST_OVERHEAD, MOST_BYTES = 400, 30, 3.0, 50_000

Run = Callable[[], None]
Figures = dict[str, float]
NEVER = rcmgr.ConnectionLimits(*[10**9] * 6)


def best_of(runs: list[Run], rounds: int = ROUNDS) -> list[float]:
    """Nanoseconds of the fastest round of each, by turns."""
    best = [float("inf")] * len(runs)
    order = list(enumerate(runs))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for i, run in order:
                run()
                start = time.perf_counter_ns()
                run()
                best[i] = min(best[i], time.perf_counter_ns() - start)
            order.reverse()
    finally:
        gc.enable()
    return best


# -- denials ---------------------------------------------------------------------------------------


def watched(limits: Any, connections: Any = None) -> rcmgr.ResourceManager:
    """With metrics that somebody scrapes, and as much of a log as by default."""
    from prometheus_client import CollectorRegistry, generate_latest

    from rcmgr.report.metrics import MetricsCollector

    manager = rcmgr.ResourceManager(limits, connection_limits=connections)
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager))
    generate_latest(registry)
    return manager


def denials() -> Figures:
    peers = benchmark.peers_of(SAMPLE)
    texts = [str(peer) for peer in peers]
    full, theirs = watched(rcmgr.ResourceLimits(0, 10**6, 0)), benchmark.full_stock()
    by_state = watched(
        rcmgr.ResourceLimits(10**9, 10**6, 10**9),
        rcmgr.ConnectionLimits(max_established_inbound=0))

    def known(manager: Any) -> Run:
        def run() -> None:
            for peer in peers:
                manager.open_connection(peer, None, "inbound")

        return run

    def unknown(manager: Any) -> Run:
        def run() -> None:
            for _ in peers:
                manager.open_connection(None, "192.0.2.1", "inbound")

        return run

    def stream(manager: Any) -> Run:
        def run() -> None:
            for text in texts:
                manager.acquire_stream(text, "inbound")

        return run

    found: Figures = {}
    for what, ours, stock in (
        ("a connection", known(full), known(theirs)),
        ("... before its handshake", unknown(full), unknown(theirs)),
        ("... by its state", known(by_state), None),
        ("a stream", stream(full), None),
    ):
        best = [each / SAMPLE for each in best_of([ours] if stock is None else [ours, stock])]
        found[f"deny {what}, ns"] = best[0]
        if stock is not None:
            found[f"deny {what}, libp2p ns"] = best[1]
            found[f"deny {what}, times faster"] = best[1] / best[0]
    return found


# -- events ----------------------------------------------------------------------------------------


def finish(work: Coroutine[Any, Any, Any]) -> None:
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("it suspended")


def of_a_lifecycle() -> tuple[Run, Run]:
    """Admitting alone, and telling nobody besides."""
    handler = rcmgr.ConnectionLifecycleHandler(rcmgr.ConnectionTracker(), NEVER)
    lives = [
        (
            rcmgr.PendingInboundConnectionEvent(connection_id=number),
            rcmgr.EstablishedInboundConnectionEvent(connection_id=number, peer_id=b"peer"),
            rcmgr.ConnectionClosedEvent(connection_id=number, peer_id=b"peer"),
        )
        for number in range(SAMPLE)
    ]

    # the same function without the lines that tell
    telling = "    if self._observers:\n        self.notify(event)\n"
    source = textwrap.dedent(inspect.getsource(rcmgr.ConnectionLifecycleHandler.handle_event))
    assert source.count(telling) == 1
    names = dict(vars(lifecycle_handler))
    exec(source.replace(telling, ""), names)

    class Deaf(rcmgr.ConnectionLifecycleHandler):
        handle_event = names["handle_event"]

    deaf = Deaf(rcmgr.ConnectionTracker(), NEVER)

    def living(handler: rcmgr.ConnectionLifecycleHandler) -> Run:
        def run() -> None:
            for life in lives:
                for event in life:
                    handler.handle_event(event)

        return run

    return living(deaf), living(handler)


def of_a_swarms_calls(observed: Any, plain: Any) -> tuple[Run, Run]:
    """Before the handshake, after it, the swarm's own table, and the end of it."""
    peers = benchmark.peers_of(SAMPLE)

    def living(manager: Any) -> Run:
        lifecycle = manager.connection_lifecycle

        def run() -> None:
            for number, peer in enumerate(peers):
                name = str(number)
                before = manager.open_connection(None, endpoint_ip=None, direction="inbound")
                scope = manager.open_connection(peer, endpoint_ip=None, direction="inbound")
                before.close()
                lifecycle.reconcile_live_connections(set())
                finish(lifecycle.handle_established_inbound_connection(name, peer, None, None))
                scope.close()
                lifecycle.notify_connection_closed(name, peer)

        return run

    return living(plain), living(observed)


async def of_hosts() -> Figures:
    import trio
    from libp2p import new_host
    from libp2p.network.config import ConnectionConfig, RetryConfig
    from multiaddr import Multiaddr

    from rcmgr.libp2p import HostObserver, observe

    async def run_host(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        manager = rcmgr.ResourceManager(rcmgr.ResourceLimits(10**6), connection_limits=NEVER)
        host = new_host(
            resource_manager=manager,
            connection_config=ConnectionConfig(
                min_connections=0, low_watermark=0, high_watermark=10**6, max_connections=10**6,
                max_connections_per_peer=10**6),
        )
        host.get_network().retry_config = RetryConfig(max_retries=0)
        async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            await host.get_network().auto_connector.stop()
            task_status.started((host, manager))
            await trio.sleep_forever()

    found: Figures = {}
    async with trio.open_nursery() as nursery:
        (host, manager), (other, _), (_, unobserved) = [
            await nursery.start(run_host) for _ in range(3)]

        def observers() -> list[HostObserver]:
            return [observe(each) for each in (host, other)]

        async def dial() -> float:
            """Of the processor, microseconds."""
            start = time.process_time_ns()
            connection = await host.get_network().dial_addr(other.get_addrs()[0], other.get_id())
            await connection.close()
            return (time.process_time_ns() - start) / 1000

        observing = observers()
        plain, observed = best_of(list(of_a_swarms_calls(manager, unobserved)))
        for each in observing:
            each.undo()
        found["a swarm's calls, ns"] = plain / SAMPLE
        found["a swarm's calls, % more when observed by nobody"] = 100 * (observed / plain - 1)
        without, with_observers = [], []
        for _ in range(DIALS):
            without.append(await dial())
            observing = observers()
            with_observers.append(await dial())
            for each in observing:
                each.undo()
        nursery.cancel_scope.cancel()
    plain, observed = min(without), min(with_observers)
    found["two hosts: dial and hang up, us of the processor"] = plain
    found["two hosts: dial and hang up, % more when observed by nobody"] = (
        100 * (observed / plain - 1))
    return found


def events() -> Figures:
    import trio

    bare, told = (each / SAMPLE for each in best_of(list(of_a_lifecycle()), 4 * ROUNDS))
    found = {
        "a lifecycle of three events, ns": bare,
        "a lifecycle of three events, % more with nobody to tell": 100 * (told / bare - 1),
    }
    return found | trio.run(of_hosts)


# -- a flood ---------------------------------------------------------------------------------------


def flood() -> Figures:
    manager = watched(rcmgr.ResourceLimits(0, 10**6, 0))
    draw = random.Random(1)

    def second() -> None:
        for _ in range(PER_SECOND):
            manager.open_connection(ID(draw.randbytes(38)), None, "inbound")

    second()
    gc.collect()
    tracemalloc.start()
    second()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(SECONDS):
        second()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {
        "a flood, bytes more after 100,000 denials": after - before,
        "a flood, denials kept": len(manager.denials),
    }


def target(what: str) -> tuple[float | None, float | None]:
    """At least, at most. libp2p's answer before a handshake asks next to nothing."""
    if what == "deny a connection, times faster":
        return LEAST_TIMES, None
    if what in ("deny a connection, ns", "deny a stream, ns"):
        return None, MOST_NS
    if "% more" in what:
        return None, MOST_OVERHEAD
    return (None, MOST_BYTES) if "bytes" in what else (None, None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        logging.disable(logging.ERROR)
        json.dump(denials() | events() | flood(), sys.stdout)
        return 0
    seen: dict[str, list[float]] = {}
    for _ in range(options.processes):
        run = subprocess.run(
            [sys.executable, __file__, "--once"], check=True, stdout=subprocess.PIPE)
        for what, value in json.loads(run.stdout).items():
            seen.setdefault(what, []).append(value)
    missed = 0
    for what, values in seen.items():
        value = statistics.median(values)
        least, most = target(what)
        verdict = ""
        if least is not None or most is not None:
            met = (least is None or value >= least) and (most is None or value <= most)
            missed += not met
            bound = f"at most {most:g}" if least is None else f"at least {least:g}"
            verdict = f"  {'ok' if met else 'MISSED'} ({bound})"
        print(f"{what:<62}{value:>11,.1f}{verdict}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
