"""The cache misses of the work with 100,000 connected peers, and their growth.

    python -m benchmarks.misses [--check [--base PYTHON] | --record] [--whole] [WORK ...]

With so many peers, a decision is mostly a wait for memory, and instructions do not show it.
Cachegrind simulates the caches that one core of a server has to itself: 48 KiB, then 2 MiB. So a
noisy machine does not matter. The simulation has a quarter of the peers and of the second cache,
which takes a quarter of the time. Each figure is a run of many operations minus a run without
operations, divided by their number. Peers come in random order. The works are those of
benchmarks.peers.

--check: exit status 1 if a work misses a cache 10 % more often than its entry in `misses.json`. The
status is 2 if this build of Python has no entry. --base: compare with the rcmgr of this
interpreter instead, as benchmarks.instructions. --record: write the figures there. Commit them with
the change that caused them. --whole: simulate all peers, and the whole cache. Needs valgrind.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.instructions import environment_of, this_build
from benchmarks.verdict import ROOT

PEERS = 100_000
OPERATIONS = 100_000
SCALE = 4
GATED = ("states", "connection", "stream", "bucket")
MOST_GROWTH = 1.1
NOISE = {"first": 2.5, "last": 0.5}
"""Two runs differ by as much. The first cache also misses by the places that the linker and the
allocator choose: another path of the interpreter moves them."""
BASELINE = Path(__file__).with_name("misses.json")
FIRST, LAST = 48 << 10, 2 << 20  # bytes
NUMBER = r"D1  misses:\s+([\d,]+).*?LLd misses:\s+([\d,]+)"


class Misses(NamedTuple):
    """Misses of an operation: of the first cache, and of both."""

    first: float
    last: float


def command(python: str, work: str, files: list[str], operations: int) -> list[str]:
    return [
        python, "-m", "benchmarks.misses", "--run", str(operations), "--files", *files, "--", work]


def misses(python: str, work: str, files: list[str], last: int, operations: int) -> Misses:
    done = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cachegrind-out-file=/dev/null", "--cache-sim=yes",
         f"--D1={FIRST},12,64", f"--LL={last},16,64", *command(python, work, files, operations)],
        env=environment_of(python), cwd=ROOT, capture_output=True, text=True, check=False,
    )
    found = re.search(NUMBER, done.stderr, re.DOTALL)
    if done.returncode or found is None:
        sys.exit(f"{work}: {done.stderr[-2000:]}")
    return Misses(*[float(each.replace(",", "")) for each in found.groups()])


def measure(python: str, work: str, files: list[str], last: int) -> Misses:
    # the first import compiles Python modules, which misses far more often than the work
    subprocess.run(
        command(python, work, files, 1), env=environment_of(python), cwd=ROOT, check=True)
    with ThreadPoolExecutor(2) as pool:
        without, with_them = pool.map(partial(misses, python, work, files, last), (0, OPERATIONS))
    return Misses(*[
        (more - less) / OPERATIONS for more, less in zip(with_them, without, strict=True)])


def measured_by(python: str, work: str, files: list[str], last: int) -> dict[str, float]:
    """As in the table."""
    counted = measure(python, work, files, last)._asdict()
    return {name: round(value, 1) for name, value in counted.items()}


def write_files(folder: Path, peers: int) -> list[str]:
    """The ids of the peers, and the order in which the work comes to them."""
    draw = random.Random(peers)
    order = array("I", range(peers))
    draw.shuffle(order)
    ids, places = folder / "ids", folder / "order"
    ids.write_bytes(b"".join(
        b"\x00\x24\x08\x01\x12\x20" + draw.randbytes(32) for _ in range(peers)))
    places.write_bytes(order.tobytes())
    return [str(ids), str(places)]


def run(work: str, files: list[str], operations: int) -> None:
    from libp2p.peer.id import ID

    from benchmarks.peers.ours import ID_LENGTH, WORKS

    data = Path(files[0]).read_bytes()
    peers = [ID(data[i:i + ID_LENGTH]) for i in range(0, len(data), ID_LENGTH)]
    order = [peers[i] for i in array("I", Path(files[1]).read_bytes())]
    work_on = WORKS[work](peers, [None] * len(peers))
    for done in range(0, operations, len(order)):
        work_on(order[:operations - done])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"default: {', '.join(GATED)}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="exit status 1 if there are more")
    what.add_argument("--record", action="store_true")
    what.add_argument("--whole", action="store_true", help="with 100,000 peers, and slowly")
    parser.add_argument("--base", metavar="PYTHON", help="compare with the rcmgr installed there")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        run(options.works[0], options.files, options.run)
        return 0
    if options.base and (options.record or options.whole):
        parser.error("--base goes with --check, or alone")
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    works = options.works or list(GATED)
    scale = 1 if options.whole else SCALE
    tables = json.loads(BASELINE.read_text())
    known = {} if options.whole or options.base else tables.get(this_build(), {})
    grown = 0
    measured: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        files = write_files(Path(folder), PEERS // scale)
        for work in works:
            counted = measured_by(sys.executable, work, files, LAST // scale)
            if options.base:
                known[work] = measured_by(options.base, work, files, LAST // scale)
            measured[work] = counted
            line = f"{work:<12}"
            for name, value in counted.items():
                line += f"{name:>8} {value:6.1f}"
                if work in known and value > MOST_GROWTH * known[work][name] + NOISE[name]:
                    grown += 1
                    line += f"  MORE than {known[work][name]:.1f}"
            print(line, flush=True)
    if options.record:
        tables[this_build()] = {**known, **measured}
        BASELINE.write_text(json.dumps(tables, indent=2) + "\n")
    if options.check and (unknown := set(works) - set(known)):
        print(f"no entry for {this_build()}: {', '.join(sorted(unknown))}. Use --record.")
        return 2
    return 1 if options.check and grown else 0


if __name__ == "__main__":
    sys.exit(main())
