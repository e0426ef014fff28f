"""A peer whose stream is reset gets go-libp2p's error code, if the muxer has a place for it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.yamux.yamux import FLAG_RST, Yamux
from libp2p.transport.quic.stream import QUICStream
from nodes import ECHO, Node, echo, eventually, running_node

from rcmgr import ConcreteLimits, Limit, NodeLimits, Rate, RateLimits, ScopeLimitExceeded
from rcmgr.libp2p import harden, limit_protocols


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes of resets: those of yamux frames that were written, and of QUIC as received."""
    seen: list[int] = []
    write, reset = Yamux._write_frame, QUICStream.handle_reset

    async def writing(connection: Any, frame: bytes) -> None:
        _, _, flags, _, length = struct.unpack("!BBHII", frame[:12])
        if flags & FLAG_RST:
            seen.append(length)
        await write(connection, frame)

    async def receiving(stream: Any, error_code: int) -> None:
        seen.append(error_code)
        await reset(stream, error_code)

    monkeypatch.setattr(Yamux, "_write_frame", writing)
    monkeypatch.setattr(QUICStream, "handle_reset", receiving)
    return seen


async def refused(peer: Node, node: Node, protocol: TProtocol = ECHO) -> None:
    try:
        stream = await peer.host.new_stream(node.id, [protocol])
        await stream.write(b"x")
        await stream.read(1)
    except Exception:  # noqa: BLE001 (py-libp2p raises several for a stream that was reset)
        return


@pytest.fixture(params=["tcp", "quic"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_stream_above_the_limit(transport: str, codes: list[int]) -> None:
    limits = NodeLimits(ConcreteLimits(system=Limit(streams=64)))
    async with running_node(transport, node_limits=limits) as node, running_node(
            transport) as peer:
        harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        await peer.meet(node)
        node.manager.scope_limits = ConcreteLimits(system=Limit(streams=0))
        codes.clear()
        await refused(peer, node)
        await eventually(lambda: 0x1002 in codes)


async def test_a_stream_above_the_limit_of_its_protocol(
    transport: str, codes: list[int]
) -> None:
    limits = NodeLimits(ConcreteLimits(protocol={ECHO: Limit(streams=0)}))
    async with running_node(transport, node_limits=limits) as node, running_node(
            transport) as peer:
        harden(node.host)
        node.host.set_stream_handler(ECHO, echo)
        await peer.meet(node)
        codes.clear()
        await refused(peer, node)
        await eventually(lambda: 0x1002 in codes)


async def test_our_own_stream_above_the_limit_of_its_protocol(
    transport: str, codes: list[int]
) -> None:
    limits = NodeLimits(ConcreteLimits(protocol={ECHO: Limit(streams=0)}))
    async with running_node(transport, node_limits=limits) as node, running_node(
            transport) as peer:
        harden(node.host)
        peer.host.set_stream_handler(ECHO, echo)
        await peer.meet(node)
        codes.clear()
        with pytest.raises(ScopeLimitExceeded):
            await node.host.new_stream(peer.id, [ECHO])
        await eventually(lambda: 0x1002 in codes)
        other = await node.host.get_network().new_stream(peer.id)
        await other.write(b"x")
        codes.clear()
        await other.reset()  # the code was for the stream before
        await eventually(lambda: bool(codes))
        assert set(codes) == {0}


async def test_a_stream_above_a_rate(transport: str, codes: list[int]) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        harden(node.host)
        limit_protocols(node.host, node.manager)
        node.manager.add_protocol_rate_limiter(ECHO, RateLimits(default=Rate(0.001, 1)))
        node.host.set_stream_handler(ECHO, echo)
        await peer.meet(node)
        stream = await peer.host.new_stream(node.id, [ECHO])
        await stream.write(b"x")
        assert await stream.read(1) == b"x"
        await stream.close()
        codes.clear()
        await refused(peer, node)
        await eventually(lambda: 0x1003 in codes)


async def test_a_stream_without_a_common_protocol(transport: str, codes: list[int]) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        harden(node.host)
        await peer.meet(node)
        codes.clear()
        stream = await peer.host.get_network().new_stream(node.id)
        await stream.write(b"\x05nope\n")
        await eventually(lambda: 0x1001 in codes)


async def test_any_other_reset_has_no_code(transport: str, codes: list[int]) -> None:
    async with running_node(transport) as node, running_node(transport) as peer:
        for each in (node, peer):
            harden(each.host)
        node.host.set_stream_handler(ECHO, echo)
        await peer.meet(node)
        codes.clear()
        stream = await peer.host.new_stream(node.id, [ECHO])
        await stream.write(b"x")
        assert await stream.read(1) == b"x"
        await stream.reset()
        await eventually(lambda: bool(codes))
        assert set(codes) == {0}
