"""A release stops at the first promise that does not hold."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from load_script import SCRIPTS, load_script

release = load_script("release")
ROOT = SCRIPTS.parent

CHANGELOG = """# Changes

## 1.2.0 (2026-11-28)

* Something new.

## 1.1.0 (2026-10-01)

* Something older.
"""


def make_dist(folder: Path, *, version: str = "1.2.0", **files: str) -> None:
    """A wheel, and a source distribution with the files that the gate `tag` reads."""
    contents = {
        "CHANGELOG.md": CHANGELOG, "src/rcmgr/__init__.py": f'__version__ = "{version}"\n',
        "pyproject.toml": "", **{path.replace("__", "/"): text for path, text in files.items()},
    }
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "rcmgr-1.2.0.tar.gz", "w:gz") as archive:
        for path, text in contents.items():
            info = tarfile.TarInfo(f"rcmgr-1.2.0/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    (folder / "rcmgr-1.2.0-cp311-cp311-manylinux_2_28_x86_64.whl").write_text("a wheel")


class Commands:
    """Stands in for all commands of a release. A command fails if it contains `failing`."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.ran: list[str] = []

    def __call__(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> None:
        line = " ".join(map(str, command))
        self.ran.append(line)
        if self.failing and self.failing in line:
            raise subprocess.CalledProcessError(1, line)
        if "--output-file" in command:
            Path(command[command.index("--output-file") + 1]).write_text("{}")


@pytest.fixture
def dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_dist(tmp_path / "dist")
    monkeypatch.setattr(release, "make_environment", lambda python, folder: f"python in {folder}")
    monkeypatch.setattr(release, "install", lambda python, dist, extra: None)
    monkeypatch.setattr(release, "prepare", lambda tree: tree)
    monkeypatch.setenv("RCMGR_TSAN_PYTHON", "python3.13t")
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    (recorded / "rcmgr-1.2.0-cp311-cp311-linux_x86_64.whl").write_text("a wheel")
    monkeypatch.setenv("RCMGR_RECORDED", str(recorded))
    return tmp_path / "dist"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a version, a fragment for the changelog, and recorded instructions."""
    folder = tmp_path / "clone"
    for name, text in {
        "pyproject.toml": (ROOT / "pyproject.toml").read_text(),
        "CHANGELOG.md": "# Changes\n\n<!-- towncrier release notes start -->\n",
        "changes/README.md": "How to write one.\n", "changes/+new.added.md": "Something new.\n",
        "src/rcmgr/__init__.py": '__version__ = "1.2.0"\n',
        "benchmarks/instructions.json": "{}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "a file of nobody").write_text("")
    monkeypatch.setattr(release, "ROOT", folder)
    git(folder, "init", "--quiet")
    commit(folder, "Record", "pyproject.toml", "CHANGELOG.md", "changes", "src", "benchmarks")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments], cwd=folder,
        check=True)


def commit(folder: Path, subject: str, *names: str) -> None:
    git(folder, "add", *names)
    git(folder, "commit", "--quiet", "--message", subject)


def main(monkeypatch: pytest.MonkeyPatch, commands: Commands, *arguments: str | Path) -> int:
    monkeypatch.setattr(release, "run", commands)
    monkeypatch.setattr("sys.argv", ["release", *map(str, arguments)])
    status: int = release.main()
    return status


def test_a_dry_run_in_which_every_promise_holds(
    dist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, Commands(), "--dry-run", "--dist", dist) == 0
    output = capsys.readouterr().out
    assert re.findall(r"^-- (\w+):", output, re.M) == list(release.GATES)
    checksums = (dist / "SHA256SUMS").read_text()
    assert re.findall(r"^[0-9a-f]{64}  (.+)$", checksums, re.M) == [
        "rcmgr-1.2.0.tar.gz", "rcmgr-1.2.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "sbom.cdx.json"]


def test_a_dry_run_of_some_gates(
    dist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands()
    assert main(monkeypatch, commands, "--dry-run", "--dist", dist, "files", "tag") == 0
    assert re.findall(r"^-- (\w+):", capsys.readouterr().out, re.M) == ["files", "tag"]
    assert "scripts/wheels --no-tests" in commands.ran[0]


@pytest.mark.parametrize(("gate", "command"), [
    ("build", "scripts/wheels --no-tests"),
    ("files", "scripts/check_dist"),
    ("files", "twine check --strict"),
    ("files", "check_wheel_contents"),
    ("tests", "scripts/wheels --no-build"),
    ("sanitizers", "scripts/sanitize"),
    ("threads", "scripts/sanitize thread"),
    ("upstream", "scripts/upstream_tests --more"),
    ("instructions", "benchmarks/instructions.py --check --base"),
    ("instructions", "benchmarks.misses --check --base"),
    *(("ratios", f"{module} --check") for module in release.BENCHMARKS),
    ("describe", "cyclonedx_py"),
])
def test_a_missed_promise_stops_the_release(
    dist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gate: str,
    command: str,
) -> None:
    commands = Commands(command)
    assert main(monkeypatch, commands, "--dry-run", "--dist", dist) == 1
    output = capsys.readouterr().out
    stopped = "sanitizers" if gate == "sanitizers" else gate
    assert f"no release: {stopped}: " in output
    assert command in commands.ran[-1]
    assert "ready: " not in output
    assert not (dist / "SHA256SUMS").exists()


@pytest.mark.parametrize(("tag", "files", "reason"), [
    ("v1.3.0", {}, "the tag is v1.3.0, but the version is 1.2.0"),
    ("1.2.0", {}, "the tag is 1.2.0, but the version is 1.2.0"),
    ("v1.2.0", {"version": "1.1.9"}, "rcmgr.__version__ is not 1.2.0"),
    ("v1.2.0", {"CHANGELOG.md": CHANGELOG.replace("## 1.2.0", "## 1.2.1")},
     "CHANGELOG.md says nothing about 1.2.0"),
    ("v1.2.0", {"CHANGELOG.md": CHANGELOG.replace("* Something new.\n\n", "")},
     "CHANGELOG.md says nothing about 1.2.0"),
    ("v1.2.0", {"CHANGELOG.md": CHANGELOG.replace(" (2026-11-28)", "")},
     "CHANGELOG.md says nothing about 1.2.0"),
    ("v1.2.0", {"changes__16.fixed.md": "x"}, "changes/ holds 16.fixed.md"),
])
def test_the_tag_or_the_changelog_is_wrong(
    dist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tag: str,
    files: dict[str, Any], reason: str,
) -> None:
    make_dist(dist, **files)
    assert main(monkeypatch, Commands(), "--dry-run", "--dist", dist, "--tag", tag) == 1
    assert f"no release: tag: {reason}" in capsys.readouterr().out


def test_no_interpreter_for_the_gate_about_threads(
    dist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RCMGR_TSAN_PYTHON")
    assert main(monkeypatch, Commands(), "threads", "--dist", dist) == 1
    assert "no release: threads: RCMGR_TSAN_PYTHON is not set" in capsys.readouterr().out


def test_a_dry_run_writes_the_changelog_in_a_copy(clone: Path, tmp_path: Path) -> None:
    pytest.importorskip("towncrier", reason="towncrier is not installed (extra: dist)")
    tree = release.prepare(tmp_path / "prepared")
    assert "## 1.2.0 (" in (tree / "CHANGELOG.md").read_text()
    assert "Something new." in (tree / "CHANGELOG.md").read_text()
    assert [each.name for each in (tree / "changes").iterdir()] == ["README.md"]
    assert not (tree / "a file of nobody").exists()
    assert (clone / "changes" / "+new.added.md").exists()


def test_a_fragment_of_no_known_kind(clone: Path, tmp_path: Path) -> None:
    pytest.importorskip("towncrier", reason="towncrier is not installed (extra: dist)")
    (clone / "changes" / "+new.feature.md").write_text("Something else.\n")
    commit(clone, "Add a feature", "changes")
    with pytest.raises(subprocess.CalledProcessError, match="towncrier"):
        release.prepare(tmp_path / "prepared")


def test_the_fragments_have_known_kinds() -> None:
    kinds = re.findall(r'directory = "(\w+)", name', (ROOT / "pyproject.toml").read_text())
    for each in release.fragments(ROOT):
        assert re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({'|'.join(kinds)})\.md", each.name)


def test_instructions_are_compared_with_the_commit_that_recorded_them(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    monkeypatch.setattr(release, "run", commands)
    source = clone / "src" / "rcmgr" / "__init__.py"
    source.write_text('__version__ = "1.3.0"\n')
    commit(clone, "Change", "src")
    release.build_recorded(tmp_path)
    built = tmp_path / "recorded-sources"
    assert "1.2.0" in (built / "src" / "rcmgr" / "__init__.py").read_text()
    assert commands.ran[0].endswith(f"--wheel-dir {tmp_path / 'recorded-wheel'} {built}")


def test_a_shallow_clone_does_not_know_what_was_recorded(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(clone, "Add a file", "a file of nobody")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{clone}", "shallow")
    monkeypatch.setattr(release, "ROOT", tmp_path / "shallow")
    with pytest.raises(release.Missed, match="shallow"):
        release.build_recorded(tmp_path)


def test_no_wheel_of_the_recorded_commit(
    dist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RCMGR_RECORDED", str(dist / "elsewhere"))
    assert main(monkeypatch, Commands(), "instructions", "--dist", dist) == 1
    assert "no release: instructions: " in capsys.readouterr().out


def test_two_source_distributions(
    dist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (dist / "rcmgr-1.1.0.tar.gz").write_text("")
    assert main(monkeypatch, Commands(), "files", "--dist", dist) == 1
    assert "holds 2 source distributions, not one" in capsys.readouterr().out


def test_every_benchmark_with_targets_is_a_promise() -> None:
    with_targets = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "benchmarks").rglob("*.py")
        if "[--check]" in path.read_text() and "__main__" in path.read_text()
    }
    without_gil = {"benchmarks.threads"}  # the wheels of a release's gate have one
    assert set(release.BENCHMARKS) == with_targets - without_gil
    assert without_gil <= with_targets


def test_the_workflow_publishes_only_after_every_gate() -> None:
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    jobs = dict(re.findall(r"^  (\w+):\n(.*?)(?=^  \w+:\n|\Z)", workflow.split("\njobs:\n")[1],
                           re.M | re.S))
    needed = set(re.findall(r"\w+", re.search(r"needs: \[(.*)\]", jobs["publish"])[1]))  # type: ignore[index]
    run: dict[str, str] = {}
    for name, text in jobs.items():
        named = re.findall(r"scripts/release [^\n]*?\b(\w+)'?$", text, re.M)
        in_matrix = re.findall(r"gate: \[(.*)\]", text)
        for gate in [*named, *(each for gates in in_matrix for each in gates.split(", "))]:
            run[gate] = name
    assert run.keys() - {"describe"} == set(release.GATES)
    assert set(run.values()) <= needed
    assert "if: github.ref_type == 'tag'" in jobs["publish"]


def test_the_gates_see_the_files_that_are_published() -> None:
    """`compress` writes the wheels again, so no later job may take the raw ones."""
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    before, compress, after = re.split(r"^  (?=compress:|files:)", workflow, flags=re.M)
    assert re.findall(r"(?:pattern|name): (raw-\S+)", compress) == ["raw-*"]
    assert "raw-" not in after
    downloads = after.count("actions/download-artifact@")
    assert downloads == after.count("pattern: published-*") >= 5
    assert re.findall(r"(?:pattern|name): (raw-\S+)", before) == ["raw-${{"]
