"""Our manager behind py-libp2p's constructor, methods and attributes.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
from libp2p.rcmgr import Direction
from libp2p.rcmgr import ResourceLimits as StockResourceLimits
from libp2p.rcmgr.allowlist import Allowlist as StockAllowlist
from libp2p.rcmgr.allowlist import AllowlistConfig
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockConnectionLimits
from libp2p.rcmgr.connection_limits import new_connection_limits_with_defaults
from libp2p.rcmgr.exceptions import ResourceScopeClosed
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.memory_limits import MemoryConnectionLimits as StockMemoryLimits
from libp2p.rcmgr.metrics import Metrics, MetricType
from rate_limiters import NEVER, granted, peer
from stock_and_ours import OTHER, PEER, established, managers

import rcmgr
from rcmgr import NodeLimits, PeerRates, ProcessMemoryLimits, Rate, SubnetLimits
from rcmgr import ResourceLimits as OurLimits
from rcmgr.libp2p.dropin.cidr_limits import CIDRLimiter
from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker
from rcmgr.libp2p.dropin.manager import ResourceLimits, ResourceManager
from rcmgr.libp2p.dropin.memory_limits import MemoryConnectionLimits

# attributes of py-libp2p's manager that no host uses
WITHOUT = {"connection_rate_limiter"}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
    ]


def test_the_constructor_takes_the_same_arguments() -> None:
    assert parameters(ResourceManager) == parameters(StockManager)


@pytest.mark.parametrize(
    "name", [name for name, _ in inspect.getmembers(StockManager, inspect.isfunction)
             if not name.startswith("_")])
def test_every_method_takes_the_same_arguments(name: str) -> None:
    ours = parameters(getattr(ResourceManager, name))
    theirs = parameters(getattr(StockManager, name))
    assert [each[0] for each in ours][: len(theirs)] == [each[0] for each in theirs]
    assert all(each[2] is not inspect.Parameter.empty for each in ours[len(theirs):])


def test_every_attribute_exists() -> None:
    ours = ResourceManager()
    missing = {name for name in vars(StockManager()) if not name.startswith("_")
               and not hasattr(ours, name)}
    assert missing == WITHOUT


def test_limits_of_all_kinds() -> None:
    theirs = StockResourceLimits(max_connections=3, max_memory_mb=5, max_streams=7)
    manager = ResourceManager(theirs)
    assert vars(manager.limits).items() >= vars(theirs).items()
    system = manager.scope_limits.system
    assert (system.conns, system.memory, system.streams) == (3, 5 << 20, 7)
    manager.set_protocol_stream_limit("x", 2)
    manager.limits = StockResourceLimits(max_connections=4)
    assert manager.scope_limits.system.conns == 4
    assert manager.scope_limits.protocol["x"].streams == 2
    assert ResourceManager(OurLimits(9)).limits == OurLimits(9)
    assert ResourceManager(NodeLimits()).scope_limits == NodeLimits().scopes
    with pytest.raises(TypeError, match="limits must be ResourceLimits"):
        ResourceManager(object())


def test_limits_may_be_changed_in_place() -> None:
    given = ResourceLimits(max_connections=1)
    managers = [ResourceManager(given), ResourceManager(given), ResourceManager()]
    managers[1].limits = StockResourceLimits(max_connections=0)
    given.max_connections = 2
    managers[2].limits.max_memory_bytes = 5
    assert managers[0].limits is given
    assert [each.scope_limits.system.conns for each in managers] == [2, 0, 1000]
    assert managers[2].acquire_memory(5)
    assert not managers[2].acquire_memory(1)


def test_limits_of_a_whole_node() -> None:
    node = NodeLimits(
        connections=rcmgr.ConnectionLimits(max_pending_inbound=3), memory=ProcessMemoryLimits(7))
    manager = ResourceManager(node)
    assert manager.connection_limits.to_dict() == node.connections.to_dict()
    assert manager.memory_limits is not None
    assert (manager.memory_limits.max_bytes, manager.memory_limits.max_percentage) == (7, None)
    assert ResourceManager(NodeLimits()).memory_limits is None
    assert ResourceManager(node, enable_memory_limits=False).memory_limits is None
    free = ResourceManager(node, connection_limits=rcmgr.ConnectionLimits())
    assert free.connection_limits.to_dict() == rcmgr.ConnectionLimits().to_dict()


def test_the_defaults_are_those_of_libp2p() -> None:
    ours, theirs = ResourceManager(), StockManager()
    assert ours.limits.max_connections == theirs.limits.max_connections
    assert ours.limits.max_memory_bytes == theirs.limits.max_memory_bytes
    assert ours.limits.max_streams == theirs.limits.max_streams
    for name, limit in ours.connection_limits.to_dict().items():
        assert limit == getattr(theirs.connection_limits, name)
    assert ours.memory_limits is not None
    assert ours.memory_limits.max_percentage == (
        theirs.memory_limits.max_process_memory_percent or 0) / 100


def test_limits_on_states_and_memory_are_enforced() -> None:
    manager = ResourceManager(
        connection_limits=StockConnectionLimits(max_established_inbound=1),
        memory_limits=StockMemoryLimits(max_process_memory_bytes=1),
    )
    assert manager.connection_limits.max_established_inbound == 1
    assert manager.open_connection(PEER) is None  # 0.8.1 never asks
    manager = ResourceManager(
        connection_limits=rcmgr.ConnectionLimits(max_established_inbound=0),
        enable_memory_limits=False,
        memory_limits=StockMemoryLimits(max_process_memory_bytes=1))
    assert manager.memory_limits is None
    assert manager.open_connection(PEER) is None
    free = ResourceManager(enable_connection_tracking=False)
    assert free.connection_limits.to_dict() == rcmgr.ConnectionLimits().to_dict()


@pytest.mark.parametrize("make", [
    lambda config: {"allowlist_config": config},
    lambda config: {"allowlist": StockAllowlist(config)},
])
def test_the_allowlist_is_consulted(make: Any) -> None:
    config = AllowlistConfig(
        peers={PEER}, multiaddrs={"/ip4/192.0.2.1"}, peer_multiaddrs={(OTHER, "/ip4/192.0.2.2")})
    manager = ResourceManager(StockResourceLimits(max_connections=0), **make(config))
    assert manager.open_connection(PEER)
    assert manager.open_connection(None, "192.0.2.1")
    assert manager.open_connection(OTHER, "192.0.2.2")
    assert manager.open_connection(OTHER, "192.0.2.3") is None


def test_an_entry_without_effect_is_a_warning() -> None:
    config = AllowlistConfig(multiaddrs={"/dns4/example.org/tcp/1"})
    with pytest.warns(UserWarning, match="example.org.* admits no connection: missing ip address"):
        ResourceManager(allowlist_config=config)


def test_cidr_limits_apply_to_mapped_addresses() -> None:
    manager = ResourceManager(cidr_limits=[("10.0.0.0/8", 1), ("192.0.2.0/24", -3)])
    first = manager.open_connection(None, "10.0.0.1")
    assert first is not None
    assert manager.open_connection(None, "::ffff:10.0.0.2") is None
    assert manager.open_connection(None, "192.0.2.1") is None
    assert manager.open_connection(None, "203.0.113.1")
    first.close()
    assert manager.open_connection(None, "10.0.0.3")
    with pytest.raises(ValueError, match="nonsense"):
        ResourceManager(cidr_limits=[("nonsense", 1)])


def test_a_peer_has_one_rate_under_all_its_names() -> None:
    manager = ResourceManager(connections_per_peer_per_sec=1e-9, burst_connections_per_peer=3)
    got = [manager.acquire_connection(name) for name in (str(PEER), PEER, PEER.to_bytes(), PEER)]  # type: ignore[arg-type]
    assert got == [True, True, True, False]
    free = ResourceManager(enable_rate_limiting=False)
    assert all(free.acquire_connection(str(PEER)) for _ in range(100))


def test_a_peer_of_another_type_counts_by_its_text() -> None:
    class Peer:
        _bytes = None

        def __str__(self) -> str:
            return str(PEER)

    manager = ResourceManager(connection_limits=StockConnectionLimits(max_established_per_peer=1))
    scope = manager.open_connection(PEER)
    assert manager.open_connection(Peer()) is None
    assert scope is not None
    scope.close()
    scope = manager.open_connection(Peer())
    assert manager.connection_tracker.get_peer_connection_count(PEER) == 1
    assert scope is not None
    scope.close()


@pytest.mark.parametrize("peer", [PEER, PEER.to_bytes(), str(PEER), 7])
def test_a_type_error_in_a_users_limits_is_raised(
    peer: Any,
) -> None:
    class Broken(MemoryConnectionLimits):
        asked = 0

        def excess(self, *, new_peer: bool = True) -> Any:
            self.asked += 1
            raise TypeError("none of the manager's")

    limits = Broken(max_process_memory_bytes=1)
    manager = ResourceManager(memory_limits=limits)
    with pytest.raises(TypeError, match="none of the manager's"):
        manager.open_connection(peer)
    assert limits.asked == 1
    assert manager._current_connections == 0


def test_acquire_and_release_connections() -> None:
    manager = ResourceManager(
        StockResourceLimits(max_connections=2), cidr_limits=[("10.0.0.0/8", 1)])
    assert manager.acquire_connection("a", "10.0.0.1")
    assert not manager.acquire_connection("b", "10.0.0.2")
    assert manager.acquire_connection()
    assert not manager.acquire_connection("c", direction="outbound")
    assert manager._current_connections == manager.get_stats()["connections"] == 2
    manager.release_connection("nobody")
    manager.release_connection("a", "10.0.0.2")
    assert manager._current_connections == 2
    manager.release_connection("a", "10.0.0.1")
    manager.release_connection("a", "10.0.0.1")
    assert manager._current_connections == 1
    assert manager.acquire_connection("b", "10.0.0.2")
    manager.close()
    with pytest.raises(ResourceScopeClosed):
        manager.acquire_connection("a")


def test_a_full_node_keeps_its_limits() -> None:
    """0.8.1 lowers a limit once it is reached, and admits one connection at a limit of 0."""
    manager = ResourceManager(StockResourceLimits(max_connections=4), enable_rate_limiting=False)
    kept = [manager.open_connection(PEER) for _ in range(4)]
    for _ in range(100):
        assert manager.open_connection(OTHER) is None
    kept[0].close()  # type: ignore[union-attr]
    assert manager.open_connection(OTHER)
    assert ResourceManager(StockResourceLimits(max_connections=0)).open_connection(PEER) is None


def test_new_totals_keep_the_limits_of_scopes() -> None:
    manager = ResourceManager()
    manager.set_protocol_stream_limit("/x", 0)
    for limits in (StockResourceLimits(7, 1, 5), ResourceLimits(7, 1, 5)):
        manager.limits = limits
        assert manager.limits is limits
        assert manager.scope_limits.system.conns == 7
        assert not manager.acquire_scoped_stream("a", Direction.INBOUND, protocol="/x")
    manager.limits = NodeLimits()
    assert manager.acquire_scoped_stream("a", Direction.INBOUND, protocol="/x")


def test_is_resource_available() -> None:
    manager = ResourceManager(StockResourceLimits(2, 1, 1))
    manager.acquire_connection("a")
    manager.acquire_memory(1 << 19)
    assert manager.is_resource_available("connections")
    assert not manager.is_resource_available("connections", 2)
    assert manager.is_resource_available("memory", 1 << 19)
    assert not manager.is_resource_available("memory", (1 << 19) + 1)
    assert manager.is_resource_available("streams")
    manager.acquire_stream("a", Direction.INBOUND)
    assert not manager.is_resource_available("streams")
    assert not manager.is_resource_available("nonsense")


def test_metrics_show_the_current_counts() -> None:
    given = Metrics()
    manager = ResourceManager(StockResourceLimits(max_connections=1), metrics=given)
    scope = manager.open_connection(PEER, None, "outbound")
    manager.open_connection(OTHER)
    manager.acquire_stream("a", Direction.INBOUND)
    manager.acquire_memory(7)
    assert manager.metrics is given
    summary = given.get_summary()
    assert summary["connections"] == {"inbound": 0, "outbound": 1, "total": 1, "peak": 1}
    assert summary["streams"]["inbound"] == 1
    assert summary["memory"]["current"] == 7
    assert summary["blocks"]["connections"] == 1
    assert scope is not None
    scope.close()
    assert manager.metrics.get_counter(MetricType.CONNECTIONS_OUTBOUND) == 0
    assert ResourceManager(enable_metrics=False).metrics is None


def test_pools_are_those_of_libp2p() -> None:
    manager = ResourceManager(enable_connection_pooling=True, enable_memory_pooling=True)
    stats = manager.get_stats()
    assert stats["connection_pool"] == manager.connection_pool.get_stats()  # type: ignore[union-attr]
    assert "memory_pool" in stats
    assert "connection_pool" not in ResourceManager().get_stats()


def test_cidr_limits_replace_the_subnets_of_node_limits() -> None:
    manager = ResourceManager(
        NodeLimits(subnets=SubnetLimits()), cidr_limits=[("192.0.2.0/24", 1)])
    assert all(manager.open_connection(None, "203.0.113.1") for _ in range(9))
    kept = manager.open_connection(None, "192.0.2.1")
    assert manager.open_connection(None, "192.0.2.2") is None
    assert kept is not None


def test_e1_limits_on_pending_connections_are_enforced() -> None:
    stock, ours = managers(connection_limits=StockConnectionLimits(max_pending_inbound=2))
    held = [manager.open_connection(None) for manager in (stock, ours) for _ in range(2)]
    assert all(held)
    assert stock.open_connection(None) is not None
    assert ours.open_connection(None) is None
    assert ours.open_connection(None, None, "outbound") is not None


def test_m10_metrics_do_not_become_negative() -> None:
    stock, ours = managers()
    for manager in (stock, ours):
        manager.acquire_connection("peer", direction="inbound")
        manager.release_connection("peer", direction="outbound")
    counts = [
        tuple(manager.metrics.get_counter(each) for each in (
            MetricType.CONNECTIONS_INBOUND, MetricType.CONNECTIONS_OUTBOUND))
        for manager in (stock, ours)
    ]
    assert counts == [(1, -1), (1, 0)]


@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps])
def test_m11_a_manager_cannot_be_copied(how: Any) -> None:
    """Its counts belong to the connections of a host, which have no copies either."""
    with pytest.raises(TypeError, match="RLock"):
        how(StockManager())
    with pytest.raises(TypeError, match="cannot pickle 'ResourceManager' object"):
        how(ResourceManager())


def test_m11_a_manager_has_no_shallow_copy_either() -> None:
    stock = StockManager(enable_rate_limiting=False)
    copied = copy.copy(stock)
    stock.open_connection(PEER)
    assert (stock._current_connections, copied._current_connections) == (1, 0)
    assert copied.connection_tracker is stock.connection_tracker  # half of the state is shared
    with pytest.raises(TypeError, match="cannot pickle 'ResourceManager' object"):
        copy.copy(ResourceManager())


def test_totals_may_be_changed_at_any_time() -> None:
    stock = StockManager(StockResourceLimits(1), enable_rate_limiting=False)
    ours = ResourceManager(ResourceLimits(1), enable_rate_limiting=False)
    ours.set_protocol_stream_limit("x", 1)
    for manager in (stock, ours):
        kept = [manager.open_connection(PEER)]
        manager.limits.max_connections = 2
        kept += [manager.open_connection(OTHER) for _ in range(2)]
        assert [each is not None for each in kept] == [True, True, False]
    with pytest.raises(ValueError, match=r"max_connections must be 0 or more.*-1"):
        ours.limits.max_connections = -1
    assert ours.limits.max_connections == 2
    absurd = ResourceLimits(max_connections=-1)  # 0.8.1 takes it, and then denies every connection
    with pytest.raises(ValueError, match=r"conns must be 0 or more.*-1"):
        ours.limits = absurd
    with pytest.raises(ValueError, match=r"conns must be 0 or more.*-1"):
        ResourceManager(absurd)
    assert ours.scope_limits.protocol["x"].streams == 1


def test_a_manager_shows_its_connections() -> None:
    stock, ours = managers()
    for manager in (stock, ours):
        assert manager.connection_lifecycle.tracker is manager.connection_tracker
        assert manager.connection_lifecycle.limits is manager.connection_limits
        assert established(manager.connection_lifecycle, "1", PEER)
    for look in (
        lambda manager: manager.connection_limits.get_limits_summary(),
        lambda manager: manager.connection_lifecycle.get_limits_summary(),
        lambda manager: manager.connection_lifecycle.get_connection_stats().keys(),
        lambda manager: manager.connection_tracker.get_stats()["current_established_inbound"],
        lambda manager: [
            info.peer_id for info in manager.connection_tracker.get_all_connections()],
        lambda manager: manager.connection_tracker.get_connection_count("established_total"),
        lambda manager: manager.connection_lifecycle.tracker.get_peer_connection_count(PEER),
    ):
        assert look(stock) == look(ours)
    assert isinstance(ours.connection_lifecycle, ConnectionLifecycleManager)
    assert isinstance(ours.connection_tracker, ConnectionTracker)


def test_the_defaults_of_a_manager_may_be_changed() -> None:
    manager = ResourceManager()
    assert manager.connection_limits == ConnectionLimits.of(new_connection_limits_with_defaults())
    manager.connection_limits.with_max_established_inbound(0)
    assert manager.open_connection(PEER) is None
    lifecycle: Any = manager.connection_lifecycle
    lifecycle.limits = ConnectionLimits(max_established_inbound=1)
    assert manager.open_connection(PEER)
    assert manager.get_stats()["limits"]["max_established_inbound"] == 1


def test_r16_dials_spend_no_rate_of_the_peer() -> None:
    for kind, expected in ((StockManager, False), (ResourceManager, True)):
        manager = kind(
            enable_memory_limits=False, connections_per_peer_per_sec=NEVER,
            burst_connections_per_peer=3)
        name = str(peer(1))
        assert granted(manager.acquire_connection, 3, name, None, "outbound") == 3
        assert manager.acquire_connection(name, None, "inbound") == expected


def test_all_limits_as_one_tree() -> None:
    """Changes in place show in the tree, and a new tree replaces the old one."""
    manager = ResourceManager(cidr_limits=[("192.0.2.0/24", 1)])
    manager.connection_limits.max_pending_inbound = 3
    manager.memory_limits.max_process_memory_percent = 0
    manager.limits.max_connections = 7
    seen = manager.node_limits
    assert seen.connections.max_pending_inbound == 3
    assert seen.scopes.system.conns == 7
    assert seen.subnets == SubnetLimits((), (), {"192.0.2.0/24": 1})
    assert seen.peer_rates == PeerRates(Rate(10.0, 50))
    assert manager.open_connection(None, "1.2.3.4") is None  # 0 % of the memory
    manager.node_limits = seen
    assert manager.node_limits == seen
    assert isinstance(manager.cidr_limiter, CIDRLimiter)
    other = NodeLimits(memory=ProcessMemoryLimits(2**40, 0.5), subnets=SubnetLimits())
    manager.node_limits = other
    assert manager.node_limits == other
    assert manager.memory_limits.max_process_memory_percent == 50
    assert manager.limits.max_connections is None
    assert manager.open_connection(None, "1.2.3.4") is not None
