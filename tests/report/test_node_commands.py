"""The commands over the status socket: right ones, wrong ones, and hostile ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rcmgr import ResourceManager
from rcmgr.peers import peer_text
from rcmgr.report.node_commands import COMMANDS, answer_to

PEER = b"\x12\x20" + b"p" * 32
ADDRESS = "192.0.2.1"


def ask(manager: ResourceManager, **request: Any) -> Any:
    answer = json.loads(answer_to(manager, json.dumps(request).encode()))
    assert answer.pop("format") == 1
    return answer


def test_ban_list_and_unban() -> None:
    manager = ResourceManager()
    made = {"what": "192.0.2.0/24", "seconds_left": 60, "reason": "x", "by": "operator", "times": 0}
    assert ask(manager, do="ban", what="192.0.2.9/24", seconds=60, reason="x") == {"answer": made}
    ask(manager, do="ban", what=peer_text(PEER))
    [first, second] = ask(manager, do="bans")["answer"]
    assert 59 < first.pop("seconds_left") <= 60
    assert (first["what"], second["what"]) == ("192.0.2.0/24", peer_text(PEER))
    assert second["seconds_left"] is None
    assert manager.open_connection(None, ADDRESS, "inbound") is None
    assert ask(manager, do="unban", what="192.0.2.0/24") == {"answer": True}
    assert ask(manager, do="unban", what="192.0.2.0/24") == {"answer": False}
    assert manager.open_connection(None, ADDRESS, "inbound") is not None


def test_allow() -> None:
    manager = ResourceManager()
    manager.ban(PEER)
    assert ask(manager, do="allow", what=peer_text(PEER)) == {"answer": None}
    assert manager.open_connection(PEER, ADDRESS, "inbound") is not None


def test_limits_may_be_checked_first() -> None:
    manager = ResourceManager()
    before = manager.node_limits
    text = json.dumps({"System": {"Conns": 5}})
    checked = ask(manager, do="apply", text=text, check=True)["answer"]
    assert checked["applied"] is False
    assert manager.node_limits == before
    applied = ask(manager, do="apply", text=text)["answer"]
    assert applied == {**checked, "applied": True}
    assert manager.node_limits.scopes.system.conns == 5


def test_limits_of_go_may_have_unknown_keys() -> None:
    manager = ResourceManager()
    text = json.dumps({"System": {"Conns": 5, "Other": 1}})
    assert "Other" in ask(manager, do="apply", text=text)["error"]
    assert ask(manager, do="apply", text=text, lenient=True)["answer"]["applied"] is True
    assert manager.node_limits.scopes.system.conns == 5


def test_the_size_of_a_record_is_checked(tmp_path: Path) -> None:
    manager, file = ResourceManager(), str(tmp_path / "node.rec")
    assert "max_bytes" in ask(manager, do="record", file=file, max_bytes=1)["error"]
    assert manager.recording is None
    assert ask(manager, do="record", file=file)["answer"]["closed"] is False
    assert ask(manager, do="stop_recording") == {"answer": True}


def test_status() -> None:
    assert ask(ResourceManager(), do="status")["answer"]["pid"]


@pytest.mark.parametrize(("request_", "reason"), [
    ({}, "unknown command None: known are status, bans, ban, unban, allow"),
    ({"do": "exec"}, "unknown command 'exec'"), ({"do": []}, "unknown command"),
    ({"do": "ban"}, "'ban' needs the argument 'what'"),
    ({"do": "ban", "what": 7}, "the argument 'what' must be text, not 7"),
    ({"do": "ban", "what": "me"}, "not a peer id, address or network: 'me'"),
    ({"do": "ban", "what": ADDRESS, "seconds": -1}, "seconds must be 0"),
    ({"do": "ban", "what": ADDRESS, "seconds": "1h"}, "seconds must be a number"),
    ({"do": "ban", "what": ADDRESS, "reason": 1}, "reason must be a text"),
    ({"do": "ban", "what": ADDRESS, "node": 1},
     "'ban' has no argument 'node'"),
    ({"do": "unban", "what": ""}, "not a peer id"),
    ({"do": "bans", "x": 1}, "'bans' has no argument 'x'"),
    ({"do": "watch", "x": 1}, "'watch' has no argument 'x'"),
    ({"do": "allow", "what": None}, "'what' must be text"),
])
def test_a_wrong_request_changes_nothing(request_: dict[str, Any], reason: str) -> None:
    manager = ResourceManager()
    answer = ask(manager, **request_)
    assert reason in answer["error"]
    assert (manager.bans(), len(manager.allowlist)) == ([], 0)


@pytest.mark.parametrize("request_", [
    {"do": "x" * 10_000}, {"do": ["x"] * 10_000}, {"do": "ban", "what": ["x"] * 10_000},
    {"do": "bans", "x" * 10_000: 1}, {"do": "watch", "kinds": {"x" * 10_000: 1}},
])
def test_an_error_does_not_repeat_a_long_request(request_: dict[str, Any]) -> None:
    assert len(ask(ResourceManager(), **request_)["error"]) < 500


@given(st.one_of(st.binary(), st.builds(
    lambda command, rest: json.dumps({"do": command, **rest}).encode(),
    st.sampled_from([*COMMANDS, "x"]),
    st.dictionaries(st.sampled_from(["what", "seconds", "reason", "x"]), st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4)))))
def test_any_request_has_an_answer(request_: bytes) -> None:
    answer = json.loads(answer_to(ResourceManager(), request_))
    assert len(answer) == 2
    assert answer["format"] == 1


def test_a_deep_request() -> None:
    assert "error" in json.loads(answer_to(ResourceManager(), b"[" * 60_000))
