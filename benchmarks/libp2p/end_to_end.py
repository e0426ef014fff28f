"""Connections, streams and pings of real hosts: with rcmgr, with libp2p.rcmgr, without limits.

    python -m benchmarks.libp2p.end_to_end [--processes N] [--check]

A host with the default limits listens on loopback. First tasks of another process connect, do the
handshakes of noise and yamux, and hang up. Then they open streams, send one ping on each, and reset
it. Another host has the limits of `rcmgr demo`. An honest peer pings it on one stream, for five
seconds without others and for ten seconds under the flood of the demo. Five attackers flood it,
each in a separate process. All processes share the machine. "rcmgr" is hardened, as in the demo.
"none" has no resource manager. Without harden, a host of libp2p 0.8.1 accepts 250 connections in
its lifetime. For the connections per second, the other two hosts have that cap lifted.

The three hosts take turns for five rounds, each time in a fresh process. Each line about
connections and streams is the best round, because other work of the machine makes rounds worse.
Each line about pings is the median round. --check: exit status 1 if a target of thresholds.toml is
missed.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import trio
from libp2p import new_host
from libp2p.rcmgr.manager import ResourceManager as StockManager
from multiaddr import Multiaddr

from benchmarks.siege.peers import Peer, Target, ping
from benchmarks.verdict import ROOT, Figures, benchmark_main, fresh_process
from rcmgr import ResourceManager
from rcmgr.cli.demo.limits import DEMO_LIMITS
from rcmgr.cli.demo.measured_rcmgr import MeasuredRcmgr
from rcmgr.cli.demo.measured_stock import MeasuredStock
from rcmgr.cli.demo.processes import Target as Visited
from rcmgr.cli.demo.processes import Visitor
from rcmgr.cli.demo.swarm_view import SwarmView
from rcmgr.cli.demo.victim import ADDRESS, new_victim
from rcmgr.cli.demo.visit import ATTACKS, HONEST
from rcmgr.libp2p import harden

MODULE = "benchmarks.libp2p.end_to_end"
KINDS = ("none", "libp2p", "rcmgr")
ROUNDS, TASKS, PEERS = 5, 4, 32
VISIT_S, CALM_S, FLOOD_S, SETTLE_S = 5.0, 5.0, 10.0, 1.0


def without_manager(host: Any) -> Any:
    swarm: Any = host.get_network()
    swarm.set_resource_manager(None)
    return host


def visited(kind: str) -> Any:
    """A host with the default limits."""
    if kind == "rcmgr":
        host = new_host(resource_manager=ResourceManager())
        harden(host)
        return host
    host = new_host(resource_manager=StockManager())
    swarm: Any = host.get_network()
    swarm._inbound_limiter = trio.CapacityLimiter(math.inf)
    return without_manager(host) if kind == "none" else host


def victim(kind: str) -> Any:
    """The demo's host."""
    manager: Any = (
        MeasuredRcmgr(DEMO_LIMITS) if kind == "rcmgr"
        else MeasuredStock(DEMO_LIMITS, SwarmView()))
    host = new_victim(manager)
    if kind == "none":
        manager.manager.acquire_memory = lambda size: True
        return without_manager(host)
    return host


async def throughput(kind: str) -> Figures:
    host = visited(kind)
    found: Figures = {}
    async with host.run([Multiaddr(f"/ip4/{ADDRESS}/tcp/0")]):
        for what in ("connection", "stream"):
            used = time.process_time()
            done = await trio.run_process(
                [sys.executable, "-m", MODULE, "--visit", what, str(host.get_addrs()[0])], cwd=ROOT,
                capture_stdout=True)
            used = time.process_time() - used
            all_of_them, count, seconds = json.loads(done.stdout)
            found |= {
                f"{what}s, {kind}: per second": count / seconds,
                f"{what}s, {kind}: us of the host's processor": 1e6 * used / all_of_them,
            }
    return found


