"""`rcmgr top`, `status` and `explain`, as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rcmgr import ConcreteLimits, Limit, NodeLimits, ResourceLimits, ResourceManager
from rcmgr.status import StatusServer

PEER = b"\x12\x20" + b"p" * 32


@pytest.fixture
def manager() -> ResourceManager:
    manager = ResourceManager(ResourceLimits(max_connections=3, max_memory_mb=8))
    manager.kept = [manager.open_connection(PEER) for _ in range(4)]  # type: ignore[attr-defined]
    manager.acquire_memory(5 << 20)
    return manager


def run(*arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rcmgr", *arguments], capture_output=True, text=True, check=False,
        timeout=60, env={**os.environ, "COLUMNS": str(columns)},
    )


def test_status_and_explain(manager: ResourceManager, tmp_path: Path) -> None:
    with manager.serve_status(tmp_path / "s") as server:
        path = str(server.path)
        told = run("status", "--socket", path)
        as_json = run("status", "--json", "--socket", path)
        explained = run("explain", "--socket", path)
    assert told.returncode == as_json.returncode == explained.returncode == 0
    assert told.stderr == as_json.stderr == explained.stderr == ""
    lines = told.stdout.splitlines()
    assert any("system conns" in line and "100%" in line for line in lines)
    assert any("5 MiB" in line and "8 MiB" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert json.loads(as_json.stdout)["stats"]["connections"] == 3
    assert explained.stdout.strip() == manager.explain()


@pytest.mark.parametrize("columns", [44, 80, 200])
def test_long_names_leave_room_for_numbers(tmp_path: Path, columns: int) -> None:
    limits = NodeLimits(ConcreteLimits(
        protocol_peer={"/a/long/protocol/1.0.0": Limit(streams=4)}, peer_default=Limit(conns=3)))
    manager = ResourceManager(limits)
    stream = manager.open_stream(PEER, "inbound")
    assert stream is not None
    stream.set_protocol("/a/long/protocol/1.0.0")
    scope = manager.open_connection(PEER)
    with manager.serve_status(tmp_path / "s") as server:
        told = run("status", "--socket", str(server.path), columns=columns)
    lines = told.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert any("peer:QmVuZp" in line and line.rstrip().endswith("33%") for line in lines)
    assert any("protocol:" in line and line.rstrip().endswith("25%") for line in lines)
    assert scope is not None


@pytest.mark.parametrize("command", ["top", "status", "explain"])
def test_no_node(command: str, tmp_path: Path) -> None:
    done = run(command, "--socket", str(tmp_path / "absent"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"rcmgr: no node serves its status at {tmp_path / 'absent'}\n"


def test_top_in_a_pipe(manager: ResourceManager, tmp_path: Path) -> None:
    with manager.serve_status(tmp_path / "s") as server:
        done = run("top", "--socket", str(server.path))
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr


def test_top_without_a_keyboard(manager: ResourceManager, tmp_path: Path) -> None:
    parent, terminal = pty.openpty()
    try:
        with manager.serve_status(tmp_path / "s") as server:
            done = subprocess.run(
                [sys.executable, "-m", "rcmgr", "top", "--socket", str(server.path)],
                stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, text=True,
                check=False, timeout=60, env={**os.environ, "TERM": "xterm"})
    finally:
        os.close(terminal)
        os.close(parent)
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr


class Terminal:
    """`rcmgr top` in a pseudo-terminal."""

    def __init__(self, server: StatusServer) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [
                sys.executable, "-m", "rcmgr", "top", "--every", "0.2",
                "--socket", str(server.path)])
        self.seen = ""

    def until(self, text: str) -> None:
        """Wait until the text was written."""
        deadline = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self._read(0.2)

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def status(self) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self._read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._read(0.1)
                os.close(self._fd)
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it did not end: {self.seen}")

    def _read(self, seconds: float) -> None:
        if select.select([self._fd], [], [], seconds)[0]:
            try:
                self.seen += os.read(self._fd, 1 << 16).decode(errors="replace")
            except OSError:  # it ended
                time.sleep(seconds)


@pytest.mark.parametrize(
    "key", ["q", "\x03", "\x1b[A\x1b[Bq"], ids=["q", "Ctrl-C", "q after arrows"])
def test_top(manager: ResourceManager, tmp_path: Path, key: str) -> None:
    with manager.serve_status(tmp_path / "s") as server:
        terminal = Terminal(server)
        terminal.until("system conns")
        terminal.until("100%")
        assert "denials" in terminal.seen
        manager.acquire_memory(2 << 20)
        terminal.until("7 MiB")
        terminal.press(key)
        assert terminal.status() == 0
    assert "Traceback" not in terminal.seen


def test_names_cannot_command_a_terminal(tmp_path: Path) -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(peer_default=Limit(streams=1))))
    for _ in range(2):
        manager.acquire_stream("\x1b]0;owned\x07", "inbound")
    with manager.serve_status(tmp_path / "s") as server:
        for command in ("status", "explain"):
            told = run(command, "--socket", str(server.path))
            assert r"\x1b]0;owned\x07" in told.stdout
            assert "\x1b" not in told.stdout
        terminal = Terminal(server)
        terminal.until(r"\x1b]0;owned\x07")
        terminal.press("q")
        assert terminal.status() == 0
    assert "\x1b]0;" not in terminal.seen


def test_a_node_that_ends_meanwhile(manager: ResourceManager, tmp_path: Path) -> None:
    server = manager.serve_status(tmp_path / "s")
    terminal = Terminal(server)
    terminal.until("system conns")
    server.close()
    assert terminal.status() == 1
    assert "no node serves its status" in terminal.seen
    assert "Traceback" not in terminal.seen
