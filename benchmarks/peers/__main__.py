"""rcmgr, go-libp2p, rust-libp2p and governor at the same work, in one run.

    python -m benchmarks.peers [--works WORK ...] [--sizes 1000,100000,...] [--rounds N] [--check]

Nanoseconds for each piece of work, in processor time of its thread, the fastest of many rounds.
Each program runs in a separate process, and they work by turns. So many peers are connected, one
connection each. A round works on all of them in random order. works.py says what each program does.

"floor" is a Python loop that only reads each peer id, and calls three functions that do nothing.
The column `native` is rcmgr's time divided by that of the fastest native program. The column
`floor` is its time divided by the sum of floor and native program. `bytes` is the memory for each
connected peer, or each key: resident memory in Python and Rust, the live heap in Go. Some works
also have a million peers. A program is left out, with the reason, where its toolchain is not
installed. --check: exit status 1 if a target of thresholds.toml is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import programs
from benchmarks.peers.ours import ID_LENGTH
from benchmarks.peers.works import MILLION, NATIVE, WORKS
from benchmarks.verdict import Figures, targets_of

ROUNDS = 9
LEAST, MOST = 20_000, 200_000  # pieces of work in a round
MANY_PEERS = 100_000  # fewer take too little memory to measure it
ID_PREFIX = bytes.fromhex("002408011220")  # the start of the id of an Ed25519 key

COMMANDS: dict[str, Callable[[], list[str]]] = {
    "rcmgr": programs.python, "floor": programs.python, "go": programs.go, "rust": programs.rust}


@dataclass
class Result:
    """Figures of one implementation. The last three are those of rcmgr only."""

    work: str
    size: int
    implementation: str
    nanoseconds: float = math.inf
    bytes: float | None = None
    of_native: float | None = None
    of_floor: float | None = None


def write_files(folder: Path, size: int) -> list[str]:
    """The peer ids, and the order in which a round works on them."""
    draw = random.Random(size)
    peers, order = folder / "peers", folder / "order"
    with peers.open("wb") as file:
        for _ in range(size):
            file.write(ID_PREFIX + draw.randbytes(ID_LENGTH - len(ID_PREFIX)))
    indices: list[int] = []
    while len(indices) < max(LEAST, min(size, MOST)):
        indices += draw.sample(range(size), size)
    order.write_bytes(array("I", indices[:max(LEAST, min(size, MOST))]).tobytes())
    return [str(peers), str(order)]


def measure(name: str, size: int, rounds: int, commands: dict[str, list[str]]) -> list[Result]:
    work = WORKS[name]
    results = [
        Result(name, size, each) for each in work.implementations() if each in commands]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_files(folder, size)
        running = []
        for result in results:
            each = result.implementation
            theirs = "floor" if each == "floor" else work.names.get(each, name)
            process = stack.enter_context(programs.running([*commands[each], theirs, *files]))
            running.append((process, result))
        for process, result in running:
            held = float(programs.answer(process).split()[1])
            if work.holds and size >= MANY_PEERS and result.implementation != "floor":
                result.bytes = held
        for _ in range(rounds):
            for process, result in running:
                result.nanoseconds = min(result.nanoseconds, float(programs.ask(process)))
            running.reverse()
    compare(results)
    return results


def compare(results: list[Result]) -> None:
    by_name = {each.implementation: each.nanoseconds for each in results}
    native = min((by_name[each] for each in NATIVE if each in by_name), default=None)
    if native:
        results[0].of_native = by_name["rcmgr"] / native
        if "floor" in by_name:
            results[0].of_floor = by_name["rcmgr"] / (by_name["floor"] + native)


HEAD = f"{'work':<20}{'peers':>9}  {'':<8}{'ns':>8}{'native':>8}{'floor':>7}{'bytes':>7}"


def line(result: Result) -> str:
    native, floor = (
        "" if each is None else f"{each:.2f}" for each in (result.of_native, result.of_floor))
    held = "" if result.bytes is None else f"{result.bytes:.0f}"
    return (f"{result.work:<20}{result.size:>9,}  {result.implementation:<8}"
            f"{result.nanoseconds:>8,.0f}{native:>8}{floor:>7}{held:>7}")


def available() -> tuple[dict[str, list[str]], dict[str, str]]:
    """The command of each implementation, and why others are missing."""
    commands, missing = {}, {}
    for name, command in COMMANDS.items():
        try:
            commands[name] = command()
        except programs.MissingProgramError as error:
            missing[name] = str(error)
    return commands, missing


def figures(results: list[Result]) -> Figures:
    """The results by the names that thresholds.toml uses."""
    found: Figures = {}
    for each in results:
        name = f"{each.work}, {each.size:,}"
        who = "" if each.implementation == "rcmgr" else f"{each.implementation} "
        found[f"{name}: {who}ns"] = each.nanoseconds
        for what, value in (
            (f"{who}bytes", each.bytes), ("times native", each.of_native),
            ("times floor and native", each.of_floor),
        ):
            if value is not None:
                found[f"{name}: {what}"] = value
    for work in {each.work for each in results}:
        few, many = (f"{work}, {size:,}: ns" for size in (MANY_PEERS, MILLION))
        if few in found and many in found:
            found[f"{work}, {MILLION:,}: times {MANY_PEERS:,}"] = found[many] / found[few]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--sizes", help="default 1000,100000, and for some works 1000000")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    commands, missing = available()
    for name, reason in missing.items():
        print(f"{name}: not measured, because {reason}", file=sys.stderr)
    if not options.once:
        print(HEAD)
    results = []
    for name in options.works:
        sizes = map(int, options.sizes.split(",")) if options.sizes else WORKS[name].sizes
        for size in sizes:
            for each in measure(name, size, options.rounds, commands):
                results.append(each)
                if not options.once:
                    print(line(each), flush=True)
    found = figures(results)
    if options.once:
        json.dump(found, sys.stdout)
        return 0
    missed = {
        what: target.verdict(found[what]) for what, target in targets_of("peers").items()
        if what in found and not target.met(found[what])}
    for what, verdict in missed.items():
        print(f"{what}: {found[what]:.2f} {verdict}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
