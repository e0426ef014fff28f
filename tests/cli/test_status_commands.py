"""`rcmgr top`, `status` and `explain`, some in real processes and terminals."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import run_command
from programs import run
from socket_stub import answers_once

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Limit,
    NodeLimits,
    ResourceLimits,
    ResourceManager,
)
from rcmgr.report.status_client import read_status
from rcmgr.report.status_socket import StatusServer

fcntl = pytest.importorskip("fcntl", reason="pseudo-terminals are POSIX")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

PEER = b"\x12\x20" + b"p" * 32


@pytest.fixture
def manager() -> ResourceManager:
    manager = ResourceManager(ResourceLimits(max_connections=3, max_memory_mb=8))
    manager.kept = [manager.open_connection(PEER) for _ in range(4)]  # type: ignore[attr-defined]
    manager.acquire_memory(5 << 20)
    return manager


def test_status_and_explain(manager: ResourceManager, tmp_path: Path) -> None:
    with manager.serve_status(tmp_path / "s") as server:
        path = str(server.path)
        told, as_json, explained = (
            run("-m", "rcmgr", *command, "--socket", path)
            for command in (["status"], ["status", "--json"], ["explain"]))
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
        told = run_command("status", "--socket", str(server.path), COLUMNS=str(columns))
    lines = told.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert any("peer:QmVuZp" in line and line.rstrip().endswith("33%") for line in lines)
    assert any("protocol:" in line and line.rstrip().endswith("25%") for line in lines)
    assert scope is not None


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_status_has_one_row_a_peer_and_the_denials(tmp_path: Path, columns: int) -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(
        peer_default=Limit(conns=3, conns_inbound=3, streams=9))))
    kept = [manager.open_connection(PEER, None, "inbound") for _ in range(5)]
    with manager.serve_status(tmp_path / "s") as server:
        told = run_command("status", "--socket", str(server.path), COLUMNS=str(columns))
    lines = told.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    rows = lines[:lines.index("denials 2:")]
    assert sum(line.startswith("peer:") for line in rows) == 1
    text = " ".join(told.stdout.split())
    assert "denials 2: 2 by peer" in text
    assert re.search(r"latest denials: \d+ s ago: conn-", text)
    assert text.count("see ConcreteLimits.peer_default.conns") == 2 or columns == 40
    assert kept[3:] == [None, None]


@pytest.mark.parametrize("command", ["top", "status", "explain"])
def test_no_node(command: str, tmp_path: Path) -> None:
    done = run_command(command, "--socket", str(tmp_path / "absent"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"rcmgr: no node serves its status at {tmp_path / 'absent'}: "
        "it has to call manager.serve_status()\n")


def test_top_in_a_pipe(manager: ResourceManager, tmp_path: Path) -> None:
    with manager.serve_status(tmp_path / "s") as server:
        done = run_command("top", "--socket", str(server.path))
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


CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")
HOME, ALTERNATE, BACK, COLOURS = "\x1b[H", "\x1b[?1049h", "\x1b[?1049l", re.compile(r"\x1b\[3\d")


class Terminal:
    """`rcmgr top` in a separate pseudo-terminal."""

    def __init__(
        self, server: StatusServer, *, columns: int = 80, lines: int = 24, **environment: str
    ) -> None:
        inherited = {key: value for key, value in os.environ.items() if key not in (
            "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [
                sys.executable, "-c",
                # Signals work even if the tests run in the background of a shell, or under nohup.
                # The command waits for a line, so that the terminal has its size before.
                "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
                "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
                "input(); import rcmgr.cli; rcmgr.cli.main()",
                "top", "--every", "0.2", "--socket", str(server.path),
            ], {**inherited, "TERM": "xterm-256color", **environment})
        self.seen = ""
        self.resize(columns, lines)
        self.press("\n")

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def screen(self) -> list[str]:
        """The lines on the screen after the next redraw."""
        self._read(0.0)
        self.seen = ""
        deadline = time.monotonic() + 30
        frames: list[str] = []
        while len(frames) < 2:
            assert time.monotonic() < deadline, self.seen
            self._read(0.2)
            frames = [each for each in self.seen.split(HOME)[1:-1] if CONTROLS.sub("", each)]
        frame = frames[-1]
        return [line.rstrip() for line in CONTROLS.sub("", frame).replace("\r", "").split("\n")]

    def until(self, text: str) -> None:
        """Wait for the text."""
        deadline = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self._read(0.2)

    def press(self, key: str) -> None:
        os.write(self._fd, key.encode())

    def status(self) -> int:
        """The exit status. The command must leave a terminal that shows typed characters."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self._read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._read(0.1)
                assert self.has_echo()
                os.close(self._fd)
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it did not end: {self.seen}")

    def has_echo(self) -> bool:
        """Whether the terminal shows typed characters, as a shell needs it."""
        return bool(termios.tcgetattr(self._fd)[3] & termios.ECHO)

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


