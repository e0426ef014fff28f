from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from record_script import Clock, Run

from rcmgr import LimitsFile, NodeLimits, ResourceManager
from rcmgr.cli import main
from rcmgr.cli import suggest_command as module
from rcmgr.report.status_client import StatusError, ask


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["suggest", *map(str, arguments)])


def test_a_file_is_suggested_from_a_record(tmp_path: Path) -> None:
    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    with manager.record(tmp_path / "node.rec"):
        Run(manager, clock).go(600)
    done = run(tmp_path / "node.rec", "--headroom", "2", "--percentile", "99")
    assert done.exit_code == 0, done.output
    file = LimitsFile.from_toml(done.stdout)
    assert file.build(NodeLimits()).scopes.system.conns is not None
    assert "2 times what 99 % of the time" in " ".join(done.stdout.replace("#", "").split())
    (tmp_path / "new.toml").write_text(done.stdout)
    replayed = CliRunner().invoke(
        main, ["replay", str(tmp_path / "node.rec"), "--limits", str(tmp_path / "new.toml")])
    assert replayed.exit_code == 0, replayed.output


@pytest.mark.parametrize(
    "wrong", [
        ["--headroom", "0.5"], ["--headroom", "nan"], ["--percentile", "10"],
        ["--percentile", "nan"], ["--for", "soon"], ["--for", "0"], ["--for", "nan"],
        ["--for", "999999999d"], ["--for", "366d"],
    ])
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    assert run(*wrong).exit_code == 2


def test_other_files_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("text")
    done = run(tmp_path / "x")
    assert (done.exit_code, done.output.count("\n")) == (2, 1)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ResourceManager]:
    manager = ResourceManager(NodeLimits())
    manager.serve_status(tmp_path / "sock")
    yield manager
    manager.close()


def test_a_running_node_is_watched(
    node: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        for number in range(70):
            node.acquire_stream(b"%d" % (number % 3), "inbound")

    monkeypatch.setattr(module.time, "sleep", sleep)
    done = run("--socket", tmp_path / "sock", "--for", "2m")
    assert done.exit_code == 0, done.output
    assert slept == [120]
    limits = LimitsFile.from_toml(done.stdout).build(NodeLimits())
    assert limits.scopes.system.streams_inbound in range(70, 111)
    assert node.recording is not None
    assert node.recording.stats()["closed"]


def test_ctrl_c_ends_the_watch_early(
    node: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        node.acquire_stream(b"peer", "inbound")
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", sleep)
    done = run("--socket", tmp_path / "sock")
    assert done.exit_code == 0, done.output
    assert "1 event." in done.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_watch_and_the_recording(
    node: ResourceManager, tmp_path: Path, name: str
) -> None:
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    number = getattr(signal, name)
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"this process ignores {name}, as under nohup")
    process = subprocess.Popen(
        [sys.executable, "-m", "rcmgr", "suggest", "--socket", tmp_path / "sock", "--for", "60s"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "watching the node" in process.stderr.readline()
    process.send_signal(number)
    output, _ = process.communicate(timeout=50)
    assert (process.returncode, output) == (128 + number, "")
    assert node.recording is not None
    assert node.recording.stats()["closed"]


def test_a_node_that_records_already_is_left_alone(node: ResourceManager, tmp_path: Path) -> None:
    recording = node.record(tmp_path / "own.rec")
    done = run("--socket", tmp_path / "sock", "--for", "1s")
    assert done.exit_code == 1
    assert "records already" in done.output
    assert not recording.stats()["closed"]
    recording.close()


def test_the_socket_refuses_wrong_paths(node: ResourceManager, tmp_path: Path) -> None:
    with pytest.raises(StatusError, match="no record"):
        ask(tmp_path / "sock", "record", file=str(tmp_path / "no" / "node.rec"))
    with pytest.raises(StatusError, match="file"):
        ask(tmp_path / "sock", "record", file=5)
    assert ask(tmp_path / "sock", "stop_recording") is False


def test_without_a_node_it_ends_in_one_line(tmp_path: Path) -> None:
    done = run("--socket", tmp_path / "none")
    assert (done.exit_code, done.output.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "command", [["bench", "--seconds"], ["top", "--every"], ["fleet", "top", "--every"]])
def test_other_commands_refuse_nan_too(command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "nan"])
    assert done.exit_code == 2
    assert "nan is not a finite number" in done.output


def test_defaults_of_the_options(
    node: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    node.acquire_stream(b"peer", "inbound")
    done = run("--socket", tmp_path / "sock")
    assert slept == [600]
    assert "1.5 times what 99.9 % of the time" in " ".join(done.stdout.replace("#", "").split())
    assert done.stderr.startswith("watching the node for 600 s; Ctrl-C ends it early\n")


def test_records_without_events_and_cut_ones_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    ResourceManager(NodeLimits()).record(path).close()
    assert run(path).stderr.splitlines()[-1] == f"note: {path}: no events"
    data = path.read_bytes()
    path.write_bytes(data + data[-200:-10])
    assert f"note: {path} ends in the middle of a frame" in run(path).stderr.splitlines()
