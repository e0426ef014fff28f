"""Tell a peer why its stream is reset, with go-libp2p's error codes (core/network/mux.go)."""

from __future__ import annotations

import logging
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from enum import IntEnum
from typing import Any

from rcmgr.libp2p.hooks import Hook, SharedHooks, Undo

__all__ = ["ResetCode", "name_refusal", "negotiating", "reset_codes", "reset_with"]

logger = logging.getLogger(__name__)


class ResetCode(IntEnum):
    """Why a stream is reset. A muxer sends 0 for any other reason."""

    NONE = 0
    NEGOTIATION_FAILED = 0x1001
    RESOURCE_LIMIT = 0x1002
    RATE_LIMITED = 0x1003


_code: ContextVar[ResetCode] = ContextVar("rcmgr_reset_code", default=ResetCode.NONE)


def name_refusal(code: ResetCode) -> None:
    """Send this code if the current task resets its stream. A swarm has a task for each stream."""
    _code.set(code)


async def reset_with(code: ResetCode, stream: Any) -> None:
    """Reset a stream in a task that has others too."""
    before = _code.set(code)
    try:
        await stream.reset()
    finally:
        _code.reset(before)


async def _resetting_quic(
    original: Callable[..., Awaitable[None]], stream: Any, error_code: int = 0
) -> None:
    """libp2p 0.8.1: transport/quic/stream.py line 524."""
    await original(stream, error_code or int(_code.get()))


async def _resetting_yamux(original: Callable[[Any], Awaitable[None]], stream: Any) -> None:
    """libp2p 0.8.1: stream_muxer/yamux/yamux.py line 618 sends the length 0. In go-yamux the length
    of this frame is the code. A peer ignores the second frame for a stream that it has reset.
    """
    from libp2p.io.exceptions import ConnectionClosedError
    from libp2p.network.connection.exceptions import RawConnError
    from libp2p.stream_muxer.yamux import yamux

    code = _code.get()
    if code and not stream.closed:
        frame = struct.pack(
            yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_RST,
            stream.stream_id, code)
        try:
            await stream.conn._write_frame(frame)
        except (RawConnError, ConnectionClosedError):
            logger.debug("no code was sent for stream %s", stream.stream_id, exc_info=True)
    await original(stream)


async def negotiating(original: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """For a hook on a host's `multiselect.negotiate`: the host resets the stream after a failure.

    libp2p 0.8.1: host/basic_host.py line 1517.
    """
    try:
        protocol, handler = await original(*args, **kwargs)
    except BaseException:
        name_refusal(ResetCode.NEGOTIATION_FAILED)
        raise
    if protocol is None or handler is None:
        name_refusal(ResetCode.NEGOTIATION_FAILED)
    return protocol, handler


def _placing() -> Iterator[Undo]:
    from libp2p.stream_muxer.yamux.yamux import YamuxStream
    from libp2p.transport.quic.stream import QUICStream

    yield Hook(YamuxStream, "reset", _resetting_yamux).undo
    yield Hook(QUICStream, "reset", _resetting_quic).undo


reset_codes = SharedHooks(_placing)
"""While in use, yamux and QUIC streams of all hosts carry the code. Mplex has no place for one."""
