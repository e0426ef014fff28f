from __future__ import annotations

from pathlib import Path

import pytest

from rcmgr.cli.limit_files import UnusableLimitsFile, read_limits_file, read_scaling_file


def test_a_message_has_the_file_and_the_place(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"conn": {"fd": 7}}')
    assert read_limits_file(path, lenient=True).scopes.conn.fd == 7
    with pytest.raises(UnusableLimitsFile) as caught:
        read_limits_file(path)
    assert caught.value.message == f"{path}: conn: unknown key; did you mean 'Conn'?"
    assert caught.value.exit_code == 2
    with pytest.raises(UnusableLimitsFile) as caught:
        read_limits_file(tmp_path)
    assert caught.value.message == f"{tmp_path}: Is a directory"


def test_a_file_without_a_known_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"Addresses": {"Swarm": []}}')
    with pytest.raises(UnusableLimitsFile, match="nothing in it is a limit"):
        read_limits_file(path, lenient=True)


def test_a_scaling_file(tmp_path: Path) -> None:
    path = tmp_path / "scaling.json"
    path.write_text('{"SystemBaseLimit": {"FD": 7}, "other": 1}')
    assert read_scaling_file(path, lenient=True).system.base.fd == 7
    with pytest.raises(UnusableLimitsFile) as caught:
        read_scaling_file(path)
    assert caught.value.message.startswith(f"{path}: other: unknown key; known are SystemBaseL")
    with pytest.raises(UnusableLimitsFile, match="No such file or directory"):
        read_scaling_file(tmp_path / "none.json")
