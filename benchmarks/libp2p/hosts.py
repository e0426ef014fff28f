"""The work of a real host: stock libp2p 0.8.1, after rcmgr.install(), and with harden=True.

    python -m benchmarks.libp2p.hosts [--processes N] [--check]

calls: a swarm's calls of its manager, the fastest of many rounds in one process.
refusals: silent connections fill a host on loopback, and other processes connect again and again.
The host counts refusals per second, and its processor time for each. "full" has `max_connections`
set to 50, and "default" has the default limits.
connections: eight peers connect and disconnect again and again.

Every part runs in fresh processes, with the three kinds of host by turns. Each line is the median
of several rounds. --check: exit status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import itertools
import json
import logging
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.timing import drive, fastest, peer_ids
from benchmarks.verdict import ROOT, Figures, benchmark_main, fresh_process

MODULE = "benchmarks.libp2p.hosts"
KINDS = ("libp2p", "install", "harden")
SIZES = (10, 1_000, 10_000)
ROUNDS, SAMPLE = 9, 300
LIMIT, ATTACKERS, AT_ONCE, VISITORS = 50, 2, 32, 8
HELD = {"full": LIMIT, "default": 250}  # the swarm itself admits 250 inbound connections
SECONDS = 4.0
PARTS = {  # the name of a figure, and the setting of the host
    "refusals, full": "full", "refusals, default": "default", "connections": "visited"}


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
        runs = {"libp2p": make(theirs), "rcmgr": make(ours)}
        best = fastest(runs, rounds=ROUNDS, operations=SAMPLE)
        found |= compared(f"acquire and release a {what}", best)
    for size in SIZES:
        few = 100 if size < SIZES[-1] else 10  # libp2p.rcmgr needs milliseconds
        ours, theirs = managers(limits)
        runs = {
            "libp2p": adding(theirs, peers[:few], size), "rcmgr": adding(ours, peers[:few], size)}
        best = fastest(runs, rounds=ROUNDS, operations=few)
        found |= compared(f"add a connection to {size:,}", best)
    few_ns, many_ns = (found[f"add a connection to {size:,}: ns"] for size in SIZES[::2])
    found[f"add a connection to {SIZES[2]:,}: times slower than to {SIZES[0]}"] = many_ns / few_ns
    return found


def compared(what: str, best: dict[str, float]) -> Figures:
    return {
        f"{what}: ns": best["rcmgr"], f"{what}: libp2p ns": best["libp2p"],
        f"{what}: times faster": best["libp2p"] / best["rcmgr"]}


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

    def run(kept: Any = kept) -> None:  # it keeps the others connected
        for peer in peers:
            connection_id, _, scope = add(peer)
            scope.close()
            lifecycle.notify_connection_closed(connection_id, peer)

    return run


# -- a host ------------------------------------------------------------------------------------


async def host(kind: str, setting: str) -> Figures:
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
                [sys.executable, "-m", MODULE, *arguments], cwd=ROOT,
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
    return {"per second": done / took, "us of the processor": 1e6 * cpu / done}


def attack(port: int, held: int) -> None:
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
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for _ in refused(0.1):
            count += 1
            connect()
    print(count, flush=True)
    sys.stdin.read()


async def visit(address: str) -> None:
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
        await trio.sleep(SECONDS)
        print(count, flush=True)
        nursery.cancel_scope.cancel()


# -- all of it ---------------------------------------------------------------------------------


def measure() -> Figures:
    found: Figures = fresh_process(MODULE, "--calls")
    for what, setting in PARTS.items():
        for kind in KINDS:
            figures = fresh_process(MODULE, "--host", kind, setting)
            found |= {f"{what}, {kind}: {name}": value for name, value in figures.items()}
        for kind in KINDS[1:]:
            for name, better in (("per second", "as many"), ("us of the processor", "less")):
                ours, theirs = found[f"{what}, {kind}: {name}"], found[f"{what}, libp2p: {name}"]
                found[f"{what}, {kind}: {name}, times {better}"] = (
                    ours / theirs if better == "as many" else theirs / ours)
    return found


def main() -> int:
    logging.lastResort = None  # py-libp2p logs every broken stream, and has no handler
    part, *arguments = sys.argv[1:] or [""]
    if part == "--calls":
        print(json.dumps(calls()))
    elif part == "--attack":
        attack(*map(int, arguments))
    elif part in ("--visit", "--host"):
        import trio

        if part == "--visit":
            trio.run(visit, *arguments)
        else:
            print(json.dumps(trio.run(host, *arguments)))
    else:
        return benchmark_main("libp2p.hosts", __doc__, measure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
