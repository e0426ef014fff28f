from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import base58
import pytest
import trio
from libp2p_values import ID, Direction
from libp2p_values import ResourceScopeClosed as UpstreamScopeClosed
from swarm import TRANSPORTS, Refused, Swarm, check_nothing_held, counts

from rcmgr import (
    ConnectionLimits,
    ConnectionScope,
    MemoryReservationExceeded,
    ResourceLimits,
    ResourceManager,
    ResourceScopeClosed,
    StreamLimitExceeded,
)

# peer ids of keys: an inlined ed25519 key, and the hash of an RSA key
PEER = ID(b"\x00\x24\x08\x01\x12\x20" + bytes(range(32)))
RSA_PEER = ID(b"\x12\x20" + bytes(range(32)))
OTHER = ID(b"\x00\x24\x08\x01\x12\x20" + bytes(range(1, 33)))
NOTHING = ConnectionLimits(0, 0, 0, 0, 0, 0)


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager()


def open_scope(manager: ResourceManager, *args: Any, **kwargs: Any) -> ConnectionScope:
    scope = manager.open_connection(*args, **kwargs)
    assert scope is not None
    return scope


# -- connections ---------------------------------------------------------------------------------


def test_open_and_close_a_connection(manager: ResourceManager) -> None:
    scope = open_scope(manager, PEER, "127.0.0.1", "inbound")
    assert manager.get_stats()["connections"] == 1
    assert manager.get_stats()["peers"] == 1
    scope.close()
    scope.close()
    check_nothing_held(manager)


@pytest.mark.parametrize(
    ("direction", "inbound"),
    [
        ("inbound", True),
        ("INBOUND", True),
        (Direction.INBOUND, True),
        ("outbound", False),
        (Direction.OUTBOUND, False),
        (Direction.UNKNOWN, False),
        ("unknown", False),
    ],
)
def test_every_form_of_a_direction(manager: ResourceManager, direction: Any, inbound: bool) -> None:
    before = open_scope(manager, None, direction=direction)
    assert counts(manager) == ((1, 0, 0, 0) if inbound else (0, 1, 0, 0))
    after = open_scope(manager, peer_id=PEER, direction=direction)
    assert counts(manager) == ((0, 0, 1, 0) if inbound else (0, 0, 0, 1))
    before.close()
    after.close()
    assert manager.acquire_stream(PEER, direction)
    manager.release_stream(PEER, direction)
    check_nothing_held(manager)


@pytest.mark.parametrize("direction", [None, "inbuond", "", 3])
def test_a_wrong_direction_takes_nothing(manager: ResourceManager, direction: Any) -> None:
    for ask in (
        lambda: manager.open_connection(None, direction=direction),
        lambda: manager.open_connection(PEER, direction=direction),
        lambda: manager.acquire_stream(PEER, direction),
    ):
        with pytest.raises(ValueError, match="direction must be 'inbound'"):
            ask()
    check_nothing_held(manager)


def test_denials_are_return_values_and_are_noted() -> None:
    manager = ResourceManager(connection_limits=NOTHING)
    assert manager.last_denial is None
    assert manager.open_connection(None, endpoint_ip="10.0.0.1", direction="inbound") is None
    assert str(manager.last_denial) == (
        "Connection limit exceeded: pending_inbound (current: 0, limit: 0); address 10.0.0.1; "
        "see ConnectionLimits.max_pending_inbound")
    assert manager.open_connection(PEER, direction="outbound") is None
    error: Any = manager.last_denial
    assert (error.kind.value, error.peer_id) == ("established_outbound", PEER)
    assert manager.get_stats()["denied"] == {"pending_inbound": 1, "established_outbound": 1}
    assert [denial.kind.value for denial in manager.denials] == [  # type: ignore[attr-defined]
        "pending_inbound", "established_outbound"]
    check_nothing_held(manager)


