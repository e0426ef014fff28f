"""The cost of a TCP connection that is refused at accept: a full host, and a C program.

    python -m benchmarks.peers.accept [--nodes KIND ...] [--rate N] [--seconds S] [--json]

A C program connects so many times a second from this machine, and sends nothing. "c" is a program
that accepts each connection and resets it: the least that a program can do. The others are hosts
with one free place, which an honest peer takes: "install" and "harden" are ours, "libp2p" has the
manager of libp2p 0.8.1. The honest peer pings 50 times a second on one stream, before the flood and
during it. The figure is the processor time of the node's process, pings included, divided by the
number of connections that it ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import trio

from benchmarks.peers import programs
from benchmarks.siege.peers import Peer, Target, open_ping
from benchmarks.verdict import ROOT

MODULE = "benchmarks.peers.accept"
KINDS = ("c", "install", "harden", "libp2p")
RATE, SECONDS = 20_000, 8.0
PING_EVERY_S, PING_BYTES = 0.02, 32


@dataclass
class Result:
    node: str
    offered_per_second: float
    refused_per_second: float
    microseconds: float
    """Processor time for each refusal."""
    calm_ms: list[float] | None = None
    """Median and 99th percentile of the honest peer's pings before the flood."""
    flooded_ms: list[float] | None = None
    """The same during the flood."""
    answered: bool | None = None
    """Whether the honest peer kept its connection."""


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


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processor_ns(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline().split()[1])


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

    def milliseconds(self) -> list[float] | None:
        """Median and 99th percentile since the last call."""
        took, self.took = sorted(self.took), []
        if not took:
            return None
        return [round(1000 * took[len(took) * part // 100], 2) for part in (50, 99)]


async def measure(kind: str, rate: float, seconds: float) -> Result:
    command = (
        programs.c("accept") if kind == "c" else [sys.executable, "-m", MODULE, "--serve", kind])
    programs.c("flood")
    with running(command) as node:
        assert node.stdout is not None
        where = (await trio.to_thread.run_sync(node.stdout.readline)).strip()
        async with trio.open_nursery() as nursery:
            honest = None
            calm = None
            port = int(where) if kind == "c" else Target.parse(where).port
            if kind != "c":
                honest = Honest()
                nursery.start_soon(honest.stay, Target.parse(where))
                await honest.ready.wait()
                await trio.sleep(1)
                honest.milliseconds()
                await trio.sleep(seconds)
                calm = honest.milliseconds()
            before = processor_ns(node)
            opened, closed, passed = await flood(port, rate, seconds)
            used = processor_ns(node) - before
            found = Result(
                kind, opened / passed, closed / passed, used / 1000 / max(closed, 1))
            if honest is not None:
                found.calm_ms, found.flooded_ms = calm, honest.milliseconds()
                found.answered = honest.answered
            nursery.cancel_scope.cancel()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rate", type=float, default=RATE, help=f"default {RATE:,}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"default {SECONDS:g}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.serve:
        trio.run(serve, options.serve)
        return 0
    if not options.json:
        print(f"{'':<10}{'offered/s':>11}{'refused/s':>11}{'us each':>9}{'calm ms, p99':>16}"
              f"{'flooded ms, p99':>18}  peer stayed")
    found = []
    for kind in options.nodes:
        each = trio.run(measure, kind, options.rate, options.seconds)
        found.append(asdict(each))
        if not options.json:
            calm, flooded = (
                "-" if pings is None else f"{pings[0]:g} / {pings[1]:g}"
                for pings in (each.calm_ms, each.flooded_ms))
            stayed = {None: "-", True: "yes", False: "NO"}[each.answered]
            print(f"{kind:<10}{each.offered_per_second:>11,.0f}{each.refused_per_second:>11,.0f}"
                  f"{each.microseconds:>9.1f}{calm:>16}{flooded:>18}  {stayed}", flush=True)
    if options.json:
        json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
