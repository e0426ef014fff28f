"""`rcmgr demo` with real processes, a real pseudo-terminal and real signals."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from rcmgr.replay.replay import Replay, replay

pty = pytest.importorskip("pty", reason="pseudo-terminals and SIGKILL are POSIX")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

DEMO = [sys.executable, "-c", "from rcmgr.cli import main; main()", "demo"]
MARK = "RCMGR_TEST_MARK"
PATIENCE = 60.0


class Family:
    """The processes of one demo, found by an environment variable that they inherit."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.environment = {
            **os.environ, MARK: self.mark, "TERM": "xterm", "LIBP2P_DEBUG": "",
            "RCMGR_STATUS": str(Path(tempfile.gettempdir()) / f"rcmgr-{self.mark}.sock"),
        }

    def visitors(self) -> list[psutil.Process]:
        module = "rcmgr.cli.demo.visitors"
        return [process for process in self.members() if module in words(process)]

    def members(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(MARK) == self.mark
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def wait_for(self, visitors: int) -> None:
        until(lambda: len(self.visitors()) == visitors, f"{visitors} visitors")


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def until(true: Any, what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@pytest.fixture
def family() -> Iterator[Family]:
    """No process of the demo survives the test."""
    family = Family()
    try:
        yield family
        until(lambda: not family.members(), "the end of every process", 10)
    finally:
        for process in family.members():
            process.kill()


class Terminal:
    """A demo in a pseudo-terminal of a given width."""

    def __init__(self, family: Family, *arguments: str, columns: int = 80) -> None:
        ours, theirs = pty.openpty()
        size = (50).to_bytes(2, sys.byteorder) + columns.to_bytes(2, sys.byteorder) + bytes(4)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        environment = dict(family.environment)
        environment.pop("COLUMNS", None)
        self._process = subprocess.Popen(
            DEMO + list(arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
            # Ctrl-C has to come from the terminal: make it the controlling one
            preexec_fn=lambda: controlling(theirs),
        )
        os.close(theirs)
        self._ours = ours
        self.text = ""

    def see(self, pattern: str) -> None:
        """Read until the pattern shows."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, plain(self.text)):
            assert self._read(deadline), f"{pattern!r} not in {plain(self.text)!r}"

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def end(self) -> int:
        """Read to the end, and return the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        os.close(self._ours)
        return self._process.wait(timeout=10)

    def _read(self, deadline: float) -> bool:
        readable, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
        assert readable, f"silent too long after {plain(self.text)!r}"
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.text += chunk.decode(errors="replace")
        return bool(chunk)


def controlling(terminal: int) -> None:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def run(family: Family, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        DEMO + list(arguments), env=family.environment, capture_output=True, text=True,
        timeout=2 * PATIENCE, check=False,
    )


def run_until(
    is_enough: Callable[[str], object], family: Family, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run demos until the output of one shows enough. A busy machine needs more seconds for it."""
    for seconds in ("4", "12", "40"):
        done = run(family, "--seconds", seconds, *arguments)
        if is_enough(done.stdout):
            break
    return done


def summary_of(output: str) -> dict[str, Any]:
    return json.loads(output.splitlines()[-1])


def reached(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in summary["limits"].values() if row["peak"] == row["limit"]]


def was_attacked(output: str) -> bool:
    """Whether all peers got to work, and the attackers to their limits."""
    summary = summary_of(output)
    return (
        len(reached(summary)) >= 4
        and sum(row["denied"] for row in reached(summary)) > 50
        and all(row["peak"] > 0 for row in summary["limits"].values())
        and all(row["tried"] > 0 for row in summary["attackers"].values())
        and summary["honest_peer"]["pings"] > 10
        and summary["newcomers"]["came"] > 0)


@pytest.mark.loopback
def test_the_limits_hold_and_everything_is_given_back(family: Family, tmp_path: Path) -> None:
    """And the record of the run is replayed one by one."""
    path = tmp_path / "demo.rec"

    def recorded() -> Replay:
        return replay(path, differences=10)

    def is_enough(output: str) -> bool:
        return was_attacked(output) and recorded().outcome.agreed > 50

    done = run_until(is_enough, family, "--json", "--record", str(path))
    assert was_attacked(done.stdout), done.stdout
    assert done.stderr == ""
    *samples, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, summary["checks"]
    assert {sample["event"] for sample in samples} == {"sample"}
    assert [sample["phase"] for sample in samples].count("under attack") >= 3
    assert summary["event"] == "summary"
    assert summary["exit_status"] == 0
    assert len(summary["checks"]) == 6
    assert all(check["held"] for check in summary["checks"])
    assert set(summary["limits"]) == {
        "pending_inbound", "pending_outbound", "established_inbound", "established_outbound",
        "established_per_peer", "established_total", "connections", "streams",
        "transient_streams", "streams_per_peer",
    }
    for name, row in summary["limits"].items():
        assert 0 < row["peak"] <= row["limit"], name
        assert row["admitted"] >= row["peak"], name
        assert row["now"] == 0, name
    newcomers = summary["newcomers"]
    assert newcomers["served"] == newcomers["came"]
    assert newcomers["median_ms"] > 0
    assert summary["honest_peer"]["ping_median_ms"] <= summary["honest_peer"]["ping_p99_ms"]
    memory = summary["memory_mib"]
    assert 0 < memory["now"] <= memory["peak"] <= memory["limit"] + 16
    assert memory["admitted"] > 0
    assert summary["attackers"]["memory"]["tried"] > 0
    for role in ("half-open", "identities", "one-identity", "streams"):
        assert summary["attackers"][role]["processes"] == 1
        assert summary["attackers"][role]["tried"] > 0, role
        assert summary["attackers"][role]["refused"] > 0, role
    assert re.search("limit exceeded|evicted", summary["last_denial"], re.IGNORECASE)
    result = recorded()
    assert result.outcome.differences == []
    assert result.player.skipped.keys() <= {"machine"}
    assert result.outcome.recorded["connection.established_per_peer"] == (
        summary["limits"]["established_per_peer"]["denied"])
    assert not any(result.player.manager._held())


def test_a_record_that_cannot_be_written(family: Family, tmp_path: Path) -> None:
    done = run(family, "--plain", "--record", str(tmp_path / "none" / "demo.rec"))
    assert done.returncode == 3
    assert "no record at" in done.stderr


def test_stock_leaks_and_the_demo_says_so(family: Family) -> None:
    done = run_until(
        lambda output: "Exit status 1." in output, family, "--stock", "--attackers", "2")
    assert done.returncode == 1, done.stdout
    text = " ".join(done.stdout.split())  # lines wrap where the numbers are long
    assert "guarded by libp2p.rcmgr" in text
    assert re.search(r"FAILED Every count is zero .* connections \d+", text)
    assert re.search(r"note libp2p.rcmgr counts \d+ connections, the swarm has 0\.", text)
    assert "Exit status 1." in text


def test_plain_lines_in_a_pipe(family: Family) -> None:
    done = run(family, "--seconds", "2", "--attackers", "1")
    assert done.returncode == 0, done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    lines = [line for line in done.stdout.splitlines() if re.match(r" +\d\.\d +\d+/12 ", line)]
    assert len(lines) >= 2
    assert re.search(r"^half-open: \d+ tries, \d+ refused$", done.stdout, re.MULTILINE)
    assert "1 attacker, 2 s" in done.stdout


def test_metrics_are_served_during_the_attack(family: Family) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = ""

    def is_served() -> bool:
        nonlocal page
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            page = answer.read().decode()
        return "rcmgr_denials_total{" in page

    running = start(family, 1, "--metrics", str(port), "--plain", "--seconds", "60")
    until(is_served, "metrics of denials")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=PATIENCE)
    taken = run(family, "--stock", "--metrics", str(port))
    assert taken.returncode == 2
    assert "--stock and --metrics exclude each other" in taken.stderr


def test_a_port_that_is_taken(family: Family) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run(family, "--metrics", str(port), "--plain")
    assert done.returncode == 3
    assert f"could not start: no metrics at port {port}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_attackers_it_is_quiet(family: Family) -> None:
    done = run(family, "--seconds", "1", "--attackers", "0", "--json")
    assert done.returncode == 0, done.stdout
    summary = summary_of(done.stdout)
    assert all(row["denied"] == 0 for row in summary["limits"].values())
    served = summary["newcomers"]["served"]  # none, if the machine is busy for the whole second
    assert summary["limits"]["established_inbound"]["peak"] >= 1 + (served > 0)
    assert summary["limits"]["established_inbound"]["admitted"] > summary["newcomers"]["came"]
    assert summary["attackers"] == {}


def test_a_table_in_a_terminal(family: Family) -> None:
    terminal = Terminal(family, "--seconds", "2", "--attackers", "1", columns=80)
    terminal.see("under attack for 1 of 2 s")
    assert terminal.end() == 0, plain(terminal.text)
    last = last_table(terminal.text, 80)
    assert last.count(" ok ") == 6
    assert "Exit status 0." in last


def last_table(text: str, columns: int) -> str:
    """The last picture of a terminal of this width."""
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "cursor hidden"
    last = plain(text[text.rindex("\x1b[?25h") :])
    assert max(len(line.rstrip()) for line in last.splitlines()) <= columns
    for name in ("pending inbound", "established per peer", "all connections", "streams"):
        assert re.search(rf"^ {name} +0 +\d+ +\d+  [█▒·]{{14}} +\d+ +\d+ *$", last, re.MULTILINE)
    assert re.search(r"honest peer: ping median \d+\.\d ms, 99th percentile \d+\.\d ms", last)
    return last


def test_ctrl_c_ends_the_attack_and_still_sums_up(family: Family) -> None:
    terminal = Terminal(family, "--seconds", "600", "--attackers", "1", columns=120)
    terminal.see("under attack for 1 of")
    assert len(family.visitors()) == 3
    terminal.press(b"\x03")
    assert terminal.end() == 128 + signal.SIGINT
    last = last_table(terminal.text, 120)
    assert "Ended by signal 2 during the attack." in last
    assert "Every count is zero after all peers left: nothing is held." in last
    assert "Traceback" not in terminal.text


def test_ctrl_c_before_the_attack(family: Family) -> None:
    terminal = Terminal(family, "--seconds", "600", "--attackers", "0")
    terminal.see("starting: 0 of 2")
    terminal.press(b"\x03")
    assert terminal.end() == 128 + signal.SIGINT
    assert "Traceback" not in terminal.text


def start(
    family: Family, attackers: int, *arguments: str, **streams: Any
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*DEMO, "--attackers", str(attackers), *arguments], env=family.environment, text=True,
        **streams)
    family.wait_for(2 + attackers)
    return process


def test_nobody_survives_a_sigkill(family: Family) -> None:
    with start(family, 1, "--seconds", "600", stdout=subprocess.DEVNULL) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    until(lambda: not family.visitors(), "the visitors to notice", 5)


def test_two_signals_end_it_at_once(family: Family) -> None:
    with start(family, 0, "--seconds", "600", stdout=subprocess.DEVNULL) as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)


def test_a_reader_that_goes_away_ends_it(family: Family) -> None:
    with start(
        family, 0, "--seconds", "600", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["event"] == "sample"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_limits_that_let_nobody_in(family: Family, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("[Connections]\nmax_established_inbound = 0\n")
    done = run(family, "--limits", str(limits), "--plain", "--attackers", "0")
    assert done.returncode == 3
    assert "the honest peer could not connect" in done.stderr
    assert "established_inbound (current: 0, limit: 0)" in done.stderr


def test_limits_of_a_file_are_the_hosts(family: Family, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text(
        '[Connections]\nmax_pending_inbound = 5\n[System]\nStreams = 9\nConns = "unlimited"\n')

    def was_full(output: str) -> bool:
        rows = summary_of(output)["limits"]
        return (rows["pending_inbound"]["peak"], rows["streams_per_peer"]["peak"]) == (5, 4)

    done = run_until(was_full, family, "--limits", str(limits), "--attackers", "4", "--json")
    rows = summary_of(done.stdout)["limits"]
    assert done.returncode == 0, done.stdout
    assert (rows["pending_inbound"]["limit"], rows["pending_inbound"]["peak"]) == (5, 5)
    assert rows["streams"]["limit"] == 9
    of_peer = rows["streams_per_peer"]  # half of the inbound ones, of which the host keeps one
    assert (of_peer["limit"], of_peer["peak"]) == (4, 4)
    assert rows["connections"]["limit"] is None
    assert rows["connections"]["denied"] == 0
