"""Ends connections of a running py-libp2p host for newcomers, and its listeners when it stops."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rcmgr.peers import peer_key

if TYPE_CHECKING:
    from rcmgr.admission.room import Room
    from rcmgr.counting.connection_tracker import ConnectionRecord

__all__ = ["HostCloser", "mark_evicted", "socket_stream", "swarm_of_this_task", "was_evicted"]

logger = logging.getLogger(__name__)

_LAYERS = (
    "_conn", "stream", "_ws_connection", "_stream", "transport_stream",
    "secured_conn", "conn", "raw_connection",  # from a muxer through noise, TLS or no encryption
)
_CUT_S = 1.0
_EVICTED = "_rcmgr_evicted"
"""An attribute of connections and raw streams that made room for newcomers."""
_FREE_OF = 8  # one of so many inbound slots of the swarm is for handshakes


class HostCloser:
    """Ends connections of one swarm for `Room`, and its listeners. Made in a task of its nursery.

    Written for libp2p 0.8.1: network/swarm.py and network/connection/swarm_connection.py.
    """

    def __init__(self, swarm: Any, room: Room) -> None:
        import trio

        self._swarm = swarm
        self._room = room
        self._nursery: Any = swarm.background_nursery
        self._token = trio.lowlevel.current_trio_token()

    @property
    def most_total(self) -> int | None:
        """One less than the swarm's own limit, at which it refuses newcomers unasked."""
        config = getattr(self._swarm, "connection_config", None)
        most = getattr(config, "max_connections", None)
        return None if most is None else max(1, most - 1)

    @property
    def most_inbound(self) -> int | None:
        """The swarm's own limit, which established connections share with handshakes."""
        limiter = getattr(self._swarm, "_inbound_limiter", None)
        if limiter is None or limiter.total_tokens == float("inf"):
            return None
        slots = int(limiter.total_tokens)
        return max(1, slots - slots // _FREE_OF)

    def find(self, record: ConnectionRecord) -> Any | None:
        """The swarm's connection; None: it is unknown or protected, or this is another thread."""
        import trio

        try:
            if trio.lowlevel.current_trio_token() is not self._token:
                return None
        except RuntimeError:  # not in trio
            return None
        peer = record.peer_id
        connections = self._swarm.connections.get(peer, ())
        if not connections:  # the record has the peer in another form
            key = peer_key(peer)
            connections = next(
                (each for other, each in self._swarm.connections.items()
                 if peer_key(other) == key), ())
        for connection in connections:
            if _record_of(connection) is record:
                return None if self._protects(connection) else connection
        return None

    def _protects(self, connection: Any) -> bool:
        """As py-libp2p's pruner: network/connection_pruner.py line 319."""
        tags = getattr(self._swarm, "tag_store", None)
        peer = connection.muxed_conn.peer_id
        return tags is not None and (tags.is_protected(peer) or tags.get_tag_value(peer) > 0)

    def end(self, connection: Any) -> None:
        """Begin to close it. The swarm has forgotten it when this returns."""
        mark_evicted(connection)
        self._swarm.remove_conn(connection)
        self._nursery.start_soon(self._close, connection)

    def end_listeners(self) -> None:
        """Stop to accept when the swarm has stopped.

        A listener runs in a system task, which does not end with a swarm that is cancelled
        (transport/tcp/tcp.py and transport/websocket/listener.py, `_run_server`). Its handshakes
        would keep places, because a stopped swarm starts no muxer.
        """
        for listener in getattr(self._swarm, "listeners", {}).values():
            nursery = getattr(listener, "_nursery", None)
            if nursery is None:
                continue
            # A WebSocket whose reader is cancelled would wait for the close of the other side.
            for connection in getattr(listener, "_connections", {}).values():
                stream = socket_stream(connection)
                if stream is not None:
                    stream.socket.close()
            nursery.cancel_scope.cancel()

    async def _close(self, connection: Any) -> None:
        import trio

        was_cut = False
        try:
            with trio.move_on_after(self._room.settings.close_s) as closing:
                await _quietly(connection.close)
            if closing.cancelled_caught:
                was_cut = True
                _cut(connection.muxed_conn)
                with trio.move_on_after(_CUT_S):
                    await _quietly(connection._cleanup)
        finally:
            self._room.left(was_cut)


def mark_evicted(connection: Any) -> None:
    setattr(connection, _EVICTED, True)


def was_evicted(connection: Any) -> bool:
    """Whether a connection ends to make room for a newcomer."""
    return getattr(connection, _EVICTED, False) is True


def _record_of(connection: Any) -> Any:
    for owner in (connection, connection.muxed_conn):
        scope = getattr(owner, "_resource_scope", None)
        if scope is not None:
            return getattr(scope, "record", None)
    return None


async def _quietly(close: Callable[[], Awaitable[None]]) -> None:
    """An error of a close must not end the swarm, in whose nursery it runs."""
    try:
        await close()
    except Exception:
        logger.debug("closing an evicted connection failed", exc_info=True)


def _cut(muxed_conn: Any) -> None:
    """Reset a connection whose close does not end, because its peer does not read."""
    kind = getattr(muxed_conn, "get_connection_type", None)
    if kind is not None and kind().name == "RELAYED":
        return  # the socket is that of the relay
    stream = socket_stream(muxed_conn)
    if stream is not None:
        # no lingering: the system drops what the peer does not read
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
        return
    quic = getattr(muxed_conn, "_quic", None)
    if quic is not None:
        quic.close()
        muxed_conn._closed_event.set()


def socket_stream(connection: Any) -> Any:
    """The trio stream below all layers of py-libp2p; None: the connection has no socket."""
    layer = connection
    while layer is not None and getattr(layer, "socket", None) is None:
        inside = vars(layer)
        layer = next((inside[name] for name in _LAYERS if inside.get(name) is not None), None)
    return layer


def swarm_of_this_task() -> Any | None:
    """The swarm that started this task in its background nursery; None: no swarm did.

    libp2p 0.8.1: network/swarm.py line 403, in `Swarm.run`.
    """
    import trio

    nursery = trio.lowlevel.current_task().parent_nursery
    coroutine = None if nursery is None else nursery.parent_task.coro
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        swarm = None if frame is None else frame.f_locals.get("self")
        if swarm is not None and getattr(swarm, "background_nursery", None) is nursery:
            return swarm if hasattr(swarm, "remove_conn") else None
        coroutine = getattr(coroutine, "cr_await", None)
    return None
