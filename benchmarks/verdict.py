"""Options, fresh processes and thresholds, as every benchmark uses them.

A benchmark is a module whose `measure` returns figures. thresholds.toml says which of them must not
get worse.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
THRESHOLDS = Path(__file__).with_name("thresholds.toml")

Figures = dict[str, float]
"""Values by the name of the figure: what is measured, at which size, and the unit."""


@dataclass(frozen=True)
class Target:
    """A promise about one figure."""

    at_least: float | None = None
    at_most: float | None = None
    why: str = ""

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def verdict(self, value: float) -> str:
        bound = (
            f"at most {self.at_most:g}"
            if self.at_least is None
            else f"at least {self.at_least:g}"
        )
        return f"{'ok' if self.met(value) else 'MISSED'} ({bound})"


def all_targets(file: Path = THRESHOLDS) -> dict[str, dict[str, Target]]:
    """The targets of each benchmark, by figure."""
    found: dict[str, dict[str, Target]] = {}
    for gate in tomllib.loads(file.read_text())["gates"]:
        targets = found.setdefault(gate["benchmark"], {})
        for bound in ("at_least", "at_most"):
            for figure, value in gate.get(bound, {}).items():
                if figure in targets:
                    raise ValueError(f"two gates for {figure!r} of {gate['benchmark']}")
                targets[figure] = Target(**{bound: value}, why=gate["why"])
    return found


def targets_of(benchmark: str) -> dict[str, Target]:
    return all_targets().get(benchmark, {})


def fresh_process(module: str, *arguments: str) -> Any:
    """Run a benchmark's module in a fresh process, and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def seen_in_fresh_processes(
    benchmark: str, processes: int, *arguments: str
) -> dict[str, list[float]]:
    """Run a benchmark in several processes, and collect the values of each figure."""
    seen: dict[str, list[float]] = {}
    for _ in range(processes):
        for what, value in fresh_process(f"benchmarks.{benchmark}", "--once", *arguments).items():
            seen.setdefault(what, []).append(value)
    return seen


def print_figures(seen: dict[str, list[float]], targets: dict[str, Target]) -> int:
    """Print the median of each figure and its verdict. Returns how many targets were missed."""
    missed = 0
    width = max(map(len, seen), default=0) + 2
    for what, values in seen.items():
        value = statistics.median(values)
        line = f"{what:<{width}}{value:>12,.{1 if abs(value) >= 10 else 3}f}"
        if what in targets:
            line += f"  {targets[what].verdict(value)}"
            missed += not targets[what].met(value)
        print(line)
    return missed


def lost(seen: dict[str, list[float]], targets: dict[str, Target]) -> list[str]:
    """Figures with a target that were not measured."""
    return [what for what in targets if what not in seen]


def benchmark_main(
    benchmark: str,
    doc: str,
    measure: Callable[[], Figures],
    *,
    processes: int = 5,
    targets: dict[str, Target] | None = None,
) -> int:
    """The command line of a benchmark. targets: the default is those of thresholds.toml."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    parser.add_argument("--processes", type=int, default=processes, help=f"default {processes}")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        json.dump(measure(), sys.stdout)
        return 0
    targets = targets_of(benchmark) if targets is None else targets
    seen = seen_in_fresh_processes(benchmark, options.processes)
    missed = print_figures(seen, targets)
    for what in lost(seen, targets):
        print(f"MISSED: {what} was not measured")
        missed += 1
    return 1 if options.check and missed else 0
