"""Several hosts share one manager, and each one touches only its own connections."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing
from swarm import Swarm, check_nothing_held, finish

from rcmgr import ConnectionLifecycleManager, ConnectionLimits, ConnectionTracker, ResourceManager
from rcmgr.admission.hosts import Hosts

PEERS = [bytes([number]) * 8 for number in range(8)]
PEER = PEERS[0]


class Caller:
    """Calls its manager's `reconcile_live_connections` as py-libp2p's swarm does."""

    def __init__(self, manager: ResourceManager) -> None:
        self.lifecycle = manager.connection_lifecycle
        self.live: set[str] = set()
        self.background_nursery: Any = None

    def reconcile(self, age: float = 0.0) -> int:
        return self.lifecycle.reconcile_live_connections(self.live, age)

    def connect(self, name: str, peer: bytes = PEER) -> None:
        self.reconcile()
        finish(self.lifecycle.handle_established_inbound_connection(name, peer))
        self.live.add(name)

    def lose(self, name: str) -> None:
        """Lose a connection without a report."""
        self.live.discard(name)


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager()


@pytest.fixture
def hosts(manager: ResourceManager) -> list[Caller]:
    return [Caller(manager) for _ in range(3)]


def ids(manager: ResourceManager) -> set[Any]:
    return set(manager.connection_tracker.established_inbound)


def test_the_reports_of_another_host() -> None:
    """The sample of the issue."""
    manager = ResourceManager(connection_limits=ConnectionLimits(max_established_inbound=1))
    lifecycle = manager.connection_lifecycle
    one = manager.open_connection(None, "203.0.113.1", "inbound")
    trio.run(lifecycle.handle_established_inbound_connection, "id1", PEER)
    assert lifecycle.reconcile_live_connections({"id of host two"}, 0.0) == 0
    assert ids(manager) == {"id1"}
    assert lifecycle.reconcile_live_connections({"id1"}, 0.0) == 0
    assert lifecycle.reconcile_live_connections(set(), 0.0) == 1
    assert one is not None
    one.close()
    check_nothing_held(manager)


def test_hosts_forget_only_their_own(manager: ResourceManager, hosts: list[Caller]) -> None:
    for number, host in enumerate(hosts):
        for name in "ab":
            host.connect(f"{number}{name}")
    assert [host.reconcile() for host in hosts] == [0, 0, 0]
    hosts[0].lose("0a")
    assert [hosts[each].reconcile() for each in (1, 2, 0, 0)] == [0, 0, 1, 0]
    hosts[1].lose("1a")
    hosts[1].lose("1b")
    hosts[2].connect("2c")
    assert ids(manager) == {"0b", "1a", "1b", "2a", "2b", "2c"}
    hosts[1].connect("1c")
    assert ids(manager) == {"0b", "1c", "2a", "2b", "2c"}


def test_a_host_without_connections(manager: ResourceManager, hosts: list[Caller]) -> None:
    one, two, _ = hosts
    one.connect("a")
    assert two.reconcile() == 0
    one.lose("a")
    assert two.reconcile() == 0
    assert one.reconcile() == 1


def test_young_connections_stay(manager: ResourceManager, hosts: list[Caller]) -> None:
    one, two, _ = hosts
    one.connect("a")
    two.connect("b")
    two.lose("b")
    assert two.reconcile(30) == 0
    assert two.reconcile(0) == 1
    with pytest.raises(ValueError, match="min_age_seconds"):
        two.reconcile(-1)


def test_the_age_of_a_connection_is_in_seconds() -> None:
    now = [10**15]
    manager = ResourceManager()
    tracker = ConnectionTracker(clock=lambda: now[0])
    hosts = Hosts(tracker)
    lifecycle = ConnectionLifecycleManager(tracker, ConnectionLimits())
    one, two = Caller(manager), Caller(manager)
    for caller, name in ((one, "a"), (two, "b")):
        hosts.reconcile(caller, set(), 0.0)
        finish(lifecycle.handle_established_inbound_connection(name, PEER))
        hosts.note_report(name)
    now[0] += 29 * 10**9
    assert hosts.reconcile(two, set(), 30.0) == 0
    now[0] += 10**9 + 1000
    assert hosts.reconcile(two, set(), 30.0) == 1


def test_connections_of_a_host_that_is_gone(manager: ResourceManager) -> None:
    """An unknown caller owns them."""
    one, two = Caller(manager), Caller(manager)
    one.connect("a")
    two.connect("b")
    del two
    gc.collect()
    assert one.reconcile() == 0
    assert manager.connection_lifecycle.reconcile_live_connections(set(), 0.0) == 1
    assert ids(manager) == {"a"}


def test_an_id_that_another_host_uses_again(
    manager: ResourceManager, hosts: list[Caller]
) -> None:
    one, two, _ = hosts
    one.connect("a")
    two.connect("b")
    manager.connection_lifecycle.notify_connection_closed("b", PEER)
    two.lose("b")
    one.connect("b")
    assert two.reconcile() == 0
    assert ids(manager) == {"a", "b"}


def test_a_caller_that_is_unknown(manager: ResourceManager, hosts: list[Caller]) -> None:
    one, two, _ = hosts
    one.connect("a")
    two.connect("b")
    lifecycle = manager.connection_lifecycle
    finish(lifecycle.handle_established_inbound_connection("mine", PEER))
    for live in ({"a"}, {"b"}, {"else"}, {"mine"}):
        assert lifecycle.reconcile_live_connections(live, 0.0) == 0
    assert one.reconcile() == two.reconcile() == 0
    assert lifecycle.reconcile_live_connections(set(), 0.0) == 1
    assert ids(manager) == {"a", "b"}


def test_one_host_after_another(manager: ResourceManager) -> None:
    """A host that is gone leaves no second host behind."""
    for name in "abc":
        host = Caller(manager)
        host.connect(name)
        assert ids(manager) == {name}
        del host
        gc.collect()
    assert not manager.connection_lifecycle._hosts.are_several


def test_hosts_come_and_go(manager: ResourceManager) -> None:
    stays = Caller(manager)
    stays.connect("stays")
    for number in range(50):
        host = Caller(manager)
        host.connect(f"{number}")
        host.lose(f"{number}")
        assert host.reconcile() == 1
        del host
        gc.collect()
    assert len(manager.connection_lifecycle._hosts._hosts) <= 4
    assert ids(manager) == {"stays"}


def test_a_lifecycle_manager_of_its_own() -> None:
    lifecycle = ConnectionLifecycleManager(ConnectionTracker(), ConnectionLimits())
    finish(lifecycle.handle_established_inbound_connection("a", PEER))
    assert lifecycle.reconcile_live_connections({"b"}, 0.0) == 0
    assert lifecycle.reconcile_live_connections({"a", "b"}, 0.0) == 0
    assert lifecycle.reconcile_live_connections((), 0.0) == 1


@pytest.mark.parametrize("transport", ["tcp", "ws", "quic"])
async def test_swarms_that_share_a_manager(transport: str) -> None:
    manager = ResourceManager()
    swarms = [Swarm(manager) for _ in range(3)]
    for number in range(4):
        for swarm in swarms:
            await swarm.connect(PEERS[number], transport=transport)
            assert len(manager.connection_tracker) == sum(len(each.live) for each in swarms)
    for swarm in swarms:
        for connection in list(swarm.live.values()):
            swarm.disconnect(connection)
    check_nothing_held(manager)


@contextmanager
def known_callers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    asked: list[bool] = []
    original = Hosts.must_know_caller

    def must_know(hosts: Hosts, live: Any) -> bool:
        asked.append(original(hosts, live))
        return asked[-1]

    monkeypatch.setattr(Hosts, "must_know_caller", must_know)
    yield asked


def test_one_host_is_looked_up_once(
    manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Caller(manager)
    with known_callers(monkeypatch) as asked:
        for number in range(5):
            host.connect(f"{number}")
    assert asked == [True, False, False, False, False]


# -- the end of a host ---------------------------------------------------------------------------


async def test_the_end_of_one_host(manager: ResourceManager, hosts: list[Caller]) -> None:
    watch = manager.graceful_degradation.run_periodic_recovery
    one, two, _ = hosts
    async with trio.open_nursery() as outer:
        two.background_nursery = outer
        outer.start_soon(watch)
        async with trio.open_nursery() as inner:
            one.background_nursery = inner
            inner.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            one.connect("1", PEERS[1])
            two.connect("2", PEERS[2])
            one.connect("3", PEERS[3])
            two.connect("4", PEERS[3])
            for peer in (1, 1, 2, 3):
                assert manager.acquire_stream(PEERS[peer], "inbound")
                assert manager.acquire_stream(PEERS[peer], "outbound")
            inner.cancel_scope.cancel()
        assert ids(manager) == {"2", "4"}
        stats = manager.get_stats()
        assert stats["connections"] == stats["peers"] == 2
        assert stats["streams"] == 4  # peer 3 is connected to the other host too
        manager.release_stream(PEERS[1], "inbound")  # late
        assert manager.ledger.over_released == 0
        two.connect("5", PEERS[5])
        assert ids(manager) == {"2", "4", "5"}
        outer.cancel_scope.cancel()
    check_nothing_held(manager)


async def test_the_end_of_the_only_host_with_connections(
    manager: ResourceManager, hosts: list[Caller]
) -> None:
    watch = manager.graceful_degradation.run_periodic_recovery
    one, two, _ = hosts
    async with trio.open_nursery() as outer:
        two.background_nursery = outer
        outer.start_soon(watch)
        async with trio.open_nursery() as inner:
            one.background_nursery = inner
            inner.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            one.connect("1")
            inner.cancel_scope.cancel()
        assert ids(manager) == set()
        two.connect("2")
        async with trio.open_nursery() as inner:  # a host that has no connection
            inner.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        assert ids(manager) == {"2"}
        outer.cancel_scope.cancel()
    check_nothing_held(manager)
