"""A command that asks a node: the socket it uses, and its exit status without an answer."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rcmgr import ResourceManager
from rcmgr.cli.node_socket import ask_node, socket_option


@click.command
@socket_option
def show(path: Path | None) -> None:
    click.echo(ask_node(path, "bans"))


def test_the_socket_of_the_option_or_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ResourceManager().serve_status(tmp_path / "s") as server:
        assert CliRunner().invoke(show, ["--socket", str(server.path)]).output == "[]\n"
        monkeypatch.setenv("RCMGR_STATUS", str(server.path))
        assert CliRunner().invoke(show).output == "[]\n"


def test_no_answer(tmp_path: Path) -> None:
    done = CliRunner().invoke(show, ["--socket", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert done.output.startswith("rcmgr: no node serves its status at ")
    assert done.output.count("\n") == 1
