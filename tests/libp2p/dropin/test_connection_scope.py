"""The scope of a connection, made by `open_connection` or by hand.

A number in the name of a test is that of a row in docs/differences.md.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from libp2p.rcmgr.manager import ConnectionScope as StockScope
from libp2p.rcmgr.manager import ResourceManager as StockManager
from libp2p.rcmgr.metrics import MetricType
from stock_and_ours import PEER, managers
from threads import in_threads

from rcmgr.libp2p.dropin.manager import ConnectionScope, ResourceManager


@pytest.mark.parametrize(("make", "left"), [(StockManager, 0), (ResourceManager, 2)])
def test_l12_closing_a_scope_in_three_threads_frees_one_slot(make: Any, left: int) -> None:
    manager = make(enable_rate_limiting=False)
    scopes = [manager.open_connection(PEER) for _ in range(3)]
    both_here = threading.Barrier(3)
    release = manager.release_connection

    def release_together(*args: Any, **kwargs: Any) -> None:
        both_here.wait(10)  # no thread has marked the scope as closed yet
        release(*args, **kwargs)

    manager.release_connection = release_together
    in_threads(lambda number: scopes[0].close(), 3)
    assert manager._current_connections == left


def test_l12_a_scope_made_by_hand_is_closed_once() -> None:
    manager = ResourceManager(enable_rate_limiting=False)
    assert all(manager.acquire_connection("peer") for _ in range(3))
    scope = ConnectionScope("peer", manager)
    in_threads(lambda number: scope.close())
    assert manager._current_connections == 2


def test_l14_a_scope_made_by_hand_gives_everything_back() -> None:
    stock, ours = managers(cidr_limits=[("10.0.0.0/8", 1)], enable_rate_limiting=False)
    for manager in (stock, ours):
        assert manager.acquire_connection("peer", "10.0.0.1", "outbound")
    with StockScope("peer", stock) as scope:
        pass
    assert scope.closed
    assert not stock.cidr_limiter.allow("10.0.0.2")
    assert stock.metrics.get_counter(MetricType.CONNECTIONS_OUTBOUND) == 1
    assert stock.metrics.get_counter(MetricType.CONNECTIONS_INBOUND) == -1
    with ConnectionScope("peer", ours, "10.0.0.1", "outbound") as scope:
        assert not ours.cidr_limiter.allow("10.0.0.2")
    assert scope.closed
    assert ours.cidr_limiter.allow("10.0.0.2")
    assert ours.metrics.get_counter(MetricType.CONNECTIONS_OUTBOUND) == 0
    assert ours.metrics.get_counter(MetricType.CONNECTIONS_INBOUND) == 0


def test_l14_a_dropped_scope_is_freed_at_once() -> None:
    manager = ResourceManager()
    scope = manager.open_connection(PEER)
    assert manager._current_connections == 1
    del scope
    assert manager._current_connections == 0  # without the garbage collector


def test_open_connection_returns_a_scope_with_all_attributes() -> None:
    manager = ResourceManager()
    stock = StockManager().open_connection(PEER)
    ours = manager.open_connection(PEER)
    assert stock is not None
    assert ours is not None
    public = {name for name in dir(stock) if not name.startswith("_")}
    assert {name for name in public if not hasattr(ours, name)} == set()
    assert isinstance(ours, ConnectionScope)
    assert not isinstance(manager, ConnectionScope)
    assert ours.peer_id == stock.peer_id == str(PEER)
    assert ours.resource_manager is manager
    with ours as entered:
        assert entered is ours
        assert not ours.closed
    assert ours.closed
    # with this attribute, the swarm of 0.8.1 would reserve 1 MiB for each QUIC stream (E4)
    assert not hasattr(ours, "_resource_manager")


def test_closing_a_scope_in_three_threads_frees_one_slot() -> None:
    manager = ResourceManager()
    scopes = [manager.open_connection(PEER) for _ in range(3)]
    in_threads(lambda number: scopes[0].close(), 3)  # type: ignore[union-attr]
    assert manager._current_connections == 2
