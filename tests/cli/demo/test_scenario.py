"""The demo's verdict: every check can fail, and says what it saw."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from rcmgr.cli.demo import limit_rows, scenario, screen
from rcmgr.cli.demo.limit_rows import GuardedWatch, Row, StockWatch, SwarmView
from rcmgr.cli.demo.limits import DEFAULT_LIMITS
from rcmgr.cli.demo.processes import Target, Visitor, lines_of

SOMEBODY = ID.from_pubkey(create_new_key_pair().public_key)


class FixedWatch:
    """Rows as a test wants them."""

    title = "a test"
    manager = None
    memory_peak = 100

    def __init__(self, *rows: Row) -> None:
        self._rows = list(rows)

    def rows(self) -> list[Row]:
        return self._rows

    def limit_memory(self) -> None: ...

    def memory(self) -> Row:
        return Row("memory", 90, self.memory_peak, 100, 7, 3, slack=16)

    def last_denial(self) -> str | None:
        return None

    def remarks(self) -> list[str]:
        return []


class FixedView(SwarmView):
    def __init__(self, *, connected: bool = True) -> None:
        super().__init__()
        self._connected = connected

    def has(self, peer_id: ID) -> bool:
        assert peer_id == SOMEBODY
        return self._connected


def a_run(*rows: Row, view: SwarmView | None = None) -> scenario.Run:
    play = scenario.Play(20, 4, DEFAULT_LIMITS, stock=False)
    run = scenario.Run(play, FixedWatch(*rows), view or FixedView())
    run.honest.peer_id = SOMEBODY.to_base58()
    run.attackers = [Visitor("half-open", tried=3), Visitor("streams", tried=1)]
    return run


def row(name: str = "streams", now: int = 0, peak: int = 0, limit: int | None = 5) -> Row:
    return Row(name, now, peak, limit, admitted=peak, denied=0)


@pytest.mark.parametrize(
    ("peak", "limit", "held"), [(0, 5, True), (5, 5, True), (6, 5, False), (6, None, True)]
)
def test_a_peak_may_reach_its_limit_and_not_pass_it(
    peak: int, limit: int | None, held: bool
) -> None:
    check = scenario.no_limit_passed(a_run(row(peak=peak, limit=limit)))
    assert check.held is held
    assert ("streams 6 of 5" in check.detail) is not held


def test_the_swarm_is_believed_against_the_manager() -> None:
    view = FixedView()
    run = a_run(row("established_inbound", peak=4), view=view)
    view.peaks = Counter(established_inbound=5)
    assert scenario.no_limit_passed(run).held
    view.peaks = Counter(established_inbound=6)
    check = scenario.no_limit_passed(run)
    assert not check.held
    assert check.detail == "established_inbound 6 of 5 in the swarm"


@pytest.mark.parametrize(("peak", "held"), [(100, True), (116, True), (117, False)])
def test_memory_may_pass_its_limit_by_what_comes_in_a_moment(peak: int, held: bool) -> None:
    run = a_run()
    run.watch.memory_peak = peak
    check = scenario.memory_kept(run)
    assert check.held is held
    assert check.detail == f"peak {peak} of 100 + 16 MiB, 3 refusals for it"


def test_what_is_still_counted_is_named() -> None:
    assert scenario.all_given_back(a_run(row(), row("connections"))).held
    check = scenario.all_given_back(a_run(row(now=2), row("connections", now=1), row("pending")))
    assert not check.held
    assert check.detail == "still counted: streams 2, connections 1"


def test_an_attacker_that_stopped_is_named() -> None:
    run = a_run()
    check = scenario.attackers_that_stopped(run)
    assert check.held
    assert check.detail == "4 tries from 2 processes"
    run.attackers[1].tried = 0
    assert not scenario.attackers_that_stopped(run).held
    run.attackers[0].died = "exit status 9"
    check = scenario.attackers_that_stopped(run)
    assert not check.held
    assert check.detail == "half-open ended: exit status 9"


async def test_the_honest_peer_is_served_if_it_hears_another_pong(autojump_clock: Any) -> None:
    run = a_run()

    async def pong() -> None:
        await trio.sleep(1)
        run.honest.pings_ms.append(2.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pong)
        check = await scenario.still_served(run)
    assert check.held
    assert check.detail.startswith("1 pings")


async def test_the_honest_peer_without_a_pong_is_not_served(autojump_clock: Any) -> None:
    run = a_run()
    run.honest.pings_ms = [2.0, 2.0]
    check = await scenario.still_served(run)
    assert not check.held
    assert check.detail == "no answer to its last ping within 5 s"


async def test_the_honest_peer_that_lost_its_connection_is_not_served() -> None:
    run = a_run()
    run.honest.lost = "StreamReset: gone"
    check = await scenario.still_served(run)
    assert not check.held
    assert "StreamReset: gone" in check.detail


async def test_the_honest_peer_has_to_be_in_the_swarm(autojump_clock: Any) -> None:
    run = a_run(view=FixedView(connected=False))

    async def pong() -> None:
        await trio.sleep(1)
        run.honest.pings_ms.append(2.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pong)
        check = await scenario.still_served(run)
    assert not check.held
    assert "no connection" in check.detail


def test_a_run_passes_only_with_checks_that_all_held() -> None:
    run = a_run()
    assert not run.passed
    run.checks = [scenario.Check("a", True, ""), scenario.Check("b", True, "")]
    assert run.passed
    run.checks.append(scenario.Check("c", False, ""))
    assert not run.passed


@pytest.mark.parametrize(
    ("pings", "median", "p99"),
    [([7.0], 7.0, 7.0), ([1.0, 2.0], 1.0, 2.0), ([float(n) for n in range(1, 201)], 100.0, 198.0)],
)
def test_ping_percentiles_are_pings_that_happened(
    pings: list[float], median: float, p99: float
) -> None:
    run = a_run()
    run.honest.pings_ms = pings[::-1]
    assert run.ping() == (median, p99)


async def test_a_visitor_that_crashes_says_why() -> None:
    visitor = Visitor("no-such-role")
    with trio.fail_after(30):
        await visitor.visit(Target("127.0.0.1", 1, SOMEBODY.to_base58()))
    assert visitor.died is not None
    assert visitor.died.startswith("exit status 1\n")
    assert "KeyError: 'no-such-role'" in visitor.died


@pytest.mark.parametrize("cut", range(1, 12))
async def test_lines_are_whole_wherever_a_chunk_ends(cut: int) -> None:
    ours, its = trio.testing.memory_stream_one_way_pair()
    said = b"one\ntwo\r\n\nlast"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_in_chunks, ours, [said[:cut], said[cut:]])
        heard = [line async for line in lines_of(its)]
    assert heard == [b"one\n", b"two\r\n", b"\n", b"last"]


async def say_in_chunks(pipe: trio.abc.SendStream, chunks: list[bytes]) -> None:
    for chunk in chunks:
        await pipe.send_all(chunk)
        await trio.testing.wait_all_tasks_blocked()
    await pipe.aclose()


async def test_an_honest_peer_that_finds_no_host_is_lost() -> None:
    visitor = Visitor("honest")
    with trio.fail_after(30):
        await visitor.visit(Target("127.0.0.1", 1, SOMEBODY.to_base58()))
    assert visitor.lost is not None
    assert not visitor.ready


def test_rows_are_the_managers_counts() -> None:
    guarded = GuardedWatch(DEFAULT_LIMITS)
    limit = DEFAULT_LIMITS.connections.max_pending_outbound
    assert limit is not None
    scopes = [guarded.manager.open_connection(direction="outbound") for _ in range(limit + 2)]
    rows = {row.name: row for row in guarded.rows()}
    assert rows["pending_outbound"] == Row("pending_outbound", limit, limit, limit, limit, 2)
    assert rows["connections"].now == limit
    assert guarded.last_denial() is not None
    for scope in scopes[:limit]:
        scope.close()
    rows = {row.name: row for row in guarded.rows()}
    assert rows["pending_outbound"] == Row("pending_outbound", 0, limit, limit, limit, 2)
    assert guarded.manager.acquire_stream(SOMEBODY, "inbound")
    streams = {row.name: row for row in guarded.rows()}["streams"]
    assert (streams.now, streams.peak, streams.admitted, streams.denied) == (1, 1, 1, 0)


def test_the_stock_manager_is_only_observed() -> None:
    """What passes through the counting subclass is what py-libp2p's manager decides."""
    view = FixedView()
    view.swarm = type("Swarm", (), {"get_connections_map": lambda self: {}})()
    limits = DEFAULT_LIMITS.changed("max_connections", 2).changed("max_streams", 1)
    stock = StockWatch(limits, view)
    first = stock.manager.open_connection(direction="inbound")
    second = stock.manager.open_connection(SOMEBODY, direction="inbound")
    assert stock.manager.open_connection(direction="inbound") is None
    assert stock.manager.acquire_stream(str(SOMEBODY), limit_rows.Direction.INBOUND)
    assert not stock.manager.acquire_stream(str(SOMEBODY), limit_rows.Direction.INBOUND)
    rows = {row.name: row for row in stock.rows()}
    assert rows["connections"] == Row("connections", 2, 2, 2, 2, 1)
    assert rows["streams"] == Row("streams", 1, 1, 1, 1, 1)
    assert rows["pending_inbound"].now == 1
    first.close()
    first.close()
    second.close()
    rows = {row.name: row for row in stock.rows()}
    assert rows["connections"].now == 0
    assert rows["pending_inbound"].now == 0


@pytest.mark.parametrize(
    ("now", "peak", "limit", "bar"),
    [
        (0, 0, 7, "." * 14),
        (7, 7, 7, "#" * 14),
        (1, 2, 7, "##++.........."),
        (0, 9, 7, "+" * 14),
        (3, 3, None, ""),
        (0, 0, 0, ""),
    ],
)
def test_a_bar_shows_now_and_peak(now: int, peak: int, limit: int | None, bar: str) -> None:
    assert screen.filled(row(now=now, peak=peak, limit=limit), "#+.") == bar
