"""`rcmgr completion` writes what shells read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from rcmgr.cli import main

PLACES = {
    "bash": ".local/share/bash-completion/completions/rcmgr",
    "zsh": ".local/share/zsh/site-functions/_rcmgr",
    "fish": ".config/fish/completions/rcmgr.fish",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("shell", PLACES)
def test_a_file_is_written_where_the_shell_looks(home: Path, shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0, done.output
    place = home / PLACES[shell]
    assert done.output.splitlines()[0] == f"wrote {place}"
    printed = CliRunner().invoke(main, ["completion", shell, "--print"])
    assert place.read_text() == printed.output[:-1]
    assert "_RCMGR_COMPLETE" in place.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(place)], check=True)


def test_the_shell_of_the_user_is_the_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert CliRunner().invoke(main, ["completion"]).exit_code == 0
    assert (home / PLACES["fish"]).exists()
    monkeypatch.setenv("SHELL", "/bin/dash")
    done = CliRunner().invoke(main, ["completion"])
    assert (done.exit_code, "$SHELL is 'dash': name one of bash, zsh, fish" in done.output) == (
        2, True)


def test_a_file_that_cannot_be_written_is_an_error_in_one_line(home: Path) -> None:
    (home / ".config").write_text("")
    done = CliRunner().invoke(main, ["completion", "fish"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")


def test_the_shell_gets_our_commands() -> None:
    done = CliRunner().invoke(
        main, [], prog_name="rcmgr",
        env={"_RCMGR_COMPLETE": "bash_complete", "COMP_WORDS": "rcmgr to", "COMP_CWORD": "1"})
    assert done.output == "plain,top\n"
