"""The command line, `rcmgr`. Only this room of the package prints."""

from __future__ import annotations

from rcmgr.extras import require

try:
    for package in ("click", "rich", "tomlkit"):
        require(package, "rcmgr", "cli")
except ImportError as error:
    raise SystemExit(str(error)) from None

import click

from .attack_command import attack
from .ban_commands import allow, ban, bans, unban
from .bench_command import bench
from .completion_command import completion
from .control_commands import apply, peer, scope, set_limit, watch
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
    allow, apply, attack, ban, bans, bench, completion, demo, explain, fleet, limits, peer, replay,
    run, scope, set_limit, status, suggest, top, unban, watch,
):
    main.add_command(command)
