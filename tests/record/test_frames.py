from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest

from rcmgr.counting.event_ring import EventRing
from rcmgr.record.frames import (
    MAGIC,
    Frame,
    Header,
    RecordError,
    addresses_of,
    numbers,
    packed,
    read_frames,
)

HEADER = Header(1e9, 5, "0.1", 7, False, {}, [])


def frame(*requests: tuple[str, str, bytes | None, str | None, str | None]) -> Frame:
    ring = EventRing()
    for request in requests:
        ring.note_rate(*request)
    ring.drain()
    begin = ring.begin
    return Frame(*begin, ring.take_columns()[:-1], ring.names)


def a_frame() -> Frame:
    return frame(
        ("/a", "get", b"peer", "192.0.2.1", None), ("/a", "get", b"other", "::2", "rate.protocol"))


def file_of(*content: Header | Frame) -> bytes:
    return MAGIC + b"".join(map(packed, content))


def read(data: bytes) -> list[Header | Frame]:
    return list(read_frames(io.BytesIO(data)))


def test_what_is_written_is_read() -> None:
    one = a_frame()
    assert read(file_of(HEADER, one)) == [HEADER, one]
    assert one.events == 2
    assert [len(ip) for ip in addresses_of(one.columns[12])] == [4, 16]
    assert numbers(one.columns[6], "H") == (1, 1)


def test_a_cut_file_is_read_up_to_the_last_whole_frame() -> None:
    one = a_frame()
    whole = file_of(HEADER, one)
    data = whole + packed(frame(("/b", "put", None, None, None)))
    for size in range(len(whole), len(data)):
        assert read(data[:size]) == [HEADER, one]
    assert read(MAGIC) == []


@pytest.mark.parametrize("at", [0, 4, 20], ids=["size", "checksum", "content"])
def test_a_flipped_bit_ends_the_file(at: int) -> None:
    whole = file_of(HEADER)
    data = bytearray(whole + packed(a_frame()))
    data[len(whole) + at] ^= 1
    assert read(bytes(data)) == [HEADER]


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b"# limits\n", b"rcmgr record"])
def test_other_files_are_no_records(data: bytes) -> None:
    with pytest.raises(RecordError, match="no record"):
        read(data)


def test_a_later_version_is_named() -> None:
    with pytest.raises(RecordError, match="version b'2': this rcmgr reads 1"):
        read(b"rcmgr record 2\n")


def written(content: Any) -> bytes:
    body = zlib.compress(cbor2.dumps(content))
    return len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def test_a_file_without_a_header_is_no_record() -> None:
    with pytest.raises(RecordError, match="header"):
        read(MAGIC + written({"wall": "now"}))


@pytest.mark.parametrize(
    ("which", "column"),
    [
        (0, b"\xff\xff"),        # unknown kinds
        (0, b"\x19"),            # fewer kinds than flags
        (2, b"\0"),              # half of a time
        (4, b"\0\0\0\0\7\0\0\0"),  # a peer that is not there
        (5, b"\0\0\0\0\7\0\0\0"),
        (6, b"\0\0\7\0"),
        (8, b""),                # a refusal without a code
        (12, b"\5abcde"),
        (12, b"\4ab"),
    ],
)
def test_columns_that_do_not_fit_end_the_file(which: int, column: bytes) -> None:
    one = a_frame()
    columns = [*one.columns]
    columns[which] = column
    assert read(file_of(HEADER, replace(one, columns=columns))) == [HEADER]


@pytest.mark.parametrize(
    "change", [{"names": [1]}, {"columns": [b""]}, {"begin": 1 << 70}, {"settings": [[1]]}])
def test_a_frame_of_wrong_types_ends_the_file(change: dict[str, Any]) -> None:
    assert read(file_of(HEADER, replace(a_frame(), **change))) == [HEADER]


@pytest.mark.parametrize("content", [[], 5, {"begin": 1}, None])
def test_other_content_ends_the_file(content: Any) -> None:
    assert read(file_of(HEADER) + written(content)) == [HEADER]


def test_a_huge_frame_is_not_unpacked() -> None:
    bomb = written({"begin": b"\0" * (1 << 27)})
    assert len(bomb) < 1 << 18
    assert read(file_of(HEADER) + bomb) == [HEADER]
