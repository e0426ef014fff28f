"""Trace files of go-libp2p, made by the rules of its trace.go."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from rcmgr import ConcreteLimits, Limit, NodeLimits
from rcmgr.record.frames import RecordError
from rcmgr.replay.go_traces import GoTrace, is_go_trace
from rcmgr.replay.replay import replay
from rcmgr.replay.survey import survey

PEER = "12D3KooWGqbVcJ9rQnHqEdzdNDZLnKcGrF3hrqKyQgHHzfGoDGa2"


def line(second: int, kind: str, scope: dict[str, Any] | None = None, **more: Any) -> str:
    return json.dumps({
        "Time": f"2026-11-29T10:00:{second:02}.5Z", "Type": kind,
        **({"Scope": scope} if scope else {}), **more})


def conn(second: int, number: int, *, inbound: bool = True) -> list[str]:
    delta = {"DeltaIn": 1} if inbound else {"DeltaOut": 1}
    scope = {"Class": "conn", "Conn": f"conn-{number}"}
    return [
        line(second, "create_scope", scope),
        *(line(second, "add_conn", {"Class": name}, Delta=1, **delta)
          for name in ("transient", "system")),
        line(second, "add_conn", scope, Delta=1, **delta),
    ]


def set_peer(second: int) -> list[str]:
    return [
        line(second, "add_conn", {"Class": "peer", "Peer": PEER}, Delta=1, DeltaIn=1, ConnsIn=1),
        line(second, "remove_conn", {"Class": "transient"}, Delta=-1, DeltaIn=-1),
    ]


def stream(second: int, number: int, protocol: str) -> list[str]:
    scope = {"Class": "stream", "Stream": f"stream-{number}"}
    return [
        *(line(second, "add_stream", each, DeltaIn=1)
          for each in ({"Class": "peer", "Peer": PEER}, {"Class": "transient"},
                       {"Class": "system"}, scope)),
        line(second, "add_stream", {"Class": "protocol", "Protocol": protocol}, DeltaIn=1),
        line(second, "add_stream", {"Class": "protocol-peer", "Protocol": protocol, "Peer": PEER},
             DeltaIn=1),
        line(second, "remove_stream", {"Class": "transient"}, DeltaIn=-1),
        line(second, "reserve_memory", scope, Delta=100, Priority=255, Memory=100),
    ]


TRACE = [
    line(0, "start", Limit={}),
    *conn(1, 1), *set_peer(2), *conn(2, 2), *conn(2, 3, inbound=False),
    *stream(3, 1, "/a"), *stream(4, 2, "/a"),
    line(5, "block_add_stream", {"Class": "peer", "Peer": PEER}, DeltaIn=1),
    line(5, "block_add_conn", {"Class": "system"}, Delta=1, DeltaIn=1),
    line(5, "block_reserve_memory", {"Class": "system"}, Delta=5),
    line(6, "release_memory", {"Class": "stream", "Stream": "stream-1"}, Delta=-100),
    line(6, "destroy_scope", {"Class": "stream", "Stream": "stream-1"}),
    line(7, "destroy_scope", {"Class": "conn", "Conn": "conn-1"}),
    line(9, "destroy_scope", {"Class": "conn", "Conn": "conn-2"}),
]


def written(path: Path, lines: list[str]) -> Path:
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


def test_a_trace_is_replayed_under_other_limits(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.json.gz", TRACE)
    assert is_go_trace(path)
    result = replay(path, NodeLimits())
    assert (result.events, result.outcome.newly_refused) == (17, 0)
    assert result.outcome.granted == {
        "stream.peer.streams_inbound": 1, "connection.system.conns_inbound": 1}
    assert result.player.skipped == {"machine": 1}
    assert result.end - result.begin == 8
    begin = datetime(2026, 11, 29, 10, 0, 1, 500_000, tzinfo=timezone.utc)
    assert result.begin == pytest.approx(begin.timestamp(), abs=1e-3)
    assert result.player.manager._held() == (100, 1, 0, 0, 1, 1)
    tight = replay(path, NodeLimits(ConcreteLimits(peer_default=Limit(streams=1))))
    [refused] = tight.outcome.refused.values()
    assert (refused.code, refused.times) == ("stream.peer.streams", 1)
    assert refused.peers == {PEER: 1}


def test_a_trace_is_measured(tmp_path: Path) -> None:
    found, _ = survey(written(tmp_path / "trace.json.gz", TRACE))
    assert found.gauges["system.conns"].peak == 3
    assert found.gauges["protocol[/a].streams"].peak == 2
    assert found.peers["peer_default.conns"].most == {PEER: 1}
    assert found.gauges["system.memory"].peak == 200
    assert found.refused.total() == 3


def test_a_cut_trace_is_read_up_to_the_cut(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.json.gz", TRACE * 50)
    path.write_bytes(path.read_bytes()[:-30])
    trace = GoTrace(path)
    assert sum(map(len, trace)) > 16
    assert trace.cut == [path]


def test_wrong_lines_are_counted(tmp_path: Path) -> None:
    lines = [*TRACE, "{", "[]", "5", json.dumps({"Type": "add_conn"}),
             line(9, "add_conn", {"Class": "conn", "Conn": "x"}, DeltaIn=1),
             json.dumps({"Type": "start", "Time": "yesterday"})]
    trace = GoTrace(written(tmp_path / "trace.json.gz", lines))
    assert sum(map(len, trace)) == 17
    assert trace.skipped == 6


def test_other_compressed_files_are_no_traces(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no trace of go-libp2p"):
        list(GoTrace(written(tmp_path / "x.gz", ["hello"])))
