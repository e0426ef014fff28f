"""benchmarks.peers: the same work in each program, and a plain word for a missing toolchain."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libp2p")

from benchmarks.peers import __main__ as peers
from benchmarks.peers import accept, ours, programs
from benchmarks.peers.works import WORKS

SOURCES = Path(peers.__file__).parent
PEERS = [ours.ID(peers.ID_PREFIX + random.Random(i).randbytes(32)) for i in range(5)]


@pytest.mark.parametrize("name", ours.WORKS)
def test_our_work_can_be_repeated(name: str) -> None:
    held: list[Any] = [None] * len(PEERS)
    run = ours.WORKS[name](PEERS, held)
    run(PEERS)
    run(PEERS * 2)


def test_a_connection_and_a_stream_leave_nothing_behind() -> None:
    for work in (ours.connection, ours.stream):
        held: list[Any] = [None] * len(PEERS)
        run = work(PEERS, held)
        manager = held[0].resource_manager
        run(PEERS)
        system = manager.ledger.snapshot()["system"]
        assert (system["conns_inbound"], system["streams_inbound"]) == (len(PEERS), 0)
        assert len(manager.connection_tracker.established_inbound) == len(PEERS)


@pytest.mark.parametrize("language", ["go", "rust"])
def test_a_program_knows_its_work(language: str) -> None:
    source = (SOURCES / {"go": "go/main.go", "rust": "rust/src/main.rs"}[language]).read_text()
    known = re.findall(r'^\s*"([a-z ]+)"(?: =>|: func)', source, re.MULTILINE)
    asked = {
        work.names.get(language, name) for name, work in WORKS.items() if getattr(work, language)}
    assert set(known) == asked


def test_ours_is_measured_where_no_other_is_here() -> None:
    [result, floor] = peers.measure(
        "ledger connection", 5, 1, {each: programs.python() for each in ("rcmgr", "floor")})
    assert result.implementation == "rcmgr"
    assert 0 < result.nanoseconds < float("inf")
    assert 0 < floor.nanoseconds < float("inf")
    assert result.of_native is None


def test_ratios_compare_with_the_fastest_native_program_and_the_floor() -> None:
    results = [
        peers.Result("states", 1, each, ns)
        for each, ns in (("rcmgr", 300.0), ("floor", 50.0), ("go", 200.0), ("rust", 100.0))]
    peers.compare(results)
    assert results[0].of_native == 3
    assert results[0].of_floor == 2


def test_a_missing_toolchain_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    commands, missing = peers.available()
    assert list(commands) == ["rcmgr", "floor"]
    assert missing == {"go": "go is not installed", "rust": "cargo is not installed"}


def test_a_failed_build_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\necho first >&2\necho no such module >&2\nexit 1\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(programs.MissingProgramError, match="go failed: no such module"):
        programs.go()


@pytest.mark.skipif(sys.platform != "linux", reason="the flood waits with epoll")
@pytest.mark.parametrize("kind", ["c", "harden"])
async def test_a_full_node_refuses_a_flood(kind: str) -> None:
    found = await accept.measure_node(kind, 200, 0.5)
    assert found[f"refusal at accept, {kind}: per second"] > 0
    assert found[f"refusal at accept, {kind}: us of the processor"] > 0
    if kind == "harden":
        assert found["ping, under the flood, harden: peer kept"] == 1
        assert 0 < found["ping, calm, harden: p99, ms"] < float("inf")
        assert 0 < found["ping, under the flood, harden: p99, ms"] < float("inf")


def test_figures_have_the_names_of_the_thresholds() -> None:
    results = [
        peers.Result("states", 1_000, "rcmgr", 300.0, 10.0, 3.0, 2.0),
        peers.Result("states", 1_000, "rust", 100.0, 20.0),
        peers.Result("stream", 100_000, "rcmgr", 200.0),
        peers.Result("stream", 1_000_000, "rcmgr", 300.0)]
    assert peers.figures(results) == {
        "states, 1,000: ns": 300, "states, 1,000: bytes": 10, "states, 1,000: times native": 3,
        "states, 1,000: times floor and native": 2, "states, 1,000: rust ns": 100,
        "states, 1,000: rust bytes": 20, "stream, 100,000: ns": 200, "stream, 1,000,000: ns": 300,
        "stream, 1,000,000: times 100,000": 1.5}