def test_max_connections_of_one_admits_one() -> None:
    manager = ResourceManager(limits=ResourceLimits(max_connections=1))
    for _ in range(3):
        before = open_scope(manager, None)
        assert manager.open_connection(None) is None
        after = open_scope(manager, PEER)
        before.close()
        assert manager.open_connection(OTHER) is None
        assert manager.open_connection(None) is None
        assert manager.get_stats()["connections"] == 1
        after.close()
    check_nothing_held(manager)
    assert manager.get_stats()["peak_connections"] == 1
    assert manager.get_stats()["denied"] == {"system connection": 9}


def test_max_connections_of_zero() -> None:
    manager = ResourceManager(limits=ResourceLimits(max_connections=0))
    assert manager.open_connection(None) is None
    assert manager.open_connection(PEER) is None


def test_no_limit_on_connections() -> None:
    manager = ResourceManager(limits=ResourceLimits(max_connections=None))
    scopes = [open_scope(manager, PEER) for _ in range(2000)]
    assert manager.get_stats()["connections"] == 2000
    for scope in scopes:
        scope.close()
    check_nothing_held(manager)


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.libp2p
def test_default_limits_are_upstreams() -> None:
    from libp2p.rcmgr import ResourceLimits as Stock

    ours, stock = ResourceLimits(), Stock()
    assert ours.max_connections == stock.max_connections
    assert ours.max_memory_bytes == stock.max_memory_bytes
    assert ours.max_streams == stock.max_streams


@pytest.mark.parametrize("name", ["max_connections", "max_memory_mb", "max_streams"])
def test_resource_limits_are_checked(name: str) -> None:
    wrong: Any
    for wrong in (True, 1.0, "1", [1]):
        with pytest.raises(TypeError, match=name):
            ResourceLimits(**{name: wrong})
    with pytest.raises(ValueError, match=f"{name}.*-1"):
        ResourceLimits(**{name: -1})
    if name == "max_streams":
        with pytest.raises(TypeError, match="max_streams"):
            ResourceLimits(max_streams=None)  # type: ignore[arg-type]
    else:
        ResourceLimits(**{name: None})
    ResourceManager(limits=ResourceLimits(**{name: 0}))
    # as good as no limit
    manager = ResourceManager(limits=ResourceLimits(**{name: 1 << 70}))
    assert manager.acquire_stream(PEER, Direction.INBOUND)
    assert manager.acquire_memory(1000)
    assert manager.open_connection(PEER) is not None


def test_memory_limit_in_bytes() -> None:
    assert ResourceLimits(max_memory_mb=3).max_memory_bytes == 3 * 1024 * 1024
    assert ResourceLimits(max_memory_mb=None).max_memory_bytes is None


@pytest.mark.parametrize("wrong", [5, {}, "limits"])
def test_limits_of_a_wrong_type(manager: ResourceManager, wrong: Any) -> None:
    with pytest.raises(TypeError, match="ConnectionLimits"):
        manager.connection_limits = wrong
    with pytest.raises(TypeError, match="ResourceLimits"):
        manager.limits = wrong
    with pytest.raises(TypeError):
        ResourceManager(limits=wrong)
    with pytest.raises(TypeError):
        ResourceManager(connection_limits=wrong)
    assert manager.connection_limits == ConnectionLimits()
    assert manager.limits == ResourceLimits()


def test_connection_limits_at_run_time(manager: ResourceManager) -> None:
    scopes = [open_scope(manager, PEER) for _ in range(3)]
    manager.connection_limits = ConnectionLimits(max_established_per_peer=2)
    assert manager.connection_lifecycle.limits == manager.connection_limits
    assert counts(manager) == (0, 0, 3, 0)  # existing connections stay
    assert manager.open_connection(PEER) is None
    for scope in scopes[:2]:
        scope.close()
    scopes.append(open_scope(manager, PEER))
    assert manager.open_connection(PEER) is None
    for scope in scopes:
        scope.close()
    check_nothing_held(manager)


