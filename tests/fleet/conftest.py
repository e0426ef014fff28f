from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rcmgr import Fleet, FleetLimits, NodeLimits, ResourceManager
from rcmgr.fleet import member

Join = Callable[..., ResourceManager]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that talk more often, so that tests wait less."""
    monkeypatch.setattr(member, "_BEAT_S", 0.1)
    monkeypatch.setattr(member, "_PAUSE_S", 0.01)


@pytest.fixture
def join() -> Iterator[Join]:
    """Makes nodes that have joined a fleet, and closes them."""
    made: list[ResourceManager] = []

    def new(url: str, limits: FleetLimits | None = None, node: str = "node") -> ResourceManager:
        manager = ResourceManager(
            NodeLimits(fleet=limits), fleet=Fleet(url, node=node, timeout=0.3))
        made.append(manager)
        return manager

    yield new
    for manager in made:
        manager.close()
