"""The option that says which running node a command asks, and the question itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rcmgr.report.status_client import StatusError, ask, default_path

__all__ = ["answer_of", "ask_node", "socket_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_T = TypeVar("_T")


def socket_option(command: _Command) -> _Command:
    return click.option(
        "--socket", "path", type=click.Path(path_type=Path), metavar="PATH",
        help="Socket of the node. Default: $RCMGR_STATUS, or this user's rcmgr.sock.",
    )(command)


def ask_node(path: Path | None, do: str, **arguments: Any) -> Any:
    """The node's answer to a command; see `answer_of`."""
    return answer_of(path, lambda socket: ask(socket, do, **arguments))


def answer_of(path: Path | None, question: Callable[[Path], _T]) -> _T:
    """`question(path)`. If the node gives no answer, one line to stderr, and exit status 1."""
    try:
        return question(default_path() if path is None else path)
    except StatusError as error:
        click.echo(f"rcmgr: {error}", err=True)
        raise SystemExit(1) from None