def test_node_limits_at_run_time(manager: ResourceManager) -> None:
    scopes = [open_scope(manager, PEER) for _ in range(3)]
    for _ in range(3):
        assert manager.acquire_stream(PEER, "inbound")
    assert manager.acquire_memory(2 << 20)
    manager.limits = ResourceLimits(max_connections=3, max_memory_mb=2, max_streams=3)
    assert manager.open_connection(None) is None
    assert not manager.acquire_stream(PEER, "inbound")
    assert not manager.acquire_memory(1)
    manager.limits = ResourceLimits(max_connections=4, max_memory_mb=3, max_streams=4)
    scopes.append(open_scope(manager, None))
    assert manager.acquire_stream(PEER, "inbound")
    assert manager.acquire_memory(1 << 20)
    assert not manager.acquire_stream(PEER, "inbound")
    limits = manager.get_stats()["limits"]
    assert (limits["max_connections"], limits["max_memory_bytes"], limits["max_streams"]) == (
        4, 3 << 20, 4)


# -- allowlist -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [PEER, PEER.to_bytes(), PEER.to_base58(), str(PEER), RSA_PEER, RSA_PEER.to_base58()],
    ids=["ID", "bytes", "base58", "str", "RSA ID", "RSA text"],
)
def test_an_allowed_peer_by_every_name(name: Any) -> None:
    peer = RSA_PEER if "Qm" in str(name) else PEER
    limits = ResourceLimits(max_connections=0, max_streams=0)
    manager = ResourceManager(limits=limits, connection_limits=NOTHING, allowlist=[name])
    for direction in ("inbound", "outbound"):
        for each in (peer, peer.to_bytes(), peer.to_base58()):
            scope = open_scope(manager, each, direction=direction)
            assert manager.connection_tracker.get_peer_connection_count(peer) == 1
            scope.close()
            assert manager.acquire_stream(each, direction)
            manager.release_stream(each, direction)
        assert manager.open_connection(OTHER, direction=direction) is None
        assert not manager.acquire_stream(str(OTHER), direction)
    check_nothing_held(manager)
    assert manager.remove_allowed_peer(name) is True
    assert manager.remove_allowed_peer(name) is False
    assert manager.open_connection(peer) is None
    manager.add_allowed_peer(name)
    assert manager.open_connection(peer) is not None


@pytest.mark.parametrize("wrong", ["12D3KooWpeer", b"peer"])
def test_an_allowlist_that_is_a_single_peer(wrong: Any) -> None:
    with pytest.raises(TypeError, match="allowlist"):
        ResourceManager(allowlist=wrong)


@pytest.mark.parametrize(
    "name", ["", "alice", "Qm", "Q" * 46, "12D3KooW" + "0" * 44, "Qm" + "l" * 44]
)
def test_text_that_is_no_peer_id_is_a_name(name: str) -> None:
    """0, O, I and l are not in base58's alphabet."""
    with pytest.raises(ValueError, match="not a peer id, address or network"):
        ResourceManager(allowlist=[name])
    manager = ResourceManager(connection_limits=NOTHING)
    manager.add_allowed_peer(name)
    assert manager.open_connection(name) is not None
    assert manager.open_connection(PEER) is None


def test_text_and_id_are_one_peer(manager: ResourceManager) -> None:
    manager.connection_limits = ConnectionLimits(max_established_per_peer=1)
    first = open_scope(manager, base58.b58encode(PEER.to_bytes()).decode())
    assert manager.open_connection(PEER) is None
    first.close()
    assert manager.open_connection(PEER) is not None


# -- streams and memory --------------------------------------------------------------------------


