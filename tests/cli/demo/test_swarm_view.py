from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from demo_run import PEER
from libp2p.rcmgr import Direction

from rcmgr.cli.demo.swarm_view import SwarmView


@dataclass
class Connection:
    direction: Direction
    is_closed: bool = False


class Swarm:
    def __init__(self) -> None:
        self.connections: dict[Any, list[Connection]] = {}
        self.notifees: list[Any] = []

    def register_notifee(self, notifee: Any) -> None:
        self.notifees.append(notifee)

    def get_connections_map(self) -> dict[Any, list[Connection]]:
        return self.connections

    def get_connections(self, peer_id: Any) -> list[Connection]:
        return self.connections.get(peer_id, [])


async def test_it_counts_live_connections_and_keeps_the_peaks() -> None:
    swarm, view = Swarm(), SwarmView()
    view.watch(swarm)
    assert swarm.notifees == [view]
    first, second = Connection(Direction.INBOUND), Connection(Direction.OUTBOUND)
    swarm.connections = {PEER: [first, second], "other": [Connection(Direction.INBOUND)]}
    await view.connected(None, first)  # type: ignore[arg-type]
    first.is_closed = True
    assert view.measure() == {
        "established_inbound": 1, "established_outbound": 1, "established_total": 2,
        "established_per_peer": 1,
    }
    assert view.peaks == {
        "established_inbound": 2, "established_outbound": 1, "established_total": 3,
        "established_per_peer": 2,
    }
    assert view.total == {"established_inbound": 1}


def test_a_peer_is_there_while_one_connection_lives() -> None:
    swarm, view = Swarm(), SwarmView()
    view.watch(swarm)
    assert not view.has(PEER)
    swarm.connections = {PEER: [Connection(Direction.INBOUND, True), Connection(Direction.INBOUND)]}
    assert view.has(PEER)
    swarm.connections[PEER][1].is_closed = True
    assert not view.has(PEER)
