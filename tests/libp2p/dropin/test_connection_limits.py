"""Limits by connection state, which a program may change at any time."""

from __future__ import annotations

import copy

import pytest
from libp2p.rcmgr.connection_limits import ConnectionLimits as StockLimits
from libp2p.rcmgr.exceptions import ResourceLimitExceeded
from stock_and_ours import PEER, established

import rcmgr
from rcmgr.libp2p.dropin.connection_lifecycle import ConnectionLifecycleManager
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker
from rcmgr.libp2p.dropin.manager import ResourceManager


def test_limits_are_checked_when_they_are_set() -> None:
    limits = ConnectionLimits(max_established_total=1)
    with pytest.raises(ValueError, match=r"max_established_total must be 0 or more.*-1"):
        limits.max_established_total = -1
    with pytest.raises(TypeError, match="max_pending_inbound must be an int"):
        ConnectionLimits(max_pending_inbound="many")  # type: ignore[arg-type]
    assert limits.max_established_total == 1
    with pytest.raises(ResourceLimitExceeded, match="Established total limit exceeded: 1 >= 1"):
        limits.check_established_total_limit(1)
    limits.check_established_total_limit(0)


def test_limits_compare_and_convert() -> None:
    limits = ConnectionLimits(1, 2, 3, 4, 5, 6)
    assert isinstance(limits, StockLimits)
    assert limits == ConnectionLimits(1, 2, 3, 4, 5, 6)
    assert hash(limits) == hash(StockLimits(1, 2, 3, 4, 5, 6))
    assert limits.frozen() == rcmgr.ConnectionLimits(1, 2, 3, 4, 5, 6)
    assert str(limits) == str(StockLimits(1, 2, 3, 4, 5, 6))
    assert ConnectionLimits.of(StockLimits(7)).max_pending_inbound == 7
    with pytest.raises(TypeError, match="limits must be ConnectionLimits, not 5"):
        ConnectionLimits.of(5)


def test_a_change_holds_in_every_manager() -> None:
    limits = ConnectionLimits()
    lifecycle = ConnectionLifecycleManager(ConnectionTracker(limits), limits)
    managers = [ResourceManager(connection_limits=limits) for _ in range(2)]
    assert established(lifecycle, "1", PEER)
    assert all(manager.open_connection(PEER) for manager in managers)
    assert all(manager.connection_limits is limits for manager in managers)
    limits.max_established_inbound = 0
    assert not established(lifecycle, "2", PEER)
    assert not any(manager.open_connection(PEER) for manager in managers)
    assert limits.with_max_established_inbound(5) is limits
    assert established(lifecycle, "2", PEER)
    managers[0].connection_limits = ConnectionLimits(0, 0, 0, 0, 0, 0)
    limits.max_established_inbound = 9  # the first manager has other limits now
    assert managers[0].open_connection(PEER) is None
    assert managers[1].open_connection(PEER)


def test_a_copy_of_limits_is_independent() -> None:
    limits = ConnectionLimits(max_established_inbound=1)
    manager = ResourceManager(connection_limits=limits)
    for copied in (copy.copy(limits), copy.deepcopy(limits)):
        assert copied == limits
        copied.max_established_inbound = 0
    assert manager.open_connection(PEER)


def test_limits_from_before_the_installation_are_copied() -> None:
    stock = StockLimits(max_established_inbound=1)
    manager = ResourceManager(connection_limits=stock)
    stock.max_established_inbound = 0
    assert manager.connection_limits.max_established_inbound == 1
    assert manager.open_connection(PEER)


def test_observers_that_are_gone_are_forgotten() -> None:
    limits = ConnectionLimits()
    for _ in range(50):
        ConnectionLifecycleManager(ConnectionTracker(), limits)
    assert len(limits._observers) <= 2


def test_limits_of_a_node_are_the_default() -> None:
    node = rcmgr.NodeLimits(connections=rcmgr.ConnectionLimits(max_pending_inbound=3))
    assert ResourceManager(node).connection_limits.max_pending_inbound == 3
    given = ResourceManager(node, connection_limits=ConnectionLimits(max_pending_inbound=4))
    assert given.connection_limits.max_pending_inbound == 4
