"""JSON and TOML documents: what the readers refuse."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from rcmgr.limits.documents import LimitsFileError, from_file, from_json, from_toml, items


def test_bytes_that_are_not_text() -> None:
    with pytest.raises(LimitsFileError, match=r"not UTF-8: .* at byte 2"):
        from_json(b"{}\xff")
    with pytest.raises(LimitsFileError, match="not UTF-8"):
        from_toml(b"\xff")
    assert from_json(b"\xef\xbb\xbf{}") == []


def test_keys_of_an_object() -> None:
    value = from_json('{"Ab": 1, "ab": 2, "xy": 3}')
    assert list(items("", value)) == [("Ab", 1), ("ab", 2), ("xy", 3)]
    assert list(items("", value, ["AB"], lenient=True)) == [("AB", 1), ("AB", 2)]
    with pytest.raises(LimitsFileError, match=r"^at\.Ab: unknown key; did you mean 'AB'\?"):
        list(items("at", value, ["AB"]))
    with pytest.raises(LimitsFileError, match=r"^ab: is there twice"):
        list(items("", from_json('{"ab": 1, "ab": 2}')))
    assert list(items("", None, lenient=True)) == []
    with pytest.raises(LimitsFileError, match=r"^at: must be an object, not null"):
        list(items("at", None))


def through_a_pipe(folder: Path, content: bytes) -> Any:
    """Read a file that can be read once."""
    path = folder / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[content])
    writer.start()
    try:
        return from_file(path)
    finally:
        writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX")
@pytest.mark.parametrize(("content", "tree"), [
    (b'{"a": 1}', [("a", 1)]),
    (b'\xef\xbb\xbf\n {"a": 1}', [("a", 1)]),
    (b"# a comment\na = 1\n", [("a", 1)]),
    (b"# " + b"x" * 4000 + b"\n" + b"# many\n" * 20_000 + b"a = 1\n", [("a", 1)]),
])
def test_a_pipe_says_its_format_by_its_content(tmp_path: Path, content: bytes, tree: Any) -> None:
    assert through_a_pipe(tmp_path, content) == tree


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX")
def test_an_empty_pipe_is_an_error(tmp_path: Path) -> None:
    """The command before the pipe failed."""
    with pytest.raises(LimitsFileError, match="not JSON"):
        through_a_pipe(tmp_path, b"\n")


def test_lenient_json_ends_with_the_first_value() -> None:
    assert from_json(" 5 6", lenient=True) == 5
    with pytest.raises(LimitsFileError, match="line 1, column 4: not JSON: Extra data"):
        from_json(" 5 6")


@pytest.mark.parametrize("line", [
    ".".join("a" * 16) + " = 1",
    "rates = [" + "0.25, " * 600 + "]",
    "net = { " + ", ".join(f'"10.0.{i}.0/24" = 0.5' for i in range(150)) + " }",
    '[Protocol."/' + "a." * 40 + '"]',
    "a = 1 # 1.2.3.4, e.g. 5.6.7.8",
])
def test_long_lines_that_people_write_are_read(line: str) -> None:
    assert from_toml(line)
