"""`rcmgr set`, `apply`, `top --by`, `peer`, `scope` and `watch` on a running node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from socket_stub import answers_once

from rcmgr import ConnectionLimits, LimitsFile, NodeLimits, ResourceManager
from rcmgr.cli import main
from rcmgr.peers import peer_text
from rcmgr.report.lookups import TOP

PEER = b"\x12\x20" + b"p" * 32
ADDRESS = "192.0.2.1"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="users and Unix sockets")


class Running:
    """A manager that serves its status, and commands for it in this process."""

    def __init__(self, path: Path) -> None:
        self.manager = ResourceManager(NodeLimits(connections=ConnectionLimits(
            max_established_inbound=100)))
        self.held = [self.manager.open_connection(PEER, ADDRESS) for _ in range(3)]
        self.server = self.manager.serve_status(path)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(
            main, [*arguments, "--socket", str(self.server.path)], env={"COLUMNS": "80"})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "s")
    yield running
    running.server.close()


def test_a_limit_is_set(node: Running) -> None:
    done = node.run("set", "System.Conns", "2")
    assert (done.exit_code, done.output) == (
        0, "System.Conns: unlimited -> 2\nsystem conns is above its limit: 3 of 2\n")
    assert node.manager.scope_limits.system.conns == 2
    assert node.manager.open_connection(None, ADDRESS) is None
    assert node.run("set", "System.Conns", "2").output.startswith("no differences\n")
    assert "System.Memory: unlimited -> 2147483648" in node.run(
        "set", "System.Memory", "2GiB").output


@pytest.mark.parametrize(("key", "value", "text"), [
    ("Sytem.Conns", "2", "rcmgr: Sytem: unknown key; did you mean 'System'?\n"),
    ("System.Conns", "x", "rcmgr: System.Conns: must be a number or a word, not 'x'; "),
    ("Connections.max_pending_inbound", "-1", "max_pending_inbound must be 0 or more"),
    ("a\x1b[2J", "1", "rcmgr: a\\x1b[2J: unknown key"),
])
def test_a_wrong_key_or_value_changes_nothing(
    node: Running, key: str, value: str, text: str
) -> None:
    before = node.manager.node_limits
    done = node.run("set", key, value)
    assert done.exit_code == 1
    assert text in done.stderr
    assert node.manager.node_limits == before


def test_enforcement_is_one_command(node: Running) -> None:
    node.manager.connection_limits = ConnectionLimits(max_pending_inbound=0)
    assert node.run("set", "DryRun", "on").output == "DryRun.limits: [] -> ['all']\n"
    held = node.manager.open_connection(None, ADDRESS)
    assert held
    status = node.run("status").output.splitlines()
    assert status[1] == "DRY RUN: no limit refuses anything; would refuse 1 so far"
    assert "a dry run would refuse 1:" in status
    held.close()
    node.run("set", "DryRun", "off")
    assert node.manager.open_connection(None, ADDRESS) is None


FILE = """\
[System]
Conns = 2
Memory = "1GiB"

