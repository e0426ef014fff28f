"""All limits of a node, and their sections in a file."""

from __future__ import annotations

from dataclasses import fields

import pytest

from rcmgr.limits.node import INFINITE_LIMITS, SECTIONS, NodeLimits


@pytest.mark.parametrize("name", ["scopes", *(section.name for section in SECTIONS)])
def test_a_wrong_type_names_the_field(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a .*, not 5"):
        NodeLimits(**{name: 5})  # type: ignore[arg-type]


def test_every_field_except_scopes_is_a_section() -> None:
    assert ["scopes", *(section.name for section in SECTIONS)] == [
        each.name for each in fields(NodeLimits)]
    assert [section.key for section in SECTIONS] == [
        "Connections", "ProcessMemory", "Subnets", "Rates", "PeerRates", "PenaltyBox", "Eviction",
        "Fleet", "DryRun"]
    assert [section.optional for section in SECTIONS] == [
        False, False, True, True, True, True, False, True, False]


def test_infinite_limits_are_no_limits() -> None:
    for section in SECTIONS:
        expected = None if section.optional else section.kind()
        assert getattr(INFINITE_LIMITS, section.name) == expected
