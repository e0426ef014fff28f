"""Limits that only report what they would refuse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from rcmgr.limits import codes
from rcmgr.limits.names import suggestion, suggests_arguments

__all__ = ["DryRun"]

_EVERYTHING: Final = "all"


@suggests_arguments
@dataclass(frozen=True, slots=True)
class DryRun:
    """The limits that refuse nothing, and report what they would refuse.

    limits: codes of errors, such as "rate.address". The beginning of a code, up to a dot, names
        all limits that begin with it: "rate", "stream.peer". "all" names every limit. In a file,
        "on" in place of the section names every limit, and "off" no limit.

    WORDS has the values of these words.

    TypeError: not a collection of text. ValueError: there is no such limit.
    """

    WORDS: ClassVar[dict[str, dict[str, Any]]] = {
        "on": {"limits": frozenset((_EVERYTHING,))}, "off": {"limits": frozenset()}}
    """Values of the fields by the word that a file may have in place of the section."""

    limits: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        given: object = self.limits
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"limits must be names of limits, not {given!r}")
        names = list(given)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"a name in limits must be a str, not {name!r}")
            if not _codes_of(name):
                hint = suggestion(name, [_EVERYTHING, *sorted(_prefixes())])
                raise ValueError(
                    f"limits has {name!r}, which is no limit"
                    + (f"; {hint}" if hint else ": see docs/error-codes.md for their codes"))
        object.__setattr__(self, "limits", frozenset(names))

    @property
    def codes(self) -> frozenset[str]:
        """The codes of all limits that `limits` names. O(limits)."""
        return frozenset(code for name in self.limits for code in _codes_of(name))

    @property
    def is_whole(self) -> bool:
        """Whether no limit refuses anything."""
        return self.codes == codes.ALL


def _codes_of(name: str) -> list[str]:
    return [
        code for code in codes.ALL
        if name == _EVERYTHING or code == name or code.startswith(f"{name}.")]


def _prefixes() -> set[str]:
    """All names that stand for at least one limit."""
    parts = [code.split(".") for code in codes.ALL]
    return {".".join(each[:n]) for each in parts for n in range(1, len(each) + 1)}
