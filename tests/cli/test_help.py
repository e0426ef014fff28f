"""The help of every command: it fits a terminal, and names the command."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from programs import check

from rcmgr.cli import main


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    found = [path]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += commands(command, *path, name)
        else:
            found.append((*path, name))
    return found


def help_of(*path: str) -> str:
    result = CliRunner().invoke(main, [*path, "--help"], prog_name="rcmgr", terminal_width=80)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_help_fits_80_columns(path: tuple[str, ...]) -> None:
    text = help_of(*path)
    assert text.startswith(" ".join(["Usage: rcmgr", *path]))
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("group", [(), ("limits",)], ids=" ".join)
def test_every_command_has_a_short_help_that_is_not_cut_off(group: tuple[str, ...]) -> None:
    listed = help_of(*group).partition("Commands:\n")[2].splitlines()
    assert listed
    assert not [line for line in listed if line.endswith("...") or len(line.split()) < 3]


@pytest.mark.skipif(
    not hasattr(click.exceptions, "NoSuchCommand"), reason="needs click 8.4 or newer")
def test_a_wrong_command_is_corrected() -> None:
    result = CliRunner().invoke(main, ["statu"])
    assert result.exit_code == 2
    assert "status" in result.output


def test_a_command_imports_no_other() -> None:
    """All of them take half a second."""
    modules = check("""
        import sys
        from rcmgr.cli import main
        main(["run", "--help"], standalone_mode=False)
        print(*sys.modules, sep="\\n")
    """).splitlines()
    assert {each for each in modules if each.startswith("rcmgr.cli.")} == {"rcmgr.cli.run_command"}
