"""Limits in files: go-libp2p's JSON, the same tree in TOML, and our sections.

    {"System": {"Conns": 100, "Memory": "1073741824"}, "PeerDefault": {"Conns": "unlimited"},
     "Connections": {"max_pending_inbound": 50}, "ProcessMemory": {"max_percentage": 0.8},
     "Subnets": {"ipv4": {"32": 8}}, "Rates": {"ipv4": {"32": {"refill_rate": 0.2, "burst": 16}}},
     "PeerRates": {"rate": {"refill_rate": 10, "burst": 50}}}

Go ignores our sections (`rcmgr.limits.node.SECTIONS`), so that one file can serve both. The limit
of a scope is a number, "default", "unlimited" or "blockAll". 0 means "blockAll".
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from rcmgr.limits import documents, sections
from rcmgr.limits.documents import Fraction, LimitsFileError, Pairs, described, items
from rcmgr.limits.node import SECTIONS, NodeLimits
from rcmgr.limits.scopes import DEFAULT, MAX_LIMIT, PartialLimit, PartialLimits
from rcmgr.limits.sizes import parse_size
from rcmgr.limits.toml_writer import to_toml
from rcmgr.peers import peer_key, peer_text

__all__ = ["LimitsFile", "LimitsFileError"]

_FIELDS: Final = {
    "Streams": "streams", "StreamsInbound": "streams_inbound",
    "StreamsOutbound": "streams_outbound", "Conns": "conns", "ConnsInbound": "conns_inbound",
    "ConnsOutbound": "conns_outbound", "FD": "fd", "Memory": "memory",
}
# in the order in which Go writes them
_MAPPINGS: Final = {
    "Service": "service", "ServicePeer": "service_peer", "Protocol": "protocol",
    "ProtocolPeer": "protocol_peer", "Peer": "peer",
}
_SCOPES: Final = {
    "System": "system", "Transient": "transient", "AllowlistedSystem": "allowlisted_system",
    "AllowlistedTransient": "allowlisted_transient", "ServiceDefault": "service_default",
    "ServicePeerDefault": "service_peer_default", "ProtocolDefault": "protocol_default",
    "ProtocolPeerDefault": "protocol_peer_default", "PeerDefault": "peer_default", "Conn": "conn",
    "Stream": "stream",
}
_SECTIONS: Final = {section.key: section for section in SECTIONS}
_WORDS: Final[dict[str, Any]] = {"default": DEFAULT, "unlimited": None, "blockAll": 0}
# Go's numbers for the words
_NUMBERS: Final[dict[int, str]] = {-1: "unlimited", -2: "blockAll"}
# kubo's infinity is half of Go's largest number, which its JSON rounds to this
_KUBO_INFINITY: Final = 4_611_686_018_427_388_000
_NESTED: Final = ("Swarm", "ResourceMgr", "Limits")
"""The place of the limits in a configuration of kubo."""
MAX_FILE_BYTES: Final = 1 << 20
"""The largest file that is read. Files that people use have about 10,000 bytes."""
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,4000}")
_NO_CHANGES: Final = PartialLimits()


@dataclass(frozen=True, slots=True)
class LimitsFile:
    """The contents of a file. `build` turns them into limits.

    sections: the sections of the file, by the names of the fields of `NodeLimits`. `connections`
        and `memory` are dicts of the values that the file names. The others are whole values, or
        None: no limit.
    """

    scopes: PartialLimits = _NO_CHANGES
    sections: Mapping[str, Any] = field(default_factory=dict)

    def build(self, fallback: NodeLimits) -> NodeLimits:
        """The limits of the file. `fallback` has those that the file leaves open."""
        changes = {
            name: replace(getattr(fallback, name), **said) if isinstance(said, Mapping) else said
            for name, said in self.sections.items()
        }
        return replace(fallback, scopes=self.scopes.build(fallback.scopes), **changes)

    @classmethod
    def of(cls, limits: NodeLimits) -> LimitsFile:
        """A file that names all limits."""
        said: dict[str, Any] = {section.name: getattr(limits, section.name) for section in SECTIONS}
        for section in SECTIONS:
            if not section.optional:
                value = said[section.name]
                said[section.name] = {
                    each.name: getattr(value, each.name) for each in fields(section.kind)}
        return cls(limits.scopes.to_partial(), said)

    # -- reading -------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: Path, *, lenient: bool = False) -> LimitsFile:
        """From a file: JSON, or TOML if its name ends in .toml. OSError, LimitsFileError."""
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if path.suffix == ".toml":
            return cls.from_toml(content)
        return cls.from_json(content, lenient=lenient)

    @classmethod
    def from_json(cls, text: str | bytes, *, lenient: bool = False) -> LimitsFile:
        """Read JSON. LimitsFileError says what is wrong, where, and what was probably meant.

        lenient: read like Go, which accepts keys in any case, unknown keys, repeated keys, null and
        text after the first value. It also accepts negative numbers: -1 is "unlimited", and others
        block everything. Limits below Swarm.ResourceMgr.Limits are found, as in kubo's files.
        """
        _check_size(text)
        return _Reader(lenient).read_document(documents.from_json(text, lenient=lenient))

    @classmethod
    def from_toml(cls, text: str | bytes) -> LimitsFile:
        """Read TOML. It is always strict, because Go reads no TOML."""
        _check_size(text)
        return _Reader(False).read_document(documents.from_toml(text))

    # -- writing -------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The tree of the file, in Go's order and words, without the limits that it leaves open.

        LimitsFileError: a peer has a name that is not a peer id. A file cannot contain it.
        """
        tree: dict[str, Any] = {}
        for key, name in _MAPPINGS.items():
            entries = {
                peer_text(entry): _limit_shown(limit)
                for entry, limit in getattr(self.scopes, name).items()
            }
            if key == "Peer":
                for text in entries:
                    _peer_key(f"{key}.{text}", text)
            if entries:
                tree[key] = dict(sorted(entries.items()))
        for key, name in _SCOPES.items():
            limit = getattr(self.scopes, name)
            if not limit.is_default:
                tree[key] = _limit_shown(limit)
        for key, section in _SECTIONS.items():
            if section.name in self.sections:
                tree[key] = sections.shown(self.sections[section.name])
        return tree

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_toml(self) -> str:
        """With a comment for each section and key. Every integer number of KiB has a unit.

        ImportError: tomlkit is missing, which the extra `toml` brings.
        """
        return to_toml(self.to_dict())