[Connections]
max_established_per_peer = 2
"""
ANSWER = """\
System.Conns: unlimited -> 2
System.Memory: unlimited -> 1073741824
Connections.max_established_per_peer: unlimited -> 2
system conns is above its limit: 3 of 2
established_per_peer is above its limit: 3 of 2
"""


def test_a_file_is_applied_whole(node: Running, tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    file.write_text(FILE)
    before = node.manager.node_limits
    done = node.run("apply", str(file), "--check")
    assert done.output == ANSWER.replace(" is above", " would be above") + "nothing was changed\n"
    assert node.manager.node_limits == before
    assert node.run("apply", str(file)).output == ANSWER
    assert node.manager.connection_limits.max_established_per_peer == 2
    assert node.manager.connection_limits.max_established_inbound == 100
    file.with_suffix(".json").write_text('{"System": {"Conns": "unlimited"}}')
    answer = json.loads(node.run("apply", "--json", str(file.with_suffix(".json"))).output)
    assert answer["changes"] == [{"limit": "System.Conns", "before": "2", "after": "unlimited"}]
    assert answer["above"] == [{"limit": "established_per_peer", "used": 3, "of": 2}]


@pytest.mark.parametrize("text", ["[System]\nConns = 20\n", '{"System": {"Conns": 20}}'])
def test_limits_are_applied_from_a_pipe(node: Running, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rcmgr", "apply", "/dev/stdin", "--socket", str(node.server.path)],
        input=text, capture_output=True, text=True, check=False)
    assert done.stdout == "System.Conns: unlimited -> 20\n", done.stderr


def test_a_wrong_file_changes_nothing(node: Running, tmp_path: Path) -> None:
    file = tmp_path / "new.toml"
    file.write_text(FILE + "max_pendng_inbound = 3\n")
    before = node.manager.node_limits
    done = node.run("apply", str(file))
    assert done.exit_code == 2
    assert f"{file}: Connections.max_pendng_inbound: unknown key; did you mean" in done.stderr
    assert node.manager.node_limits == before


def test_the_limits_of_a_running_node_are_a_file(node: Running, tmp_path: Path) -> None:
    node.run("set", "System.Conns", "7")
    for name, options in (("new.toml", []), ("new.json", ["--json"])):
        file = tmp_path / name
        file.write_text(node.run("limits", "running", *options).output)
        assert LimitsFile.read(file).build(NodeLimits()) == node.manager.node_limits


@pytest.mark.parametrize("by", TOP)
def test_the_largest_of_a_kind(node: Running, by: str) -> None:
    rows = json.loads(node.run("top", "--by", by, "--json").output)
    printed = node.run("top", "--by", by).output.splitlines()
    assert len(printed) == max(1, len(rows)) + bool(rows)
    assert max(map(len, printed)) <= 80
    if by == "peer":
        assert rows == [{
            "peer": peer_text(PEER), "connections": 3, "streams": 0, "memory": 0, "denied": 0}]
        assert printed[0].split() == ["peer", "conns", "streams", "memory", "denied"]
        assert printed[1].split() == [peer_text(PEER), "3", "0", "0", "B", "0"]


def test_wrong_kinds_are_named(node: Running) -> None:
    for arguments in (("top", "--by", "pear"), ("watch", "bns")):
        assert node.run(*arguments).exit_code == 2


def test_one_peer_and_one_scope(node: Running) -> None:
    node.manager.ban(PEER, reason="\x1b[2J")
    lines = node.run("peer", peer_text(PEER)).output.splitlines()
    assert lines[:3] == [peer_text(PEER), "banned: \\x1b[2J", "connections 3"]
    assert json.loads(node.run("peer", peer_text(PEER), "--json").output)["peer"] == peer_text(PEER)
    assert "rcmgr: peer must be a peer id" in node.run("peer", "me").stderr
    lines = node.run("scope", "system").output.splitlines()
    assert lines[0] == "system"
    assert "  conns                     3 no limit" in lines
    assert json.loads(node.run("scope", "system", "--json").output)["used"]["conns"] == 3
    assert "did you mean 'system'" in node.run("scope", "systm").stderr


def start(node: Running, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rcmgr", *arguments, "--socket", str(node.server.path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"})


def test_events_are_printed_until_the_node_ends(node: Running) -> None:
    with start(node, "watch", "--json") as watching:
        assert watching.stdout is not None
        events = map(json.loads, watching.stdout)
        assert next(events) == {"event": "watching"}
        node.manager.ban("192.0.2.9")
        assert next(events)["event"] == "banned"
        held: Any = node.manager.open_connection(None, ADDRESS)
        assert next(events)["event"] == "pending"
        held.close()
        assert next(events)["event"] == "closed"
        node.server.close()
        assert list(events) == []
        assert watching.stderr is not None
        assert watching.stderr.read() == f"rcmgr: the node at {node.server.path} has ended\n"
        assert watching.wait() == 1


def test_events_are_lines_for_people(node: Running) -> None:
    with start(node, "watch", "bans", "limits") as watching:
        assert watching.stdout is not None
        # the first line comes only after the node has noted the reader
        while not node.server._server.free_watchers._value < 8:  # type: ignore[attr-defined]
            assert watching.poll() is None
        node.manager.ban("192.0.2.9", reason="floods")
        assert watching.stdout.readline()[9:] == "banned: 192.0.2.9, floods\n"
        node.run("set", "System.Conns", "7")
        assert watching.stdout.readline()[9:] == "limits: System.Conns: unlimited -> 7\n"
        watching.terminate()


@pytest.mark.parametrize(("event", "text"), [
    ({"event": "denied", "message": "no\x1b"}, "denied: no\\x1b"),
    ({"event": "limits", "changes": [
        {"limit": "System.Conns", "before": "2", "after": None},
        {"limit": "System.FD", "before": None, "after": "3"}]},
     "limits: System.Conns: 2 -> not there; System.FD: not there -> 3"),
    ({"event": "missed", "events": 3}, "missed: 3 events"),
    ({"event": "banned", "what": "192.0.2.1", "reason": "floods"}, "banned: 192.0.2.1, floods"),
    ({"event": "unbanned", "what": "192.0.2.1"}, "unbanned: 192.0.2.1"),
    ({"event": "pending", "connection_id": "c"}, "pending: c"),
    ({"event": "established", "connection_id": "c", "inbound": True, "peer": "p", "address": "a"},
     "established: c inbound p a"),
    ({"event": "closed", "connection_id": "c", "inbound": False, "peer": None, "address": "a",
      "seconds": 1.25}, "closed: c outbound after 1.2 s a"),
    ({"event": "peer_left", "more": 1}, 'peer left: {"event": "peer_left", "more": 1}'),
])
def test_each_event_is_a_line(tmp_path: Path, event: dict[str, Any], text: str) -> None:
    answer = [{"format": 1}, {"event": "watching"}, event]
    with answers_once(tmp_path / "s", "\n".join(map(json.dumps, answer)).encode() + b"\n"):
        done = CliRunner().invoke(main, ["watch", "--socket", str(tmp_path / "s")])
    assert [line[9:] for line in done.stdout.splitlines()] == [text]
    assert done.stderr == f"rcmgr: the node at {tmp_path / 's'} has ended\n"
    assert done.exit_code == 1


def test_a_peer_is_shown_whole(node: Running) -> None:
    stream = node.manager.open_stream(PEER, "inbound")
    assert stream is not None
    stream.set_protocol("/a/1")
    node.manager.allowlist.add_peer(PEER)
    node.manager.ban(PEER)
    assert node.manager.open_connection(b"\x12\x20" + b"o" * 32, ADDRESS) is not None
    name = node.held[0].connection_id
    lines = node.run("peer", peer_text(PEER)).output.splitlines()
    assert lines[:4] == [
        peer_text(PEER), "on the allowlist: no limit applies", "banned", "connections 3"]
    [line] = (line for line in lines if line.startswith(f"  {name}: "))
    assert line.startswith(f"  {name}: established inbound for ")
    assert line.endswith(f" s from {ADDRESS}")
    assert f"peer:{peer_text(PEER)}" in lines
    assert "  streams inbound           1 no limit" in lines
    assert lines[-2:] == ["  /a/1: streams 1", "denied 0"]


def test_another_user_is_refused(node: Running) -> None:
    """A real second user, who may reach the socket's folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    path = node.server.path
    for folder in path.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    before = node.manager.node_limits
    program = (
        "import socket, sys\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "try: client.connect(sys.argv[1])\n"
        "except PermissionError: sys.exit('refused')\n"
        "client.sendall(sys.argv[2].encode() + b'\\n')\n"
        "print(client.recv(1000))\n")
    for request in (
        {"do": "set", "key": "System.Conns", "value": 1}, {"do": "apply", "text": "{}"},
        {"do": "top"}, {"do": "peer", "peer": peer_text(PEER)}, {"do": "scope", "name": "system"},
        {"do": "watch"}, {"do": "limits"},
    ):
        done = subprocess.run(
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "python3", "-c",
             program, str(path), json.dumps(request)],
            capture_output=True, text=True, check=False, timeout=60,
            env={"PATH": "/usr/bin:/bin"})
        assert (done.stdout, done.stderr) == ("", "refused\n")
    assert node.manager.node_limits == before


def test_the_denials_of_a_peer_are_shown(node: Running) -> None:
    node.manager.connection_limits = ConnectionLimits(max_established_per_peer=3)
    assert node.manager.open_connection(PEER, ADDRESS) is None
    *_, counted, latest = node.run("peer", peer_text(PEER)).output.splitlines()
    assert counted == "denied 1"
    assert latest.startswith("  0 s ago: ")
    assert latest.endswith(str(node.manager.last_denial).splitlines()[0])
    node.run("set", "DryRun", "on")
    node.held.append(node.manager.open_connection(PEER, ADDRESS))
    lines = node.run("peer", peer_text(PEER)).output.splitlines()
    assert "connections 4" in lines
    assert "a dry run would refuse 1" in lines
