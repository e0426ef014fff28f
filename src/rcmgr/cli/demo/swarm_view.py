"""The established connections of a swarm, counted without its manager.

The demo compares these counts with the manager's own, so that no manager judges itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr

__all__ = ["ESTABLISHED", "SwarmView"]

ESTABLISHED = (
    "established_inbound",
    "established_outbound",
    "established_per_peer",
    "established_total",
)


class SwarmView(INotifee):
    """Counts the swarm's connections each time it gets a new one."""

    def __init__(self) -> None:
        self.swarm: Any = None
        self.peaks: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    def watch(self, swarm: Any) -> None:
        self.swarm = swarm
        swarm.register_notifee(self)

    def measure(self) -> Counter[str]:
        """Live connections now, by the name of their limit."""
        now: Counter[str] = Counter()
        for connections in self.swarm.get_connections_map().values():
            live = [connection for connection in connections if not connection.is_closed]
            inbound = sum(is_inbound(connection) for connection in live)
            now["established_inbound"] += inbound
            now["established_outbound"] += len(live) - inbound
            now["established_total"] += len(live)
            now["established_per_peer"] = max(now["established_per_peer"], len(live))
        return now

    def has(self, peer_id: ID) -> bool:
        return any(not connection.is_closed for connection in self.swarm.get_connections(peer_id))

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        name = "established_inbound" if is_inbound(conn) else "established_outbound"
        self.total[name] += 1
        self.peaks |= self.measure()

    async def disconnected(self, network: INetwork, conn: INetConn) -> None: ...

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


def is_inbound(conn: Any) -> bool:
    return bool(conn.direction == Direction.INBOUND)
