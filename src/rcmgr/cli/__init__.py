"""The command line, `rcmgr`. The only room of the package that prints."""

from __future__ import annotations

from rcmgr.extras import require

try:
    for package in ("click", "rich"):
        require(package, "rcmgr", "cli")
except ImportError as error:
    raise SystemExit(str(error)) from None

import click

from .demo.command import demo
from .limit_commands import limits
from .run_command import run
from .status_commands import explain, status, top

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rcmgr")
def main() -> None:
    """A resource manager for py-libp2p nodes, at the terminal."""


main.add_command(demo)
main.add_command(limits)
main.add_command(run)
main.add_command(top)
main.add_command(status)
main.add_command(explain)
