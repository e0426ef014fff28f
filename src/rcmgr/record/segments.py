"""The files of a record: the newest has its path, and older ones are in the same folder.

"node.rec" is the file that is written now. "node.rec.000001" is an older one. Higher numbers are
later. When the files together are too large, or a file is too old, the oldest file goes.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rcmgr.record.frames import MAGIC

__all__ = ["Segments", "check_replaceable", "older_segments", "segments"]

_SHARE: Final = 8
"""A file is as large as this part of all files together, and as old as this part of their age."""
_LEAST_BYTES: Final = 1 << 14


def older_segments(path: Path) -> list[Path]:
    """The older files of a record, oldest first."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d{6,})")
    try:
        found = [
            (int(match[1]), each) for each in path.parent.iterdir()
            if (match := pattern.fullmatch(each.name))]
    except OSError:
        return []
    return [each for _, each in sorted(found)]


def segments(path: Path) -> list[Path]:
    """All files of a record, oldest first. A path of an older file stands for this file alone."""
    return [*older_segments(path), path]


def check_replaceable(path: Path) -> None:
    """FileExistsError: there is a file, and it is no record. A missing or empty file is fine."""
    if path.is_file() and path.stat().st_size and not _is_record(path):
        raise _no_record(path)


class Segments:
    """Writes frames to the newest file, and begins a new one in time.

    header: returns the bytes that begin each file.
    OSError: the file cannot be made, or another process records there. FileExistsError: there is a
    file that is no record. Files that are no records are never renamed or removed.
    """

    def __init__(
        self, path: Path, header: Callable[[], bytes], *, max_bytes: int, max_age_s: float
    ) -> None:
        self.path = path
        self._header = header
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._size = 0
        self._began = 0.0
        self._fd = -1
        self._begin()
        self.remove_old()

    def _begin(self) -> None:
        """Begin a file. An older one of the path gets a number."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            _lock(fd, self.path)
            if os.fstat(fd).st_size:
                if os.read(fd, len(MAGIC)) != MAGIC:
                    raise _no_record(self.path)
                os.close(fd)
                fd = -1
                self._number_current()
                fd = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0),
                    0o600)
                _lock(fd, self.path)
            begin = MAGIC + self._header()
            try:
                _write_whole(fd, begin)
            except OSError:
                os.ftruncate(fd, 0)  # the next attempt finds an empty file
                raise
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        self._fd, self._size, self._began = fd, len(begin), time.monotonic()

    def _number_current(self) -> None:
        older = older_segments(self.path)
        last = int(older[-1].name.rpartition(".")[2]) if older else 0
        os.rename(self.path, f"{self.path}.{last + 1:06}")

    def _older(self) -> list[Path]:
        """The older files that are records, oldest first. Others have such names by accident."""
        return [each for each in older_segments(self.path) if _is_record(each)]

    def is_full(self) -> bool:
        """Whether the next frame belongs into a new file."""
        return (
            self._size >= max(_LEAST_BYTES, self._max_bytes // _SHARE)
            or time.monotonic() - self._began >= self._max_age_s / _SHARE)

    def remove_old(self) -> None:
        """Remove files that are too old, or too large together."""
        older = self._older()
        sizes = [_size_of(each) for each in older]
        room = self._max_bytes - max(_LEAST_BYTES, self._max_bytes // _SHARE)
        oldest = time.time() - self._max_age_s
        while older and (sum(sizes) > room or _written_at(older[0]) < oldest):
            older.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def write(self, frame: bytes) -> None:
        """Write a frame whole, or not at all: OSError. After `close`, it begins a new file.

        If the disk is full, the oldest files make room.
        """
        while True:
            try:
                if self._fd < 0:
                    self._begin()
                    self.remove_old()
                _write_whole(self._fd, frame)
            except OSError as error:
                self._cut()
                older = self._older()
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not older:
                    raise
                older[0].unlink(missing_ok=True)
            else:
                self._size += len(frame)
                return

    def _cut(self) -> None:
        """Drop what was written of a frame."""
        if self._fd >= 0:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)

    def close(self) -> None:
        """End the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_whole(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left):]


def _lock(fd: int, path: Path) -> None:
    """Keep other processes from recording there. Windows does it by itself: no file is renamed
    while it is open."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileExistsError(errno.EEXIST, "another node records there", str(path)) from None


def _is_record(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _no_record(path: Path) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST, "this file is no record, and a record would replace it", str(path))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
