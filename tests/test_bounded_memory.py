"""Strangers choose ids, names and addresses of any size. The node keeps only short ones."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from rcmgr.counting.bucket_table import BucketTable
from rcmgr.counting.denials import DenialLog
from rcmgr.counting.groups import Refusal
from rcmgr.counting.scope import Ledger
from rcmgr.events.kinds import Endpoint
from rcmgr.events.observers import Observers
from rcmgr.gates.addresses import Allowlist, endpoint_of
from rcmgr.gates.networks import AddressGate
from rcmgr.gates.requests import ProtocolRateLimiter, RateLimiter
from rcmgr.libp2p.observe.connection_report import ConnectionReport, Reporter
from rcmgr.limits.networks import AddressRates, SubnetLimits
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.rates import PeerRates, Rate, RateLimits
from rcmgr.limits.states import ConnectionLimits
from rcmgr.manager import ResourceManager
from rcmgr.peers import bounded_name, bounded_peer, peer_key, peer_text

TIMES, SIZE = 100, 256 * 1024
MOST_KEPT = 1_500_000
ONCE = RateLimits(default=Rate(0.001, 1))


class ID:
    """As py-libp2p's: its bytes are in `_bytes`."""

    def __init__(self, value: bytes) -> None:
        self._bytes = value


def long_bytes(number: int) -> bytes:
    return b"\x00\x24" + number.to_bytes(4, "big") + bytes(SIZE)


def long_text(number: int) -> str:
    return f"{number:08}" + "x" * SIZE


def refusing() -> ResourceManager:
    return ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_established_inbound=0), subnets=SubnetLimits(),
        rates=AddressRates(), peer_rates=PeerRates(Rate(0.001, 1))))


def reporter() -> Reporter:
    return Reporter(None, Observers())


def by_peer(peer_of: Callable[[int], Any]) -> dict[str, Callable[[], Callable[[int], Any]]]:
    """Calls that get a peer. The test keeps their results, as a host does."""
    def connect() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager.open_connection(peer_of(number), None, "inbound")

    def deny() -> Callable[[int], Any]:
        manager = refusing()
        return lambda number: (
            manager.open_connection(peer_of(number), None, "inbound"), manager)[0]

    def pend() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager._admission.report_pending(number, peer_of(number), False)

    def establish() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager._admission.report_established(
            number, peer_of(number), True)

    def acquire() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager.acquire_connection(peer_of(number)) and manager

    def stream() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager.open_stream(peer_of(number), "inbound")

    def count_stream() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager.acquire_stream(peer_of(number), "inbound") and manager

    def view() -> Callable[[int], Any]:
        ledger = Ledger()
        return lambda number: (
            ledger.peer(peer_of(number)), ledger.protocol_peer("/a", peer_of(number)))

    def limit() -> Callable[[int], Any]:
        limiter = ProtocolRateLimiter("/a", ONCE, denials=DenialLog())
        return lambda number: [
            limiter.check_peer_rate_limit(peer_of(number)) for _ in range(2)] and limiter

    def bucket() -> Callable[[int], Any]:
        table = BucketTable(1, 0.001)
        return lambda number: table.try_consume(peer_of(number)) and table

    def log() -> Callable[[int], Any]:
        denials, refusal = DenialLog(), a_refusal()
        return lambda number: denials.add(
            refusal, long_text(number), peer_of(number), True, long_text(number)) or denials

    def report() -> Callable[[int], Any]:
        made = reporter()
        return lambda number: ConnectionReport(
            made, Endpoint.DIALER, peer_of(number), dialled=f"/dns4/{long_text(number)}/tcp/1")

    return {each.__name__: each for each in (
        connect, deny, pend, establish, acquire, stream, count_stream, view, limit, bucket, log,
        report)}


def a_refusal() -> Refusal:
    refusal = ResourceManager().ledger.system().try_reserve_memory(2**62)
    assert isinstance(refusal, Refusal)
    return refusal


