"""The ring of decisions, and what each part of a node notes in it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rcmgr import (
    ConnectionLimits,
    NodeLimits,
    PeerRates,
    PenaltyBox,
    Rate,
    RateLimits,
    ResourceManager,
)
from rcmgr.counting.event_ring import EventRing, event_needs

NEEDS = event_needs()
CONN, STREAM, NAME, OTHER, VALUE, DETAIL = 1, 2, 4, 8, 16, 32
KINDS = (
    "", "begin", "establish", "report", "take_over", "acquire", "charge", "set_peer", "no_fd",
    "close", "stream", "protocol", "service", "close_stream", "take_stream", "give_stream",
    "forget", "forget_all", "conn_memory", "stream_memory", "memory", "give_conn_memory",
    "give_stream_memory", "give_memory", "process", "rate", "offence", "ban", "unban", "evict",
    "settings",
)
REFUSED, PEER, ADDRESS, KNOWN = 4, 8, 16, 32


def recorded(manager: ResourceManager, ring: EventRing) -> None:
    """Let the parts of a manager note their decisions, as a recording does."""
    manager.ledger._record_to(ring)
    manager.denials.ring = ring
    manager._bans.ring = ring
    if manager.penalties is not None:
        manager.penalties.ring = ring


def events(ring: EventRing) -> list[tuple[Any, ...]]:
    """The events that wait: the kind, then the number, name, other, value and code, if any."""
    while ring.drain():
        pass
    (kinds, flags, _, numbers, _, _, names, others, codes, values, details, *_) = (
        ring.take_columns())
    _, conn, stream = ring.begin
    newest, found = [conn, stream], []
    at = dict.fromkeys(("number", "name", "other", "code", "value", "detail"), 0)

    def take(column: bytes, name: str, width: int) -> int:
        begin = at[name] * width
        at[name] += 1
        return int.from_bytes(column[begin:begin + width], "little", signed=name == "value")

    for kind, flag in zip(kinds, flags, strict=True):
        needs, event = NEEDS[kind], [KINDS[kind]]
        if needs & (CONN | STREAM) and (flag & KNOWN or not flag & REFUSED):
            family = bool(needs & STREAM)
            far = take(numbers, "number", 4)
            number = newest[family] - far if flag & KNOWN else newest[family] + far
            if not flag & KNOWN:
                newest[family] = number
            event.append(number & 0xFFFFFFFF)
        if needs & NAME:
            event.append(ring.names[take(names, "name", 2)])
        if needs & OTHER:
            event.append(ring.names[take(others, "other", 2)])
        if needs & VALUE:
            event.append(take(values, "value", 8))
        if needs & DETAIL:
            event.append(take(details, "detail", 1))
        if flag & REFUSED:
            event.append(ring.names[take(codes, "code", 2)])
        found.append(tuple(event))
    return found


def test_a_manager_notes_each_decision_about_a_connection() -> None:
    manager, ring = ResourceManager(), EventRing()
    recorded(manager, ring)
    with manager.open_connection(None, "192.0.2.1", "inbound"):
        manager.open_connection(b"peer", "192.0.2.1", "inbound").close()
    manager.acquire_connection(b"peer", "192.0.2.1", "outbound")
    manager.release_connection(b"peer", "192.0.2.1", "outbound")
    assert events(ring) == [
        ("begin", 1), ("establish", 1), ("close", 1), ("acquire", 2), ("close", 2)]


def test_a_manager_notes_which_limit_refused() -> None:
    manager, ring = ResourceManager(connection_limits=ConnectionLimits(
        max_pending_inbound=1, max_established_per_peer=0)), EventRing()
    recorded(manager, ring)
    with manager.open_connection(None, "192.0.2.1", "inbound"):
        assert manager.open_connection(None, "192.0.2.2", "inbound") is None
        # the connection ends with the refusal; a number that was given in vain is skipped
        assert manager.open_connection(b"peer", "192.0.2.1", "inbound") is None
    assert events(ring) == [
        ("begin", 1), ("close", 2), ("begin", "connection.pending_inbound"),
        ("close", 1), ("establish", 1, "connection.established_per_peer")]


def test_a_manager_notes_streams_and_memory() -> None:
    manager, ring = ResourceManager(), EventRing()
    recorded(manager, ring)
    stream = manager.open_stream(b"peer", "inbound")
    assert stream is not None
    stream.set_protocol("/a")
    stream.set_service("s")
    stream.reserve_memory(10, 101)
    span = stream.begin_span()
    span.reserve_memory(5)
    span.close()
    stream.release_memory(3)
    stream.close()
    assert manager.acquire_stream(b"peer", "outbound")
    manager.release_stream(b"peer", "outbound")
    assert manager.acquire_memory(7)
    manager.release_memory(6)
    with manager.ledger.protocol_peer("/a", b"peer") as view:
        view.reserve_memory(2)
    manager.close()
    assert events(ring) == [
        ("stream", 1), ("protocol", 1, "/a"), ("service", 1, "s"),
        ("stream_memory", 1, 10, 101), ("stream_memory", 1, 5, 255), ("give_stream_memory", 1, 5),
        ("give_stream_memory", 1, 3), ("close_stream", 1), ("take_stream",), ("give_stream",),
        ("memory", "", "system", 7, 255), ("give_memory", "", "system", 6),
        ("memory", "/a", "protocol-peer", 2, 255), ("give_memory", "/a", "protocol-peer", 2),
        ("give_memory", "", "system", 1), ("forget_all",)]


def test_the_ledger_alone_notes_connections_too() -> None:
    manager, ring = ResourceManager(), EventRing()
    recorded(manager, ring)
    connection = manager.ledger.open_connection()
    connection.set_peer(b"peer")
    connection.reserve_memory(4)
    connection.release_memory(1)
    connection.close()
    assert events(ring) == [
        ("charge", 1), ("set_peer", 1), ("conn_memory", 1, 4, 255), ("give_conn_memory", 1, 1),
        ("close", 1)]


def test_rates_offences_and_bans_are_noted() -> None:
    manager, ring = ResourceManager(NodeLimits(
        penalties=PenaltyBox(threshold=4), peer_rates=PeerRates(Rate(1e-6, 1)))), EventRing()
    recorded(manager, ring)
    limiter = manager.add_protocol_rate_limiter("/a", RateLimits(default=Rate(1e-6, 1)))
    assert limiter.check_peer_rate_limit(b"peer", "get")
    assert not limiter.check_peer_rate_limit(b"peer", "get")
    manager.ban("192.0.2.0/24", 2)
    manager.unban("192.0.2.0/24")
    manager.penalties.handshake_failed("192.0.2.1")
    manager.penalties.handshake_failed("192.0.2.1")
    found = events(ring)
    assert found[:5] == [
        ("rate", "/a", "get"), ("rate", "/a", "get", "rate.protocol"),
        ("ban", 2_000_000_000, 24), ("unban", 24), ("offence", 0, "HANDSHAKE")]
    assert [each[0] for each in found[5:]] == ["offence", "ban"]


def test_events_have_the_time_of_the_clock() -> None:
    now = [5_000_000]
    ring = EventRing(clock=lambda: now[0])
    ring.note_settings(0)
    now[0] += 3_000_000
    ring.note_settings(1)
    ring.drain()
    assert ring.begin == (5_000_000, 0, 0)
    assert ring.take_columns()[2] == (0).to_bytes(4, "little") + (3000).to_bytes(4, "little")


def test_columns_begin_after_the_newest_connection_and_stream() -> None:
    manager, ring = ResourceManager(), EventRing(clock=lambda: 7)
    recorded(manager, ring)
    for _ in range(3):
        manager.open_connection(b"peer", "192.0.2.1", "inbound")
    stream = manager.open_stream(b"peer", "inbound")
    assert (ring.drain(), ring.events, ring.drain()) == (4 + 3, 4 + 3, 0)
    ring.take_columns()
    assert ring.events == 0
    assert stream is not None
    stream.close()
    ring.drain()
    assert (ring.events, ring.begin) == (1, (7, 3, 1))


def test_each_file_has_its_peers_and_addresses() -> None:
    ring = EventRing()
    found = []
    for begins_file in (False, False, True):
        if begins_file:
            ring.begin_file()
        ring.note_offence("HANDSHAKE", b"peer", "192.0.2.1")
        ring.drain()
        columns = ring.take_columns()
        found.append(columns[11:13])
    assert found == [
        [ring.hash_of_peer(b"peer"), b"\4" + ring.hash_of_ip(b"\xc0\0\2\1")], [b"", b""], found[0]]


def test_a_full_ring_drops_and_counts() -> None:
    ring = EventRing(4)
    for number in range(10):
        ring.note_settings(number)
    assert ring.dropped == 6
    assert events(ring) == [("settings", number) for number in range(4)]


@pytest.mark.parametrize("size", [0, 1, 3, -4])
def test_the_size_is_a_power_of_two(size: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        EventRing(size)


def test_the_smallest_ring_has_two_events() -> None:
    ring = EventRing(2)
    for number in range(3):
        ring.note_settings(number)
    assert events(ring) == [("settings", 0), ("settings", 1)]


def test_peers_and_addresses_are_hashed_by_a_random_key() -> None:
    first, second = EventRing(), EventRing()
    for ring in (first, second):
        ring.note_rate("/a", "get", b"peer", "192.0.2.1", None)
        ring.drain()
    columns = first.take_columns()
    assert columns[11] == first.hash_of_peer(b"peer") != second.hash_of_peer(b"peer")
    assert columns[12] == b"\4" + first.hash_of_ip(b"\xc0\0\2\1")
    assert second.take_columns()[12] not in (columns[12], b"\4\xc0\0\2\1")


def test_identities_are_kept_on_demand() -> None:
    ring = EventRing(identities=True)
    ring.note_rate("/a", "get", b"peer", "/ip4/192.0.2.1/tcp/1", None)
    ring.drain()
    columns = ring.take_columns()
    assert ring.identities_of(columns[13]) == [b"peer"]
    assert columns[12] == b"\4\xc0\0\2\1"
    assert (ring.hash_of_peer(b"peer"), ring.hash_of_ip(b"\1\2\3\4")) == (b"peer", b"\1\2\3\4")


def test_without_identities_the_ring_keeps_no_peer() -> None:
    hashed = hash(b"peer").to_bytes(8, "little", signed=True)
    for identities, kept in ((False, [b""]), (True, [b"peer"])):
        ring = EventRing(identities=identities)
        ring.note_offence("HANDSHAKE", b"peer", None)
        assert ring.identities_of(hashed) == kept


def test_identities_are_known_in_two_batches() -> None:
    hashed = hash(b"peer").to_bytes(8, "little", signed=True)
    ring = EventRing(identities=True)
    ring.note_offence("HANDSHAKE", b"peer", None)
    assert [ring.identities_of(each) for each in (b"", hashed, hashed)] == [[], [b"peer"], [b""]]


def test_hashes_of_addresses_have_their_length() -> None:
    ring = EventRing()
    for size in (4, 16):
        assert len(ring.hash_of_ip(bytes(size))) == size
        assert ring.hash_of_ip(bytes(size)) != bytes(size)
    for size in (0, 5, 17):
        with pytest.raises(ValueError, match=f"an IP address has 4 or 16 bytes, not {size}"):
            ring.hash_of_ip(bytes(size))


def test_an_address_may_be_an_object() -> None:
    class Multiaddr:
        def __str__(self) -> str:
            return "/ip4/192.0.2.1/tcp/1"

    ring = EventRing(identities=True)
    ring.note_offence("HANDSHAKE", b"peer", Multiaddr())
    ring.drain()
    assert ring.take_columns()[12] == b"\4\xc0\0\2\1"


def test_identities_are_bounded() -> None:
    ring = EventRing(1 << 17, identities=True)
    peers = [b"%d" % number for number in range((1 << 17) + 2)]
    for peer in peers:
        ring.note_offence("HANDSHAKE", peer, None)
    found = ring.identities_of(b"".join(
        hash(peer).to_bytes(8, "little", signed=True) for peer in peers))
    assert found == [*peers[:-2], b"", b""]


def test_names_are_bounded() -> None:
    ring = EventRing(1 << 13)
    for number in range(5000):
        ring.note_rate(f"/{number}", "get", None, None, None)
    assert len(ring.names) == 4096
    assert events(ring)[-1] == ("rate", "", "get")


def test_threads_note_side_by_side() -> None:
    ring = EventRing(1 << 13)

    def note() -> None:
        for number in range(1000):
            ring.note_rate(f"/{number}", "get", b"peer", None, None)

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = events(ring)
    assert ring.dropped == 0
    assert sorted(found) == sorted([("rate", f"/{number}", "get") for number in range(1000)] * 4)
