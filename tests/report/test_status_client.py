"""A client names the fault of an answer that is no status, and reports a refusal."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from socket_stub import answers_once

from rcmgr import ResourceManager
from rcmgr.report.status_client import StatusError, ask, default_path, read_status, watch

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")


def complete(**changes: Any) -> bytes:
    status = {
        "format": 1, "rcmgr": "0", "pid": 1, "time": 1.0, "explanation": "",
        "stats": {"connections": 0, "peers": 0, "streams": 0},
        "usage": [{"limit": "a", "used": 1, "of": 2, "share": 0.5, "peak": None}],
        "latest_denials": [{"message": "no"}], "denials": {"total": 1, "by_limit": {"a": 1}},
    }
    return json.dumps({"format": 1, "answer": {**status, **changes}}).encode()


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
def test_the_error_says_why_an_answer_is_no_status(
    tmp_path: Path, answer: bytes, reason: str
) -> None:
    with answers_once(tmp_path / "s", answer), pytest.raises(StatusError, match=reason):
        read_status(tmp_path / "s")


@unix
@pytest.mark.parametrize(("lines", "events", "reason"), [
    (b"", 0, "the node at .*s does not answer: it is busy, or ending"),
    (b'{"format": 1, "error": "no"}\n', 0, "no"),
    (b'{"format": 1}\n', 1, "the node at .*s has ended"),
    (b'{"format": 1}\n{"event": "ban"}\n', 2, "the node at .*s has ended"),
    (b'{"format": 1}\n{"event": "dropped", "reason": "slow"}\n', 1,
     "the node at .*s has dropped this reader: slow"),
    (b'{"format": 1}\nHTTP/1.1 400\n', 1, "the server at .*s is no node: it sends no events"),
    (b'{"format": 1}\n["ban"]\n', 1, "the server at .*s is no node: it sends no events"),
    (b'{"format": 1}\n{"event": 1}\n', 1, "the server at .*s is no node: it sends no events"),
])
def test_the_error_says_why_there_are_no_more_events(
    tmp_path: Path, lines: bytes, events: int, reason: str
) -> None:
    seen: list[Any] = []
    with (
        answers_once(tmp_path / "s", lines),
        pytest.raises(StatusError, match=f"^{reason}$"),
    ):
        seen.extend(watch(tmp_path / "s"))  # it keeps those before the error
    assert len(seen) == events


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no users by number")
@pytest.mark.parametrize(("owner", "reader", "refused"), [
    (1000, 1000, False), (1000, 1001, True), (0, 1000, False), (1000, 0, False), (1, 1000, True),
])
def test_a_node_of_another_user_may_be_a_fake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, reader: int, refused: bool
) -> None:
    (tmp_path / "s").touch()
    mode = (tmp_path / "s").lstat().st_mode
    monkeypatch.setattr(Path, "lstat", lambda path: SimpleNamespace(st_uid=owner, st_mode=mode))
    monkeypatch.setattr(os, "getuid", lambda: reader)
    reason = "belongs to another user" if refused else "is no socket of a node"
    with pytest.raises(StatusError, match=f"{reason}$"):
        ask(tmp_path / "s", "status")


@unix
def test_a_complete_status_is_taken(tmp_path: Path) -> None:
    """The answers above are refused for their defects, not for the document they start from."""
    with answers_once(tmp_path / "s", complete()):
        assert read_status(tmp_path / "s")["pid"] == 1


def test_the_default_path_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RCMGR_STATUS", str(tmp_path / "a"))
    assert default_path() == tmp_path / "a"
    monkeypatch.delenv("RCMGR_STATUS")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_path() == tmp_path / "rcmgr.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(os.getuid()) in default_path().name


@unix
def test_a_refusal_is_one_printable_line(tmp_path: Path) -> None:
    answer = json.dumps({"format": 1, "error": "no\n\x1b[2J" + "x" * 1000}).encode()
    with (
        answers_once(tmp_path / "s", answer),
        pytest.raises(StatusError, match=r"^no\\n\\x1b\[2Jx+\.\.\.x+$") as caught,
    ):
        ask(tmp_path / "s", "bans")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("unix_socket", [pytest.param(True, marks=unix), False])
def test_a_client_that_sends_no_request_is_dropped(tmp_path: Path, unix_socket: bool) -> None:
    from rcmgr.report.status_client import connect
    from rcmgr.report.status_socket import StatusServer

    with StatusServer(ResourceManager(), tmp_path / "s", unix=unix_socket) as server:
        for sent in (b"", b'{"do": "status"}', b"x" * (1 << 17)):
            with connect(server.path) as client:
                client.settimeout(30)
                try:
                    client.sendall(sent)
                    answer = client.recv(100)
                except ConnectionError:  # the server hung up before it read all
                    answer = b""
            assert answer == b""
        assert ask(server.path, "bans") == []
