"""Ask a running node for its status, and give it orders, over its status socket."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rcmgr.errors import printable_name
from rcmgr.report.status import FORMAT, is_complete

__all__ = [
    "Gone", "StatusError", "ask", "connect", "default_path", "password_file", "read_status",
    "watch",
]

_PATIENCE_S = 2.0
_MOST_BYTES = 16 * 2**20


class StatusError(Exception):
    """A node cannot be asked, or refuses; the message says why, in one line."""


class Gone(StatusError):
    """Nothing listens there any more."""


def default_path() -> Path:
    """$RCMGR_STATUS, or rcmgr.sock in $XDG_RUNTIME_DIR, or rcmgr-UID.sock in the temporary folder.
    """
    given = os.environ.get("RCMGR_STATUS")
    if given:
        return Path(given)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "rcmgr.sock"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"rcmgr-{user}.sock"


def password_file(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    match content:
        case {"port": int(port), "password": str(password)} if 0 < port < 1 << 16:
            return {"port": port, "password": password}
    return None


def connect(path: Path) -> socket.socket:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StatusError(
            f"no node serves its status at {path}: it has to call manager.serve_status()") from None
    except OSError as error:
        raise StatusError(f"{path}: {error.strerror}") from None
    # another user's node may be a fake; root may read the nodes of all users
    if hasattr(os, "getuid") and os.getuid() != 0 and found.st_uid not in (os.getuid(), 0):
        raise StatusError(f"{path} belongs to another user")
    content = None if stat.S_ISSOCK(found.st_mode) else password_file(path)
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
        # Windows refuses a port only after about 2 s, so a timeout means the same there
        if content is not None or isinstance(error, ConnectionRefusedError):
            raise Gone(f"the node at {path} is gone ({error})") from None
        raise StatusError(f"the node at {path} does not answer ({error})") from None
    return connection


def ask(path: str | os.PathLike[str], do: str, **arguments: Any) -> Any:
    """The answer of the node that serves at `path` to a command of `rcmgr.report.node_commands`.

    StatusError: there is no answer, or the node refuses.
    """
    path = Path(path)
    received = bytearray()
    with connect(path) as connection:
        try:
            connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            while part := connection.recv(1 << 16):
                received += part
                if len(received) > _MOST_BYTES:
                    raise StatusError(f"the server at {path} is no node: it does not stop")
        except OSError as error:
            raise StatusError(f"the node at {path} does not answer ({error})") from None
    if not received:
        raise StatusError(f"the node at {path} does not answer: it is busy, or ending")
    return _answer(path, received)


def watch(path: str | os.PathLike[str], kinds: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The events of the node that serves at `path`, as they happen.

    kinds: some of `rcmgr.report.watch.KINDS`; empty: all. The first event is {"event": "watching"}.
    StatusError: the node refuses, has ended, or has dropped this reader because it was too slow.
    """
    path = Path(path)
    with connect(path) as connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(
                json.dumps({"do": "watch", "kinds": list(kinds)}).encode() + b"\n")
            first = lines.readline(_MOST_BYTES)
            if not first:
                raise StatusError(f"the node at {path} does not answer: it is busy, or ending")
            _answer(path, first)
            yield {"event": "watching"}
            connection.settimeout(None)  # events may be rare
            while line := lines.readline(_MOST_BYTES):
                yield _event(path, line)
        except OSError as error:
            raise StatusError(f"the node at {path} does not answer ({error})") from None
    raise StatusError(f"the node at {path} has ended")


def _event(path: Path, line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise StatusError(f"the server at {path} is no node: it sends no events")
    if event["event"] == "dropped":
        raise StatusError(
            f"the node at {path} has dropped this reader: {printable_name(event.get('reason'))}")
    return event


def _answer(path: Path, received: bytes | bytearray) -> Any:
    try:
        answer = json.loads(received)
    except ValueError:
        raise StatusError(f"the server at {path} is no node: it does not speak JSON") from None
    if not isinstance(answer, dict) or answer.get("format") != FORMAT:
        theirs = answer.get("format") if isinstance(answer, dict) else None
        raise StatusError(
            f"the node at {path} speaks format {theirs!r:.40} of the status, this command {FORMAT}:"
            " use the rcmgr that the node runs")
    if "error" in answer:
        raise StatusError(printable_name(answer["error"]))
    return answer.get("answer")


def read_status(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The status of the node that serves at `path`. StatusError: it cannot be read."""
    status = ask(path, "status")
    if not isinstance(status, dict) or not is_complete(status):
        raise StatusError(f"the server at {path} is no node: parts of the status are missing")
    return status
