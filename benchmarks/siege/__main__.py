"""Honest peers at the door of a besieged node: how many the node serves, and how many stay.

    python -m benchmarks.siege [--nodes KIND ...] [--scenes SCENE ...] [--same-address]
        [--json] [--check]

A node has 32 inbound places. Ten honest peers from ten networks are connected before, and ping
every two seconds. Then attackers in another process attack. Meanwhile 20 honest newcomers come from
20 networks, two a second. Each has 3 s for a handshake and one ping, and leaves two seconds later.
127.x.y.z stand for networks. --same-address: the newcomers have the address of the attackers.

Nodes: "harden", "install" and "plain" are ours with the defaults. "off" is "harden" without
eviction. "stock" has libp2p 0.8.1's manager. "go" is a go-libp2p host with its resource manager and
connection manager (24 and 32), if go is there. --check: exit status 1 if ours misses a target.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from benchmarks.siege.attack import ATTACKS, source_of
from benchmarks.siege.peers import Peer, Target, ping
from benchmarks.verdict import ROOT

PLACES, EARLIER, NEWCOMERS = 32, 10, 20
SERVED_WITHIN_S, STAY_S, EVERY_S, CALM_S, SETTLE_S = 3.0, 2.0, 0.5, 5.0, 3.0
ATTACK_S = SETTLE_S + NEWCOMERS * EVERY_S + SERVED_WITHIN_S + 2
OURS = ("harden", "install")
MUST_SERVE = {  # percent; and percent of earlier peers kept
    "idle hoarders, 2 networks": (95, 95), "idle hoarders, 30 networks": (50, 90),
    "reconnecting hoarders": (95, 95), "imitators, 2 networks": (95, 95),
}
FLOODS_MUST_SERVE = (100, 95)


def command(kind: str) -> list[str]:
    if kind == "go":
        folder = ROOT / "benchmarks" / "siege" / "go"
        subprocess.run(["go", "build", "-o", "siege-node", "."], cwd=folder, check=True)
        return [str(folder / "siege-node"), str(PLACES)]
    return [sys.executable, "-m", "benchmarks.siege.node", kind, str(PLACES)]


@contextmanager
def process(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        arguments, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def ask(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    found: dict[str, Any] = json.loads(child.stdout.readline())
    return found


class Honest:
    """The honest peers of one scene, and their luck."""

    def __init__(self, target: Target, sources: list[str]) -> None:
        self.target = target
        self.earlier = [Peer(f"127.{1 + number}.0.1") for number in range(EARLIER)]
        self.newcomers = [Peer(source) for source in sources]
        self.connected = 0
        self.served: list[float] = []
        self.calm: list[float] = []
        self.besieged: list[float] = []
        self.is_calm = True

    async def stay(self, peer: Peer) -> None:
        """An earlier peer: ping every two seconds, until the connection ends."""
        try:
            async with peer.connection(self.target) as muxed:
                self.connected += 1
                try:
                    while not muxed.is_closed:
                        with trio.fail_after(10):
                            took = await ping(muxed)
                        (self.calm if self.is_calm else self.besieged).append(took)
                        await trio.sleep(2)
                finally:
                    self.connected -= 1
        except Exception:  # noqa: BLE001 (the node ended the connection, in one of many ways)
            return

    async def come(self, peer: Peer) -> None:
        began = trio.current_time()
        try:
            with trio.move_on_after(SERVED_WITHIN_S + STAY_S):
                async with peer.connection(self.target) as muxed:
                    await ping(muxed)
                    took = trio.current_time() - began
                    if took <= SERVED_WITHIN_S:
                        self.served.append(took)
                    await trio.sleep(STAY_S)
        except Exception:  # noqa: BLE001 (as above)
            return


async def siege(kind: str, scene: str, same_address: bool) -> dict[str, Any]:
    """The figures of one scene."""
    attack = ATTACKS[scene]
    with process(command(kind)) as node:
        assert node.stdout is not None
        address = json.loads(node.stdout.readline())["address"]
        sources = [
            source_of(attack, 0) if same_address else f"127.{30 + number}.0.1"
            for number in range(NEWCOMERS)]
        honest = Honest(Target.parse(address), sources)
        attacker = [
            sys.executable, "-m", "benchmarks.siege.attack", scene, address, str(ATTACK_S)]
        with process(attacker) as attackers:
            assert attackers.stdin is not None
            assert attackers.stdout is not None
            await trio.to_thread.run_sync(attackers.stdout.readline)
            async with trio.open_nursery() as nursery:
                for peer in honest.earlier:
                    nursery.start_soon(honest.stay, peer)
                await trio.sleep(CALM_S)
                before = honest.connected
                honest.is_calm = False
                attackers.stdin.write("go\n")
                attackers.stdin.flush()
                await trio.sleep(SETTLE_S)
                async with trio.open_nursery() as coming:
                    for peer in honest.newcomers:
                        coming.start_soon(honest.come, peer)
                        await trio.sleep(EVERY_S)
                kept = honest.connected
                found = ask(node)
                nursery.cancel_scope.cancel()
    return {
        "served": len(honest.served), "of": NEWCOMERS, "kept": kept, "before": before,
        "served_s": statistics.median(honest.served) if honest.served else None,
        "ping_ms": milliseconds(honest.besieged), "calm_ms": milliseconds(honest.calm), **found,
    }


def milliseconds(pings: list[float]) -> tuple[float, float] | None:
    """Median and the largest of 100."""
    if not pings:
        return None
    ordered = sorted(pings)
    largest = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return round(1000 * statistics.median(ordered), 1), round(1000 * largest, 1)


def row(kind: str, scene: str, found: dict[str, Any]) -> str:
    def pings(which: str) -> str:
        values = found[which]
        return "-" if values is None else f"{values[0]:g} / {values[1]:g}"

    return (
        f"{scene:28} {kind:8} {found['served']:3} of {found['of']:<3} {found['kept']:3} of "
        f"{found['before']:<3} {pings('ping_ms'):>14} {pings('calm_ms'):>12} "
        f"{found.get('descriptors', '-'):>6} {found.get('evicted', '-')!s:>8}")


def misses(kind: str, scene: str, found: dict[str, Any]) -> bool:
    if kind not in OURS:
        return False
    served, kept = MUST_SERVE.get(scene, FLOODS_MUST_SERVE)
    return bool(
        100 * found["served"] < served * found["of"]
        or 100 * found["kept"] < kept * found["before"])


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["harden", "install", "plain", "off", "stock", "go"]
    options.add_argument("--nodes", nargs="+", choices=kinds, default=kinds)
    options.add_argument("--scenes", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    options.add_argument("--same-address", action="store_true")
    options.add_argument("--json", action="store_true")
    options.add_argument("--check", action="store_true")
    given = options.parse_args()
    logging.disable(logging.CRITICAL)
    if "go" in given.nodes and shutil.which("go") is None:
        print("go: not here, left out", file=sys.stderr)
        given.nodes.remove("go")
    missed = False
    if not given.json:
        print(f"{'scene':28} {'node':8} {'served':9} {'kept':9} {'ping ms, p99':>14} "
              f"{'calm':>12} {'fds':>6} {'evicted':>8}")
    for scene in given.scenes:
        for kind in given.nodes:
            found = trio.run(siege, kind, scene, given.same_address)
            missed |= misses(kind, scene, found)
            print(
                json.dumps({"scene": scene, "node": kind, **found}) if given.json
                else row(kind, scene, found), flush=True)
    return int(given.check and missed)


if __name__ == "__main__":
    sys.exit(main())
