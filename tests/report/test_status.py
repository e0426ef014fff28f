"""A look at a running node: who may, what is told, and what goes wrong."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from socket_stub import answers_once

import rcmgr.report.status
from rcmgr import ConcreteLimits, Limit, NodeLimits, ResourceLimits, ResourceManager
from rcmgr.counting.scope import Refusal
from rcmgr.report.status import StatusError, StatusServer, default_path, read_status

PEER = b"\x12\x20" + b"p" * 32
unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")


@pytest.fixture
def manager() -> ResourceManager:
    manager = ResourceManager(ResourceLimits(max_connections=1))
    manager.kept = [manager.open_connection(PEER) for _ in range(2)]  # type: ignore[attr-defined]
    return manager


@pytest.fixture(params=[pytest.param(True, marks=unix), False], ids=["unix", "port"])
def server(request: pytest.FixtureRequest, manager: ResourceManager, tmp_path: Path) -> Any:
    with StatusServer(manager, tmp_path / "s", unix=request.param) as server:
        yield server


def test_what_is_told(server: StatusServer, manager: ResourceManager) -> None:
    status = read_status(server.path)
    assert status["pid"] == os.getpid()
    assert status["stats"] == json.loads(json.dumps(manager.get_stats()))
    assert status["usage"][0] == {
        "limit": "system conns", "used": 1, "of": 1, "share": 1.0, "peak": 1}
    assert status["peak"]["conns"] == 1
    assert status["scopes"]["system"]["conns_inbound"] == 1
    assert status["peak_states"]["established_inbound"] == 1
    assert status["denials"] == {
        "total": 1, "inbound": 1, "outbound": 0, "by_limit": {"system connection": 1},
        "by_peer": [{"peer": "QmVuZp8s9f1Pk1DnS1tfFPFDARrGR95mTXf1fMDjRQt1CB", "times": 1}],
    }
    (denial,) = status["latest_denials"]
    assert denial["code"] == "connection.system.conns"
    assert denial["inbound"] is True
    assert status["explanation"] == manager.explain()


def test_only_the_owner_may_look(server: StatusServer) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


@unix
def test_nobody_gets_in_before_the_mode_is_set(
    manager: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[BaseException] = []
    real_chmod = os.chmod

    def chmod(path: str, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            with pytest.raises(ConnectionRefusedError) as caught:
                other.connect(path)
            refused.append(caught.value)
        real_chmod(path, mode)

    def fchmod(descriptor: int, mode: int) -> None:
        raise OSError(errno.EINVAL, "as on macOS and BSD, for a socket")

    monkeypatch.setattr(os, "chmod", chmod)
    monkeypatch.setattr(os, "fchmod", fchmod)
    before = os.umask(0)
    try:
        with StatusServer(manager, tmp_path / "s") as server:
            assert len(refused) == 1
            assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
            assert read_status(server.path)["pid"] == os.getpid()
    finally:
        os.umask(before)


def test_what_a_server_leaves(server: StatusServer) -> None:
    server.close()
    server.close()
    assert not server.path.exists()
    with pytest.raises(StatusError, match="no node serves its status"):
        read_status(server.path)


def test_a_second_node_is_told(server: StatusServer, manager: ResourceManager) -> None:
    with pytest.raises(FileExistsError, match="another node serves"):
        StatusServer(manager, server.path)
    assert read_status(server.path)["pid"] == os.getpid()


def test_silent_and_slow_clients_hinder_nobody(server: StatusServer) -> None:
    if server.path.is_socket():
        silent = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for each in silent:
            each.connect(str(server.path))
    else:
        port = json.loads(server.path.read_text())["port"]
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    try:
        for _ in range(3):
            assert read_status(server.path)["pid"] == os.getpid()
    finally:
        for each in silent:
            each.close()


def test_many_look_at_once(server: StatusServer) -> None:
    failures: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(10):
                read_status(server.path)
        except BaseException as error:  # noqa: BLE001 (raised below)
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_wrong_password_gets_nothing(manager: ResourceManager, tmp_path: Path) -> None:
    with StatusServer(manager, tmp_path / "s", unix=False) as server:
        told = json.loads(server.path.read_text())
        for password in ("", "x", "0" * len(told["password"])):
            with socket.create_connection(("127.0.0.1", told["port"]), timeout=10) as connection:
                connection.sendall(password.encode())
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(100) == b""


def test_a_password_in_drops_keeps_no_place(
    manager: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rcmgr.report.status, "_PATIENCE_S", 0.2)
    with StatusServer(manager, tmp_path / "s", unix=False) as server:
        told = json.loads(server.path.read_text())
        with socket.create_connection(("127.0.0.1", told["port"]), timeout=10) as connection:
            try:
                for byte in told["password"].encode():
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)
                answer = connection.recv(100)
            except ConnectionError:  # it was hung up on
                answer = b""
        assert answer == b""


@unix
def test_what_a_killed_node_left_is_replaced(manager: ResourceManager, tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with pytest.raises(StatusError, match="is gone"):
        read_status(path)
    with StatusServer(manager, path):
        assert read_status(path)["pid"] == os.getpid()


def test_what_a_killed_node_left_on_windows_is_replaced(
    manager: ResourceManager, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    path.write_text(json.dumps({"port": 1, "password": "x"}))
    with pytest.raises(StatusError, match="is gone"):
        read_status(path)
    with StatusServer(manager, path, unix=False):
        assert read_status(path)["pid"] == os.getpid()


def test_other_files_are_left_alone(manager: ResourceManager, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="no socket of a node"):
        StatusServer(manager, path)
    with pytest.raises(StatusError, match="no socket of a node"):
        read_status(path)
    assert path.read_text() == "mine"
    with pytest.raises(OSError, match="No such file"):
        StatusServer(manager, tmp_path / "absent" / "s")


@unix
def test_a_node_too_busy_to_answer_is_not_replaced(
    manager: ResourceManager, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        try:
            refused = 0
            while not refused:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                refused = waiting[-1].connect_ex(str(path))
            assert refused in (errno.EAGAIN, errno.EINPROGRESS)
            with pytest.raises(StatusError, match="does not answer"):
                read_status(path)
            with pytest.raises(FileExistsError, match="may be another node's"):
                StatusServer(manager, path)
        finally:
            for each in waiting:
                each.close()
    assert path.exists()


@unix
@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away")
def test_whose_node_it_is(
    manager: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StatusServer(manager, tmp_path / "s") as server:
        os.chown(server.path, 12345, -1)
        assert read_status(server.path)["pid"] == os.getpid()
        with pytest.raises(FileExistsError, match="another node serves"):
            StatusServer(manager, server.path)
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        with pytest.raises(StatusError, match="belongs to another user"):
            read_status(server.path)
        with pytest.raises(FileExistsError, match="belongs to another user"):
            StatusServer(manager, server.path)
        monkeypatch.undo()
        assert read_status(server.path)["pid"] == os.getpid()


@unix
def test_a_forked_child_ends_only_its_own(manager: ResourceManager, tmp_path: Path) -> None:
    script = """if True:
        import os, sys, time
        from rcmgr import ResourceManager
        from rcmgr.report.status import read_status
        manager = ResourceManager()
        path = manager.serve_status(sys.argv[1]).path
        child = os.fork()
        if child == 0:
            manager.close()
            os._exit(0)
        until = time.monotonic() + 30
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(child, 9)
                sys.exit("the child hangs")
            time.sleep(0.01)
        assert read_status(path)["pid"] == os.getpid()
        manager.close()
        assert not path.exists()
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path / "s")],
        capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("content", [
    {"port": 99999, "password": "x"}, {"port": None, "password": "x"}, {"port": 1}, ["port"],
])
def test_a_file_that_names_no_port(
    manager: ResourceManager, tmp_path: Path, content: object
) -> None:
    path = tmp_path / "s"
    path.write_text(json.dumps(content))
    with pytest.raises(StatusError, match="no socket of a node"):
        read_status(path)
    with pytest.raises(FileExistsError, match="no socket of a node"):
        StatusServer(manager, path, unix=False)


