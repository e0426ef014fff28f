"""The limits files of docs/sizes admit the day that they are made for, and stop a flood."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rcmgr import (
    ConnectionScope,
    LimitsFile,
    NodeLimits,
    ProcessMemoryLimits,
    ResourceManager,
)
from rcmgr.limits.conflicts import conflicts

SIZES = Path(__file__).parents[1] / "docs/sizes"
GIB = 1024**3
FDS = 65536
MINUTES = 24 * 60

pytestmark = pytest.mark.skipif(not SIZES.exists(), reason="only in a checkout")


@dataclass(frozen=True)
class Day:
    """The day of a node on a machine with `memory` bytes.

    peers: connected at the busiest minute. stay: minutes of a visit. streams: of one peer.
    inbound: share of the peers that dialled the node.
    """

    memory: int
    peers: int
    stay: int
    streams: int
    inbound: float
    one_address: bool = False


DAYS = {
    "laptop": Day(16 * GIB, 100, 240, 4, 0.4),
    "server-2gib": Day(2 * GIB, 200, 240, 4, 0.7),
    "server-8gib": Day(8 * GIB, 800, 240, 4, 0.7),
    "server-64gib": Day(64 * GIB, 3500, 480, 4, 0.75),
    "bootstrap": Day(8 * GIB, 900, 60, 2, 0.95),
    "relay": Day(8 * GIB, 700, 480, 8, 0.8),
    "private-cluster": Day(8 * GIB, 400, 1440, 16, 0.5, one_address=True),
}


class Node:
    """A manager with the limits of a file, and the peers that visit it."""

    def __init__(self, name: str) -> None:
        self.day = DAYS[name]
        self.file = LimitsFile.read(SIZES / f"{name}.toml")
        self.limits = self.file.build(NodeLimits.default(memory=self.day.memory, fds=FDS))
        # without the limit on the memory of this process, which runs other tests too
        self.manager = ResourceManager(replace(self.limits, memory=ProcessMemoryLimits()))
        self.random = random.Random(name)
        self.visits: list[tuple[int, bytes, str, ConnectionScope]] = []  # a heap by their end
        self.came = 0

    def connect(self, address: str, direction: str) -> tuple[bytes, ConnectionScope | None]:
        """A new peer connects, as a swarm reports it."""
        self.came += 1
        peer = b"\x12\x20" + self.came.to_bytes(32, "big")
        pending = self.manager.open_connection(None, address, direction)
        if pending is None:
            return peer, None
        try:
            return peer, self.manager.open_connection(peer, address, direction)
        finally:
            pending.close()

    def welcome(self, minute: int) -> None:
        """An honest peer arrives and opens its streams. No limit refuses it."""
        direction = "inbound" if self.random.random() < self.day.inbound else "outbound"
        network = self.came + 1
        address = "198.51.100.1" if self.day.one_address else (
            f"{20 + (network >> 16)}.{network >> 8 & 255}.{network & 255}.7")
        peer, scope = self.connect(address, direction)
        assert scope is not None, self.manager.last_denial
        for _ in range(self.day.streams):
            assert self.manager.acquire_stream(peer, direction), self.manager.last_denial
        end = minute + 1 + int(self.random.expovariate(1 / self.day.stay))
        heapq.heappush(self.visits, (end, peer, direction, scope))

    def live_until(self, minute: int) -> None:
        """Peers leave whose visit is over."""
        while self.visits and self.visits[0][0] <= minute:
            _, peer, direction, scope = heapq.heappop(self.visits)
            for _ in range(self.day.streams):
                self.manager.release_stream(peer, direction)
            scope.close()

    def live_a_day(self) -> None:
        """Half as many peers visit the node at night."""
        for minute in range(MINUTES):
            self.live_until(minute)
            wave = 0.75 - 0.25 * math.cos(2 * math.pi * minute / MINUTES)
            while len(self.visits) < self.day.peers * wave:
                self.welcome(minute)


def test_every_file_has_a_day() -> None:
    assert {path.stem for path in SIZES.glob("*.toml")} == set(DAYS)


@pytest.mark.parametrize("name", DAYS)
def test_the_limits_do_not_contradict_each_other(name: str) -> None:
    node = Node(name)
    found = conflicts(node.limits, memory=node.day.memory, fds=FDS, said=node.file)
    assert not found


@pytest.mark.parametrize("name", DAYS)
def test_a_day_passes_without_a_refusal(name: str) -> None:
    node = Node(name)
    node.live_a_day()
    assert node.manager.denials.total == 0
    assert node.manager.connection_tracker.get_connection_count("established_total") > 0
    node.live_until(10**9)
    assert node.manager.connection_tracker.get_connection_count("established_total") == 0


@pytest.mark.parametrize("name", DAYS)
def test_a_flood_from_two_networks_passes_no_limit(name: str) -> None:
    node = Node(name)
    node.live_a_day()
    most = node.limits.connections.max_established_inbound
    assert most is not None
    strangers = [
        node.connect(f"203.0.{113 + each % 2}.{each >> 1 & 255}", "inbound")[1]
        for each in range(2 * most)
    ]
    counts = node.manager.connection_tracker.snapshot()
    assert node.manager.denials.total > 0
    assert counts.established_inbound <= most
    node.live_until(10**9)
    for scope in filter(None, strangers):
        scope.close()
    assert not node.manager.connection_tracker.get_connection_count("established_total")
