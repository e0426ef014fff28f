"""A script of peers at a node, which a test can play with any manager."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from rcmgr import NodeLimits, Rate, RateLimits, ResourceManager

PROTOCOLS = ("/a/1", "/b/1", "/c/1")


class Clock:
    """A clock in ns that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now


class Step(NamedTuple):
    """at: its number. wait: milliseconds before it. which: the step that opened the connection or
    stream that it is about."""

    at: int
    wait: int
    what: str
    number: int
    which: int


def steps(count: int, seed: int) -> Iterator[Step]:
    """The steps of a script, if every request is granted."""
    chance = random.Random(seed)
    connections: list[int] = []
    streams: list[int] = []
    counted: list[int] = []
    for at in range(count):
        what = chance.choices(
            ("connect", "dial", "fail", "leave", "stream", "count", "end", "give", "memory",
             "request"),
            (10, 3, 2, 7, 30, 4, 20, 3, 10, 8))[0]
        opened = {
            "leave": connections, "end": streams, "memory": streams, "give": counted}.get(what)
        which = -1
        if opened is not None:
            if not opened:
                continue
            which = chance.choice(opened)
            if what != "memory":
                opened.remove(which)
        {"connect": connections, "dial": connections, "stream": streams, "count": counted}.get(
            what, []).append(at)
        yield Step(at, chance.choice((0, 0, 1, 20, 300)), what, chance.randrange(1 << 30), which)


class Run:
    """Plays a script with one manager. A peer without a connection opens no streams."""

    def __init__(self, manager: ResourceManager, clock: Clock, *, rate: float | None = 1.0) -> None:
        self.manager, self.clock = manager, clock
        self.refused: list[tuple[int, str]] = []
        """The time and the code of each refusal."""
        self.connections: dict[int, tuple[bytes, Any]] = {}
        self.streams: dict[int, Any] = {}
        self.counted: dict[int, bytes] = {}
        self.of_peer: Counter[bytes] = Counter()
        if rate is not None:
            manager.add_protocol_rate_limiter("/a/1", RateLimits(default=Rate(rate, 5)))

    def go(self, count: int, seed: int = 1) -> Run:
        self.connections, self.streams, self.counted = (
            {-1 - at: each for at, each in enumerate(held.values())}
            for held in (self.connections, self.streams, self.counted))
        for step in steps(count, seed):
            self.clock.now += step.wait * 1_000_000
            getattr(self, step.what)(step)
        return self

    def _no(self) -> None:
        error = self.manager.last_denial
        assert error is not None
        self.refused.append((self.clock.now, error.code))

    def _peer(self, number: int) -> bytes:
        return b"\0\x24peer" + bytes([number % 23])

    def _address(self, number: int) -> str:
        if number % 5 == 0:
            return f"2001:db8:{number % 7}::{number % 50:x}"
        return f"198.51.{100 + number % 3}.{number % 60 + 1}"

    def connect(self, step: Step) -> None:
        address, peer = self._address(step.number), self._peer(step.number)
        pending = self.manager.open_connection(None, address, "inbound")
        if pending is None:
            self._no()
        else:
            self._hold(peer, self.manager.open_connection(peer, address, "inbound"), step)

    def dial(self, step: Step) -> None:
        address, peer = self._address(step.number), self._peer(step.number)
        self._hold(peer, self.manager.open_connection(peer, address, "outbound"), step)

    def _hold(self, peer: bytes, scope: Any, step: Step) -> None:
        if scope is None:
            self._no()
        else:
            self.connections[step.at] = peer, scope
            self.of_peer[peer] += 1

    def fail(self, step: Step) -> None:
        pending = self.manager.open_connection(None, self._address(step.number), "inbound")
        if pending is None:
            self._no()
        else:
            pending.close()

    def leave(self, step: Step) -> None:
        if step.which in self.connections:
            peer, scope = self.connections.pop(step.which)
            scope.close()
            self.of_peer[peer] -= 1

    def stream(self, step: Step) -> None:
        number, peer = step.number, self._peer(step.number)
        if not self.of_peer[peer]:
            return
        stream = self.manager.open_stream(peer, "inbound" if number % 3 else "outbound")
        if stream is None:
            self._no()
            return
        answer = stream.try_set_protocol(PROTOCOLS[number % 3])
        if answer and number % 4 == 0:
            answer = stream.try_set_service("service")
        if answer:
            self.streams[step.at] = stream
        else:
            stream.close()
            self.manager.denials.add(answer, None, peer, stream.inbound)
            self._no()

    def count(self, step: Step) -> None:
        # a record does not say which of two such streams ends
        peer = self._peer(step.number) + step.at.to_bytes(2, "big")
        if self.manager.acquire_stream(peer, "outbound"):
            self.counted[step.at] = peer
        else:
            self._no()

    def give(self, step: Step) -> None:
        peer = self.counted.pop(step.which, None)
        if peer is not None:
            self.manager.release_stream(peer, "outbound")

    def end(self, step: Step) -> None:
        stream = self.streams.pop(step.which, None)
        if stream is not None:
            stream.close()

    def memory(self, step: Step) -> None:
        size, priority = step.number % 5000, (101, 152, 255)[step.number % 3]
        if step.number % 2 == 0:
            if self.manager.acquire_memory(size, priority):
                self.manager.release_memory(size)
            else:
                self._no()
        elif step.which in self.streams:
            stream = self.streams[step.which]
            answer = stream.try_reserve_memory(size, priority)
            if not answer:
                self.refused.append((self.clock.now, answer.code))
            elif step.number % 5 == 0:
                stream.release_memory(size // 2)

    def request(self, step: Step) -> None:
        peer = self._peer(step.number)
        if self.of_peer[peer] and not self.manager.check_protocol_rate_limit(
            "/a/1", peer, "get", self._address(step.number)
        ):
            self._no()


def manager_of(limits: NodeLimits, clock: Clock) -> ResourceManager:
    return ResourceManager(limits, clock=clock)
