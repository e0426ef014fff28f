"""A running node's state for those who may look: one JSON document for each connection.

On a Unix socket that only its owner can open; where there are none (Windows), on a loopback port
whose number and password are in a file that only its owner can read.
"""

from __future__ import annotations

import hmac
import json
import math
import os
import secrets
import socket
import socketserver
import stat
import sys
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rcmgr.errors import shortened
from rcmgr.peers import peer_text
from rcmgr.report.explain import explain
from rcmgr.report.node import Node
from rcmgr.report.stats import denied_by_limit
from rcmgr.report.usage import usages

__all__ = ["StatusError", "StatusServer", "default_path", "read_status", "status_of"]

FORMAT = 1
_PATIENCE_S = 2.0
_MOST_CLIENTS = 16
_MOST_DENIALS = 50
_MOST_BYTES = 16 * 2**20
_END_OF_TIME = 1e11
_STATES = (
    "pending_inbound", "pending_outbound", "established_inbound", "established_outbound",
    "established_per_peer", "established_total",
)
_HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX") and sys.platform != "win32"


class StatusError(Exception):
    """A node's state cannot be read; says why, in one line."""


class _Gone(StatusError):
    """Nobody listens there any more."""


def default_path() -> Path:
    """$RCMGR_STATUS; else rcmgr.sock in $XDG_RUNTIME_DIR; else one of this user in the temporary
    directory.
    """
    given = os.environ.get("RCMGR_STATUS")
    if given:
        return Path(given)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "rcmgr.sock"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"rcmgr-{user}.sock"


def status_of(node: Node) -> dict[str, Any]:
    """What the server answers, ready for JSON. O(scopes)."""
    log, seen = node.denials, node.connection_tracker.snapshot()
    return {
        "format": FORMAT,
        "rcmgr": _version(),
        "pid": os.getpid(),
        "time": time.time(),
        "usage": [
            {
                "limit": shortened(each.name),
                "used": each.used,
                "of": each.limit,
                "share": each.share,
                "peak": each.peak,
            }
            for each in usages(node)
        ],
        "stats": node.get_stats(),
        "scopes": _brief(node.ledger.snapshot(peers=False)),
        "peak": node.ledger.peak,
        "peak_states": {state: getattr(seen, f"peak_{state}") for state in _STATES},
        "denials": {
            "total": log.total, "inbound": log.inbound, "outbound": log.outbound,
            "by_limit": denied_by_limit(node),
            "by_peer": [
                {
                    "peer": shortened(peer_text(peer)),
                    "times": times,
                }
                for peer, times in log.most_denied()
            ],
        },
        "latest_denials": [
            {
                "seconds_ago": each.seconds_ago, "inbound": each.inbound,
                **_brief(each.error.to_dict()),
            }
            for each in log.entries()[-_MOST_DENIALS:]
        ],
        "explanation": explain(node),
    }


def _brief(values: dict[str, Any]) -> dict[str, Any]:
    """With the names shortened that others may have chosen, so that nobody fills it with them."""
    return {
        shortened(name): _brief(value) if isinstance(value, dict)
        else shortened(value) if isinstance(value, str) and name not in ("message", "setting")
        else value
        for name, value in values.items()
    }


def _version() -> str:
    try:
        return version("rcmgr")
    except PackageNotFoundError:  # run from a source tree
        return "source tree"


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        if not self.server.places.acquire(blocking=False):
            return
        try:
            self.request.settimeout(_PATIENCE_S)
            if self.server.password is None or self._knows(self.server.password):
                self.request.sendall(json.dumps(status_of(self.server.node)).encode() + b"\n")
        except OSError:
            return  # it hung up, or does not read
        finally:
            self.server.places.release()

    def _knows(self, password: str) -> bool:
        given = b""
        until = time.monotonic() + _PATIENCE_S  # in all: a byte now and then keeps no place
        while len(given) < len(password):
            self.request.settimeout(max(0.001, until - time.monotonic()))
            part = self.request.recv(len(password) - len(given))
            if not part:
                return False
            given += part
        self.request.settimeout(_PATIENCE_S)
        return hmac.compare_digest(given, password.encode())


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    node: Node
    password: str | None = None

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:  # no descriptor is left: whoever waits stays, and must not make us spin
            time.sleep(0.1)
            raise

    def __init__(self, address: Any) -> None:
        self.places = threading.BoundedSemaphore(_MOST_CLIENTS)
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """To `threading.excepthook`, as any thread's; the default prints by itself."""
        kind, error, trace = sys.exc_info()
        if kind is not None:
            threading.excepthook(
                threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))


class _UnixServer(_Server):
    address_family = getattr(socket, "AF_UNIX", socket.AF_INET)

    def server_bind(self) -> None:
        # nobody gets in before the mode is set: until `listen`, a socket refuses all connections
        self.socket.bind(self.server_address)
        os.chmod(str(self.server_address), 0o600)


