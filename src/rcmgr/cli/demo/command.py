"""`rcmgr demo`: a guarded host under attack, to look at."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from .limits import DEFAULT_LIMITS, Limits, read_limits

PASSED, FAILED, COULD_NOT_START, BY_SIGNAL = 0, 1, 3, 128

_LIMITS = "\n".join(f"  {name} = {value}" for name, value in DEFAULT_LIMITS.to_dict().items())

HELP = f"""A py-libp2p host on loopback keeps its limits while other processes attack it.

The host speaks Noise and yamux over TCP. To it come, each in a process of its own, one honest peer
that pings it, and attackers of five kinds, in turn:

\b
  half-open     opens sockets and never says a word; never answers a dial
  identities    forty peers that want in, a dozen that want to be dialed
  one-identity  one peer that opens connection after connection
  streams       one connection, stream after stream, none of which names its protocol
  memory        streams that send, to a host that keeps what it is sent

The host dials what they advertise, as discovery would. A table shows for every limit how much is
held now, the peak, and how many were admitted and denied.

\b
A limits file is TOML; a name left out keeps the demo's value, "none" is no limit:
{_LIMITS}
memory_growth_mb is what the host's process may grow by under attack (it may be passed by
what comes in within 100 ms).

\b
Exit status:
  {PASSED}    no peak passed its limit, memory included, the honest peer stayed connected,
       every attacker worked to the end, and every count was zero after all peers left
  {FAILED}    one of these did not hold; the summary says which
  2    wrong options, or a limits file that cannot be used
  {COULD_NOT_START}    the host or a visitor could not start
  {BY_SIGNAL}+n  ended by signal n: {BY_SIGNAL + 2} for Ctrl-C
"""


def finite(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number of seconds.")
    return value


@click.command(help=HELP, short_help="Show a guarded host under attack.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=20,
    show_default=True,
    callback=finite,
    help="How long the attack lasts.",
)
@click.option(
    "--attackers",
    type=click.IntRange(0, 64),
    default=5,
    show_default=True,
    help="How many attacking processes.",
)
@click.option(
    "--limits",
    "limits_file",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="The host's limits.",
)
@click.option("--stock", is_flag=True, help="Let py-libp2p's own libp2p.rcmgr guard the host.")
@click.option("--plain", is_flag=True, help="Print lines, not a live table (default in a pipe).")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object a second, the summary last."
)
def demo(
    seconds: float,
    attackers: int,
    limits_file: Path | None,
    stock: bool,
    plain: bool,
    as_json: bool,
) -> None:
    if plain and as_json:
        raise click.UsageError("--plain and --json exclude each other.")
    limits = DEFAULT_LIMITS if limits_file is None else read_limits(limits_file)
    try:
        status = perform(seconds, attackers, limits, stock, plain, as_json)
    except KeyboardInterrupt:  # before the run heeds signals itself
        status = BY_SIGNAL + 2
    raise SystemExit(status)


def perform(
    seconds: float, attackers: int, limits: Limits, stock: bool, plain: bool, as_json: bool
) -> int:
    """Run the demo and print it; the exit status."""
    import trio  # the imports from here on take over a second

    from .scenario import CannotStart, Play, perform
    from .screen import screen_for
    from .visitors import mute_libp2p

    mute_libp2p()
    play = Play(seconds, attackers, limits, stock)
    with screen_for(plain=plain, as_json=as_json) as screen:
        try:
            run: Any = trio.run(perform, play, screen.show)
        except CannotStart as error:
            click.echo(f"rcmgr demo could not start: {error}", err=True)
            return COULD_NOT_START
        status = PASSED if run.passed else FAILED
        if run.signal is not None:
            status = BY_SIGNAL + run.signal
        screen.summary(run, status)
    return status
