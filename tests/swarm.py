"""py-libp2p 0.8.1's order of calls to its resource manager, without its sockets.

TCP, WebSocket: open(None), open(peer), pre.close, reconcile, handler.
QUIC outbound:  open(None), reconcile, handler, open(peer), pre.close.
QUIC inbound:   reconcile, handler, open(peer).
At the end:     scope.close, notify.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any

import trio

from rcmgr import ConnectionScope, ResourceLimitExceeded, ResourceManager

# work of the swarm between two calls
Pause = Callable[[], Awaitable[None]]
TRANSPORTS = ("tcp", "ws", "quic")

_ids = itertools.count(1)


class Refused(Exception):
    """The manager refused the connection."""


@dataclass(eq=False)
class Connection:
    id: str
    peer: Hashable
    scope: ConnectionScope


@dataclass
class Swarm:
    """A swarm that calls its manager as a stock swarm does for each connection."""

    manager: ResourceManager
    pause: Pause = trio.lowlevel.checkpoint
    live: dict[str, Connection] = field(default_factory=dict)

    async def connect(
        self,
        peer: Hashable,
        direction: str = "inbound",
        transport: str = "tcp",
        *,
        handshake: Pause | None = None,
    ) -> Connection:
        """Raises Refused, or the error of `handshake`, and then holds nothing."""
        if transport == "quic" and direction == "inbound":
            return await self._add_quic(peer, direction)
        before = self.manager.open_connection(
            None, endpoint_ip="127.0.0.1" if direction == "outbound" else None, direction=direction
        )
        if before is None:
            raise Refused
        try:
            await (handshake or self.pause)()
            if transport == "quic":
                return await self._add_quic(peer, direction)
            scope = self.manager.open_connection(peer, endpoint_ip=None, direction=direction)
            if scope is None:
                raise Refused
            await self.pause()
            before.close()
            # when the handler refuses, stock 0.8.1 forgets the scope, as this does
            return await self._add(peer, direction, scope)
        finally:
            before.close()

    async def _add(self, peer: Hashable, direction: str, scope: ConnectionScope) -> Connection:
        connection_id = await self._report(peer, direction)
        await self.pause()
        return self._register(connection_id, peer, scope)

    async def _add_quic(self, peer: Hashable, direction: str) -> Connection:
        connection_id = await self._report(peer, direction)
        await self.pause()
        scope = self.manager.open_connection(peer_id=peer, direction=direction)
        if scope is None:
            self.manager.connection_lifecycle.notify_connection_closed(connection_id, peer)
            raise Refused
        await self.pause()
        return self._register(connection_id, peer, scope)

    async def _report(self, peer: Any, direction: str) -> str:
        lifecycle = self.manager.connection_lifecycle
        lifecycle.reconcile_live_connections(set(self.live))
        connection_id = str(next(_ids))
        try:
            if direction == "inbound":
                await lifecycle.handle_established_inbound_connection(
                    connection_id, peer, None, None
                )
            else:
                await lifecycle.handle_established_outbound_connection(
                    connection_id, peer, None, "outbound"
                )
        except ResourceLimitExceeded as error:
            raise Refused from error
        return connection_id

    def _register(
        self, connection_id: str, peer: Hashable, scope: ConnectionScope
    ) -> Connection:
        connection = self.live[connection_id] = Connection(connection_id, peer, scope)
        return connection

    def disconnect(self, connection: Connection) -> None:
        connection.scope.close()
        connection.scope.close()  # as in 0.8.1
        del self.live[connection.id]
        self.manager.connection_lifecycle.notify_connection_closed(connection.id, connection.peer)


async def no_pause() -> None:
    """The pause of a swarm outside of trio."""


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("it suspended")


def counts(manager: ResourceManager) -> tuple[int, int, int, int]:
    """Pending in, pending out, established in, established out."""
    states = manager.get_stats()["connection_states"]
    return (
        states["pending_inbound"], states["pending_outbound"],
        states["established_inbound"], states["established_outbound"],
    )


def check_nothing_held(manager: ResourceManager) -> None:
    stats = manager.get_stats()
    assert counts(manager) == (0, 0, 0, 0)
    assert (stats["connections"], stats["streams"], stats["memory_bytes"]) == (0, 0, 0)
    assert stats["peers"] == 0
    assert not list(manager.connection_tracker.established_per_peer)
    totals = manager.connection_tracker.snapshot()
    assert totals.total_created == totals.total_closed
    assert totals.bypassed == 0
    ledger = manager.ledger
    assert not any(view.stat() != (0,) * 6 for view in (
        ledger.system(), ledger.transient(), ledger.allowlisted_system(),
        ledger.allowlisted_transient()))
    assert ledger.peers() == []
