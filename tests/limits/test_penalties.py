"""The values of the penalty box."""

from __future__ import annotations

from typing import Any

import pytest

from rcmgr.limits.files import LimitsFile
from rcmgr.limits.node import NodeLimits
from rcmgr.limits.penalties import PenaltyBox


@pytest.mark.parametrize(("field", "value", "error"), [
    ("threshold", 0, ValueError), ("threshold", 1.5, TypeError), ("threshold", 10**7, ValueError),
    ("address_decay", 0, ValueError), ("peer_decay", float("nan"), ValueError),
    ("peer_decay", True, TypeError), ("forget_seconds", -1, ValueError),
    ("address_seconds", 601, ValueError), ("address_most_seconds", 9, ValueError),
    ("peer_seconds", float("inf"), ValueError), ("peer_most_seconds", "1d", TypeError),
    ("ipv4_prefix", 33, ValueError), ("ipv6_prefix", 0, ValueError),
    ("exempt", "127.0.0.1", TypeError), ("exempt", ["127.0.0.1/33"], ValueError),
    ("max_offenders", 0, ValueError),
])
def test_a_wrong_value_names_its_field(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        PenaltyBox(**{field: value})
    text = str(caught.value)
    names = ["127.0.0.1/33"] if value == ["127.0.0.1/33"] else [field, field.replace("_most", "")]
    assert any(name in text for name in names)


def test_exempt_networks_are_a_set() -> None:
    assert PenaltyBox(exempt=["::1"]).exempt == frozenset({"::1"})  # type: ignore[arg-type]


def test_a_node_has_a_box_by_default_and_plain_limits_have_none() -> None:
    assert NodeLimits.default().penalties == PenaltyBox()
    assert NodeLimits().penalties is None


def test_a_file_holds_the_box() -> None:
    toml = '[PenaltyBox]\nthreshold = 7\nexempt = ["10.0.0.0/8"]\n'
    limits = LimitsFile.from_toml(toml).build(NodeLimits())
    assert limits.penalties == PenaltyBox(threshold=7, exempt=frozenset({"10.0.0.0/8"}))
    limits = LimitsFile.from_toml('PenaltyBox = "unlimited"\n').build(NodeLimits.default())
    assert limits.penalties is None


@pytest.mark.parametrize("exempt", ['"10.0.0.0/8"', "{}", "[1]", "[[]]"])
def test_a_file_names_what_is_no_list_of_networks(exempt: str) -> None:
    with pytest.raises(ValueError, match=r"PenaltyBox\.exempt"):
        LimitsFile.from_toml(f"[PenaltyBox]\nexempt = {exempt}\n").build(NodeLimits())
