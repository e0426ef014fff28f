"""The log of denials: what it keeps, what it counts, and what an entry shows."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rcmgr import (
    ConcreteLimits,
    ConnectionLimitExceeded,
    ConnectionLimitKind,
    ConnectionLimits,
    ConnectionTracker,
    Ledger,
    Limit,
    NodeLimits,
    ResourceLimitExceeded,
    ResourceLimits,
    ResourceManager,
    SubnetLimits,
)
from rcmgr.counting.denials import DenialLog
from rcmgr.gates.memory import MemoryExcess
from rcmgr.gates.networks import AddressGate
from rcmgr.gates.requests import RateRefusal
from rcmgr.report.metrics import MetricsCollector

PEER = b"peer"


def made_up(number: int) -> bytes:
    return b"\x12\x20" + number.to_bytes(32, "big")


def test_the_number_of_kept_denials() -> None:
    for kept, expected in ((None, 256), (1, 1), (1000, 300)):
        options: dict[str, Any] = {} if kept is None else {"denials_kept": kept}
        manager = ResourceManager(ResourceLimits(max_streams=0), **options)
        for number in range(300):
            assert not manager.acquire_stream(made_up(number), "inbound")
        assert len(manager.denials) == len(list(manager.denials)) == expected
        assert manager.denials.total == 300
        assert manager.last_denial.peer_id == made_up(299)  # type: ignore[union-attr]


@pytest.mark.parametrize(("kept", "error", "text"), [
    (0, ValueError, "denials_kept must be 1 or more, not 0"),
    ("9", TypeError, "denials_kept must be an int, not '9'"),
    (True, TypeError, "denials_kept must be an int, not True"),
])
def test_a_wrong_number_of_kept_denials(kept: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ResourceManager(denials_kept=kept)


def test_a_flood_of_made_up_peers_takes_no_memory() -> None:
    """Ten seconds of ten thousand denials each, of all kinds, with metrics and everything on."""
    manager = ResourceManager(NodeLimits(
        ConcreteLimits(system=Limit(streams=0), peer_default=Limit(conns=0)),
        ConnectionLimits(max_pending_outbound=0),
    ))
    registry = CollectorRegistry()
    registry.register(MetricsCollector(manager))

    def flood(first: int, last: int) -> None:
        for number in range(first, last):
            peer = made_up(number)
            assert not manager.acquire_stream(peer, "inbound")
            assert manager.open_connection(peer, None, "inbound") is None
            assert manager.open_connection(None, None, "outbound") is None
            if number % 5000 == 0:
                generate_latest(registry)
                manager.explain()

    flood(0, 10_000)
    gc.collect()
    tracemalloc.start()
    flood(10_000, 15_000)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    flood(15_000, 45_000)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert manager.denials.total == 135_000
    assert after - before < 100_000  # the counts by peer grow and shrink by half
    stats = manager.get_stats()
    assert sum(stats["denied"].values()) == 135_000
    assert (manager.denials.inbound, manager.denials.outbound) == (90_000, 45_000)
    assert manager.ledger.peers() == []


def test_threads_that_add_at_once() -> None:
    log = DenialLog(16)
    refusal = ConnectionTracker(max_connections=0).admit_pending_inbound("c", ConnectionLimits())
    assert refusal is not None
    together = threading.Barrier(4)

    class Peer:
        """Runs Python code where it is looked for, as py-libp2p's ids do."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __hash__(self) -> int:
            return sum([hash(self.name)])

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Peer) and self.name == other.name

    def work() -> None:
        together.wait()
        for number in range(5000):
            log.add(refusal, None, b"a", number % 2 == 0)
            log.add(refusal, None, Peer("b"), None)
            len(log.entries())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert (log.total, log.inbound, log.outbound) == (40_000, 10_000, 10_000)
    counts = dict(log.most_denied())
    assert counts[b"a"] == 20_000


def test_every_refusal_is_falsy_and_has_an_error() -> None:
    """So the caller of a decision needs one check: a handle is true, a refusal is not."""
    refusals: list[Any] = [
        ConnectionTracker(max_connections=0).admit_pending_inbound("c", ConnectionLimits()),
        Ledger(ConcreteLimits(system=Limit(conns=0))).try_open_connection(),
        AddressGate(SubnetLimits(ipv4=((32, 0),))).try_enter("192.0.2.1", True),
        RateRefusal("protocol", "operation", lambda peer: 1.0, None),
        MemoryExcess(2, 1),
    ]
    for refusal in refusals:
        assert not refusal
        assert isinstance(refusal.to_error("connection", b"peer"), ResourceLimitExceeded)


def test_the_latest_denials_and_their_counts() -> None:
    log = DenialLog(size=3)
    assert log.last is None
    assert list(log) == []
    made: list[int] = []

    @dataclass
    class Refused:
        number: int

        def to_error(
            self, connection_id: Hashable = None, peer_id: Hashable = None
        ) -> ConnectionLimitExceeded:
            made.append(self.number)
            return ConnectionLimitExceeded(
                self.number, self.number, ConnectionLimitKind.CONNECTIONS, connection_id, peer_id)

    for number in range(5):
        log.add(Refused(number), f"c{number}", PEER, number % 2 == 0)
    log.add(Refused(4))
    assert made == []  # an error is built when it is read
    assert len(log) == 3
    assert (log.total, log.inbound, log.outbound) == (6, 3, 2)
    assert [entry.inbound for entry in log.entries()] == [False, True, None]
    assert all(0 <= entry.seconds_ago < 60 for entry in log.entries())
    assert log.entries()[0].error.connection_id == "c3"  # type: ignore[attr-defined]
    assert log.most_denied() == [(PEER, 5)]
    assert [error.limit for error in log] == [3, 4, 4]  # type: ignore[attr-defined]
    assert log.last.limit == 4  # type: ignore[union-attr]


def test_a_persistent_peer_stays_counted() -> None:
    """However many made-up peers are denied meanwhile."""
    log = DenialLog()
    refusal = ConnectionTracker(max_connections=0).admit_pending_inbound("c", ConnectionLimits())
    assert refusal is not None
    for number in range(10_000):
        log.add(refusal, None, b"made up %d" % number, True)
        if number % 10 == 0:
            log.add(refusal, None, PEER, True)
    assert log.most_denied(1) == [(PEER, 1000)]
    assert len(log.most_denied(10**6)) <= 1024
    assert log.total == 11_000


@pytest.mark.parametrize("size", [0, -1])
def test_a_wrong_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be 1 or more, not {size}"):
        DenialLog(size)
