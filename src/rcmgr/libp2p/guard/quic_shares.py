"""Let no network hold more than its share of the handshakes that a QUIC listener keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from rcmgr.admission.room import Room
from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.hooks import Hook, SharedHooks, Undo
from rcmgr.manager import ResourceManager

__all__ = ["quic_shares"]

_MOST = 240
"""libp2p 0.8.1: transport/quic/connection_id_registry.py line 487. A listener keeps 256 handshakes,
and one more drops the oldest of all. Some packets may be under way at once."""


async def _make_room(
    original: Callable[..., Awaitable[Any]], listener: Any, data: bytes, address: Any, packet: Any
) -> Any:
    """libp2p 0.8.1: transport/quic/listener.py line 550, for the first packet of a handshake."""
    manager, registry = manager_of(listener._transport._swarm), listener._registry
    if isinstance(manager, ResourceManager) and len(registry._pending) >= _MOST:
        room = manager._admission.room
        if room.settings.enabled and not room.only_reports:
            chosen = _oldest_of_largest_group(room, registry)
            await registry.remove_pending_connection(chosen)
            registry._connection_sequence_counters.pop(chosen, None)
    return await original(listener, data, address, packet)


def _oldest_of_largest_group(room: Room, registry: Any) -> bytes:
    addresses = registry._connection_id_to_addr
    groups: dict[bytes, bytes | None] = {  # in the order in which they came
        each: room.group(addresses[each][0]) if each in addresses else None
        for each in registry._pending}
    [(largest, _)] = Counter(groups.values()).most_common(1)
    return next(each for each, group in groups.items() if group == largest)


def _placing() -> Iterator[Undo]:
    from libp2p.transport.quic.listener import QUICListener

    yield Hook(QUICListener, "_handle_new_connection", _make_room).undo


quic_shares = SharedHooks(_placing)
"""While in use, a handshake over QUIC displaces the oldest one of the largest network group."""
