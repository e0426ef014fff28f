"""`inspect.signature` and `help` work on all that is public, compiled or not."""

from __future__ import annotations

import importlib
import inspect
import pydoc
from collections.abc import Iterator
from typing import Any

import pytest
from fuzz_types import COMPILED

import rcmgr

PUBLIC = [("rcmgr", name) for name in rcmgr.__all__]
COMPILED_NAMES = [
    (module, name)
    for module in COMPILED for name in getattr(importlib.import_module(module), "__all__", ())
]
# CPython gives them no signature in any class
WITHOUT = {"__init__", "__new__", "__init_subclass__", "__subclasshook__", "__class__", "__del__"}


def callables(owner: Any) -> Iterator[tuple[str, Any]]:
    for name in dir(owner):
        if name in WITHOUT or (name.startswith("_") and not name.startswith("__")):
            continue
        member = getattr(owner, name)
        defined_here = any(name in vars(each) for each in owner.__mro__
                           if each.__module__.startswith("rcmgr"))
        if callable(member) and defined_here:
            yield name, member


@pytest.mark.parametrize(("module", "name"), [*PUBLIC, *COMPILED_NAMES])
def test_signatures_and_help(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    text = pydoc.plain(pydoc.render_doc(thing))
    assert "\n--\n" not in text
    if callable(thing):
        assert inspect.getdoc(thing)
        inspect.signature(thing)
    if inspect.isclass(thing):
        for member, function in callables(thing):
            assert inspect.signature(function) is not None, member
            pydoc.render_doc(function)


@pytest.mark.parametrize(("module", "name"), [
    ("rcmgr", "DenialLog"), ("rcmgr", "ConnectionTracker"), ("rcmgr", "Ledger"),
    ("rcmgr", "MemoryStatsCache"), ("rcmgr", "TokenBucket"), ("rcmgr", "BucketTable"),
])
def test_a_signature_is_what_the_constructor_takes(module: str, name: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    known: dict[str, Any] = {"capacity": 5, "refill_rate": 1.0}
    parameters = inspect.signature(kind).parameters.values()
    given = {
        each.name: known.get(each.name, each.default) for each in parameters}
    assert inspect.Parameter.empty not in given.values()
    assert isinstance(kind(**given), kind)
    with pytest.raises(TypeError):
        kind(**given, nothing=1)
    positional = [given[each.name] for each in parameters if each.kind is not each.KEYWORD_ONLY]
    assert isinstance(kind(*positional), kind)
    with pytest.raises(TypeError):
        kind(*positional, None)


def test_the_help_of_the_package() -> None:
    text = pydoc.plain(pydoc.render_doc(rcmgr))
    assert "A resource manager for py-libp2p nodes" in text
    assert "\n--\n" not in text
    for name in ("ResourceManager", "ConnectionTracker", "TokenBucket", "Ledger"):
        assert f"class {name}(" in text
    assert "|  TokenBucket(capacity, refill_rate, initial_tokens=None, *, clock=None)\n" in text
    assert f"VERSION\n    {rcmgr.__version__}\n" in text


def test_the_version() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("rcmgr")
    except PackageNotFoundError:
        pytest.skip("rcmgr is not installed, only on the path")
    assert rcmgr.__version__ == installed
