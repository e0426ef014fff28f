from __future__ import annotations

import sys

import pytest

from rcmgr.cli.demo.line_output import JsonLines, PlainLines
from rcmgr.cli.demo.live_table import LiveTable
from rcmgr.cli.demo.screen import screen_for


@pytest.mark.parametrize(
    ("plain", "as_json", "terminal", "name", "screen"),
    [
        (False, False, True, "xterm", LiveTable),
        (False, False, True, "dumb", PlainLines),
        (False, False, False, "xterm", PlainLines),
        (True, False, True, "xterm", PlainLines),
        (False, True, True, "xterm", JsonLines),
    ],
)
def test_the_output_follows_the_options_and_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    plain: bool, as_json: bool, terminal: bool, name: str, screen: type,
) -> None:
    monkeypatch.setenv("TERM", name)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert type(screen_for(plain=plain, as_json=as_json)) is screen
