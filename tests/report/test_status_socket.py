"""Serving and reading the status of a node: who may read it, and what can go wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_server import comes_true
from threads import in_threads, rounds

from rcmgr import ResourceLimits, ResourceManager
from rcmgr.report import status_socket
from rcmgr.report.status import status_of
from rcmgr.report.status_client import StatusError, connect, read_status, watch
from rcmgr.report.status_socket import StatusServer

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


def test_a_client_reads_the_whole_document(
    server: StatusServer, manager: ResourceManager
) -> None:
    sent, received = json.loads(json.dumps(status_of(manager))), read_status(server.path)
    for status in (sent, received):
        del status["time"], status["latest_denials"][0]["seconds_ago"]
    assert received == sent


def test_only_the_owner_may_open_the_file(server: StatusServer) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


@unix
def test_no_client_connects_before_the_mode_is_set(
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
        raise OSError(errno.EINVAL, "macOS and BSD refuse this for a socket")

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


def test_closing_removes_the_file_and_may_be_repeated(server: StatusServer) -> None:
    server.close()
    server.close()
    assert not server.path.exists()
    with pytest.raises(StatusError, match="no node serves its status"):
        read_status(server.path)


def test_a_second_node_cannot_take_the_path(server: StatusServer, manager: ResourceManager) -> None:
    with pytest.raises(FileExistsError, match="another node serves"):
        StatusServer(manager, server.path)
    assert read_status(server.path)["pid"] == os.getpid()


def test_silent_clients_do_not_delay_others(server: StatusServer) -> None:
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


def test_many_clients_read_at_once(server: StatusServer) -> None:
    def look(_: int) -> list[Any]:
        return [read_status(server.path) for _ in range(rounds(10))]

    assert all(all(each) for each in in_threads(look, 6))


def test_a_wrong_password_gets_nothing(manager: ResourceManager, tmp_path: Path) -> None:
    with StatusServer(manager, tmp_path / "s", unix=False) as server:
        file = json.loads(server.path.read_text())
        for password in ("", "x", "0" * len(file["password"])):
            with socket.create_connection(("127.0.0.1", file["port"]), timeout=10) as connection:
                connection.sendall(password.encode())
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(100) == b""


@pytest.mark.parametrize("sends", [b"", b"x", b"0" * 32])
def test_clients_without_the_password_do_not_keep_the_owner_out(
    manager: ResourceManager, tmp_path: Path, sends: bytes
) -> None:
    """They connect, wait, and connect again as soon as they are dropped."""
    over = threading.Event()
    waiting: list[int] = []

    def stand_in_the_way(port: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(
                    ("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(sends)
                connection.recv(1)

    with StatusServer(manager, tmp_path / "s", unix=False) as server:
        port = json.loads(server.path.read_text())["port"]
        threads = [threading.Thread(target=stand_in_the_way, args=(port,)) for _ in range(100)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                assert read_status(server.path)["pid"] == os.getpid()
                waiting.append(len(server._server.strangers._clients))
            assert max(waiting) <= 64
        finally:
            over.set()
    for thread in threads:
        thread.join()


def test_a_client_that_sends_its_password_slowly_is_dropped(
    manager: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_socket, "_PATIENCE_S", 0.2)
    with StatusServer(manager, tmp_path / "s", unix=False) as server:
        file = json.loads(server.path.read_text())
        with socket.create_connection(("127.0.0.1", file["port"]), timeout=10) as connection:
            try:
                for byte in file["password"].encode():
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)
                answer = connection.recv(100)
            except ConnectionError:  # the server hung up
                answer = b""
        assert answer == b""


@unix
def test_the_socket_of_a_killed_node_is_replaced(
    manager: ResourceManager, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with pytest.raises(StatusError, match="is gone"):
        read_status(path)
    with StatusServer(manager, path):
        assert read_status(path)["pid"] == os.getpid()


def test_the_password_file_of_a_killed_node_is_replaced(
    manager: ResourceManager, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    path.write_text(json.dumps({"port": 1, "password": "x"}))
    with pytest.raises(StatusError, match="is gone"):
        read_status(path)
    with StatusServer(manager, path, unix=False):
        assert read_status(path)["pid"] == os.getpid()


def test_a_file_that_is_no_socket_is_kept(manager: ResourceManager, tmp_path: Path) -> None:
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
def test_the_owner_of_the_socket_is_checked(
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
def test_a_forked_child_leaves_its_parents_server_running(tmp_path: Path) -> None:
    script = """if True:
        import os, sys, time
        from rcmgr import ResourceManager
        from rcmgr.report.status_client import read_status
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
def test_a_password_file_without_a_valid_port(
    manager: ResourceManager, tmp_path: Path, content: object
) -> None:
    path = tmp_path / "s"
    path.write_text(json.dumps(content))
    with pytest.raises(StatusError, match="no socket of a node"):
        read_status(path)
    with pytest.raises(FileExistsError, match="no socket of a node"):
        StatusServer(manager, path, unix=False)


