"""`rcmgr attack`: the demo's attackers against a node of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rcmgr.extras import require

from .demo.command import BY_SIGNAL, COULD_NOT_START, FAILED, PASSED, finite
from .node_socket import socket_option

__all__ = ["attack"]


@click.command(
    short_help="Attack a node of this machine, and judge how it holds.",
    help=f"""Attack the node at ADDRESS, which must be on loopback, and judge how it holds.

ADDRESS is a multiaddr of TCP over IPv4 with a peer id: /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...

The attackers speak only TCP over IPv4. A node that listens elsewhere needs such an address too.

The attackers are those of `rcmgr demo`: half-open sockets, connections with many peer ids, with
one peer id, and streams without a protocol. An honest peer and honest newcomers ping the node
meanwhile, so it must answer pings. If the node serves its status, the verdict also has its limits
and counts. Attack no node that others use: it may refuse them, and ban loopback.

\b
Exit status:
  {PASSED}      The honest peer stayed connected. 95 of 100 newcomers got in. Every
         attacker worked to the end. No use passed its limit, and every count
         fell to its former value, if the node serves its status.
  {FAILED}      One of these conditions did not hold. The last lines say which.
  2      ADDRESS or an option is wrong.
  {COULD_NOT_START}      The honest peer or an attacker could not start.
  {BY_SIGNAL}+n  Signal n ended the attack. Ctrl-C gives {BY_SIGNAL + 2}.
""")
@click.argument("address")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=20, show_default=True, callback=finite,
    help="How long the attack takes.")
@click.option(
    "--attackers", type=click.IntRange(1, 64), default=4, show_default=True,
    help="Number of attacking processes.")
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def attack(
    address: str, seconds: float, attackers: int, path: Path | None, as_json: bool
) -> None:
    try:
        require("libp2p", "rcmgr attack", "cli")
    except ImportError as error:
        click.echo(error, err=True)
        raise SystemExit(COULD_NOT_START) from None
    import trio  # this import and the next ones take more than a second

    from .demo.attack import AttackOptions, CannotStart, run_attack, target_of
    from .demo.visit import mute_libp2p

    try:
        target = target_of(address)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    mute_libp2p()
    options = AttackOptions(target, seconds, attackers, path)
    try:
        run = trio.run(
            run_attack, options, lambda line: None if as_json else click.echo(line))
    except CannotStart as error:
        click.echo(f"rcmgr attack could not start: {error}", err=True)
        raise SystemExit(COULD_NOT_START) from None
    status = PASSED if run.passed else FAILED
    if run.signal is not None:
        status = BY_SIGNAL + run.signal
    if as_json:
        click.echo(json.dumps({
            "address": address, "seconds": run.elapsed, "exit_status": status,
            "checks": [
                {"what": each.what, "held": each.held, "detail": each.detail}
                for each in run.checks],
        }, indent=2))
    else:
        for check in run.checks:
            mark = "ok" if check.held else "FAILED"
            click.echo(f"{mark:6} {check.what}: {check.detail}.")
        click.echo(f"       Exit status {status}.")
    raise SystemExit(status)
