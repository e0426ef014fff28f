from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from rcmgr import ConnectionLimits

NAMES = [
    "max_pending_inbound",
    "max_pending_outbound",
    "max_established_inbound",
    "max_established_outbound",
    "max_established_per_peer",
    "max_established_total",
]


def test_the_six_fields_default_to_no_limit() -> None:
    assert [field.name for field in fields(ConnectionLimits)] == NAMES
    assert ConnectionLimits().to_dict() == dict.fromkeys(NAMES)
    assert ConnectionLimits(1, 2, 3, 4, 5, 6).to_dict() == dict(
        zip(NAMES, range(1, 7), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, 1, 1 << 70, None])
def test_with(name: str, value: int | None) -> None:
    limits = ConnectionLimits(1, 2, 3, 4, 5, 6)
    before = limits.to_dict()
    changed = getattr(limits, f"with_{name}")(value)
    assert changed is not limits
    assert changed.to_dict() == {**before, name: value}
    assert limits.to_dict() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [True, False, 1.0, "1", b"1", [], float("nan")])
def test_a_wrong_type_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be an int"):
        ConnectionLimits(**{name: value})
    with pytest.raises(TypeError, match=name):
        getattr(ConnectionLimits(), f"with_{name}")(value)
    with pytest.raises(TypeError, match=name):
        ConnectionLimits.from_dict({name: value})


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_limit_names_the_field(name: str) -> None:
    for make in (
        lambda: ConnectionLimits(**{name: -1}),
        lambda: getattr(ConnectionLimits(), f"with_{name}")(-1),
        lambda: ConnectionLimits.from_dict({name: -1}),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be 0 or more.*-1"):
            make()


def test_frozen_and_a_value() -> None:
    limits = ConnectionLimits(max_pending_inbound=3)
    for name in [*NAMES, "anything"]:
        # a slotted frozen dataclass raises TypeError for an unknown name before 3.12
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(limits, name, 1)
    assert not hasattr(limits, "__dict__")
    assert limits == ConnectionLimits(3) != ConnectionLimits(4)
    assert len({limits, ConnectionLimits(3)}) == 1
    assert pickle.loads(pickle.dumps(limits)) == copy.deepcopy(limits) == limits
    assert repr(limits).startswith("ConnectionLimits(max_pending_inbound=3, ")


def test_from_dict_and_back() -> None:
    assert ConnectionLimits.from_dict({}) == ConnectionLimits()
    limits = ConnectionLimits.from_dict({"max_established_total": 7})
    assert limits == ConnectionLimits(max_established_total=7)
    assert ConnectionLimits.from_dict(json.loads(json.dumps(limits.to_dict()))) == limits
    unknown = "unknown name 'max_pending' in connection limits: known are max_pending_inbound"
    with pytest.raises(ValueError, match=unknown):
        ConnectionLimits.from_dict({"max_pending": 7})
