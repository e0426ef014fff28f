"""What streams that have ended leave behind in py-libp2p's muxers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.libp2p.hooks import Make, SharedHooks

__all__ = ["ended_streams"]

End = Callable[..., Awaitable[None]]


def _of_yamux(original: End) -> End:
    """libp2p 0.8.1: stream_muxer/yamux/yamux.py line 976 keeps a stream with what was sent on it
    and not read for up to 90 s. Reading it fails after a reset.
    """

    async def reset(stream: Any) -> None:
        await original(stream)
        unread = stream.conn.stream_buffers.get(stream.stream_id)
        if unread:
            unread.clear()
            await stream.conn._finalize_stream(stream, fully_closed=True)

    return reset


def _of_mplex(original: End) -> End:
    """libp2p 0.8.1: stream_muxer/mplex/mplex_stream.py lines 291 and 319 keep the stream's channel
    as long as the connection lasts.
    """

    async def end(stream: Any) -> None:
        await original(stream)
        _forget_channel(stream.muxed_conn, stream.stream_id)

    return end


def _by_the_peer(original: End) -> End:
    """The same, of stream_muxer/mplex/mplex.py line 418."""

    async def handle_close(connection: Any, stream_id: Any) -> None:
        await original(connection, stream_id)
        _forget_channel(connection, stream_id)

    return handle_close


def _forget_channel(connection: Any, stream_id: Any) -> None:
    if stream_id not in connection.streams:
        connection.streams_msg_channels.pop(stream_id, None)


def _targets() -> Iterator[tuple[Any, str, Make]]:
    from libp2p.stream_muxer.mplex.mplex import Mplex
    from libp2p.stream_muxer.mplex.mplex_stream import MplexStream
    from libp2p.stream_muxer.yamux.yamux import YamuxStream

    yield YamuxStream, "reset", _of_yamux
    yield MplexStream, "reset", _of_mplex
    yield MplexStream, "close", _of_mplex
    yield Mplex, "_handle_close", _by_the_peer


ended_streams = SharedHooks(_targets)
"""With these they leave nothing, but for what was sent on a stream that was closed, not reset."""
