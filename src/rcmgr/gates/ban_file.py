"""Keep bans in a file, so that they outlive a restart of the node."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rcmgr.gates.bans import Ban, ban_subject, subject_text

__all__ = ["BanFile", "read_bans"]

logger = logging.getLogger("rcmgr.bans")

_MOST_BYTES: Final = 16 * 2**20
_LONGEST_LINE: Final = 4_096
_LINES_AT_MOST: Final = 40_000  # then the file is written anew
_BY: Final = ("operator", "penalty box")


def _line_of(ban: Ban) -> str:
    """A ban as a line of the file. A restart resets monotonic time, so its end is in Unix time."""
    until = None if math.isinf(ban.seconds_left) else round(time.time() + ban.seconds_left, 3)
    return json.dumps({
        "what": ban.what, "until": until, "reason": ban.reason, "by": ban.by, "times": ban.times})


def read_bans(lines: Iterable[bytes]) -> tuple[list[Ban], int]:
    """The bans of a file that are still in force, and how many lines are no bans.

    The last line about a peer or network counts. Any program may have written the file.
    """
    found: dict[str, Ban] = {}
    damaged, now = 0, time.time()
    for line in lines:
        try:
            ban = _ban(json.loads(line), now)
        except (ValueError, OverflowError, RecursionError):
            damaged += 1
            continue
        if ban.seconds_left > 0:
            found[ban.what] = ban
        else:
            found.pop(ban.what, None)
    return list(found.values()), damaged


def _ban(values: Any, now: float) -> Ban:
    """ValueError, OverflowError: a line of the file is no ban."""
    match values:
        case {"what": str(what), "until": int() | float() | None as until, **rest}:
            reason, by, times = rest.get("reason", ""), rest.get("by", _BY[0]), rest.get("times", 0)
            left = math.inf if until is None else until - now
            if (
                isinstance(until, bool) or (until is not None and not math.isfinite(left))
                or not isinstance(reason, str) or by not in _BY
                or type(times) is not int or not 0 <= times < 1 << 31
            ):
                raise ValueError("not a ban")
            # one name for each: another program may write 10.1.2.3/8
            return Ban(subject_text(ban_subject(what)), left, reason, by, times)
    raise ValueError("not a ban")


class BanFile:
    """A file of JSON lines, one for each ban that was made or ended. Thread safe.

    Each change appends a line. A new file replaces a file of 40,000 lines. So a crash at any moment
    loses the last line at most. Damage never stops a node: it skips lines that are no bans, and one
    warning says how many. If writing fails, one warning says so, and the node works without the
    file.

    Only one node at a time may use a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._lines: int | None = None  # None: the next change writes the file anew
        self._warned = False

    def load(self) -> list[Ban]:
        """The bans that are still in force. None, and a warning: the file cannot be read."""
        try:
            with open(self.path, "rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._warn(f"cannot read bans from {self.path}: {error.strerror}")
            return []
        lines = [each for each in content[:_MOST_BYTES].split(b"\n") if each.strip()]
        bans, damaged = read_bans(
            each if len(each) <= _LONGEST_LINE else b"" for each in lines)
        if damaged or len(content) > _MOST_BYTES:
            rest = f", and its end after {_MOST_BYTES} bytes" * (len(content) > _MOST_BYTES)
            logger.warning(
                "left out %d lines of %s that are no bans%s", damaged, self.path, rest)
        return bans

    def made(self, ban: Ban, all_bans: Iterable[Ban]) -> None:
        """Keep a new ban. all_bans: those in force now, if the file has to be written anew."""
        self._append(_line_of(ban), all_bans)

    def ended(self, what: str, all_bans: Iterable[Ban]) -> None:
        """Keep that a ban was ended."""
        self._append(json.dumps({"what": what, "until": 0}), all_bans)

    def _append(self, line: str, bans: Iterable[Ban]) -> None:
        with self._lock:
            try:
                if self._lines is None or self._lines >= _LINES_AT_MOST:
                    self._write_anew(bans)
                    return
                lines, self._lines = self._lines, None  # a failure may leave a part of the line
                with open(self.path, "a", encoding="utf-8", opener=_private) as file:
                    file.write(line + "\n")
                self._lines = lines + 1
            except OSError as error:
                self._warn(f"cannot write bans to {self.path}: {error.strerror}")

    def _write_anew(self, bans: Iterable[Ban]) -> None:
        """Locked."""
        lines = [_line_of(each) for each in bans]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with open(temporary, "w", encoding="utf-8", opener=_private) as file:
                file.writelines(f"{each}\n" for each in lines)
            os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._lines, self._warned = len(lines), False

    def _warn(self, text: str) -> None:
        if not self._warned:
            logger.warning("%s; bans end with this process", text)
        self._warned = True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
