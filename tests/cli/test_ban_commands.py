"""`rcmgr bans`, `ban`, `unban` and `allow` on a running node."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_command
from programs import run

from rcmgr import ResourceManager
from rcmgr.cli.ban_commands import _left, _where
from rcmgr.peers import peer_text

PEER = b"\x12\x20" + b"p" * 32
ADDRESS = "192.0.2.1"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="users and Unix sockets")


def test_a_ban_from_the_terminal(tmp_path: Path) -> None:
    manager = ResourceManager()
    with manager.serve_status(tmp_path / "s") as server:
        socket = ("--socket", str(server.path))
        assert run_command("bans", *socket).stdout == "No bans.\n"
        made = run(
            "-m", "rcmgr", "ban", "192.0.2.0/24", "--for", "2h", "--reason", "floods\x1b[2J",
            *socket)
        assert (made.stdout, made.stderr) == ("banned 192.0.2.0/24 for 2.0 h\n", "")
        assert run_command("ban", peer_text(PEER), *socket).stdout == (
            f"banned {peer_text(PEER)} until `rcmgr unban`\n")
        assert manager.open_connection(None, ADDRESS, "inbound") is None
        listed = run("-m", "rcmgr", "bans", *socket).stdout
        assert run_command("bans", "--json", *socket).stdout.count('"operator"') == 2
        assert run_command("unban", "192.0.2.0/24", *socket).stdout == "unbanned 192.0.2.0/24\n"
        again = run_command("unban", "192.0.2.0/24", *socket)
        assert (again.returncode, again.stderr) == (1, "rcmgr: 192.0.2.0/24 is not banned\n")
        assert manager.open_connection(None, ADDRESS, "inbound") is not None
        assert run_command("allow", peer_text(PEER), *socket).stdout == (
            f"allowed {peer_text(PEER)}\n")
        assert manager.open_connection(PEER, ADDRESS, "inbound") is not None
    assert listed.split() == [
        "banned", "for", "192.0.2.0/24", "2.0", "h,", "by", "operator:", r"floods\x1b[2J",
        peer_text(PEER), "no", "end,", "by", "operator"]
    assert max(map(len, listed.splitlines())) <= 80


def test_json_is_a_list(tmp_path: Path) -> None:
    manager = ResourceManager()
    manager.ban(ADDRESS)
    with manager.serve_status(tmp_path / "s") as server:
        found = json.loads(run_command("bans", "--json", "--socket", str(server.path)).stdout)
    assert found == [{
        "what": ADDRESS, "seconds_left": None, "reason": "", "by": "operator", "times": 0}]


@pytest.mark.parametrize(("text", "seconds"), [
    ("90", 90), ("1.5s", 1.5), ("15m", 900), ("2h", 7200), ("7d", 604800), ("999999999", 999999999),
])
def test_a_ban_lasts_as_long_as_said(tmp_path: Path, text: str, seconds: float) -> None:
    manager = ResourceManager(clock=lambda: 0)
    with manager.serve_status(tmp_path / "s") as server:
        run_command("ban", ADDRESS, "--for", text, "--reason", "why", "--socket", str(server.path))
    [made] = manager.bans()
    assert (made.seconds_left, made.reason) == (seconds, "why")


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "no end"), (59.4, "59 s"), (60, "1 min"), (3540, "59 min"), (3600, "1.0 h"),
    (172_000, "47.8 h"), (172_800, "2.0 d"),
])
def test_a_time_has_its_largest_unit(seconds: float | None, text: str) -> None:
    assert _left(seconds) == text


def test_the_node_of_a_ban_is_named_if_it_is_another() -> None:
    bans: list[dict[str, object]] = [{}, {"node": ""}, {"node": 5}, {"node": "n\x1b"}]
    assert list(map(_where, bans)) == ["", "", "", " on n\\x1b"]


def test_a_narrow_terminal_folds_a_long_name(tmp_path: Path) -> None:
    manager = ResourceManager()
    manager.ban(PEER, reason="floods")
    with manager.serve_status(tmp_path / "s") as server:
        shown = run_command("bans", "--socket", str(server.path), COLUMNS="40").stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(line[:20].strip() for line in lines[1:]) == peer_text(PEER)
    assert " ".join(line[20:].strip() for line in lines).split() == [
        "for", "no", "end,", "by", "operator:", "floods"]


@pytest.mark.parametrize(("arguments", "status", "says"), [
    (("ban", "me"), 1, "rcmgr: not a peer id, address or network: 'me'"),
    (("unban", "me"), 1, "rcmgr: not a peer id, address or network: 'me'"),
    (("allow", "me"), 1, "rcmgr: not a peer id, address or network: 'me'"),
    (("ban", ADDRESS, "--for", "soon"), 2, "'soon' is no duration such as 90, 15m, 2h or 7d"),
    (("ban", ADDRESS, "--for", "-1"), 2, "is no duration"),
    (("ban", ADDRESS, "--for", "0m"), 2, "is no duration"),
    (("ban",), 2, "Missing argument 'TARGET'"),
])
def test_wrong_arguments(
    tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    manager = ResourceManager()
    with manager.serve_status(tmp_path / "s") as server:
        done = run_command(*arguments, "--socket", str(server.path))
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert manager.bans() == []


def test_no_node(tmp_path: Path) -> None:
    for arguments in (("bans",), ("ban", ADDRESS), ("unban", ADDRESS), ("allow", ADDRESS)):
        done = run_command(*arguments, "--socket", str(tmp_path / "none"))
        assert done.returncode == 1
        assert "no node serves its status" in done.stderr


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(tmp_path: Path) -> None:
    """A real second user, who may reach the socket's folder."""
    nobody = pwd.getpwnam("nobody").pw_uid
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    manager = ResourceManager()
    program = (
        "import socket, sys\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "try: client.connect(sys.argv[1])\n"
        "except PermissionError: print('refused')\n"
        "else: print('connected')\n")
    with manager.serve_status(tmp_path / "s") as server:
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", program, str(server.path)], capture_output=True,
            text=True, check=False, timeout=60, user=nobody, env={"PATH": "/usr/bin:/bin"})
    assert done.stdout == "refused\n", done.stderr
    assert manager.bans() == []
