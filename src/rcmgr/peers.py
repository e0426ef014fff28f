"""How py-libp2p names a peer in its calls: as an `ID`, as the bytes of one, or as base58 text."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

__all__ = ["peer_from_any", "peer_key"]

# texts of the shortest and the usual peer ids: sha2-256 multihash, inlined public keys
_TEXT_PREFIXES = ("Qm", "12D3Koo", "16Uiu2H")
_TEXT_LENGTH = 40


def peer_key(peer: Hashable) -> Hashable:
    """The bytes of an `ID`, anything else as it is: equal for all names of a peer but its text."""
    key: Hashable = getattr(peer, "_bytes", peer)
    return key


def peer_from_any(peer: Hashable) -> Hashable:
    """The bytes of a peer id given as base58 text; an `ID`, bytes or another hashable as it is."""
    return _peer_from_text(peer) if isinstance(peer, str) else peer


@lru_cache(maxsize=4096)
def _peer_from_text(text: str) -> Hashable:
    if len(text) < _TEXT_LENGTH or not text.startswith(_TEXT_PREFIXES):
        return text
    import base58  # only with an allowlist or by hand; it takes 4 ms to load

    try:
        return base58.b58decode(text)
    except ValueError:
        return text
