from __future__ import annotations

from typing import Any

from rcmgr import ConcreteLimits, Ledger, Limit
from rcmgr.replay import events as kinds
from rcmgr.replay.events import Event
from rcmgr.replay.outcome import Difference, Outcome
from rcmgr.replay.player import NOT_ASKED

NO_STREAMS = Ledger(ConcreteLimits(
    system=Limit(streams=0), protocol={"/a": Limit(streams=0), "/b": Limit(streams=0)}))


def event(kind: int, code: str | None, peer: Any = None, now: int = 5) -> Event:
    return kind, 0, now, 1, peer, None, "", "", code, 0, 0


def refusal() -> Any:
    return NO_STREAMS.try_open_stream(b"peer")


def by_protocol(name: str) -> Any:
    stream = Ledger(ConcreteLimits(protocol={name: Limit(streams=0)})).open_stream(b"peer")
    return stream.try_set_protocol(name)


def test_differences_are_counted_by_kind() -> None:
    outcome = Outcome(differences=10)
    system = refusal()
    assert system.code == "stream.system.streams"
    outcome.asked(event(kinds.OPEN_STREAM, None, b"p"), system)
    outcome.asked(event(kinds.OPEN_STREAM, None, b"p", 9), system)
    outcome.asked(event(kinds.OPEN_STREAM, system.code), system)
    outcome.asked(event(kinds.OPEN_STREAM, "rate.peer"), system)
    outcome.asked(event(kinds.BEGIN, "connection.address"), True)
    outcome.asked(event(kinds.BEGIN, "memory.process"), NOT_ASKED)
    assert (outcome.newly_refused, outcome.newly_granted) == (2, 1)
    assert (outcome.agreed, outcome.other_limit) == (1, 1)
    assert outcome.granted == {"connection.address": 1}
    assert outcome.recorded.total() == 4
    [refused] = outcome.refused.values()
    assert (refused.times, refused.first_ns, refused.last_ns) == (2, 5, 9)
    assert (refused.peers, refused.what) == ({b"p": 2}, {"stream": 2})
    assert "streams" in refused.setting
    assert outcome.differences[0] == Difference(5, "stream", None, system.code, b"p", None)
    assert [each.replayed for each in outcome.differences] == [
        system.code, system.code, system.code, None]


def test_each_protocol_has_a_line() -> None:
    outcome = Outcome()
    for name in ("/a", "/b", "/a"):
        outcome.asked(event(kinds.PROTOCOL, None), by_protocol(name))
    assert {scope: each.times for (_, scope), each in outcome.refused.items()} == {
        "protocol:/a": 2, "protocol:/b": 1}
    assert outcome.differences == []


def test_many_names_do_not_fill_memory() -> None:
    outcome = Outcome()
    for number in range(1100):
        outcome.asked(event(kinds.PROTOCOL, None), by_protocol(f"/{number}"))
    assert len(outcome.refused) == 1025
    assert outcome.newly_refused == 1100
