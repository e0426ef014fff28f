"""The log lines about denials: their text, and their number in a flood."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rcmgr import (
    ConcreteLimits,
    ConnectionLimits,
    DenialLog,
    Limit,
    NodeLimits,
    RateLimits,
    ResourceLimits,
    ResourceManager,
)
from rcmgr.limits.rates import Rate
from rcmgr.report.log import log_denials

PEER = b"\x12\x20" + b"p" * 32
TEXT = "QmVuZp8s9f1Pk1DnS1tfFPFDARrGR95mTXf1fMDjRQt1CB"
PENDING = ConnectionLimits(max_pending_inbound=0)


class Clock:
    seconds = 1000.0

    def __call__(self) -> int:
        return int(self.seconds * 1e9)


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self) -> list[str]:
        texts = [f"{each.levelname} {each.getMessage()}" for each in self.records]
        self.records.clear()
        return texts


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("rcmgr")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def refusal(limit: str = "pending_inbound") -> Any:
    from rcmgr import ConnectionTracker

    tracker = ConnectionTracker()
    limits = ConnectionLimits(**{f"max_{limit}": 0})
    return getattr(tracker, f"admit_{limit}")("c", *[PEER] * ("established" in limit), limits)


def test_a_new_process_prints_the_first_denial() -> None:
    """Without any configuration of logging."""
    done = subprocess.run(
        [sys.executable, "-c",
         "import rcmgr\n"
         "manager = rcmgr.ResourceManager(rcmgr.ResourceLimits(max_connections=0))\n"
         "for _ in range(3): manager.open_connection(None, '192.0.2.7', 'inbound')\n"],
        capture_output=True, text=True, check=True)
    assert done.stderr == (
        "1 refused by connection.system.conns, most from 192.0.2.7 (1); the latest: conn-1: "
        "system: cannot reserve connection: resource limit exceeded (current: 0, attempted: 1, "
        "limit: 0); address 192.0.2.7; see ResourceLimits.max_connections "
        "(ConcreteLimits.system.conns)\n")


def test_one_line_in_ten_seconds_for_each_limit(lines: Lines) -> None:
    clock = Clock()
    denials = DenialLog(4, clock=clock)
    log_denials(denials)
    first, second = refusal(), refusal("pending_outbound")
    denials.add(first, None, None, True, "192.0.2.1")
    denials.add(second, None, None, False, "192.0.2.2")
    assert [line.partition(";")[0] for line in lines.take()] == [
        "WARNING 1 refused by connection.pending_inbound, most from 192.0.2.1 (1)",
        "WARNING 1 refused by connection.pending_outbound, most from 192.0.2.2 (1)"]
    for number in range(999):
        clock.seconds += 0.01
        denials.add(first, None, None, True, f"192.0.2.{1 if number % 3 else 200}")
    assert lines.take() == []
    clock.seconds += 0.02
    denials.add(first, None, None, True, "192.0.2.3")
    denials.add(first, None, None, True, "192.0.2.3")
    assert lines.take() == [
        "WARNING 1000 refused in 10.0 s by connection.pending_inbound, most from 192.0.2.1 (666); "
        "the latest: Connection limit exceeded: pending_inbound (current: 0, limit: 0); "
        "address 192.0.2.3; see ConnectionLimits.max_pending_inbound"]
    clock.seconds += 60
    denials.add(second)
    assert [line.partition(";")[0] for line in lines.take()] == [
        "WARNING 1 refused by connection.pending_outbound"]


def test_a_manager_that_closes_logs_the_rest(lines: Lines) -> None:
    manager = ResourceManager(connection_limits=PENDING)
    for _ in range(3):
        manager.open_connection(None, "192.0.2.1")
    assert len(lines.take()) == 1
    manager.close()
    assert [line.split(" refused")[0] for line in lines.take()] == ["WARNING 2"]
    manager.close()
    assert lines.take() == []


def test_every_denial_at_debug(lines: Lines) -> None:
    manager = ResourceManager(connection_limits=PENDING)
    manager.open_connection(None, "192.0.2.1")
    lines.take()
    for _ in range(2):  # a level may change at any time
        logging.getLogger("rcmgr").setLevel(logging.DEBUG)
        for number in range(3):
            manager.open_connection(None, f"192.0.2.{number}")
        assert lines.take() == [
            "DEBUG refused by connection.pending_inbound: Connection limit exceeded: "
            f"pending_inbound (current: 0, limit: 0); address 192.0.2.{number}; "
            "see ConnectionLimits.max_pending_inbound" for number in range(3)]
        logging.getLogger("rcmgr").setLevel(logging.INFO)
        manager.open_connection(None, "192.0.2.1")
        assert lines.take() == []


def test_no_line_and_no_text_where_warnings_are_off(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: Any) -> None:
        raise AssertionError("an error was built")

    logging.getLogger("rcmgr").setLevel(logging.ERROR)
    monkeypatch.setattr("rcmgr.errors.ConnectionLimitExceeded.__init__", built)
    manager = ResourceManager(connection_limits=PENDING)
    manager.open_connection(None, "192.0.2.1")
    manager.close()
    assert lines.take() == []


def test_every_way_to_be_refused_is_logged(lines: Lines) -> None:
    manager = ResourceManager(
        NodeLimits(
            ConcreteLimits(
                system=Limit(memory=1), protocol_default=Limit(streams=0),
                peer_default=Limit(streams=0))),
    )
    limiter = manager.add_protocol_rate_limiter("/p", RateLimits(default=Rate(0.001, 1)))
    assert not manager.acquire_memory(2)
    assert not manager.acquire_stream(PEER, "inbound")
    manager.node_limits = NodeLimits(ConcreteLimits(protocol_default=Limit(streams=0)))
    assert not manager.acquire_scoped_stream(PEER, "inbound", protocol="/p")
    assert [limiter.check_peer_rate_limit(PEER) for _ in range(2)] == [True, False]
    manager.limits = ResourceLimits(max_connections=0)
    assert not manager.acquire_connection(PEER)
    assert [line.split()[4].strip(",;") for line in lines.take()] == [
        "memory.system.memory", "stream.peer.streams", "stream.protocol.streams", "rate.protocol",
        "connection.system.conns"]


def test_names_that_strangers_choose_are_escaped(lines: Lines) -> None:
    logging.getLogger("rcmgr").setLevel(logging.DEBUG)
    evil = "\x1b[2J\n\u202eWARNING forged\r" * 1000
    manager = ResourceManager(NodeLimits(
        ConcreteLimits(protocol_default=Limit(streams=0)), PENDING))
    manager.open_connection(None, evil)
    manager.acquire_scoped_stream("peer" + evil, "inbound", protocol="/p" + evil)
    limiter = manager.add_protocol_rate_limiter("/q", RateLimits(default=Rate(0.001, 1)))
    for _ in range(2):
        limiter.check_peer_rate_limit("peer" + evil, "operation" + evil)
    found = lines.take()
    assert len(found) == 6
    for line in found:
        assert line.isprintable()
        assert len(line) < 2000


def test_a_flood_of_addresses_takes_no_memory_and_hides_no_persistent_one() -> None:
    clock = Clock()
    denials = DenialLog(clock=clock)
    log_denials(denials)
    refused = refusal()
    for number in range(20_000):
        denials.add(refused, None, None, True, f"10.{number >> 8}.{number & 255}.1")
        if number % 5 == 0:
            denials.add(refused, None, None, True, f"/ip4/192.0.2.7/tcp/{number}")
    assert denials.most_denied_addresses(1) == [("192.0.2.7", 4000)]
    assert len(denials.most_denied_addresses(10**6)) <= 1024


@pytest.mark.parametrize("broken", [True, False])
def test_a_handler_that_raises_changes_no_decision(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            if broken:
                raise RuntimeError("no disk")
            return manager.open_connection(None, "192.0.2.2") is None  # another denial

    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: seen.append(each.exc_value))
    handler, logger = Broken(), logging.getLogger("rcmgr")
    logger.addHandler(handler)
    try:
        manager = ResourceManager(connection_limits=PENDING)
        assert manager.open_connection(None, "192.0.2.1") is None
    finally:
        logger.removeHandler(handler)
    assert [str(each) for each in seen] == ["no disk"] * broken
    assert manager.denials.total == 2 - broken
