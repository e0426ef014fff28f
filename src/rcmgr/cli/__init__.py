"""The command line, `rcmgr`. Only this room of the package prints."""

from __future__ import annotations

from rcmgr.extras import require

try:
    for package in ("click", "rich", "tomlkit"):
        require(package, "rcmgr", "cli")
except ImportError as error:
    raise SystemExit(str(error)) from None

import importlib

import click

__all__ = ["main"]

_HOME = {
    "allow": "ban_commands", "apply": "control_commands", "attack": "attack_command",
    "ban": "ban_commands", "bans": "ban_commands", "bench": "bench_command",
    "completion": "completion_command", "demo": "demo.command", "explain": "status_commands",
    "fleet": "fleet_commands", "limits": "limit_commands", "peer": "control_commands",
    "replay": "replay_commands", "run": "run_command", "scope": "control_commands",
    "set": "control_commands", "status": "status_commands", "suggest": "suggest_command",
    "top": "status_commands", "unban": "ban_commands", "watch": "control_commands",
}
"""The module of each command."""


class _Commands(click.Group):
    """Imports the module of a command when it runs. All of them take half a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_HOME)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _HOME:
            # click proposes one of them
            self.commands = {name: self._command(name) for name in _HOME}
            return None
        return self._command(cmd_name)

    def _command(self, name: str) -> click.Command:
        module = importlib.import_module(f"rcmgr.cli.{_HOME[name]}")
        # `set` is the name of a Python type
        command: click.Command = getattr(module, "set_limit" if name == "set" else name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rcmgr")
def main() -> None:
    """Guard py-libp2p nodes, and look at their limits."""
