"""The commands that a running node takes over its status socket, each a line of JSON.

Request: {"do": "ban", "what": "192.0.2.1", "seconds": 60}. Answer: {"format": 1, "answer": ...}, or
{"format": 1, "error": "one line"}. After the answer to {"do": "watch"}, a line for each event
follows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Final, TypeVar

from rcmgr.errors import shortened
from rcmgr.limits.changes import changed, differences
from rcmgr.limits.checks import check_count
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits
from rcmgr.report.lookups import peer_view, scope_view, top_rows
from rcmgr.report.node import Node
from rcmgr.report.status import FORMAT, status_of
from rcmgr.report.watch import Watch, plain_ban

__all__ = ["COMMANDS", "WATCHING", "answer_to", "line_of"]

_MOST_ROWS = 1000
_T = TypeVar("_T")


def _bans(node: Node) -> list[dict[str, Any]]:
    return [plain_ban(ban) for ban in node.bans()]


def _ban(
    node: Node, *, what: str, seconds: float | None = None, reason: str = ""
) -> dict[str, Any]:
    return plain_ban(node.ban(_text(what), seconds, reason))


def _unban(node: Node, *, what: str) -> bool:
    return node.unban(_text(what))


def _allow(node: Node, *, what: str) -> None:
    node.allowlist.add(_text(what))


def _record(node: Node, *, file: str, max_bytes: int = 256 << 20) -> dict[str, Any]:
    if not isinstance(file, str):
        raise TypeError(f"the argument 'file' must be text, not {_said(file)}")
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


def _limits(node: Node) -> dict[str, Any]:
    return LimitsFile.of(node.node_limits).to_dict()


def _set(node: Node, *, key: str, value: Any) -> dict[str, Any]:
    return _change(node, lambda limits: changed(limits, _text(key, "key"), value))


def _apply(
    node: Node, *, text: str, toml: bool = False, lenient: bool = False, check: bool = False
) -> dict[str, Any]:
    text = _text(text, "text")
    file = LimitsFile.from_toml(text) if toml else LimitsFile.from_json(text, lenient=lenient)
    return _change(node, file.build, check=check)


def _change(
    node: Node, change: Callable[[NodeLimits], NodeLimits], *, check: bool = False
) -> dict[str, Any]:
    """Apply a change whole, or not at all. check: only say what it would do."""
    if check:
        before = node.node_limits
        after = change(before)
    else:
        before, after = node.change_limits(change)
    return {
        "applied": not check,
        "changes": [each._asdict() for each in differences(before, after)],
        "above": [
            {"limit": shortened(each.name), "used": each.used, "of": each.limit}
            for each in node.usages_above(after)
        ],
    }


def _top(node: Node, *, by: str = "limit", most: int = 20) -> list[dict[str, Any]]:
    check_count("most", most, 1, _MOST_ROWS)
    return top_rows(node, _text(by, "by"), most)


def _peer(node: Node, *, peer: str) -> dict[str, Any]:
    return peer_view(node, _text(peer, "peer"))


def _scope(node: Node, *, name: str) -> dict[str, Any]:
    return scope_view(node, _text(name, "name"))


COMMANDS: Final[Mapping[str, Callable[..., Any]]] = {
    "status": status_of, "bans": _bans, "ban": _ban, "unban": _unban, "allow": _allow,
    "record": _record, "stop_recording": _stop_recording,
    "limits": _limits, "set": _set, "apply": _apply, "top": _top, "peer": _peer, "scope": _scope,
}


def answer_to(node: Node, request: bytes) -> bytes | Watch:
    """The answer of a node to a request, both a line of JSON. A wrong request changes nothing.

    A Watch: the reader wants events, after the line `WATCHING`.
    """
    try:
        asked = json.loads(request)
        if not isinstance(asked, dict):
            raise ValueError("a request must be an object")
        command = asked.pop("do", None)
        if command == "watch":
            return _call(_watch, command, node, asked)
        if not isinstance(command, str) or command not in COMMANDS:
            known = ", ".join((*COMMANDS, "watch"))
            raise ValueError(f"unknown command {_said(command)}: known are {known}")
        answer: dict[str, Any] = {"answer": _call(COMMANDS[command], command, node, asked)}
    except (TypeError, ValueError, RecursionError) as error:
        answer = {"error": str(error)}
    return line_of({"format": FORMAT, **answer})


def _call(
    function: Callable[..., _T], command: str, node: Node, arguments: Mapping[str, Any]
) -> _T:
    """TypeError: an argument is missing, or unknown."""
    _, *parameters = signature(function).parameters.values()
    known = {each.name: each for each in parameters}
    for name in arguments:
        if name not in known:
            raise TypeError(f"{command!r} has no argument {_said(name)}")
    for name, each in known.items():
        if each.default is each.empty and name not in arguments:
            raise TypeError(f"{command!r} needs the argument {name!r}")
    return function(node, **arguments)


def line_of(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


WATCHING: Final = line_of({"format": FORMAT, "answer": "watching"})
"""The first line for a reader of events."""


def _watch(node: Node, *, kinds: Sequence[str] = ()) -> Watch:
    if not isinstance(kinds, list | tuple):
        raise TypeError(f"the argument 'kinds' must be a list, not {_said(kinds)}")
    return Watch(node, kinds)


def _text(what: object, name: str = "what") -> str:
    if not isinstance(what, str):
        raise TypeError(f"the argument {name!r} must be text, not {_said(what)}")
    return what


def _said(value: object) -> str:
    return shortened(repr(value))
