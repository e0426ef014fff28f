"""Let an unknown QUIC peer prove its address before the node spends a handshake on it (Retry)."""

from __future__ import annotations

import hmac
import os
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from rcmgr.libp2p.guard.stream_scopes import manager_of
from rcmgr.libp2p.hooks import Hook, SharedHooks, Undo
from rcmgr.manager import ResourceManager

__all__ = ["Tokens", "quic_retries"]

_LIFETIME_S = 10
_MAC_BYTES = 16
_CID_BYTES = 8


class Tokens:
    """Makes and checks the tokens of Retry packets: nothing is kept for a peer.

    A token holds the connection ids of the handshake, and is valid for one address for 10 s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = os.urandom(32)
        self._clock = clock

    def make(self, address: tuple[Any, ...], original: bytes, retry: bytes) -> bytes:
        """original: the connection id that the peer chose. retry: the one that replaces it."""
        content = struct.pack("!IB", int(self._clock()), len(original)) + original + retry
        return self._mac(address, content) + content

    def read(self, address: tuple[Any, ...], token: bytes) -> tuple[bytes, bytes] | None:
        """The two ids of a token of ours for this address. None: another token, or an old one."""
        mac, content = token[:_MAC_BYTES], token[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(address, content)):
            return None
        made, length = struct.unpack("!IB", content[:5])
        if self._clock() - made > _LIFETIME_S:
            return None
        return content[5:5 + length], content[5 + length:]

    def _mac(self, address: tuple[Any, ...], content: bytes) -> bytes:
        where = repr(address[:2]).encode()
        return hmac.digest(self._key, where + b"\0" + content, "sha256")[:_MAC_BYTES]


_tokens = Tokens()
# the id of our Retry packet, while a listener makes the connection of the peer that answers it
_retried: ContextVar[bytes | None] = ContextVar("rcmgr_quic_retried", default=None)


async def _accepting(
    original: Callable[..., Awaitable[Any]], listener: Any, data: bytes, address: Any, packet: Any
) -> Any:
    """libp2p 0.8.1: transport/quic/listener.py line 550, for the first packet of a handshake."""
    from aioquic.quic.packet import encode_quic_retry

    manager = manager_of(listener._transport._swarm)
    ids = _tokens.read(address, packet.token) if packet.token else None
    if ids is None:
        if not isinstance(manager, ResourceManager) or (
            not manager.verify_source_address(address[0])
        ):
            return await original(listener, data, address, packet)
        retry = os.urandom(_CID_BYTES)
        await listener._socket.sendto(encode_quic_retry(
            version=packet.version, source_cid=retry, destination_cid=packet.source_cid,
            original_destination_cid=packet.destination_cid,
            retry_token=_tokens.make(address, packet.destination_cid, retry)), address)
        return None
    chosen, packet.destination_cid = packet.destination_cid, ids[0]
    before = _retried.set(ids[1])
    try:
        quic = await original(listener, data, address, packet)
    finally:
        _retried.reset(before)
    if quic is not None:  # later packets of the handshake have the id of our Retry packet
        await listener._registry.register_initial_connection_id(chosen, quic, address, 0)
    return quic


def _connection(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The peer checks that the server knows both ids (RFC 9000, section 7.3)."""
    retried = _retried.get()
    if retried is not None:
        kwargs["retry_source_connection_id"] = retried
    return original(*args, **kwargs)


def _placing() -> Iterator[Undo]:
    from libp2p.transport.quic import listener

    yield Hook(listener, "ServerQuicConnection", _connection).undo
    yield Hook(listener.QUICListener, "_handle_new_connection", _accepting).undo


quic_retries = SharedHooks(_placing)
"""While in use, QUIC listeners ask `ResourceManager.verify_source_address` about each handshake."""
