"""The figures that `benchmarks.report` keeps in results.json."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")


@dataclass
class Results:
    machines: dict[str, dict[str, str]]
    """The machine and the versions, by benchmark."""
    benchmarks: dict[str, dict[str, list[float]]]
    """The values of each process, by benchmark and figure."""
    used: set[tuple[str, str]] = field(default_factory=set)
    """Benchmark and figure of each value that was asked for."""

    @classmethod
    def read(cls, file: Path = RESULTS) -> Results:
        return cls(**json.loads(file.read_text()))

    def has(self, benchmark: str, figure: str) -> bool:
        return figure in self.benchmarks.get(benchmark, {})

    def value(self, benchmark: str, figure: str) -> float:
        """The median. KeyError: it was not measured."""
        self.used.add((benchmark, figure))
        return statistics.median(self.benchmarks[benchmark][figure])
