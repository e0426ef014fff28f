"""Run the benchmarks, keep their figures, and write them into README.md and docs.

    python -m benchmarks.report                     measure everything: an hour on a quiet machine
    python -m benchmarks.report --only peers ratios measure these, and keep the other figures
    python -m benchmarks.report --render            only write the figures that are kept
    python -m benchmarks.report --check             also compare them with thresholds.toml
    python -m benchmarks.report --render --adopt    move each threshold to 8 % from its figure

results.json keeps the latest three runs of each benchmark: its machine, and the values of every
process. A figure is the median of its worst run, so that another machine keeps the promise too. The
script replaces each marked place: `<!-- figures: NAME -->` and `<!-- end -->` on separate lines
around a table, or around a number in a sentence. benchmarks/places.py says what each name stands
for. It also draws the charts. Without a GIL, "everything" is `threads`, and with one it is
everything else.

--adopt is for a change that is meant to move figures: commit both, and say why.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.places import CHARTS, PLACES
from benchmarks.stored import Results, Run
from benchmarks.verdict import (
    ROOT,
    THRESHOLDS,
    all_targets,
    lost,
    print_figures,
    seen_in_fresh_processes,
)

PROCESSES = {  # benchmarks, and how many fresh processes each figure comes from
    "peers": 3, "peers.accept": 3, "ratios": 3, "manager": 3, "counting.scope": 3,
    "counting.denials": 3, "counting.memory_stats": 3, "counting.token_bucket": 3,
    "events.handler": 5, "gates.networks": 3, "libp2p.hosts": 3, "libp2p.end_to_end": 1,
    "million": 1, "threads": 3,
}
"""Each has a module in benchmarks/."""
WITHOUT_GIL = {"threads"}
"""They need a free-threaded build of Python, and the others need one with a GIL."""
MARGIN = 0.08
ABSOLUTE = (
    "more with nobody to tell", "more when observed by nobody", "wrong counts", "lost counts",
    "peer kept", "difference from psutil", "p99, times none", "p99, times libp2p")
"""Ends of the names of figures whose threshold stays: zero, one, or noise."""
PLACE = re.compile(r"(<!-- figures: ([a-z_.]+) -->)(.*?)(<!-- end -->)", re.DOTALL)


def has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def machine() -> dict[str, str]:
    """The machine and the versions that the figures depend on."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)
        processor = names[0] if names else processor
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}"
                  f"{'' if has_gil() else ', free-threaded'}",
        "libp2p": version("libp2p") if find_spec("libp2p") else "none",
        "rcmgr": version("rcmgr"),
    }


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str, results: Results) -> str:
    """The page with the figures that are kept. KeyError: a place or a figure is unknown."""

    def replace(found: re.Match[str]) -> str:
        start, name, old, end = found.groups()
        new = PLACES[name](results)
        return f"{start}\n{new}\n{end}" if "\n" in old else f"{start}{new}{end}"

    return PLACE.sub(replace, text)


def render(results: Results) -> None:
    for page in pages():
        old = page.read_text()
        new = rendered(old, results)
        if new != old:
            page.write_text(new)
            print(f"wrote {page.relative_to(ROOT)}")
    for name, draw in CHARTS.items():
        draw(results, ROOT / "docs" / "_static" / f"benchmarks-{name}.svg")


def keep(name: str, seen: dict[str, list[float]]) -> None:
    """Keep this run of a benchmark as its latest one."""
    results = Results.read()
    figures = {what: [float(f"{value:.4g}") for value in values] for what, values in seen.items()}
    results.add(name, Run(machine(), figures))
    results.write()


def adopted(thresholds: str, results: Results) -> str:
    """thresholds.toml with each bound next to its figure. Figures that are not a ratio keep it."""
    benchmark = bound = ""
    lines = []
    for line in thresholds.splitlines():
        if found := re.fullmatch(r'benchmark = "(.+)"', line):
            benchmark = found[1]
        elif found := re.fullmatch(r"\[gates\.(at_least|at_most)\]", line):
            bound = found[1]
        elif found := re.fullmatch(r'"(.+)" = \S+', line):
            figure = found[1]
            if results.has(benchmark, figure) and not figure.endswith(ABSOLUTE):
                factor = 1 + MARGIN if bound == "at_most" else 1 - MARGIN
                line = f'"{figure}" = {float(f"{factor * results.value(benchmark, figure):.3g}"):g}'
        lines.append(line)
    return "\n".join(lines) + "\n"


def check(results: Results) -> int:
    """Print each target and the kept figure. Returns how many were missed."""
    missed = 0
    for name, targets in all_targets().items():
        seen = {
            what: [results.value(name, what)] for what in targets if results.has(name, what)}
        print(f"\n{name}")
        missed += print_figures(seen, targets)
        for what in lost(seen, targets):
            print(f"{what}  MISSED: not measured")
            missed += 1
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(PROCESSES), metavar="BENCHMARK")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--processes", type=int, help="for each figure; the default is 1 to 5")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    parser.add_argument("--adopt", action="store_true", help="move the thresholds to the figures")
    options = parser.parse_args()
    here = PROCESSES.keys() - WITHOUT_GIL if has_gil() else WITHOUT_GIL
    names = [] if options.render else options.only or [name for name in PROCESSES if name in here]
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        keep(name, seen_in_fresh_processes(name, options.processes or PROCESSES[name]))
    results = Results.read()
    render(results)
    if options.adopt:
        THRESHOLDS.write_text(adopted(THRESHOLDS.read_text(), results))
    return 1 if options.check and check(results) else 0


if __name__ == "__main__":
    sys.exit(main())