def shares(lines: list[str]) -> list[int]:
    """The last column of the table."""
    return [int(line.rstrip("%").split()[-1]) for line in lines if line.endswith("%")]


@pytest.fixture
def busy() -> ResourceManager:
    """With many limits, some nearer than others, a long name, and denials."""
    manager = ResourceManager(NodeLimits(
        ConcreteLimits(
            system=Limit(conns=4, streams=10, memory=8 << 20), transient=Limit(streams=100),
            peer_default=Limit(conns=3),
            protocol={f"/a/protocol/with/a/long/name/{number}": Limit(streams=9 + number)
                      for number in range(20)},
        ),
        ConnectionLimits(20, 20, 20, 20, 20, 20),
    ))
    kept: list[Any] = [manager.open_connection(PEER) for _ in range(6)]
    for number in range(7):
        stream = manager.open_stream(PEER, "inbound")
        assert stream is not None
        stream.set_protocol(f"/a/protocol/with/a/long/name/{number}")
        kept.append(stream)
    manager.acquire_memory(5 << 20)
    manager.kept = kept  # type: ignore[attr-defined]
    return manager


@pytest.mark.parametrize(("columns", "lines"), [(120, 40), (80, 24), (40, 10), (20, 6), (10, 3)])
def test_the_screen(busy: ResourceManager, tmp_path: Path, columns: int, lines: int) -> None:
    with busy.serve_status(tmp_path / "s") as server:
        terminal = Terminal(server, columns=columns, lines=lines)
        screen = terminal.screen()
        assert len(screen) <= lines
        assert max(map(len, screen)) <= columns
        assert screen[0].startswith("rcmgr "[:columns])
        assert screen[1].startswith("denials 3"[:columns])
        seen = shares(screen)
        assert seen == sorted(seen, reverse=True)
        if columns >= 40:
            assert seen[0] == 100
            assert len(seen) == min(len(server_usage(server)), lines - 5)
        if columns >= 80:
            assert screen[3].split() == ["limit", "on", "used", "peak", "of"]
            assert any(line.startswith("peer:QmVuZp…") and "100%" in line for line in screen)
            assert any(line.split()[:5] == ["system", "conns", "3", "3", "4"] for line in screen)
        terminal.press("q")
        assert terminal.status() == 0
        assert terminal.seen.count(BACK) == 1


def server_usage(server: StatusServer) -> list[Any]:
    usage: list[Any] = read_status(server.path)["usage"]
    return usage


def test_the_screen_follows_the_terminals_size_and_the_node(
    busy: ResourceManager, tmp_path: Path
) -> None:
    with busy.serve_status(tmp_path / "s") as server:
        terminal = Terminal(server, columns=100, lines=40)
        assert max(map(len, terminal.screen())) > 60
        terminal.resize(50, 12)
        terminal.screen()
        screen = terminal.screen()
        assert len(screen) <= 12
        assert max(map(len, screen)) <= 50
        terminal.resize(120, 12)
        over = threading.Event()

        def flood() -> None:
            while not over.wait(0.01):
                busy.open_connection(PEER)

        thread = threading.Thread(target=flood)
        thread.start()
        terminal.until(" a second, peer connection ")
        over.set()
        thread.join()
        terminal.press("q")
        assert terminal.status() == 0


