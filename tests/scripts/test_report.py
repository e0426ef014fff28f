"""The figures in README.md and docs: from stored results, and each with a threshold near it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libp2p")

from benchmarks import report, verdict
from benchmarks.places import ALTERNATIVES, PLACES
from benchmarks.stored import HIGHER_IS_BETTER, Results, Run
from benchmarks.verdict import Target, all_targets

RESULTS = Results.read()
TARGETS = all_targets()
GATES = [(name, figure) for name, targets in TARGETS.items() for figure in targets]
NEAR = 0.10
ROOT = Path(report.__file__).resolve().parents[1]


def test_marked_places_show_the_kept_figures() -> None:
    places = []
    for page in report.pages():
        text = page.read_text()
        assert report.rendered(text, RESULTS) == text, page.name
        marks = [name for _, name, _, _ in report.PLACE.findall(text)]
        assert text.count("<!-- figures:") == len(marks), page.name
        places += marks
    assert set(places) == set(PLACES)


def test_a_changed_figure_changes_its_page() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    other = Results.read()
    for run in other.runs["ratios"]:
        run.figures["tracker cycle, 1,000: times faster"][:] = [100.0]
    assert report.rendered(text, other) != text


def test_a_figure_is_the_median_of_its_worst_run() -> None:
    results = Results({})
    for each in ([9.0, 1.0, 2.0], [3.0, 8.0, 4.0], [3.0, 3.0, 9.0]):
        results.add("x", Run({}, {"a: ns": each, "a: times faster": each}))
    assert results.value("x", "a: ns") == 4.0
    assert results.value("x", "a: times faster") == 2.0
    results.add("x", Run({}, {"a: ns": [5.0]}))
    assert len(results.runs["x"]) == 3
    assert results.value("x", "a: ns") == 5.0
    assert results.value("x", "a: times faster") == 3.0
    with pytest.raises(KeyError, match="x: b: ns"):
        results.value("x", "b: ns")


@pytest.mark.parametrize(("benchmark_name", "figure"), GATES)
def test_worst_is_on_the_side_of_the_threshold(benchmark_name: str, figure: str) -> None:
    is_least = TARGETS[benchmark_name][figure].at_least is not None
    assert bool(HIGHER_IS_BETTER.search(figure)) == is_least


def test_runs_are_kept_in_their_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert Results.read(file).runs == {}
    results = Results({"x": [Run({"system": "y"}, {"a: ns": [1.0]})]})
    results.write(file)
    assert Results.read(file) == results


@pytest.mark.parametrize(("benchmark_name", "figure"), GATES)
def test_a_threshold_is_near_its_figure(benchmark_name: str, figure: str) -> None:
    target = TARGETS[benchmark_name][figure]
    value = RESULTS.value(benchmark_name, figure)
    assert target.met(value), target.verdict(value)
    assert target.why.endswith(".")
    if figure.endswith(report.ABSOLUTE):
        return
    if target.at_least is not None:
        assert target.at_least >= (1 - NEAR) * value
    if target.at_most is not None:
        assert target.at_most <= (1 + NEAR) * value


def test_every_figure_that_a_page_shows_has_a_threshold() -> None:
    shown = Results.read()
    for place in PLACES.values():
        place(shown)
    others = [each for each in ALTERNATIVES if not each.startswith("rcmgr")]

    def gated(name: str, figure: str) -> bool:
        """By a threshold of the same operation, or of the alternative that is compared with it."""
        operation = re.sub(r"^rcmgr(, ID)?, ", r"floodgate-rs\1, ", figure).rpartition(": ")[0]
        operation = re.sub(r"\b(none|libp2p|c)$", "rcmgr", operation)
        known = [each.rpartition(": ")[0] for each in TARGETS.get(name, {})]
        return operation in known or operation.replace("rcmgr", "harden") in known

    assert [
        (name, figure) for name, figure in sorted(shown.used)
        if not figure.startswith(tuple(f"{each}, " for each in others)) and not gated(name, figure)
        and name not in ("million", "threads") and "ping, calm" not in figure
    ] == []


def test_a_benchmark_fails_its_check_when_a_figure_is_worse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--check"])
    monkeypatch.setattr(verdict, "targets_of", lambda name: {"speed": Target(at_least=10, why="")})

    def status(seen: dict[str, list[float]]) -> int:
        monkeypatch.setattr(verdict, "seen_in_fresh_processes", lambda *arguments: seen)
        return verdict.benchmark_main("ratios", "doc", dict)

    assert status({"speed": [9.0, 10.0, 30.0]}) == 0
    assert status({"speed": [9.0, 9.9, 30.0]}) == 1
    assert status({"other": [100.0]}) == 1  # a figure with a target is no longer measured
    assert "speed was not measured" in capsys.readouterr().out


def test_adopted_thresholds_follow_their_figures_alone() -> None:
    figure = "tracker cycle, 1,000: times faster"
    text = verdict.THRESHOLDS.read_text()
    assert f'"{figure}" = ' in text
    other = Results.read()
    for run in other.runs["ratios"]:
        run.figures[figure][:] = [100.0]
    lines = list(zip(
        report.adopted(text, RESULTS).splitlines(), report.adopted(text, other).splitlines(),
        strict=True))
    [(_, changed)] = [(old, new) for old, new in lines if old != new]
    assert changed == f'"{figure}" = 92'
    kept = [line for line in text.splitlines() if "=" not in line or "peer kept" in line]
    assert [line for line in report.adopted(text, other).splitlines() if line in kept] == kept


def test_one_figure_has_one_threshold(tmp_path: Path) -> None:
    gate = '[[gates]]\nbenchmark = "ratios"\nwhy = "x."\n[gates.at_most]\n"a: ns" = 1\n'
    (tmp_path / "thresholds.toml").write_text(gate + gate)
    with pytest.raises(ValueError, match="two gates for 'a: ns' of ratios"):
        all_targets(tmp_path / "thresholds.toml")


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind counts instructions")
def test_the_gate_of_instructions_sees_a_slower_operation(tmp_path: Path) -> None:
    """A slow object stands in the place of a BucketTable. The other operation stays as it is."""
    script = tmp_path / "instructions.py"
    source = (ROOT / "benchmarks" / "instructions.py").read_text()
    few = source.replace("OPERATIONS = 5_000", "OPERATIONS = 1_000")
    slow = few.replace(
        "    table = BucketTable(capacity, refill_rate)\n",
        "    table = BucketTable(capacity, refill_rate)\n    fast = table.try_consume\n"
        "    table = type('Slow', (), {'try_consume': lambda self, key: fast(key)})()\n")
    assert source != few != slow
    (tmp_path / "instructions.json").write_text("{}")

    def run(what: str, text: str) -> subprocess.CompletedProcess[str]:
        script.write_text(text)
        return subprocess.run(
            [sys.executable, script, what, "a call that does nothing", "bucket table: allowed"],
            capture_output=True, text=True, check=False)

    assert run("--record", few).returncode == 0
    checked = run("--check", slow)
    assert checked.returncode == 1, checked.stderr
    same, slower = checked.stdout.splitlines()
    assert "MORE" not in same
    assert "MORE" in slower