def test_a_file_that_cannot_be_written(manager: ResourceManager, tmp_path: Path) -> None:
    servers: list[socketserver.BaseServer] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            rcmgr.report.status._Server, "server_activate", lambda self: servers.append(self))
        with pytest.raises(OSError, match="No such file"):
            StatusServer(manager, tmp_path / "absent" / "s", unix=False)
    (server,) = servers
    assert server.fileno() == -1


@unix
def test_another_file_by_the_same_name_is_kept(manager: ResourceManager, tmp_path: Path) -> None:
    server = StatusServer(manager, tmp_path / "s")
    server.path.unlink()
    server.path.write_text("another's")
    server.close()
    assert server.path.read_text() == "another's"


def complete(**changes: Any) -> bytes:
    status = {
        "format": 1, "rcmgr": "0", "pid": 1, "time": 1.0, "explanation": "",
        "stats": {"connections": 0, "peers": 0, "streams": 0},
        "usage": [{"limit": "a", "used": 1, "of": 2, "share": 0.5, "peak": None}],
        "latest_denials": [{"message": "no"}], "denials": {"total": 1, "by_limit": {"a": 1}},
    }
    return json.dumps({**status, **changes}).encode()


@unix
@pytest.mark.parametrize(("answer", "reason"), [
    (complete(pid="1"), "parts of the status are missing"),
    (complete(time=1e300), "parts of the status are missing"),
    (complete(stats={"connections": 0}), "parts of the status are missing"),
    (complete(usage=[{"limit": "a"}]), "parts of the status are missing"),
    (complete(usage=[{"limit": "a", "used": 1, "of": 2, "share": math.nan, "peak": None}]),
     "parts of the status are missing"),
    (complete(latest_denials=["no"]), "parts of the status are missing"),
    (complete(denials={"total": 1, "by_limit": {"a": None}}), "parts of the status are missing"),
    (b'{"format": 1}', "parts of the status are missing"),
    (b'{"format": "' + b"x" * 1000 + b'"}', "speaks format 'x{39} of the status"),
    (b"", "does not answer"),
    (b"HTTP/1.1 400", "does not speak JSON"),
    (b"[1]", "speaks format None"),
    (b'{"format": 99}', "speaks format 99 .* this command 1"),
])
def test_what_is_no_node_is_said(tmp_path: Path, answer: bytes, reason: str) -> None:
    with answers_once(tmp_path / "s", answer), pytest.raises(StatusError, match=reason):
        read_status(tmp_path / "s")