@pytest.mark.parametrize(("environment", "coloured"), [
    ({}, True), ({"NO_COLOR": "1"}, False), ({"PYTHONIOENCODING": "ascii"}, True)])
def test_what_a_terminal_can_show(
    busy: ResourceManager, tmp_path: Path, environment: dict[str, str], coloured: bool
) -> None:
    with busy.serve_status(tmp_path / "s") as server:
        terminal = Terminal(server, **environment)
        screen = "\n".join(terminal.screen())
        assert bool(COLOURS.search(terminal.seen)) == coloured
        assert screen.isascii() == ("PYTHONIOENCODING" in environment)
        assert ("####" if screen.isascii() else "████") in screen
        terminal.press("q")
        assert terminal.status() == 0
    assert "Traceback" not in terminal.seen


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_file_takes_it_in_any_encoding(
    busy: ResourceManager, tmp_path: Path, encoding: str
) -> None:
    busy.acquire_stream("pëer ☃", "inbound")
    with busy.serve_status(tmp_path / "s") as server:
        for command in (["status"], ["explain"], ["status", "--json"]):
            with open(tmp_path / "out", "wb") as file:
                done = subprocess.run(
                    [sys.executable, "-m", "rcmgr", *command, "--socket", str(server.path)],
                    stdout=file, stderr=subprocess.PIPE, check=False, timeout=60,
                    env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"})
            assert (done.returncode, done.stderr) == (0, b"")
            text = (tmp_path / "out").read_bytes().decode(encoding)
            assert "\x1b" not in text
            assert "conns" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_in_order(
    busy: ResourceManager, tmp_path: Path, number: signal.Signals
) -> None:
    with busy.serve_status(tmp_path / "s") as server:
        terminal = Terminal(server)
        terminal.screen()
        assert not terminal.has_echo()
        terminal.seen = ""
        os.kill(terminal.pid, number)
        assert terminal.status() == 128 + number
        assert BACK in terminal.seen
    assert "Traceback" not in terminal.seen


def test_a_terminal_without_a_cursor_to_move(busy: ResourceManager, tmp_path: Path) -> None:
    with busy.serve_status(tmp_path / "s") as server:
        terminal = Terminal(server, TERM="dumb")
        assert terminal.status() == 2
    assert "use `rcmgr status`" in terminal.seen


@pytest.mark.parametrize(("answer", "reason"), [
    (b'{"format": 99}', "speaks format 99 of the status, this command 1"),
    (b'{"format": 1}', "parts of the status are missing"),
    (b"HTTP/1.1 200 OK\r\n\r\n", "does not speak JSON"),
    (b"", "does not answer"),
])
@pytest.mark.parametrize("command", ["status", "explain", "top"])
def test_what_is_no_node(tmp_path: Path, command: str, answer: bytes, reason: str) -> None:
    with answers_once(tmp_path / "s", answer):
        done = run_command(command, "--socket", str(tmp_path / "s"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_several_nodes(tmp_path: Path, busy: ResourceManager, manager: ResourceManager) -> None:
    with busy.serve_status(tmp_path / "a") as one, manager.serve_status(tmp_path / "b") as other:
        told = [
            run_command("status", "--json", "--socket", str(each.path)) for each in (one, other)]
        by_variable = run_command("status", "--json", RCMGR_STATUS=str(other.path))
    assert [json.loads(each.stdout)["stats"]["limits"]["max_connections"]
            for each in (*told, by_variable)] == [4, 3, 3]


def test_names_cannot_command_a_terminal(tmp_path: Path) -> None:
    manager = ResourceManager(NodeLimits(ConcreteLimits(peer_default=Limit(streams=1))))
    for _ in range(2):
        manager.acquire_stream("\x1b]0;owned\x07", "inbound")
    with manager.serve_status(tmp_path / "s") as server:
        for command in ("status", "explain"):
            told = run_command(command, "--socket", str(server.path))
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
