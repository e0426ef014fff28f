"""A limiter of a program's own gives scopes their limits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from threads import in_threads, rounds

from rcmgr import (
    ConcreteLimits,
    Ledger,
    Limit,
    Limiter,
    NodeLimits,
    ResourceManager,
    ResourceScopeClosed,
)
from rcmgr.limits.limiter import AskLimiter

A, B = b"\x12\x20" + bytes(32), b"\x12\x20" + bytes(31) + b"\x01"


class Recorder(Limiter):
    """Says what `answers` have for a scope, and keeps each question."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, kind: str, name: Any, peer: Any) -> Limit | None:
        self.asked.append((kind, name, peer))
        return super().__call__(kind, name, peer)

    def system_limits(self) -> Limit | None:
        return self.answers.get("system")

    def peer_limits(self, peer: Any) -> Limit | None:
        return self.answers.get("peers", {}).get(peer)

    def protocol_limits(self, protocol: str) -> Limit | None:
        return self.answers.get("protocols", {}).get(protocol)

    def protocol_peer_limits(self, protocol: str, peer: Any) -> Limit | None:
        return self.answers.get("shares", {}).get((protocol, peer))

    def service_limits(self, service: str) -> Limit | None:
        return self.answers.get("services", {}).get(service)

    def service_peer_limits(self, service: str, peer: Any) -> Limit | None:
        return self.answers.get("shares", {}).get((service, peer))

    def conn_limits(self) -> Limit | None:
        return self.answers.get("conn")

    def stream_limits(self) -> Limit | None:
        return self.answers.get("stream")


def only(kind: str, answer: Any) -> AskLimiter:
    return lambda asked, name, peer: answer if asked == kind else None


def test_each_kind_of_scope_is_asked_about() -> None:
    limiter = Recorder()
    ledger = Ledger(limiter=limiter)
    fixed = {
        "system", "transient", "allowlisted_system", "allowlisted_transient", "conn", "stream"}
    assert sorted(limiter.asked) == sorted((kind, None, None) for kind in fixed)
    limiter.asked.clear()
    with ledger.open_stream(A) as stream:
        assert limiter.asked == [("peer", None, A)]
        stream.set_protocol("/p")
        stream.set_service("s")
        assert limiter.asked[1:] == [
            ("protocol", "/p", None), ("protocol_peer", "/p", A),
            ("service", "s", None), ("service_peer", "s", A)]
        limiter.asked.clear()
        # requests of scopes that exist ask nothing
        ledger.acquire_stream(A, True)
        with ledger.open_connection() as conn, ledger.peer(A), ledger.protocol_peer("/p", A):
            conn.set_peer(A)
            stream.reserve_memory(5)
        with ledger.open_stream(A) as other:
            other.set_protocol("/p")
            other.set_service("s")
    assert limiter.asked == []


OPEN: dict[str, Callable[[Ledger], Any]] = {
    "a connection with its peer": lambda ledger: ledger.open_connection(peer=A),
    "a peer that is set": lambda ledger: with_peer(ledger),
    "a stream": lambda ledger: ledger.open_stream(A),
    "a stream without a handle": lambda ledger: ledger.acquire_stream(A, True),
    "a view": lambda ledger: ledger.peer(A),
}


def with_peer(ledger: Ledger) -> Any:
    conn = ledger.open_connection()
    conn.set_peer(A)
    return conn


@pytest.mark.parametrize("open_one", OPEN.values(), ids=list(OPEN))
def test_every_way_to_make_a_scope_asks(open_one: Callable[[Ledger], Any]) -> None:
    limiter = Recorder(peers={A: Limit(streams=7)})
    ledger = Ledger(limiter=limiter)
    held = open_one(ledger)
    assert ledger.peer(A).limit["streams"] == 7
    assert limiter.asked.count(("peer", None, A)) == 1
    if held is True:
        ledger.release_stream(A, True)
    else:
        held.close()
    assert ledger.peers() == []


