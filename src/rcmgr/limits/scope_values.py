"""The limits of scopes as documents have them: the names of scopes and keys, and the values."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Final

from rcmgr.limits.documents import Fraction, LimitsFileError, described, items
from rcmgr.limits.names import suggestion
from rcmgr.limits.scopes import DEFAULT, MAX_LIMIT, PartialLimit
from rcmgr.limits.sizes import parse_size
from rcmgr.peers import peer_key

__all__ = ["FIELDS", "MAPPINGS", "SCOPES", "ScopeReader", "limit_shown", "peer_from_text"]

FIELDS: Final = {
    "Streams": "streams", "StreamsInbound": "streams_inbound",
    "StreamsOutbound": "streams_outbound", "Conns": "conns", "ConnsInbound": "conns_inbound",
    "ConnsOutbound": "conns_outbound", "FD": "fd", "Memory": "memory",
}
# in the order in which Go writes them
MAPPINGS: Final = {
    "Service": "service", "ServicePeer": "service_peer", "Protocol": "protocol",
    "ProtocolPeer": "protocol_peer", "Peer": "peer",
}
SCOPES: Final = {
    "System": "system", "Transient": "transient", "AllowlistedSystem": "allowlisted_system",
    "AllowlistedTransient": "allowlisted_transient", "ServiceDefault": "service_default",
    "ServicePeerDefault": "service_peer_default", "ProtocolDefault": "protocol_default",
    "ProtocolPeerDefault": "protocol_peer_default", "PeerDefault": "peer_default", "Conn": "conn",
    "Stream": "stream",
}
_WORDS: Final[dict[str, Any]] = {"default": DEFAULT, "unlimited": None, "blockAll": 0}
# Go's numbers for the words
_NUMBERS: Final[dict[int, str]] = {-1: "unlimited", -2: "blockAll"}
# kubo's infinity is half of Go's largest number, which its JSON rounds to this
_KUBO_INFINITY: Final = 4_611_686_018_427_388_000
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,4000}")


class ScopeReader:
    """Reads limits. lenient: like Go, which takes negative numbers, null and unknown keys."""

    def __init__(self, lenient: bool) -> None:
        self._lenient = lenient

    def limit(self, path: str, value: Any, so_far: PartialLimit) -> PartialLimit:
        values = {each.name: getattr(so_far, each.name) for each in fields(so_far)}
        for key, each in items(path, value, FIELDS, lenient=self._lenient):
            values[FIELDS[key]] = self.value(f"{path}.{key}", each, is_memory=key == "Memory")
        return PartialLimit(**values)

    def value(self, path: str, value: Any, *, is_memory: bool) -> Any:
        if isinstance(value, str) and not isinstance(value, Fraction):
            if value in _WORDS:
                return _WORDS[value]
            size = _size(value) if is_memory else None
            if size is None:
                self._refuse_word(path, value, is_memory)
            value = size
        if value is None and self._lenient and not is_memory:
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise LimitsFileError(
                path,
                f'must be a number, "default", "unlimited" or "blockAll", not {described(value)}')
        if value in _NUMBERS:
            word = _NUMBERS[value]
            if self._lenient:
                return _WORDS[word]
            raise LimitsFileError(path, f"must be 0 or more, not {value}; did you mean {word!r}?")
        if not -MAX_LIMIT - 1 <= value <= MAX_LIMIT:
            raise LimitsFileError(path, "does not fit in 64 bits")
        if value < 0:
            if self._lenient:
                return 0
            raise LimitsFileError(
                path, f'must be 0 or more, not {value}; "blockAll" allows nothing'
            )
        return None if value == _KUBO_INFINITY else value

    def _refuse_word(self, path: str, value: str, is_memory: bool) -> None:
        hint = suggestion(value, _WORDS)
        if not hint and _DIGITS.fullmatch(value):
            hint = "write it without the quotes"
        hint = hint or "known words are " + ", ".join(_WORDS)
        number = "a size such as 2GiB" if is_memory else "a number"
        raise LimitsFileError(path, f"must be {number} or a word, not {described(value)}; {hint}")


def _size(text: str) -> int | None:
    if _DIGITS.fullmatch(text):
        return int(text)
    return parse_size(text)


def peer_from_text(path: str, text: str) -> bytes:
    """The key of a peer id. LimitsFileError: the text is not a peer id."""
    key = peer_key(text)
    # a multihash (sha2-256 or identity) is its code, its length and so many bytes
    if isinstance(key, bytes) and len(key) > 2 and key[1] == len(key) - 2 and (
        key[0] == 0 or key.startswith(b"\x12\x20")
    ):
        return key
    raise LimitsFileError(path, "not a peer id")


def limit_shown(limit: PartialLimit) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, name in FIELDS.items():
        value = getattr(limit, name)
        if value is DEFAULT:
            continue
        if value is None:
            shown[key] = "unlimited"
        elif value == 0:
            shown[key] = "blockAll"
        else:
            shown[key] = str(value) if key == "Memory" else value
    return shown
