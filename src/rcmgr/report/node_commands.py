"""The commands that a running node takes over its status socket, each a line of JSON.

Request: {"do": "ban", "what": "192.0.2.1", "seconds": 60}. Answer: {"format": 1, "answer": ...}, or
{"format": 1, "error": "one line"}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from rcmgr.gates.bans import Ban
from rcmgr.report.node import Node
from rcmgr.report.status import FORMAT, status_of

__all__ = ["COMMANDS", "answer_to"]


def _bans(node: Node) -> list[dict[str, Any]]:
    return [_plain(ban) for ban in node.bans()]


def _ban(
    node: Node, *, what: str, seconds: float | None = None, reason: str = ""
) -> dict[str, Any]:
    return _plain(node.ban(_text(what), seconds, reason))


def _unban(node: Node, *, what: str) -> bool:
    return node.unban(_text(what))


def _allow(node: Node, *, what: str) -> None:
    node.allowlist.add(_text(what))


def _record(node: Node, *, file: str, max_bytes: int = 256 << 20) -> dict[str, Any]:
    if not isinstance(file, str):
        raise TypeError(f"the argument 'file' must be text, not {file!r}")
    running = node.recording
    if running is not None and not running.stats()["closed"]:
        raise ValueError(f"the node records already, at {running.path}")
    try:
        return node.record(file, max_bytes=max_bytes).stats()
    except (OSError, ImportError) as error:
        raise ValueError(f"no record: {error}") from None


def _stop_recording(node: Node) -> bool:
    if node.recording is None:
        return False
    node.recording.close()
    return True


COMMANDS: Final[Mapping[str, Callable[..., Any]]] = {
    "status": status_of, "bans": _bans, "ban": _ban, "unban": _unban, "allow": _allow,
    "record": _record, "stop_recording": _stop_recording,
}


def answer_to(node: Node, request: bytes) -> bytes:
    """The answer of a node to a request, both a line of JSON. A wrong request changes nothing."""
    try:
        asked = json.loads(request)
        if not isinstance(asked, dict):
            raise ValueError("a request must be an object")
        command = asked.pop("do", None)
        if not isinstance(command, str) or command not in COMMANDS:
            raise ValueError(f"unknown command {command!r}: known are {', '.join(COMMANDS)}")
        answer: dict[str, Any] = {"answer": COMMANDS[command](node, **asked)}
    except (TypeError, ValueError, RecursionError) as error:
        answer = {"error": str(error)}
    return json.dumps({"format": FORMAT, **answer}).encode() + b"\n"


def _text(what: object) -> str:
    if not isinstance(what, str):
        raise TypeError(f"the argument 'what' must be text, not {what!r}")
    return what


def _plain(ban: Ban) -> dict[str, Any]:
    """A ban, ready for JSON. seconds_left: None: until it is ended. node: another of the fleet."""
    left = None if math.isinf(ban.seconds_left) else ban.seconds_left
    return {
        "what": ban.what, "seconds_left": left, "reason": ban.reason, "by": ban.by,
        "times": ban.times, **({"node": ban.node} if ban.node else {})}
