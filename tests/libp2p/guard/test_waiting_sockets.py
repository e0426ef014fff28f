"""Which accepted socket gets the next place, and which one cannot wait any more."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
import trio
import trio.testing

from rcmgr import Eviction, ResourceManager
from rcmgr.admission.room import Room
from rcmgr.libp2p.guard.waiting_sockets import Accepted, WaitingSockets


class Sockets:
    """Pairs of connected sockets: ours, and that of the other side."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.others: dict[Any, socket.socket] = {}

    def accepted(self, ip: str) -> Accepted:
        ours, other = socket.socketpair()
        self._stack.enter_context(other)
        ours.setblocking(False)
        found = trio.socket.from_stdlib_socket(ours)
        self._stack.callback(found.close)
        self.others[found] = other
        return found, (ip, 1)


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    with ExitStack() as stack:
        yield Sockets(stack)


@pytest.fixture
def room() -> Room:
    manager = ResourceManager()
    manager._admission.room.settings = Eviction(waiting_s=3)
    return manager._admission.room


async def test_the_smallest_group_comes_first(sockets: Sockets, room: Room) -> None:
    waiting = WaitingSockets(lambda: room)
    crowd = [sockets.accepted("10.1.0.1") for _ in range(3)]
    other = sockets.accepted("10.2.0.1")
    for each in (*crowd, other):
        assert waiting.add(*each) is None
    served = []
    while (first := waiting.first) is not None:
        served.append(first)
        waiting.remove_first()
    assert served == [other, *crowd]
    assert len(waiting) == 0


async def test_one_that_has_spoken_goes_before_silent_ones(sockets: Sockets, room: Room) -> None:
    waiting = WaitingSockets(lambda: room)
    silent, speaking = sockets.accepted("10.1.0.1"), sockets.accepted("10.1.0.2")
    for each in (silent, speaking):
        waiting.add(*each)
    sockets.others[speaking[0]].send(b"hello")
    for _ in range(2):
        waiting.look()
    assert waiting.first == speaking
    assert await speaking[0].recv(5) == b"hello"  # nothing was read


async def test_one_is_not_worth_more_because_it_waits(
    sockets: Sockets, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WaitingSockets, "MOST", 2)
    waiting = WaitingSockets(lambda: room)
    early, late = sockets.accepted("10.1.0.1"), sockets.accepted("10.1.0.1")
    for each in (late, early):
        waiting.add(*each)
    for each, looks in ((early, 3), (late, 1)):  # in the order in which they spoke
        sockets.others[each[0]].send(b"hello")
        for _ in range(looks):
            waiting.look()
    assert waiting.first == early
    assert waiting.add(*sockets.accepted("10.2.0.1")) == early  # the oldest of one stage


async def test_one_that_hung_up_is_dropped(sockets: Sockets, room: Room) -> None:
    waiting = WaitingSockets(lambda: room)
    gone, here = sockets.accepted("10.1.0.1"), sockets.accepted("10.1.0.1")
    for each in (gone, here):
        waiting.add(*each)
    sockets.others[gone[0]].close()
    waiting.look()
    waiting.look()
    assert len(waiting) == 1
    assert gone[0].fileno() == -1
    assert waiting.first == here


async def test_nothing_waits_too_long(
    sockets: Sockets, room: Room, autojump_clock: trio.testing.MockClock
) -> None:
    waiting = WaitingSockets(lambda: room)
    early, served, late = (sockets.accepted("10.1.0.1") for _ in range(3))
    waiting.add(*early)
    await trio.sleep(1)
    waiting.add(*served)
    waiting.add(*late)
    assert waiting.overdue() is None
    await trio.sleep(2.5)
    assert waiting.overdue() == early
    assert waiting.overdue() is None
    waiting.remove_first()
    await trio.sleep(1)
    assert waiting.overdue() == late
    assert waiting.overdue() is None


async def test_in_a_full_waiting_room_the_largest_group_pays(
    sockets: Sockets, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WaitingSockets, "MOST", 3)
    waiting = WaitingSockets(lambda: room)
    crowd = [sockets.accepted("10.1.0.1") for _ in range(3)]
    for each in crowd:
        assert waiting.add(*each) is None
    other = sockets.accepted("10.2.0.1")
    assert waiting.add(*other) == crowd[0]
    another = sockets.accepted("10.1.0.1")
    assert waiting.add(*another) == another  # its group has no more than it had
    assert len(waiting) == 3
    waiting.displaced.append(another)  # until the listener decides about it
    waiting.close()
    assert len(waiting) == 0
    assert [each[0].fileno() for each in (*crowd[1:], other, another)] == [-1] * 4
    assert crowd[0][0].fileno() != -1


async def test_without_a_room_nothing_waits(sockets: Sockets) -> None:
    waiting = WaitingSockets(lambda: None)
    accepted = sockets.accepted("10.1.0.1")
    assert waiting.add(*accepted) == accepted
