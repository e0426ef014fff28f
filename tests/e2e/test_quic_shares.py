"""A flood of QUIC handshakes from one network displaces only its own."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from nodes import Node, eventually, running_node

from rcmgr.libp2p import harden
from rcmgr.libp2p.guard import quic_shares

HONEST = [f"127.{30 + number}.0.1" for number in range(6)]
FLOOD = "127.100.0.1"


def registry_of(node: Node) -> Any:
    [listener] = node.host.get_network().listeners.values()  # type: ignore[attr-defined]
    return listener._registry


async def begin_handshake(node: Node, source: str) -> None:
    """Send the first packet of a handshake, and never answer."""
    host, port = "127.0.0.1", int(node.host.get_addrs()[0].value_for_protocol("udp"))
    client = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["libp2p"]))
    client.connect((host, port), now=0.0)
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as socket:
        await socket.bind((source, 0))
        for data, _ in client.datagrams_to_send(now=0.0):
            await socket.sendto(data, (host, port))


def seen(node: Node, came: list[bytes]) -> int:
    """How many handshakes came. `came` remembers those that are not here any more."""
    came += [each for each in registry_of(node)._pending if each not in came]
    return len(came)


def sources(node: Node) -> list[str]:
    registry = registry_of(node)
    return [registry._connection_id_to_addr[each][0] for each in registry._pending]


@pytest.mark.loopback
@pytest.mark.parametrize("evicts", [True, False])
async def test_one_network_displaces_its_own_handshakes(
    evicts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quic_shares, "_MOST", 20)
    async with running_node("quic", evicting=evicts) as node, running_node("quic") as peer:
        harden(node.host)
        for source in HONEST:
            await begin_handshake(node, source)
        await eventually(lambda: len(sources(node)) == len(HONEST))
        came: list[bytes] = []
        for count in range(1, 31):
            await begin_handshake(node, FLOOD)
            await eventually(lambda count=count: seen(node, came) == len(HONEST) + count)
        found = sources(node)
        assert sorted(found)[-len(HONEST):] == sorted(HONEST)
        assert found.count(FLOOD) == (14 if evicts else 30)
        registry = registry_of(node)
        assert set(registry._connection_sequence_counters) == set(registry._pending)
        assert await peer.dial(node)
