"""The option that says which running node a command asks, and the question itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rcmgr.report.status_client import StatusError, ask, default_path

__all__ = ["ask_node", "socket_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def socket_option(command: _Command) -> _Command:
    return click.option(
        "--socket", "path", type=click.Path(path_type=Path), metavar="PATH",
        help="Socket of the node. Default: $RCMGR_STATUS, or this user's rcmgr.sock.",
    )(command)


def ask_node(path: Path | None, do: str, **arguments: Any) -> Any:
    """The node's answer. If it gives none, one line to stderr, and exit status 1."""
    try:
        return ask(default_path() if path is None else path, do, **arguments)
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None
