"""Following connections through a swarm. Real hosts: tests/e2e/test_events.py."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.network.swarm import Swarm as StockSwarm

from rcmgr import (
    ConnectionLifecycleEvent,
    ConnectionLifecycleHandler,
    ConnectionLimits,
    ResourceManager,
)
from rcmgr.libp2p import Libp2pMismatch, observe

ADDRESS = "/ip4/127.0.0.1/tcp/1"
_numbers = itertools.count(1)


class RawConnection:
    """A connection over TCP or WebSocket, of which only the socket is real."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.other = socket.create_connection(server.getsockname())
            self.stream = SimpleNamespace(
                socket=server.accept()[0], receive_some=trio.sleep_forever,
                send_all=trio.sleep_forever)

    def close(self) -> None:
        self.other.close()
        self.stream.socket.close()


class Swarm:
    """Calls its methods and its manager in the order of py-libp2p 0.8.1."""

    def __init__(self, manager: ResourceManager | None) -> None:
        self._resource_manager = manager
        self._manager = None
        self.connections: dict[Any, list[Any]] = {}
        self.peer = b"peer %d" % next(_numbers)

    @cached_property
    def raw(self) -> RawConnection:
        return RawConnection()

    def _ask(self, peer: Any, direction: str) -> None:
        if self._resource_manager is not None and (
            self._resource_manager.open_connection(peer, None, direction) is None
        ):
            raise ConnectionError("refused by the manager")

    async def _dial_addr_single_attempt(self, addr: Any, peer_id: Any) -> Any:
        self._ask(None, "outbound")
        return await self.upgrade_outbound_raw_conn(self.raw, peer_id)

    async def upgrade_outbound_raw_conn(self, raw_conn: Any, peer_id: Any) -> Any:
        return await self.add_conn(self._upgrade(raw_conn), "outbound")

    async def _handle_inbound_connection(self, connection: Any, maddr: Any) -> Any:
        return await self.upgrade_inbound_raw_conn(connection, maddr)

    async def upgrade_inbound_raw_conn(self, raw_conn: Any, maddr: Any) -> Any:
        self._ask(None, "inbound")
        return await self.add_conn(self._upgrade(raw_conn), "inbound")

    def _upgrade(self, raw_conn: Any) -> Any:
        async def close() -> None:
            await trio.lowlevel.checkpoint()

        return SimpleNamespace(peer_id=self.peer, _conn=raw_conn, is_closed=False, close=close)

    async def add_conn(self, muxed_conn: Any, direction: str) -> Any:
        self._ask(muxed_conn.peer_id, direction)
        if muxed_conn.peer_id in self.connections:
            return self.connections[muxed_conn.peer_id][0]
        connection = Connection(muxed_conn)
        self.connections[muxed_conn.peer_id] = [connection]
        await self.notify_connected(connection)
        return connection

    async def notify_connected(self, connection: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()


class Connection:
    def __init__(self, muxed_conn: Any) -> None:
        self.muxed_conn = muxed_conn
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True
        await self.muxed_conn.close()


class Observed:
    def __init__(self, manager: ResourceManager | None) -> None:
        self.swarm: Any = Swarm(manager)
        self.events: list[Any] = []
        self.observer = observe(self.swarm)
        self.observer.handler.register_handler(ConnectionLifecycleEvent, self.events.append)

    @property
    def kinds(self) -> list[str]:
        """"PendingInbound", "ConnectionClosed", ..."""
        return [
            type(event).__name__.removesuffix("Event").removesuffix("Connection")
            for event in self.events]

    async def begin(self, direction: str) -> Any:
        if direction == "outbound":
            return await self.swarm._dial_addr_single_attempt(ADDRESS, self.swarm.peer)
        return await self.swarm._handle_inbound_connection(self.swarm.raw, ADDRESS)


@pytest.fixture(params=["manager", "no manager"])
def observed(request: pytest.FixtureRequest) -> Iterator[Observed]:
    observed = Observed(ResourceManager() if request.param == "manager" else None)
    yield observed
    observed.observer.undo()
    observed.swarm.raw.close()


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
async def test_a_connection_from_its_first_sign_to_its_end(
    observed: Observed, direction: str
) -> None:
    connection = await observed.begin(direction)
    way = direction.capitalize()
    assert observed.kinds == [f"Pending{way}", f"Established{way}"]
    await connection.close()
    assert observed.kinds[2:] == ["ConnectionClosed"]
    assert observed.events[-1].reason == "closed by us"
    local = observed.swarm.raw.stream.socket.getsockname()[1]
    assert str(observed.events[-1].local_addr) == f"/ip4/127.0.0.1/tcp/{local}"
    assert set(vars(connection)) == {"muxed_conn", "is_closed"}


async def test_a_second_connection_that_the_swarm_does_not_keep(observed: Observed) -> None:
    for _ in range(2):
        await observed.begin("outbound")
    assert observed.kinds[2:] == ["PendingOutbound", "DialFailed"]
    assert observed.events[-1].reason == "duplicate"


async def test_a_handshake_that_raises(observed: Observed) -> None:
    def fails(raw_conn: Any) -> None:
        raise TimeoutError("no answer")

    observed.swarm._upgrade = fails
    with pytest.raises(TimeoutError):
        await observed.begin("inbound")
    assert observed.kinds == ["PendingInbound", "ListenFailed"]
    assert (observed.events[-1].reason, observed.events[-1].error) == (
        "timed out", "TimeoutError: no answer")


async def test_a_failed_dial_has_the_real_address(observed: Observed) -> None:
    def fails(raw_conn: Any) -> None:
        raise TimeoutError("no answer")

    observed.swarm._upgrade = fails
    with pytest.raises(TimeoutError):
        await observed.begin("outbound")
    remote = observed.swarm.raw.other.getsockname()[1]
    assert list(map(str, observed.events[-1].addresses)) == [f"/ip4/127.0.0.1/tcp/{remote}"]


async def test_an_inbound_connection_that_the_swarm_closes_at_once(observed: Observed) -> None:
    async def close(raw_conn: Any, maddr: Any) -> None:
        await trio.lowlevel.checkpoint()

    observed.observer.undo()
    observed.swarm._handle_inbound_connection = close
    observed.observer = observe(observed.swarm, observed.observer.handler)
    await observed.begin("inbound")
    assert observed.kinds == ["ListenFailed"]
    assert observed.events[-1].reason == "refused by the swarm"
    assert observed.events[-1].remote_addr is not None


async def test_the_end_of_the_swarm_closes_what_is_open(observed: Observed) -> None:
    await observed.begin("inbound")
    await observed.swarm.run()
    assert observed.kinds[2:] == ["ConnectionClosed"]
    assert observed.events[-1].reason == "host shutdown"


async def test_undo_reports_nothing_more_and_removes_all_hooks(observed: Observed) -> None:
    before = set(vars(Swarm(None)))
    connection = await observed.begin("inbound")
    observed.observer.undo()
    await connection.close()
    await observed.begin("outbound")
    assert observed.kinds == ["PendingInbound", "EstablishedInbound"]
    assert set(vars(observed.swarm)) == before | {"raw"}
    assert "close" not in vars(connection)


@pytest.mark.parametrize(("limits", "expected"), [
    (ConnectionLimits(max_pending_inbound=0), ["Denied"]),
    (ConnectionLimits(max_established_inbound=0), ["PendingInbound", "Denied"]),
])
async def test_a_denial_before_and_after_the_handshake(
    limits: ConnectionLimits, expected: list[str]
) -> None:
    observed = Observed(ResourceManager(connection_limits=limits))
    with pytest.raises(ConnectionError):
        await observed.begin("inbound")
    assert [kind.removeprefix("Connection") for kind in observed.kinds] == expected
    assert observed.events[-1].error.kind.value in str(limits)
    observed.observer.undo()
    observed.swarm.raw.close()


def test_the_handler_is_the_given_one_or_a_new_one() -> None:
    handler = ConnectionLifecycleHandler()
    for given in (handler, None):
        swarm: Any = Swarm(None)
        observer = observe(swarm, given)
        assert (observer.handler is handler) == (given is handler)
        observer.undo()


def test_an_object_without_a_swarm_is_refused() -> None:
    nothing: Any = object()
    with pytest.raises(Libp2pMismatch, match="has no swarm"):
        observe(nothing)


def test_every_hooked_method_is_one_of_stocks() -> None:
    """This stand-in has no method that a real swarm lacks."""
    for name, value in vars(Swarm).items():
        if callable(value) and not name.startswith("__") and name not in ("_ask", "_upgrade"):
            assert callable(getattr(StockSwarm, name))
