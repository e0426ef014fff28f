"""Any dataclass is a section of a limits file, by the types of its fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from rcmgr.limits.checks import check_limit
from rcmgr.limits.documents import LimitsFileError, from_json
from rcmgr.limits.rates import Rate
from rcmgr.limits.sections import read, read_fields, shown


@dataclass(frozen=True)
class Section:
    name: str
    count: int | None = 3
    speed: float = 1.0
    rate: Rate | None = None
    by_length: tuple[tuple[int, int | None], ...] = ()
    by_name: Mapping[str, Rate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_limit("count", self.count)


WHOLE = Section("x", None, math.inf, Rate(1.5, 2), ((32, 8), (24, None)), {"a": Rate(1, 1)})
WRITTEN = {
    "name": "x", "count": "unlimited", "speed": "unlimited",
    "rate": {"refill_rate": 1.5, "burst": 2}, "by_length": {"32": 8, "24": "unlimited"},
    "by_name": {"a": {"refill_rate": 1, "burst": 1}},
}


def document(text: str) -> Any:
    return from_json(text)


def test_a_section_is_written_and_read() -> None:
    assert shown(WHOLE) == WRITTEN
    text = str(WRITTEN).replace("'", '"')
    assert read("S", Section, document(text)) == WHOLE
    assert read("S", Section, document('{"name": "y"}')) == Section("y")


def test_an_optional_section_may_be_unlimited() -> None:
    assert read("S", Section | None, "unlimited") is None
    assert shown(None) == "unlimited"
    assert read("S", Section | None, document('{"name": "y"}')) == Section("y")


def test_some_fields() -> None:
    assert read_fields("S", Section, document('{"count": "unlimited", "speed": 2.5}')) == {
        "count": None, "speed": 2.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "S: needs 'name'"),
        ("5", "S: must be an object, not 5"),
        ('"unlimited"', "S: must be an object, not 'unlimited'"),
        ('{"nam": 1}', "S.nam: unknown key; did you mean 'name'?"),
        ('{"name": "x", "count": -1}', "S: count must be 0 or more, or None (no limit), not -1"),
        ('{"name": "x", "count": [1]}', "S.count: must be a value or 'unlimited', not an array"),
        ('{"name": "x", "rate": {"burst": 1}}', "S.rate: needs 'refill_rate'"),
        ('{"name": "x", "rate": 5}', "S.rate: must be an object, not 5"),
        ('{"name": "x", "by_length": {"a": 1}}', "S.by_length.a: must be a prefix length"),
        ('{"name": "x", "by_length": {"0024": 1}}', "S.by_length.0024: must be a prefix length"),
        ('{"name": "x", "by_name": {"a": null}}', "S.by_name.a: must be an object, not null"),
    ],
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(LimitsFileError) as caught:
        read("S", Section, document(text))
    assert str(caught.value) == message
