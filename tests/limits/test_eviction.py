"""The settings of evictions, in code and in files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rcmgr import Eviction, LimitsFile, LimitsFileError, NodeLimits


def test_it_is_on_by_default_and_off_by_one_word() -> None:
    assert NodeLimits().eviction == NodeLimits.default().eviction == Eviction()
    assert Eviction().enabled
    word: Any = "off"
    assert NodeLimits(eviction=word).eviction == Eviction(enabled=False)
    word = "on"
    assert NodeLimits(eviction=word).eviction == Eviction()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Eviction()),
        ('Eviction = "off"', Eviction(enabled=False)),
        ('Eviction = "on"', Eviction()),
        ("[Eviction]\nipv4_prefix = 24\ngrace_s = 2", Eviction(ipv4_prefix=24, grace_s=2)),
    ],
)
def test_a_file(text: str, expected: Eviction) -> None:
    assert LimitsFile.from_toml(text).build(NodeLimits()).eviction == expected


def test_a_file_that_turns_it_on_again() -> None:
    off = NodeLimits(eviction=Eviction(enabled=False, ipv4_prefix=24))
    assert LimitsFile.from_toml("").build(off) == off
    on = LimitsFile.from_toml('Eviction = "on"').build(off)
    assert on.eviction == Eviction(ipv4_prefix=24)


@pytest.mark.parametrize("word", ["of", "unlimited", "Off", "true", 5, True, None, []])
def test_another_word(word: object) -> None:
    with pytest.raises(LimitsFileError, match="Eviction"):
        LimitsFile.from_json(json.dumps({"Eviction": word}))
    with pytest.raises(TypeError, match="eviction must be a Ev"):
        NodeLimits(eviction=word)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ipv4_prefix", 0), ("ipv4_prefix", 33), ("ipv6_prefix", 129), ("ipv6_prefix", 0),
        ("grace_s", 0), ("grace_s", -1), ("grace_s", float("nan")), ("grace_s", float("inf")),
        ("turn_s", 0), ("close_s", 0), ("pending_grace_s", 0), ("pending_patience_s", 0),
        ("share_per_second", 0), ("share_per_second", 1.5), ("share_leaving", 0),
        ("share_leaving", 2), ("waiting_s", -1),
    ],
)
def test_a_value_out_of_its_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Eviction(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("enabled", 1), ("enabled", "off"), ("ipv4_prefix", 16.0), ("grace_s", "1"), ("turn_s", True)],
)
def test_a_wrong_type_is_named(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be"):
        Eviction(**{name: value})  # type: ignore[arg-type]
