"""The bytes of a record: frames, each whole or not there.

A file is a line that says what it is, and frames. A frame is its length and its CRC-32, 4 bytes
each and little-endian, and a CBOR map that zlib has compressed. The first frame is the header. A
process that is killed leaves at most one frame that is cut, and readers stop before it.
docs/record.md describes the maps.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from rcmgr.counting.event_ring import event_needs
from rcmgr.extras import require

__all__ = ["MAGIC", "Frame", "Header", "RecordError", "packed", "read_frames"]

MAGIC: Final = b"rcmgr record 1\n"
MOST_BYTES: Final = 1 << 26
"""A frame is not larger, without compression. A writer begins a new frame long before."""
_PREFIX: Final = struct.Struct("<II")
_LEVEL: Final = 3

NEEDS: Final = event_needs()
# bits of NEEDS, and flags of events; see event_columns.h
CONN, STREAM, NAME, OTHER, VALUE, DETAIL = 1, 2, 4, 8, 16, 32
REFUSED, HAS_PEER, HAS_ADDRESS, KNOWN = 4, 8, 16, 32
_WIDTHS: Final = (1, 1, 4, 4, 4, 4, 2, 2, 2, 8, 1, 8)
"""Bytes of a value, by column. The last column, of new addresses, has no width."""
COLUMNS: Final = len(_WIDTHS) + 1


class RecordError(Exception):
    """A file is no record, or this version cannot read it. The message is one line."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first frame of a file."""

    wall: float
    """Unix time in seconds, at `mono`."""
    mono: int
    """Monotonic time in nanoseconds: that of the events."""
    rcmgr: str
    pid: int
    identities: bool
    """Whether peers and addresses are there as they are, and not as hashes."""
    settings: dict[str, Any]
    """The settings that apply at the begin of the file; see `settings.document_of`."""
    held: list[int]
    """The amounts that the node holds at the begin of the file, in the order of `ScopeStat`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Some events, as columns.

    begin: the time of the first event in ns. conn, stream: the newest numbers before it.
    """

    begin: int
    conn: int
    stream: int
    columns: list[bytes]
    names: list[str] = field(default_factory=list)
    """The names that earlier frames of the file do not have."""
    settings: list[list[Any]] = field(default_factory=list)
    """Pairs of a number and settings. They apply from the event with this number on."""
    peers: list[Any] = field(default_factory=list)
    """The new peers as they are, if the record has identities."""
    dropped: int = 0
    """Events since the last frame that found no room in the ring."""
    lost: int = 0
    """Events since the last frame that could not be written."""
    rss: int = 0
    """Resident memory of the process in bytes, at the end of the frame; 0: unknown."""
    held: list[int] = field(default_factory=list)
    """The amounts that the node holds at the end of the frame, in the order of `ScopeStat`."""

    @property
    def events(self) -> int:
        return len(self.columns[0])


def packed(content: Header | Frame) -> bytes:
    """A frame as it stands in a file. Surrogates in texts, which CBOR lacks, become escapes."""
    import cbor2

    fields = {name: getattr(content, name) for name in content.__slots__}
    try:
        body = cbor2.dumps(fields)
    except UnicodeEncodeError:
        body = cbor2.dumps(_without_surrogates(fields))
    body = zlib.compress(body, _LEVEL)
    return _PREFIX.pack(len(body), zlib.crc32(body)) + body


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return [_without_surrogates(each) for each in value]
        case dict():
            return {
                _without_surrogates(key): _without_surrogates(each)
                for key, each in value.items()}
    return value


def read_frames(file: BinaryIO) -> Iterator[Header | Frame]:
    """The header and the frames of a file, up to the last whole frame.

    RecordError: it is no record, or of a later version. A frame whose content contradicts itself
    ends the file too: it is not from a writer of ours.
    """
    require("cbor2", "a record", "record")
    begin = file.read(len(MAGIC))
    if begin != MAGIC:
        if begin.startswith(MAGIC[:13]):
            raise RecordError(f"a record of version {begin[13:-1]!r}: this rcmgr reads 1")
        raise RecordError("no record of rcmgr")
    header = _next_map(file)
    if header is None:
        return
    yield _header(header)
    checks = _Checks()
    while (content := _next_map(file)) is not None:
        frame = _frame(content)
        if frame is None or not checks.fits(frame):
            return
        yield frame


