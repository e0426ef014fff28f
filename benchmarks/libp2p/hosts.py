"""The work of a real host: stock libp2p 0.8.1, after rcmgr.install(), and with harden=True.

    python -m benchmarks.libp2p.hosts [--processes N] [--seconds S] [--json] [--check]

calls: a swarm's calls of its manager, in nanoseconds, the fastest of many rounds in one process.
refusals: silent connections fill a host on loopback, and other processes connect again and again.
The host counts refusals per second, and its CPU time for each. "full" has `max_connections` set to
50, and "default" has the default limits.
connections: eight peers connect and disconnect again and again.

Every part runs in fresh processes, with the three kinds of host by turns. Figures are medians, for
times and for ratios. --check: exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.timing import drive, fastest, peer_ids
from benchmarks.verdict import ROOT, Figures, Target, fresh_process, parser

MODULE = "benchmarks.libp2p.hosts"
KINDS = ("libp2p", "install", "harden")
SIZES = (10, 1_000, 10_000)
ROUNDS, SAMPLE = 9, 300
LIMIT, ATTACKERS, AT_ONCE, VISITORS = 50, 2, 32, 8
HELD = {"full": LIMIT, "default": 250}  # the swarm itself admits 250 inbound connections
TIMES_BETTER = {  # than libp2p
    "acquire and release a connection": Target(at_least=30),
    "acquire and release a stream": Target(at_least=30),
    "refusals, full: per second": Target(at_least=1.5),
    "refusals, default: per second": Target(at_least=1.5),
}
TIMES_SLOWER = Target(at_most=3)  # with 10,000 live connections than with 10


# -- calls -------------------------------------------------------------------------------------


def managers(limits: Any, **arguments: Any) -> tuple[Any, Any]:
    """Ours and theirs, with the defaults except for rates and limits, which nothing reaches."""
    from libp2p.rcmgr.connection_limits import ConnectionLimits
    from libp2p.rcmgr.manager import ResourceManager as Stock

    from rcmgr.libp2p.dropin.manager import ResourceManager as Ours

    never = 10**9
    arguments = {
        "connections_per_peer_per_sec": never, "burst_connections_per_peer": never,
        "connection_limits": ConnectionLimits(*[never] * 6), **arguments,
    }
    return Ours(limits, **arguments), Stock(limits, **arguments)


def calls() -> Figures:
    from libp2p.rcmgr import Direction, ResourceLimits

    peers = peer_ids(SAMPLE)
    texts = [str(peer) for peer in peers]
    limits = ResourceLimits(10**9, 10**6, 10**9)
    ours, theirs = managers(limits)
    found: Figures = {}

    def connection(manager: Any) -> Callable[[], None]:
        def run() -> None:
            for text in texts:
                manager.acquire_connection(text, None, "inbound")
                manager.release_connection(text, None, "inbound")

        return run

    def stream(manager: Any) -> Callable[[], None]:
        def run() -> None:
            for text in texts:
                manager.acquire_stream(text, Direction.INBOUND)
                manager.release_stream(text, Direction.INBOUND)

        return run

    for what, make in (("connection", connection), ("stream", stream)):
        runs = {"libp2p": make(theirs), "install": make(ours)}
        best = fastest(runs, rounds=ROUNDS, operations=SAMPLE)
        found |= {f"acquire and release a {what}: {kind}": ns for kind, ns in best.items()}
    for size in SIZES:
        few = 100 if size < SIZES[-1] else 10  # libp2p.rcmgr needs milliseconds
        ours, theirs = managers(limits)
        runs = {
            "libp2p": adding(theirs, peers[:few], size), "install": adding(ours, peers[:few], size)}
        best = fastest(runs, rounds=ROUNDS, operations=few)
        found |= {f"add a connection to {size:,}: {kind}": ns for kind, ns in best.items()}
    return found


def adding(manager: Any, peers: list[Any], size: int) -> Callable[[], None]:
    """The calls of a swarm with `size` live connections for one more, until its end."""
    lifecycle = manager.connection_lifecycle
    ids = itertools.count()

    def add(peer: Any) -> tuple[str, Any, Any]:
        connection_id = str(next(ids))
        before = manager.open_connection(None, None, "inbound")
        scope = manager.open_connection(peer, None, "inbound")
        before.close()
        lifecycle.reconcile_live_connections(live)
        drive(lifecycle.handle_established_inbound_connection(connection_id, peer, None, None))
        return connection_id, peer, scope

    live: set[str] = set()
    kept = [add(b"peer %d" % i) for i in range(size)]
    live.update(connection_id for connection_id, _, _ in kept)

    def run() -> None:
        for peer in peers:
            connection_id, _, scope = add(peer)
            scope.close()
            lifecycle.notify_connection_closed(connection_id, peer)

    return run


# -- a host ------------------------------------------------------------------------------------


async def host(kind: str, setting: str, seconds: float) -> Figures:
    """Run a host in this process, for other processes that `visit` or `attack` it."""
    import trio
    from multiaddr import Multiaddr

    if kind != "libp2p":
        import rcmgr

        rcmgr.install(harden=kind == "harden")
    from libp2p import new_host
    from libp2p.rcmgr import ResourceLimits, ResourceManager

    manager = ResourceManager(ResourceLimits(max_connections=LIMIT)) if setting == "full" else None
    guarded = new_host(resource_manager=manager)
    async with guarded.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        address = guarded.get_addrs()[0]
        if setting == "visited":
            others = [("--visit", str(address))]
        else:
            port, held = address.value_for_protocol("tcp"), HELD[setting] // ATTACKERS
            others = [("--attack", str(port), str(held))] * ATTACKERS
        processes = [
            subprocess.Popen(  # noqa: ASYNC220 - the measurement has not begun
                [sys.executable, "-m", MODULE, "--seconds", str(seconds), *arguments], cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for arguments in others
        ]
        for process in processes:
            assert await trio.to_thread.run_sync(process.stdout.readline) == b"ready\n"
        for process in processes:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        cpu, start = time.process_time(), time.perf_counter()
        done = sum([
            int(await trio.to_thread.run_sync(process.stdout.readline)) for process in processes])
        cpu, took = time.process_time() - cpu, time.perf_counter() - start
        for process in processes:
            process.communicate()
    return {"per second": done / took, "CPU each, us": 1e6 * cpu / done}


def attack(port: int, held: int, seconds: float) -> None:
    """Hold silent connections, and connect again each time the host closes one."""
    selector = selectors.DefaultSelector()

    def connect() -> None:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        selector.register(one, selectors.EVENT_READ)

    def refused(timeout: float) -> Iterator[None]:
        for key, _ in selector.select(timeout):
            one: Any = key.fileobj
            try:
                data = one.recv(1)
            except ConnectionError:
                data = b""
            if not data:
                selector.unregister(one)
                one.close()
                yield

    for _ in range(held + AT_ONCE):
        connect()
    time.sleep(1)
    for _ in refused(0):
        connect()
    print("ready", flush=True)
    sys.stdin.readline()
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in refused(0.1):
            count += 1
            connect()
    print(count, flush=True)
    sys.stdin.read()


async def visit(address: str, seconds: float) -> None:
    """Connect and disconnect as several peers."""
    import trio
    from libp2p import new_host
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    info = info_from_p2p_addr(Multiaddr(address))
    count = 0

    async def come_and_go() -> None:
        nonlocal count
        visitor = new_host()
        async with visitor.run(listen_addrs=[]):
            while True:
                await visitor.connect(info)
                await visitor.disconnect(info.peer_id)
                count += 1

    async with trio.open_nursery() as nursery:
        for _ in range(VISITORS):
            nursery.start_soon(come_and_go)
        while count < VISITORS:  # noqa: ASYNC110 - nearly all have connected once
            await trio.sleep(0.1)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        count = 0
        await trio.sleep(seconds)
        print(count, flush=True)
        nursery.cancel_scope.cancel()


# -- all of it ---------------------------------------------------------------------------------


def round_of(kinds: list[str], seconds: float) -> Figures:
    found: Figures = fresh_process(MODULE, "--calls")
    for setting, what in (("full", "refusals, full"), ("default", "refusals, default"),
                          ("visited", "connections")):
        for kind in kinds:
            figures = fresh_process(MODULE, "--host", kind, setting, "--seconds", str(seconds))
            found |= {f"{what}: {name}: {kind}": value for name, value in figures.items()}
    return found


def table(rounds: list[Figures]) -> Iterator[dict[str, Any]]:
    """A line per figure. It has the median of each kind, and how many times better it is."""
    for name in rounds[0]:
        what, _, kind = name.rpartition(": ")
        if kind != "libp2p":
            continue
        line: dict[str, Any] = {"what": what}
        for kind in KINDS:
            values = [each[f"{what}: {kind}"] for each in rounds if f"{what}: {kind}" in each]
            if not values:
                continue
            line[kind] = statistics.median(values)
            theirs = [each[name] for each in rounds]
            more_is_better = what.endswith("per second")
            line[f"{kind}, times"] = statistics.median(
                mine / other if more_is_better else other / mine
                for mine, other in zip(values, theirs, strict=True))
        yield line


def missed(lines: list[dict[str, Any]]) -> Iterator[str]:
    by_name = {line["what"]: line for line in lines}
    for what, target in TIMES_BETTER.items():
        for kind in KINDS[1:]:
            times = by_name[what].get(f"{kind}, times")
            if times is not None and not target.met(times):
                yield f"{what}, {kind}: {times:.1f} times better, {target.verdict(times)}"
    few, many = (by_name[f"add a connection to {size:,}"]["install"] for size in (10, 10_000))
    if not TIMES_SLOWER.met(many / few):
        yield f"adding a connection to 10,000: {many / few:.1f} times as slow as to 10"


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--processes", type=int, default=5, help="hosts per kind (default 5)")
    arguments.add_argument("--seconds", type=float, default=4.0, help="per host (default 4)")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--calls", action="store_true", help=argparse.SUPPRESS)
    for hidden, count in (("--host", 2), ("--attack", 2), ("--visit", 1)):
        arguments.add_argument(hidden, nargs=count, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    logging.lastResort = None  # py-libp2p logs every broken stream, and has no handler
    if options.calls:
        print(json.dumps(calls()))
        return 0
    if options.attack:
        attack(*map(int, options.attack), options.seconds)
        return 0
    if options.visit or options.host:
        import trio

        if options.visit:
            trio.run(visit, options.visit[0], options.seconds)
        else:
            print(json.dumps(trio.run(host, *options.host, options.seconds)))
        return 0
    rounds = []
    for i in range(options.processes):
        kinds = list(KINDS[i % 3:] + KINDS[:i % 3])
        rounds.append(round_of(kinds, options.seconds))
    lines = list(table(rounds))
    failures = list(missed(lines))
    if options.json:
        print(json.dumps({"lines": lines, "missed": failures}, indent=2))
    else:
        print(f"{'':<36}{'libp2p':>11}{'install':>11}{'times':>7}{'harden':>11}{'times':>7}")
        for line in lines:
            shown = f"{line['what']:<36}{line['libp2p']:>11,.0f}"
            for kind in KINDS[1:]:
                if kind in line:
                    shown += f"{line[kind]:>11,.0f}{line[f'{kind}, times']:>7.1f}"
            print(shown)
        for failure in failures:
            print(f"MISSED: {failure}")
    return 1 if options.check and failures else 0


if __name__ == "__main__":
    sys.exit(main())
