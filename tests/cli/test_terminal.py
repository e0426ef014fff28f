"""Keys and signals, in a pseudo-terminal."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from rcmgr.cli.terminal import read_keys, stdout_console, tidy_on_signals

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")
termios = pytest.importorskip("termios")


class StandardInput:
    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of a terminal, which is standard input."""
    ours, theirs = pty.openpty()
    monkeypatch.setattr(sys, "stdin", StandardInput(theirs))
    yield ours
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("keys", [b"q", b"Q", b"\x1b[Aq"])
def test_q_ends_the_wait(keyboard: int, keys: bytes) -> None:
    with read_keys() as quit_pressed:
        os.write(keyboard, keys)
        start = time.monotonic()
        assert quit_pressed(30)
    assert time.monotonic() - start < 10


def test_other_keys_do_not_end_the_wait(keyboard: int) -> None:
    with read_keys() as quit_pressed:
        os.write(keyboard, b"x\n")
        start = time.monotonic()
        assert not quit_pressed(0.2)
    assert time.monotonic() - start >= 0.2


def test_keys_are_read_without_return_and_echo_comes_back(keyboard: int) -> None:
    def flags() -> int:
        flags: int = termios.tcgetattr(sys.stdin)[3]
        return flags & (termios.ECHO | termios.ICANON)

    before = flags()
    with read_keys():
        assert flags() == 0
    assert flags() == before != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_context(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        pytest.skip(f"this process ignores {number.name}, as under nohup")
    left = []

    def wait() -> None:
        with tidy_on_signals():
            try:
                os.kill(os.getpid(), number)
                time.sleep(30)
            finally:
                left.append(True)

    with pytest.raises(SystemExit) as ended:
        wait()
    assert ended.value.code == 128 + number
    assert left == [True]
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with tidy_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_console_escapes_what_the_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    stdout_console().print("ë")
    sys.stdout.flush()
    assert written.getvalue() == b"\\xeb\n"
