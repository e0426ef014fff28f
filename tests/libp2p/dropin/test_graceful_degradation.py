"""The degradation of a manager never lowers a limit."""

from __future__ import annotations

import gc
import inspect
from typing import Any

from libp2p.rcmgr.graceful_degradation import GracefulDegradation

from rcmgr.libp2p.dropin.manager import ResourceLimits, ResourceManager


def test_degradation_lowers_nothing() -> None:
    manager: Any = ResourceManager(ResourceLimits(max_connections=4))
    degradation = manager.graceful_degradation
    assert isinstance(degradation, GracefulDegradation)
    assert not degradation.handle_resource_exhaustion("connections")
    assert degradation.recover()
    degradation.reset()
    stats = manager.get_stats()["graceful_degradation"]
    assert stats.keys() == GracefulDegradation(manager).get_stats().keys()
    assert stats["degradation_level"] == 0
    assert stats["current_limits"] == stats["original_limits"]
    assert stats["original_limits"]["max_connections"] == 4
    manager.limits.max_connections = 3
    degradation.reset()
    assert manager.limits.max_connections == 3
    public = {
        name for name in (*dir(GracefulDegradation), *vars(GracefulDegradation(manager)))
        if not name.startswith("_")}
    assert not {name for name in public if not hasattr(degradation, name)}
    for name, method in inspect.getmembers(GracefulDegradation, inspect.isfunction):
        ours, theirs = (
            list(inspect.signature(each).parameters) for each in (
                getattr(type(degradation), name), method))
        assert name.startswith("_") or ours == theirs


def test_degradation_made_by_hand_lowers_our_limits() -> None:
    manager: Any = ResourceManager(ResourceLimits(max_connections=10))
    degradation = GracefulDegradation(manager)
    assert degradation.handle_resource_exhaustion("connections")
    assert manager.scope_limits.system.conns == 8
    degradation.reset()
    assert manager.scope_limits.system.conns == 10


def test_it_does_not_keep_its_manager() -> None:
    manager = ResourceManager()
    degradation = manager.graceful_degradation
    assert degradation.rm is manager
    gc.disable()
    try:
        del manager
        assert degradation.rm is None
    finally:
        gc.enable()
