"""Ending connections of a stand-in for a swarm. tests/e2e/test_eviction.py has real ones."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from libp2p_values import ID

from rcmgr import ConnectionScope, Eviction, NodeLimits, ResourceManager
from rcmgr.admission.host_closer import HostCloser, socket_stream, swarm_of_this_task
from rcmgr.admission.room import Room

PEER = b"peer"


class Muxed:
    def __init__(self, peer: bytes, stream: Any = None) -> None:
        self.peer_id = peer
        self.stream = stream


class Connection:
    """The part of libp2p's `SwarmConn` that the closer uses."""

    def __init__(self, swarm: Swarm, scope: ConnectionScope | None, peer: bytes = PEER) -> None:
        self.muxed_conn = Muxed(peer)
        self._resource_scope = scope
        self.swarm = swarm
        self.done: list[str] = []
        self.closes: Callable[[], Any] = trio.lowlevel.checkpoint
        swarm.connections.setdefault(peer, []).append(self)

    async def close(self) -> None:
        self.done.append("close")
        await self.closes()
        await self._cleanup()

    async def _cleanup(self) -> None:
        self.done.append("cleanup")


class Tags:
    def __init__(self) -> None:
        self.protected: set[bytes] = set()
        self.values: dict[bytes, int] = {}

    def is_protected(self, peer: bytes) -> bool:
        return peer in self.protected

    def get_tag_value(self, peer: bytes) -> int:
        return self.values.get(peer, 0)


class Swarm:
    def __init__(self) -> None:
        self.connections: dict[Any, list[Connection]] = {}
        self.tag_store = Tags()
        self.background_nursery: Any = None

    def remove_conn(self, connection: Connection) -> None:
        self.connections[connection.muxed_conn.peer_id].remove(connection)

    async def run(self, manager: ResourceManager) -> None:
        async with trio.open_nursery() as nursery:
            self.background_nursery = nursery
            nursery.start_soon(manager.graceful_degradation.run_periodic_recovery)
            await trio.sleep_forever()


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager(NodeLimits(eviction=Eviction(close_s=0.01)))


def room_of(manager: ResourceManager) -> Room:
    return manager._admission.room


def opened(manager: ResourceManager) -> ConnectionScope:
    scope = manager.open_connection(PEER, "10.0.0.1", "inbound")
    assert scope is not None
    return scope


async def test_a_host_that_runs_makes_room(manager: ResourceManager) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Swarm().run, manager)
        await trio.testing.wait_all_tasks_blocked()
        assert manager.evictions()["enabled"]
        nursery.cancel_scope.cancel()
    assert not manager.evictions()["enabled"]


async def test_a_task_of_no_swarm(manager: ResourceManager) -> None:
    assert swarm_of_this_task() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.graceful_degradation.run_periodic_recovery)
        await trio.testing.wait_all_tasks_blocked()
        assert not manager.evictions()["enabled"]
        nursery.cancel_scope.cancel()


async def closer_of(swarm: Swarm, manager: ResourceManager, nursery: Any) -> HostCloser:
    swarm.background_nursery = nursery
    return HostCloser(swarm, room_of(manager))


async def test_a_connection_is_found_by_its_record(manager: ResourceManager) -> None:
    swarm = Swarm()
    async with trio.open_nursery() as nursery:
        closer = await closer_of(swarm, manager, nursery)
        scopes = [opened(manager) for _ in range(3)]
        first, second, _ = [Connection(swarm, scope) for scope in (*scopes[:2], None)]
        assert closer.find(scopes[1].record) is second
        assert closer.find(scopes[2].record) is None
        first.muxed_conn._resource_scope = first._resource_scope  # as QUIC keeps it
        first._resource_scope = None
        assert closer.find(scopes[0].record) is first
        swarm.connections[ID(PEER)] = swarm.connections.pop(PEER)  # the swarm knows it as an ID
        assert closer.find(scopes[1].record) is second


async def test_another_event_loop_finds_nothing(manager: ResourceManager) -> None:
    swarm = Swarm()
    async with trio.open_nursery() as nursery:
        closer = await closer_of(swarm, manager, nursery)
        scope = opened(manager)
        connection = Connection(swarm, scope)

        async def find() -> Any:
            return closer.find(scope.record)

        assert await trio.to_thread.run_sync(trio.run, find) is None
        assert await trio.to_thread.run_sync(closer.find, scope.record) is None
        assert closer.find(scope.record) is connection


