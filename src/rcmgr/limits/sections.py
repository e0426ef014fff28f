"""Dataclasses as sections of a limits file, read and written by the types of their fields.

    int, float, str                a value
    ByteCount                      a number of bytes, or a size such as "2GiB"
    X | None                       an X, or "unlimited" for None
    a dataclass                    an object of its fields
    tuple[tuple[int, X], ...]      an object of X by prefix length
    Mapping[str, X]                an object of X by name

An infinite float is "unlimited" too. The dataclass itself checks its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from math import inf
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from rcmgr.limits.documents import Fraction, LimitsFileError, Pairs, described, items, joined
from rcmgr.limits.sizes import ByteCount, parse_size

__all__ = ["UNLIMITED", "made", "read", "read_fields", "shown"]

UNLIMITED: Final = "unlimited"
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
    if kind is float and value == UNLIMITED:
        return inf
    if kind == ByteCount and isinstance(value, str) and not isinstance(value, Fraction):
        size = parse_size(value)
        if size is None:
            raise LimitsFileError(path, f"must be a size such as 2GiB, not {described(value)}")
        return size
    if value is None or isinstance(value, list):  # Pairs too
        raise LimitsFileError(path, f"must be a value or {UNLIMITED!r}, not {described(value)}")
    return float(value) if isinstance(value, Fraction) else value


def read_fields(path: str, kind: Any, value: Any) -> dict[str, Any]:
    """The fields of a dataclass that a document names."""
    types = get_type_hints(kind, include_extras=True)
    return {
        name: read(joined(path, name), types[name], each)
        for name, each in items(path, value, [each.name for each in fields(kind)])
    }


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
        return {each.name: shown(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | Mapping):
        return {str(key): shown(each) for key, each in dict(value).items()}
    return value


def _entries(path: str, kind: Any, value: Any) -> Pairs:
    _, of = get_args(kind)
    return Pairs((key, read(joined(path, key), of, each)) for key, each in items(path, value))


def _length(path: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        raise LimitsFileError(joined(path, text), "must be a prefix length")
    return int(text)
