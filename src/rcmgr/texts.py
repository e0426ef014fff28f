"""Names that others chose, for people: some are chosen to write to their terminals and logs."""

from __future__ import annotations

__all__ = ["printable", "shortened", "shown"]

_MOST = 160


def shortened(name: object) -> str:
    """At most 160 characters of it: the first ones and the last ones."""
    text = str(name)
    return text if len(text) <= _MOST else f"{text[:_MOST // 2]}...{text[-(_MOST // 2 - 3):]}"


def printable(text: str) -> str:
    """With escapes for what a terminal obeys, what ends a line, and what cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shown(name: object) -> str:
    """Short and printable."""
    return printable(shortened(name))
