"""The ledger and its handles, one behaviour at a time. See test_scope_model.py for all at once."""

from __future__ import annotations

import gc
import logging
import random
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from model_scopes import PEER, PEER_TEXT, PeerId, limit, limits, nothing_held
from threads import in_threads, rounds

import rcmgr.counting.scope
from rcmgr.counting.groups import Refusal
from rcmgr.counting.reading import ScopeStat
from rcmgr.counting.scope import (
    ConnScope,
    Ledger,
    Priority,
    Scope,
    ScopeView,
    Span,
    StreamScope,
)
from rcmgr.errors import ResourceScopeClosed
from rcmgr.limits.scopes import ConcreteLimits
from rcmgr.peers import peer_text

# -- peers and names ----------------------------------------------------------------------------


CID_TEXT = "bafzbeiaaaebagbafaydqqcikbmga2dqpcaireeyuculbogazdinryhi6d4"

def test_an_id_and_its_bytes_are_one_peer() -> None:
    ledger = Ledger()
    held = [ledger.open_stream(PeerId(PEER)), ledger.open_stream(PEER)]
    assert ledger.acquire_stream(PeerId(PEER), True) is True
    assert ledger.peers() == [PEER]
    assert ledger.peer(PEER).stat().streams_inbound == 3
    assert [stream.peer for stream in held] == [PEER, PEER]


def test_a_peer_and_its_texts_are_one_peer() -> None:
    ledger = Ledger(limits(peer={CID_TEXT: limit(streams=2, conns=2)}))
    names: list[Any] = [PEER, PeerId(PEER), PEER_TEXT, CID_TEXT]
    stream = ledger.open_stream(PEER_TEXT)
    stream.set_protocol("/x")
    assert stream.peer == PEER
    assert ledger.acquire_stream(CID_TEXT, True) is True
    connection = ledger.open_connection(allowlisted=True)
    connection.set_peer(PEER_TEXT)
    kept = ledger.open_connection(peer=CID_TEXT)
    for name in names:
        assert not ledger.try_open_stream(name)
        assert not ledger.acquire_stream(name, True)
        assert not ledger.open_connection().try_set_peer(name)
        assert not ledger.try_open_connection(peer=name)
        assert ledger.has_allowlisted_connection(name)
        with ledger.peer(name) as view, ledger.protocol_peer("/x", name) as share:
            assert view.stat().streams_inbound == 2
            assert share.stat().streams_inbound == 1
            assert view.limit["streams"] == 2
    assert ledger.peers() == [PEER]
    snapshot = ledger.snapshot()
    assert list(snapshot["peers"]) == list(snapshot["protocols"]["/x"]["peers"]) == [PEER_TEXT]
    assert ledger.release_stream(PEER_TEXT, True)
    del connection, kept


def test_a_limit_given_to_a_text_is_the_peers() -> None:
    ledger = Ledger()
    with ledger.peer(PEER_TEXT) as view:
        view.set_limit(limit(streams=0))
    assert not ledger.try_open_stream(PeerId(PEER))
    with ledger.peer(PEER) as view:
        view.set_limit(None)
    assert ledger.try_open_stream(PEER)


def test_two_limits_of_one_peer_are_an_error() -> None:
    ledger = Ledger(limits(peer={PEER: limit(streams=1)}))
    for first, second in ((PEER, PEER_TEXT), (CID_TEXT, PeerId(PEER))):
        with pytest.raises(ValueError, match="has two limits"):
            ledger.set_limits(limits(peer={first: limit(), second: limit()}))
    assert ledger.peer(PEER).limit["streams"] == 1


def test_text_that_is_no_peer_id_is_a_peer_of_its_own() -> None:
    ledger = Ledger(limits(peer={"friend": limit(streams=1)}))
    stream = ledger.open_stream("friend")
    assert not ledger.try_open_stream("friend")
    assert ledger.try_open_stream(b"friend")
    assert ledger.peers() == ["friend"]
    assert (stream.peer, list(ledger.snapshot()["peers"])) == ("friend", ["friend"])


@pytest.mark.parametrize("peer", [None, 1.5, ("a", "b"), object(), bytearray(b"x")])
def test_other_types_are_no_peers(peer: Any) -> None:
    ledger = Ledger()
    conn = ledger.open_connection()
    for call in (
        lambda: ledger.open_stream(peer), lambda: conn.set_peer(peer), lambda: ledger.peer(peer),
        lambda: ledger.acquire_stream(peer, True), lambda: ledger.release_stream(peer, True),
    ):
        with pytest.raises(TypeError, match="a peer must be"):
            call()


