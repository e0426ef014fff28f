"""`rcmgr run`: an unmodified program, guarded."""

from __future__ import annotations

import os
import subprocess
import sys

import click

__all__ = ["run"]


@click.command(
    short_help="Run a program with its py-libp2p nodes guarded.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--harden", is_flag=True, help="Call rcmgr.install(harden=True).")
@click.option(
    "--status", is_flag=True,
    help="Let `rcmgr top`, `status` and `explain` look at the node: call its serve_status().",
)
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[-m MODULE | SCRIPT] ...")
def run(harden: bool, status: bool, program: tuple[str, ...]) -> None:
    """Run SCRIPT or MODULE as python would, with rcmgr.install() called first.

    RCMGR_LIMITS in the environment names a limits file (TOML, or go-libp2p's JSON; see `rcmgr
    limits`) for its nodes.
    The exit status is the program's.
    """
    options = ["--harden"] * harden + ["--status"] * status
    command = [sys.executable, "-m", "rcmgr.libp2p.run", *options, *program]
    if sys.platform == "win32":  # there, exec ends this process before the program
        raise SystemExit(subprocess.run(command, check=False).returncode)
    sys.stdout.flush()
    os.execv(command[0], command)
