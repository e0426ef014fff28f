"""Each interpreter gets its own wheel, and the tests that can run on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from load_script import load_script

wheels = load_script("wheels")
HERE = "manylinux_x86_64"
INTERPRETERS = {
    "python3.11": wheels.Interpreter("/usr/bin/python3.11", "cp311", HERE),
    "python3.14": wheels.Interpreter("/usr/bin/python3.14", "cp314", HERE),
}


class Recorder:
    """Stands in for the steps of one wheel. A step fails for the interpreter `failing`."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.steps: list[str] = []

    def step(self, name: str, python: wheels.Interpreter) -> None:
        self.steps.append(f"{name} {python.tag}")
        if self.failing == self.steps[-1]:
            raise subprocess.CalledProcessError(1, name)


def main(monkeypatch: pytest.MonkeyPatch, recorder: Recorder, *arguments: str) -> int:
    monkeypatch.setattr(wheels, "interpreter", INTERPRETERS.get)
    monkeypatch.setattr(wheels, "build_sdist", lambda dist: recorder.steps.append("sdist"))
    monkeypatch.setattr(wheels, "build_wheel", lambda python, *_: recorder.step("build", python))
    monkeypatch.setattr(wheels, "test_wheel", lambda python, *_: recorder.step("test", python))
    monkeypatch.setattr("sys.argv", ["wheels", *arguments])
    status: int = wheels.main()
    return status


def test_one_sdist_and_a_tested_wheel_for_each_interpreter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    assert main(monkeypatch, recorder) == 0
    assert recorder.steps == ["sdist", "build cp311", "test cp311", "build cp314", "test cp314"]
    output = capsys.readouterr().out
    assert "cp311: tested with libp2p" in output
    assert "cp314: tested without libp2p" in output
    assert "python3.12: not here" in output


@pytest.mark.parametrize("failing", ["build cp311", "test cp311"])
def test_a_failure_fails_the_run_after_the_other_interpreters(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(failing)
    assert main(monkeypatch, recorder) == 1
    assert recorder.steps[-1] == "test cp314"


@pytest.mark.parametrize(("option", "steps"), [
    ("--no-tests", ["sdist", "build cp311"]), ("--no-build", ["test cp311"])])
def test_build_or_test_alone(
    option: str, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    assert main(monkeypatch, recorder, option, "python3.11") == 0
    assert recorder.steps == steps


def test_a_named_interpreter_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        main(monkeypatch, Recorder(), "python3.9")


@pytest.mark.parametrize(("tag", "platform", "has_libp2p"), [
    ("cp313", "manylinux_x86_64", True), ("cp313", "win_amd64", True),
    ("cp314", "manylinux_x86_64", False), ("cp313t", "manylinux_x86_64", False),
    ("cp313", "win_arm64", False), ("cp39", "manylinux_x86_64", False),
])
def test_the_table_says_where_libp2p_installs(tag: str, platform: str, has_libp2p: bool) -> None:
    assert wheels.Interpreter("python", tag, platform).has_libp2p is has_libp2p


@pytest.mark.skipif(sys.platform != "linux", reason="the name of the platform is Linux's")
def test_an_interpreter_tells_its_tag() -> None:
    found = wheels.interpreter(sys.executable)
    assert found is not None
    assert found.tag.startswith(f"cp3{sys.version_info[1]}")
    assert found.platform.startswith("manylinux_")
    assert wheels.interpreter(str(Path(sys.executable).with_name("no-python"))) is None
