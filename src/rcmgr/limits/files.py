"""Limits in files: go-libp2p's JSON, the same tree in TOML, and our sections.

    {"System": {"Conns": 100, "Memory": "1073741824"}, "PeerDefault": {"Conns": "unlimited"},
     "Connections": {"max_pending_inbound": 50}, "ProcessMemory": {"max_percentage": 0.8},
     "Subnets": {"ipv4": {"32": 8}}, "Rates": {"ipv4": {"32": {"refill_rate": 0.2, "burst": 16}}},
     "PeerRates": {"rate": {"refill_rate": 10, "burst": 50}}, "Eviction": "off"}

Go ignores our sections (`rcmgr.limits.node.SECTIONS`), so that one file can serve both. The limit
of a scope is a number, "default", "unlimited" or "blockAll". 0 means "blockAll".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rcmgr.limits import documents, sections
from rcmgr.limits.documents import LimitsFileError, Pairs, items
from rcmgr.limits.node import SECTIONS, NodeLimits
from rcmgr.limits.scope_values import MAPPINGS, SCOPES, ScopeReader, limit_shown, peer_from_text
from rcmgr.limits.scopes import PartialLimit, PartialLimits
from rcmgr.limits.toml_writer import to_toml
from rcmgr.peers import peer_text

__all__ = ["LimitsFile", "LimitsFileError"]

_SECTIONS: Final = {section.key: section for section in SECTIONS}
_NESTED: Final = ("Swarm", "ResourceMgr", "Limits")
"""The place of the limits in a configuration of kubo."""
_NO_CHANGES: Final = PartialLimits()


@dataclass(frozen=True, slots=True)
class LimitsFile:
    """The contents of a file. `build` turns them into limits.

    scopes: the limits of scopes.
    sections: the other sections, by the names of the fields of `NodeLimits`. `connections` and
        `memory` are dicts of the values that the file names. The others are whole values, or
        None: no limit.
    """

    scopes: PartialLimits = _NO_CHANGES
    sections: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # the mapping must be frozen too
        object.__setattr__(self, "sections", MappingProxyType(dict(self.sections)))

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
        """From a file: JSON, or TOML if its name ends in .toml. OSError, LimitsFileError.

        If its name has no ending, as that of a pipe, its first character decides.
        lenient: as for `from_json`. It is an error if nothing in the file is a limit: the keys that
        were skipped were probably meant.
        """
        file = _Reader(lenient).read_document(documents.from_file(path, lenient=lenient))
        if lenient and file == cls():
            raise LimitsFileError("", "nothing in it is a limit")
        return file

    @classmethod
    def from_json(cls, text: str | bytes, *, lenient: bool = False) -> LimitsFile:
        """Read JSON. LimitsFileError says what is wrong, where, and what was probably meant.

        lenient: read like Go, which accepts keys in any case, unknown keys, repeated keys, null and
        text after the first value. It also accepts negative numbers: -1 is "unlimited", and others
        block everything. Limits below Swarm.ResourceMgr.Limits are found, as in kubo's files.
        """
        return _Reader(lenient).read_document(documents.from_json(text, lenient=lenient))

    @classmethod
    def from_toml(cls, text: str | bytes) -> LimitsFile:
        """Read TOML. It is always strict, because Go reads no TOML."""
        return _Reader(False).read_document(documents.from_toml(text))

    # -- writing -------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The tree of the file, in Go's order and words, without the limits that it leaves open.

        LimitsFileError: a peer has a name that is not a peer id. A file cannot contain it.
        """
        tree: dict[str, Any] = {}
        for key, name in MAPPINGS.items():
            entries = {
                peer_text(entry): limit_shown(limit)
                for entry, limit in getattr(self.scopes, name).items()
            }
            if key == "Peer":
                for text in entries:
                    peer_from_text(f"{key}.{text}", text)
            if entries:
                tree[key] = dict(sorted(entries.items()))
        for key, name in SCOPES.items():
            limit = getattr(self.scopes, name)
            if not limit.is_default:
                tree[key] = limit_shown(limit)
        for key, section in _SECTIONS.items():
            if section.name in self.sections:
                tree[key] = sections.shown(self.sections[section.name])
        return tree

    def to_json(self) -> str:
        """The tree of `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_toml(self) -> str:
        """With a comment for each section and key. Every integer number of KiB has a unit.

        ImportError: tomlkit is missing, which the extra `toml` brings.
        """
        return to_toml(self.to_dict())


class _Reader:
    def __init__(self, lenient: bool) -> None:
        self._lenient = lenient
        self._scopes = ScopeReader(lenient)

    def read_document(self, value: Any) -> LimitsFile:
        nested = _nested_limits(value) if self._lenient else None
        return self.read(value if nested is None else nested)

    def read(self, value: Any) -> LimitsFile:
        scopes: dict[str, Any] = {}
        said: dict[str, Any] = {}
        known = (*SCOPES, *MAPPINGS, *_SECTIONS)
        for key, each in items("", value, known, lenient=self._lenient):
            if each is None and self._lenient:
                if key in MAPPINGS:  # a nil map; Go leaves other keys as they are
                    scopes.pop(MAPPINGS[key], None)
            elif key in SCOPES:
                name = SCOPES[key]
                scopes[name] = self._scopes.limit(key, each, scopes.get(name, PartialLimit()))
            elif key in MAPPINGS:
                entries = scopes.setdefault(MAPPINGS[key], {})
                for entry, limit in items(key, each, lenient=self._lenient):
                    path = f"{key}.{entry}"
                    exact = peer_from_text(path, entry) if key == "Peer" else entry
                    entries[exact] = self._scopes.limit(path, limit, PartialLimit())
            else:
                section = _SECTIONS[key]
                said[section.name] = _read_section(key, section.kind, section.optional, each)
        return LimitsFile(PartialLimits(**scopes), said)

def _nested_limits(value: Any) -> Any:
    """The limits in a configuration of kubo. None: it is no such configuration."""
    for name in _NESTED:
        if not isinstance(value, Pairs):
            return None
        found = [each for key, each in value if key.casefold() == name.casefold()]
        value = found[-1] if found else None
    return value


def _read_section(key: str, kind: type[Any], optional: bool, value: Any) -> Any:
    """Our sections are always read strictly, because no other program writes them."""
    if optional:
        return None if value == "off" else sections.read(key, kind | None, value)
    words: Mapping[str, Any] = getattr(kind, "WORDS", {})
    if isinstance(value, str) and value in words:
        return words[value]
    named = sections.read_fields(key, kind, value)
    sections.made(key, kind, named)
    return named
