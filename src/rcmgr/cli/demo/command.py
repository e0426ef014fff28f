"""`rcmgr demo`: a guarded host under attack."""

from __future__ import annotations

import math
from pathlib import Path

import click

from rcmgr.extras import require
from rcmgr.limits.node import NodeLimits

from .limits import DEMO_LIMITS, DEMO_LIMITS_TOML, MEMORY_GROWTH, read_limits

__all__ = ["demo"]

PASSED, FAILED, COULD_NOT_START, BY_SIGNAL = 0, 1, 3, 128

_LIMITS = "".join(f"  {line}\n" for line in DEMO_LIMITS_TOML.splitlines() if line)

HELP = f"""Attack a py-libp2p host on this machine, and show how its limits hold.

The host listens on loopback, with Noise and yamux over TCP. One honest peer pings it, honest
newcomers come from other networks, and attackers attack it. Each runs in a separate process. There
are five kinds of attackers:

\b
  half-open     opens sockets and sends nothing; never answers a dial
  identities    dials with 40 peer ids; lets the host dial 12 more
  one-identity  opens connection after connection with one peer id
  streams       opens stream after stream, and never names a protocol
  memory        sends data that the host has to keep

The host dials the addresses that attackers advertise, as peer discovery does. A table shows each
limit: how much is in use, the peak, and how often the limit admitted and denied.

A limits file is a node's file, in TOML or JSON (see rcmgr limits). It changes only the limits that
it names. These are the demo's limits:

\b
{_LIMITS}
Without [ProcessMemory] in the file, the host's process may grow by {MEMORY_GROWTH} MiB
under attack. It may pass the limit by what arrives within 100 ms.

\b
Exit status:
  {PASSED}      No peak passed its limit. The honest peer stayed connected. Of 100
         newcomers, 95 got in. Every attacker worked to the end. Every count
         fell to zero at the end.
  {FAILED}      One of these conditions did not hold. The summary says which.
  2      An option or the limits file is wrong.
  {COULD_NOT_START}      The host or a visitor could not start.
  {BY_SIGNAL}+n  Signal n ended the demo. Ctrl-C gives {BY_SIGNAL + 2}.
"""


def finite(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@click.command(help=HELP, short_help="Show a guarded host under attack.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=20,
    show_default=True,
    callback=finite,
    help="How long the attack takes.",
)
@click.option(
    "--attackers",
    type=click.IntRange(0, 64),
    default=5,
    show_default=True,
    help="Number of attacking processes.",
)
@click.option(
    "--limits",
    "limits_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Limits of the host.",
)
@click.option(
    "--metrics", "metrics_port", type=click.IntRange(1, 65535), metavar="PORT",
    help="Serve metrics for Prometheus at this port.",
)
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH",
    help="Record each decision of the host, for `rcmgr replay`.",
)
@click.option("--stock", is_flag=True, help="Guard the host with py-libp2p's libp2p.rcmgr.")
@click.option("--plain", is_flag=True, help="Print lines instead of a table. Default in a pipe.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object per second, the summary last."
)
def demo(
    seconds: float,
    attackers: int,
    limits_file: Path | None,
    metrics_port: int | None,
    record: Path | None,
    stock: bool,
    plain: bool,
    as_json: bool,
) -> None:
    if plain and as_json:
        raise click.UsageError("--plain and --json exclude each other.")
    if stock and metrics_port is not None:
        raise click.UsageError("--stock and --metrics exclude each other.")
    if stock and record is not None:
        raise click.UsageError("--stock and --record exclude each other.")
    limits = DEMO_LIMITS if limits_file is None else read_limits(limits_file)
    try:
        status = run_demo(
            seconds, attackers, limits, stock, plain, as_json, metrics_port, record)
    except KeyboardInterrupt:  # before the scenario handles signals
        status = BY_SIGNAL + 2
    raise SystemExit(status)


def run_demo(
    seconds: float, attackers: int, limits: NodeLimits, stock: bool, plain: bool, as_json: bool,
    metrics_port: int | None = None, record: Path | None = None,
) -> int:
    """Run the demo, print it, and return the exit status."""
    try:
        require("libp2p", "rcmgr demo", "cli")
    except ImportError as error:
        click.echo(error, err=True)
        return COULD_NOT_START
    import trio  # this import and the next ones take more than a second

    from .run_state import DemoOptions
    from .scenario import CannotStart, run_scenario
    from .screen import screen_for
    from .visit import mute_libp2p

    mute_libp2p()
    options = DemoOptions(seconds, attackers, limits, stock, metrics_port, record)
    with screen_for(plain=plain, as_json=as_json) as screen:
        try:
            run = trio.run(run_scenario, options, screen.show)
        except CannotStart as error:
            click.echo(f"rcmgr demo could not start: {error}", err=True)
            return COULD_NOT_START
        status = PASSED if run.passed else FAILED
        if run.signal is not None:
            status = BY_SIGNAL + run.signal
        screen.summary(run, status)
    return status
