"""Snapshots, the fullest limits, peaks, and the counts of refusals."""

from __future__ import annotations

from typing import Any

from model_scopes import PEER, limit, limits

from rcmgr.counting.scope import Ledger


def test_the_fullest_limits_come_first() -> None:
    ledger = Ledger(limits(
        system=limit(conns=10, memory=100), peer_default=limit(streams=2, conns_inbound=4),
        protocol_default=limit(streams_inbound=3), transient=limit(fd=0),
    ))
    assert ledger.fullest() == []
    kept: list[Any] = [ledger.open_connection(True, False, peer=PEER) for _ in range(3)]
    for _ in range(2):
        kept.append(ledger.open_stream(PEER))
        kept[-1].set_protocol("/a")
    kept[-1].reserve_memory(35)
    assert [(scope.partition(":")[0], *rest) for scope, *rest in ledger.fullest()] == [
        ("peer", "streams", 2, 2), ("peer", "conns_inbound", 3, 4),
        ("protocol", "streams_inbound", 2, 3), ("system", "memory", 35, 100),
        ("system", "conns", 3, 10),
    ]
    assert [entry[1] for entry in ledger.fullest(2)] == ["streams", "conns_inbound"]
    assert ledger.fullest(0) == []
    assert [entry[:2] for entry in ledger.fullest(peers=False)] == [
        ("protocol:/a", "streams_inbound"), ("system", "memory"), ("system", "conns")]
    many = [ledger.open_stream(b"peer %d" % i) for i in range(200)]
    assert len(ledger.fullest(50)) == 50
    assert len(ledger.peer_stats()) == 201
    assert sum(each.streams_inbound for each in ledger.peer_stats()) == 202
    assert ledger.snapshot(peers=False)["peers"] == {}
    assert ledger.snapshot(peers=False)["protocols"]["/a"]["peers"] == {}
    assert ledger.snapshot(peers=False)["protocols"]["/a"]["streams_inbound"] == 2
    del many


def test_refusals_by_direction() -> None:
    ledger = Ledger(limits(system=limit(conns=0, streams=0, memory=0), stream=limit(memory=0)))
    for inbound in (True, True, False):
        assert not ledger.try_open_connection(inbound)
        assert not ledger.try_open_stream(PEER, inbound)
        assert not ledger.acquire_stream(PEER, inbound)
    assert not ledger.system().try_reserve_memory(1)
    assert ledger.blocked == {
        ("inbound", "system", "conns"): 2, ("outbound", "system", "conns"): 1,
        ("inbound", "system", "streams"): 4, ("outbound", "system", "streams"): 2,
        ("", "system", "memory"): 1,
    }
    assert ledger.refused == {"system": {"connection": 3, "stream": 6, "memory": 1}}


def test_peaks_and_snapshot() -> None:
    ledger = Ledger(limits(system=limit(conns=4, memory=0, fd=3)))
    with ledger.open_connection(), ledger.open_connection(False):
        system = ledger.snapshot()["system"]
    assert system["limits"] == {"memory": 0, "conns": 4, "fd": 3}
    assert system["percent"] == {"memory": 0.0, "conns": 50.0, "fd": 66.67}
    assert ledger.transient_peak["conns"] == 2
    assert ledger.peak["conns"] == ledger.peak["fd"] == 2
    assert ledger.peak["conns_inbound"] == 1
    assert ledger.system().limit["conns"] == 4
