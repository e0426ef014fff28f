"""With our classes installed, every name of libp2p.rcmgr exists and takes the same arguments.

All other objects are still py-libp2p's, and so are the same.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import Any

import libp2p.rcmgr
import pytest
from libp2p.rcmgr.protocol_rate_limiter import ProtocolRateLimitConfig
from libp2p.rcmgr.rate_limiter import RateLimitConfig
from libp2p.rcmgr.token_bucket import TokenBucketConfig

from rcmgr.libp2p.dropin import REPLACED, replacements
from rcmgr.libp2p.dropin.connection_limits import ConnectionLimits
from rcmgr.libp2p.dropin.connection_tracker import ConnectionTracker

EXCEPTIONS: dict[str, str] = {
    "ResourceManager.connection_rate_limiter": "no host uses it; see `connection_rate_limits`",
}
"""Names that are missing or differ, and the reason."""

# Arguments that make an instance, whose attributes are compared. Other classes need none.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "ConnectionLifecycleManager": (ConnectionTracker(), ConnectionLimits()),
    "ConnectionScope": ("peer", None),
    "ProtocolRateLimiter": (ProtocolRateLimitConfig("/test/1"),),
    "RateLimiter": (RateLimitConfig(),),
    "TokenBucket": (TokenBucketConfig(1.0, 1.0),),
}

PAIRS = replacements()
names = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__qualname__)


WHOLE = """
import importlib, pkgutil
import libp2p.rcmgr
import rcmgr
from rcmgr.libp2p.dropin import REPLACED

modules = [libp2p.rcmgr] + [
    importlib.import_module(each.name)
    for each in pkgutil.iter_modules(libp2p.rcmgr.__path__, "libp2p.rcmgr.")
]
def look():
    return {
        (module.__name__, name): value
        for module in modules for name, value in vars(module).items() if not name.startswith("_")
    }
before = look()
expected = {
    id(before[f"libp2p.rcmgr.{module}", name]): (module, name)
    for module, names in REPLACED.items() for name in names
}
rcmgr.install()
after = look()
missing, kept, changed = [], 0, set()
for where, value in before.items():
    if where not in after:
        missing.append(where)
    elif after[where] is value:
        assert id(value) not in expected, f"{where} is still theirs"
        kept += 1
    else:
        module, name = expected[id(value)]
        ours = importlib.import_module(f"rcmgr.libp2p.dropin.{module}")
        assert after[where] is getattr(ours, name), where
        changed.add((module, name))
assert not missing, missing
assert not after.keys() - before.keys(), after.keys() - before.keys()
assert changed == set(expected.values())
rcmgr.uninstall()
assert all(value is before[where] for where, value in look().items())
print(len(modules), kept, len(changed))
"""


def test_every_name_is_theirs_or_replaced() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHOLE], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    modules, kept, changed = map(int, done.stdout.split())
    assert modules == 24
    assert kept > 200
    assert changed == sum(map(len, REPLACED.values()))


def test_every_module_stands_in_for_one_of_theirs() -> None:
    theirs = {each.name for each in pkgutil.iter_modules(libp2p.rcmgr.__path__)}
    assert set(REPLACED) <= theirs
    assert len(theirs) == 23


@names
def test_our_class_names_their_module(pair: tuple[type, type]) -> None:
    theirs, ours = pair
    assert theirs is not ours
    assert (ours.__name__, ours.__module__) == (theirs.__name__, theirs.__module__)
    home = importlib.import_module(theirs.__module__)
    assert getattr(home, theirs.__name__) is theirs  # not installed in this process


def members(kind: type) -> dict[str, Any]:
    return {
        name: inspect.getattr_static(kind, name)
        for name in dir(kind)
        if not name.startswith("_") or name in ("__init__", "__len__", "__bool__", "__iter__")
        if name not in vars(object) or name == "__init__"
    }


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """All parameters except `self`, which compiled methods take by position only."""
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
        if each.name != "self"
    ]


@names
def test_every_member_takes_the_same_arguments(pair: tuple[type, type]) -> None:
    theirs, ours = pair
    for name, member in members(theirs).items():
        where = f"{theirs.__name__}.{name}"
        if where in EXCEPTIONS:
            continue
        assert hasattr(ours, name), f"{where} is missing"
        if not callable(getattr(theirs, name)):
            assert not callable(getattr(ours, name)), where
            continue
        mine, their = parameters(getattr(ours, name)), parameters(getattr(theirs, name))
        for (_, _, default), (*same, wanted) in zip(mine, their, strict=False):
            assert wanted in (default, inspect.Parameter.empty), f"{where}: {same}"
        assert [each[:2] for each in mine[: len(their)]] == [each[:2] for each in their], where
        assert all(
            default is not inspect.Parameter.empty
            or kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            for _, kind, default in mine[len(their):]
        ), f"{where} asks for more"
        assert inspect.iscoroutinefunction(member) == inspect.iscoroutinefunction(
            inspect.getattr_static(ours, name)), where


@names
def test_every_attribute_exists(pair: tuple[type, type]) -> None:
    theirs, ours = pair
    arguments = ARGUMENTS.get(theirs.__name__, ())
    public = {name for name in vars(theirs(*arguments)) if not name.startswith("_")}
    if dataclasses.is_dataclass(theirs):
        public |= {field.name for field in dataclasses.fields(theirs)}
    instance = ours(*arguments)
    missing = {name for name in public if not hasattr(instance, name)}
    assert {f"{theirs.__name__}.{name}" for name in missing} <= set(EXCEPTIONS)


def test_every_exception_names_a_class() -> None:
    classes = {theirs.__name__ for theirs, _ in PAIRS}
    assert {name.partition(".")[0] for name in EXCEPTIONS} <= classes
