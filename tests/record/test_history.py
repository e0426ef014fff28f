from __future__ import annotations

from pathlib import Path

import pytest

from rcmgr import ResourceManager
from rcmgr.record.frames import COLUMNS, MAGIC, Frame, Header, RecordError, packed
from rcmgr.record.history import History


def recorded(path: Path, peers: int) -> None:
    manager = ResourceManager()
    with manager.record(path):
        for number in range(peers):
            manager.acquire_stream(b"%d" % number, "inbound")


def test_the_files_are_read_in_order(tmp_path: Path) -> None:
    for peers in (1, 2, 3):
        recorded(tmp_path / "node.rec", peers)
    history = History(tmp_path / "node.rec")
    frames = list(history)
    assert [type(each) for each in frames] == [Header, Frame] * 3
    assert [each.events for each in frames if isinstance(each, Frame)] == [1, 2, 3]
    assert history.bytes_read == history.bytes
    assert history.cut == []


def test_an_older_file_is_a_record_too(tmp_path: Path) -> None:
    for peers in (1, 2):
        recorded(tmp_path / "node.rec", peers)
    frames = list(History(tmp_path / "node.rec.000001"))
    assert [each.events for each in frames if isinstance(each, Frame)] == [1]


def test_files_that_are_cut_are_named(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    recorded(path, 1)
    recorded(path, 2)
    older = tmp_path / "node.rec.000001"
    older.write_bytes(older.read_bytes()[:-1])
    history = History(path)
    assert [each.events for each in history if isinstance(each, Frame)] == [2]
    assert history.cut == [older]


def test_what_is_missing_is_added_up(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    header = Header(1e9, 5, "0.1", 7, False, {}, [])
    none = [b""] * COLUMNS
    path.write_bytes(MAGIC + b"".join(map(packed, (
        header, Frame(0, 0, 0, none, dropped=1, lost=20), Frame(0, 0, 0, none, dropped=300)))))
    history = History(path)
    assert len(list(history)) == 3
    assert (history.dropped, history.lost) == (301, 20)


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("text")
    with pytest.raises(RecordError, match=r"x: no record"):
        list(History(tmp_path / "x"))
    with pytest.raises(FileNotFoundError):
        History(tmp_path / "none")


@pytest.mark.parametrize("rest", [b"", b"garbage" * 9])
def test_a_record_without_a_whole_header_is_an_error(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "node.rec"
    path.write_bytes(MAGIC + rest)
    with pytest.raises(RecordError, match=r"node\.rec: a record without a header"):
        list(History(path))


def test_a_file_without_a_header_after_a_whole_one_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    recorded(path, 2)
    path.rename(tmp_path / "node.rec.000001")
    path.write_bytes(MAGIC)
    history = History(path)
    assert [each.events for each in history if isinstance(each, Frame)] == [2]
    assert history.cut == [path]
