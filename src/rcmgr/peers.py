"""How py-libp2p names peers in its calls, and what of it our tables use as keys."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

__all__ = ["peer_from_any", "peer_from_text", "peer_key", "peer_text"]

# texts of the shortest and the usual peer ids: sha2-256 multihash, inlined public keys
_TEXT_PREFIXES = ("Qm", "12D3Koo", "16Uiu2H")
_TEXT_LENGTH = 40


def peer_key(peer: Hashable) -> Hashable:
    """The bytes of an `ID`, anything else as it is: equal for all names of a peer but its text."""
    key: Hashable = getattr(peer, "_bytes", peer)
    return key


def peer_from_any(peer: Hashable) -> Hashable:
    """The bytes of a peer id given as base58 text; an `ID`, bytes or another hashable as it is."""
    return _remembered(peer) if isinstance(peer, str) else peer


def peer_text(peer: bytes | str) -> str:
    """A peer id for people and JSON: base58, as py-libp2p writes it; text as it is."""
    import base58

    return peer if isinstance(peer, str) else base58.b58encode(peer).decode()


def peer_from_text(text: str) -> bytes | str:
    """The bytes of a peer id given as base58 text; other text as it is. About 8 us."""
    if len(text) < _TEXT_LENGTH or not text.startswith(_TEXT_PREFIXES):
        return text
    import base58  # only with an allowlist or by hand; it takes 4 ms to load

    try:
        return base58.b58decode(text)
    except ValueError:
        return text


_remembered = lru_cache(maxsize=4096)(peer_from_text)
