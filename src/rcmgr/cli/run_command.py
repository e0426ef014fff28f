"""`rcmgr run`: guard the nodes of an unmodified program."""

from __future__ import annotations

import os
import subprocess
import sys

import click

__all__ = ["run"]


@click.command(
    short_help="Run a program and guard its py-libp2p nodes.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--harden", is_flag=True, help="Also close holes of py-libp2p: install(harden=True).")
@click.option(
    "--status", is_flag=True,
    help="Serve the node's status for `rcmgr top`, `status` and `explain`.",
)
@click.option(
    "--record", type=click.Path(dir_okay=False), metavar="PATH",
    help="Write each decision of the node to this file, for `rcmgr replay` and `suggest`.",
)
@click.option(
    "--identities", is_flag=True,
    help="Record peers and addresses as they are, and not as keyed hashes.",
)
@click.option(
    "--dry-run", is_flag=True,
    help="Refuse nothing, and report what the limits would refuse.",
)
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[-m MODULE | SCRIPT] ...")
def run(
    harden: bool, status: bool, record: str | None, identities: bool, dry_run: bool,
    program: tuple[str, ...],
) -> None:
    """Run SCRIPT or MODULE like python, after rcmgr.install().

    The environment variable RCMGR_LIMITS names a file with the limits of its nodes, in TOML or
    go-libp2p's JSON. With RCMGR_LIMITS_LENIENT=1, unknown keys of JSON are skipped, like in Go.
    `rcmgr limits` can write a file. RCMGR_RECORD is another way to say --record. With --dry-run,
    every limit reports what it would refuse, in logs, metrics and `rcmgr explain`. Then
    `rcmgr set DryRun off` turns the limits on. The exit status is the program's.
    """
    if record is not None:
        os.environ["RCMGR_RECORD"] = os.path.abspath(record)
    if identities:
        os.environ["RCMGR_RECORD_IDENTITIES"] = "1"
    options = ["--harden"] * harden + ["--status"] * status + ["--dry-run"] * dry_run
    command = [sys.executable, "-m", "rcmgr.libp2p.run", *options, *program]
    if sys.platform == "win32":  # exec would end this process before the program
        raise SystemExit(subprocess.run(command, check=False).returncode)
    sys.stdout.flush()
    os.execv(command[0], command)
