"""The instructions that the hot paths take, and their growth.

    python benchmarks/instructions.py [--check [--base PYTHON] | --record] [NAME ...]

Callgrind counts instructions, so that the noise of a shared machine does not matter. It does not
see system calls. Each figure is a run of many operations minus a run without operations, divided by
their number. The counts differ between builds of Python: `instructions.json` has a table for each.

--check: exit status 1 if an operation takes 2 % more than its entry, and 2 without an entry.
--base: count with the rcmgr of this interpreter too, and compare with these counts, not with the
table. It is a build of the commit that recorded the table, so that the check means the same for
each Python and compiler. --record: write the counts to the table. Commit them with the change that
caused them. Needs valgrind.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

OPERATIONS = 5_000
OTHERS = 1_000
MOST_GROWTH = 1.02
BASELINE = Path(__file__).with_name("instructions.json")
PEER = b"\x00\x25\x08\x02\x12\x21" + bytes(33)

Run = Callable[[int], None]


def peers(count: int) -> list[bytes]:
    return [PEER[:-4] + number.to_bytes(4, "big") for number in range(1, count + 1)]


def tracker_cycle() -> Run:
    from rcmgr import ConnectionLimits, ConnectionTracker

    tracker = ConnectionTracker()
    limits = ConnectionLimits(*[10**6] * 6)
    for number, peer in enumerate(peers(OTHERS)):
        tracker.admit_established_inbound(number, peer, limits)

    def run(times: int) -> None:
        for _ in range(times):
            tracker.admit_pending_inbound("one", limits)
            tracker.admit_established_inbound("one", PEER, limits)
            tracker.remove_connection("one")

    return run


def ledger_of_many() -> tuple[Any, list[Any]]:
    from rcmgr import ConcreteLimits, Ledger, Limit

    many = Limit(*[2**40] * 8)
    ledger = Ledger(ConcreteLimits(**dict.fromkeys(ConcreteLimits.scopes(), many)))
    return ledger, [ledger.open_connection(peer=peer) for peer in peers(OTHERS)]


def scope_of_connection() -> Run:
    ledger, others = ledger_of_many()

    def run(times: int, others: Any = others) -> None:
        for _ in range(times):
            scope = ledger.try_open_connection(True)
            scope.try_set_peer(PEER)
            scope.close()

    return run


def scope_of_stream() -> Run:
    ledger, others = ledger_of_many()

    def run(times: int, others: Any = others) -> None:
        for _ in range(times):
            scope = ledger.try_open_stream(PEER, True)
            scope.try_set_protocol("/ipfs/kad/1.0.0")
            scope.close()

    return run


def scope_refusal() -> Run:
    from rcmgr import ConcreteLimits, Ledger, Limit

    ledger = Ledger(ConcreteLimits(system=Limit(conns=0)))

    def run(times: int) -> None:
        for _ in range(times):
            ledger.try_open_connection(True)

    return run


def manager_of_many() -> tuple[Any, list[Any]]:
    from rcmgr import ConnectionLimits, ResourceManager

    manager = ResourceManager(connection_limits=ConnectionLimits(*[10**6] * 6))
    return manager, [manager.open_connection(peer) for peer in peers(900)]


def manager_connection() -> Run:
    manager, others = manager_of_many()

    def run(times: int, others: Any = others) -> None:
        for _ in range(times):
            before = manager.open_connection(None, None, "inbound")
            scope = manager.open_connection(PEER, None, "inbound")
            before.close()
            scope.close()

    return run


def manager_stream() -> Run:
    manager, others = manager_of_many()

    def run(times: int, others: Any = others) -> None:
        for _ in range(times):
            manager.acquire_stream(PEER, "inbound")
            manager.release_stream(PEER, "inbound")

    return run


def manager_denial() -> Run:
    from rcmgr import ResourceLimits, ResourceManager

    manager = ResourceManager(ResourceLimits(max_connections=0))
    manager.open_connection(PEER, None, "inbound")  # the first of ten seconds has a log line

    def run(times: int) -> None:
        for _ in range(times):
            manager.open_connection(PEER, None, "inbound")

    return run


def bucket(capacity: int, refill_rate: float) -> Run:
    from rcmgr import BucketTable

    table = BucketTable(capacity, refill_rate)

    def run(times: int) -> None:
        for _ in range(times):
            table.try_consume(PEER)

    return run


def call() -> Run:
    noop = gc.isenabled

    def run(times: int) -> None:
        for _ in range(times):
            noop()

    return run


WORK: dict[str, Callable[[], Run]] = {
    "a call that does nothing": call,
    "tracker: pending, established, removed": tracker_cycle,
    "ledger: open, set_peer, close": scope_of_connection,
    "ledger: open, set_protocol, close": scope_of_stream,
    "ledger: refusal": scope_refusal,
    "manager: a connection's life": manager_connection,
    "manager: a stream's life": manager_stream,
    "manager: denial": manager_denial,
    "bucket table: allowed": partial(bucket, 10**6, 1e6),
    "bucket table: denied": partial(bucket, 1, 1e-6),
}


def environment_of(python: str) -> dict[str, str]:
    """The rcmgr of another interpreter is the one installed there. Compiled modules are kept."""
    dropped = {"PYTHONDONTWRITEBYTECODE"}
    if python != sys.executable:
        dropped.add("PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONHASHSEED": "0"}


def count(name: str, times: int, python: str = sys.executable) -> int:
    with tempfile.NamedTemporaryFile() as profile:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile.name}",
             python, __file__, "--run", str(times), name],
            env=environment_of(python), capture_output=True, text=True, check=False,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    return int(found.group(1))


def instructions(name: str, python: str = sys.executable) -> float:
    return (count(name, OPERATIONS, python) - count(name, 0, python)) / OPERATIONS


def measure(names: list[str], python: str = sys.executable) -> dict[str, float]:
    for name in names:  # the first import compiles Python modules
        subprocess.run(
            [python, __file__, "--run", "1", name], env=environment_of(python), check=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = pool.map(partial(instructions, python=python), names)
        return dict(zip(names, counts, strict=True))


def this_build() -> str:
    """The name of its table: counts differ between builds of Python."""
    return f"{sys.version.split(' (')[0]}, {platform.python_compiler()}, {platform.machine()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="an operation; default all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true")
    what.add_argument("--record", action="store_true")
    parser.add_argument("--base", metavar="PYTHON", help="compare with the rcmgr installed there")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.names or list(WORK)
    if options.base and options.record:
        parser.error("--record writes the table that --base does not read")
    if unknown := set(names) - set(WORK):
        parser.error(f"unknown operation {', '.join(sorted(unknown))}, known are {list(WORK)}")
    if options.run is not None:
        WORK[names[0]]()(options.run)
        return 0
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    tables = json.loads(BASELINE.read_text())
    python = this_build()
    known = measure(names, options.base) if options.base else tables.get(python, {})
    measured = measure(names)
    grown = 0
    for name, value in measured.items():
        line = f"{name:<42}{value:>9,.0f}"
        if name in known:
            growth = value / known[name]
            grown += growth > MOST_GROWTH
            line += f"{growth - 1:>+9.1%}" + ("  MORE" if growth > MOST_GROWTH else "")
        print(line)
    if options.record:
        tables[python] = {**known, **{name: round(value) for name, value in measured.items()}}
        BASELINE.write_text(json.dumps(tables, indent=2) + "\n")
    if options.check and (unknown := set(names) - set(known)):
        print(f"no entry for {python}: {', '.join(sorted(unknown))}. Use --base or --record.")
        return 2
    return 1 if options.check and grown else 0


if __name__ == "__main__":
    sys.exit(main())
