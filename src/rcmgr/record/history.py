"""The files of a record in order, and what is missing between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rcmgr.record.frames import Frame, Header, RecordError, read_frames
from rcmgr.record.segments import segments

__all__ = ["History"]


class History:
    """The frames of a record, oldest first. Files of an earlier run come before those of a later.

    OSError, RecordError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths = [each for each in segments(path) if each == path or each.exists()]
        self.bytes = sum(each.stat().st_size for each in self.paths)
        self.bytes_read = 0
        """The bytes read so far."""
        self.cut: list[Path] = []
        """The files that end in the middle of a frame."""
        self.dropped = 0
        """Events that found no room in the ring."""
        self.lost = 0
        """Events that the disk did not take."""

    def __iter__(self) -> Iterator[Header | Frame]:
        before = 0
        begun = False
        for path in self.paths:
            with path.open("rb") as file:
                whole = 0
                try:
                    for frame in read_frames(file):
                        whole = file.tell()
                        self.bytes_read = before + whole
                        begun = True
                        if isinstance(frame, Frame):
                            self.dropped += frame.dropped
                            self.lost += frame.lost
                        yield frame
                except RecordError as error:
                    raise RecordError(f"{path}: {error}") from None
                size = file.seek(0, 2)
                if whole < size or not whole:
                    self.cut.append(path)
                before += size
        if not begun:
            raise RecordError(f"{self.path}: a record without a header")
