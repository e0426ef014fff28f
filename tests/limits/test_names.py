"""A misspelt name is answered with the right one."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import traceback
from typing import Any

import pytest

import rcmgr
from rcmgr.limits.names import suggestion, suggests_arguments


@pytest.mark.parametrize(("name", "hint"), [
    ("Conn", "did you mean 'conns'?"), ("STREAM", "did you mean 'streams'?"), ("x", "")])
def test_the_closest_name_is_suggested(name: str, hint: str) -> None:
    assert suggestion(name, ["streams", "conns"]) == hint


LIMITS = [
    value for name in rcmgr.__all__
    if isinstance(value := getattr(rcmgr, name), type) and dataclasses.is_dataclass(value)
    and value.__module__.startswith("rcmgr.limits.") and not issubclass(value, rcmgr.LimitsFile)
]


@pytest.mark.parametrize("cls", LIMITS, ids=lambda cls: str(cls.__name__))
def test_constructors_of_limits_suggest_arguments(cls: Any) -> None:
    for each in dataclasses.fields(cls):
        wrong = f"{each.name}x"
        with pytest.raises(TypeError) as caught:
            cls(**{wrong: 1})
        assert str(caught.value) == (
            f"{cls.__name__} has no argument {wrong!r}; did you mean {each.name!r}?")
    with pytest.raises(TypeError, match="has no argument 'zzz'; known are "):
        cls(zzz=1)


@pytest.mark.parametrize(("cls", "wrong", "hint"), [
    (rcmgr.ResourceManager, "conection_limits", "did you mean 'connection_limits'?"),
    (rcmgr.ResourceManager, "zzz", "known are limits, allowlist, "),
    (rcmgr.MemoryConnectionLimits, "max_byte", "did you mean 'max_bytes'?"),
])
def test_the_manager_suggests_arguments_too(cls: Any, wrong: str, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        cls(**{wrong: 1})
    assert str(caught.value).startswith(f"{cls.__name__} has no argument {wrong!r}; {hint}")


def test_a_constructor_stays_as_it_was() -> None:
    assert len(LIMITS) >= 15
    made = rcmgr.Limit(1, conns=2)
    assert pickle.loads(pickle.dumps(made)) == made == dataclasses.replace(made, conns=2)
    assert "conns: 'int | None' = None" in str(inspect.signature(rcmgr.Limit))
    with pytest.raises(TypeError):
        rcmgr.Limit(*range(9))

    @suggests_arguments
    @dataclasses.dataclass
    class Named:
        self_: int
        cls: int = 0

    assert Named(1, cls=2).cls == 2


def test_from_dict_suggests_names() -> None:
    with pytest.raises(ValueError, match=r"'max_pending_inbond' in .*; did you mean 'max_pending_"):
        rcmgr.ConnectionLimits.from_dict({"max_pending_inbond": 1})
    with pytest.raises(ValueError, match="unknown name 'x' in a rate: known are refill_rate"):
        rcmgr.Rate.from_dict({"x": 1})


@pytest.mark.parametrize(("name", "meant"), [
    ("ResorceManager", "ResourceManager"), ("instal", "install"), ("NodeLimit", "NodeLimits")])
def test_the_package_suggests_a_name_once(name: str, meant: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(rcmgr, name)
    assert str(caught.value) == (
        f"module 'rcmgr' has no attribute {name!r}; did you mean {meant!r}?")
    assert "".join(traceback.format_exception(caught.value)).lower().count("did you mean") == 1
    assert not hasattr(rcmgr, "zzz")