def test_answers_are_enforced() -> None:
    limiter = Recorder(
        system=Limit(conns=3), peers={A: Limit(streams=1)}, protocols={"/p": Limit(streams=2)},
        shares={("/q", A): Limit(streams=0), ("s", B): Limit(streams=0)},
        services={"t": Limit(streams=0)}, conn=Limit(memory=10), stream=Limit(memory=20))
    ledger = Ledger(ConcreteLimits(peer_default=Limit(streams=5)), limiter=limiter)
    first = ledger.open_stream(A)
    assert ledger.try_open_stream(A).scope.startswith("peer:")
    assert first.try_set_protocol("/q").scope.startswith("protocol:/q.peer:")
    first.set_protocol("/p")
    others = [ledger.open_stream(B) for _ in range(3)]
    others[0].set_protocol("/p")
    assert others[1].try_set_protocol("/p").scope == "protocol:/p"
    others[1].set_protocol("/r")
    assert others[1].try_set_service("t").scope == "service:t"
    assert others[1].try_set_service("s").scope.startswith("service:s.peer:")
    assert first.try_set_service("s") is True
    assert ledger.peer(B).limit["streams"] == 5  # the limiter says nothing about B
    kept = [ledger.open_connection() for _ in range(3)]
    assert ledger.try_open_connection().scope == "system"
    assert not kept[0].try_reserve_memory(11)
    assert not first.try_reserve_memory(21)


def test_a_denial_says_who_gave_the_limit() -> None:
    none = Limit(streams=0, memory=0)
    ledger = Ledger(
        ConcreteLimits(peer={B: none}),
        limiter=lambda kind, name, peer: none if kind == "peer" and peer == A else None)
    conn = ledger.open_connection()
    span = conn.begin_span()
    view = ledger.protocol("/p")
    view.set_limit(none)
    stream = ledger.open_stream(b"other")
    refused = {
        "limiter": ledger.try_open_stream(A), "": ledger.try_open_stream(B),
        "set_limit": stream.try_set_protocol("/p")}
    for limited_by, refusal in refused.items():
        assert refusal.to_error().limited_by == limited_by
    for scope in (conn, span):
        scope.set_limit(none)
        error = scope.try_reserve_memory(1).to_error()
        assert error.limited_by == "set_limit"
        assert error.setting == f"set_limit of {scope.name}"
        scope.set_limit(None)
    assert "limiter" in refused["limiter"].to_error().setting
    assert refused[""].to_error().setting.startswith("ConcreteLimits.peer[")


def test_an_answer_holds_while_the_scope_exists_and_is_remembered() -> None:
    limiter = Recorder(peers={A: Limit(streams=7)})
    ledger = Ledger(limiter=limiter)
    with ledger.peer(A):
        limiter.answers = {"peers": {A: Limit(streams=9)}}
        ledger.set_limits(ConcreteLimits())  # existing scopes keep the limiter's answer
        assert ledger.peer(A).limit["streams"] == 7
    assert ledger.peer(A).limit["streams"] == 9
    for _ in range(100):
        ledger.open_stream(A).close()
    assert limiter.asked.count(("peer", None, A)) == 2


def test_the_last_answers_are_remembered_and_no_more() -> None:
    limiter = Recorder()
    ledger = Ledger(limiter=limiter)
    for number in range(10_000):
        ledger.open_stream(number).close()
    limiter.asked.clear()
    for number in range(9_999, 9_999 - 1_024, -1):
        ledger.open_stream(number).close()
    assert limiter.asked == []
    for number in range(1_024):
        ledger.open_stream(number).close()
    assert len(limiter.asked) == 1_024


def test_set_limit_overrules_the_limiter() -> None:
    ledger = Ledger(limiter=only("peer", Limit(streams=7)))
    with ledger.peer(A) as view:
        view.set_limit(Limit(streams=1))
        assert ledger.peer(A).limit["streams"] == 1
    assert ledger.peer(A).limit["streams"] == 1
    with ledger.peer(A) as view:
        view.set_limit(None)
        assert view.limit["streams"] == 7


@pytest.mark.parametrize(
    "answer", [5, "7", Limit, {"streams": 7}, Limit(streams=7).__class__, ValueError()],
    ids=repr)
