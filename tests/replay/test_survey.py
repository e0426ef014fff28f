from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from record_script import Clock

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    Eviction,
    Limit,
    NodeLimits,
    ResourceManager,
)
from rcmgr.replay.survey import Most, Survey, survey

SECOND = 10**9


def surveyed(path: Path, act: Any, limits: NodeLimits | None = None) -> Survey:
    clock = Clock()
    manager = ResourceManager(limits or NodeLimits(), clock=clock)
    with manager.record(path):
        act(manager, clock)
    return survey(path)[0]


def connected(manager: ResourceManager, peer: bytes, address: str) -> tuple[Any, Any]:
    pending = manager.open_connection(None, address, "inbound")
    return pending, manager.open_connection(peer, address, "inbound")


def test_totals_over_time_and_distributions_over_peers(tmp_path: Path) -> None:
    def act(manager: ResourceManager, clock: Clock) -> None:
        held = [connected(manager, b"%d" % (number // 2), f"198.51.100.{number // 3 + 1}")
                for number in range(5)]
        clock.now += 10 * SECOND
        for pending, connection in held[1:]:
            connection.close()
            pending.close()
        dial = manager.open_connection(b"far", "198.51.100.9", "outbound")
        streams = [manager.open_stream(b"0", "inbound") for _ in range(3)]
        streams[0].set_protocol("/a")
        streams[0].set_service("s")
        streams[0].reserve_memory(1000)
        clock.now += 30 * SECOND
        dial.close()
        for stream in streams:
            stream.close()

    found = surveyed(tmp_path / "r", act)
    peaks = {place: gauge.peak for place, gauge in found.gauges.items()}
    assert peaks["system.conns"] == 5
    assert peaks["system.conns_outbound"] == 1
    assert peaks["transient.conns"] == 1
    assert peaks["connections.max_established_total"] == 5
    assert peaks["system.streams_inbound"] == 3
    assert peaks["transient.streams"] == 1 + 2
    assert peaks["protocol[/a].streams"] == peaks["service[s].streams"] == 1
    assert peaks["protocol[/a].memory"] == peaks["system.memory"] == 1000
    assert found.gauges["system.conns"].tail(75) == 2
    assert list(found.peers["peer_default.conns"].most.values()) == [2, 2, 1, 1]
    assert sorted(found.networks["ipv4", 32].most.values()) == [1, 2, 3]
    arrivals = found.arrivals["ipv4", 32].values()
    assert sorted(len(times) for times in arrivals) == [2, 3]
    assert sorted(len(times) for times in found.peer_arrivals.values()) == [1, 2, 2]
    assert found.leaves == {"stream": 1000}
    assert {gauge.value for gauge in found.gauges.values()} == {0}


def test_what_was_refused_is_not_counted_but_told(tmp_path: Path) -> None:
    def act(manager: ResourceManager, clock: Clock) -> None:
        for _ in range(4):
            manager.acquire_stream(b"peer", "inbound")
        manager.release_stream(b"peer", "inbound")

    found = surveyed(tmp_path / "r", act, NodeLimits(ConcreteLimits(system=Limit(streams=2))))
    assert found.gauges["system.streams"].peak == 2
    assert found.gauges["system.streams"].value == 1
    assert found.refused == {"stream.system.streams": 2}


def test_exempt_and_local_ones_are_left_out(tmp_path: Path) -> None:
    def act(manager: ResourceManager, clock: Clock) -> None:
        manager.add_allowed_peer(b"friend")
        act.held = [  # type: ignore[attr-defined]
            manager.open_connection(b"friend", "198.51.100.1", "inbound"),
            manager.open_stream(b"friend", "inbound"),
            manager.open_connection(b"near", "127.0.0.1", "inbound"),
            manager.open_connection(b"nearer", "::1", "inbound"),
        ]

    found = surveyed(tmp_path / "r", act)
    assert found.gauges["system.conns"].peak == 2
    assert "system.streams" not in found.gauges
    assert {each for most in found.networks.values() for each in most.most} == set()


def test_evicted_ones_are_counted(tmp_path: Path) -> None:
    class Host:
        most_inbound = most_total = None

    def act(manager: ResourceManager, clock: Clock) -> None:
        room = manager._admission.room
        room.add_host(Host())
        silent = manager.accept_connection("198.51.100.1")
        assert silent is not None
        assert silent.record is not None
        room.enter_handshake(
            silent.record, SimpleNamespace(end=silent.close, latency_us=0), "198.51.100.1")
        time.sleep(0.02)
        newcomer = manager.accept_connection("203.0.113.1")
        assert newcomer is not None
        newcomer.close()

    found = surveyed(tmp_path / "r", act, NodeLimits(
        connections=ConnectionLimits(max_pending_inbound=1),
        eviction=Eviction(pending_grace_s=0.001)))
    assert found.evicted == 1


def test_the_end_of_everything(tmp_path: Path) -> None:
    def act(manager: ResourceManager, clock: Clock) -> None:
        act.held = [connected(manager, b"p", "198.51.100.1"),  # type: ignore[attr-defined]
                    manager.open_stream(b"p", "inbound")]
        manager.acquire_stream(b"p", "outbound")
        manager.close()

    found = surveyed(tmp_path / "r", act)
    assert {gauge.value for gauge in found.gauges.values()} == {0}


def test_most_forgets_keys_that_have_nothing() -> None:
    most = Most()
    most.add("a", 3)
    most.add("a", -3)
    most.add("b", 1, 127)
    most.add("c", -1)
    assert most.most == {"a": 3, "b": 1}
    assert most.needed == 3
    assert most._now == {"b": 1}
