"""The command line, `rcmgr`. Only this room of the package prints."""

from __future__ import annotations

from rcmgr.extras import require

try:
    for package in ("click", "rich", "tomlkit"):
        require(package, "rcmgr", "cli")
except ImportError as error:
    raise SystemExit(str(error)) from None

import click

from .ban_commands import allow, ban, bans, unban
from .bench_command import bench
from .demo.command import demo
from .fleet_commands import fleet
from .limit_commands import limits
from .replay_commands import replay
from .run_command import run
from .status_commands import explain, status, top
from .suggest_command import suggest

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rcmgr")
def main() -> None:
    """Guard py-libp2p nodes, and look at their limits."""


for command in (
    allow, ban, bans, bench, demo, explain, fleet, limits, replay, run, status, suggest, top, unban,
):
    main.add_command(command)
