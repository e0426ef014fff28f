"""The cost of a TCP connection that is refused at accept: a full host, and a C program.

    python -m benchmarks.peers.accept [--processes N] [--check]

A C program connects so many times a second from this machine, and sends nothing. "c" is a program
that accepts each connection and resets it: the least that a program can do. The others are hosts
with one free place, which an honest peer takes: "install" and "harden" are ours, "libp2p" has the
manager of libp2p 0.8.1. The honest peer pings 50 times a second on one stream, before the flood and
during it. With "c", it pings another host, which has no flood. So these pings show what the flood
takes from the machine alone. The figure is the processor time of the node's process, divided by the
number of connections that it ended. It leaves out the time for the pings, which is measured without
the flood: the C program answers none. Each line is the median of several rounds.
--check: exit status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import subprocess
import sys
import time

import trio

from benchmarks.peers import programs
from benchmarks.siege.peers import Peer, Target, open_ping
from benchmarks.verdict import Figures, benchmark_main, fresh_process

MODULE = "benchmarks.peers.accept"
KINDS = ("c", "install", "harden", "libp2p")
RATE, SECONDS = 20_000, 16.0
PING_EVERY_S, PING_BYTES = 0.02, 32


async def serve(kind: str) -> None:
    """Run a host in this process. It prints its address, and its processor time for each line."""
    from multiaddr import Multiaddr

    if kind != "libp2p":
        import rcmgr

        rcmgr.install(harden=kind == "harden")
    from libp2p import new_host
    from libp2p.rcmgr.manager import ResourceLimits, ResourceManager

    # libp2p.rcmgr counts a connection twice during its handshake, so the flood takes a place too
    places = 2 if kind == "libp2p" else 1
    host = new_host(resource_manager=ResourceManager(ResourceLimits(max_connections=places)))
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        print(host.get_addrs()[0], flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            print(0, time.process_time_ns(), flush=True)


async def flood(port: int, rate: float, seconds: float) -> tuple[int, int, float]:
    """Connections opened, connections that the other side closed, and seconds."""
    done = await trio.run_process(
        [*programs.c("flood"), str(port), str(rate), str(seconds)], capture_stdout=True)
    opened, closed, passed = done.stdout.split()
    return int(opened), int(closed), float(passed)


class Honest:
    """A peer that is connected before the flood, and pings on one stream."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.answered = True
        self.ready = trio.Event()

    async def stay(self, target: Target) -> None:
        try:
            async with Peer("127.0.0.1").connection(target) as muxed:
                stream = await open_ping(muxed)
                self.ready.set()
                while True:
                    began = trio.current_time()
                    await stream.write(secrets.token_bytes(PING_BYTES))
                    received = 0
                    while received < PING_BYTES:
                        received += len(await stream.read(PING_BYTES - received))
                    self.took.append(trio.current_time() - began)
                    await trio.sleep(PING_EVERY_S)
        except Exception:  # noqa: BLE001 (the node ended the connection, in one of many ways)
            self.answered = False
            self.ready.set()

    def pings(self, kind: str, when: str) -> Figures:
        """Median and 99th percentile since the last call."""
        took, self.took = sorted(self.took) or [math.inf], []
        return {
            f"ping, {when}, {kind}: {what}, ms": 1000 * took[len(took) * part // 100]
            for what, part in (("median", 50), ("p99", 99))}


async def measure_node(kind: str, rate: float = RATE, seconds: float = SECONDS) -> Figures:
    """The figures of one node."""
    programs.c("flood")
    found: Figures = {}
    with programs.running(
        [sys.executable, "-m", MODULE, "--serve", "install" if kind == "c" else kind]
    ) as host, programs.running(programs.c("accept")) as c:
        where = Target.parse(await the_answer(host))
        port, node = (int(await the_answer(c)), c) if kind == "c" else (where.port, host)
        async with trio.open_nursery() as nursery:
            honest = Honest()
            nursery.start_soon(honest.stay, where)
            await honest.ready.wait()
            await trio.sleep(1)
            honest.pings(kind, "calm")
            start = used_ns(node)
            await trio.sleep(seconds)
            found |= honest.pings(kind, "calm")
            before = used_ns(node)
            opened, closed, passed = await flood(port, rate, seconds)
            used = used_ns(node) - before - (before - start) * passed / seconds
            found |= {
                f"refusal at accept, {kind}: offered per second": opened / passed,
                f"refusal at accept, {kind}: per second": closed / passed,
                f"refusal at accept, {kind}: us of the processor": used / 1000 / max(closed, 1),
                **honest.pings(kind, "under the flood"),
                f"ping, under the flood, {kind}: peer kept": float(honest.answered),
            }
            nursery.cancel_scope.cancel()
    return found


def used_ns(node: subprocess.Popen[str]) -> int:
    """The processor time of a program until now."""
    return int(programs.ask(node).split()[1])


async def the_answer(program: subprocess.Popen[str]) -> str:
    return (await trio.to_thread.run_sync(programs.answer, program)).strip()


def measure() -> Figures:
    """All nodes by turns, each in a fresh process."""
    found: Figures = {}
    for kind in KINDS:
        found |= fresh_process(MODULE, "--node", kind)
    for kind in KINDS:
        calm, flooded, beside_c = (
            found[f"ping, {when}, {of}: p99, ms"]
            for when, of in (("calm", kind), ("under the flood", kind), ("under the flood", "c")))
        found[f"ping, under the flood, {kind}: p99, times calm"] = flooded / calm
        if kind != "c":
            used, least = (
                found[f"refusal at accept, {of}: us of the processor"] for of in (kind, "c"))
            found[f"refusal at accept, {kind}: times c"] = used / least
            found[f"ping, under the flood, {kind}: p99, times c"] = flooded / beside_c
    return found


def main() -> int:
    logging.disable(logging.CRITICAL)
    part, *arguments = sys.argv[1:] or [""]
    if part == "--serve":
        trio.run(serve, *arguments)
    elif part == "--node":
        json.dump(trio.run(measure_node, *arguments), sys.stdout)
    else:
        return benchmark_main("peers.accept", __doc__, measure, processes=3)
    return 0


if __name__ == "__main__":
    sys.exit(main())