async def test_protected_and_tagged_peers_are_not_found(manager: ResourceManager) -> None:
    swarm = Swarm()
    async with trio.open_nursery() as nursery:
        closer = await closer_of(swarm, manager, nursery)
        scope = opened(manager)
        connection = Connection(swarm, scope)
        swarm.tag_store.protected.add(PEER)
        assert closer.find(scope.record) is None
        swarm.tag_store.protected.clear()
        swarm.tag_store.values[PEER] = 1
        assert closer.find(scope.record) is None
        swarm.tag_store.values[PEER] = 0
        assert closer.find(scope.record) is connection


async def test_another_thread_ends_nothing(manager: ResourceManager) -> None:
    swarm = Swarm()
    async with trio.open_nursery() as nursery:
        closer = await closer_of(swarm, manager, nursery)
        scope = opened(manager)
        Connection(swarm, scope)
        assert closer.find(scope.record) is not None
        assert await trio.to_thread.run_sync(closer.find, scope.record) is None


async def end(
    manager: ResourceManager, connection: Connection, swarm: Swarm, cancel: bool = False
) -> None:
    room = room_of(manager)
    async with trio.open_nursery() as nursery:
        closer = await closer_of(swarm, manager, nursery)
        closer.end(connection)
        assert swarm.connections[PEER] == []
        if cancel:
            nursery.cancel_scope.cancel()
    assert room.leaving == -1  # `Room.evict` has counted it before


async def test_a_connection_closes_by_itself(manager: ResourceManager) -> None:
    swarm = Swarm()
    connection = Connection(swarm, opened(manager))
    await end(manager, connection, swarm)
    assert connection.done == ["close", "cleanup"]
    assert room_of(manager).cut == 0


async def test_an_error_of_the_close_ends_nothing_else(manager: ResourceManager) -> None:
    swarm = Swarm()
    connection = Connection(swarm, opened(manager))

    async def fails() -> None:
        raise RuntimeError

    connection.closes = fails
    await end(manager, connection, swarm)
    assert room_of(manager).cut == 0


async def test_a_host_that_stops_meanwhile(manager: ResourceManager) -> None:
    swarm = Swarm()
    connection = Connection(swarm, opened(manager))
    connection.closes = trio.sleep_forever
    await end(manager, connection, swarm, cancel=True)
    assert room_of(manager).cut == 0


async def test_one_that_does_not_go_is_cut(manager: ResourceManager) -> None:
    swarm = Swarm()
    connection = Connection(swarm, opened(manager))
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    ours = await trio.testing.open_stream_to_socket_listener(listener[0])
    theirs = await listener[0].accept()
    connection.muxed_conn.stream = ours

    async def never_reads() -> None:
        while True:
            await ours.send_all(bytes(1 << 16))

    connection.closes = never_reads
    await end(manager, connection, swarm)
    assert room_of(manager).cut == 1
    assert connection.done == ["close", "cleanup"]
    assert ours.socket.fileno() == -1
    with pytest.raises(trio.BrokenResourceError):  # a reset, not an end
        await read_all(theirs)
    for stream in (theirs, *listener):
        await stream.aclose()


async def read_all(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, (None, None)), ({"max_connections": 300}, (299, None)), ({"tokens": 250}, (None, 219)),
     ({"tokens": float("inf")}, (None, None)), ({"max_connections": 1, "tokens": 1}, (1, 1))],
)
async def test_the_limits_of_the_swarm(
    manager: ResourceManager, limits: dict[str, Any], expected: tuple[int | None, int | None]
) -> None:
    swarm: Any = Swarm()
    if "max_connections" in limits:
        swarm.connection_config = type("Config", (), limits)
    if "tokens" in limits:
        swarm._inbound_limiter = trio.CapacityLimiter(limits["tokens"])
    async with trio.open_nursery() as nursery:
        closer = await closer_of(swarm, manager, nursery)
        assert (closer.most_total, closer.most_inbound) == expected


def test_the_socket_below_all_layers() -> None:
    class Layer:
        def __init__(self, **inside: Any) -> None:
            vars(self).update(inside)

    with socket.socket() as bare:
        stream = Layer(socket=bare)
        assert socket_stream(Layer(_conn=Layer(stream=stream))) is stream
    assert socket_stream(Layer()) is None