def _next_map(file: BinaryIO) -> dict[Any, Any] | None:
    """The content of the next frame; None: it is not whole."""
    import cbor2

    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        return None
    size, checksum = _PREFIX.unpack(prefix)
    if size > MOST_BYTES:
        return None
    body = file.read(size)
    if len(body) < size or zlib.crc32(body) != checksum:
        return None
    unpacked = zlib.decompressobj()
    try:
        content = cbor2.loads(unpacked.decompress(body, MOST_BYTES))
    except (zlib.error, cbor2.CBORError, ValueError, RecursionError, OverflowError, MemoryError):
        return None
    return content if isinstance(content, dict) else None


def _header(content: dict[Any, Any]) -> Header:
    match content:
        case {
            "wall": float() | int() as wall, "mono": int() as mono, "rcmgr": str() as version,
            "pid": int() as pid, "identities": bool() as identities, "settings": dict() as settings,
            "held": list(held),
        } if (
            abs(wall) < 1e11 and abs(mono) < 1 << 62
            and all(isinstance(each, int) for each in held)
        ):
            return Header(float(wall), mono, version[:40], pid, identities, settings, held)
    raise RecordError("a record without a header")


def _frame(content: dict[Any, Any]) -> Frame | None:
    match content:
        case {
            "begin": int() as begin, "conn": int(), "stream": int(), "columns": list(columns),
            "names": list(names), "settings": list(settings), "peers": list(),
            "dropped": int(), "lost": int(), "rss": int(), "held": list(held),
        } if (
            len(content) == len(Frame.__slots__)
            and abs(begin) < 1 << 62
            and len(columns) == COLUMNS and all(isinstance(each, bytes) for each in columns)
            and all(isinstance(each, str) for each in names)
            and all(isinstance(each, list) and len(each) == 2 for each in settings)
            and all(isinstance(each, int) for each in held)
        ):
            return Frame(**content)
    return None


class _Checks:
    """Whether the columns of each frame fit together, and name only what is there."""

    def __init__(self) -> None:
        self._names = self._peers = self._addresses = 0

    def fits(self, frame: Frame) -> bool:
        columns = frame.columns
        kinds, flags = columns[0], columns[1]
        if len(kinds) != len(flags) or any(
            len(column) % width for column, width in zip(columns, _WIDTHS, strict=False)
        ):
            return False
        if kinds and max(kinds) >= len(NEEDS):
            return False
        addresses = _count_addresses(columns[12])
        if addresses is None:
            return False
        self._names += len(frame.names)
        self._peers += len(columns[11]) // 8
        self._addresses += addresses
        expected = _expected(kinds, flags)
        return (
            all(
                len(columns[which]) == width * expected[which]
                for which, width in enumerate(_WIDTHS[:11]))
            and _all_below(columns[4], "I", self._peers)
            and _all_below(columns[5], "I", self._addresses)
            and all(_all_below(columns[which], "H", self._names) for which in (6, 7, 8))
            and (not frame.peers or len(frame.peers) == len(columns[11]) // 8)
        )


def _expected(kinds: bytes, flags: bytes) -> list[int]:
    """How many values each column needs, by the kinds and flags of the events."""
    count = [0] * 11
    for (kind, flag), times in Counter(zip(kinds, flags, strict=True)).items():
        needs = NEEDS[kind]
        has = (
            True, True, True,
            needs & (CONN | STREAM) and (flag & KNOWN or not flag & REFUSED),
            flag & HAS_PEER, flag & HAS_ADDRESS, needs & NAME, needs & OTHER, flag & REFUSED,
            needs & VALUE, needs & DETAIL,
        )
        for which, is_there in enumerate(has):
            count[which] += times if is_there else 0
    return count


def _all_below(column: bytes, code: str, most: int) -> bool:
    return not column or max(numbers(column, code)) < most


def numbers(column: bytes, code: str) -> tuple[int, ...]:
    """The little-endian numbers of a column. code: as for the module `struct`."""
    return struct.unpack(f"<{len(column) // struct.calcsize(code)}{code}", column)


def _count_addresses(column: bytes) -> int | None:
    at = count = 0
    while at < len(column):
        if column[at] not in (4, 16):
            return None
        at += 1 + column[at]
        count += 1
    return count if at == len(column) else None


def addresses_of(column: bytes) -> list[bytes]:
    """The addresses of a column of new addresses."""
    found, at = [], 0
    while at < len(column):
        end = at + 1 + column[at]
        found.append(column[at + 1:end])
        at = end
    return found
