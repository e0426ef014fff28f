"""Let the dials of a swarm wait for room, so that a burst of them is paced and not denied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.hooks import Hook
from rcmgr.manager import ResourceManager

__all__ = ["pace_dials"]


def pace_dials(swarm: Any) -> Hook:
    """Until `undo`, a dial waits for room as long as its handshake may take."""

    async def dialling(
        original: Callable[..., Awaitable[Any]], addr: Any, peer_id: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """libp2p 0.8.1: network/swarm.py line 1064."""
        manager = manager_of(swarm)
        if not isinstance(manager, ResourceManager) or manager.closed:
            return await original(addr, peer_id, *args, **kwargs)
        timeout = swarm.connection_config.outbound_upgrade_timeout
        async with manager.dial_slot(peer_id, timeout):
            return await original(addr, peer_id, *args, **kwargs)

    return Hook(swarm, "_dial_addr_single_attempt", dialling)