def by_text() -> dict[str, Callable[[], Callable[[int], Any]]]:
    """Calls that get a name or an address."""
    def protocol() -> Callable[[int], Any]:
        manager = ResourceManager()

        def hold(number: int) -> Any:
            stream = manager.ledger.open_stream(b"peer")
            stream.set_protocol(long_text(number))
            stream.set_service(long_text(number))
            return stream, manager.ledger.service(long_text(number))

        return hold

    def deny_protocol() -> Callable[[int], Any]:
        manager = ResourceManager()
        manager.set_protocol_stream_limit(long_text(0), 0)

        def deny(number: int) -> Any:
            assert not manager.acquire_scoped_stream(b"peer", "inbound", protocol=long_text(0))
            return manager

        return deny

    def scoped() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager.acquire_scoped_stream(
            b"peer", "inbound", long_text(number), long_text(number)) and manager

    def endpoints() -> Callable[[int], Any]:
        def ask(number: int) -> Any:
            for text in addresses(number):
                endpoint_of(text)

        return ask

    def gate() -> Callable[[int], Any]:
        entrance = AddressGate(SubnetLimits(), AddressRates(), Allowlist(["10.0.0.0/8"]))
        log = DenialLog()

        def enter(number: int) -> Any:
            for text in addresses(number):
                refused = entrance.try_enter(text, True)
                if not refused:
                    log.add(refused)
                entrance.verify_source_address(text)
                entrance.allowlist.allows_at(b"peer", text)
            return log

        return enter

    def connect() -> Callable[[int], Any]:
        manager = refusing()

        def ask(number: int) -> Any:
            for text in addresses(number):
                manager.open_connection(None, text, "inbound")
            return manager

        return ask

    def banned() -> Callable[[int], Any]:
        manager = ResourceManager()
        manager.ban("/ip4/1.2.3.4")
        manager.ban(ID(b"\x12\x20" + bytes(32)))

        def ask(number: int) -> Any:
            for text in addresses(number):
                for peer in (None, b"\x12\x20" + bytes(32)):
                    manager.open_connection(peer, text, "inbound")
            assert manager.denials.total > number
            return manager

        return ask

    def acquire() -> Callable[[int], Any]:
        manager = ResourceManager()
        return lambda number: manager.acquire_connection("", long_text(number)) and manager

    def resources() -> Callable[[int], Any]:
        limiter = RateLimiter(ONCE)
        return lambda number: limiter.check_rate_limit(long_text(number)) and limiter

    def operations() -> Callable[[int], Any]:
        limiter = ProtocolRateLimiter("/a", ONCE, denials=DenialLog())
        return lambda number: [
            limiter.check_peer_rate_limit(b"peer", long_text(number))] and limiter

    return {each.__name__: each for each in (
        protocol, deny_protocol, scoped, endpoints, gate, connect, banned, acquire, resources,
        operations)}


def addresses(number: int) -> list[str]:
    text = long_text(number)
    in_multiaddrs = [f"/dns4/{text}", f"/ip4/1.2.3.4/tcp/1/p2p/{text}"]
    return [text, *in_multiaddrs, f"1.2.3.4:{text}", f"::1%{text}"]


PEERS = {"bytes": long_bytes, "ID": lambda number: ID(long_bytes(number)), "text": long_text}
CALLS = {
    **{f"{name} by {kind}": make
       for kind, peer_of in PEERS.items() for name, make in by_peer(peer_of).items()},
    **{f"{name}, long text": make for name, make in by_text().items()},
}


@pytest.mark.parametrize("make", CALLS.values(), ids=list(CALLS))
def test_long_ids_and_names_are_not_kept(make: Callable[[], Callable[[int], Any]]) -> None:
    call = make()
    kept = [call(0)]  # the first call imports modules and fills caches
    tracemalloc.start()
    try:
        kept += [call(number) for number in range(1, TIMES)]
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < MOST_KEPT


def test_reports_of_long_ids_are_short() -> None:
    manager = refusing()
    kept: list[Any] = []
    for number in range(20):
        peer = long_bytes(number)
        manager.open_connection(peer, None, "inbound")
        kept.append(manager.open_stream(peer, "inbound"))
        kept[-1].set_protocol(long_text(number))
        manager.acquire_stream(peer, "inbound")
    texts = [
        json.dumps(manager.ledger.snapshot()), json.dumps(manager.get_stats()), manager.explain(),
        *(str(error) + json.dumps(error.to_dict()) for error in manager.denials),
        str(manager.denials.most_denied()), str(manager.ledger.fullest()), *map(repr, kept),
        str(manager.ledger.peers()), str(manager.ledger.protocols()),
    ]
    assert len(manager.denials) == 20
    assert max(map(len, texts)) < 60_000


def test_keys_of_long_ids() -> None:
    for short in (b"", bytes(64), "x" * 256):
        assert peer_key(short) is bounded_peer(short) is short
    long = bytes(65)
    key = peer_key(long)
    assert key == peer_key(ID(long)) == bounded_peer(long) == bounded_peer(ID(long))
    short = ID(bytes(64))
    assert bounded_peer(short) is short
    assert len(key) == 33
    assert key == peer_key(key)
    assert len({peer_key(bytes(size)) for size in range(1000)}) == 1000
    assert len(peer_text(key)) < 50
    assert bounded_name("x" * 256) == "x" * 256
    name = bounded_name("x" * 257)
    assert (len(name), name[:129]) == (163, "x" * 128 + ".")
    assert name == peer_key("x" * 257) == bounded_name(name) != bounded_name("x" * 258)
    assert bounded_name("\ud800" * 300) == bounded_name("\ud800" * 300)


def test_a_long_id_is_one_peer_everywhere() -> None:
    long, manager = long_bytes(1), ResourceManager()
    opened = manager.open_connection(long, None, "inbound")
    assert opened is not None
    assert manager.connection_tracker.get_peer_connection_count(ID(long)) == 1
    assert manager.ledger.peers() == [peer_key(long)]
    manager.add_allowed_peer(ID(long))
    assert manager.is_allowed_peer(long)
    assert manager.acquire_stream(ID(long), "inbound")
    manager.release_stream(long, "inbound")
    opened.close()
    assert manager.connection_tracker.get_peer_connection_count(long) == 0
    assert manager.acquire_scoped_stream(long, "inbound", "s" * 999, "p" * 999)
    manager.release_scoped_stream(ID(long), "inbound", "s" * 999, "p" * 999)
    assert manager.ledger.over_released == 0
    assert sum(manager.ledger.system().stat()) == 0