def test_the_limit_of_streams(manager: ResourceManager) -> None:
    manager.limits = ResourceLimits(max_streams=2)
    assert manager.acquire_stream(str(PEER), Direction.INBOUND)
    assert manager.acquire_stream(str(PEER), Direction.OUTBOUND)
    assert not manager.acquire_stream(str(PEER), Direction.INBOUND)
    error = manager.last_denial
    assert isinstance(error, StreamLimitExceeded)
    assert (error.limit, error.current, error.resource, error.peer_id) == (
        2, 2, "stream", PEER.to_bytes())
    manager.release_stream(str(PEER), Direction.INBOUND)
    assert manager.acquire_stream(str(OTHER), "outbound")
    stats = manager.get_stats()
    assert (stats["streams"], stats["peak_streams"]) == (2, 2)
    assert stats["denied"] == {"system stream": 1}
    for _ in range(3):
        manager.release_stream(str(PEER), Direction.OUTBOUND)
    assert manager.get_stats()["streams"] == 1
    assert manager.get_stats()["over_released"] == 2  # one peer cannot give back another's
    manager.release_stream(str(OTHER), "outbound")
    assert manager.get_stats()["streams"] == 0


def test_the_limit_of_memory(manager: ResourceManager) -> None:
    manager.limits = ResourceLimits(max_memory_mb=1)
    assert manager.acquire_memory(1 << 20)
    assert not manager.acquire_memory(1)
    error = manager.last_denial
    assert isinstance(error, MemoryReservationExceeded)
    assert (error.limit, error.current, error.requested) == (1 << 20, 1 << 20, 1)
    assert manager.acquire_memory(0)
    manager.release_memory(1 << 20)
    assert manager.get_stats()["memory_bytes"] == 0
    assert manager.get_stats()["peak_memory_bytes"] == 1 << 20
    manager.release_memory(5)
    assert manager.get_stats()["over_released"] == 5
    wrong: Any
    for wrong in (-1, -(1 << 20)):
        with pytest.raises(ValueError, match="0 or more"):
            manager.acquire_memory(wrong)
        with pytest.raises(ValueError, match="0 or more"):
            manager.release_memory(wrong)
    for wrong in (0.5, "1", None):
        with pytest.raises(TypeError):
            manager.acquire_memory(wrong)
    assert manager.get_stats()["memory_bytes"] == 0


# -- stats ---------------------------------------------------------------------------------------


def test_get_stats(manager: ResourceManager) -> None:
    scopes = [open_scope(manager, PEER), open_scope(manager, OTHER, direction="outbound"),
              open_scope(manager, None, direction="outbound"), open_scope(manager, None)]
    manager.acquire_stream(PEER, "inbound")
    manager.acquire_memory(100)
    stats = manager.get_stats()
    assert stats["connections"] == 4
    assert (stats["streams"], stats["memory_bytes"], stats["peers"]) == (1, 100, 2)
    assert counts(manager) == (1, 1, 1, 1)
    assert stats["limits"] == {
        "max_connections": 1000, "max_memory_bytes": 512 << 20, "max_streams": 10000,
        **ConnectionLimits().to_dict(),
    }
    assert json.loads(json.dumps(stats)) == stats
    assert repr(manager) == (
        "ResourceManager(ConnectionTracker(pending=2, established=2), streams=1)"
    )
    del scopes


@pytest.mark.libp2p
def test_get_stats_has_upstreams_keys(manager: ResourceManager) -> None:
    from libp2p.rcmgr import ResourceManager as StockManager

    stats, stock = manager.get_stats(), StockManager().get_stats()
    for key in ("connections", "memory_bytes", "streams"):
        assert type(stats[key]) is type(stock[key])
    assert set(stock["limits"]) <= set(stats["limits"])


def test_the_attributes_that_the_swarm_reads(manager: ResourceManager) -> None:
    """libp2p 0.8.1, network/swarm.py: all attributes that it touches."""
    assert isinstance(manager.limits.max_streams, int)
    assert callable(manager.graceful_degradation.run_periodic_recovery)
    lifecycle = manager.connection_lifecycle
    assert lifecycle.reconcile_live_connections(set()) == 0
    for kind in ("established_outbound", "established_inbound", "established_total"):
        assert lifecycle.tracker.get_connection_count(kind) == 0
    assert lifecycle.tracker.get_peer_connection_count(PEER) == 0
    scope = open_scope(manager, None, endpoint_ip="127.0.0.1", direction="outbound")
    # with this attribute QUIC would reserve a mebibyte per stream
    assert not hasattr(scope, "_resource_manager")
    muxed = SimpleNamespace(_resource_scope=scope)
    assert muxed._resource_scope
    scope.close()


