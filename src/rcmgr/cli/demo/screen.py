"""The choice of the demo's output: a live table, plain lines, or JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from .line_output import JsonLines, PlainLines
from .live_table import LiveTable

if TYPE_CHECKING:
    from .run_state import Run

__all__ = ["Screen", "screen_for"]


class Screen(Protocol):
    def __enter__(self) -> Screen: ...

    def __exit__(self, *error: object) -> None: ...

    def show(self, run: Run) -> None:
        """Called four times a second."""

    def summary(self, run: Run, status: int) -> None:
        """Called at the end, with the exit status."""


def screen_for(*, plain: bool, as_json: bool) -> Screen:
    if as_json:
        return JsonLines()
    console = Console()
    live = sys.stdout.isatty() and not console.is_dumb_terminal
    return LiveTable(console) if live and not plain else PlainLines()