class StatusServer:
    """Serves a manager's state at `path` until `close`. A context manager.

    A node that ended without closing is replaced; FileExistsError: another one serves there, or it
    is no socket. OSError: the path cannot be used. Clients are served in threads of their own; one
    that does not read is dropped after 2 s.

    unix: a Unix socket; default: if the system has them.
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
                _write_privately(self.path, json.dumps({
                    "port": self._server.server_address[1], "password": self._server.password}))
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

    def close(self) -> None:
        """Stop serving and remove the file; nothing happens the second time.

        In a forked child: only its copy of the socket is closed, the parent goes on serving.
        """
        if not self._closed.acquire(blocking=False):
            return
        if os.getpid() != self._process:  # the thread that `shutdown` waits for is not here
            self._server.server_close()
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if _identity(self.path) == self._file:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> StatusServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _make_room(path: Path) -> None:
    """Remove what a node left that ended without closing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode) and not (stat.S_ISREG(mode) and _password_file(path)):
        raise FileExistsError(f"{path} is there already, and no socket of a node")
    try:
        _connect(path).close()
    except _Gone:
        path.unlink(missing_ok=True)
        return
    except StatusError as error:  # perhaps alive, only too busy to answer, or another user's
        raise FileExistsError(f"{path} may be another node's: {error}") from error
    raise FileExistsError(
        f"another node serves its status at {path}: give this one another path (RCMGR_STATUS)")


def _write_privately(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _password_file(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    match content:
        case {"port": int(port), "password": str(password)} if 0 < port < 1 << 16:
            return {"port": port, "password": password}
    return None


def _connect(path: Path) -> socket.socket:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StatusError(
            f"no node serves its status at {path}: it has to call manager.serve_status()") from None
    except OSError as error:
        raise StatusError(f"{path}: {error.strerror}") from None
    # what another user put there may be made up; root looks at the services of others
    if hasattr(os, "getuid") and os.getuid() != 0 and found.st_uid not in (os.getuid(), 0):
        raise StatusError(f"{path} belongs to another user")
    content = None if stat.S_ISSOCK(found.st_mode) else _password_file(path)
    if content is None and not stat.S_ISSOCK(found.st_mode):
        raise StatusError(f"{path} is no socket of a node")
    family = socket.AF_INET if content else socket.AF_UNIX
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(_PATIENCE_S)
    try:
        if content is None:
            connection.connect(str(path))
        else:
            connection.connect(("127.0.0.1", content["port"]))
            connection.sendall(content["password"].encode())
    except OSError as error:
        connection.close()
        # Windows takes about as long to refuse a port as we wait
        if content is not None or isinstance(error, ConnectionRefusedError):
            raise _Gone(f"the node at {path} is gone ({error})") from None
        raise StatusError(f"the node at {path} does not answer ({error})") from None
    return connection


def read_status(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the node that serves there holds now. StatusError: it cannot be read, and why."""
    path = Path(path)
    received = bytearray()
    with _connect(path) as connection:
        try:
            while part := connection.recv(1 << 16):
                received += part
                if len(received) > _MOST_BYTES:
                    raise StatusError(f"what serves at {path} is no node: it does not stop")
        except OSError as error:
            raise StatusError(f"the node at {path} does not answer ({error})") from None
    if not received:
        raise StatusError(f"the node at {path} does not answer: it is busy, or ending")
    try:
        status = json.loads(received)
    except ValueError:
        raise StatusError(f"what serves at {path} is no node: it does not speak JSON") from None
    if not isinstance(status, dict) or status.get("format") != FORMAT:
        theirs = status.get("format") if isinstance(status, dict) else None
        raise StatusError(
            f"the node at {path} speaks format {theirs!r:.40} of the status, this command {FORMAT}:"
            " use the rcmgr that the node runs")
    if not _is_complete(status):
        raise StatusError(f"what serves at {path} is no node: parts of the status are missing")
    return status


def _is_complete(status: dict[str, Any]) -> bool:
    """Whether what a person is shown of it is there: another program may serve it."""
    match status:
        case {
            "rcmgr": str(), "pid": int(), "time": int() | float() as now, "explanation": str(),
            "stats": {"connections": int(), "peers": int(), "streams": int()},
            "usage": list(usage), "latest_denials": list(latest),
            "denials": {"total": int(), "by_limit": dict(by_limit)},
        }:
            return (
                0 <= now < _END_OF_TIME
                and all(map(_is_usage, usage))
                and all(isinstance(times, int) for times in by_limit.values())
                and all(isinstance(each, dict) and isinstance(each.get("message"), str)
                        for each in latest)
            )
    return False


def _is_usage(usage: Any) -> bool:
    match usage:
        case {
            "limit": str(), "used": int(), "of": int(), "share": int() | float() as share,
            "peak": int() | None,
        }:
            return math.isfinite(share)
    return False
