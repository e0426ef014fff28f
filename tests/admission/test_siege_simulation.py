"""The policy against simulated attackers: what the docs promise, on fixed seeds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "siege_simulation.py"

if not PATH.exists():
    pytest.skip("the benchmarks are in a checkout only", allow_module_level=True)


def load() -> Any:
    spec = importlib.util.spec_from_file_location("siege_simulation", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    return module


simulation = load()


@pytest.mark.parametrize("scene", simulation.SCENES, ids=lambda scene: scene.name)
def test_a_scene_reaches_its_thresholds(scene: Any) -> None:
    results = simulation.run(scene, seeds=3)
    assert simulation.mean([each.share_served for each in results]) >= scene.served
    assert simulation.mean([each.share_kept for each in results]) >= scene.kept
    assert all(each.newcomers > 10 and each.earlier >= 10 for each in results)


def test_without_eviction_a_hoarded_node_serves_nobody() -> None:
    [result] = simulation.run(simulation.SCENES[0], seeds=1, evicts=False)
    assert result.newcomers > 10
    assert result.served == 0
    assert result.share_kept == 1.0


def test_half_of_all_groups_do_not_eclipse_a_node() -> None:
    found = simulation.eclipse(32, 0.5, 0.1, evicts=True, seeds=3)
    assert simulation.mean([each.honest_places for each in found]) > 0.5
    assert min(each.share_served for each in found) > 0.9