def test_errors_leave_the_limits_of_the_node(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(kind: str, name: Any, peer: Any) -> Limit | None:
        if kind in ("peer", "system"):
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]
        return None

    limits = ConcreteLimits(system=Limit(streams=2), peer_default=Limit(streams=1))
    with caplog.at_level(logging.ERROR, logger="rcmgr.counting.scope"):
        ledger = Ledger(limits, limiter=failing)
        assert ledger.limiter_errors == 1
        assert ledger.try_open_stream(A)
        assert ledger.acquire_stream(B, True)
    assert ledger.limiter_errors == 3
    assert len(caplog.records) == 1
    assert "limiter failed" in caplog.text
    assert ledger.system().limit["streams"] == 2
    assert ledger.peer(B).limit["streams"] == 1


def test_what_cannot_be_called_is_no_limiter() -> None:
    for kind in (Ledger, ResourceManager):
        with pytest.raises(TypeError, match="limiter must be"):
            kind(limiter=Limit())  # type: ignore[arg-type]


def test_an_interrupt_in_the_limiter_leaves_nothing_behind() -> None:
    class Stop(Limiter):
        def protocol_peer_limits(self, protocol: str, peer: Any) -> Limit | None:
            raise KeyboardInterrupt

    ledger = Ledger(limiter=Stop())
    stream = ledger.open_stream(A)
    with pytest.raises(KeyboardInterrupt):
        stream.set_protocol("/p")
    assert ledger.protocols() == []
    stream.close()
    assert ledger.peers() == []


def test_a_limiter_may_use_the_node() -> None:
    """It runs without a lock, and a question about the scope that is being made does not hang."""
    seen: list[Any] = []

    def limiter(kind: str, name: Any, peer: Any) -> Limit | None:
        if kind == "peer" and peer == A:
            seen.append(ledger.system().stat())
            ledger.open_stream(B).close()
            ledger.set_limits(ConcreteLimits())
        return Limit(streams=3) if kind == "peer" else None

    ledger = Ledger(limiter=limiter)
    stream = ledger.open_stream(A)
    assert seen
    assert ledger.peer(A).limit["streams"] == 3
    stream.close()
    assert ledger.peers() == []


def test_a_limiter_may_clear_the_ledger() -> None:
    """The scopes that it had begun to make are gone, and are made again."""
    cleared: list[str] = []

    def limiter(kind: str, name: Any, peer: Any) -> Limit | None:
        if kind in ("protocol_peer", "service_peer") and kind not in cleared:
            cleared.append(kind)
            ledger.clear()
        return Limit(streams=4) if kind in ("protocol", "protocol_peer") else None

    ledger = Ledger(limiter=limiter)
    stream = ledger.open_stream(A)
    with pytest.raises(ResourceScopeClosed):
        stream.set_protocol("/p")
    assert ledger.protocols() == []
    with ledger.protocol_peer("/p", A) as share, ledger.protocol("/p") as whole:
        assert share.limit["streams"] == whole.limit["streams"] == 4
        with ledger.service_peer("s", B) as other:
            assert share.closed
            assert not other.closed
    assert ledger.protocols() == ledger.peers() == []
    assert cleared == ["protocol_peer", "service_peer"]


def test_a_manager_has_a_limiter() -> None:
    limiter = Recorder(peers={A: Limit(streams=1)})
    manager = ResourceManager(
        NodeLimits(ConcreteLimits(peer_default=Limit(streams=2))), limiter=limiter)
    assert manager.ledger.limiter is limiter
    assert [manager.acquire_stream(A, "inbound") for _ in range(2)] == [True, False]
    assert [manager.acquire_stream(B, "inbound") for _ in range(3)] == [True, True, False]
    scopes = [manager.open_connection(peer, None, "inbound") for peer in (A, B)]
    assert all(scopes)
    assert manager.ledger.snapshot()["peers"]


def test_threads_make_one_scope_with_one_answer() -> None:
    limiter = Recorder(peers={A: Limit(streams=4)})
    ledger = Ledger(limiter=limiter)

    def work(_: int) -> None:
        for _ in range(rounds(2_000)):
            stream = ledger.try_open_stream(A)
            assert stream
            assert ledger.peer(A).limit["streams"] == 4
            stream.close()

    in_threads(work, 4)
    assert ledger.peers() == []
    assert not any(ledger.system().stat())
