from __future__ import annotations

import pytest
from record_script import Clock, Run

from rcmgr import NodeLimits, ResourceManager
from rcmgr.limits.conflicts import conflicts
from rcmgr.limits.files import LimitsFile
from rcmgr.replay.suggest import (
    connections_that_fit,
    memory_of_connection,
    suggest,
)
from rcmgr.replay.survey import Survey, survey


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    path = tmp_path_factory.mktemp("suggest") / "node.rec"
    clock = Clock()
    manager = ResourceManager(NodeLimits(), clock=clock)
    with manager.record(path):
        Run(manager, clock).go(4000)
        clock.now += 5 * 3600 * 10**9
        Run(manager, clock).go(200, seed=2)
    return survey(path)[0]


def test_each_limit_has_its_reason(found: Survey) -> None:
    text = suggest(found).to_toml()
    lines = text.splitlines()
    limits = [at for at, line in enumerate(lines) if " = " in line and line[0] != "#"]
    assert len(limits) > 30
    assert all(lines[at - 1].startswith("# ") for at in limits)
    assert all(len(line) <= 100 for line in lines)
    for words in ("peak", "busy hour from", "99.9 % of the time up to", "half of them up to",
                  "What it cannot know", "a record without an attack", "KiB"):
        assert words.lower() in text.lower()


def test_the_file_is_read_and_does_not_contradict_itself(found: Survey) -> None:
    made = suggest(found)
    file = LimitsFile.from_toml(made.to_toml())
    assert file == made.file()
    assert [
        str(conflict) for conflict in conflicts(file.build(NodeLimits.default()), said=file)] == []
    node = file.build(NodeLimits())
    assert node.scopes.system.conns_inbound is not None
    assert "/a/1" in node.scopes.protocol
    assert "/a/1" in node.scopes.protocol_peer
    assert node.rates is not None
    assert node.peer_rates is not None
    assert node.subnets is not None


def test_headroom_and_percentile_matter(found: Survey) -> None:
    def streams(**how: float) -> int:
        limit = suggest(found, **how).file().build(NodeLimits()).scopes.system.streams
        assert limit is not None
        return limit

    peak = found.gauges["system.streams"].peak
    assert peak <= streams(headroom=1) <= peak * 1.1
    assert streams(headroom=3) >= 2.5 * peak
    assert streams(headroom=1.5, percentile=50) < streams(headroom=1.5)


def test_memory_of_a_connection_is_measured() -> None:
    found = Survey()
    assert memory_of_connection(found) is None
    found.memory = [(count, 0, 30_000_000 + 50_000 * count) for count in (0, 5, 10, 20, 40)]
    assert memory_of_connection(found) == (50_000, 30_000_000)
    assert connections_that_fit(2 << 30, (50_000, 30_000_000)) == 42_349
    found.memory = [(count, 0, 30_000_000 - count) for count in (0, 20, 40)]
    assert memory_of_connection(found) is None
    found.memory = [(5, 0, 30_000_000)] * 9
    assert memory_of_connection(found) is None


def test_an_empty_record_suggests_nothing() -> None:
    made = suggest(Survey())
    assert made.file() == LimitsFile()
    assert "0 events" in made.to_toml()
