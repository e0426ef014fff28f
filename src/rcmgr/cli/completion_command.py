"""`rcmgr completion`: let a shell complete the commands and options of `rcmgr`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]

_SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_RCMGR_COMPLETE"


@click.command(short_help="Install completion for bash, zsh or fish.")
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@click.option("--print", "to_print", is_flag=True, help="Print the script, and install nothing.")
@click.pass_context
def completion(context: click.Context, shell: str | None, to_print: bool) -> None:
    """Let SHELL complete the commands and options of rcmgr. Default: the shell of $SHELL.

    It writes one file, where the shell looks for completions of single commands.
    """
    shell = shell or _shell_of_user()
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "rcmgr", _VARIABLE).source()
    if to_print:
        click.echo(script)
        return
    place = _place(shell)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(script, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{place}: {error.strerror or error}") from None
    click.echo(f"wrote {place}")
    if shell == "zsh":
        click.echo(f"If a new zsh does not complete: add `fpath+=({place.parent})` before compinit")


def _shell_of_user() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in _SHELLS:
        raise click.UsageError(
            f"$SHELL is {name or 'not set'!r}: name one of {', '.join(_SHELLS)}")
    return name


def _place(shell: str) -> Path:
    """The file that a new shell reads for the command `rcmgr`."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / "rcmgr",
        "zsh": data / "zsh" / "site-functions" / "_rcmgr",
        "fish": config / "fish" / "completions" / "rcmgr.fish",
    }[shell]