class _Reader:
    def __init__(self, lenient: bool) -> None:
        self._lenient = lenient

    def read_document(self, value: Any) -> LimitsFile:
        nested = _nested_limits(value) if self._lenient else None
        return self.read(value if nested is None else nested)

    def read(self, value: Any) -> LimitsFile:
        scopes: dict[str, Any] = {}
        said: dict[str, Any] = {}
        known = (*_SCOPES, *_MAPPINGS, *_SECTIONS)
        for key, each in items("", value, known, lenient=self._lenient):
            if each is None and self._lenient:
                if key in _MAPPINGS:  # a nil map; Go leaves other keys as they are
                    scopes.pop(_MAPPINGS[key], None)
            elif key in _SCOPES:
                name = _SCOPES[key]
                scopes[name] = self._limit(key, each, scopes.get(name, PartialLimit()))
            elif key in _MAPPINGS:
                entries = scopes.setdefault(_MAPPINGS[key], {})
                for entry, limit in items(key, each, lenient=self._lenient):
                    path = f"{key}.{entry}"
                    exact = _peer_key(path, entry) if key == "Peer" else entry
                    entries[exact] = self._limit(path, limit, PartialLimit())
            else:
                section = _SECTIONS[key]
                said[section.name] = _read_section(key, section.kind, section.optional, each)
        return LimitsFile(PartialLimits(**scopes), said)

    def _limit(self, path: str, value: Any, so_far: PartialLimit) -> PartialLimit:
        values = {each.name: getattr(so_far, each.name) for each in fields(so_far)}
        for key, each in items(path, value, _FIELDS, lenient=self._lenient):
            values[_FIELDS[key]] = self._value(f"{path}.{key}", each, is_memory=key == "Memory")
        return PartialLimit(**values)

    def _value(self, path: str, value: Any, *, is_memory: bool) -> Any:
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
        close = difflib.get_close_matches(value.lower(), [w.lower() for w in _WORDS], 1, 0.6)
        if close:
            [word] = [word for word in _WORDS if word.lower() == close[0]]
            hint = f"did you mean {word!r}?"
        elif _DIGITS.fullmatch(value):
            hint = "write it without the quotes"
        else:
            hint = "known words are " + ", ".join(_WORDS)
        number = "a size such as 2GiB" if is_memory else "a number"
        raise LimitsFileError(path, f"must be {number} or a word, not {described(value)}; {hint}")


def _check_size(text: str | bytes) -> None:
    if len(text) > MAX_FILE_BYTES:
        raise LimitsFileError("", f"larger than {MAX_FILE_BYTES} bytes, which no limits file needs")


def _nested_limits(value: Any) -> Any:
    """The limits in a configuration of kubo. None: it is no such configuration."""
    for name in _NESTED:
        if not isinstance(value, Pairs):
            return None
        found = [each for key, each in value if key.casefold() == name.casefold()]
        value = found[-1] if found else None
    return value


def _size(text: str) -> int | None:
    if _DIGITS.fullmatch(text):
        return int(text)
    return parse_size(text)


def _read_section(key: str, kind: type[Any], optional: bool, value: Any) -> Any:
    """Our sections are always read strictly, because no other program writes them."""
    if optional:
        return sections.read(key, kind | None, value)
    named = sections.read_fields(key, kind, value)
    sections.made(key, kind, named)
    return named


def _peer_key(path: str, text: str) -> bytes:
    """The key of a peer id. LimitsFileError: the text is not a peer id."""
    key = peer_key(text)
    # a multihash (sha2-256 or identity) is its code, its length and so many bytes
    if isinstance(key, bytes) and len(key) > 2 and key[1] == len(key) - 2 and (
        key[0] == 0 or key.startswith(b"\x12\x20")
    ):
        return key
    raise LimitsFileError(path, "not a peer id")


def _limit_shown(limit: PartialLimit) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, name in _FIELDS.items():
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