# -- the end -------------------------------------------------------------------------------------


def test_a_closed_manager() -> None:
    manager = ResourceManager()
    scopes = [open_scope(manager, None), open_scope(manager, PEER)]
    manager.acquire_stream(PEER, "inbound")
    manager.acquire_memory(10)
    assert not manager.closed
    manager.close()
    manager.close()
    assert manager.closed
    check_nothing_held(manager)
    # the swarm takes an exception from open_connection for consent, so that it is a denial
    assert manager.open_connection(None) is None
    assert manager.open_connection(PEER) is None
    calls: list[Callable[[], Any]] = [
        lambda: manager.acquire_stream(PEER, "inbound"), lambda: manager.acquire_memory(1)]
    for call in calls:
        with pytest.raises(ResourceScopeClosed):
            call()
        with pytest.raises(UpstreamScopeClosed):
            call()
    for scope in scopes:
        assert scope.closed
        scope.close()
    manager.release_stream(PEER, "inbound")
    manager.release_memory(10)
    manager.connection_lifecycle.notify_connection_closed("c", PEER)
    check_nothing_held(manager)


# -- a swarm at work -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_a_flood_of_tasks_under_limits(seed: int) -> None:
    """Tasks of all transports and directions; some are cancelled, some fail, some drop all."""
    limits = ConnectionLimits(8, 7, 9, 8, 3, 14)
    manager = ResourceManager(limits=ResourceLimits(max_connections=25), connection_limits=limits)
    tracker = manager.connection_tracker
    chance = random.Random(seed)
    admitted = 0

    async def pause() -> None:
        for _ in range(chance.randrange(3)):
            await trio.lowlevel.checkpoint()
        snapshot = tracker.snapshot()
        assert snapshot.pending_inbound <= 8
        assert snapshot.pending_outbound <= 7
        assert snapshot.established_inbound <= 9
        assert snapshot.established_outbound <= 8
        assert snapshot.established_total <= 14
        assert len(tracker) <= 25
        if chance.random() < 0.05:
            raise OSError("reset")

    async def one_connection(swarm: Swarm, number: int) -> None:
        nonlocal admitted
        transport = chance.choice(TRANSPORTS)
        direction = chance.choice(("inbound", "outbound"))
        with trio.CancelScope() as scope, suppress(Refused, OSError):
            if chance.random() < 0.2:
                scope.cancel()
            connection = await swarm.connect(b"peer %d" % (number % 9), direction, transport)
            admitted += 1
            assert connection.scope.connection_id == connection.id
            await pause()

    async def peer(number: int) -> None:
        swarm = Swarm(manager, pause)
        for _ in range(6):
            # a swarm has a task for each
            async with trio.open_nursery() as own:
                own.start_soon(one_connection, swarm, number)
            for each in list(swarm.live.values()):
                swarm.disconnect(each)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(peer, number)
    # QUIC connections that were cancelled or failed between handler and scope
    manager.connection_lifecycle.reconcile_live_connections(set(), 0.0)
    gc.collect()
    check_nothing_held(manager)
    snapshot = tracker.snapshot()
    assert snapshot.peak_established_per_peer <= 3
    assert snapshot.peak_connections <= 25
    assert snapshot.total_denied > 0
    assert admitted > 25


@pytest.mark.parametrize("kind", ["status", "metrics"])
def test_a_closed_server_is_forgotten(kind: str, tmp_path: Path) -> None:
    manager = ResourceManager()

    def serve() -> Any:
        if kind == "metrics":
            return manager.serve_metrics(0)
        return manager.serve_status(tmp_path / "s")

    server = serve()
    assert not server.closed
    server.close()
    assert server.closed
    former = weakref.ref(server)
    server = serve()
    gc.collect()
    assert former() is None
    manager.close()
    assert server.closed
