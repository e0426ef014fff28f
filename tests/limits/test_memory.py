"""Limits on the memory of the whole process."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rcmgr.gates.memory import MemoryConnectionLimits
from rcmgr.limits.memory import ProcessMemoryLimits


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_bytes": -1}, ValueError, "max_bytes must be 0 or more, or None .no limit., not -1"),
        ({"max_bytes": 1.5}, TypeError, "max_bytes must be an int"),
        ({"max_bytes": True}, TypeError, "max_bytes must be an int"),
        ({"max_percentage": 90}, ValueError, "fraction above 0 and at most 1, not 90: 0.9 is n"),
        ({"max_percentage": 1.01}, ValueError, "max_percentage must be a fraction"),
        ({"max_percentage": 0}, ValueError, "max_percentage must be a fraction"),
        ({"max_percentage": float("nan")}, ValueError, "max_percentage must be a fraction"),
        ({"max_percentage": "0.9"}, TypeError, "max_percentage must be a fraction"),
        ({"deny_new_peers_above": 1}, ValueError, "deny_new_peers_above must be a fraction"),
        ({"hysteresis": 1}, ValueError, "hysteresis must be a fraction above 0 and below 1"),
        ({"max_pressure": 101}, ValueError, "max_pressure must be 0 to 100, not 101"),
    ],
)
@pytest.mark.parametrize("kind", [ProcessMemoryLimits, MemoryConnectionLimits])
def test_a_wrong_value_names_the_field(
    kind: Any, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**arguments)


@pytest.mark.parametrize("value", [True, "0.5", math.nan, 0, 1.5])
def test_a_percentage_is_a_fraction(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_percentage"):
        ProcessMemoryLimits(max_percentage=value)


def test_the_gate_has_the_limits() -> None:
    limits = ProcessMemoryLimits(5, 0.5, 0.4, 0.3, 20.0)
    gate = MemoryConnectionLimits.of(limits)
    assert gate.limits == limits
    assert gate.with_limits(ProcessMemoryLimits()).limits == ProcessMemoryLimits()
    assert MemoryConnectionLimits().limits == ProcessMemoryLimits()
