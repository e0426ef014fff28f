"""Clients that never finish a request cannot exhaust the server of metrics. Real sockets."""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from rcmgr import ResourceManager
from rcmgr.report import http_server
from rcmgr.report.metrics import MetricsServer

MOST = http_server.MOST_CONNECTIONS


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with ResourceManager().serve_metrics(0) as server:
        yield server


def scrape(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        return str(answer.read(), "utf-8")


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def connect(server: MetricsServer, stack: ExitStack, sent: bytes) -> socket.socket:
    client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
    with suppress(ConnectionError):  # it was ended already
        client.sendall(sent)
    return client


def ended(client: socket.socket) -> bool:
    """Wait for the server's end of a connection."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nX: "], ids=["idle", "slow loris"])
def test_clients_that_finish_no_request(server: MetricsServer, sent: bytes) -> None:
    threads = threading.active_count()
    with ExitStack() as stack:
        clients = [connect(server, stack, sent) for _ in range(4 * MOST)]
        for client in clients[-MOST:]:  # they keep sending
            with suppress(ConnectionError):
                client.sendall(b"a")
        for _ in range(3):
            assert "rcmgr_peers 0.0" in scrape(server)
        assert all(ended(client) for client in clients[:2 * MOST])
        eventually(lambda: threading.active_count() <= threads + MOST + 1)
        if os.path.isdir("/proc/self/fd"):
            ours = len(os.listdir("/proc/self/fd")) - len(clients)
            assert ours < 2 * MOST + 100
    eventually(lambda: threading.active_count() <= threads)


def test_a_connection_that_takes_too_long_ends(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "LONGEST_S", 0.1)
    threads = threading.active_count()
    with ExitStack() as stack:
        clients = [connect(server, stack, b"GET / HTTP/1.0\r\n") for _ in range(5)]
        assert all(ended(client) for client in clients)
        eventually(lambda: threading.active_count() <= threads)
    assert "rcmgr_peers" in scrape(server)


def test_a_further_connection_ends_the_oldest(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "LONGEST_S", 1e9)
    kept = server._server._since
    with ExitStack() as stack:
        clients = [connect(server, stack, b"GET") for _ in range(MOST)]
        eventually(lambda: len(kept) == MOST)
        clients.append(connect(server, stack, b"GET"))
        assert ended(clients[0])
        eventually(lambda: len(kept) == MOST)
        for client in clients[1:]:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
    eventually(lambda: len(kept) == 0)  # an ended client is forgotten


def test_a_client_that_reads_nothing_ends_too(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "LONGEST_S", 0.1)
    threads = threading.active_count()
    with ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(("127.0.0.1", server.port))
        for _ in range(50):
            connect(server, stack, b"GET / HTTP/1.0\r\n\r\n")
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        eventually(lambda: threading.active_count() <= threads)


def test_clients_that_reset_print_nothing(
    server: MetricsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = threading.active_count()
    for sent in (b"", b"GET", b"\x16\x03\x01" * 100, b"GET / HTTP/1.0\r\n\r\n", b"x" * 100_000):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        with suppress(ConnectionError):
            client.sendall(sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    eventually(lambda: threading.active_count() <= threads)
    assert capfd.readouterr() == ("", "")
    assert "rcmgr_peers" in scrape(server)


def test_close_ends_open_connections() -> None:
    server = ResourceManager().serve_metrics(0)
    threads = threading.active_count()
    with ExitStack() as stack:
        clients = [connect(server, stack, b"GET") for _ in range(3)]
        scrape(server)
        server.close()
        assert all(ended(client) for client in clients)
        eventually(lambda: threading.active_count() < threads)
    server.close()
    with pytest.raises(OSError, match="refused"):
        scrape(server)


def test_ipv6_and_a_wrong_address() -> None:
    manager = ResourceManager()
    with pytest.raises(OSError, match=r"assign|valid"):
        manager.serve_metrics(0, "203.0.113.1")
    with manager.serve_metrics(0, "::1") as server:
        text = urllib.request.urlopen(f"http://[::1]:{server.port}/", timeout=30).read()
    assert b"rcmgr_peers" in text
