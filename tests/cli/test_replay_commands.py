from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from record_script import Clock, Run

from rcmgr import NodeLimits, ResourceManager
from rcmgr.cli import main, replay_commands
from rcmgr.peers import peer_text
from rcmgr.replay import replay as replay_module


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "node.rec"
    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    with manager.record(path):
        Run(manager, clock).go(600)
    return path


def limits(folder: Path, text: str) -> str:
    path = folder / "new.toml"
    path.write_text(text)
    return str(path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, arguments)])


def test_the_same_limits_change_nothing(record: Path) -> None:
    done = run(record)
    assert done.exit_code == 0, done.output
    assert "Nothing would have changed." in done.output


def test_what_would_be_refused_is_said_with_its_setting(record: Path, tmp_path: Path) -> None:
    done = run(record, "--limits", limits(tmp_path, "[System]\nStreamsInbound = 5\nConns = 10\n"))
    assert done.exit_code == 1, done.output
    for words in (
        "Refused now, and not in the record:", "by stream.system.streams_inbound (",
        "see ConcreteLimits.system.streams_inbound", "most of: peer ", "the first: ",
        "a refusal had ended what they are about",
    ):
        assert words in done.output
    assert all(len(line) <= 80 for line in done.output.splitlines() if str(tmp_path) not in line
               and str(record) not in line)


def test_each_difference_has_a_line(record: Path, tmp_path: Path) -> None:
    done = run(record, "--each", "--limits", limits(tmp_path, "[System]\nConns = 10\n"))
    lines = [line for line in done.output.splitlines() if "granted -> " in line]
    assert lines
    assert lines[0].endswith("granted -> connection.system.conns")


def test_json_has_everything(record: Path, tmp_path: Path) -> None:
    done = run(
        record, "--json", "--each", "--limits", limits(tmp_path, "[System]\nConns = 10\n"))
    found = json.loads(done.stdout)
    [refused] = found["newly_refused"]
    assert refused["code"] == "connection.system.conns"
    assert refused["times"] == len(found["differences"])
    assert found["complete"] is True
    assert found["decisions"] == found["same"] + refused["times"]
    assert found["begin"] < refused["first"] <= refused["last"] <= found["end"]


def test_a_limit_that_the_file_leaves_out_is_that_of_the_record(tmp_path: Path) -> None:
    from rcmgr import ConcreteLimits, Limit

    clock = Clock()
    manager = ResourceManager(
        NodeLimits(ConcreteLimits(system=Limit(streams=8))), clock=clock)
    with manager.record(tmp_path / "node.rec"):
        Run(manager, clock).go(300)
    done = run(tmp_path / "node.rec", "--limits", limits(tmp_path, "[System]\nConns = 10000\n"))
    assert done.exit_code == 0, done.output
    assert "Nothing would have changed." in done.output


@pytest.mark.parametrize(
    ("content", "words"), [
        (b"text", "no record"), (b"\x1f\x8b", "no trace"), (b"", "no record"),
        (b"rcmgr record 1\n", "without a header"),
        (b"rcmgr record 1\n" + b"garbage" * 9, "without a header"),
    ])
def test_a_file_that_is_no_record_ends_in_one_line(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    done = run(path)
    assert done.exit_code == 2
    assert words in done.output
    assert done.output.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX")
@pytest.mark.parametrize("command", ["replay", "suggest"])
def test_a_record_in_a_pipe_is_refused(tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "-"):
        done = CliRunner().invoke(main, [command, path], terminal_width=200)
        assert done.exit_code == 2
        assert "is a pipe or a device. A record is read more than once" in done.stderr


def test_a_cut_file_is_replayed_and_named(record: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.rec"
    data = record.read_bytes()
    path.write_bytes(data + data[-200:-10])
    done = run(path)
    assert done.exit_code == 0, done.output
    assert "ends in the middle of a frame" in " ".join(done.output.split())


def test_ctrl_c_shows_what_was_replayed(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(result: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replay_module.Replay, "take_sample", interrupted)
    done = run(record)
    assert done.exit_code == 130
    assert "Interrupted" in done.output
    assert "decisions are the same" in done.output


def test_use_is_drawn(record: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run(record, "--plot", tmp_path / "out.svg")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.svg").read_text().startswith("<?xml")
    wrong = run(record, "--plot", tmp_path / "out.xyz")
    assert wrong.exit_code == 2


def test_limits_that_name_networks_do_not_match_hashes(record: Path, tmp_path: Path) -> None:
    text = '[Subnets.overrides]\n"198.51.100.0/24" = 3\n'
    assert "with --identities" in " ".join(
        run(record, "--limits", limits(tmp_path, text)).output.split())


@pytest.mark.parametrize(("seconds", "text"), [
    (119.9, "119.9 seconds"), (120, "2.0 minutes"), (7199, "120.0 minutes"), (7200, "2.0 hours"),
    (172_799, "48.0 hours"), (172_800, "2.0 days"),
])
def test_a_duration_has_its_largest_unit(seconds: float, text: str) -> None:
    assert replay_commands._duration(seconds) == text


def test_a_peer_is_its_hash_or_its_id() -> None:
    assert replay_commands._peer(b"\x00\x01\x02\x03\x04\x05\x06\xff") == "00010203040506ff"
    peer = b"\x12\x20" + bytes(32)
    assert replay_commands._peer(peer) == peer_text(peer)
