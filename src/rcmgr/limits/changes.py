"""Changes of a node's limits: one value by its key, and the differences of two trees."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from rcmgr.limits import sections
from rcmgr.limits.documents import LimitsFileError
from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import SECTIONS, NodeLimits
from rcmgr.limits.scope_values import FIELDS, MAPPINGS, SCOPES

__all__ = ["Change", "changed", "differences", "key_of"]

_SECTIONS = {section.key: section for section in SECTIONS}
_KEYS: Final = {
    **{section.kind.__name__: section.key for section in SECTIONS},
    **{f"NodeLimits.{section.name}": section.key for section in SECTIONS},
    "MemoryConnectionLimits": "ProcessMemory",
}
_TITLES: Final = {name: key for key, name in (*SCOPES.items(), *FIELDS.items())}
_OF_SCOPE: Final = re.compile(r"ConcreteLimits\.([a-z_]+)\.([a-z_]+)")
_OF_SECTION: Final = re.compile(rf"({'|'.join(map(re.escape, _KEYS))})(\.\w+)?")


class Change(NamedTuple):
    """A limit that differs. The texts are as in a limits file."""

    limit: str
    before: str | None
    """None: there was no such entry."""
    after: str | None


def changed(limits: NodeLimits, key: str, value: Any) -> NodeLimits:
    """`limits` with one value of a limits file: "System.Conns", "Rates.ipv4.32.burst", "DryRun".

    value: as JSON has it. LimitsFileError: the key or the value is wrong; it names both.
    """
    section, _, rest = key.partition(".")
    if section in SCOPES or section in MAPPINGS:
        document = _scope_document(section, rest, key, value)
    elif section in _SECTIONS and rest:
        document = sections.shown(getattr(limits, _SECTIONS[section].name))
        if not isinstance(document, dict):
            document = {}
        _put(document, rest, key, value)
    else:
        document = value
    return LimitsFile.from_json(json.dumps({section: document})).build(limits)


def key_of(setting: str) -> str | None:
    """The key of `changed` for the setting that an error names. None: it has no key."""
    scope = _OF_SCOPE.search(setting)
    if scope is not None and {*scope.groups()} <= _TITLES.keys():
        return f"{_TITLES[scope[1]]}.{_TITLES[scope[2]]}"
    section = _OF_SECTION.match(setting)
    return None if section is None else f"{_KEYS[section[1]]}{section[2] or ''}"


def _scope_document(section: str, rest: str, key: str, value: Any) -> Any:
    if value == "default":
        raise LimitsFileError(
            key, 'must be a number, "unlimited" or "blockAll": a running node has no default')
    if section in SCOPES:
        return {rest: value} if rest else value
    name, _, field = rest.rpartition(".")
    if not name:
        raise LimitsFileError(
            key, f"needs a name and a limit: {section}.NAME.{next(iter(FIELDS))}")
    return {name: {field: value}}


def _put(tree: dict[str, Any], path: str, key: str, value: Any) -> None:
    """Set the value at a path. Names may have dots, so the longest known name decides."""
    for name in sorted(tree, key=len, reverse=True):
        if path == name:
            break
        if path.startswith(f"{name}."):
            if not isinstance(tree[name], dict):
                raise LimitsFileError(
                    key, f"{name!r} has no parts now: set the whole {key[:-len(path)]}{name}")
            _put(tree[name], path[len(name) + 1:], key, value)
            return
    tree[path] = value


def differences(before: NodeLimits, after: NodeLimits) -> list[Change]:
    """The limits that differ, in the order of a limits file."""
    old, new = _flat(_with_names_of(before, after)), _flat(_with_names_of(after, before))
    names = [*old, *(name for name in new if name not in old)]
    return [
        Change(name, old.get(name), new.get(name))
        for name in names if old.get(name) != new.get(name)]


def _with_names_of(node: NodeLimits, other: NodeLimits) -> NodeLimits:
    """The same limits, also for the protocols, peers, ... that `other` has limits for."""
    scopes = node.scopes
    more: dict[str, Any] = {
        kind: {
            **dict.fromkeys(getattr(other.scopes, kind), getattr(scopes, f"{kind}_default")),
            **getattr(scopes, kind),
        }
        for kind in scopes.MAPPINGS
    }
    return replace(node, scopes=replace(scopes, **more))


def _flat(node: NodeLimits) -> dict[str, str]:
    """Every limit by its place, as a file would say it."""

    def walk(path: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, each in value.items():
                yield from walk(f"{path}.{key}".lstrip("."), each)
        else:
            yield path, str(value)

    return dict(walk("", LimitsFile.of(node).to_dict()))
