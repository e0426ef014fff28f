"""`rcmgr fleet` and `rcmgr bans --fleet` on a real engine."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
from contextlib import ExitStack

import pyte
import pytest
from command_line import captured, run_command
from engine_server import comes_true, free_port, needs_server, running
from programs import run

from rcmgr import Fleet, FleetLimits, NodeLimits, Rate, ResourceManager
from rcmgr.libp2p.run import main as run_program

pytestmark = needs_server()


@pytest.fixture(autouse=True)
def _no_fleet_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RCMGR_FLEET", raising=False)


def test_the_nodes_and_the_bans_of_a_fleet() -> None:
    with running() as server:
        url = f"{server.url}#edge"
        assert run_command("fleet", "status", RCMGR_FLEET=url).stdout == (
            "0 nodes: connections 0, peers 0, streams 0, denied 0\n")
        assert run_command("bans", "--fleet", RCMGR_FLEET=url).stdout == "No bans.\n"
        fleet = Fleet(url, node="node-0")
        node = ResourceManager(NodeLimits(fleet=FleetLimits(rate=Rate(1e-3, 1))), fleet=fleet)
        comes_true(lambda: not fleet.status()["lost"])  # until then, the node decides alone
        node.ban("192.0.2.0/24", None, "scans\x1b")
        held = [node.open_connection(b"peer") for _ in range(3)]
        client = server.client()
        comes_true(lambda: b'"fleet rate": 2' in b"".join(client.hvals("rcmgr:{edge}:use")))
        shown = run("-m", "rcmgr", "fleet", "status", RCMGR_FLEET=url).stdout.splitlines()
        assert shown[0] == "1 node: connections 1, peers 1, streams 0, denied 2"
        assert shown[1] == "denied by fleet rate 2"
        assert shown[3].split()[:5] == ["node-0", "1", "1", "0", "2"]
        [said] = json.loads(run_command("fleet", "status", "--json", "--url", url).stdout)
        assert said["denied_by"] == {"fleet rate": 2}
        listed = run("-m", "rcmgr", "bans", "--fleet", RCMGR_FLEET=url).stdout
        assert "192.0.2.0/24 no end, by operator on node-0: scans\\x1b" in listed
        [ban] = json.loads(run_command("bans", "--fleet", "--json", RCMGR_FLEET=url).stdout)
        assert ban["node"] == "node-0"
        assert len(held) == 3
        node.close()


def test_no_fleet_and_no_engine_are_one_line() -> None:
    assert "Give --url, or set RCMGR_FLEET" in run_command("fleet", "status").stderr
    wrong = run_command("fleet", "status", RCMGR_FLEET="http://u:s3cret@h")
    assert "scheme must be one of" in wrong.stderr
    gone = run_command("bans", "--fleet", RCMGR_FLEET=f"valkey://u:s3cret@127.0.0.1:{free_port()}")
    assert gone.returncode == 1
    assert len(gone.stderr.splitlines()) == 1
    assert "s3cret" not in wrong.stderr + gone.stderr


@pytest.mark.parametrize("url", [
    "valkey://u:12/s3cret@h", "valkey://u:s3cret/x@h", "valkey://u:s3cret\u2100@h",
    "valkey://h?Password=s3cret"])
def test_a_wrong_url_is_one_line_without_its_secret(url: str) -> None:
    for asked in (
            run_command("fleet", "status", "--url", url),
            run_command("fleet", "status", RCMGR_FLEET=url),
            captured(lambda: run_program(["-m", "this"]), RCMGR_FLEET=url)):
        assert asked.returncode != 0
        [line] = asked.stderr.splitlines()
        assert "url" in line
        assert "s3cret" not in line + asked.stdout


class Top:
    """`rcmgr fleet top` in a terminal of this size."""

    def __init__(self, url: str, columns: int, lines: int) -> None:
        pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        without = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "RCMGR_FLEET")
        environment = {name: value for name, value in os.environ.items() if name not in without}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rcmgr", "fleet", "top", "--every", "0.1", "--url", url],
            stdin=theirs, stdout=theirs, stderr=theirs,
            env={**environment, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"})
        os.close(theirs)

    def shows(self, *texts: str) -> list[str]:
        """The screen, once it has these texts."""
        def lines() -> list[str]:
            if select.select([self._ours], [], [], 0.1)[0]:
                self._stream.feed(os.read(self._ours, 1 << 16))
            return [line.rstrip() for line in self._screen.display]

        comes_true(lambda: all(text in "\n".join(lines()) for text in texts))
        return lines()

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_top_fits_a_terminal_and_survives_a_restart_of_the_engine() -> None:
    with running() as server, ExitStack() as stack:
        url = f"{server.url}#edge"
        limits = NodeLimits(fleet=FleetLimits(rate=Rate(1e-3, 1)))
        for number in range(25):
            name = f"node-{number}.a-long-domain.example.org"
            node = ResourceManager(limits, fleet=Fleet(url, node=name))
            stack.callback(node.close)
        comes_true(lambda: not node.fleet or not node.fleet.is_lost)
        held = [node.open_connection(b"peer") for _ in range(3)]
        top = Top(url, 80, 24)
        stack.callback(top.close)
        screen = top.shows("25 nodes: connections 1, peers 1", "denied by fleet rate 2")
        assert screen[2].split() == ["node", "connections", "peers", "streams", "denied", "seen"]
        assert len([line for line in screen if line.startswith("node-")]) == 19
        assert all(line.endswith(" s") for line in screen[3:22])
        # the first one, or the second after the one that has just denied
        assert "node-0.a-long-domain.example.…" in "".join(screen[3:5])
        server.kill()
        top.shows("25 nodes", "the engine does not answer: ConnectionError")
        server.start()
        comes_true(lambda: "does not answer" not in "".join(top.shows("nodes:")))
        top.press(b"q")
        assert top.process.wait(30) == 0
        assert len(held) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal")
def test_top_needs_a_terminal() -> None:
    assert "use `rcmgr fleet status`" in run_command("fleet", "top", RCMGR_FLEET="valkey://h").stderr
