from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rcmgr.cli import main


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line that `rcmgr run` starts."""
    started: list[str] = []

    def start(_program: str, arguments: list[str]) -> None:
        started.extend(arguments)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "execv", start)
    return started


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ([], []),
        (["-m"], ["-m"]),
        (["node.py"], ["node.py"]),
        (["-m", "my.node", "--option"], ["-m", "my.node", "--option"]),
        (["--harden", "--status", "node.py", "--harden"],
         ["--harden", "--status", "node.py", "--harden"]),
        (["--dry-run", "node.py"], ["--dry-run", "node.py"]),
        (["node.py", "--help"], ["node.py", "--help"]),
    ],
)
def test_options_of_the_program_are_passed_on(
    command_line: list[str], arguments: list[str], passed: list[str]
) -> None:
    assert CliRunner().invoke(main, ["run", *arguments]).exit_code == 0
    assert command_line == [sys.executable, "-m", "rcmgr.libp2p.run", *passed]


def test_the_record_goes_to_the_program_by_its_environment(
    command_line: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RCMGR_RECORD", "RCMGR_RECORD_IDENTITIES"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["run", "--record", "node.rec", "--identities", "node.py"])
    assert done.exit_code == 0
    assert command_line[-1] == "node.py"
    assert os.environ["RCMGR_RECORD"] == str(tmp_path / "node.rec")
    assert os.environ["RCMGR_RECORD_IDENTITIES"] == "1"


def test_windows_waits_for_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(
        subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 7)
    )
    assert CliRunner().invoke(main, ["run", "node.py"]).exit_code == 7
