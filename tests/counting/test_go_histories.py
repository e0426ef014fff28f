"""The ledger against what go-libp2p's resource manager itself said and held, step by step.

tests/data/go_libp2p_histories.json holds the limits and the steps. A step is a request, its error
("" for success), and the amounts of each scope if they changed. The histories leave out where rcmgr
differs on purpose (see docs/coming-from-go.md): closed scopes, over-releases, reservations of 0
bytes, and the allowlist.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import base58
import pytest

from rcmgr.counting.groups import Refusal
from rcmgr.counting.scope import Ledger
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits

TEXT = (Path(__file__).parents[1] / "data" / "go_libp2p_histories.json").read_text()
PEERS = json.loads(TEXT)["peers"]
for number, peer in enumerate(PEERS):
    TEXT = TEXT.replace(f"P{number}", peer)
GO = json.loads(TEXT)
KINDS = {"services": "service", "protocols": "protocol", "peers": "peer"}


def ask(ledger: Ledger, handles: list[Any], own: dict[int, int], step: dict[str, Any]) -> Any:
    """The ledger's answer: a handle, True, None, or a Refusal."""
    op, at = step["op"], step.get("i", -1)
    if op == "conn":
        return ledger.try_open_connection(step["in"], fd=step["fd"])
    if op == "stream":
        return ledger.try_open_stream(base58.b58decode(step["peer"]), step["in"])
    handle = handles[at]
    if handle is None:  # it was refused
        return None
    if op == "span":
        return handle.begin_span()
    if op == "setpeer":
        return handle.try_set_peer(base58.b58decode(step["peer"]))
    if op in ("setprotocol", "setservice"):
        return getattr(handle, f"try_set_{op[3:]}")(step["name"])
    if op == "done":
        return handle.close()
    if op == "release":  # no more than it has
        size = min(step["size"], own.get(at, 0))
        own[at] = own.get(at, 0) - size
        return handle.release_memory(size)
    assert op == "reserve"
    taken = handle.try_reserve_memory(step["size"], step["prio"])
    if taken:
        own[at] = own.get(at, 0) + step["size"]
    return taken


def held(ledger: Ledger) -> dict[str, list[int]]:
    """As go-libp2p's state dump: no shares, no allowlisted scopes, none that hold nothing."""
    snapshot = ledger.snapshot()
    rows = {name: snapshot[name] for name in ("system", "transient")}
    for key, kind in KINDS.items():
        rows |= {f"{kind}:{name}": row for name, row in snapshot[key].items()}
    found = {name: [row[what] for what in GO["amounts"]] for name, row in rows.items()}
    return {name: amounts for name, amounts in found.items() if any(amounts)}


@pytest.mark.parametrize("number", range(len(GO["histories"])))
def test_the_same_answers_and_counts(number: int) -> None:
    history = GO["histories"][number]
    limits = LimitsFile.from_json(json.dumps(history["limits"])).build(NodeLimits())
    ledger = Ledger(limits.scopes, debug=True)
    handles: list[Any] = []
    own: dict[int, int] = {}
    counts: dict[str, list[int]] = {}
    for step, error, *changed in history["steps"]:
        answer, said = None, ""
        try:
            answer = ask(ledger, handles, own, step)
        except RuntimeError as attached:
            said = str(attached)
        if isinstance(answer, Refusal):
            said = str(answer.to_error()).partition(" (current: ")[0]
        if ".span-" in error:  # there each level names itself
            assert said
        else:
            assert said == error
        if step["op"] in ("conn", "stream", "span"):
            handles.append(answer or None)
        counts = changed[0] if changed else counts
        assert held(ledger) == counts