async def pings(kind: str) -> Figures:
    host = victim(kind)
    found: Figures = {}
    async with host.run([Multiaddr(f"/ip4/{ADDRESS}/tcp/0")]), trio.open_nursery() as nursery:
        port = int(host.get_addrs()[0].value_for_protocol("tcp"))
        target = Visited(ADDRESS, port, str(host.get_id()))
        honest, *attackers = visitors = [Visitor(role) for role in (HONEST, *ATTACKS)]
        for visitor in visitors:
            await nursery.start(visitor.run, target)
        while not all(visitor.ready for visitor in visitors):  # noqa: ASYNC110 - they start
            await trio.sleep(0.1)
        for when, starting, seconds in (
            ("calm", [honest], CALM_S), ("under the flood", attackers, FLOOD_S)
        ):
            for visitor in starting:
                await visitor.start()
            await trio.sleep(SETTLE_S)
            honest.pings_ms.clear()
            await trio.sleep(seconds)
            middle, last = percentiles(honest.pings_ms)
            found |= {
                f"ping, {when}, {kind}: median, ms": middle, f"ping, {when}, {kind}: p99, ms": last}
        found[f"ping, under the flood, {kind}: peer kept"] = float(honest.lost is None)
        nursery.cancel_scope.cancel()
    return found


def percentiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values) or [float("inf")]
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


async def visit(what: str, address: str) -> None:
    """Work on the host with several tasks. Print all that was done, and how much in how long."""
    target = Target.parse(address)
    done = 0

    async def connect_and_leave(peers: list[Peer]) -> None:
        nonlocal done
        for peer in itertools.cycle(peers):
            await peer.handshake(target)
            done += 1

    async def open_and_reset(peer: Peer) -> None:
        nonlocal done
        async with peer.connection(target) as muxed:
            while True:
                await ping(muxed)
                done += 1

    peers = [Peer(ADDRESS) for _ in range(PEERS)]
    async with trio.open_nursery() as nursery:
        for task in range(TASKS):
            if what == "stream":
                nursery.start_soon(open_and_reset, peers[task])
            else:
                nursery.start_soon(connect_and_leave, peers[task::TASKS])
        while done < TASKS:  # noqa: ASYNC110 - nearly all have begun
            await trio.sleep(0.05)
        before, began = done, trio.current_time()
        await trio.sleep(VISIT_S)
        print(json.dumps([done, done - before, trio.current_time() - began]), flush=True)
        nursery.cancel_scope.cancel()


def measure() -> Figures:
    rounds: list[Figures] = []
    for _ in range(ROUNDS):
        seen: Figures = {}
        for kind in KINDS:
            for part in ("--visited", "--victim"):
                seen |= fresh_process(MODULE, part, kind)
        rounds.append(seen)
    found = {name: of_rounds(name)([seen[name] for seen in rounds]) for name in rounds[0]}
    for what in ("connections", "streams"):
        for other in ("none", "libp2p"):
            name = f"{what}, rcmgr: times the processor time of {other}"
            found[name] = (
                found[f"{what}, rcmgr: us of the host's processor"]
                / found[f"{what}, {other}: us of the host's processor"])
    for other in ("none", "libp2p"):
        found[f"ping, under the flood, rcmgr: p99, times {other}"] = (
            found["ping, under the flood, rcmgr: p99, ms"]
            / found[f"ping, under the flood, {other}: p99, ms"])
    return found


def of_rounds(name: str) -> Callable[[list[float]], float]:
    """Which value of several rounds counts."""
    if name.endswith(": per second"):
        return max
    return median if name.endswith(", ms") else min


def main() -> int:
    logging.disable(logging.CRITICAL)  # py-libp2p logs every broken stream
    if sys.argv[1:2] == ["--visit"]:
        trio.run(visit, *sys.argv[2:])
        return 0
    if sys.argv[1:2] in (["--visited"], ["--victim"]):
        part = throughput if sys.argv[1] == "--visited" else pings
        json.dump(trio.run(part, sys.argv[2]), sys.stdout)
        return 0
    return benchmark_main("libp2p.end_to_end", __doc__, measure, processes=1)


if __name__ == "__main__":
    sys.exit(main())
