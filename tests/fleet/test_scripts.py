"""The scripts on a real server say the same as the exact model, to the last tick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from engine_server import Server, needs_server, running
from hypothesis import HealthCheck, example, given, settings
from model_engine import EngineModel

from rcmgr import Rate
from rcmgr.counting.leases import LeaseTable
from rcmgr.fleet.exchange import LIFE_S, LeasedRate
from rcmgr.fleet.scripts import BEAT, CHANGE_BANS, EXCHANGE

pytestmark = needs_server()

CLOCK = "local time = redis.call('TIME')"
RATES = [Rate(0.3, 7), Rate(3, 1), Rate(700_000, 50_000), Rate(1e6 / 3, 10)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


def at(script: str, now_us: int) -> str:
    """The script on a clock of the test."""
    assert CLOCK in script
    return script.replace(CLOCK, f"local time = {{{now_us // 10**6}, {now_us % 10**6}}}")


def lease(client: Any, now_us: int, rate: Rate, charge: int, want: int, most: int = 100) -> Any:
    per_us, cost, burst = LeasedRate(
        "r", rate, LeaseTable(rate.burst, rate.refill_rate), most).ticks
    return client.eval(
        at(EXCHANGE, now_us), 2, b"nodes", b"rate",
        b"a", round(LIFE_S * 1e6), 1, per_us, cost, burst, most,
        1, 1, b"peer", charge, want, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    st.lists(st.tuples(
        st.sampled_from([0, 1, 77, 50_000, 3_000_000, -40_000_000]), st.integers(-9, 9),
        st.integers(0, 40)), max_size=12),
    st.sampled_from(RATES))
@example(steps=[(0, 0, 0), (-40_000_000, 0, 0)], rate=RATES[0])
def test_leases(server: Server, steps: list[tuple[int, int, int]], rate: Rate) -> None:
    model = EngineModel(now_us=1_795_000_000_000_000)
    ticks = LeasedRate("r", rate, LeaseTable(rate.burst, rate.refill_rate), 9).ticks
    with server.client() as client:
        client.flushall()
        for wait, charge, want in steps:
            model.now_us += wait
            reply = lease(client, model.now_us, rate, charge, want)
            assert tuple(reply) == model.lease("r", b"peer", ticks, charge, want)
            full = client.zscore("rate", "peer")
            assert (model.full_us["r", b"peer"] if reply[1] else None) == full


def test_a_table_keeps_so_many_members_and_drops_the_fullest(server: Server) -> None:
    rate, now = Rate(1, 10), 1_795_000_000_000_000
    per_us, cost, burst = LeasedRate("r", rate, LeaseTable(10, 1.0), 5).ticks
    with server.client() as client:
        client.flushall()
        for number in range(20):
            client.eval(
                at(EXCHANGE, now), 2, "nodes", "rate", "a", 5_000_000,
                1, per_us, cost, burst, 5, 1, 1, b"%d" % number, 1 + number % 7, 0, 0)
        assert client.zcard("rate") == 5
        assert min(score for _, score in client.zrange("rate", 0, -1, withscores=True)) >= (
            now + 5_000_000)
        assert 0 < client.pttl("rate") < 120_000
        lease(client, now + 60_000_000, rate, 1, 0)  # buckets that are full again go
        assert client.zrange("rate", 0, -1) == [b"peer"]


def places(client: Any, now_us: int, node: str, held: int) -> Any:
    """The replies of both scripts, one after the other."""
    beat = client.eval(
        at(BEAT, now_us), 4, "nodes", "use", "bans", "reasons", node, 5_000_000, '{"node": "x"}')
    return beat + client.eval(
        at(EXCHANGE, now_us), 2, "nodes", "held", node, 5_000_000, 0, 0, 1, held)


def test_places_of_dead_nodes_come_back(server: Server) -> None:
    now = 1_795_000_000_000_000
    with server.client() as client:
        client.flushall()
        assert places(client, now, "a", 3)[:2] == [1, 1]
        assert places(client, now, "b", 2) == [2, 1, 0, 0, 3]
        assert places(client, now, "b", 2) == [2, 0, 0, 0, 3]  # told twice, counted once
        assert places(client, now + 4_000_000, "b", 1)[-1] == 3
        assert places(client, now + 6_000_000, "b", 1) == [1, 0, 0, 0, 0]  # a is dead
        assert client.hgetall("held") == {b"b": b"1"}
        assert places(client, now + 6_000_000, "a", 3)[1] == 1  # and is new when it comes again
        assert client.pttl("held") > 0
        assert places(client, now + 90_000_000, "c", 1)[0] == 1
        assert client.zrange("nodes", 0, -1) == [b"c"]
        assert client.hkeys("use") == [b"c"]
        assert places(client, now, "d", 0)[0] == 1  # the clock has jumped back
        assert client.zrange("nodes", 0, -1) == [b"d"]
        assert not client.exists("held")  # the last place was given back
        for key in ("nodes", "use"):
            assert client.pttl(key) > 0


def ban(client: Any, now_us: int, *changes: Any) -> None:
    client.eval(at(CHANGE_BANS, now_us), 2, "bans", "reasons", "channel", *changes)


def test_bans_have_ends_versions_and_a_bounded_number(server: Server) -> None:
    now = 1_795_000_000_000_000
    with server.client() as client:
        client.flushall()
        ban(client, now, "p", "", "why", "m", "q", 5_000_000, "why", "m")
        scores = dict(client.zrange("bans", 0, -1, withscores=True))
        assert scores == {b"!g": -now, b"!v": -2, b"p": float("inf"), b"q": now + 5_000_000}
        ban(client, now + 6_000_000, "p", "0", "", "m")
        assert client.zrange("bans", 0, -1) == [b"!g", b"!v"]  # q has ended
        assert client.hkeys("reasons") == []
        for first in range(0, 10_100, 100):
            ban(client, now, *(
                each for number in range(first, first + 100)
                for each in (b"%d" % number, 10**9 + number, "why", "m")))
        assert client.zcard("bans") == client.hlen("reasons") + 2 == 10_002
        assert client.zscore("bans", "99") is None
        assert client.zscore("bans", "10099") is not None
        assert client.pttl("bans") > 0
        assert client.pttl("reasons") > 0
