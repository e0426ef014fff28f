"""Inbound QUIC connections during their handshakes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.transport.quic.connection_id_registry import ConnectionIDRegistry
from libp2p.transport.quic.listener import QUICListener

from rcmgr import ConnectionLifecycleEvent, ListenFailedEvent, PendingInboundConnectionEvent
from rcmgr.events.observers import Observers
from rcmgr.libp2p.hooks import Hook
from rcmgr.libp2p.observe.connection_report import Reporter
from rcmgr.libp2p.observe.quic_handshakes import QuicHandshakes

CID = b"connection id"


class Listener:
    """Stands in for a QUICListener that gets one packet of a new connection."""

    def __init__(self, swarm: Any) -> None:
        self._transport = SimpleNamespace(_swarm=swarm)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._registry = SimpleNamespace(_pending={CID}, _connections=set())
        self.quic = SimpleNamespace(_close_event=None)
        self._pending_cid_by_quic_id = {id(self.quic): CID}


class Observed:
    def __init__(self) -> None:
        self.swarm: Any = SimpleNamespace(_manager=None)
        self.reporter = Reporter(self.swarm, Observers())
        self.events: list[Any] = []
        self.reporter.observers.register_handler(ConnectionLifecycleEvent, self.events.append)
        self.handshakes = QuicHandshakes(self.reporter)
        self.listener = Listener(self.swarm)

    async def begin(self) -> None:
        await QUICListener._handle_new_connection(
            self.listener, b"", ("127.0.0.1", 9))  # type: ignore[arg-type, call-arg]


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Observed]:
    async def new_connection(listener: Any, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return listener.quic

    async def nothing(*_: Any, **__: Any) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(QUICListener, "_handle_new_connection", new_connection)
    for owner, attribute in (
        (QUICListener, "_handle_pending_connection_packet"),
        (QUICListener, "_remove_pending_connection"),
        (ConnectionIDRegistry, "cleanup_stale_pending"),
    ):
        monkeypatch.setattr(owner, attribute, nothing)
    observed = Observed()
    yield observed
    observed.handshakes.undo()
    observed.listener._socket.close()


async def test_a_handshake_is_pending_until_the_swarm_takes_it(observed: Observed) -> None:
    await observed.begin()
    (pending,) = observed.events
    assert isinstance(pending, PendingInboundConnectionEvent)
    assert str(pending.remote_addr) == "/ip4/127.0.0.1/udp/9/quic-v1"
    connection = SimpleNamespace(_listener_connection_id=CID, _quic=Quic())
    assert not observed.handshakes.is_taken(connection)
    report = observed.handshakes.take(connection)
    assert report is not None
    assert report.connection_id == pending.connection_id
    assert observed.handshakes.is_taken(connection)
    assert observed.handshakes.take(connection) is None
    assert observed.handshakes.take(SimpleNamespace()) is None
    await QUICListener._handle_pending_connection_packet(observed.listener)  # type: ignore[arg-type, call-arg]
    assert observed.events == [pending]


class Quic:
    """A connection of aioquic: only its identity counts here."""


async def test_the_reason_of_a_failure_is_the_function_that_ended_it(observed: Observed) -> None:
    for owner, attribute, reason in (
        (QUICListener, "_remove_pending_connection", "host shutdown"),
        (ConnectionIDRegistry, "cleanup_stale_pending", "timed out"),
    ):
        await observed.begin()
        await getattr(owner, attribute)(observed.listener)
        assert isinstance(observed.events[-1], PendingInboundConnectionEvent)
        observed.listener._registry._pending.clear()
        await getattr(owner, attribute)(observed.listener)
        assert isinstance(observed.events[-1], ListenFailedEvent)
        assert observed.events[-1].reason == reason
        observed.listener._registry._pending.add(CID)


async def test_a_close_by_the_peer_has_its_reason_phrase(observed: Observed) -> None:
    await observed.begin()
    observed.listener.quic._close_event = SimpleNamespace(reason_phrase="no such protocol")
    await QUICListener._handle_pending_connection_packet(observed.listener)  # type: ignore[arg-type, call-arg]
    failed = observed.events[-1]
    assert (failed.reason, failed.error) == ("handshake failed", "no such protocol")


async def test_undo_forgets_the_handshakes_that_have_begun(observed: Observed) -> None:
    await observed.begin()
    observed.handshakes.undo()
    connection = SimpleNamespace(_listener_connection_id=CID, _quic=Quic())
    assert observed.handshakes.take(connection) is None


async def test_handshakes_of_another_swarm_are_not_reported(observed: Observed) -> None:
    observed.listener._transport._swarm = object()
    await observed.begin()
    assert observed.events == []


def test_undo_removes_all_hooks() -> None:
    owners = (QUICListener, ConnectionIDRegistry)
    before = [dict(vars(owner)) for owner in owners]
    handshakes = QuicHandshakes(Reporter(SimpleNamespace(_manager=None), Observers()))
    hooked = [
        value.hook for owner in owners for value in vars(owner).values()
        if isinstance(getattr(value, "hook", None), Hook)]
    assert len(hooked) == 7
    handshakes.undo()
    assert [dict(vars(owner)) for owner in owners] == before
