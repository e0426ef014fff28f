"""JSON and TOML documents as trees that remember how they were written."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rcmgr.errors import printable_name
from rcmgr.limits.names import suggestion

__all__ = [
    "Fraction",
    "LimitsFileError",
    "Pairs",
    "described",
    "from_file",
    "from_json",
    "from_toml",
    "items",
    "joined",
]


MAX_FILE_BYTES = 1 << 20
"""The largest file that is read. Files that people use have about 10,000 bytes."""
_MAX_TOML_LINE = 4096
_MAX_KEY_PARTS = 16
# a quote that is never closed ends with the line, so that no part is read twice
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*(?:\"|\\?\Z)|'[^']*(?:'|\Z)")
_BEGIN_OF_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*\{")
_NAME = re.compile(r"\s*[A-Za-z0-9_-]+\s*")


class LimitsFileError(ValueError):
    """A limits file that cannot be used: where in it (`path`, "" for the whole) and why."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        place = printable_name(self.path)
        return f"{place}: {self.reason}" if place else self.reason


class Pairs(list[tuple[str, Any]]):
    """An object as it was written, with its repeated keys."""


class Fraction(str):
    """A JSON number with a fraction or exponent, as it was written. A count never is one."""


def from_file(path: Path, *, lenient: bool = False) -> Any:
    """JSON, or TOML if its name ends in .toml. OSError, LimitsFileError.

    A name without an ending may be a pipe: it is TOML if it does not begin like a JSON object.
    """
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    is_toml = path.suffix == ".toml" or (
        not path.suffix and content.strip() != b"" and not _BEGIN_OF_JSON.match(content))
    return from_toml(content) if is_toml else from_json(content, lenient=lenient)


def from_json(text: str | bytes, *, lenient: bool = False) -> Any:
    """lenient: ignore what follows the first value, as Go does."""
    text = _decoded(text)
    decoder = json.JSONDecoder(
        object_pairs_hook=Pairs, parse_constant=_no_constant, parse_float=Fraction
    )
    try:
        if lenient:
            start = re.match(r"[ \t\n\r]*", text)
            return decoder.raw_decode(text, start.end() if start else 0)[0]
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise LimitsFileError(
            f"line {error.lineno}, column {error.colno}", f"not JSON: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise LimitsFileError("", f"not JSON: {error}") from None


def from_toml(text: str | bytes) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = _decoded(text)
    for number, line in enumerate(text.splitlines(), 1):
        # a key of many parts costs time and memory by their number squared
        if len(line) > _MAX_TOML_LINE:
            raise LimitsFileError(
                f"line {number}", f"has more than {_MAX_TOML_LINE} characters")
        if _parts_of_key(line) > _MAX_KEY_PARTS:
            raise LimitsFileError(
                f"line {number}", f"has more than {_MAX_KEY_PARTS} parts in a key")
    try:
        return _pairs_of(tomllib.loads(text))
    except LimitsFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise LimitsFileError("", f"not TOML: {error}") from None


def items(
    path: str, value: Any, known: Iterable[str] | None = None, *, lenient: bool = False
) -> Iterator[tuple[str, Any]]:
    """Keys and values of an object.

    known: the keys that it may have; None: any. lenient: ignore case, skip unknown keys, allow
    repeated keys, and treat null as an empty object.
    """
    if value is None and lenient:
        return
    if not isinstance(value, Pairs):
        raise LimitsFileError(path, f"must be an object, not {described(value)}")
    seen: set[str] = set()
    for key, each in value:
        name: str | None = key
        if known is None:
            name = _encodable(path, key, lenient)
        elif key not in known:
            name = _meant(path, key, tuple(known), lenient)
        if name is None:
            continue
        if name in seen and not lenient:
            raise LimitsFileError(joined(path, key), "is there twice")
        seen.add(name)
        yield name, each


def described(value: Any) -> str:
    """A value for an error message, short."""
    if isinstance(value, Pairs):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None:
        return "null"
    text = value if isinstance(value, Fraction) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _decoded(text: str | bytes) -> str:
    if len(text) > MAX_FILE_BYTES:
        raise LimitsFileError("", f"larger than {MAX_FILE_BYTES} bytes, which no limits file needs")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LimitsFileError("", f"not UTF-8: {error.reason} at byte {error.start}") from None


def _parts_of_key(line: str) -> int:
    """How many names with dots between them a line has, at most."""
    most = parts = 1
    for between_dots in _QUOTED.sub("q", line).split(".")[1:]:
        parts += 1
        most = max(most, parts)
        if not _NAME.fullmatch(between_dots):
            parts = 1
    return most


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _pairs_of(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs((key, _pairs_of(each)) for key, each in value.items())
    if isinstance(value, list):
        return [_pairs_of(each) for each in value]
    return value


def _encodable(path: str, key: str, lenient: bool) -> str:
    """JSON can name half a character, which cannot be written back."""
    try:
        key.encode()
    except UnicodeEncodeError:
        if not lenient:
            raise LimitsFileError(f"{path}.{key!a}", "is not Unicode") from None
        return key.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return key


def _meant(path: str, key: str, known: tuple[str, ...], lenient: bool) -> str | None:
    """The known key that an unknown one means; None: skip it."""
    same = [name for name in known if name.casefold() == key.casefold()]
    if lenient:
        return same[0] if same else None
    # Go's idea of the same letters is wider than `lower`
    hint = f"did you mean {same[0]!r}?" if same else suggestion(key, known)
    hint = hint or f"known are {', '.join(known)}"
    raise LimitsFileError(joined(path, key), f"unknown key; {hint}")