def test_directions_and_names_are_not_guessed() -> None:
    ledger = Ledger()
    stream = ledger.open_stream(PEER)
    wrong: list[Callable[[], object]] = [
        lambda: ledger.open_connection("outbound"),  # type: ignore[arg-type]
        lambda: ledger.open_stream(PEER, "outbound"),  # type: ignore[arg-type]
        lambda: ledger.acquire_stream(PEER, 1),  # type: ignore[arg-type]
        lambda: stream.set_protocol(b"/x"),  # type: ignore[arg-type]
        lambda: ledger.service(None),  # type: ignore[arg-type]
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()

    class Name(str):
        def __hash__(self) -> int:
            raise AssertionError("a name's own hash must not run in the ledger")

    stream.set_protocol(Name("/x"))
    assert type(stream.protocol) is str


# -- life cycles -------------------------------------------------------------------------------


def test_attaching_twice_or_too_early() -> None:
    ledger = Ledger()
    conn, stream = ledger.open_connection(), ledger.open_stream(PEER)
    with pytest.raises(RuntimeError, match="stream scope not attached to a protocol"):
        stream.set_service("s")
    conn.set_peer(PEER)
    stream.set_protocol("/x")
    stream.set_service("s")
    for call, words in (
        (lambda: conn.set_peer(b"other"), "connection scope already attached to a peer"),
        (lambda: stream.set_protocol("/y"), "stream scope already attached to a protocol"),
        (lambda: stream.set_service("t"), "stream scope already attached to a service"),
    ):
        with pytest.raises(RuntimeError, match=words):
            call()
    assert (conn.peer, stream.protocol, stream.service) == (PEER, "/x", "s")
    assert ledger.peers() == [PEER]
    assert ledger.protocols() == ["/x"]


def test_a_closed_scope_refuses_and_ignores() -> None:
    ledger = Ledger()
    conn, stream = ledger.open_connection(), ledger.open_stream(PEER)
    view, span = ledger.system(), conn.begin_span()
    for scope in (conn, stream, view, span):
        scope.close()
        scope.close()
        scope.release_memory(10)
        assert scope.closed
        assert scope is view or not any(scope.stat())
        for call in (scope.begin_span, lambda s=scope: s.reserve_memory(1)):  # type: ignore[misc]
            with pytest.raises(ResourceScopeClosed):
                call()
    with pytest.raises(ResourceScopeClosed, match="conn-1"):
        conn.set_peer(PEER)
    with pytest.raises(ResourceScopeClosed, match="stream-1"):
        stream.set_protocol("/x")
    with pytest.raises(ResourceScopeClosed, match="system"):
        view.set_limit(limit())
    assert nothing_held(ledger)
    assert ledger.over_released == ledger.leaked == 0


def test_leaving_a_context_closes() -> None:
    ledger = Ledger()
    with ledger.open_connection() as conn, conn.begin_span() as span:
        span.reserve_memory(5)
        assert ledger.system().stat().memory == 5
    assert conn.closed
    assert nothing_held(ledger)
    with pytest.raises(ZeroDivisionError), ledger.open_stream(PEER):
        raise ZeroDivisionError
    assert nothing_held(ledger)


def test_an_allowlisted_connection_whose_peer_is_not() -> None:
    ledger = Ledger()
    conn = ledger.open_connection(allowlisted=True)
    conn.reserve_memory(7)
    assert ledger.allowlisted_transient().stat().conns_inbound == 1
    conn.set_peer(PEER, allowlisted=False)
    assert not conn.allowlisted
    assert not any(ledger.allowlisted_system().stat())
    assert ledger.system().stat() == ledger.peer(PEER).stat() == conn.stat()


def test_a_connection_whose_peer_turns_out_to_be_allowlisted() -> None:
    ledger = Ledger(limits(allowlisted_system=limit(conns=1)))
    conn = ledger.open_connection()
    conn.reserve_memory(7)
    conn.set_peer(PEER, allowlisted=True)
    assert conn.allowlisted
    assert not any(ledger.system().stat())
    assert ledger.allowlisted_system().stat() == ledger.peer(PEER).stat() == conn.stat()
    second = ledger.open_connection()
    refusal = second.try_set_peer(PEER, allowlisted=True)
    assert refusal.scope == "allowlistedSystem"
    assert not second.allowlisted
    assert ledger.transient().stat() == ledger.system().stat() == second.stat()


def test_a_connection_of_a_known_peer_is_never_transient() -> None:
    ledger = Ledger(limits(transient=limit(conns=0), peer_default=limit(conns=1)))
    conn = ledger.open_connection(peer=PEER)
    assert conn.peer == PEER
    assert ledger.try_open_connection(peer=PEER).scope.startswith("peer:")
    conn.close()
    assert ledger.peers() == []


def test_allowlisted_peers_get_in_when_the_system_is_full() -> None:
    ledger = Ledger(limits(system=limit(conns=1, streams=0)))
    first = ledger.open_connection()
    assert not ledger.try_open_connection()
    second = ledger.open_connection(allowlisted=True)
    second.set_peer(PEER, allowlisted=True)
    assert not ledger.try_open_stream(PEER)
    assert ledger.try_open_stream(PEER, allowlisted=True)
    del first


def test_idle_groups_vanish_and_limits_set_stay() -> None:
    ledger = Ledger()
    view = ledger.peer(PEER)
    view.set_limit(limit(conns=1))
    view.reserve_memory(1)
    assert ledger.peers() == [PEER]
    view.close()
    assert ledger.peers() == []
    first, second = ledger.open_connection(), ledger.open_connection()
    first.set_peer(PEER)
    assert not second.try_set_peer(PEER)
    with ledger.peer(PEER) as view:
        assert view.limit["conns"] == 1
        view.set_limit(None)
        assert view.limit["conns"] is None
    assert second.try_set_peer(PEER)


def test_a_peers_shares_vanish_with_its_last_stream() -> None:
    ledger = Ledger()
    with ledger.open_stream(PEER) as stream, ledger.open_stream(b"other") as other:
        for each in (stream, other):
            each.set_protocol("/x")
            each.set_service("s")
        stream.close()
        snapshot = ledger.snapshot()
        for kind, name in (("protocols", "/x"), ("services", "s")):
            assert list(snapshot[kind][name]["peers"]) == [peer_text(b"other")]
    snapshot = ledger.snapshot()
    assert snapshot["protocols"] == {}
    assert snapshot["services"]["s"]["peers"] == {}


def test_set_limits_reaches_members_and_fixed_scopes() -> None:
    ledger = Ledger()
    stream = ledger.open_stream(PEER)
    stream.set_protocol("/x")
    stream.set_service("s")
    for changed in (
        {"protocol_peer_default": limit(memory=1)}, {"service_peer": {"s": limit(memory=1)}},
        {"protocol": {"/x": limit(memory=1)}}, {"system": limit(memory=1)},
    ):
        ledger.set_limits(limits(**changed))
        assert not stream.try_reserve_memory(2)
        ledger.set_limits(limits())
        assert stream.try_reserve_memory(2)


def test_set_limits_reaches_what_is_open_and_fails_whole() -> None:
    ledger = Ledger()
    conn = ledger.open_connection()
    conn.set_peer(PEER)
    ledger.set_limits(limits(conn=limit(memory=5), peer={PEER: limit(memory=3)}))
    assert conn.try_reserve_memory(3)
    assert conn.try_reserve_memory(1).scope == f"peer:{PEER_TEXT}"  # type: ignore[union-attr]
    before = ledger.snapshot()
    for bad in (
        limits(stream=limit(memory=-1)),
        limits(peer={1.5: limit()}),
        limits(protocol={"/x": limit(conns="many")}),
        SimpleNamespace(),
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            ledger.set_limits(bad)
        assert ledger.snapshot() == before
    conn.release_memory(3)
    ledger.set_limits(limits())
    assert conn.try_reserve_memory(2**62)


def test_the_fixed_scopes_have_no_default_to_go_back_to() -> None:
    with pytest.raises(TypeError, match="system"):
        Ledger().system().set_limit(None)


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priority", "most"),
    [(Priority.LOW, 102), (Priority.MEDIUM, 153), (Priority.HIGH, 204), (255, 256)],
)
def test_priorities(priority: int, most: int) -> None:
    ledger = Ledger(limits(system=limit(memory=256)))
    conn = ledger.open_connection()
    assert not conn.try_reserve_memory(most + 1, priority)
    assert conn.try_reserve_memory(most, priority)
    assert not conn.try_reserve_memory(1, priority)


def test_memory_arguments() -> None:
    conn = Ledger().open_connection()
    with pytest.raises(ValueError, match=r"can't reserve negative memory. rsvp=-1"):
        conn.reserve_memory(-1)
    with pytest.raises(ValueError, match="priority"):
        conn.reserve_memory(1, 256)
    with pytest.raises(ValueError, match="negative"):
        conn.release_memory(-1)
    with pytest.raises(OverflowError):
        conn.reserve_memory(2**63)
    conn.reserve_memory(2**63 - 1)
    assert not conn.try_reserve_memory(1)  # 64 bits are full


def test_the_count_of_over_releases_stays_at_its_most() -> None:
    ledger = Ledger(debug=False)
    connection = ledger.open_connection()
    for _ in range(3):
        connection.release_memory(2**63 - 1)
    assert ledger.over_released == 2**63 - 1


def test_an_over_release_takes_from_nobody(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(debug=False)
    first, second = ledger.open_connection(), ledger.open_connection()
    first.reserve_memory(10)
    second.reserve_memory(10)
    span = second.begin_span()
    span.reserve_memory(5)
    with caplog.at_level(logging.WARNING, logger="rcmgr.counting.scope"):
        first.release_memory(30)
        second.release_memory(15)  # 5 of them are the span's
        assert not ledger.release_stream(PEER, True)
    assert ledger.over_released == 26
    assert ledger.system().stat().memory == 5
    assert len(caplog.records) == 1
    assert "conn-1 gave back 20 bytes more than it held" in caplog.text


def test_what_a_span_gave_back_is_its_owners_again() -> None:
    ledger = Ledger(debug=True)
    conn = ledger.open_connection()
    span = conn.begin_span()
    inner = span.begin_span()
    for scope in (conn, span, inner):
        scope.reserve_memory(10)
    inner.release_memory(4)
    inner.close()
    span.release_memory(10)
    conn.release_memory(10)
    assert conn.stat().memory == 0
    with pytest.raises(ValueError, match="1 bytes more"):
        span.release_memory(1)


def test_an_over_release_raises_in_debug() -> None:
    ledger = Ledger(debug=True)
    conn = ledger.open_connection()
    conn.reserve_memory(1)
    with pytest.raises(ValueError, match="conn-1 gave back 1 bytes more"):
        conn.release_memory(2)
    with pytest.raises(ValueError, match="1 stream more"):
        ledger.release_stream(PEER, False)
    assert Ledger().debug == sys.flags.dev_mode


def test_a_view_owns_what_was_reserved_through_it() -> None:
    ledger = Ledger()
    first, second = ledger.service("s"), ledger.service("s")
    first.reserve_memory(5)
    second.reserve_memory(7)
    assert first.stat().memory == second.stat().memory == 12
    assert (first.held_memory, second.held_memory) == (5, 7)
    first.close()
    assert second.stat().memory == ledger.system().stat().memory == 7


def test_a_span_of_a_view_outlives_it() -> None:
    ledger = Ledger(limits(service_default=limit(memory=100)))
    with ledger.service("s") as view:
        view.reserve_memory(10)
        span = view.begin_span()
        span.reserve_memory(20)
        assert (view.held_memory, span.stat().memory) == (10, 20)
        assert span.name == "service:s.span-1"
    assert not span.closed
    assert ledger.service("s").stat().memory == 20
    inner = span.begin_span()
    inner.reserve_memory(30)
    assert ledger.system().stat().memory == 50
    refused = inner.try_reserve_memory(51)
    assert not refused
    assert (refused.scope, refused.asked_by) == ("service:s", "service:s.span-1.span-1")
    span.close()
    assert inner.closed
    assert nothing_held(ledger)


def test_a_span_keeps_the_group_of_a_closed_view() -> None:
    ledger = Ledger()
    for open_view in (
        lambda: ledger.peer(PEER), lambda: ledger.protocol("/a"),
        lambda: ledger.protocol_peer("/a", PEER), lambda: ledger.service_peer("s", PEER),
        ledger.system, ledger.transient, ledger.allowlisted_system, ledger.allowlisted_transient,
    ):
        view = open_view()
        held = view.stat()
        span = view.begin_span()
        span.reserve_memory(1)
        view.close()
        assert not span.closed
        with open_view() as again:
            assert again.stat().memory == held.memory + 1
        span.close()
        span.close()
        assert nothing_held(ledger)
    assert ledger.peers() == ledger.protocols() == []
    dropped = ledger.peer(PEER).begin_span()
    dropped.reserve_memory(1)
    del dropped
    assert ledger.leaked == 1
    assert nothing_held(ledger)
    assert ledger.peers() == []
    # without memory, a dropped span and its view are no leak
    ledger.peer(PEER).begin_span()
    assert (ledger.leaked, ledger.peers()) == (1, [])


@pytest.mark.parametrize("kind", ["conn", "stream", "span", "inner span", "span of a view"])
def test_every_handle_has_a_limit_that_may_be_set(kind: str) -> None:
    ledger = Ledger(limits(conn=limit(memory=100), stream=limit(memory=100)))
    conn, stream = ledger.open_connection(), ledger.open_stream(PEER)
    span = conn.begin_span()
    scope: Any = {
        "conn": conn, "stream": stream, "span": span, "inner span": span.begin_span(),
        "span of a view": ledger.peer(PEER).begin_span(),
    }[kind]
    default = scope.limit
    assert default["memory"] == (None if kind == "span of a view" else 100)
    scope.reserve_memory(60)
    scope.set_limit(limit(memory=50))
    assert scope.limit["memory"] == 50
    refused = scope.try_reserve_memory(1)
    assert not refused
    assert (refused.scope, refused.current, refused.limit) == (scope.name, 60, 50)
    child = scope.begin_span()
    assert child.limit["memory"] == 50
    assert child.try_reserve_memory(1).scope == scope.name
    assert child.try_reserve_memory(1).asked_by == child.name
    scope.set_limit(limit(memory=80))
    scope.reserve_memory(20, 255)
    assert not scope.try_reserve_memory(1)
    scope.set_limit(None)
    assert scope.limit == default
    scope.reserve_memory(20)
    for wrong in (5, "none", limit(memory=-1)):
        with pytest.raises((AttributeError, TypeError, ValueError)):
            scope.set_limit(wrong)
    assert scope.limit == default
    scope.set_limit(limit(memory=1))
    scope.close()
    with pytest.raises(ResourceScopeClosed):
        scope.set_limit(limit(memory=1))
    for open_one in (conn, stream, span):
        open_one.close()
    assert nothing_held(ledger)
    # the limit ended with the scope, so another one has the default again
    assert ledger.open_connection().limit["memory"] == 100
    assert ledger.open_stream(PEER).limit["memory"] == 100


def test_the_limit_of_one_handle_survives_new_defaults() -> None:
    ledger = Ledger(limits(conn=limit(memory=100)))
    first, second = ledger.open_connection(), ledger.open_connection()
    first.set_limit(limit(memory=10))
    ledger.set_limits(limits(conn=limit(memory=20)))
    assert (first.limit["memory"], second.limit["memory"]) == (10, 20)
    ledger.clear()
    del first, second
    assert ledger.leaked == 0


def test_the_memory_of_connections() -> None:
    ledger = Ledger()
    conn, other = ledger.open_connection(), ledger.open_connection()
    stream = ledger.open_stream(PEER)
    stream.reserve_memory(7)
    assert ledger.connection_memory == (0, (0,) * 64)
    conn.reserve_memory(1024)
    span = conn.begin_span()
    span.reserve_memory(1)
    other.reserve_memory(2**62 + 1)
    total, counts = ledger.connection_memory
    assert total == 2**62 + 1026
    assert {n: count for n, count in enumerate(counts) if count} == {11: 1, 63: 1}
    span.close()
    assert ledger.connection_memory[1][10] == 1
    other.close()
    conn.release_memory(1023)
    assert ledger.connection_memory[0] == 1
    assert ledger.connection_memory[1][0] == 1
    ledger.clear()
    conn.close()
    assert ledger.connection_memory == (0, (0,) * 64)


def test_spans_end_with_their_owner_and_nest_only_so_deep() -> None:
    ledger = Ledger()
    conn = ledger.open_connection()
    spans: list[Any] = [conn]
    for _ in range(64):
        spans.append(spans[-1].begin_span())
    with pytest.raises(ValueError, match="64 deep"):
        spans[-1].begin_span()
    spans[-1].reserve_memory(9)
    assert [span.stat().memory for span in spans] == [9] * 65
    spans[30].close()
    assert [span.closed for span in spans] == [False] * 30 + [True] * 35
    assert conn.stat().memory == 0
    spans[-1].close()
    conn.close()
    assert nothing_held(ledger)


# -- leaks -------------------------------------------------------------------------------------


def test_dropped_scopes_give_back_and_are_counted() -> None:
    ledger = Ledger(trace_allocations=True)
    ledger.open_connection()
    stream = ledger.open_stream(PEER)
    stream.set_protocol("/x")
    del stream
    ledger.system().reserve_memory(5)
    ledger.system()  # held nothing: no leak
    for _ in range(2):
        ledger.open_connection()
    assert ledger.leaked == 5
    assert nothing_held(ledger)
    assert sorted(ledger.leaked_at.values()) == [1, 1, 1, 2]
    assert all("test_scope.py:" in place for place in ledger.leaked_at)
    assert all("test_dropped_scopes" in place for place in ledger.leaked_at)


def test_scopes_in_a_garbage_cycle() -> None:
    ledger = Ledger()

    class Holder:
        pass

    holder = Holder()
    holder.me = holder  # type: ignore[attr-defined]
    holder.held = [ledger.open_connection(), ledger.open_stream(PEER), ledger]  # type: ignore[attr-defined]
    del holder
    gc.collect()
    assert ledger.leaked == 2
    assert nothing_held(ledger)


def test_a_ledger_goes_with_its_last_handle() -> None:
    class Limiter:
        def __call__(self, scope: str, name: str | None, peer: object) -> None: ...

    limiter = Limiter()
    ledger = Ledger(limiter=limiter)  # type: ignore[arg-type]
    gone = weakref.ref(limiter)  # the ledger alone keeps it
    stream = ledger.open_stream(PEER)
    del ledger, limiter
    stream.set_protocol("/x")
    stream.set_service("s")
    assert stream.stat().streams_inbound == 1
    stream.close()
    assert stream.closed
    assert gone() is not None
    del stream
    assert gone() is None


def test_clear_may_keep_what_a_view_of_the_system_reserved() -> None:
    ledger = Ledger(limits(system=limit(memory=100)))
    view, other = ledger.system(), ledger.system()
    view.reserve_memory(60)
    span = view.begin_span()
    span.reserve_memory(10)
    other.reserve_memory(30)
    ledger.system().set_limit(limit(memory=5))  # clear does not ask this limit
    for wrong in (ledger.transient(), ledger.peer(PEER), Ledger().system()):
        with pytest.raises(ValueError, match="view of this ledger's system"):
            ledger.clear(keep=wrong)
    ledger.clear(keep=view)
    assert span.closed
    assert other.closed
    assert (view.held_memory, ledger.system().stat().memory) == (60, 60)
    span.close()
    other.close()
    view.release_memory(60)
    assert ledger.over_released == 0
    view.close()
    ledger.clear(keep=view)
    assert nothing_held(ledger)
    assert view.closed


def test_which_peer_has_a_connection_that_is_allowlisted() -> None:
    ledger = Ledger()
    assert not ledger.has_allowlisted_connection(PEER)
    known = ledger.open_connection(allowlisted=True, peer=PEER)
    found = ledger.open_connection(allowlisted=True)
    assert ledger.has_allowlisted_connection(PeerId(PEER))
    known.close()
    assert not ledger.has_allowlisted_connection(PEER)
    found.set_peer(PEER)
    assert ledger.has_allowlisted_connection(PEER)
    ledger.clear()
    assert not ledger.has_allowlisted_connection(PEER)
    found.close()
    kept = ledger.open_connection(peer=PEER)
    assert not ledger.has_allowlisted_connection(PEER)
    kept.close()


def test_clear_closes_everything() -> None:
    ledger = Ledger()
    conn, stream, view = ledger.open_connection(), ledger.open_stream(PEER), ledger.service("s")
    stream.set_protocol("/x")
    stream.set_service("s")
    span = view.begin_span()
    span.reserve_memory(3)
    ledger.acquire_stream(PEER, True)
    ledger.clear()
    assert all(scope.closed for scope in (conn, stream, view, span))
    assert nothing_held(ledger)
    for scope in (conn, stream, view, span):
        scope.close()
    del conn, stream, view, span
    assert ledger.leaked == 0
    assert not ledger.release_stream(PEER, True)
    assert nothing_held(ledger)
    with ledger.open_connection() as again:
        assert again.name == "conn-2"


@pytest.mark.parametrize("kind", [Scope, ConnScope, StreamScope, Span, ScopeView, Refusal, Ledger])
def test_a_bare_new_does_not_crash(kind: Any) -> None:
    bare = kind.__new__(kind)
    repr(bare)
    for name in dir(bare):
        if name.startswith("__"):
            continue
        try:
            value = getattr(bare, name)
            if callable(value):
                value()
        except (TypeError, ResourceScopeClosed):
            continue
    for call in ("reserve_memory", "set_peer", "set_protocol", "set_service", "set_limit"):
        if hasattr(bare, call):
            argument: Any = {"reserve_memory": 1, "set_peer": b"p", "set_limit": limit()}
            with pytest.raises(ResourceScopeClosed):
                getattr(bare, call)(argument.get(call, "x"))


def test_a_hand_over_asks_for_all_memory_that_is_held() -> None:
    """The priority of a reservation counts once, when it is made."""
    ledger = Ledger(limits(peer_default=limit(memory=100), protocol_default=limit(memory=100)))
    conn, stream = ledger.open_connection(), ledger.open_stream(b"other")
    conn.reserve_memory(100, Priority.LOW)
    conn.set_peer(PEER)
    stream.reserve_memory(100)
    stream.set_protocol("/x")
    assert ledger.peer(PEER).stat().memory == ledger.protocol("/x").stat().memory == 100
    for scope in (conn, stream):
        assert scope.try_reserve_memory(1).scope.startswith("peer:")


def test_the_peak_counts_what_moves_to_the_system() -> None:
    ledger = Ledger()
    conn = ledger.open_connection(allowlisted=True)
    conn.reserve_memory(5)
    assert not any(ledger.peak.values())
    conn.set_peer(PEER, allowlisted=False)
    assert (ledger.peak["conns"], ledger.peak["fd"], ledger.peak["memory"]) == (1, 1, 5)


def test_the_peak_counts_streams_without_a_handle() -> None:
    ledger = Ledger()
    assert ledger.acquire_stream(PEER, True) is ledger.acquire_stream(PEER, False) is True
    assert ledger.release_stream(PEER, True)
    assert (ledger.peak["streams"], ledger.peak["streams_inbound"]) == (2, 1)
    assert not any(ledger.transient_peak.values())


def test_the_peak_counts_memory() -> None:
    ledger = Ledger()
    conn = ledger.open_connection()
    span = conn.begin_span()
    span.reserve_memory(7)
    conn.reserve_memory(4)
    span.close()
    assert (ledger.peak["memory"], ledger.transient_peak["memory"]) == (11, 11)


def test_the_order_of_a_streams_chain() -> None:
    """The first full scope of the chain refuses."""
    ledger = Ledger()
    stream = ledger.open_stream(PEER)
    order = ["stream-1", f"peer:{PEER_TEXT}", "transient", "system"]

    def views() -> dict[str, Any]:
        return {view.name: view for view in (
            ledger.system(), ledger.transient(), ledger.peer(PEER), ledger.protocol("/x"),
            ledger.service("s"), ledger.protocol_peer("/x", PEER), ledger.service_peer("s", PEER),
        )}

    def check(order: list[str]) -> None:
        full = views()
        for name in reversed(order[1:]):
            full[name].set_limit(limit(memory=0))
            assert stream.try_reserve_memory(1).scope == name
        for name in order[1:]:
            full[name].set_limit(limit())

    check(order)
    stream.set_protocol("/x")
    of_protocol = [f"protocol:/x.peer:{PEER_TEXT}", "protocol:/x"]
    check([*order[:2], *of_protocol, "system"])
    stream.set_service("s")
    check([
        *order[:2], of_protocol[0], f"service:s.peer:{PEER_TEXT}", of_protocol[1], "service:s",
        "system",
    ])


# -- threads -----------------------------------------------------------------------------------


def test_threads_pass_no_limit_and_lose_no_count() -> None:
    most = 5
    ledger = Ledger(limits(
        system=limit(conns=most, streams=most, memory=1000),
        peer_default=limit(conns=2), protocol_default=limit(streams=3),
    ))
    over = []
    turns = rounds(12_000)

    def work(number: int) -> None:
        for i in range(turns):
            peer = b"peer %d" % (i % 3)
            conn = ledger.try_open_connection(i % 2 == 0)
            stream = ledger.try_open_stream(peer)
            if conn:
                conn.try_set_peer(peer)  # type: ignore[union-attr]
                conn.try_reserve_memory(100)  # type: ignore[union-attr]
            if stream:
                stream.try_set_protocol("/x")  # type: ignore[union-attr]
            if i % 500 == number:
                system = ledger.snapshot()["system"]
                held = system["conns_inbound"] + system["conns_outbound"]
                if held > most or system["streams_inbound"] > most or system["memory"] > 1000:
                    over.append(system)
            if conn:
                conn.close()  # type: ignore[union-attr]
            # its last reference closes the stream

    in_threads(work)
    assert not over
    assert nothing_held(ledger)
    assert ledger.over_released == 0
    assert ledger.connections_opened == 8 * turns


@pytest.mark.parametrize("clearing", [False, True])
def test_threads_do_everything_at_once(clearing: bool) -> None:
    """Whole lives, handles that two threads have, limits and snapshots, with and without clear."""
    ledger = Ledger(debug=False)
    some = limits(
        system=limit(conns=6, streams=9, memory=2000), allowlisted_system=limit(conns=3),
        transient=limit(conns=3, streams=4), peer_default=limit(conns=3, memory=900),
        protocol_peer_default=limit(streams=2), service_peer={"s": limit(streams=1)},
    )
    fewer = limits(system=limit(conns=4, streams=6, memory=1500))
    ledger.set_limits(some)
    shared: list[Any] = [None] * 8
    done: list[int] = []

    def use(scope: Any, chance: random.Random) -> None:
        """A part of a life; the other thread may close it in the middle."""
        peer, part = b"peer %d" % chance.randrange(3), chance.random()
        try:
            scope.try_reserve_memory(chance.randrange(300), chance.choice([101, 255]))
            if hasattr(scope, "try_set_peer"):
                scope.try_set_peer(peer, chance.choice([None, True, False]))
            elif scope.try_set_protocol("/x") and part < 0.7:
                scope.try_set_service("s")
            span = scope.begin_span()
            span.try_reserve_memory(100)
            if part < 0.3:
                span.close()
            scope.release_memory(10**6)
        except (ResourceScopeClosed, RuntimeError):
            pass  # closed, or attached, by the other one

    def live(number: int) -> None:
        chance = random.Random(number)
        try:
            for _ in range(rounds(4000)):
                peer, inbound = b"peer %d" % chance.randrange(3), chance.random() < 0.5
                own = [
                    ledger.try_open_connection(inbound, allowlisted=chance.random() < 0.3),
                    ledger.try_open_connection(inbound, peer=peer),
                    ledger.try_open_stream(peer, inbound),
                ]
                for scope in own:
                    if scope:
                        use(scope, chance)
                counted = ledger.acquire_stream(peer, inbound)
                with suppress(ResourceScopeClosed), ledger.protocol_peer("/x", peer) as view:
                    view.try_reserve_memory(50)
                place = chance.randrange(len(shared))
                taken, shared[place] = shared[place], own.pop()
                if taken:
                    use(taken, chance)
                    taken.close()
                if counted:
                    ledger.release_stream(peer, inbound)
                if chance.random() < 0.8:  # drop the rest
                    for scope in own:
                        if scope:
                            scope.close()  # type: ignore[union-attr]
        finally:
            done.append(number)

    def meddle(number: int) -> None:
        turn = 0
        while len(done) < 5:
            turn += 1
            ledger.set_limits(fewer if turn % 2 else some)
            with suppress(ResourceScopeClosed), ledger.peer(b"peer 1") as view:
                view.set_limit(limit(conns=turn % 3) if turn % 3 else None)
            if clearing and turn % 20 == 0:
                ledger.clear()
            ledger.has_allowlisted_connection(b"peer 1")
            assert len(ledger.peers()) <= 3

    def look(number: int) -> None:
        while len(done) < 5:
            snapshot = ledger.snapshot()
            rows = [snapshot["system"], snapshot["transient"], *snapshot["peers"].values()]
            for kind in ("protocols", "services"):
                for group in snapshot[kind].values():
                    rows += [group, *group["peers"].values()]
                    streams = [each["streams_inbound"] for each in group["peers"].values()]
                    assert group["streams_inbound"] == sum(streams)
            for row in rows:
                assert min(row[what] for what in ScopeStat._fields) >= 0
            assert snapshot["system"]["conns_inbound"] <= 6
            assert snapshot["system"]["memory"] <= 2000
            ledger.fullest()

    in_threads(lambda number: (live if number < 5 else meddle if number < 7 else look)(number))
    for scope in shared:
        if scope:
            scope.close()
    del scope
    shared.clear()
    gc.collect()
    if clearing:  # it also closes streams that were counted before a clear
        ledger.clear()
    assert nothing_held(ledger)
    assert ledger.peers() == []
    assert ledger.peak["conns"] <= 6
    assert ledger.peak["streams"] <= 9


def test_threads_closing_one_scope_close_it_once() -> None:
    ledger = Ledger()
    for _ in range(rounds(200)):
        conn = ledger.open_connection()
        conn.set_peer(PEER)
        keep = ledger.open_connection()
        in_threads(lambda _, conn=conn: conn.close(), 4)  # type: ignore[misc]
        assert ledger.system().stat().conns_inbound == 1
        keep.close()


def test_all_public_names_exist() -> None:
    assert all(hasattr(rcmgr.counting.scope, name) for name in rcmgr.counting.scope.__all__)


def test_streams_that_were_forgotten_may_be_given_back_once() -> None:
    """A host that stopped: its swarm lets go of its streams afterwards."""
    ledger = Ledger(debug=True)
    for inbound in (True, True, False):
        assert ledger.acquire_stream("A", inbound) is True
    ledger.clear()
    for inbound in (False, True, True):
        assert ledger.release_stream("A", inbound) is False
    assert ledger.over_released == 0
    with pytest.raises(ValueError, match="peer:A gave back 1 stream more"):
        ledger.release_stream("A", True)


@pytest.mark.parametrize("arguments", [(1.9,), (1, 254.9), ("1",), (None,)])
def test_a_float_is_no_count(arguments: Any) -> None:
    scope = Ledger().system()
    for reserve in (scope.try_reserve_memory, scope.reserve_memory):
        with pytest.raises(TypeError):
            reserve(*arguments)
    assert scope.stat().memory == 0


@pytest.mark.parametrize(("value", "error"), [(1.5, TypeError), (-1, ValueError)])
def test_limits_of_another_type_hold_counts(value: Any, error: type[Exception]) -> None:
    class Leaf:
        def __getattr__(self, name: str) -> Any:
            return value

    class Tree:
        def __getattr__(self, name: str) -> Any:
            return {} if name in ConcreteLimits.MAPPINGS else Leaf()

    with pytest.raises(error, match="memory must be"):
        Ledger().set_limits(Tree())  # type: ignore[arg-type]


@pytest.mark.skipif(sys.maxsize < 2**32, reason="pointers are smaller")
def test_scopes_are_as_small_as_promised() -> None:
    head = object.__basicsize__
    assert [each.__basicsize__ - head for each in (ConnScope, StreamScope, Scope)] == [48, 72, 32]
