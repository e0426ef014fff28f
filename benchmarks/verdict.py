"""Options, fresh processes and targets, as every benchmark with `--check` uses them."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

Figures = dict[str, float]
"""Values by the name of the figure."""


@dataclass(frozen=True)
class Target:
    """A promise about one figure."""

    at_least: float | None = None
    at_most: float | None = None

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


def parser(doc: str, *, processes: int | None = None) -> argparse.ArgumentParser:
    """Options `--check` and, with a number of processes, `--processes` and the hidden `--once`."""
    made = argparse.ArgumentParser(description=doc.partition("\n")[0])
    made.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    if processes is not None:
        made.add_argument(
            "--processes", type=int, default=processes, help=f"default {processes}"
        )
        made.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    return made


def fresh_process(module: str, *arguments: str) -> Any:
    """Run a benchmark's module in a fresh process, and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def seen_in_fresh_processes(module: str, processes: int) -> dict[str, list[float]]:
    """Run `module --once`, which prints figures as JSON, and collect the values by figure."""
    seen: dict[str, list[float]] = {}
    for _ in range(processes):
        for what, value in fresh_process(module, "--once").items():
            seen.setdefault(what, []).append(value)
    return seen


def print_figures(seen: dict[str, list[float]], targets: dict[str, Target]) -> int:
    """Print the median of each figure and its verdict. Returns how many targets were missed."""
    missed = 0
    for what, values in seen.items():
        value = statistics.median(values)
        line = f"{what:<62}{value:>11,.1f}"
        if what in targets:
            line += f"  {targets[what].verdict(value)}"
            missed += not targets[what].met(value)
        print(line)
    return missed
