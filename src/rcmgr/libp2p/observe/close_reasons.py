"""Find out why an established connection ends, which py-libp2p tells in no single place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.libp2p.hooks import Hook, Undo
from rcmgr.libp2p.observe.failure_reasons import chain_of
from rcmgr.libp2p.observe.socket_addresses import socket_stream

__all__ = ["note_resets", "note_terminations", "why_closed"]

Note = Callable[[str], None]
Transfer = Callable[..., Awaitable[Any]]


def why_closed(muxed_conn: Any) -> str:
    """The reason of a close that begins now: a muxer that ends by itself was closed by the peer."""
    ending = getattr(muxed_conn, "event_shutting_down", None)
    has_ended = muxed_conn.is_closed if ending is None else ending.is_set()
    return "closed by peer" if has_ended else "closed by us"


def note_resets(raw_conn: Any, note: Note) -> Iterator[Undo]:
    """Note a reset of a TCP connection. The layers above trio's `SocketStream` hide its errors.

    The reset is noted once the buffered data has been read, because that data may close the
    connection in order. The system reports a reset only once. If a writer gets the error, reading
    ends without one.
    """
    stream = socket_stream(raw_conn)
    if stream is None:
        return
    writer_got_it = False

    async def receive_some(original: Transfer, *args: Any) -> Any:
        try:
            data = await original(*args)
        except Exception as error:
            if _is_reset(error):
                note("reset")
            raise
        if writer_got_it and not data:
            note("reset")
        return data

    async def send_all(original: Transfer, *args: Any) -> Any:
        nonlocal writer_got_it
        try:
            return await original(*args)
        except Exception as error:
            writer_got_it = writer_got_it or _is_reset(error)
            raise

    yield Hook(stream, "receive_some", receive_some).undo
    yield Hook(stream, "send_all", send_all).undo


def _is_reset(error: BaseException) -> bool:
    return any(
        isinstance(each, ConnectionResetError | BrokenPipeError) for each in chain_of(error))


def note_terminations(muxed_conn: Any, note: Note) -> Iterator[Undo]:
    """Note how a QUIC connection ends.

    libp2p 0.8.1: transport/quic/connection.py line 1430, `_handle_connection_terminated`.
    """

    async def terminated(original: Transfer, event: Any) -> None:
        if event.reason_phrase == "Idle timeout":
            note("timed out")
        elif event.error_code:
            note("reset")
        await original(event)

    if hasattr(muxed_conn, "_handle_connection_terminated"):
        yield Hook(muxed_conn, "_handle_connection_terminated", terminated).undo
