"""Faults of libp2p.rcmgr 0.8.1's manager that ours does not have.

The number in the name of a test is that of a row in docs/differences.md. Faults that only real
hosts show are in e2e/test_differences.py. The docstring of a test says what its steps return.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction, ResourceLimits
from libp2p.rcmgr.metrics import Metrics
from libp2p.rcmgr.prometheus_exporter import PrometheusExporter
from libp2p.rcmgr.rate_limiter import RateLimiter
from stock_and_ours import Side, outcomes
from threads import in_threads

PEER = ID(b"\x12\x20" + b"p" * 32)
OTHER = ID(b"\x12\x20" + b"o" * 32)
NET = "10.0.0.0/8"
IN, OUT = Direction.INBOUND, Direction.OUTBOUND


class Broken(Metrics):
    """An observer that fails."""

    working = False

    def allow_conn(self, direction: str, use_fd: bool = True) -> None:
        if not self.working:
            raise RuntimeError("no metrics")
        super().allow_conn(direction, use_fd)


def acquired(manager: Any, *args: Any, **kwargs: Any) -> bool | str:
    """Whether the manager admits a connection, or the name of its error."""
    try:
        return bool(manager.acquire_connection(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 (which one is the question)
        return type(error).__name__


def full(side: Side, most: int, **limits: Any) -> Any:
    """A manager that has as many connections as its limit allows."""
    manager = side(ResourceLimits(max_connections=most, **limits), enable_rate_limiting=False)
    manager.graceful_degradation._escalation_cooldown = 0  # 10 s between two steps of 0.8.1
    assert all(manager.acquire_connection() for _ in range(most))
    return manager


# -- leaks and double counting ------------------------------------------------------------------


@outcomes(stock=(5, False), ours=(0, True))
def test_l8_an_exception_in_a_metrics_hook(side: Side) -> Any:
    """Connections counted after all failed, and whether their network has room for another."""
    metrics = Broken()
    manager = side(metrics=metrics, cidr_limits=[(NET, 5)], enable_circuit_breaker=False)
    for _ in range(5):
        if acquired(manager, "", "10.0.0.1") is True:
            manager.release_connection("", "10.0.0.1")
    left = manager._current_connections
    metrics.working = True
    return left, acquired(manager, "", "10.0.0.1")


@outcomes(stock=0, ours=2)
def test_l12_three_threads_close_one_scope(side: Side) -> int:
    """Connections that remain of three."""
    manager = side()
    scopes = [manager.open_connection(PEER) for _ in range(3)]
    threads = [threading.Thread(target=scopes[0].close) for _ in range(3)]
    with manager._lock:  # 0.8.1 waits here between its check and its close
        for thread in threads:
            thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return int(manager._current_connections)


@outcomes(stock=(0, 0), ours=(1, 1))
def test_l13_releasing_with_other_arguments(side: Side) -> tuple[int, int]:
    """Connections and streams that remain of one each."""
    manager = side()
    manager.acquire_connection(str(PEER))
    manager.release_connection("nobody")
    manager.acquire_stream(str(PEER), IN)
    manager.release_stream(str(OTHER), OUT)
    return manager._current_connections, manager._current_streams


@outcomes(stock=(False, False), ours=(True, True))
def test_l14_closing_a_scope_by_its_class(side: Side) -> tuple[bool, bool]:
    """Whether its network has room again, and whether the scope is freed at once."""
    manager = side(cidr_limits=[(NET, 1)])
    scope = manager.open_connection(None, "10.0.0.1")
    type(scope).close(scope)
    room = manager.open_connection(None, "10.0.0.1")
    # a call of this function has the only reference: the argument, and on 3.13 and older the local
    return room is not None, sys.getrefcount(scope) <= 2


@outcomes(stock=(0, 1, 1), ours=(0, 0, 0))
def test_l16_closing_the_manager(side: Side) -> tuple[int, int, int]:
    """Connections that it counts, that its metrics count, and that its tracker counts."""
    manager = side()
    scope = manager.open_connection(PEER)
    asyncio.run(manager.connection_lifecycle.handle_established_inbound_connection(
        "id", PEER, None, None))
    manager.close()
    assert scope is not None
    return (
        manager._current_connections, manager.metrics.get_summary()["connections"]["inbound"],
        manager.connection_tracker.get_connection_count("established_inbound"),
    )


@outcomes(stock=(True, 100, 2), ours=(False, 0, 2))
def test_l17_streams_of_protocols(side: Side) -> tuple[bool, int, int]:
    """Three observations.

    * Whether a later limit of one admits a second stream.
    * Entries that remain of peers without streams.
    * The peak after a limit denied the second of two streams, which is transient in ours before.
    """
    manager = side()
    manager.acquire_scoped_stream("a", IN, protocol="x")
    manager.set_protocol_stream_limit("x", 1)
    second = manager.acquire_scoped_stream("b", IN, protocol="x")
    manager = side()
    manager.set_protocol_peer_stream_limit("y", 1)
    for number in range(100):
        assert manager.acquire_scoped_stream(str(number), IN, protocol="y")
        manager.release_scoped_stream(str(number), IN, protocol="y")
    kept = manager._protocol_peer_stream_counts if side.is_stock else manager.ledger.peers()
    manager = side()
    manager.set_protocol_stream_limit("z", 1)
    for _ in range(2):
        manager.acquire_scoped_stream("a", IN, protocol="z")
    return second, len(kept), manager.metrics.get_summary()["streams"]["peak"]


# -- limits that exist and are not enforced -----------------------------------------------------


@outcomes(stock=True, ours=True)
def test_e10_names_have_no_address(side: Side) -> bool:
    """The swarm reports no address for /dns names, so that no limit on addresses applies."""
    return acquired(side(cidr_limits=[("0.0.0.0/0", 0)]), "", None, "outbound") is True


@outcomes(stock=(0, 1), ours=(0, 1))
def test_e13_an_unknown_direction_is_outbound(side: Side) -> tuple[int, int]:
    manager = side()
    scope = manager.open_connection(None, None, "unknown")
    assert scope is not None
    connections = manager.metrics.get_summary()["connections"]
    return connections["inbound"], connections["outbound"]


# -- rates, as a manager asks them --------------------------------------------------------------


@outcomes(
    stock={"text": 5, "ID": 100, "no id": 100, "nobody": 100},
    ours={"text": 5, "ID": 5, "no id": 5, "nobody": 100})
def test_r2_a_peer_under_several_names(side: Side) -> dict[str, int]:
    """Connections that are admitted of 100, where the rate allows 5, by the name of the peer."""
    names: dict[str, Any] = {"text": str(PEER), "ID": PEER, "no id": "alice", "nobody": ""}
    return {
        kind: sum(manager.acquire_connection(name) for _ in range(100))
        for kind, name in names.items()
        for manager in [side(connections_per_peer_per_sec=1e-6, burst_connections_per_peer=5)]
    }


@outcomes(stock=5, ours=0)
def test_r3_many_new_peers(side: Side) -> int:
    """More connections of a peer that has spent its five, after 1,000 other peers connected."""
    manager = side(
        ResourceLimits(max_connections=10_000), connections_per_peer_per_sec=1e-6,
        burst_connections_per_peer=5)
    for _ in range(5):
        assert manager.acquire_connection(str(PEER))
    for number in range(1000):
        manager.acquire_connection(str(ID(b"\x12\x20" + number.to_bytes(32, "big"))))
    return sum(manager.acquire_connection(str(PEER)) for _ in range(10))


@outcomes(stock={-3600: False, 3600: True}, ours={-3600: True, 3600: False})
def test_r11_a_jump_of_the_wall_clock(side: Side) -> dict[int, bool]:
    """Whether a peer that spent its one token may connect, 0.1 s after a jump of one hour.

    The rate is one token a millisecond, or one token an hour if the clock goes forward.
    """
    wall = time.time
    found = {}
    for jump, rate in ((-3600, 1000.0), (3600, 1 / 3600)):
        manager = side(connections_per_peer_per_sec=rate, burst_connections_per_peer=1)
        assert manager.acquire_connection(str(PEER))
        with mock.patch("time.time", lambda jump=jump: wall() + jump):
            time.sleep(0.1)
            found[jump] = manager.acquire_connection(str(PEER))
    return found


@outcomes(stock=True, ours="RuntimeError")
def test_r14_an_error_in_a_limiter(side: Side) -> Any:
    """The answer that a caller gets. In 0.8.1, races between threads raise such errors."""
    manager = side()
    with mock.patch.object(RateLimiter, "try_allow", side_effect=RuntimeError):
        if not side.is_stock:
            failing = mock.Mock(try_consume=mock.Mock(side_effect=RuntimeError))
            manager._admission.peer_rates = failing
        return acquired(manager, str(PEER))


def test_r14_ours_is_exact_in_threads() -> None:
    manager = Side("ours")(connections_per_peer_per_sec=1e-6, burst_connections_per_peer=500)

    def ask(number: int) -> int:
        return sum(manager.acquire_connection(str(PEER)) for _ in range(500))

    assert sum(in_threads(ask)) == 500


@outcomes(stock={"dialled": False, "denied": False}, ours={"dialled": True, "denied": False})
def test_r16_dials_and_refusals_spend_no_token(side: Side) -> dict[str, bool]:
    """Whether a peer may connect after we dialled it, and after another limit refused it.

    The rate allows one connection.
    """
    found = {}
    for case, way in (("dialled", "outbound"), ("denied", "inbound")):
        manager = side(
            connections_per_peer_per_sec=1e-6, burst_connections_per_peer=1,
            enable_graceful_degradation=False)
        manager.limits.max_connections = int(case == "dialled")
        assert manager.acquire_connection(str(PEER), None, way) == (case == "dialled")
        manager.limits.max_connections = 9
        found[case] = manager.acquire_connection(str(PEER))
    return found


# -- degradation, circuit breaker, close --------------------------------------------------------


@outcomes(stock=50, ours=100)
def test_d1_a_full_node(side: Side) -> int:
    """The limit of 100 connections, after it was reached."""
    manager = full(side, 100)
    assert not any(manager.acquire_connection() for _ in range(9))
    return int(manager.limits.max_connections)


@outcomes(stock=(800, 80), ours=(1000, 100))
def test_d2_recovery_of_connections(side: Side) -> tuple[int, int]:
    """The limits of 1,000 streams and 100 MiB, after connections have come and gone."""
    manager = full(side, 10, max_streams=1000, max_memory_mb=100)
    for _ in range(2):
        manager.acquire_connection()
    for _ in range(6):
        manager.release_connection()
    return manager.limits.max_streams, manager.limits.max_memory_bytes >> 20


@outcomes(stock="ZeroDivisionError", ours=None)
def test_d3_releasing_at_a_limit_of_zero(side: Side) -> str | None:
    manager = full(side, 1, max_streams=0)
    manager.acquire_connection()
    try:
        manager.release_connection()
    except ZeroDivisionError as error:
        return type(error).__name__
    return None


@outcomes(stock=(True, True), ours=(False, False))
def test_d4_zero_means_zero(side: Side) -> tuple[bool, bool]:
    """Whether limits of 0 admit a connection and 1 MiB."""
    nothing = ResourceLimits(max_connections=0, max_memory_mb=0)
    return side(nothing).acquire_connection(), side(nothing).acquire_memory(1 << 20)


@outcomes(stock=(10, 1 << 20), ours=(50, 1_500_000))
def test_d5_a_change_at_run_time(side: Side) -> tuple[int, int]:
    """The limits on connections and bytes of memory, after the node was full for a while."""
    limits = ResourceLimits(max_connections=10)
    limits.max_memory_bytes = 1_500_000
    manager = side(limits, enable_rate_limiting=False)
    manager.limits.max_connections = 50
    for _ in range(51):
        manager.acquire_connection()
    while manager._current_connections:
        manager.release_connection()
    return manager.limits.max_connections, manager.limits.max_memory_bytes


@outcomes(stock=10, ours=10)
def test_d6_streams_do_not_degrade(side: Side) -> int:
    manager = side(ResourceLimits(max_streams=10))
    assert sum(manager.acquire_stream("a", IN) for _ in range(20)) == 10
    return int(manager.limits.max_streams)


@outcomes(stock=False, ours=True)
def test_d7_an_open_breaker(side: Side) -> bool | str:
    """Whether connections are admitted after the metrics work again."""
    metrics = Broken()
    manager = side(metrics=metrics)
    if side.is_stock:
        manager.circuit_breaker.timeout = 0.01
    for _ in range(5):
        acquired(manager)
    metrics.working = True
    time.sleep(0.1)
    return acquired(manager)


@outcomes(stock=False, ours=True)
def test_d8_rare_failures(side: Side) -> bool | str:
    """Whether connections are admitted after five failures, each after 100 successes."""
    metrics = Broken()
    manager = side(metrics=metrics)
    for _ in range(5):
        metrics.working = True
        for _ in range(100):
            assert acquired(manager) is True
        metrics.working = False
        acquired(manager)
    metrics.working = True
    return acquired(manager)


@outcomes(stock=["ResourceScopeClosed"] * 5 + [False], ours=["ResourceScopeClosed"] * 6)
def test_d9_asking_a_closed_manager(side: Side) -> list[bool | str]:
    manager = side()
    manager.close()
    return [acquired(manager) for _ in range(6)]


# -- metrics, pools ----------------------------------------------------------------------------


def samples(exporter: PrometheusExporter, name: str, **labels: str) -> float:
    """The sum of a metric over all samples that have these labels."""
    return sum(
        sample.value
        for family in exporter.registry.collect()
        for sample in family.samples
        if sample.name == name and sample.labels.items() >= labels.items()
    )


@outcomes(stock=2, ours=1)
def test_m1_one_denied_connection(side: Side) -> float:
    exporter = PrometheusExporter(enable_server=False)
    manager = side(ResourceLimits(max_connections=0), prometheus_exporter=exporter,
                   enable_graceful_degradation=False)
    assert not manager.acquire_connection()
    assert manager.acquire_memory(1)
    return samples(exporter, "libp2p_rcmgr_blocked_resources", resource="connection")


@outcomes(stock=0, ours=1)
def test_m2_an_exporter_without_metrics(side: Side) -> float:
    """Connections that the exporter shows."""
    exporter = PrometheusExporter(enable_server=False)
    manager = side(enable_metrics=False, prometheus_exporter=exporter)
    assert manager.acquire_connection()
    return samples(exporter, "libp2p_rcmgr_connections", scope="system")


@outcomes(stock=set(), ours={"connection_pool", "memory_pool"})
def test_m5_empty_pools(side: Side) -> set[str]:
    """The pools that get_stats shows."""
    stats = side(enable_connection_pooling=True, enable_memory_pooling=True).get_stats()
    return {"connection_pool", "memory_pool"} & set(stats)


# -- the documentation --------------------------------------------------------------------------

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs" / "differences.md"


@pytest.mark.skipif(not DOCS.exists(), reason="of a checkout")
def test_the_documentation_names_each_difference_and_its_proof() -> None:
    text = DOCS.read_text()
    tests = {
        name: file.name for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)}
    named = set(re.findall(r"`(test_[^`]+)(?<!\.py)`", text))
    assert named <= set(tests), named - set(tests)
    ours = {name for name, file in tests.items()
            if file == "test_differences.py"
            and re.match(r"test_[ledmx]\d+_", name)}  # others prove rates and allowlists
    assert ours <= named, ours - named
    rows = set(re.findall(r"^\| ([A-Z]\d+)\b", text, re.MULTILINE))
    assert {name.split("_")[1].upper() for name in ours} <= rows
    for row in re.findall(r"^\| [A-Z]\d+ S\d \|.*$", text, re.MULTILINE):
        assert re.search(r"`test_\w+`|`tests/[\w/.]+`", row.split("|")[-2]), row
