"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re
from typing import Annotated, Final

__all__ = ["ByteCount", "parse_size", "size_text"]

ByteCount = Annotated[int, "bytes"]
"""The type of a field that a limits file may write as a size."""

_SIZE: Final = re.compile(r"([0-9]{1,15}) ?(?:([KMGT])(i?B)?|B)?", re.IGNORECASE)
_TOO_LONG: Final = 10**15
_POWERS: Final = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int | None:
    """Bytes of "2GiB", "512 MiB", "8GB" (decimal), "2G" (binary) or "1073741824".

    None: the text is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    number, prefix, suffix = match.groups()
    if prefix is None:
        return int(number)
    base = 1000 if suffix in ("B", "b") else 1024
    size: int = int(number) * base ** _POWERS[prefix.upper()]
    return size


def size_text(count: int) -> str | int:
    """The text that `parse_size` reads as this number of bytes. An int: no unit divides it."""
    for prefix, power in reversed(_POWERS.items()):
        number, rest = divmod(count, 1024**power)
        if number and not rest and number < _TOO_LONG:
            return f"{number}{prefix}iB"
    return count
