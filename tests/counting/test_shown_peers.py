"""The peers of a snapshot: a dict that makes its rows when asked."""

from __future__ import annotations

import copy
import json
import operator
from typing import Any

import pytest
from model_scopes import PEER, limit, limits

from rcmgr.counting.scope import Ledger
from rcmgr.peers import peer_text


def test_a_snapshot_shows_peers_as_a_dict_would() -> None:
    ledger = Ledger(limits(peer_default=limit(streams=4)))
    assert ledger.snapshot()["peers"] == {}
    names: list[bytes | str | int] = [PEER, "friend", 7, "\ud800"]
    kept: list[Any] = [ledger.open_stream(name) for name in names]
    for number, stream in enumerate(kept):
        stream.reserve_memory(number)
        stream.set_protocol("/a")
    kept += ledger.open_stream("friend"), ledger.open_stream("friend", False)
    shown = ledger.snapshot()
    peers = shown["peers"]
    texts = {peer_text(PEER), "friend", "7", "\ud800"}
    assert peers["friend"] == {
        "memory": 1, "streams_inbound": 2, "streams_outbound": 1, "conns_inbound": 0,
        "conns_outbound": 0, "fd": 0, "limits": {"streams": 4}, "percent": {"streams": 75.0}}
    assert set(peers) == set(peers.keys()) == texts
    assert list(reversed(peers)) == list(peers)[::-1]
    assert len(peers) == len(peers.items()) == len(list(peers.values())) == 4
    assert {text: row["memory"] for text, row in peers.items()} == {
        peer_text(PEER): 0, "friend": 1, "7": 2, "\ud800": 3}
    assert sorted(row["memory"] for row in peers.values()) == [0, 1, 2, 3]
    assert set(shown["protocols"]["/a"]["peers"]) == texts
    assert shown["protocols"]["/a"]["peers"]["friend"]["streams_inbound"] == 1
    for missing in ("", "stranger", 7, None):
        assert missing not in peers
        assert peers.get(missing, 5) == 5
        with pytest.raises(KeyError):
            peers[missing]
    whole = {text: peers[text] for text in texts}
    assert peers == whole == peers.copy() == dict(peers) == {**peers} == peers | {} == {} | peers
    assert (peers != whole) is False
    assert peers != {**whole, "more": {}}
    assert repr(peers) == repr(peers.copy())
    assert json.loads(json.dumps(shown)) == shown == copy.deepcopy(shown)
    assert type(copy.copy(peers)) is dict
    kept[0].close()
    assert ledger.snapshot() != shown
    assert len(peers) == 4


def test_a_snapshot_cannot_change() -> None:
    ledger = Ledger()
    with ledger.open_stream("friend"):
        peers = ledger.snapshot()["peers"]
    for change in (
        lambda: peers.update(more={}), lambda: peers.pop("friend"), peers.popitem, peers.clear,
        lambda: peers.setdefault("more", {}), lambda: operator.setitem(peers, "more", {}),
        lambda: operator.delitem(peers, "friend"), lambda: operator.ior(peers, {"more": {}}),
    ):
        with pytest.raises(TypeError, match=r"change a copy"):
            change()
    assert list(peers) == ["friend"]
