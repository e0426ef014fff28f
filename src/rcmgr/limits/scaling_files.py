"""How limits grow with the machine, in a file: go-libp2p's `ScalingLimitConfig` as JSON or TOML.

    {"SystemBaseLimit": {"Conns": 64, "Memory": "64MiB"}, "SystemLimitIncrease": {"Conns": 32},
     "ProtocolLimits": {"/my/1.0.0": {"BaseLimit": {"Streams": 8},
                                      "BaseLimitIncrease": {"Streams": 4}}}}

Values of a base are those of a limits file. Values of an increase are numbers.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from rcmgr.limits import documents
from rcmgr.limits.documents import Fraction, items, joined
from rcmgr.limits.scope_values import FIELDS, MAPPINGS, SCOPES, ScopeReader, peer_from_text
from rcmgr.limits.scopes import (
    DEFAULT_LIMITS,
    Limit,
    LimitIncrease,
    PartialLimit,
    ScalingLimit,
    ScalingLimits,
)
from rcmgr.limits.sections import made, read_size

__all__ = ["read_scaling_limits"]

_BASE, _INCREASE = "BaseLimit", "BaseLimitIncrease"
_INCREASE_FIELDS: Final = {
    **{key: name for key, name in FIELDS.items() if name != "fd"}, "FDFraction": "fd_fraction"}
# Go's names leave out "Default" of a class
_BASES: Final = {f"{key.removesuffix('Default')}BaseLimit": name for key, name in SCOPES.items()}
_INCREASES: Final = {
    f"{key.removesuffix('Default')}LimitIncrease": name for key, name in SCOPES.items()}
_ENTRIES: Final = {f"{key}Limits": name for key, name in MAPPINGS.items()}


def read_scaling_limits(
    path: Path, fallback: ScalingLimits = DEFAULT_LIMITS, *, lenient: bool = False
) -> ScalingLimits:
    """The limits of a file: TOML if its name ends in .toml, and JSON otherwise.

    fallback: has the values that the file leaves open. A name without an entry there has the values
        of its class. lenient: read JSON like go-libp2p, which skips unknown keys.
    LimitsFileError: the message has the place and the fault. OSError: the file cannot be read.
    Source: `ScalingLimitConfig` of go-libp2p's p2p/host/resource-manager/limit_defaults.go.
    """
    tree = documents.from_file(path, lenient=lenient)
    found = list(items("", tree, (*_BASES, *_INCREASES, *_ENTRIES), lenient=lenient))
    reader = _Reader(lenient)
    limits = {name: getattr(fallback, name) for name in ScalingLimits.scopes()}
    for key, value in found:
        if key in _BASES:
            before = limits[_BASES[key]]
            limits[_BASES[key]] = ScalingLimit(
                reader.base(key, value, before.base), before.increase)
        elif key in _INCREASES:
            before = limits[_INCREASES[key]]
            limits[_INCREASES[key]] = ScalingLimit(
                before.base, reader.increase(key, value, before.increase))
    for mapping in ScalingLimits.MAPPINGS:
        limits[mapping] = dict(getattr(fallback, mapping))
    for key, value in found:  # after the classes, which have the values of new names
        if key in _ENTRIES:
            mapping = _ENTRIES[key]
            for name, each in items(key, value, lenient=lenient):
                place = joined(key, name)
                exact = peer_from_text(place, name) if mapping == "peer" else name
                before = limits[mapping].get(exact, limits[f"{mapping}_default"])
                limits[mapping][exact] = reader.entry(place, each, before)
    return ScalingLimits(**limits)


class _Reader:
    def __init__(self, lenient: bool) -> None:
        self._lenient = lenient
        self._scopes = ScopeReader(lenient)

    def entry(self, path: str, value: Any, before: ScalingLimit) -> ScalingLimit:
        base, increase = before.base, before.increase
        for key, each in items(path, value, (_BASE, _INCREASE), lenient=self._lenient):
            if key == _BASE:
                base = self.base(joined(path, key), each, base)
            else:
                increase = self.increase(joined(path, key), each, increase)
        return ScalingLimit(base, increase)

    def base(self, path: str, value: Any, before: Limit) -> Limit:
        return self._scopes.limit(path, value, PartialLimit()).build(before)

    def increase(self, path: str, value: Any, before: LimitIncrease) -> LimitIncrease:
        values = {each.name: getattr(before, each.name) for each in fields(before)}
        for key, each in items(path, value, _INCREASE_FIELDS, lenient=self._lenient):
            if isinstance(each, Fraction):
                each = float(each)
            elif isinstance(each, str) and key == "Memory":
                each = read_size(joined(path, key), each)
            values[_INCREASE_FIELDS[key]] = each
        return made(path, LimitIncrease, values)