@unix
def test_a_complete_status_is_taken(tmp_path: Path) -> None:
    """So that the above fail for what they say."""
    with answers_once(tmp_path / "s", complete()):
        assert read_status(tmp_path / "s")["pid"] == 1


def test_several_nodes_have_paths_of_their_own(tmp_path: Path) -> None:
    managers = [ResourceManager(ResourceLimits(max_connections=most)) for most in (1, 2, 3)]
    servers = [
        manager.serve_status(tmp_path / str(number)) for number, manager in enumerate(managers)]
    with pytest.raises(FileExistsError, match="give this one another path"):
        managers[0].serve_status(tmp_path / "2")
    managers[1].close()
    for number, most in ((0, 1), (2, 3)):
        limits = read_status(servers[number].path)["stats"]["limits"]
        assert limits["max_connections"] == most
    with pytest.raises(StatusError, match="no node serves"):
        read_status(servers[1].path)
    for manager in managers:
        manager.close()


def test_what_peers_choose_does_not_fill_the_status(tmp_path: Path) -> None:
    """The longest names that a stream can have, in every denial that is told."""
    manager = ResourceManager(NodeLimits(ConcreteLimits(
        protocol={f"/{number}/" + "\x1b" * 65_000: Limit(streams=1) for number in range(50)},
        protocol_default=Limit(streams=0))))
    kept = []
    for number in range(150):
        name = f"/{number}/" + "\x1b" * 65_000
        stream = manager.open_stream(b"\x12\x20" + number.to_bytes(32, "big"), "inbound")
        assert stream is not None
        taken = stream.try_set_protocol(name)
        if isinstance(taken, Refusal):
            manager.denials.add(taken, None, f"peer {name}", True)
            stream.close()
        else:
            kept.append(stream)
    with manager.serve_status(tmp_path / "s") as server:
        status = read_status(server.path)
    assert len(json.dumps(status)) < 1 << 20
    assert len(status["latest_denials"]) == 50
    assert all(each["setting"] in each["message"] for each in status["latest_denials"])


def test_the_manager_ends_what_it_serves(manager: ResourceManager, tmp_path: Path) -> None:
    server = manager.serve_status(tmp_path / "s")
    metrics = manager.serve_metrics(0)
    manager.close()
    assert not server.path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", metrics.port), timeout=10)


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RCMGR_STATUS", str(tmp_path / "a"))
    assert default_path() == tmp_path / "a"
    monkeypatch.delenv("RCMGR_STATUS")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_path() == tmp_path / "rcmgr.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(os.getuid()) in default_path().name
