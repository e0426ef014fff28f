from __future__ import annotations

import io
import os
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyte
import pytest
from demo_run import row
from rich.console import Console

from rcmgr.cli.demo.limit_rows import Row
from rcmgr.cli.demo.live_table import filled, fitting, limits_table


@pytest.mark.parametrize(
    ("now", "peak", "limit", "bar"),
    [
        (0, 0, 7, "." * 14),
        (7, 7, 7, "#" * 14),
        (1, 2, 7, "##++.........."),
        (0, 9, 7, "+" * 14),
        (3, 3, None, ""),
        (0, 0, 0, ""),
    ],
)
def test_a_bar_shows_now_and_peak(now: int, peak: int, limit: int | None, bar: str) -> None:
    assert filled(row(now=now, peak=peak, limit=limit), "#+.") == bar


@pytest.mark.parametrize(("width", "names"), [(3, "a"), (10, "a"), (11, "ab"), (99, "abc")])
def test_the_first_columns_that_fit_are_shown(width: int, names: str) -> None:
    assert "".join(fitting({"a": 5, "b": 6, "c": 7}, width)) == names


@pytest.mark.parametrize(("peak", "style"), [(99, ""), (100, "yellow"), (117, "bold red")])
def test_a_row_shows_its_numbers_its_bar_and_whether_the_limit_held(peak: int, style: str) -> None:
    memory = Row("memory", 50, peak, 100, 7, 3, slack=16)
    table = limits_table([memory], "#+.", 200)
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    shown = console.file.getvalue().splitlines()[1].split()  # type: ignore[attr-defined]
    assert shown == ["memory,", "MiB", "50", str(peak), "100", "#" * 7 + "+" * 7, "7", "3"]
    [cell] = table.columns[2].cells
    assert (str(cell), cell.style) == (str(peak), style)  # type: ignore[union-attr]


PROGRAM = """
import time
from demo_run import Visitor, a_run, row
from rcmgr.cli.demo.screen import screen_for
from rcmgr.cli.demo.visit import ATTACKS

run = a_run(*[row(name, 3, 5, 7) for name in (
    "pending_inbound", "pending_outbound", "established_inbound", "established_outbound",
    "established_per_peer", "established_total", "connections", "streams", "transient_streams")])
run.phase = "under attack"
run.honest.pings_ms[:] = [1.4] * 383
run.attackers = [Visitor(role, tried=300) for role in ATTACKS]
run.manager.last_denial = lambda: "the last denial " * 9
with screen_for(plain=False, as_json=False) as screen:
    for second in range(600):
        run.elapsed = second
        screen.show(run)
        time.sleep(0.02)
"""


class Terminal:
    """A terminal that wraps the lines on it again when its width changes, as most terminals do."""

    def __init__(self, columns: int, lines: int) -> None:
        pty = pytest.importorskip("pty")
        self._ours, self._theirs = pty.openpty()
        self._set_size(columns, lines)
        without = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        environment = {name: value for name, value in os.environ.items() if name not in without}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=self._theirs, stdout=self._theirs,
            stderr=self._theirs, env={
                **environment, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)})

    def _set_size(self, columns: int, lines: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)

    def resize(self, columns: int, lines: int) -> None:
        before = "\r\n".join(line.rstrip() for line in self._screen.display).rstrip()
        self._set_size(columns, lines)
        self._stream.feed(before.encode())

    def read(self) -> None:
        assert select.select([self._ours], [], [], 30)[0]
        self._stream.feed(os.read(self._ours, 1 << 16))

    def lines(self) -> list[str]:
        """The screen after two more frames."""
        for _ in range(2):
            before = self.second()
            deadline = time.monotonic() + 30
            while self.second() <= before:
                assert time.monotonic() < deadline, self._screen.display
                self.read()
        # the rest of the frame
        while select.select([self._ours], [], [], 0.01)[0]:
            self.read()
        return [line.rstrip() for line in self._screen.display]

    def second(self) -> int:
        found = re.findall(r"under attack for (\d+) of", "\n".join(self._screen.display))
        return int(found[-1]) if found else -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(columns: int, lines: int) -> Iterator[Terminal]:
    found = Terminal(columns, lines)
    try:
        yield found
    finally:
        found.close()


SIZES = [(200, 50), (40, 24), (80, 24), (60, 12), (120, 30), (79, 50), (46, 40), (100, 16)]


def test_a_frame_has_all_that_matters_at_any_size() -> None:
    """And no pieces of earlier frames."""
    with terminal(*SIZES[-1]) as shown:
        for columns, lines in SIZES:
            shown.resize(columns, lines)
            screen = shown.lines()
            text = " ".join(" ".join(screen).split())
            for once in (" rcmgr demo", "limit on ", "under attack for", "pending inbound",
                         "honest peer: ping median 1.4 ms, 99th percentile 1.4 ms, 383 pings",
                         "last denial: the last denial"):
                assert text.count(once.strip()) == 1, (columns, lines, once, screen)
            assert len([line for line in screen if "outbound" in line]) <= 2
            for title, width in (("peak", 79), ("half-open", 80)):
                assert (title in text) or columns < width or lines < 40
            if columns >= 80 and lines >= 24:
                assert "memory, MiB" in text
