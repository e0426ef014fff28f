"""The figures that `benchmarks.report` keeps in results.json."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
MOST_RUNS = 3
HIGHER_IS_BETTER = re.compile(
    r"times (faster|rcmgr|as many|less|the work of one)\b|per second$|peer kept$")


@dataclass(frozen=True)
class Run:
    """One run of a benchmark."""

    machine: dict[str, str]
    """The machine and the versions."""
    figures: dict[str, list[float]]
    """The values of each process."""


@dataclass
class Results:
    """The latest runs of each benchmark, at most MOST_RUNS, the newest last."""

    runs: dict[str, list[Run]]
    used: set[tuple[str, str]] = field(default_factory=set)
    """Benchmark and figure of each value that was asked for."""

    @classmethod
    def read(cls, file: Path = RESULTS) -> Results:
        kept = json.loads(file.read_text()) if file.exists() else {}
        return cls({name: [Run(**run) for run in runs] for name, runs in kept.items()})

    def write(self, file: Path = RESULTS) -> None:
        kept = {name: [asdict(run) for run in runs] for name, runs in sorted(self.runs.items())}
        file.write_text(json.dumps(kept, indent=1) + "\n")

    def add(self, benchmark: str, run: Run) -> None:
        self.runs[benchmark] = [*self.runs.get(benchmark, []), run][-MOST_RUNS:]

    def has(self, benchmark: str, figure: str) -> bool:
        return any(figure in run.figures for run in self.runs.get(benchmark, []))

    def value(self, benchmark: str, figure: str) -> float:
        """The median of the worst run. KeyError: it was not measured."""
        if not self.has(benchmark, figure):
            raise KeyError(f"{benchmark}: {figure}")
        self.used.add((benchmark, figure))
        worst = min if HIGHER_IS_BETTER.search(figure) else max
        return worst(
            statistics.median(run.figures[figure])
            for run in self.runs[benchmark] if figure in run.figures)
