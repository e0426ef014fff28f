"""Where a running node serves its status, and takes orders of its owner.

A node serves it on a Unix socket that only its owner can open. Without Unix sockets (Windows), it
uses a loopback port. A file that only its owner can read holds the port's number and a password.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import select
import socket
import socketserver
import stat
import sys
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from rcmgr.report.node import Node
from rcmgr.report.node_commands import WATCHING, answer_to, line_of
from rcmgr.report.status import FORMAT
from rcmgr.report.status_client import Gone, StatusError, connect, password_file
from rcmgr.report.watch import Watch

__all__ = ["StatusServer"]

_PATIENCE_S = 2.0
_PASSWORD_PATIENCE_S = 1.0
_MOST_CLIENTS = 16
_MOST_STRANGERS = 64
_MOST_WATCHERS = 8
_LONGEST_REQUEST = 1 << 21  # a limits file, with the escapes of JSON
_WATCH_EVERY_S = 0.1
_LONGEST_BATCH = 1 << 18
_FAREWELL_PATIENCE_S = 10.0
_HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX") and sys.platform != "win32"


class _Strangers:
    """The clients that have not sent the password yet: at most `_MOST_STRANGERS`.

    A new one takes the place of the first. The owner sends the password at once, so that clients
    without it cannot keep the owner out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, None] = {}

    def add(self, client: socket.socket) -> None:
        first = None
        with self._lock:
            if len(self._clients) >= _MOST_STRANGERS:
                first = next(iter(self._clients))
                del self._clients[first]
            self._clients[client] = None
        if first is not None:
            with suppress(OSError):  # it has gone by itself
                first.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends

    def remove(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.pop(client, None)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        try:
            if self._is_owner():
                self._answer()
        except OSError:
            return  # the client hung up or does not read

    def _answer(self) -> None:
        if not self.server.free_places.acquire(blocking=False):
            return
        try:
            request = self._request()
            if request is None:
                return
            answer = answer_to(self.server.node, request)
            if isinstance(answer, bytes):
                self.request.settimeout(_PATIENCE_S)
                self.request.sendall(answer)
                return
        finally:
            self.server.free_places.release()
        with answer as watch:
            self._serve_events(watch)

    def _serve_events(self, watch: Watch) -> None:
        """Send events until the client or the server ends, or the client does not read."""
        if not self.server.free_watchers.acquire(blocking=False):
            self.request.sendall(line_of({
                "format": FORMAT, "error": f"{_MOST_WATCHERS} others watch this node already"}))
            return
        try:
            batch = WATCHING
            while not self.server.closing.is_set():
                unsent = self._send(batch, _PATIENCE_S)
                if unsent:
                    self._dismiss(unsent)
                    return
                if select.select([self.request], [], [], _WATCH_EVERY_S)[0] and (
                        not self.request.recv(_LONGEST_BATCH)):
                    return  # it hung up
                batch = self._batch(watch)
        finally:
            self.server.free_watchers.release()

    def _batch(self, watch: Watch) -> bytes:
        batch, left_out = bytearray(), 0
        for event in watch.new_events():
            if len(batch) < _LONGEST_BATCH:
                batch += line_of(event)
            else:
                left_out += 1
        if left_out:
            batch += line_of({"event": "left_out", "time": time.time(), "events": left_out})
        return bytes(batch)

    def _send(self, data: bytes, patience_s: float) -> bytes:
        """The part that the client did not take: it read nothing for so many seconds."""
        self.request.settimeout(patience_s)
        while data:
            try:
                data = data[self.request.send(data):]
            except TimeoutError:
                break
        return data

    def _dismiss(self, unsent: bytes) -> None:
        """Tell a client that reads too slowly, after the line that it has in part."""
        last = line_of({
            "event": "dropped", "time": time.time(),
            "reason": f"nothing was read for {_PATIENCE_S:.0f} s"})
        self._send(unsent[:unsent.index(b"\n") + 1] + last, _FAREWELL_PATIENCE_S)

    def _request(self) -> bytes | None:
        """The line that the owner sends; None: it sends none."""
        received = b""
        until = time.monotonic() + _PATIENCE_S
        while not received.endswith(b"\n"):
            self.request.settimeout(max(0.001, until - time.monotonic()))
            part = self.request.recv(_LONGEST_REQUEST)
            received += part
            if not part or len(received) > _LONGEST_REQUEST:
                return None
        return received

    def _is_owner(self) -> bool:
        """Only the owner can open a Unix socket. A port asks for the password."""
        password = self.server.password
        if password is None:
            return True
        try:
            return self._receives(password)
        finally:
            self.server.strangers.remove(self.request)

    def _receives(self, password: str) -> bool:
        given = b""
        until = time.monotonic() + _PASSWORD_PATIENCE_S  # in total: a slow client must not stay
        while len(given) < len(password):
            self.request.settimeout(max(0.001, until - time.monotonic()))
            part = self.request.recv(len(password) - len(given))
            if not part:
                return False
            given += part
        return hmac.compare_digest(given, password.encode())


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * _MOST_STRANGERS
    node: Node
    password: str | None = None

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:  # no descriptor is left, and the waiting client would make the loop spin
            time.sleep(0.1)
            raise

    def __init__(self, address: Any) -> None:
        self.free_places = threading.BoundedSemaphore(_MOST_CLIENTS)
        self.free_watchers = threading.BoundedSemaphore(_MOST_WATCHERS)
        self.closing = threading.Event()
        self.strangers = _Strangers()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.password is not None:
            self.strangers.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report it as an error of any thread. The default would print it."""
        kind, error, trace = sys.exc_info()
        if kind is not None:
            threading.excepthook(
                threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))


class _UnixServer(_Server):
    address_family = getattr(socket, "AF_UNIX", socket.AF_INET)

    def server_bind(self) -> None:
        # a socket refuses all connections until `listen`, so no client connects before the chmod
        self.socket.bind(self.server_address)
        os.chmod(str(self.server_address), 0o600)


class StatusServer(AbstractContextManager["StatusServer"]):
    """Serves the status of a node at `path`, and takes orders there, until `close`.

    A context manager. docs/status.md has the protocol.

    It replaces the socket of a node that ended without closing. Each client has a thread. A client
    that does not read is dropped after 2 s. At most 8 clients watch events. On a port, at most 64
    clients without the password stay connected, for at most 1 s.

    unix: whether to use a Unix socket; default: if the system has them.

    FileExistsError: another node serves there, or the file is no socket. OSError: the path cannot
    be used.
    """

    def __init__(
        self, node: Node, path: str | os.PathLike[str], *,
        unix: bool = _HAS_UNIX_SOCKETS,
    ) -> None:
        self.path = Path(path)
        self._process = os.getpid()
        _make_room(self.path)
        self._server: _Server
        if unix:
            self._server = _UnixServer(str(self.path))
        else:
            self._server = _Server(("127.0.0.1", 0))
            self._server.password = secrets.token_hex(16)
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with open(descriptor, "w", encoding="utf-8") as file:
                    json.dump({
                        "port": self._server.server_address[1],
                        "password": self._server.password}, file)
            except BaseException:
                self._server.server_close()
                raise
        self._server.node = node
        self._file = _identity(self.path)
        self._closed = threading.Lock()
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="rcmgr status", daemon=True,
            kwargs={"poll_interval": 0.1},
        )
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.locked()

    def close(self) -> None:
        """Stop serving and remove the file. A second call does nothing.

        A forked child closes only its copy of the socket, and its parent continues to serve.
        """
        if not self._closed.acquire(blocking=False):
            return
        if os.getpid() != self._process:  # `shutdown` would wait for a thread of the parent
            self._server.server_close()
            return
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if _identity(self.path) == self._file:
            self.path.unlink(missing_ok=True)

    def __exit__(self, *error: object) -> None:
        self.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _make_room(path: Path) -> None:
    """Remove the socket of a node that ended without closing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode) and not (stat.S_ISREG(mode) and password_file(path)):
        raise FileExistsError(f"{path} is there already, and no socket of a node")
    try:
        connect(path).close()
    except Gone:
        path.unlink(missing_ok=True)
        return
    except StatusError as error:  # the node may be too busy to answer, or belong to another user
        raise FileExistsError(f"{path} may be another node's: {error}") from error
    raise FileExistsError(
        f"another node serves its status at {path}: give this one another path (RCMGR_STATUS)")
