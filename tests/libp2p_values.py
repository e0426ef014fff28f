"""py-libp2p's peer id, address, direction and errors; without libp2p look-alikes and our errors.

Tests that need no more of libp2p than these run without it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import base58

__all__ = [
    "ID",
    "Direction",
    "LikeDirection",
    "LikeID",
    "LikeMultiaddr",
    "Multiaddr",
    "ResourceLimitExceeded",
    "ResourceScopeClosed",
]


class LikeID:
    def __init__(self, peer_id_bytes: bytes) -> None:
        self._bytes = peer_id_bytes

    def to_bytes(self) -> bytes:
        return self._bytes

    def to_base58(self) -> str:
        return base58.b58encode(self._bytes).decode()

    __str__ = to_base58

    def __repr__(self) -> str:
        return f"<libp2p.peer.id.ID ({self!s})>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.to_base58() == other
        if isinstance(other, bytes):
            return self._bytes == other
        return isinstance(other, LikeID) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)


class LikeMultiaddr:
    def __init__(self, address: str) -> None:
        self._bytes = address.encode()

    def to_bytes(self) -> bytes:
        return self._bytes

    def __str__(self) -> str:
        return self._bytes.decode()

    def value_for_protocol(self, name: str) -> str:
        parts = str(self).split("/")
        return parts[parts.index(name) + 1]


class LikeDirection(IntEnum):
    UNKNOWN = -1
    INBOUND = 0
    OUTBOUND = 1

    def __str__(self) -> str:
        return self.name.lower()


if TYPE_CHECKING:
    from libp2p.peer.id import ID
    from libp2p.rcmgr import Direction
    from libp2p.rcmgr.exceptions import ResourceLimitExceeded, ResourceScopeClosed
    from multiaddr import Multiaddr
else:
    try:
        from libp2p.peer.id import ID
        from libp2p.rcmgr import Direction
        from libp2p.rcmgr.exceptions import ResourceLimitExceeded, ResourceScopeClosed
        from multiaddr import Multiaddr
    except ModuleNotFoundError:
        from rcmgr import ResourceLimitExceeded, ResourceScopeClosed

        ID, Direction, Multiaddr = LikeID, LikeDirection, LikeMultiaddr
