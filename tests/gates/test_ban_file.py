"""Bans in a file: they outlive a restart, and a damaged file stops no node."""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rcmgr import ResourceManager
from rcmgr.gates import ban_file
from rcmgr.gates.ban_file import BanFile, read_bans
from rcmgr.gates.bans import Bans, ban_subject
from rcmgr.peers import peer_text

PEER = b"\x12\x20" + b"p" * 32
needs_user = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="a file's mode does not stop this user")


def kept(path: Path) -> list[tuple[str, int, str, str, int]]:
    """The bans that a new node would have, with whole seconds."""
    bans = Bans()
    bans.load(BanFile(path))
    return [
        (each.what, -1 if math.isinf(each.seconds_left) else round(each.seconds_left),
         each.reason, each.by, each.times)
        for each in bans]


def test_bans_outlive_the_node(tmp_path: Path) -> None:
    path = tmp_path / "bans.jsonl"
    manager = ResourceManager(bans_file=path)
    manager.ban("192.0.2.0/24", 600, 'a "reason"\n')
    manager.ban(PEER)
    manager.ban("2001:db8::1", 600)
    assert manager.unban("2001:db8::1")
    manager.close()
    again = ResourceManager(bans_file=path)
    assert again.open_connection(None, "192.0.2.1", "inbound") is None
    assert again.open_connection(PEER, "203.0.113.1", "inbound") is None
    assert again.open_connection(None, "2001:db8::1", "inbound") is not None
    assert [ban.reason for ban in again.bans()] == ['a "reason"\n', ""]
    again.unban(PEER)
    again.close()
    assert kept(path) == [("192.0.2.0/24", 600, 'a "reason"\n', "operator", 0)]


def test_a_ban_by_the_box_is_still_one_and_the_next_lasts_longer(tmp_path: Path) -> None:
    path = tmp_path / "bans"
    bans = Bans()
    bans.load(BanFile(path))
    bans.add(ban_subject("192.0.2.1"), 600, "floods", "penalty box", 3, slows=True)
    again = Bans()
    again.load(BanFile(path))
    assert again.refusal(None, "192.0.2.1", inbound=True) is True  # one a second is let through
    assert not again.refusal(None, "192.0.2.1", inbound=True)
    assert again.former(ban_subject("192.0.2.1"))[0] == 3


@pytest.mark.skipif(os.name == "nt", reason="files have no mode")
def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    manager = ResourceManager(bans_file=tmp_path / "bans")
    manager.ban(PEER)
    assert stat.S_IMODE((tmp_path / "bans").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["bans"]


def test_a_ban_that_has_ended_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "bans"
    path.write_text(
        json.dumps({"what": "192.0.2.1", "until": time.time() - 1}) + "\n"
        + json.dumps({"what": "192.0.2.2", "until": time.time() + 100}) + "\n")
    assert kept(path) == [("192.0.2.2", 100, "", "operator", 0)]


DAMAGE = [
    b"", b"\n\n\n", b"\0" * 100, b"{", b"[]", b"null", b'"192.0.2.9"', b"\xff\xfe", b"[" * 100_000,
    b'{"what": 5, "until": null}', b'{"what": "192.0.2.9"}', b'{"what": "192.0.2.9", "until": "x"}',
    b'{"what": "192.0.2.9", "until": NaN}', b'{"what": "192.0.2.9", "until": true}',
    b'{"what": "nobody", "until": null}', b'{"what": "192.0.2.9", "until": null, "times": -1}',
    b'{"what": "192.0.2.9", "until": null, "by": "me"}',
    b'{"what": "192.0.2.9", "until": null, "by": []}',
    b'{"what": "192.0.2.9", "until": null, "reason": 5}',
    b'{"what": "192.0.2.9", "until": null, "times": 1e3}',
    b'{"what": "192.0.2.9", "until": ' + b"9" * 400 + b"}",  # no float is so large
    b'{"what": "192.0.2.9", "until": 1e400}', b'{"what": "192.0.2.9", "until": ' + b"9" * 5000,
    b'{"what": "' + b"9" * 10_000 + b'", "until": null}',
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_damage_costs_its_line_only(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = b'{"what": "192.0.2.1", "until": null}'
    path = tmp_path / "bans"
    path.write_bytes(good + b"\n" + damage + b"\n" + good.replace(b".1", b".2") + b"\n")
    with caplog.at_level(logging.WARNING):
        found = {each[0] for each in kept(path)} - {"192.0.2.9"}
    assert found == {"192.0.2.1", "192.0.2.2"}
    assert len(caplog.records) == bool(damage.strip())


def test_the_last_line_counts_under_any_name_of_a_network() -> None:
    lines = [b'{"what": "10.2.3.4/8", "until": null}', b'{"what": "10.0.0.0/8", "until": 0}']
    assert read_bans(lines) == ([], 0)
    bans, damaged = read_bans(lines[:1])
    assert ([each.what for each in bans], damaged) == (["10.0.0.0/8"], 0)


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "bans"
    manager = ResourceManager(bans_file=path)
    manager.ban("192.0.2.1")
    manager.ban("192.0.2.2")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert len(kept(path)) == whole[:length].count(b"}")
    bans = Bans()
    bans.load(BanFile(path))
    bans.add(PEER, None)
    assert [each[0] for each in kept(path)] == ["192.0.2.1", "192.0.2.2", peer_text(PEER)]


@given(st.lists(st.binary(max_size=60)))
def test_any_bytes_are_read(lines: list[bytes]) -> None:
    bans, damaged = read_bans(lines)
    assert len(bans) + damaged <= len(lines)


def test_a_very_long_file_is_read_in_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ban_file, "_MOST_BYTES", 1000)
    path = tmp_path / "bans"
    path.write_text('{"what": "192.0.2.1", "until": null}\n' * 1000)
    assert len(kept(path)) == 1
    assert "its end after 1000 bytes" in caplog.text


def test_a_long_file_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ban_file, "_LINES_AT_MOST", 50)
    path = tmp_path / "bans"
    bans = Bans()
    bans.load(BanFile(path))
    for _ in range(200):
        bans.add(PEER, 600)
        bans.remove(PEER)
    assert path.read_bytes().count(b"\n") <= 50
    bans.add(PEER, 600)
    assert [each[0] for each in kept(path)] == [peer_text(PEER)]
    assert os.listdir(tmp_path) == ["bans"]


def test_a_folder_that_is_missing_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ResourceManager(bans_file=tmp_path / "missing" / "bans")
    for last in range(5):
        manager.ban(f"192.0.2.{last}")
    assert len(manager.bans()) == 5
    assert len(caplog.records) == 1
    assert "cannot write bans to" in caplog.text


@needs_user
def test_a_file_of_another_user_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bans"
    path.write_text("")
    path.chmod(0)
    assert ResourceManager(bans_file=path).bans() == []
    assert "cannot read bans from" in caplog.text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_ends_no_node(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bans"
    manager = ResourceManager(bans_file=path)
    manager.ban("192.0.2.1")
    path.unlink()
    path.symlink_to("/dev/full")
    manager.ban("192.0.2.2")
    assert "No space left" in caplog.text
    manager.ban("192.0.2.3")  # a new file has the lost ban too
    assert {each[0] for each in kept(path)} == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
