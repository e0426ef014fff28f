"""Bound what a peer makes py-libp2p's muxers keep beyond the streams that it is granted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.gates.penalties import Offence
from rcmgr.libp2p.guard.offences import charge
from rcmgr.libp2p.hooks import Hook, Libp2pMismatch, SharedHooks, Undo

__all__ = ["bounded_muxers"]

End = Callable[..., Awaitable[None]]


async def _forget(stream: Any) -> None:
    """Drop a stream that we no longer read, and the data that its muxer has buffered."""
    connection = stream.muxed_conn
    buffers = getattr(connection, "stream_buffers", None)
    if buffers is not None:  # yamux
        if stream.stream_id in buffers:
            buffers[stream.stream_id].clear()
            await connection._finalize_stream(stream, fully_closed=True)
    elif hasattr(connection, "streams_msg_channels"):  # mplex
        connection.streams.pop(stream.stream_id, None)
        connection.streams_msg_channels.pop(stream.stream_id, None)


async def _resetting(original: End, stream: Any) -> None:
    """libp2p 0.8.1: stream_muxer/yamux/yamux.py line 976 keeps a reset stream and its unread data
    for up to 90 s. stream_muxer/mplex/mplex_stream.py line 319 keeps its channel as long as the
    connection. Reading fails after a reset, so that the data is of no use.
    """
    await original(stream)
    await _forget(stream)


async def _handling(original: End, connection: Any, stream: Any) -> None:
    """libp2p 0.8.1: network/connection/swarm_connection.py line 277. A stream that its handler has
    closed no longer counts. But it stays, with all data that arrives, until the peer closes it too.
    """
    await original(connection, stream)
    if _is_closed_by_us(stream):
        await _forget(stream)


def _is_closed_by_us(stream: Any) -> bool:
    closed = getattr(stream, "event_local_closed", None)  # mplex
    return bool(getattr(stream, "send_closed", False) if closed is None else closed.is_set())


async def _closing(original: End, stream: Any) -> None:
    """libp2p 0.8.1: stream_muxer/mplex/mplex_stream.py line 291 keeps the channel, as line 319."""
    await original(stream)
    if stream.stream_id not in stream.muxed_conn.streams:
        await _forget(stream)


async def _closed_by_the_peer(original: End, connection: Any, stream_id: Any) -> None:
    """libp2p 0.8.1: stream_muxer/mplex/mplex.py line 418 keeps the channel too."""
    await original(connection, stream_id)
    if stream_id not in connection.streams:
        connection.streams_msg_channels.pop(stream_id, None)


class _ReceiveWindow:
    """Ends a connection whose peer sends more than its window, as go-yamux and rust-yamux do.

    libp2p 0.8.1: stream_muxer/yamux/yamux.py line 1545 only logs it, and keeps the data. Until
    `undo`, this descriptor is the attribute that yamux decrements there. It raises, and line 1632
    closes the connection.
    """

    def __init__(self, owner: type) -> None:
        if hasattr(owner, "recv_window"):
            raise Libp2pMismatch(f"{owner.__qualname__}.recv_window is not as in libp2p 0.8.1")
        from trio import TooSlowError

        self._too_slow = TooSlowError
        self._owner: Any = owner
        owner.recv_window = self  # type: ignore[attr-defined]

    def undo(self) -> None:
        del self._owner.recv_window

    def __get__(self, stream: Any, owner: type) -> Any:
        return self if stream is None else vars(stream)["recv_window"]

    def __set__(self, stream: Any, window: int) -> None:
        vars(stream)["recv_window"] = window
        if window < 0:
            charge(stream.muxed_conn, Offence.WINDOW)
            raise self._too_slow


def _placing() -> Iterator[Undo]:
    from libp2p.network.connection.swarm_connection import SwarmConn
    from libp2p.stream_muxer.mplex.mplex import Mplex
    from libp2p.stream_muxer.mplex.mplex_stream import MplexStream
    from libp2p.stream_muxer.yamux.yamux import YamuxStream

    yield _ReceiveWindow(YamuxStream).undo
    yield Hook(YamuxStream, "reset", _resetting).undo
    yield Hook(MplexStream, "reset", _resetting).undo
    yield Hook(MplexStream, "close", _closing).undo
    yield Hook(Mplex, "_handle_close", _closed_by_the_peer).undo
    yield Hook(SwarmConn, "_handle_muxed_stream", _handling).undo


bounded_muxers = SharedHooks(_placing)
"""While in use, a host keeps at most one window of data for each stream of a peer."""