def test_the_port_is_closed_if_the_password_file_cannot_be_written(
    manager: ResourceManager, tmp_path: Path
) -> None:
    servers: list[socketserver.BaseServer] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            status_socket._Server, "server_activate", lambda self: servers.append(self))
        with pytest.raises(OSError, match="No such file"):
            StatusServer(manager, tmp_path / "absent" / "s", unix=False)
    (server,) = servers
    assert server.fileno() == -1


@unix
def test_closing_keeps_a_file_that_replaced_the_socket(
    manager: ResourceManager, tmp_path: Path
) -> None:
    server = StatusServer(manager, tmp_path / "s")
    server.path.unlink()
    server.path.write_text("another's")
    server.close()
    assert server.path.read_text() == "another's"


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


def test_closing_the_manager_closes_its_servers(manager: ResourceManager, tmp_path: Path) -> None:
    server = manager.serve_status(tmp_path / "s")
    metrics = manager.serve_metrics(0)
    manager.close()
    assert not server.path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", metrics.port), timeout=10)


def watch_as_it_comes(path: Path) -> socket.socket:
    """A client that watches, and reads nothing."""
    client = connect(path)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(b'{"do": "watch"}\n')
    return client


@unix
def test_a_reader_that_stops_is_dropped_and_told(
    manager: ResourceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a Unix socket, whose buffers are small."""
    monkeypatch.setattr(status_socket, "_PATIENCE_S", 0.2)
    with StatusServer(manager, tmp_path / "s") as server:
        stop_reading(server, manager, monkeypatch)


def stop_reading(
    server: StatusServer, manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watch_as_it_comes(server.path) as client, client.makefile("rb") as lines:
        assert json.loads(lines.readline())["answer"] == "watching"
        places = server._server.free_watchers
        # until the buffers of both sides are full, and the server gives up
        dismissed = threading.Event()
        monkeypatch.setattr(
            status_socket._Handler, "_dismiss",
            lambda handler, unsent, tell=status_socket._Handler._dismiss: (
                dismissed.set(), tell(handler, unsent)))
        while not dismissed.is_set():
            for _ in range(500):
                manager.open_connection(PEER, "192.0.2.1")
            dismissed.wait(0.05)
        client.settimeout(60)
        events = [json.loads(line) for line in lines]
        assert events[-1]["event"] == "dropped"
        assert events[-1]["reason"].startswith("nothing was read for")
        assert {each["event"] for each in events} >= {"denied", "left_out", "dropped"}
        while places._value < 8:  # type: ignore[attr-defined]
            time.sleep(0.01)


def test_a_reader_that_hangs_up_frees_its_place(server: StatusServer) -> None:
    places = server._server.free_watchers
    for _ in range(3):
        clients = [watch_as_it_comes(server.path) for _ in range(8)]
        for each in clients:
            assert b"watching" in each.recv(1000)
        with watch_as_it_comes(server.path) as one_more:
            assert b"8 others watch this node already" in one_more.recv(1000)
        # other questions are answered meanwhile
        assert read_status(server.path)["pid"] == os.getpid()
        for each in clients:
            each.close()
        while places._value < 8:  # type: ignore[attr-defined]
            time.sleep(0.01)


def test_the_end_of_the_server_ends_its_readers(manager: ResourceManager, tmp_path: Path) -> None:
    with StatusServer(manager, tmp_path / "s") as server:
        events = watch(server.path, ["bans"])
        assert next(events) == {"event": "watching"}
        manager.ban("192.0.2.9")
        assert next(events)["what"] == "192.0.2.9"
    with pytest.raises(StatusError, match="has ended"):
        next(events)


def rest_of(client: socket.socket) -> bytes:
    """The bytes that the server sends until it hangs up."""
    received = b""
    with client, contextlib.suppress(ConnectionError):
        client.settimeout(30)
        while part := client.recv(1 << 16):
            received += part
    return received


def test_a_client_that_asks_nothing_is_dropped(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_socket, "_PATIENCE_S", 0.1)
    client = connect(server.path)
    client.sendall(b'{"do": "ba')
    assert rest_of(client) == b""


def test_a_question_may_come_in_parts(server: StatusServer) -> None:
    client = connect(server.path)
    client.sendall(b'{"do": ')
    time.sleep(0.02)
    client.sendall(b'"bans"}\n')
    assert json.loads(rest_of(client))["answer"] == []


@pytest.mark.parametrize(("length", "is_answered"), [(1 << 21, True), ((1 << 21) + 1, False)])
def test_the_longest_question(server: StatusServer, length: int, is_answered: bool) -> None:
    start, end = b'{"do": "bans"', b"}\n"
    client = connect(server.path)
    with contextlib.suppress(ConnectionError):
        client.sendall(start + b" " * (length - len(start + end)) + end)
    assert bool(rest_of(client)) is is_answered


def test_sixteen_questions_are_answered_at_once(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_socket, "_PATIENCE_S", 60)
    places: Any = server._server.free_places
    silent = [connect(server.path) for _ in range(16)]
    comes_true(lambda: places._value == 0)
    with pytest.raises(StatusError, match="does not answer"):
        read_status(server.path)
    for each in silent:
        each.close()
    comes_true(lambda: places._value == 16)
    assert read_status(server.path)["pid"] == os.getpid()


def test_an_error_of_an_answer_is_one_of_a_thread(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    monkeypatch.setattr(status_socket, "answer_to", lambda node, request: 1 // 0)
    with pytest.raises(StatusError, match="busy, or ending"):
        read_status(server.path)
    comes_true(lambda: reported)
    [error] = reported
    assert error.exc_type is ZeroDivisionError
    assert error.exc_traceback is not None
    assert error.thread is not threading.current_thread()
    assert server._server.free_places._value == 16  # type: ignore[attr-defined]


def test_a_client_that_hangs_up_before_the_answer_is_no_error(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    threads: list[threading.Thread] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    client = connect(server.path)

    def answer_late(node: Any, request: bytes) -> bytes:
        client.close()
        threads.append(threading.current_thread())
        return b"x" * (1 << 22)

    monkeypatch.setattr(status_socket, "answer_to", answer_late)
    client.sendall(b'{"do": "bans"}\n')
    comes_true(lambda: threads)
    threads[0].join()
    assert reported == []


def test_events_above_a_batch_are_counted() -> None:
    events = [{"event": "denied", "message": "x" * 1000}] * 400
    handler = status_socket._Handler.__new__(status_socket._Handler)
    batch = handler._batch(SimpleNamespace(new_events=lambda: events))  # type: ignore[arg-type]
    *sent, last = map(json.loads, batch.splitlines())
    assert (last["event"], last["events"]) == ("left_out", 400 - len(sent))
    assert 1 << 18 <= len(batch) < (1 << 18) + 2000
    assert abs(last["time"] - time.time()) < 60
    assert handler._batch(SimpleNamespace(new_events=list)) == b""  # type: ignore[arg-type]


def test_a_stranger_takes_the_place_of_the_first_of_64() -> None:
    strangers = status_socket._Strangers()
    pairs = [socket.socketpair() for _ in range(66)]
    for _, theirs in pairs[:65]:
        strangers.add(theirs)
    assert pairs[0][0].recv(1) == b""
    pairs[1][1].close()  # the second one has gone by itself
    strangers.add(pairs[65][1])
    strangers.remove(pairs[2][1])
    strangers.remove(pairs[2][1])
    assert list(strangers._clients) == [theirs for _, theirs in pairs[3:]]
    for each in (each for pair in pairs for each in pair):
        each.close()


def test_a_client_with_the_password_is_no_stranger(
    manager: ResourceManager, tmp_path: Path
) -> None:
    with StatusServer(manager, tmp_path / "s", unix=False) as server:
        with connect(server.path):
            comes_true(lambda: server._server.free_places._value == 15)  # type: ignore[attr-defined]
            assert server._server.strangers._clients == {}
        assert not server.closed
    assert server.closed
    assert not server._thread.is_alive()


def test_a_slow_client_has_two_seconds_and_one_for_its_password(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times are in total: each byte that comes leaves less for the next one."""
    now = 100.0
    timeouts: list[float] = []

    class Slow:
        def settimeout(self, seconds: float) -> None:
            timeouts.append(round(seconds, 3))

        def recv(self, most: int) -> bytes:
            nonlocal now
            if timeouts[-1] == 0.001:
                raise TimeoutError
            now += 0.75
            return b"x"

    monkeypatch.setattr(status_socket, "time", SimpleNamespace(monotonic=lambda: now))
    handler = status_socket._Handler.__new__(status_socket._Handler)
    handler.request = Slow()
    with pytest.raises(TimeoutError):
        handler._request()
    assert timeouts == [2, 1.25, 0.5, 0.001]
    timeouts.clear()
    with pytest.raises(TimeoutError):
        handler._receives("password")
    assert timeouts == [1, 0.25, 0.001]
