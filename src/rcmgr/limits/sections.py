"""Dataclasses as sections of a limits file, read and written by the types of their fields.

    bool, int, float, str          a value
    ByteCount                      a number of bytes, or a size such as "2GiB"
    X | None                       an X, or "unlimited" for None
    a dataclass                    an object of its fields
    tuple[tuple[int, X], ...]      an object of X by prefix length
    Mapping[str, X]                an object of X by name
    frozenset[str]                 a list of text

An infinite float is "unlimited" too. The dataclass itself checks its values.

A mapping whose field has `ADDED_TO_DEFAULT` adds to the default of the field. The word "default"
for a name leaves out its entry of the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from math import inf
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from rcmgr.limits.documents import Fraction, LimitsFileError, Pairs, described, items, joined
from rcmgr.limits.sizes import ByteCount, parse_size

__all__ = [
    "ADDED_TO_DEFAULT",
    "KEY",
    "UNLIMITED",
    "key_of",
    "made",
    "read",
    "read_fields",
    "read_size",
    "shown",
]

UNLIMITED: Final = "unlimited"
KEY: Final = "key"
"""Metadata of a field: its name in a file. Default: the name of the field."""
ADDED_TO_DEFAULT: Final = "added_to_default"
"""Metadata of a field: a function whose results are equal for all names of one entry. It raises
ValueError for a wrong name."""
_DEFAULT: Final = "default"
_T = TypeVar("_T")


def read(path: str, kind: Any, value: Any) -> Any:
    """A value of this type from a document. LimitsFileError: it has another type."""
    if get_origin(kind) in (UnionType, Union):
        if value == UNLIMITED:
            return None
        [kind] = [each for each in get_args(kind) if each is not NoneType]
    if isinstance(kind, type) and is_dataclass(kind):
        return made(path, kind, read_fields(path, kind, value))
    if get_origin(kind) is tuple:
        pair, _ = get_args(kind)
        of_length = {_length(path, key): each for key, each in _entries(path, pair, value)}
        return tuple(of_length.items())
    if get_origin(kind) is Mapping:
        return dict(_entries(path, kind, value))
    if get_origin(kind) is frozenset:
        if not isinstance(value, list) or isinstance(value, Pairs):
            raise LimitsFileError(path, f"must be a list of text, not {described(value)}")
        return frozenset(_text(joined(path, str(at)), each) for at, each in enumerate(value))
    if kind is float and value == UNLIMITED:
        return inf
    if kind == ByteCount and isinstance(value, str) and not isinstance(value, Fraction):
        return read_size(path, value)
    if value is None or isinstance(value, list):  # Pairs too
        raise LimitsFileError(path, f"must be a value or {UNLIMITED!r}, not {described(value)}")
    return float(value) if isinstance(value, Fraction) else value


def read_size(path: str, text: str) -> int:
    size = parse_size(text)
    if size is None:
        raise LimitsFileError(path, f"must be a size such as 2GiB, not {described(text)}")
    return size


def read_fields(path: str, kind: Any, value: Any) -> dict[str, Any]:
    """The fields of a dataclass that a document names."""
    types = get_type_hints(kind, include_extras=True)
    by_key = {key_of(each): each for each in fields(kind)}
    found = {}
    for key, each in items(path, value, by_key):
        field = by_key[key]
        if ADDED_TO_DEFAULT in field.metadata:
            found[field.name] = _read_added(path, types[field.name], field, each)
        else:
            found[field.name] = read(joined(path, key), types[field.name], each)
    return found


def key_of(field: Field[Any]) -> str:
    """The name of a field in a file."""
    key: str = field.metadata.get(KEY, field.name)
    return key


def made(path: str, kind: type[_T], values: Mapping[str, Any]) -> _T:
    """The dataclass of these values. LimitsFileError: it refuses them."""
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name not in values and each.default is each.default_factory is MISSING:
            raise LimitsFileError(path, f"needs {each.name!r}")
    try:
        return kind(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise LimitsFileError(path, str(error)) from None


def shown(value: Any) -> Any:
    """A value as it stands in a document."""
    if value is None or value == inf:
        return UNLIMITED
    if is_dataclass(value):
        return {key_of(each): _shown_field(value, each) for each in fields(value)}
    if isinstance(value, tuple | Mapping):
        return {str(key): shown(each) for key, each in dict(value).items()}
    return sorted(value) if isinstance(value, frozenset) else value


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, Fraction):
        raise LimitsFileError(path, f"must be text, not {described(value)}")
    return value


def _read_added(path: str, kind: Any, field: Field[Any], value: Any) -> dict[str, Any]:
    place = joined(path, field.name)
    given = Pairs(items(place, value))
    entries = _entries(place, kind, Pairs(pair for pair in given if pair[1] != _DEFAULT))
    try:
        return {**_default_without(field, dict(given)), **dict(entries)}
    except ValueError as error:
        raise LimitsFileError(path, str(error)) from None


def _shown_field(owner: Any, field: Field[Any]) -> Any:
    value = getattr(owner, field.name)
    if ADDED_TO_DEFAULT not in field.metadata:
        return shown(value)
    return {**shown(value), **dict.fromkeys(_default_without(field, value), _DEFAULT)}


def _default_without(field: Field[Any], names: Iterable[str]) -> dict[str, Any]:
    """The entries of a field's default that have none of these names."""
    same = field.metadata[ADDED_TO_DEFAULT]
    left_out = set(map(same, names))
    default: Any = field.default_factory
    return {name: each for name, each in default().items() if same(name) not in left_out}


def _entries(path: str, kind: Any, value: Any) -> Pairs:
    _, of = get_args(kind)
    return Pairs((key, read(joined(path, key), of, each)) for key, each in items(path, value))


def _length(path: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        raise LimitsFileError(joined(path, text), "must be a prefix length")
    return int(text)
