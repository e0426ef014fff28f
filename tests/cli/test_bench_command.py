"""`rcmgr bench`: a table of this machine, with and without libp2p."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from rcmgr.cli import bench_command, main
from rcmgr.cli.bench_command import Measured, operations, peer_ids, table_of


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few peers and few rounds, and a log that works afterwards."""
    monkeypatch.setattr(bench_command, "SIZES", (3, 5))
    monkeypatch.setattr(bench_command, "SAMPLE", 10)
    monkeypatch.setattr(bench_command.logging, "disable", lambda level: None)


def without_libp2p(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "libp2p"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "libp2p", None)


def test_without_libp2p_it_says_so_and_measures_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    without_libp2p(monkeypatch)
    result = CliRunner().invoke(main, ["bench", "--seconds", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert "libp2p is not installed, so only rcmgr is measured" in result.stderr
    found = json.loads(result.stdout)
    assert [(each["operation"], each["peers"]) for each in found] == [
        (name, size) for size in (3, 5) for name in operations()]
    assert all(each["rcmgr_ns"] > 0 and each["libp2p_ns"] is None for each in found)


@pytest.mark.libp2p
def test_with_libp2p_it_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("libp2p")
    result = CliRunner().invoke(
        main, ["bench", "--seconds", "1"], env={"COLUMNS": "80"}, terminal_width=80)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for name in operations():
        assert sum(name in line and "-" not in line for line in lines) == 2, lines
    assert set(bench_command.libp2p_operations()) == set(operations())


def test_the_others_stay_connected() -> None:
    """A benchmark with so many connected peers must not lose them before it measures."""
    peers: list[Any] = peer_ids(4, False)
    run = bench_command.connections(manager := bench_command.ResourceManager(), peers)
    run(peers)
    assert len(manager.connection_tracker.established_inbound) == len(peers)
    del run
    assert len(manager.connection_tracker.established_inbound) == 0


def test_a_denial_is_a_denial() -> None:
    run = operations()["deny a connection"](peers := peer_ids(2, False))
    run(peers)
    [manager] = [cell.cell_contents for cell in run.__closure__ or ()]
    assert manager.denied_by_limit() == {"system connection": 2}


def test_the_table_divides() -> None:
    table = table_of([Measured("x", 1_000, 10.0, 250.0), Measured("y", 1_000, 10.0, None)])
    assert [list(column.cells) for column in table.columns][-1] == ["25.0", "-"]


def test_it_measures_for_about_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr(bench_command.time, "monotonic", lambda: float(next(now)))
    rounds = []
    monkeypatch.setattr(
        bench_command, "operations", lambda: {"x": lambda peers: lambda sample: rounds.append(1)})
    list(bench_command.measure(False, 40.0))
    assert len(rounds) == 2 * (20 + bench_command.LEAST_ROUNDS - 1)  # the first are not timed
