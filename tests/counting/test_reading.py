"""Snapshots, the fullest limits, peaks, and the counts of refusals."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from model_scopes import PEER, limit, limits

from rcmgr.counting.scope import Ledger
from rcmgr.peers import peer_text


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


@pytest.mark.parametrize("most", [1, 2, 3, 39, 40, 41])
def test_only_the_fullest_are_kept(most: int) -> None:
    used = {b"peer %d" % number: number % 40 + 1 for number in range(0, 40 * 7, 7)}
    ledger = Ledger(limits(peer_default=limit(memory=100)))
    kept: list[Any] = [ledger.open_stream(peer) for peer in used]
    for scope, amount in zip(kept, used.values(), strict=True):
        scope.reserve_memory(amount)
    fullest = [amount for _, _, amount, _ in ledger.fullest(most)]
    assert fullest == list(range(40, 0, -1))[:most]


def test_limits_below_what_is_held() -> None:
    """As after new limits. A limit of zero counts as full."""
    ledger = Ledger()
    kept: list[Any] = [ledger.open_stream(PEER) for _ in range(2)]
    kept.append(ledger.open_connection(True, True, peer=b"other"))
    kept[-1].reserve_memory(7)
    ledger.set_limits(limits(
        peer={PEER: limit(streams=1), b"other": limit(memory=0, fd=2)}, system=limit(streams=2)))
    assert [rest for _, *rest in ledger.fullest()] == [
        ["streams", 2, 1], ["streams", 2, 2], ["memory", 7, 0], ["fd", 1, 2]]
    peers = ledger.snapshot()["peers"]
    assert peers[peer_text(PEER)]["percent"] == {"streams": 200.0}
    assert peers[peer_text(b"other")]["percent"] == {"memory": 100.0, "fd": 50.0}
    assert [stat for stat in ledger.peer_stats() if stat.fd] == [(7, 0, 0, 1, 0, 1)]
    del kept


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


def test_a_snapshot_of_many_peers_keeps_few_objects() -> None:
    """Python's collector looks at each object, and freeing them all would stop other threads."""
    ledger = Ledger()
    kept = [ledger.open_stream(f"peer {number}") for number in range(3000)]
    gc.collect()
    before = len(gc.get_objects())
    shown = ledger.snapshot()
    assert len(gc.get_objects()) - before < 100
    assert set(shown["peers"]) == {f"peer {number}" for number in range(3000)}
    assert {shown["peers"][f"peer {number}"]["streams_inbound"] for number in range(3000)} == {1}
    with pytest.raises(IndexError, match="no row begins at byte"):
        shown["peers"]._rows.row(0, 2**40)
    del kept


def crowd(ledger: Ledger, peers: int) -> list[Any]:
    """Streams of so many peers: of one protocol each second one, of an own protocol the others."""
    kept = []
    for number in range(peers):
        stream = ledger.open_stream(b"peer %d" % number)
        stream.set_protocol("/all" if number % 2 else f"/{number}")
        stream.set_service("service")
        kept.append(stream)
    return kept


def test_a_large_ledger_is_read_in_small_steps() -> None:
    """Each hold of the lock reads a bounded number of groups, in a ledger of any size."""
    ledger = Ledger()
    assert ledger._steps() == [4]
    kept = crowd(ledger, 20)
    few = ledger._steps()
    assert sum(few) == 4 + 20 + (1 + 10) + 20 + 1 + 20  # fixed, peers, protocols, services, shares
    assert len(few) <= 2
    ledger = Ledger()
    kept = crowd(ledger, 5000)
    steps = ledger._steps()
    assert sum(steps) == 4 + 5000 + (1 + 2500) + 5000 + 1 + 5000
    assert max(steps) <= 2 * 256
    assert len(steps) > sum(steps) / (2 * 256)
    assert sum(ledger._steps(peers=False)) == 4 + (1 + 2500) + 1
    del kept


def test_all_is_read_once_while_threads_come_and_go() -> None:
    ledger = Ledger()
    kept = crowd(ledger, 600)
    ends = threading.Event()

    def come_and_go(number: int) -> None:
        while not ends.is_set():
            streams = []
            for each in range(600):
                streams.append(ledger.open_stream(b"guest %d %d" % (number, each)))
                streams[-1].set_protocol("/all")
            for stream in streams:
                stream.close()

    guests = [threading.Thread(target=come_and_go, args=[number]) for number in range(2)]
    for each in guests:
        each.start()
    try:
        for _ in range(2):
            shown = ledger.snapshot()
            peers = {peer_text(b"peer %d" % number) for number in range(600)}
            assert peers <= set(shown["peers"])
            assert set(shown["services"]["service"]["peers"]) == peers
            assert set(map(peer_text, (b"peer %d" % each for each in range(1, 600, 2)))) <= set(
                shown["protocols"]["/all"]["peers"])
            assert {f"/{each}" for each in range(0, 600, 2)} <= set(shown["protocols"])
            keys = ledger.peers()
            assert len(keys) == len(set(keys))
            assert keys == sorted(keys)
            counts, total = ledger._peer_distributions({"streams_inbound": (1, 2)})[
                "streams_inbound"]
            assert 600 <= sum(counts) == total <= 600 + 1200
    finally:
        ends.set()
        for each in guests:
            each.join()
    del kept


def test_histograms_of_peers() -> None:
    ledger = Ledger()
    kept = [ledger.open_stream(b"peer %d" % (number % 3)) for number in range(9)]
    kept.append(ledger.open_stream(b"peer 0", False))
    kept[0].reserve_memory(100)
    found = ledger._peer_distributions(
        {"streams_inbound": (1, 3), "streams_outbound": (), "memory": (99, 100, 101)})
    assert found == {
        "streams_inbound": ([0, 3, 0], 9), "streams_outbound": ([1], 1),
        "memory": ([0, 1, 0, 0], 100)}
    with pytest.raises(ValueError, match="at most 64 bounds, not 65"):
        ledger._peer_distributions({"memory": tuple(range(65))})
    with pytest.raises(ValueError, match="at most 8 fields, not 9"):
        ledger._peer_distributions({str(number): () for number in range(9)})


def test_limits_of_a_large_ledger_change_in_steps() -> None:
    """A group with an own limit gets the new one. The others get the new default."""
    ledger = Ledger(limits(peer_default=limit(streams=1)))
    kept = crowd(ledger, 2000)
    ledger.set_limits(limits(
        peer_default=limit(streams=2), peer={b"peer 7": limit(streams=3)},
        protocol_peer={"/all": limit(streams=4)}))
    assert ledger.peer(b"peer 7").limit["streams"] == 3
    assert ledger.peer(b"peer 8").limit["streams"] == 2
    assert ledger.protocol_peer("/all", b"peer 9").limit["streams"] == 4
    ledger.set_limits(limits(peer_default=limit(streams=5)))
    assert ledger.peer(b"peer 7").limit["streams"] == 5
    assert ledger.protocol_peer("/all", b"peer 9").limit["streams"] is None
    del kept
