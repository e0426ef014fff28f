"""Let a QUIC listener offer each connection once, also if it is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.libp2p.hooks import Hook, SharedHooks, Undo

__all__ = ["single_refusals"]


async def _unless_closing(
    original: Callable[..., Awaitable[None]], listener: Any, quic: Any, *args: Any
) -> None:
    """libp2p 0.8.1: transport/quic/listener.py lines 426 and 984. When the swarm has refused a
    connection, a packet of the peer promotes it again. The swarm then refuses it a second time.
    """
    if quic._close_event is None:
        await original(listener, quic, *args)


def _placing() -> Iterator[Undo]:
    from libp2p.transport.quic.listener import QUICListener

    for attribute in ("_handle_pending_connection_packet", "_promote_pending_connection"):
        yield Hook(QUICListener, attribute, _unless_closing).undo


single_refusals = SharedHooks(_placing)
"""While in use, the refusal of an inbound QUIC connection is one denial, in all hosts."""
