"""The terminal of this process: its characters, its keys, and its state after a signal."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, OverflowMethod

__all__ = ["cut_off", "read_keys", "stdout_console", "tidy_on_signals"]


def stdout_console() -> Console:
    """A console for standard output. Characters that the encoding lacks become escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False)


def cut_off(console: Console) -> OverflowMethod:
    """The way to shorten a line: an ASCII terminal has no ellipsis."""
    return "crop" if console.options.ascii_only else "ellipsis"


@contextmanager
def tidy_on_signals() -> Iterator[None]:
    """Let a signal that ends the process first leave the context, which tidies up.

    A signal that the process ignores stays ignored: nohup does so.
    """

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {
        each: signal.signal(each, leave) for each in signals
        if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def read_keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits for some seconds, and returns early with True if `q` is pressed."""
    if sys.platform == "win32":
        yield _windows_quit
        return
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)

    def quit_pressed(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([stdin], [], [], left)[0]:
                # read without `sys.stdin`: its buffer would hide further keys from `select`
                keys = os.read(stdin, 1024)
                if not keys or b"q" in keys.lower():
                    return True
        return False

    try:
        yield quit_pressed
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _windows_quit(seconds: float) -> bool:
    if sys.platform == "win32":
        import msvcrt

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if msvcrt.kbhit() and msvcrt.getwch().lower() == "q":
                return True
            time.sleep(0.05)
    return False
