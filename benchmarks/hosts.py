"""What a real host spends: stock libp2p 0.8.1, after rcmgr.install(), and with harden=True.

    python benchmarks/hosts.py [--processes N] [--seconds S] [--json] [--check]

calls: what a swarm asks of its manager, nanoseconds, minima of many rounds in one process.
refusals: a host on loopback is full of connections that say nothing, and other processes connect
again and again. "full": of `max_connections`, which the user has set to 50; "default": nothing is
set. Counted is what is refused in a second, and the host's CPU time for each.
connections: eight peers that connect and disconnect again, over and over.

Everything in fresh processes, the kinds by turns; medians, of ratios too. --check: exit status 1 if
a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import random
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

KINDS = ("libp2p", "install", "harden")
SIZES = (10, 1_000, 10_000)
ROUNDS, SAMPLE = 9, 300
LIMIT, ATTACKERS, AT_ONCE, VISITORS = 50, 2, 32, 8
HELD = {"full": LIMIT, "default": 250}  # by default the swarm itself admits no more from outside
# at least so many times better than libp2p
LEAST = {
    "acquire and release a connection": 30,
    "acquire and release a stream": 30,
    "refusals, full: per second": 1.5,
    "refusals, default: per second": 1.5,
}
MOST_TIMES_SLOWER = 3.0  # with 10,000 live connections than with 10

Figures = dict[str, float]


# -- calls -------------------------------------------------------------------------------------


def managers(limits: Any, **arguments: Any) -> tuple[Any, Any]:
    """Ours and theirs, as by default but for rates and limits that are never reached."""
    from libp2p.rcmgr.connection_limits import ConnectionLimits
    from libp2p.rcmgr.manager import ResourceManager as Stock

    from rcmgr.libp2p.dropin.manager import ResourceManager as Ours

    never = 10**9
    arguments = {
        "connections_per_peer_per_sec": never, "burst_connections_per_peer": never,
        "connection_limits": ConnectionLimits(*[never] * 6), **arguments,
    }
    return Ours(limits, **arguments), Stock(limits, **arguments)


def finish(work: Coroutine[Any, Any, None]) -> None:
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("it suspended")


def best_of(runs: list[Callable[[], None]], operations: int) -> list[float]:
    """Nanoseconds per operation of the fastest round."""
    best = [float("inf")] * len(runs)
    order = list(enumerate(runs))
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for i, run in order:
                run()
                start = time.perf_counter_ns()
                run()
                best[i] = min(best[i], (time.perf_counter_ns() - start) / operations)
            order.reverse()
    finally:
        gc.enable()
    return best


def calls() -> Figures:
    from libp2p.peer.id import ID
    from libp2p.rcmgr import Direction, ResourceLimits

    draw = random.Random(1)
    peers = [ID(b"\x00\x25\x08\x02\x12\x21" + draw.randbytes(33)) for _ in range(SAMPLE)]
    texts = [str(peer) for peer in peers]
    limits = ResourceLimits(10**9, 10**6, 10**9)
    both = managers(limits)
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
        ours, theirs = best_of([make(manager) for manager in both], SAMPLE)
        found |= {f"acquire and release a {what}: libp2p": theirs,
                  f"acquire and release a {what}: install": ours}
    for size in SIZES:
        few = 100 if size < SIZES[-1] else 10  # libp2p's takes milliseconds
        runs = [adding(manager, peers[:few], size) for manager in managers(limits)]
        ours, theirs = best_of(runs, few)
        found |= {f"add a connection to {size:,}: libp2p": theirs,
                  f"add a connection to {size:,}: install": ours}
    return found


def adding(manager: Any, peers: list[Any], size: int) -> Callable[[], None]:
    """All that a swarm with `size` live connections asks for one more, to its end."""
    lifecycle = manager.connection_lifecycle
    ids = itertools.count()

    def add(peer: Any) -> tuple[str, Any, Any]:
        connection_id = str(next(ids))
        before = manager.open_connection(None, None, "inbound")
        scope = manager.open_connection(peer, None, "inbound")
        before.close()
        lifecycle.reconcile_live_connections(live)
        finish(lifecycle.handle_established_inbound_connection(connection_id, peer, None, None))
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
    """Of this process, which runs a host: visited by processes that `visit` or `attack`."""
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
            subprocess.Popen(  # noqa: ASYNC220 (nothing is measured yet)
                [sys.executable, __file__, "--seconds", str(seconds), *arguments],
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
    """Hold connections and say nothing; then connect again whenever the host hangs up."""
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
    """As several peers, connect, and disconnect again."""
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
        while count < VISITORS:  # noqa: ASYNC110 (all have come at least once, or nearly)
            await trio.sleep(0.1)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        count = 0
        await trio.sleep(seconds)
        print(count, flush=True)
        nursery.cancel_scope.cancel()


# -- all of it ---------------------------------------------------------------------------------


def measured(*arguments: str) -> Figures:
    run = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE)
    figures: Figures = json.loads(run.stdout)
    return figures


def round_of(kinds: list[str], seconds: float) -> Figures:
    found = measured("--calls")
    for setting, what in (("full", "refusals, full"), ("default", "refusals, default"),
                          ("visited", "connections")):
        for kind in kinds:
            figures = measured("--host", kind, setting, "--seconds", str(seconds))
            found |= {f"{what}: {name}: {kind}": value for name, value in figures.items()}
    return found


def table(rounds: list[Figures]) -> Iterator[dict[str, Any]]:
    """Lines: what, by kind the median, and by kind how many times better than libp2p."""
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
    for what, least in LEAST.items():
        for kind in KINDS[1:]:
            times = by_name[what].get(f"{kind}, times", least)
            if times < least:
                yield f"{what}: {times:.1f} times libp2p's with {kind}, at least {least}"
    few, many = (by_name[f"add a connection to {size:,}"]["install"] for size in (10, 10_000))
    if many > MOST_TIMES_SLOWER * few:
        yield f"adding a connection to 10,000: {many / few:.1f} times as slow as to 10"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=5, help="of each kind (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each host (default 4)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    for hidden, count in (("--calls", 0), ("--host", 2), ("--attack", 2), ("--visit", 1)):
        if count:
            parser.add_argument(hidden, nargs=count, help=argparse.SUPPRESS)
        else:
            parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # py-libp2p reports each broken stream
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
