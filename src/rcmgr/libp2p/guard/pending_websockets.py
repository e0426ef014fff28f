"""Bound WebSocket connections from their accept on, before the HTTP upgrade."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.admission.manager_base import accepted
from rcmgr.libp2p.guard.pending_handshakes import current
from rcmgr.libp2p.hooks import Hook, SharedHooks, Undo

__all__ = ["bounded_websockets"]

Handler = Callable[..., Awaitable[Any]]


async def _handling(original: Handler, server: Any, stream: Any) -> None:
    """trio_websocket 0.12: _impl.py line 1778, which waits 60 s for the HTTP request, also if the
    other side has hung up.
    """
    import trio

    scope, handshake = accepted.get(), current.get()
    if scope is None or handshake is None:  # no gate asked about this socket
        await original(server, stream)
        return

    async def receiving(receive: Handler, *args: Any) -> Any:
        try:
            data = await receive(*args)
        except trio.BrokenResourceError:
            handshake.stop_waiting()
            raise
        if data:
            handshake.advance()
        else:
            handshake.stop_waiting()
        hook.undo()
        return data

    try:
        with trio.CancelScope(deadline=trio.current_time() + handshake.patience_s) as waiting:
            handshake.waits_in(waiting)
            hook = Hook(stream, "receive_some", receiving)
            await original(server, stream)
        if waiting.cancelled_caught:
            await trio.aclose_forcefully(stream)
    finally:
        scope.close()


def _placing() -> Iterator[Undo]:
    from trio_websocket import WebSocketServer

    yield Hook(WebSocketServer, "_handle_connection", _handling).undo


bounded_websockets = SharedHooks(_placing)
"""While in use, a socket that an `AcceptGate` accepted has to ask for its upgrade in time."""
