from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rcmgr.record import segments as module
from rcmgr.record.segments import Segments, check_replaceable, older_segments, segments

HEADER = b"header"


def begun(path: Path, max_bytes: int = 1 << 20, max_age_s: float = 1e6) -> Segments:
    return Segments(path, lambda: HEADER, max_bytes=max_bytes, max_age_s=max_age_s)


def test_a_file_begins_with_its_header(tmp_path: Path) -> None:
    files = begun(tmp_path / "node.rec")
    files.write(b"frame")
    files.close()
    assert (tmp_path / "node.rec").read_bytes() == b"rcmgr record 1\nheaderframe"
    assert (tmp_path / "node.rec").stat().st_mode & 0o077 == 0


def test_an_earlier_file_gets_a_number(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    (tmp_path / "node.rec.old").write_text("another file")
    for number in range(3):
        files = begun(path)
        files.write(b"%d" % number)
        files.close()
    assert older_segments(path) == [tmp_path / "node.rec.000001", tmp_path / "node.rec.000002"]
    assert [each.read_bytes()[-1:] for each in segments(path)] == [b"0", b"1", b"2"]


def test_files_that_are_too_large_together_go(tmp_path: Path) -> None:
    files = begun(tmp_path / "node.rec", max_bytes=1 << 17)
    for _ in range(100):
        files.write(b"x" * 4000)
        if files.is_full():
            files.close()
    files.close()
    found = segments(tmp_path / "node.rec")
    assert sum(each.stat().st_size for each in found) <= 1 << 17
    assert len(found) > 3
    assert not (tmp_path / "node.rec.000001").exists()


def test_numbers_may_grow_longer(tmp_path: Path) -> None:
    for number in ("1000000", "999999", "000007"):
        (tmp_path / f"a.{number}").touch()
    assert [each.name for each in older_segments(tmp_path / "a")] == [
        "a.000007", "a.999999", "a.1000000"]


def test_files_that_are_too_old_go(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    for _ in range(3):
        begun(path).close()
    os.utime(tmp_path / "node.rec.000001", (time.time() - 1000,) * 2)
    begun(path, max_age_s=900).close()
    assert [each.name for each in older_segments(path)] == ["node.rec.000002", "node.rec.000003"]


def test_an_old_file_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = begun(tmp_path / "node.rec", max_age_s=80)
    assert not files.is_full()
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 11)
    assert files.is_full()
    files.close()


def test_two_processes_do_not_record_in_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    files = begun(tmp_path / "node.rec")
    with pytest.raises(FileExistsError, match="another node records there"):
        begun(tmp_path / "node.rec")
    files.write(b"still here")
    files.close()
    begun(tmp_path / "node.rec").close()


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        begun(tmp_path / "no" / "node.rec")


def test_a_frame_that_is_written_in_part_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = begun(tmp_path / "node.rec")
    files.write(b"whole")
    write = os.write
    calls: list[int] = []

    def failing(fd: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(errno.EIO, "no disk")
        return write(fd, data[:2])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", failing)
        with pytest.raises(OSError, match="no disk"):
            files.write(b"broken")
    assert calls == [6, 4]
    files.write(b"next")
    files.close()
    assert (tmp_path / "node.rec").read_bytes().endswith(b"headerwholenext")


def test_a_full_disk_costs_the_oldest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.rec"
    for _ in range(3):
        begun(path).close()
    files = begun(path)
    write = os.write

    def full(fd: int, data: Any) -> int:
        if (tmp_path / "node.rec.000002").exists():
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    files.write(b"frame")
    files.close()
    assert [each.name for each in older_segments(path)] == ["node.rec.000003"]


def test_a_file_that_is_no_record_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "prog.py"
    path.write_text("print('mine')\n")
    with pytest.raises(FileExistsError, match=r"no record.*prog\.py"):
        begun(path)
    with pytest.raises(FileExistsError, match=r"no record.*prog\.py"):
        check_replaceable(path)
    assert path.read_text() == "print('mine')\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_an_empty_file_and_a_record_are_replaceable(tmp_path: Path) -> None:
    path = tmp_path / "node.rec"
    check_replaceable(path)
    path.touch()
    check_replaceable(path)
    begun(path).close()
    check_replaceable(path)


def test_numbered_files_that_are_no_records_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, foreign = tmp_path / "node.rec", tmp_path / "node.rec.000007"
    foreign.write_bytes(b"x" * (1 << 18))
    os.utime(foreign, (1, 1))
    begun(path).close()
    files = begun(path, max_bytes=1 << 17)
    assert [each.name for each in older_segments(path)] == ["node.rec.000007", "node.rec.000008"]

    def full(fd: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        files.write(b"frame")
    files.close()
    assert foreign.stat().st_size == 1 << 18
