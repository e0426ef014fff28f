"""A limits file as TOML for people: with comments, and with sizes that have units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rcmgr.extras import require
from rcmgr.limits.descriptions import KEYS, LIMITS, RATE, SECTIONS
from rcmgr.limits.node import SECTIONS as NODE_SECTIONS
from rcmgr.limits.sections import shown
from rcmgr.limits.sizes import size_text

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import InlineTable, Item, Table

__all__ = ["to_toml"]

_BY_NAME: Final = ("Service", "ServicePeer", "Protocol", "ProtocolPeer", "Peer")
_LONG_LIST: Final = 4
_BYTES: Final = ("Memory", "max_bytes")


def to_toml(tree: Mapping[str, Any]) -> str:
    """The tree of `LimitsFile.to_dict` as TOML. ImportError: tomlkit is missing."""
    require("tomlkit", "LimitsFile.to_toml", "toml")
    import tomlkit

    document = tomlkit.document()
    sections = [key for key in SECTIONS if key in tree]
    # a word for a whole section stands above all tables, or it would belong to one of them
    words = [key for key in sections if not isinstance(tree[key], Mapping)]
    for key in words:
        _add(document, key, tree[key], SECTIONS[key])
    comments: Mapping[str, str] = LIMITS  # for the first scope only
    for key in sections:
        if key not in words:
            table = _table(tree[key], KEYS.get(key, {} if key in _BY_NAME else comments))
            if key not in KEYS:
                comments = {}
            _add_examples(table, key)
            table.comment(SECTIONS[key])
            if document:
                document.add(tomlkit.nl())
            document.add(key, table)
    return tomlkit.dumps(document)


def _add_examples(table: Table, key: str) -> None:
    """Comments in the place of values that are left out, for a reader to uncomment."""
    import tomlkit

    for section in NODE_SECTIONS:
        if section.key == key and not section.optional:
            for name, comment in KEYS[key].items():
                if name not in table:
                    example = _item(name, shown(getattr(section.kind(), name))).as_string()
                    table.add(tomlkit.comment(f"{name} = {example} # {comment}"))


def _add(owner: TOMLDocument | Table, name: str, value: Any, comment: str | None) -> None:
    import tomlkit

    item = _item(name, value)
    if comment is not None:
        item.comment(comment)
    owner.append(tomlkit.key([name]), item)


def _table(values: Mapping[str, Any], comments: Mapping[str, str]) -> Table:
    import tomlkit

    table = tomlkit.table(is_super_table=False)
    in_order = sorted(values.items(), key=lambda pair: _is_table(pair[1]))  # tables come last
    for name, value in in_order:
        _add(table, name, value, comments.get(name))
    return table


def _is_table(value: Any) -> bool:
    """A rate stands in one line. Tables have a line for each entry, because it may have many."""
    return isinstance(value, Mapping) and value.keys() != RATE.keys()


def _item(name: str, value: Any) -> Item:
    import tomlkit

    if _is_table(value):
        return _table(value, {})
    if isinstance(value, Mapping):
        rate: InlineTable = tomlkit.inline_table()
        rate.update(value)
        return rate
    if name in _BYTES and str(value).isdecimal():
        value = size_text(int(value))
    if isinstance(value, list):
        array = tomlkit.array().multiline(len(value) > _LONG_LIST)
        array.extend(value)
        return array
    item: Item = tomlkit.item(value)
    return item
