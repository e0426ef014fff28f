"""The log of denials: what it keeps, what it counts, and what an entry shows."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from threads import in_threads, rounds

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
from rcmgr.admission.room import Evicted
from rcmgr.counting.denials import DenialLog
from rcmgr.gates.bans import BanRefusal
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
    turns = rounds(5000)

    class Peer:
        """Runs Python code where it is looked for, as py-libp2p's ids do."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __hash__(self) -> int:
            return sum([hash(self.name)])

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Peer) and self.name == other.name

    def work(_: int) -> None:
        for number in range(turns):
            log.add(refusal, None, b"a", number % 2 == 0)
            log.add(refusal, None, Peer("b"), None)
            len(log.entries())

    in_threads(work, 4)
    assert (log.total, log.inbound, log.outbound) == (8 * turns, 2 * turns, 2 * turns)
    counts = dict(log.most_denied())
    assert counts[b"a"] == 4 * turns


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
    assert log.entries()[0].error.connection_id == "c3"  # type: ignore[attr-defined]
    assert log.most_denied() == [(PEER, 5)]
    assert [error.limit for error in log] == [3, 4, 4]  # type: ignore[attr-defined]
    assert log.last.limit == 4  # type: ignore[union-attr]


def test_a_persistent_peer_stays_counted() -> None:
    """A flood of made-up peers does not push it out."""
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


@dataclass(frozen=True)
class Named:
    """A refusal by a limit of this name."""

    code: str | None

    def to_error(self, connection_id: object, peer_id: object) -> ResourceLimitExceeded:
        return ResourceLimitExceeded(str(self.code))


def test_denials_are_counted_by_limit() -> None:
    log = DenialLog()
    assert log.by_code() == {}
    for code, times in (("a", 2), ("b", 3), (None, 1), ("a", 2)):
        for _ in range(times):
            log.add(Named(code))
    assert list(log.by_code().items()) == [("a", 4), ("b", 3)]
    for number in range(1000):
        log.add(Named(f"made up {number}"))
    assert len(log.by_code()) <= 256
    assert list(log.by_code().items())[:2] == [("a", 4), ("b", 3)]


@pytest.mark.parametrize("size", [0, -1])
def test_a_wrong_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be 1 or more, not {size}"):
        DenialLog(size)


def ledger_of(scope: str, field: str) -> Ledger:
    """The limit of this field in this scope is 0."""
    limits: dict[str, Any] = {scope: Limit(**{field: 0})}
    return Ledger(ConcreteLimits(**limits))


REFUSALS: list[tuple[str, Any]] = [
    ("state", ConnectionTracker(max_connections=0).admit_pending_inbound("c", ConnectionLimits())),
    *(
        (f"{scope} {field}", ledger_of(scope, field).try_open_connection(peer=PEER))
        for scope in ("system", "peer_default", "conn")
        for field in ("conns", "conns_inbound", "fd")
    ),
    ("memory", Ledger(ConcreteLimits(system=Limit(memory=0))).system().try_reserve_memory(1)),
    *(
        (f"{scope} {field}", ledger_of(scope, field).try_open_stream(PEER, True))
        for scope in ("system", "peer_default", "stream", "transient")
        for field in ("streams", "streams_inbound")
    ),
    ("network", AddressGate(SubnetLimits(ipv4=((32, 0),))).try_enter("192.0.2.1", True)),
    ("peer rate", RateRefusal("connections", "connection", lambda peer: 1.0, None)),
    ("rate", RateRefusal("protocol", "operation", lambda peer: 1.0, None)),
    ("process", MemoryExcess(2, 1)),
    ("ban", BanRefusal("192.0.2.0/24", "by hand", 9.0, None)),
    ("eviction", Evicted("established_inbound")),
]


@pytest.mark.parametrize(("name", "refusal"), REFUSALS, ids=[name for name, _ in REFUSALS])
def test_a_refusal_has_the_code_of_its_error(name: str, refusal: Any) -> None:
    assert not refusal
    assert refusal.code == refusal.to_error().code


@pytest.mark.parametrize(("name", "refusal"), REFUSALS, ids=[name for name, _ in REFUSALS])
def test_a_denial_tells_all_that_is_known(name: str, refusal: Any) -> None:
    log = DenialLog()
    log.add(refusal, "connection 7", PEER, True, "192.0.2.1")
    error: Any = log.last
    assert (error.connection_id, error.peer_id, error.address) == (
        "connection 7", PEER, "192.0.2.1")
    assert str(error) == error.explanation
    assert error.setting in str(error)
    for part in ("connection 7", "192.0.2.1", error.peer):
        assert part in str(error)
        assert part in error.to_dict().values() or part == error.to_dict()["peer_id"]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    log.add(refusal)
    assert log.last.setting in str(log.last)  # type: ignore[union-attr]


@pytest.mark.parametrize("address", [
    "192.0.2.1", "2001:db8::1", "/ip4/192.0.2.1/tcp/4001", "/dns4/example.com/tcp/1",
])
def test_the_address_of_each_denial_of_a_connection(address: str) -> None:
    nothing = ConnectionLimits(0, 0, 0, 0, 0, 0)
    manager = ResourceManager(connection_limits=nothing)
    for peer in (None, PEER):
        for direction in ("inbound", "outbound"):
            assert manager.open_connection(peer, address, direction) is None
            assert manager.last_denial.address == address  # type: ignore[union-attr]
            assert address in str(manager.last_denial)
            assert manager.denials.entries()[-1].error.address == address
    assert "Addresses denied most:\n  4 times" in manager.explain()


@pytest.mark.parametrize(("address", "counted"), [
    ("192.0.2.1", "192.0.2.1"), ("/ip4/192.0.2.1/tcp/1", "192.0.2.1"),
    ("192.0.2.1:4001", "192.0.2.1"), ("[2001:db8::7]:4001", "2001:db8::/64"), ("[::1]:80", "::1"),
    ("0.0.0.0:80", None),
    ("2001:db8:0:0:1::7", "2001:db8::/64"), ("/ip6/2001:db8::7/udp/1/quic-v1", "2001:db8::/64"),
    ("::1", "::1"), ("::ffff:192.0.2.1", "::ffff:192.0.2.1"), ("fe80::1%eth0", "fe80::/64"),
    ("0.0.0.0", None), ("::", None), ("/", "/"), ("/ip4", "/ip4"), ("", ""), ("no", "no"),
    ("/ip4/192.0.2.1/p2p-circuit", "/ip4/192.0.2.1/p2p-circuit"), ("x" * 500, "x" * 80),
])
def test_how_an_address_is_counted(address: str, counted: str | None) -> None:
    log = DenialLog()
    log.add(REFUSALS[0][1], address=address)
    assert [name[:80] for name, _ in log.most_denied_addresses()] == [
        name for name in [counted] if name is not None]
    error: Any = log.last
    assert (error.address is None) == (counted is None)
    assert len(error.address or "") <= 160
