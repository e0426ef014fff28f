"""The names of scopes, and the words of a refusal."""

from __future__ import annotations

import pickle

import pytest
from model_scopes import PEER, PEER_TEXT, PeerId, limit, limits, nothing_held

from rcmgr.counting.groups import Refusal
from rcmgr.counting.scope import Ledger
from rcmgr.errors import ResourceLimitExceeded, ScopeLimitExceeded


def test_names_are_those_of_go_libp2p() -> None:
    ledger = Ledger()
    conn, stream = ledger.open_connection(), ledger.open_stream(PEER)
    span = ledger.peer(PEER).begin_span()
    names = [scope.name for scope in (
        ledger.system(), ledger.transient(), ledger.allowlisted_system(),
        ledger.allowlisted_transient(), ledger.service("s"), ledger.service_peer("s", PEER),
        ledger.protocol("/x/1"), ledger.protocol_peer("/x/1", PEER), ledger.peer(PeerId(PEER)),
        conn, stream, ledger.open_connection(), conn.begin_span(), conn.begin_span(),
        span.begin_span(),
    )]
    assert names == [
        "system", "transient", "allowlistedSystem", "allowlistedTransient", "service:s",
        f"service:s.peer:{PEER_TEXT}", "protocol:/x/1", f"protocol:/x/1.peer:{PEER_TEXT}",
        f"peer:{PEER_TEXT}", "conn-1", "stream-1", "conn-2", "conn-1.span-1", "conn-1.span-2",
        f"peer:{PEER_TEXT}.span-1.span-1",
    ]


@pytest.mark.parametrize(
    ("resource", "words"),
    [
        ("conns_inbound", "cannot reserve inbound connection: "),
        ("conns", "cannot reserve connection: "),
        ("fd", "cannot reserve file descriptor: "),
    ],
)
def test_a_connection_refused_by_a_parent(resource: str, words: str) -> None:
    ledger = Ledger(limits(system=limit(**{resource: 1})))
    with ledger.open_connection():
        with pytest.raises(ScopeLimitExceeded) as caught:
            ledger.open_connection()
        error = caught.value
        assert str(error).startswith(f"conn-2: system: {words}resource limit exceeded")
        assert (error.scope, error.current, error.attempted, error.limit) == ("system", 1, 1, 1)
        assert (error.scope_name, error.requested, error.available) == ("system", 1, 0)
        assert error.resource_type == error.resource
        assert isinstance(error, ResourceLimitExceeded)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    ledger.open_connection().close()


def test_outbound_words() -> None:
    ledger = Ledger(limits(conn=limit(conns_outbound=0), stream=limit(streams_outbound=0)))
    with pytest.raises(ScopeLimitExceeded, match=r"^conn-1: cannot reserve outbound connection: "):
        ledger.open_connection(False)
    with pytest.raises(ScopeLimitExceeded, match=r"^stream-1: cannot reserve outbound stream: "):
        ledger.open_stream(PEER, False)
    assert nothing_held(ledger)


def test_memory_words_for_leaf_parent_span_and_view() -> None:
    ledger = Ledger(limits(conn=limit(memory=10), system=limit(memory=30)))
    conn = ledger.open_connection()
    span = conn.begin_span()
    for scope, size, start in (
        (conn, 11, "conn-1: resource limit exceeded"),
        (span, 11, "conn-1.span-1: conn-1: resource limit exceeded"),
        (ledger.peer("p"), 31, "peer:p: system: resource limit exceeded"),
        (ledger.system(), 31, "system: resource limit exceeded"),
    ):
        with pytest.raises(ScopeLimitExceeded, match=f"^{start}"):
            scope.reserve_memory(size)


def test_a_hand_over_names_the_new_scope_only() -> None:
    ledger = Ledger(limits(peer_default=limit(fd=0), protocol_peer_default=limit(streams=0)))
    conn = ledger.open_connection()
    with pytest.raises(ScopeLimitExceeded, match=f"^peer:{PEER_TEXT}: cannot reserve file desc"):
        conn.set_peer(PEER)
    assert conn.peer is None
    assert ledger.transient().stat().conns_inbound == 1
    stream = ledger.open_stream(PEER)
    with pytest.raises(ScopeLimitExceeded, match=rf"^protocol:/x\.peer:{PEER_TEXT}: cannot"):
        stream.set_protocol("/x")
    assert stream.protocol is None
    assert ledger.protocols() == []


def test_a_refusal_is_false_and_says_why() -> None:
    ledger = Ledger(limits(system=limit(streams=0)))
    refusal = ledger.try_open_stream(PEER)
    assert isinstance(refusal, Refusal)
    assert not refusal
    assert (refusal.scope, refusal.asked_by, refusal.resource) == ("system", "stream-1", "stream")
    assert "stream-1: system: cannot reserve stream" in repr(refusal)
    assert ledger.refused == {"system": {"stream": 1}}
    assert ledger.peers() == []


def test_refusals_keep_no_scope_alive() -> None:
    ledger = Ledger(limits(conn=limit(memory=1)))
    conn = ledger.open_connection()
    refusal = conn.try_reserve_memory(2)
    del conn
    assert not refusal
    assert ledger.leaked == 1
    assert nothing_held(ledger)
